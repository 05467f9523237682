//! `instructions` and `input`: a conversation as items, which become messages as a chat has them.
//!
//! What an assistant said and called in one turn is several items here, and one message for a template: a call joins the assistant's
//! message right before it, and a text the calls right before it, as long as they have none. So what was answered comes back as the
//! same message that a chat would have sent back.

use serde_json::{Value, json};

use crate::error::{ApiError, Result};
use crate::fields::{Fields, shown};
use crate::messages::{Conversation, THOUGHTS, content, role};
use crate::turns::Turns;

const INPUT: &str = "input";
/// Types of parts that are text: one that somebody wrote, and one that was generated.
const WRITTEN: &str = "input_text";
const GENERATED: &str = "output_text";
const THOUGHT: &str = "reasoning_text";

/// Takes the conversation out of `fields`.
///
/// # Errors
/// A 400 that names the field.
pub fn take(fields: &mut Fields) -> Result<Conversation> {
    let mut turns = Turns::new(INPUT);
    if let Some(text) = fields.string("instructions")? {
        turns.say("system", text);
    }
    for (at, item) in items(fields)?.into_iter().enumerate() {
        add(&mut turns, Fields::at(&format!("{INPUT}[{at}]"), item)?)?;
    }
    let conversation = turns.end()?;
    match conversation.messages.is_empty() {
        true => Err(empty()),
        false => Ok(conversation),
    }
}

fn empty() -> ApiError {
    ApiError::about(INPUT, "missing_required_parameter", "input is missing or empty")
}

/// A string is what a user says.
fn items(fields: &mut Fields) -> Result<Vec<Value>> {
    match fields.take(INPUT) {
        Some(Value::String(text)) => Ok(vec![json!({"role": "user", "content": text})]),
        Some(Value::Array(items)) if !items.is_empty() => Ok(items),
        None | Some(Value::Array(_)) => Err(empty()),
        Some(other) => {
            Err(ApiError::value(INPUT, format!("input is {}; it must be a string or a list of items", shown(&other))))
        }
    }
}

/// Adds an item to the messages.
fn add(turns: &mut Turns, mut item: Fields) -> Result<()> {
    let kind = item.string("type")?;
    // What an answer has beside what was said: nothing that the model would read.
    item.ignore(&["id", "status"]);
    match kind.as_deref() {
        None | Some("message") => message(turns, item),
        Some("function_call") => call(turns, item),
        Some("function_call_output") => answer(turns, item),
        Some("reasoning") => thoughts(turns, item),
        Some(other) => {
            let path = item.path("type");
            let kind = shown(&other.into());
            let problem =
                format!("{path} is {kind}; it must be message, reasoning, function_call or function_call_output");
            Err(ApiError::lacking(&path, problem))
        }
    }
}

fn message(turns: &mut Turns, mut item: Fields) -> Result<()> {
    let role = role(&mut item)?;
    if role == "tool" {
        let path = item.path("role");
        return Err(ApiError::value(&path, format!("{path} is tool; its answer is a function_call_output")));
    }
    let text = content(&mut item, "content", &[WRITTEN, GENERATED], false)?;
    item.unwanted("phase", |_| false)?;
    item.end()?;
    match turns.last() {
        Some(last) if role == "assistant" && is_empty(last) && is_open(last) => last["content"] = text.into(),
        _ => turns.say(role, text),
    }
    Ok(())
}

/// Whether the assistant said nothing in a message.
fn is_empty(message: &Value) -> bool {
    message["role"] == "assistant" && message["content"] == ""
}

/// Whether a message without a text may get one: there are thoughts or calls of the same turn in it.
fn is_open(message: &Value) -> bool {
    ["tool_calls", THOUGHTS].iter().any(|field| message.get(field).is_some())
}

/// Thoughts begin a turn. Their summary is no more than they are, and what is in cipher nobody here can read.
fn thoughts(turns: &mut Turns, mut item: Fields) -> Result<()> {
    let text = if item.has("content") { content(&mut item, "content", &[THOUGHT], false)? } else { String::new() };
    item.ignore(&["summary", "encrypted_content"]);
    item.end()?;
    if text.is_empty() {
        return Ok(());
    }
    // Of several items in a row the others go on with the first.
    let only_thought =
        |last: &mut Value| last.get(THOUGHTS).is_some() && is_empty(last) && last.get("tool_calls").is_none();
    if !turns.last().is_some_and(only_thought) {
        turns.say("assistant", String::new());
    }
    turns.think(&text);
    Ok(())
}

fn call(turns: &mut Turns, mut item: Fields) -> Result<()> {
    let id = item.string("call_id")?.ok_or_else(|| item.missing("call_id"))?;
    let call = turns.conversation.add_call(id, item)?;
    turns.call(call);
    Ok(())
}

fn answer(turns: &mut Turns, mut item: Fields) -> Result<()> {
    let answered = turns.conversation.answered(&mut item, "call_id")?;
    let text = content(&mut item, "output", &[WRITTEN], false)?;
    item.end()?;
    turns.answer(answered, text);
    Ok(())
}
