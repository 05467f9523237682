//! `POST /v1/chat/completions`: a conversation, and the model's next turn in it.
//!
//! The model's own chat template makes the prompt, and only it can make control tokens: what a message says is text,
//! whatever it looks like. Where tools are offered, what the model says goes through a parser that finds calls of them.

use std::sync::Arc;

use llama_core::engine::{Completion, Grammar, Score};
use llama_core::text::{Date, RenderOptions, Tokenizer, Trust};
use serde_json::{Value, json};

use crate::calls::{Call, Parser, Said, Spelling};
use crate::error::{ApiError, Result};
use crate::fields::Fields;
use crate::format::{response_format, structured_outputs};
use crate::messages::Conversation;
use crate::options::Bounds;
use crate::parameters::{ALTERNATIVES, Parameters};
use crate::scores;
use crate::served::Served;
use crate::texts::{Style, Texts, reason};
use crate::tools::Tools;
use crate::work::{Answer, Work};
use crate::worker::Task;

/// What a request asks for.
///
/// # Errors
/// A 400 that names the field.
pub fn read(served: &Served, bounds: &Bounds, mut fields: Fields) -> Result<Work> {
    refuse_what_is_lacking(&mut fields)?;
    let mut parameters = Parameters::take(served, &mut fields, bounds.choices)?;
    parameters.request.max_tokens = max_tokens(&mut fields)?;
    parameters.request.sampling.logprobs = logprobs(&mut fields)?;
    let tools = Tools::take(&mut fields)?;
    parameters.request.grammar = grammar(served, tools.as_ref(), &mut fields)?;
    let conversation = Conversation::take(&mut fields)?;
    fields.end()?;
    let prompt = prompt(served, &conversation, tools.as_ref(), true)?;
    let tasks =
        parameters.requests(served, &prompt)?.map(|request| Task::Generate(Box::new(request))).collect::<Vec<_>>();
    let scored = parameters.request.sampling.logprobs.is_some();
    let spelling = Spelling::of(served.template.as_ref());
    let style = Chat {
        tokenizer: scored.then(|| served.tokenizer.clone()),
        parsers: tools.map_or_else(Vec::new, |tools| tools.parsers(tasks.len(), spelling)),
    };
    let texts = Texts::new(served, style, tasks.len(), prompt.len()).including_usage(parameters.include_usage);
    Ok(Work { tasks, answer: Answer::Texts(Box::new(texts)), stream: parameters.stream })
}

/// What the answer must be: of a form, a call, or anything.
fn grammar(served: &Served, tools: Option<&Tools>, fields: &mut Fields) -> Result<Option<Arc<dyn Grammar>>> {
    let format = response_format(served, fields)?;
    let outputs = structured_outputs(served, fields)?;
    let call = tools.map_or(Ok(None), |tools| tools.grammar(served))?;
    let problem = match (&format, &outputs, &call) {
        (Some(_), Some(_), _) => "response_format and structured_outputs each say what the answer is",
        (None, Some(_), Some(_)) => "tool_choice demands a call, and structured_outputs says what the answer is",
        (Some(_), None, Some(_)) => "tool_choice demands a call, and response_format an answer in JSON",
        _ => return Ok(format.or(outputs).or(call)),
    };
    let param = if outputs.is_some() { "structured_outputs" } else { "response_format" };
    Err(ApiError::value(param, format!("{problem}; leave out one of them")))
}

/// The conversation as tokens, and where it is `opened` the beginning of the model's turn.
///
/// # Errors
/// A 400 for a model that cannot chat, or knows of no tools.
pub fn prompt(served: &Served, conversation: &Conversation, tools: Option<&Tools>, opened: bool) -> Result<Vec<u32>> {
    let Some(template) = &served.template else {
        let problem = format!("{} has no chat template, so it cannot chat; use /v1/completions", served.name);
        return Err(ApiError::about("model", "unsupported", problem));
    };
    if (tools.is_some() || conversation.has_calls()) && !template.mentions("tools") {
        let problem =
            format!("the chat template of {} has no place for tools, so the model cannot know of any", served.name);
        return Err(ApiError::lacking(if tools.is_some() { "tools" } else { "messages" }, problem));
    }
    let mut options = RenderOptions::for_tokenizer(Date::today(), &served.tokenizer);
    options.tools = tools.map(Tools::json);
    options.add_generation_prompt = opened;
    Ok(template.encode(&served.tokenizer, &conversation.messages, &options, Trust::Template)?)
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
    fields.unwanted("functions", |value| value.as_array().is_some_and(Vec::is_empty))?;
    fields.unwanted("function_call", |value| value == "none" || value == "auto")?;
    fields.unwanted("modalities", |value| *value == json!(["text"]))?;
    fields.unwanted("store", |value| *value == json!(false))?;
    fields.unwanted("service_tier", |value| value == "auto" || value == "default")?;
    for name in ["audio", "prediction", "reasoning_effort", "verbosity", "web_search_options"] {
        fields.unwanted(name, |_| false)?;
    }
    fields.ignore(&["user", "metadata", "safety_identifier", "prompt_cache_key"]);
    Ok(())
}

/// Choices that are messages.
struct Chat {
    /// Where scores are wanted.
    tokenizer: Option<Arc<Tokenizer>>,
    /// One for each choice, where tools may be called.
    parsers: Vec<Parser>,
}

impl Chat {
    fn logprobs(&self, scores: &[Score]) -> Value {
        self.tokenizer.as_ref().map_or(Value::Null, |tokenizer| scores::chat(tokenizer, scores))
    }

    /// What `text` comes to, of which calls may be part.
    fn read(&mut self, index: usize, text: &str) -> Vec<Said> {
        match self.parsers.get_mut(index) {
            Some(parser) => parser.push(text),
            None => vec![Said::Text(text.into())],
        }
    }

    fn end(&mut self, index: usize) -> Option<Said> {
        self.parsers.get_mut(index).and_then(Parser::end)
    }

    /// Why a choice ended: a text with calls waits for their answers, unless it was cut off.
    fn reason(&self, index: usize, reason: &'static str) -> &'static str {
        match reason {
            "stop" if self.parsers.get(index).is_some_and(Parser::called) => "tool_calls",
            reason => reason,
        }
    }
}

/// The deltas of a stream for it. A call comes as OpenAI's do: the name first, then the arguments, here all at once.
fn deltas(said: Said) -> Vec<Value> {
    let call = |call: Value| json!({"tool_calls": [call]});
    match said {
        Said::Text(text) => vec![json!({"content": text})],
        Said::Call(Call { id, index, name, arguments }) => vec![
            call(json!({"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": ""}})),
            call(json!({"index": index, "function": {"arguments": arguments}})),
        ],
    }
}

fn chunk(index: usize, delta: Value, logprobs: Value, reason: Option<&str>) -> Value {
    json!({"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason})
}

/// A whole message.
fn message(said: impl Iterator<Item = Said>) -> Value {
    let (mut content, mut calls) = (String::new(), Vec::new());
    for said in said {
        match said {
            Said::Text(text) => content.push_str(&text),
            Said::Call(Call { id, name, arguments, .. }) => {
                calls.push(json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}));
            }
        }
    }
    let mut message = json!({"role": "assistant", "content": content, "refusal": null});
    if !calls.is_empty() {
        if content.is_empty() {
            message["content"] = Value::Null;
        }
        message["tool_calls"] = calls.into();
    }
    message
}

impl Style for Chat {
    fn objects(&self) -> [&'static str; 2] {
        ["chat.completion", "chat.completion.chunk"]
    }

    fn id_prefix(&self) -> &'static str {
        "chatcmpl-"
    }

    fn choice(&mut self, index: usize, completion: &Completion, scores: &[Score]) -> Value {
        let said = self.read(index, &completion.text);
        let message = message(said.into_iter().chain(self.end(index)));
        json!({
            "index": index,
            "message": message,
            "logprobs": self.logprobs(scores),
            "finish_reason": self.reason(index, reason(&completion.finish)),
        })
    }

    /// With tools there may be no content at all, which is no empty one.
    fn opening(&self, index: usize) -> Option<Value> {
        let content = self.parsers.is_empty().then_some("");
        Some(chunk(index, json!({"role": "assistant", "content": content, "refusal": null}), Value::Null, None))
    }

    /// Scores go out as they come, though their text may be held back.
    fn pieces(&mut self, index: usize, text: &str, scores: &[Score]) -> Vec<Value> {
        let mut deltas: Vec<Value> = self.read(index, text).into_iter().flat_map(deltas).collect();
        if deltas.is_empty() && !scores.is_empty() {
            deltas.push(json!({}));
        }
        let mut logprobs = self.logprobs(scores);
        deltas.into_iter().map(|delta| chunk(index, delta, logprobs.take(), None)).collect()
    }

    fn endings(&mut self, index: usize, reason: &'static str) -> Vec<Value> {
        let held = self.end(index).map_or_else(Vec::new, deltas).into_iter();
        let held = held.map(|delta| chunk(index, delta, Value::Null, None));
        held.chain([chunk(index, json!({}), Value::Null, Some(self.reason(index, reason)))]).collect()
    }
}
