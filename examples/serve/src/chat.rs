//! `POST /v1/chat/completions`: a conversation, and the model's next turn in it.
//!
//! The model's own chat template makes the prompt, and only it can make control tokens: what a message says is text,
//! whatever it looks like.

use std::sync::Arc;

use llama_core::engine::{Completion, Score};
use llama_core::text::{Date, Message, RenderOptions, Tokenizer, Trust};
use serde_json::{Value, json};

use crate::error::{ApiError, Result};
use crate::fields::{Fields, shown};
use crate::format::response_format;
use crate::options::Bounds;
use crate::parameters::{ALTERNATIVES, Parameters};
use crate::scores;
use crate::served::Served;
use crate::texts::{Style, Texts, reason};
use crate::work::{Answer, Work};
use crate::worker::Task;

/// What a request asks for.
///
/// # Errors
/// A 400 that names the field.
pub fn read(served: &Served, bounds: &Bounds, mut fields: Fields) -> Result<Work> {
    refuse_what_is_lacking(&mut fields)?;
    let mut parameters = Parameters::take(&mut fields, bounds.choices)?;
    parameters.request.max_tokens = max_tokens(&mut fields)?;
    parameters.request.sampling.logprobs = logprobs(&mut fields)?;
    parameters.request.grammar = response_format(served, &mut fields)?;
    let messages = messages(&mut fields)?;
    fields.end("")?;
    let prompt = prompt(served, &messages)?;
    let tasks = parameters.requests(served, &prompt)?.map(Task::Generate).collect::<Vec<_>>();
    let scored = parameters.request.sampling.logprobs.is_some();
    let style = Chat { tokenizer: scored.then(|| served.tokenizer.clone()) };
    let texts = Texts::new(served, style, tasks.len(), prompt.len()).including_usage(parameters.include_usage);
    Ok(Work { tasks, answer: Answer::Texts(Box::new(texts)), stream: parameters.stream })
}

/// The conversation as tokens.
fn prompt(served: &Served, messages: &[Message]) -> Result<Vec<u32>> {
    let Some(template) = &served.template else {
        let problem = format!("{} has no chat template, so it cannot chat; use /v1/completions", served.name);
        return Err(ApiError::about("model", "unsupported", problem));
    };
    let options = RenderOptions::for_tokenizer(Date::today(), &served.tokenizer);
    Ok(template.encode(&served.tokenizer, messages, &options, Trust::Template)?)
}

fn max_tokens(fields: &mut Fields) -> Result<Option<usize>> {
    let old = fields.integer("max_tokens", 1..=usize::MAX)?;
    let new = fields.integer("max_completion_tokens", 1..=usize::MAX)?;
    match (old, new) {
        (Some(old), Some(new)) if old != new => {
            let problem = format!("max_tokens is {old} and max_completion_tokens {new}; give one of them");
            Err(ApiError::value("max_completion_tokens", problem))
        }
        (old, new) => Ok(new.or(old)),
    }
}

/// How many alternatives to report with each token, if scores are wanted at all.
fn logprobs(fields: &mut Fields) -> Result<Option<usize>> {
    let wanted = fields.flag("logprobs")?;
    let top = fields.integer("top_logprobs", ALTERNATIVES)?;
    match (wanted, top) {
        (false, Some(_)) => Err(ApiError::value("top_logprobs", "top_logprobs needs logprobs = true")),
        (wanted, top) => Ok(wanted.then_some(top.unwrap_or(0))),
    }
}

fn refuse_what_is_lacking(fields: &mut Fields) -> Result<()> {
    let empty = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
    fields.unwanted("tools", empty)?;
    fields.unwanted("functions", empty)?;
    fields.unwanted("tool_choice", |value| value == "none" || value == "auto")?;
    fields.unwanted("function_call", |value| value == "none" || value == "auto")?;
    fields.unwanted("modalities", |value| *value == json!(["text"]))?;
    fields.unwanted("store", |value| *value == json!(false))?;
    fields.unwanted("service_tier", |value| value == "auto" || value == "default")?;
    for name in ["audio", "prediction", "reasoning_effort", "verbosity", "web_search_options"] {
        fields.unwanted(name, |_| false)?;
    }
    fields.ignore(&["user", "metadata", "safety_identifier", "prompt_cache_key", "parallel_tool_calls"]);
    Ok(())
}

fn messages(fields: &mut Fields) -> Result<Vec<Message>> {
    let Some(Value::Array(messages)) =
        fields.checked("messages", "a list of messages", |value| value.is_array().then(|| value.clone()))?
    else {
        return Err(ApiError::about("messages", "missing_required_parameter", "messages is missing"));
    };
    if messages.is_empty() {
        return Err(ApiError::value("messages", "messages is empty; there must be at least one"));
    }
    messages.into_iter().enumerate().map(|(at, json)| message(&format!("messages[{at}]"), json)).collect()
}

/// `place` is where the message stands, for errors.
fn message(place: &str, json: Value) -> Result<Message> {
    let Value::Object(fields) = json else {
        return Err(ApiError::value(place, format!("{place} is {}; it must be an object", shown(&json))));
    };
    let mut fields = Fields::from(fields);
    let within = |error: ApiError| match error.param {
        Some(param) => ApiError { param: Some(format!("{place}.{param}")), ..error },
        None => error,
    };
    let role = role(place, &mut fields).map_err(within)?;
    let content = content(place, &mut fields).map_err(within)?;
    let name = fields.string("name").map_err(within)?;
    for lacking in ["tool_calls", "tool_call_id", "function_call", "audio", "refusal"] {
        fields.unwanted(lacking, |_| false).map_err(within)?;
    }
    fields.end(place)?;
    let mut message = json!({"role": role, "content": content});
    if let Some(name) = name {
        message["name"] = name.into();
    }
    Ok(Message::from_json(message)?)
}

/// The template's name of a role. Templates know instructions of developers as the system's.
fn role(place: &str, fields: &mut Fields) -> Result<&'static str> {
    match fields.string("role")?.as_deref() {
        Some("system" | "developer") => Ok("system"),
        Some("user") => Ok("user"),
        Some("assistant") => Ok("assistant"),
        Some("tool" | "function") => {
            Err(ApiError::lacking("role", format!("{place} is the answer of a tool; this server has no tools")))
        }
        _ => Err(ApiError::value("role", format!("the role of {place} must be system, developer, user or assistant"))),
    }
}

/// A string, or a list of parts that are text.
fn content(place: &str, fields: &mut Fields) -> Result<String> {
    match fields.take("content") {
        Some(Value::String(text)) => Ok(text),
        Some(Value::Array(parts)) => parts.into_iter().map(|part| text_part(place, part)).collect(),
        _ => {
            Err(ApiError::value("content", format!("the content of {place} must be a string or a list of text parts")))
        }
    }
}

fn text_part(place: &str, part: Value) -> Result<String> {
    let Value::Object(fields) = part else {
        return Err(ApiError::value("content", format!("a part of {place} must be an object")));
    };
    let mut fields = Fields::from(fields);
    if fields.string("type")?.as_deref() != Some("text") {
        return Err(ApiError::lacking(
            "content",
            format!("{place} has a part that is not text; the model reads text only"),
        ));
    }
    let text = fields.string("text")?;
    fields.end("content")?;
    text.ok_or_else(|| ApiError::value("content", format!("a part of {place} has no text")))
}

/// Choices that are messages.
struct Chat {
    /// Where scores are wanted.
    tokenizer: Option<Arc<Tokenizer>>,
}

impl Chat {
    fn logprobs(&self, scores: &[Score]) -> Value {
        self.tokenizer.as_ref().map_or(Value::Null, |tokenizer| scores::chat(tokenizer, scores))
    }
}

impl Style for Chat {
    fn objects(&self) -> [&'static str; 2] {
        ["chat.completion", "chat.completion.chunk"]
    }

    fn id_prefix(&self) -> &'static str {
        "chatcmpl-"
    }

    fn choice(&mut self, index: usize, completion: &Completion, scores: &[Score]) -> Value {
        json!({
            "index": index,
            "message": {"role": "assistant", "content": completion.text, "refusal": null},
            "logprobs": self.logprobs(scores),
            "finish_reason": reason(&completion.finish),
        })
    }

    fn opening(&self, index: usize) -> Option<Value> {
        let delta = json!({"role": "assistant", "content": "", "refusal": null});
        Some(json!({"index": index, "delta": delta, "logprobs": null, "finish_reason": null}))
    }

    fn piece(&mut self, index: usize, text: &str, scores: &[Score]) -> Value {
        let logprobs = self.logprobs(scores);
        json!({"index": index, "delta": {"content": text}, "logprobs": logprobs, "finish_reason": null})
    }

    fn ending(&self, index: usize, reason: &'static str) -> Value {
        json!({"index": index, "delta": {}, "logprobs": null, "finish_reason": reason})
    }
}
