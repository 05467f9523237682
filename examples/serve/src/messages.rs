//! `messages`: a conversation as templates read it.
//!
//! Calls of tools go to the template as Hugging Face's templates expect them: arguments as an object, where the API has a
//! string of JSON, and the answer of a tool with the name of the function that it is from.

use std::collections::HashMap;

use llama_core::text::Message;
use serde_json::{Map, Value, json};

use crate::calls;
use crate::error::{ApiError, Result};
use crate::fields::Fields;

/// A conversation, at least one message long.
pub struct Conversation {
    /// What the template is given.
    pub messages: Vec<Message>,
    /// Functions that were called in it, by the ids of the calls.
    called: HashMap<String, String>,
}

impl Conversation {
    /// Takes it out of `fields`.
    ///
    /// # Errors
    /// A 400 that names the field.
    pub fn take(fields: &mut Fields) -> Result<Self> {
        let mut conversation = Conversation { messages: Vec::new(), called: HashMap::new() };
        for (place, message) in fields.list("messages")? {
            let message = conversation.message(Fields::at(&place, message)?)?;
            conversation.messages.push(message);
        }
        match conversation.messages.is_empty() {
            true => Err(ApiError::about("messages", "missing_required_parameter", "messages is missing or empty")),
            false => Ok(conversation),
        }
    }

    /// Whether tools were called in it.
    pub fn has_calls(&self) -> bool {
        !self.called.is_empty()
    }

    fn message(&mut self, mut fields: Fields) -> Result<Message> {
        let role = role(&mut fields)?;
        let mut message = json!({"role": role});
        let calls = if role == "assistant" { self.calls(&mut fields)? } else { Vec::new() };
        message["content"] = content(&mut fields, !calls.is_empty())?.into();
        if !calls.is_empty() {
            message["tool_calls"] = calls.into();
        }
        if role == "tool" {
            let (id, function) = self.answered(&mut fields)?;
            message["tool_call_id"] = id.into();
            message["name"] = function.into();
        }
        if let Some(name) = fields.string("name")? {
            message["name"] = name.into();
        }
        for lacking in ["tool_calls", "tool_call_id", "function_call", "audio", "refusal"] {
            fields.unwanted(lacking, |_| false)?;
        }
        fields.end()?;
        Ok(Message::from_json(message)?)
    }

    fn calls(&mut self, fields: &mut Fields) -> Result<Vec<Value>> {
        let calls = fields.list("tool_calls")?.into_iter();
        calls.map(|(place, call)| self.call(Fields::at(&place, call)?)).collect()
    }

    fn call(&mut self, mut fields: Fields) -> Result<Value> {
        let id = fields.string("id")?.ok_or_else(|| fields.missing("id"))?;
        if fields.string("type")?.as_deref() != Some("function") {
            let path = fields.path("type");
            return Err(ApiError::value(&path, format!("{path} must be function")));
        }
        let mut function = fields.object("function")?.ok_or_else(|| fields.missing("function"))?;
        let name = function.string("name")?.ok_or_else(|| function.missing("name"))?;
        let arguments = arguments(&mut function)?;
        function.end()?;
        fields.end()?;
        self.called.insert(id.clone(), name.clone());
        Ok(json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}))
    }

    /// The call that a tool answers, and the function's name.
    fn answered(&self, fields: &mut Fields) -> Result<(String, String)> {
        let id = fields.string("tool_call_id")?.ok_or_else(|| fields.missing("tool_call_id"))?;
        match self.called.get(&id) {
            Some(function) => Ok((id, function.clone())),
            None => {
                let path = fields.path("tool_call_id");
                Err(ApiError::value(&path, format!("{path} is the id of no call in a message before it")))
            }
        }
    }
}

/// The template's name of a role. Templates know instructions of developers as the system's.
fn role(fields: &mut Fields) -> Result<&'static str> {
    let path = fields.path("role");
    match fields.string("role")?.as_deref() {
        Some("system" | "developer") => Ok("system"),
        Some("user") => Ok("user"),
        Some("assistant") => Ok("assistant"),
        Some("tool") => Ok("tool"),
        Some("function") => Err(ApiError::lacking(&path, format!("{path} = function is not supported; use tool"))),
        _ => Err(ApiError::value(&path, format!("{path} must be system, developer, user, assistant or tool"))),
    }
}

/// A string, or a list of parts that are text. A message that calls tools may say nothing, which is an empty string here:
/// templates search what a message says.
fn content(fields: &mut Fields, may_lack: bool) -> Result<String> {
    let path = fields.path("content");
    match fields.take("content") {
        Some(Value::String(text)) => Ok(text),
        Some(Value::Array(parts)) => parts.into_iter().map(|part| text_part(&path, part)).collect(),
        None if may_lack => Ok(String::new()),
        _ => Err(ApiError::value(&path, format!("{path} must be a string or a list of text parts"))),
    }
}

fn text_part(path: &str, part: Value) -> Result<String> {
    let mut fields = Fields::at(path, part)?;
    if fields.string("type")?.as_deref() != Some("text") {
        return Err(ApiError::lacking(path, format!("{path} has a part that is not text; the model reads text only")));
    }
    let text = fields.string("text")?;
    fields.end()?;
    text.ok_or_else(|| ApiError::value(path, format!("a part of {path} has no text")))
}

fn arguments(function: &mut Fields) -> Result<Map<String, Value>> {
    let text = function.string("arguments")?.ok_or_else(|| function.missing("arguments"))?;
    calls::arguments(&text).map_err(|error| {
        let path = function.path("arguments");
        ApiError::value(&path, format!("{path} must be a JSON object in a string: {error}"))
    })
}
