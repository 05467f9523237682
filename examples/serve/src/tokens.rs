//! `POST /tokenize` and `/detokenize`: texts as tokens and back, without the engine. The spelling is vLLM's.
//!
//! A body of 4 MiB may be as many tokens, so answers are written as they are computed: a tree of JSON values would take 240 times
//! the body.

use llama_core::text::{Specials, Tokenizer};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::json;

use crate::chat::{Turn, prompt};
use crate::error::{ApiError, Result};
use crate::fields::{self, Fields, Layout};
use crate::messages::Conversation;
use crate::served::Served;
use crate::tools::Tools;

/// The tokens of `prompt`, as a completion would have them, or of `messages`, as a chat would, in JSON.
///
/// # Errors
/// A 400 that names the field.
pub fn tokenize(served: &Served, mut fields: Fields) -> Result<String> {
    let spelled = fields.flag("return_token_strs")?;
    let tokens = match fields.string("prompt")? {
        Some(text) => of_text(served, &text, &mut fields)?,
        None => of_messages(served, &mut fields)?,
    };
    fields.end()?;
    let answer = Tokenized { served, tokens: &tokens, spelled };
    serde_json::to_string(&answer).map_err(|error| ApiError::internal(error.to_string()))
}

/// An answer to be written.
struct Tokenized<'a> {
    served: &'a Served,
    tokens: &'a [u32],
    spelled: bool,
}

impl Serialize for Tokenized<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let &Tokenized { served, tokens, spelled } = self;
        let mut answer = serializer.serialize_map(Some(4))?;
        answer.serialize_entry("count", &tokens.len())?;
        answer.serialize_entry("max_model_len", &served.context)?;
        answer.serialize_entry("tokens", tokens)?;
        answer.serialize_entry("token_strs", &spelled.then_some(Pieces(&served.tokenizer, tokens)))?;
        answer.end()
    }
}

/// The spelling of each token.
struct Pieces<'a>(&'a Tokenizer, &'a [u32]);

impl Serialize for Pieces<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let &Pieces(tokenizer, tokens) = self;
        let piece = |&token| String::from_utf8_lossy(tokenizer.piece(token).unwrap_or_default());
        serializer.collect_seq(tokens.iter().map(piece))
    }
}

fn of_text(served: &Served, text: &str, fields: &mut Fields) -> Result<Vec<u32>> {
    let marked = fields.switch("add_special_tokens")?.unwrap_or(true);
    let encode = if marked { Tokenizer::encode_prompt } else { Tokenizer::encode };
    Ok(encode(&served.tokenizer, text, Specials::AsText)?)
}

fn of_messages(served: &Served, fields: &mut Fields) -> Result<Vec<u32>> {
    if !fields.has("messages") {
        let problem = "prompt is missing, a text, and so are messages, a conversation";
        return Err(ApiError::about("prompt", "missing_required_parameter", problem));
    }
    fields.unwanted("add_special_tokens", |value| *value == json!(false))?;
    let turn = Turn::take(fields)?;
    let tools = Tools::take(fields, Layout::Nested)?;
    let conversation = Conversation::take(fields)?;
    prompt(served, &conversation, tools.as_ref(), turn)
}

/// The text of `tokens`, the spelling of control tokens included, in JSON.
///
/// # Errors
/// A 400 that names the field.
pub fn detokenize(served: &Served, mut fields: Fields) -> Result<String> {
    let tokens = fields.checked("tokens", "a list of token ids", fields::tokens)?;
    let tokens = tokens.ok_or_else(|| fields.missing("tokens"))?;
    fields.end()?;
    match tokens.iter().find(|&&token| token as usize >= served.tokenizer.vocab()) {
        Some(token) => {
            let problem = format!("tokens has {token}; the tokenizer has {} of them", served.tokenizer.vocab());
            Err(ApiError::value("tokens", problem))
        }
        None => Ok(json!({"prompt": served.tokenizer.decode_with_specials(&tokens)?}).to_string()),
    }
}
