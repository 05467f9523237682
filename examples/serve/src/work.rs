//! A request that has been understood: what the engine is to do, and what is made of that.

use llama_core::engine::Completion;
use serde_json::Value;

use crate::embeddings::Vectors;
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
}

impl Work {
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
        }
    }
}
