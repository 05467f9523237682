//! Log-probabilities in the two forms of the API.

use llama_core::engine::Score;
use llama_core::sample::Logprob;
use llama_core::text::Tokenizer;
use serde_json::{Map, Value, json};

/// What stands for a probability of zero: JSON has no infinity, and OpenAI's API has this number.
const NEVER: f32 = -9999.0;

/// As chats and responses have them: an object for each token.
pub fn objects(tokenizer: &Tokenizer, scores: &[Score]) -> Vec<Value> {
    let entry = |token, logprob| {
        let bytes = tokenizer.piece(token).unwrap_or_default();
        json!({"token": String::from_utf8_lossy(bytes), "logprob": number(logprob), "bytes": bytes})
    };
    let objects = scores.iter().map(|score| {
        let mut object = entry(score.token, score.logprob);
        object["top_logprobs"] = score.top.iter().map(|top| entry(top.token, top.logprob)).collect();
        object
    });
    objects.collect()
}

/// As completions have them: four lists side by side. A prompt that is part of the text comes first; its first token follows
/// nothing, so it has no score.
#[derive(Default)]
pub struct Lists {
    tokens: Vec<Value>,
    token_logprobs: Vec<Value>,
    top_logprobs: Vec<Value>,
    text_offset: Vec<usize>,
    /// Where the next token begins, in characters of the text.
    offset: usize,
}

impl Lists {
    /// Nothing, of a text whose first `offset` characters were told of before.
    pub fn from(offset: usize) -> Self {
        Lists { offset, ..Lists::default() }
    }

    /// Where the next token begins.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Adds a token without a score.
    pub fn push_unscored(&mut self, tokenizer: &Tokenizer, token: u32) {
        self.push(tokenizer, token, Value::Null, Value::Null);
    }

    /// Adds tokens with their scores.
    pub fn extend(&mut self, tokenizer: &Tokenizer, scores: &[Score]) {
        for score in scores {
            let top = alternatives(tokenizer, &score.top);
            self.push(tokenizer, score.token, number(score.logprob).into(), top);
        }
    }

    /// The object.
    pub fn object(self) -> Value {
        json!({
            "tokens": self.tokens,
            "token_logprobs": self.token_logprobs,
            "top_logprobs": self.top_logprobs,
            "text_offset": self.text_offset,
        })
    }

    fn push(&mut self, tokenizer: &Tokenizer, token: u32, logprob: Value, top: Value) {
        let bytes = tokenizer.piece(token).unwrap_or_default();
        self.tokens.push(spelling(bytes).into());
        self.token_logprobs.push(logprob);
        self.top_logprobs.push(top);
        self.text_offset.push(self.offset);
        self.offset += String::from_utf8_lossy(bytes).chars().count();
    }
}

/// The most probable tokens by their spelling; of equal spellings the more probable one.
fn alternatives(tokenizer: &Tokenizer, top: &[Logprob]) -> Value {
    let mut object = Map::new();
    for &Logprob { token, logprob } in top {
        let spelling = spelling(tokenizer.piece(token).unwrap_or_default());
        object.entry(spelling).or_insert(number(logprob).into());
    }
    object.into()
}

/// A token's text; its bytes, where they are part of a character only.
fn spelling(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => bytes.iter().fold("bytes:".into(), |text, byte| format!("{text}\\x{byte:02x}")),
    }
}

fn number(logprob: f32) -> f32 {
    logprob.max(NEVER)
}
