//! `POST /v1/embeddings`: texts as vectors of length 1, pooled as the model's files say.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use llama_core::engine::{Completion, Embed};
use serde_json::{Value, json};

use crate::error::{ApiError, Result};
use crate::fields::Fields;
use crate::options::Bounds;
use crate::prompts::prompts;
use crate::served::Served;
use crate::work::{Answer, Work};
use crate::worker::Task;

/// What a request asks for.
///
/// # Errors
/// A 400 that names the field.
pub fn read(served: &Served, bounds: &Bounds, mut fields: Fields) -> Result<Work> {
    let base64 = match fields.string("encoding_format")?.as_deref() {
        None | Some("float") => false,
        Some("base64") => true,
        Some(_) => return Err(ApiError::value("encoding_format", "encoding_format must be float or base64")),
    };
    if fields.integer("dimensions", 1..=usize::MAX)?.is_some_and(|dimensions| dimensions != served.hidden) {
        let problem = format!("the vectors of {} have {} dimensions and cannot be cut", served.name, served.hidden);
        return Err(ApiError::lacking("dimensions", problem));
    }
    fields.ignore(&["user"]);
    let prompts = prompts(served, "input", &mut fields, bounds.sequences)?;
    fields.end()?;
    let tokens = prompts.iter().map(|prompt| prompt.fitting(served)).sum::<Result<_>>()?;
    let vectors = Vectors { base64, model: served.name.clone(), tokens };
    let tasks = prompts.into_iter().map(|prompt| Task::Embed(Embed::new(prompt.tokens))).collect();
    Ok(Work { tasks, answer: Answer::Vectors(vectors), stream: false })
}

/// One request's vectors.
pub struct Vectors {
    base64: bool,
    model: String,
    /// Of all prompts.
    tokens: usize,
}

impl Vectors {
    /// Says that `model` made them.
    pub fn say_by(&mut self, model: String) {
        self.model = model;
    }

    /// The answer.
    pub fn whole(self, completions: &[Completion]) -> Value {
        let data = completions.iter().enumerate().map(|(index, completion)| {
            let embedding = self.embedding(&completion.vector);
            json!({"object": "embedding", "index": index, "embedding": embedding})
        });
        json!({
            "object": "list",
            "data": data.collect::<Vec<_>>(),
            "model": self.model,
            "usage": {"prompt_tokens": self.tokens, "total_tokens": self.tokens},
        })
    }

    /// Numbers, or the bytes of little-endian f32 in base64.
    fn embedding(&self, vector: &[f32]) -> Value {
        match self.base64 {
            true => BASE64_STANDARD.encode(vector.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>()).into(),
            false => vector.into(),
        }
    }
}
