//! The vocabulary's own consistency: lengths, types and ids. What the tokens mean is the tokenizer's business.

use super::{Metadata, Value};
use crate::error::{Error, Result};

pub(super) const TOKENS: &str = "tokenizer.ggml.tokens";
const SCORES: &str = "tokenizer.ggml.scores";
const TYPES: &str = "tokenizer.ggml.token_type";
const ENDS: [&str; 3] = ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];
/// Keys of the ids that a tokenizer or an engine will use.
const READ: [&str; 5] = [ENDS[0], ENDS[1], ENDS[2], "tokenizer.ggml.bos_token_id", "tokenizer.ggml.unknown_token_id"];

/// Checks every `tokenizer.*` key that a tokenizer will read, for a model with `vocab` tokens.
pub(in crate::checkpoint) fn check_vocabulary(metadata: &Metadata, vocab: usize) -> Result<()> {
    let long = |key: &str, count: Option<usize>| match count {
        Some(count) if count != vocab => {
            Err(Error::config(key, format!("has {count} values; {vocab}, one for each token, were expected")))
        }
        _ => Ok(()),
    };
    metadata.string("tokenizer.ggml.model")?;
    metadata.string("tokenizer.ggml.pre")?;
    metadata.strings("tokenizer.ggml.merges")?;
    long(TOKENS, metadata.strings(TOKENS)?.map(<[String]>::len))?;
    long(TYPES, metadata.i32s(TYPES)?.map(<[i32]>::len))?;
    let scores = metadata.f32s(SCORES)?;
    long(SCORES, scores.map(<[f32]>::len))?;
    if let Some(token) = scores.unwrap_or_default().iter().position(|score| score.is_nan()) {
        return Err(Error::config(SCORES, format!("is not a number for token {token}; one was expected")));
    }
    for (key, value) in metadata.iter() {
        match key.strip_prefix("tokenizer.ggml.") {
            Some(rest) if rest.ends_with("_token_id") => check_id(metadata, key, vocab)?,
            Some(rest) if rest.starts_with("add_") && !matches!(value, Value::Bool(_)) => {
                metadata.bool(key)?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Of ids that no one here reads, -1 written as a u32, as llama2.c's converter has it, is none.
fn check_id(metadata: &Metadata, key: &str, vocab: usize) -> Result<()> {
    let none = |&id: &u32| id == u32::MAX && !READ.contains(&key);
    match metadata.u32(key)?.filter(|id| !none(id)) {
        Some(id) if id as usize >= vocab => {
            Err(Error::config(key, format!("is {id}; an id less than {vocab}, the number of tokens, was expected")))
        }
        _ => Ok(()),
    }
}

/// Ids of the tokens that end a text, a turn or a message.
pub(in crate::checkpoint) fn end_tokens(metadata: &Metadata) -> Result<Vec<u32>> {
    let mut ids = Vec::new();
    for key in ENDS {
        ids.extend(metadata.u32(key)?.filter(|id| !ids.contains(id)));
    }
    Ok(ids)
}
