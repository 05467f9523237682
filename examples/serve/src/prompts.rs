//! Prompts as the API spells them: a string, a list of token ids, or a list of either; and a suffix for them to be continued to.

use llama_core::text::{Specials, Tokenizer};
use serde_json::Value;

use crate::error::{ApiError, Result};
use crate::fields::{Fields, tokens};
use crate::served::Served;

/// A prompt.
pub struct Prompt {
    /// Its text, for who wants it back.
    pub text: String,
    /// Its tokens, at least one.
    pub tokens: Vec<u32>,
}

/// The prompts in the field `name`, at least one and at most `most`.
///
/// # Errors
/// A 400 about the field.
pub fn prompts(served: &Served, name: &str, fields: &mut Fields, most: usize) -> Result<Vec<Prompt>> {
    listed(name, fields, most)?.iter().map(|value| prompt(served, name, value)).collect()
}

/// The same, each asking for what belongs between it and `suffix`.
///
/// # Errors
/// A 400 about the field, or about the suffix.
pub fn infilled(served: &Served, suffix: &str, name: &str, fields: &mut Fields, most: usize) -> Result<Vec<Prompt>> {
    if served.tokenizer.infill().is_none() {
        let problem = format!("the vocabulary of {} has no tokens for infilling; leave suffix out", served.name);
        return Err(ApiError::lacking("suffix", problem));
    }
    let prompt = |value: &Value| {
        let text = value.as_str().ok_or_else(|| {
            ApiError::value(name, format!("{name} must be a string or a list of strings where there is a suffix"))
        })?;
        let tokens = served.tokenizer.encode_infill(text, suffix)?;
        checked(served, name, Prompt { text: text.into(), tokens })
    };
    listed(name, fields, most)?.iter().map(prompt).collect()
}

fn listed(name: &str, fields: &mut Fields, most: usize) -> Result<Vec<Value>> {
    let Some(value) = fields.take(name) else {
        return Err(ApiError::about(name, "missing_required_parameter", format!("{name} is missing")));
    };
    let several = |value: &Value| value.is_string() || value.is_array();
    let listed = match value {
        Value::Array(values) if !values.is_empty() && values.iter().all(several) => values,
        one => vec![one],
    };
    if listed.len() > most {
        let problem = format!("{name} has {} entries; at most {most} are allowed", listed.len());
        return Err(ApiError::value(name, problem));
    }
    Ok(listed)
}

/// One prompt, in the field `name`.
///
/// # Errors
/// A 400 about the field.
pub fn prompt(served: &Served, name: &str, value: &Value) -> Result<Prompt> {
    let tokenizer = &served.tokenizer;
    let prompt = match (value, tokens(value)) {
        (Value::String(text), _) => {
            let tokens = tokenizer.encode_prompt(text, Specials::AsText)?;
            Prompt { text: text.clone(), tokens }
        }
        (_, Some(tokens)) => Prompt { text: text(tokenizer, &tokens), tokens },
        _ => {
            let problem = format!("{name} must be a string, a list of token ids, or a list of either");
            return Err(ApiError::value(name, problem));
        }
    };
    checked(served, name, prompt)
}

fn checked(served: &Served, name: &str, prompt: Prompt) -> Result<Prompt> {
    if prompt.tokens.is_empty() {
        return Err(ApiError::value(name, format!("{name} is empty; it must hold at least one token")));
    }
    match prompt.tokens.iter().find(|&&token| token as usize >= served.vocab) {
        Some(token) => {
            let problem = format!("{name} has token {token}; it must be below the vocabulary's size, {}", served.vocab);
            Err(ApiError::value(name, problem))
        }
        None => Ok(prompt),
    }
}

impl Prompt {
    /// How many tokens it has, of which none is generated.
    ///
    /// # Errors
    /// `context_length_exceeded` if they do not fit.
    pub fn fitting(&self, served: &Served) -> Result<usize> {
        match self.tokens.len() {
            tokens if tokens > served.context => Err(ApiError::overflow(tokens, 0, served.context)),
            tokens => Ok(tokens),
        }
    }
}

/// The text of tokens; none where some of them have none, being the model's alone or nobody's.
fn text(tokenizer: &Tokenizer, tokens: &[u32]) -> String {
    tokenizer.decode(tokens).unwrap_or_default()
}
