//! A conversation as templates read it, and `messages`, the way in which a chat spells one.
//!
//! Calls of tools go to the template as Hugging Face's templates expect them: arguments as an object, where the API has a
//! string of JSON, and the answer of a tool with the name of the function that it is from.

use std::collections::HashMap;

use llama_core::text::Message;
use serde_json::{Map, Value, json};

use crate::calls;
use crate::error::{ApiError, Result};
use crate::fields::{Fields, Layout};

/// What an assistant thought before a message, as templates call it.
pub const THOUGHTS: &str = "reasoning_content";

/// A conversation, at least one message long.
pub struct Conversation {
    /// The field of the request that it is in.
    pub field: &'static str,
    /// What the template is given.
    pub messages: Vec<Message>,
    /// Functions that were called in it, by the ids of the calls.
    called: HashMap<String, String>,
}

impl Conversation {
    /// Nothing yet, of what is in the request's `field`.
    pub fn new(field: &'static str) -> Self {
        Conversation { field, messages: Vec::new(), called: HashMap::new() }
    }

    /// Takes the `messages` out of `fields`.
    ///
    /// # Errors
    /// A 400 that names the field.
    pub fn take(fields: &mut Fields) -> Result<Self> {
        let mut conversation = Conversation::new("messages");
        for (place, message) in fields.list("messages")? {
            let message = conversation.message(Fields::at(&place, message)?)?;
            conversation.push(message)?;
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

    /// Adds a message as templates expect it.
    ///
    /// # Errors
    /// [`Message::from_json`]'s.
    pub fn push(&mut self, message: Value) -> Result<()> {
        self.messages.push(Message::from_json(message)?);
        Ok(())
    }

    fn message(&mut self, mut fields: Fields) -> Result<Value> {
        let role = role(&mut fields)?;
        let mut message = json!({"role": role});
        let calls = if role == "assistant" { self.calls(&mut fields)? } else { Vec::new() };
        message["content"] = content(&mut fields, "content", &["text"], !calls.is_empty())?.into();
        if !calls.is_empty() {
            message["tool_calls"] = calls.into();
        }
        if role == "assistant"
            && let Some(thoughts) = fields.string(THOUGHTS)?
        {
            message[THOUGHTS] = thoughts.into();
        }
        if role == "tool" {
            let (id, function) = self.answered(&mut fields, "tool_call_id")?;
            message["tool_call_id"] = id.into();
            message["name"] = function.into();
        }
        if let Some(name) = fields.string("name")? {
            message["name"] = name.into();
        }
        for lacking in ["tool_calls", "tool_call_id", "function_call", "audio", "refusal", THOUGHTS] {
            fields.unwanted(lacking, |_| false)?;
        }
        fields.end()?;
        Ok(message)
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
        self.add_call(id, Layout::Nested.open(fields, "function")?)
    }

    /// The call `id` as templates expect it: of `function`, a name and arguments and nothing else.
    ///
    /// # Errors
    /// A 400 that names the field.
    pub fn add_call(&mut self, id: String, mut function: Fields) -> Result<Value> {
        let name = function.string("name")?.ok_or_else(|| function.missing("name"))?;
        let arguments = arguments(&mut function)?;
        function.end()?;
        Ok(self.called(id, name, arguments))
    }

    /// The same of a name and arguments that have been read.
    pub fn called(&mut self, id: String, name: String, arguments: Map<String, Value>) -> Value {
        self.called.insert(id.clone(), name.clone());
        json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}})
    }

    /// The call that a tool answers, whose id is in the field `name`, and the function's name.
    ///
    /// # Errors
    /// A 400 that names the field, unless there was such a call before.
    pub fn answered(&self, fields: &mut Fields, name: &str) -> Result<(String, String)> {
        let id = fields.string(name)?.ok_or_else(|| fields.missing(name))?;
        match self.called.get(&id) {
            Some(function) => Ok((id, function.clone())),
            None => {
                let path = fields.path(name);
                Err(ApiError::value(&path, format!("{path} is the id of no call in a message before it")))
            }
        }
    }
}

/// The template's name of a role. Templates know instructions of developers as the system's.
///
/// # Errors
/// A 400 about the field.
pub fn role(fields: &mut Fields) -> Result<&'static str> {
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

/// What the field `name` says: a string, or a list of parts that are text, which they say by a type of `kinds`. A message that
/// calls tools may say nothing, which is an empty string here: templates search what a message says.
///
/// # Errors
/// A 400 about the field.
pub fn content(fields: &mut Fields, name: &str, kinds: &[&str], may_lack: bool) -> Result<String> {
    let path = fields.path(name);
    match fields.take(name) {
        Some(Value::String(text)) => Ok(text),
        Some(Value::Array(parts)) => parts.into_iter().map(|part| text_part(&path, part, kinds)).collect(),
        None if may_lack => Ok(String::new()),
        _ => Err(ApiError::value(&path, format!("{path} must be a string or a list of text parts"))),
    }
}

fn text_part(path: &str, part: Value, kinds: &[&str]) -> Result<String> {
    let mut fields = Fields::at(path, part)?;
    let kind = fields.string("type")?.unwrap_or_default();
    if !kinds.contains(&kind.as_str()) {
        let problem = format!("{path} has a part that is not text ({}); the model reads text only", kinds.join(", "));
        return Err(ApiError::lacking(path, problem));
    }
    if kind == "output_text" {
        // What came with a text when it was generated, and is none of it.
        fields.ignore(&["annotations", "logprobs"]);
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
