//! `system` and `messages`: a conversation in blocks, which become messages as a chat has them.
//!
//! Messages of one role in a row are one turn. What an assistant says in several is joined as it is, for the model said it in one go;
//! others' texts have a line break between them. An assistant's message at the end is one that the model goes on with.

use serde_json::{Value, json};

use crate::error::{ApiError, Result};
use crate::fields::{Fields, shown};
use crate::messages::Conversation;
use crate::turns::Turns;

const FIELD: &str = "messages";

/// Takes the conversation out of `fields`, and whether its last message goes on.
///
/// # Errors
/// A 400 that names the field.
pub fn take(fields: &mut Fields) -> Result<(Conversation, bool)> {
    let mut turns = Turns::new(FIELD);
    if fields.has("system") {
        let text = text(fields, "system")?;
        if !text.is_empty() {
            turns.say("system", text);
        }
    }
    let messages = fields.list(FIELD)?;
    if messages.is_empty() {
        return Err(ApiError::about(FIELD, "missing_required_parameter", "messages is missing or empty"));
    }
    for (place, message) in messages {
        add(&mut turns, Fields::at(&place, message)?)?;
    }
    let open = turns.last().is_some_and(|last| last["role"] == "assistant");
    Ok((turns.end()?, open))
}

/// Adds a message to the turns.
fn add(turns: &mut Turns, mut message: Fields) -> Result<()> {
    let path = message.path("role");
    match message.string("role")?.as_deref() {
        Some("user") => user(turns, &mut message)?,
        Some("assistant") => assistant(turns, &mut message)?,
        Some("system") => {
            let text = text(&mut message, "content")?;
            say(turns, "system", text);
        }
        _ => return Err(ApiError::value(&path, format!("{path} must be user, assistant or system"))),
    }
    message.end()
}

/// What a user says, and the results of tools, in their order.
fn user(turns: &mut Turns, message: &mut Fields) -> Result<()> {
    let mut said = None;
    let mut blocks = blocks(message, "content")?.peekable();
    if blocks.peek().is_none() {
        let path = message.path("content");
        return Err(ApiError::value(&path, format!("{path} is empty; it must have a block")));
    }
    for block in blocks {
        let mut block = block?;
        match kind(&mut block)?.as_str() {
            "text" => said.get_or_insert_with(String::new).push_str(&words(block)?),
            "tool_result" => {
                if let Some(text) = said.take() {
                    say(turns, "user", text);
                }
                result(turns, block)?;
            }
            other => return Err(lacking(&block, other, "text or tool_result")),
        }
    }
    if let Some(text) = said {
        say(turns, "user", text);
    }
    Ok(())
}

/// What an assistant thought, says and calls. What another wrote in cipher nobody here can read.
fn assistant(turns: &mut Turns, message: &mut Fields) -> Result<()> {
    let (mut said, mut thoughts) = (String::new(), String::new());
    for block in blocks(message, "content")? {
        let mut block = block?;
        match kind(&mut block)?.as_str() {
            "text" => said.push_str(&words(block)?),
            "tool_use" => call(turns, block)?,
            "thinking" => thoughts.push_str(&thought(block)?),
            "redacted_thinking" => unread(block, &["data"])?,
            other => return Err(lacking(&block, other, "text, tool_use, thinking or redacted_thinking")),
        }
    }
    say(turns, "assistant", said);
    turns.think(&thoughts);
    Ok(())
}

fn thought(mut block: Fields) -> Result<String> {
    let thought = block.string("thinking")?.ok_or_else(|| block.missing("thinking"))?;
    unread(block, &["signature"])?;
    Ok(thought)
}

/// Adds a text to the turn of `role` if that is the last one, or begins one with it.
fn say(turns: &mut Turns, role: &str, text: String) {
    match turns.last().filter(|last| last["role"] == role).and_then(|last| last.get_mut("content")) {
        Some(Value::String(said)) => {
            said.push_str(if role == "assistant" { "" } else { "\n" });
            said.push_str(&text);
        }
        _ => turns.say(role, text),
    }
}

fn call(turns: &mut Turns, mut block: Fields) -> Result<()> {
    let id = block.string("id")?.ok_or_else(|| block.missing("id"))?;
    let name = block.string("name")?.ok_or_else(|| block.missing("name"))?;
    let object = |value: &Value| value.as_object().cloned();
    let input = block.checked("input", "an object", object)?.ok_or_else(|| block.missing("input"))?;
    unread(block, &["cache_control", "caller"])?;
    let call = turns.conversation.called(id, name, input);
    turns.call(call);
    Ok(())
}

/// That a tool has failed is said in its own words; a template may ask for it, too.
fn result(turns: &mut Turns, mut block: Fields) -> Result<()> {
    let answered = turns.conversation.answered(&mut block, "tool_use_id")?;
    let text = if block.has("content") { text(&mut block, "content")? } else { String::new() };
    let failed = block.flag("is_error")?;
    unread(block, &["cache_control"])?;
    turns.answer(answered, text);
    if let Some(message) = turns.last().filter(|_| failed) {
        message["is_error"] = true.into();
    }
    Ok(())
}

/// What the field `name` says, where it can be nothing but text.
fn text(fields: &mut Fields, name: &str) -> Result<String> {
    let mut text = String::new();
    for block in blocks(fields, name)? {
        let mut block = block?;
        match kind(&mut block)?.as_str() {
            "text" => text.push_str(&words(block)?),
            other => return Err(lacking(&block, other, "text")),
        }
    }
    Ok(text)
}

/// The blocks in the field `name`. A string is one with that text.
fn blocks(fields: &mut Fields, name: &str) -> Result<impl Iterator<Item = Result<Fields>> + use<>> {
    let path = fields.path(name);
    let blocks = match fields.take(name) {
        Some(Value::String(text)) => vec![json!({"type": "text", "text": text})],
        Some(Value::Array(blocks)) => blocks,
        None => return Err(fields.missing(name)),
        Some(other) => {
            let problem = format!("{path} is {}; it must be a string or a list of blocks", shown(&other));
            return Err(ApiError::value(&path, problem));
        }
    };
    Ok(blocks.into_iter().enumerate().map(move |(at, block)| Fields::at(&format!("{path}[{at}]"), block)))
}

fn kind(block: &mut Fields) -> Result<String> {
    block.string("type")?.ok_or_else(|| block.missing("type"))
}

fn lacking(block: &Fields, kind: &str, kinds: &str) -> ApiError {
    let (path, kind) = (block.path("type"), shown(&kind.into()));
    ApiError::lacking(&path, format!("{path} is {kind}; it must be {kinds} here: the model reads text only"))
}

/// A block's text. Prefixes are cached without being asked for it.
fn words(mut block: Fields) -> Result<String> {
    let text = block.string("text")?.ok_or_else(|| block.missing("text"))?;
    unread(block, &["cache_control", "citations"])?;
    Ok(text)
}

/// That a block has nothing left but fields that the model would not read.
fn unread(mut block: Fields, names: &[&str]) -> Result<()> {
    block.ignore(names);
    block.end()
}
