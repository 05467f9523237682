//! `POST /tokenize` and `/detokenize`: texts as tokens and back, without the engine. The spelling is vLLM's.

use llama_core::text::{Specials, Tokenizer};
use serde_json::{Value, json};

use crate::chat;
use crate::error::{ApiError, Result};
use crate::fields::{self, Fields};
use crate::messages::Conversation;
use crate::served::Served;
use crate::tools::Tools;

/// The tokens of `prompt`, as a completion would have them, or of `messages`, as a chat would.
///
/// # Errors
/// A 400 that names the field.
pub fn tokenize(served: &Served, mut fields: Fields) -> Result<Value> {
    let spelled = fields.flag("return_token_strs")?;
    let tokens = match fields.string("prompt")? {
        Some(text) => of_text(served, &text, &mut fields)?,
        None => of_messages(served, &mut fields)?,
    };
    fields.end()?;
    let piece = |&token: &u32| String::from_utf8_lossy(served.tokenizer.piece(token).unwrap_or_default()).into_owned();
    let pieces = spelled.then(|| tokens.iter().map(piece).collect::<Vec<_>>());
    Ok(json!({"count": tokens.len(), "max_model_len": served.context, "tokens": tokens, "token_strs": pieces}))
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
    for name in ["add_special_tokens", "continue_final_message"] {
        fields.unwanted(name, |value| *value == json!(false))?;
    }
    let opened = fields.switch("add_generation_prompt")?.unwrap_or(true);
    let tools = Tools::take(fields)?;
    let conversation = Conversation::take(fields)?;
    chat::prompt(served, &conversation, tools.as_ref(), opened)
}

/// The text of `tokens`, the spelling of control tokens included.
///
/// # Errors
/// A 400 that names the field.
pub fn detokenize(served: &Served, mut fields: Fields) -> Result<Value> {
    let tokens = fields.checked("tokens", "a list of token ids", fields::tokens)?;
    let tokens = tokens.ok_or_else(|| fields.missing("tokens"))?;
    fields.end()?;
    match tokens.iter().find(|&&token| token as usize >= served.tokenizer.vocab()) {
        Some(token) => {
            let problem = format!("tokens has {token}; the tokenizer has {} of them", served.tokenizer.vocab());
            Err(ApiError::value("tokens", problem))
        }
        None => Ok(json!({"prompt": served.tokenizer.decode_with_specials(&tokens)?})),
    }
}
