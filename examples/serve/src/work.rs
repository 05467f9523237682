//! A request that has been understood: what the engine is to do, and what is made of that.

use llama_core::engine::Completion;
use serde_json::Value;

use crate::classify::Verdicts;
use crate::embeddings::Vectors;
use crate::error::{ApiError, Result};
use crate::texts::Texts;
use crate::worker::Task;

/// One request's work.
pub struct Work {
    /// Its sequences, in the order of the answer.
    pub tasks: Vec<Task>,
    /// What is made of them.
    pub answer: Answer,
    /// Whether it is sent as it comes.
    pub stream: bool,
}

/// An answer that is still to be filled.
pub enum Answer {
    /// Generated texts.
    Texts(Box<Texts>),
    /// Embeddings.
    Vectors(Vectors),
    /// Scores of labels.
    Verdicts(Verdicts),
}

impl Work {
    /// The same, done with an adapter; the answer says so.
    ///
    /// # Errors
    /// A 400 for labels, which are the model's own.
    pub fn by(mut self, adapter: String) -> Result<Self> {
        for task in &mut self.tasks {
            match task {
                Task::Generate(request) => request.adapter = Some(adapter.clone()),
                Task::Embed(embed) => embed.adapter = Some(adapter.clone()),
                Task::Classify(_) => {}
            }
        }
        match &mut self.answer {
            Answer::Texts(texts) => texts.say_by(adapter),
            Answer::Vectors(vectors) => vectors.say_by(adapter),
            Answer::Verdicts(_) => {
                let problem = "labels are the model's own: an adapter has none; ask the model itself";
                return Err(ApiError::about("model", "unsupported", problem));
            }
        }
        Ok(self)
    }

    /// Tokens of all prompts: of each choice of a text, because each is computed.
    pub fn prompt_tokens(&self) -> usize {
        self.tasks.iter().map(Task::prompt_tokens).sum()
    }
}

impl Answer {
    /// The whole answer.
    pub fn whole(self, completions: &[Completion]) -> Value {
        match self {
            Answer::Texts(texts) => texts.whole(completions),
            Answer::Vectors(vectors) => vectors.whole(completions),
            Answer::Verdicts(verdicts) => verdicts.whole(completions),
        }
    }
}
