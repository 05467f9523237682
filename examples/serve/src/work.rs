//! A request that has been understood: what the engine is to do, and what is made of that.

use llama_core::engine::Completion;

use crate::classify::Verdicts;
use crate::embeddings::Vectors;
use crate::error::{ApiError, Result};
use crate::mailbox::Part;
use crate::options::Bounds;
use crate::similarity::Similarities;
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
    Texts(Box<dyn Generated>),
    /// Embeddings.
    Vectors(Vectors),
    /// Scores of labels.
    Verdicts(Verdicts),
    /// How alike texts are.
    Similarities(Similarities),
}

/// Generated texts as an answer: whole, or as the events of a stream.
pub trait Generated: Send {
    /// Says that `model` made them.
    fn say_by(&mut self, model: String);
    /// The whole answer, in JSON.
    fn whole(self: Box<Self>, completions: &[Completion]) -> String;
    /// The events that begin a stream.
    fn opening(&mut self) -> String;
    /// The events of a part.
    fn events(&mut self, part: &Part) -> String;
    /// The next of the events that end a stream, until there are none: each may be as long as the whole answer.
    fn closing(&mut self) -> Option<String>;
    /// The event that ends a stream which failed.
    fn failure(&mut self, error: &ApiError) -> String;
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
            Answer::Similarities(similarities) => similarities.say_by(adapter),
            Answer::Verdicts(_) => {
                let problem = "labels are the model's own: an adapter has none; ask the model itself";
                return Err(ApiError::about("model", "unsupported", problem));
            }
        }
        Ok(self)
    }

    /// Places that it takes among the sequences.
    pub fn places(&self) -> usize {
        match self.answer {
            Answer::Similarities(_) => Bounds::places(self.tasks.len()),
            _ => self.tasks.len(),
        }
    }

    /// Tokens of all prompts: of each choice of a text, because each is computed.
    pub fn prompt_tokens(&self) -> usize {
        self.tasks.iter().map(Task::prompt_tokens).sum()
    }
}

impl Answer {
    /// The whole answer, in JSON.
    pub fn whole(self, completions: &[Completion]) -> String {
        match self {
            Answer::Texts(texts) => texts.whole(completions),
            Answer::Vectors(vectors) => vectors.whole(completions).to_string(),
            Answer::Verdicts(verdicts) => verdicts.whole(completions).to_string(),
            Answer::Similarities(similarities) => similarities.whole(completions).to_string(),
        }
    }
}
