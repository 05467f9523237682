//! `POST /v1/chat/completions`: a conversation, and the model's next turn in it.
//!
//! The model's own chat template makes the prompt, and only it can make control tokens: what a message says is text,
//! whatever it looks like. Where tools are offered, what the model says goes through a parser that finds calls of them.

use std::sync::Arc;

use llama_core::Error;
use llama_core::engine::{Completion, Score};
use llama_core::text::{Date, RenderOptions, Tokenizer, Trust};
use serde_json::{Map, Value, json};

use crate::calls::{Call, Parser, Said};
use crate::error::{ApiError, Result};
use crate::fields::{Fields, Layout};
use crate::format::{grammar, within};
use crate::messages::{Conversation, THOUGHTS};
use crate::options::Bounds;
use crate::parameters::{ALTERNATIVES, Parameters};
use crate::scores;
use crate::served::Served;
use crate::texts::{Style, Texts, reason};
use crate::thoughts::{Tally, Thoughts, effort};
use crate::tools::Tools;
use crate::work::{Answer, Work};

/// What a request asks for.
///
/// # Errors
/// A 400 that names the field.
pub fn read(served: &Served, bounds: &Bounds, mut fields: Fields) -> Result<Work> {
    refuse_what_is_lacking(&mut fields)?;
    let mut parameters = Parameters::take(served, &mut fields, bounds.choices)?;
    parameters.request.max_tokens = max_tokens(&mut fields)?;
    parameters.request.sampling.logprobs = logprobs(&mut fields)?;
    let told = fields.switch("include_reasoning")?.unwrap_or(true);
    let tools = Tools::take(&mut fields, Layout::Nested)?;
    let format = fields.object("response_format")?;
    parameters.request.grammar = grammar(served, Layout::Nested, format, &mut fields, tools.as_ref())?;
    let mut turn = Turn::take(&mut fields)?;
    effort::take(served, &mut fields, "reasoning_effort", &mut turn.variables)?;
    let conversation = Conversation::take(&mut fields)?;
    fields.end()?;
    let prompt = prompt(served, &conversation, tools.as_ref(), turn)?;
    let thoughts = Thoughts::begin(served, &prompt, &mut parameters.request)?;
    let tasks = parameters.tasks(served, &prompt)?.collect::<Vec<_>>();
    let scored = parameters.request.sampling.logprobs.is_some();
    let parser = || Tools::parser(tools.as_ref(), served, thoughts.clone()).telling_thoughts(told);
    let style = Chat {
        tokenizer: scored.then(|| served.tokenizer.clone()),
        parsers: tasks.iter().map(|_| parser()).collect(),
        tallies: tasks.iter().map(|_| Tally::new(served.tokenizer.clone(), thoughts.clone())).collect(),
        tools: tools.is_some(),
    };
    let texts = Texts::new(served, style, (1, tasks.len()), prompt.len()).including_usage(parameters.include_usage);
    Ok(Work { tasks, answer: Answer::Texts(Box::new(texts)), stream: parameters.stream })
}

/// How a conversation ends, and what else its template is to know.
pub struct Turn {
    /// The model's turn begins.
    begun: bool,
    /// The last message goes on.
    open: bool,
    variables: Map<String, Value>,
}

const VARIABLES: &str = "chat_template_kwargs";
/// Most bytes of these as JSON.
const MAX_VARIABLES: usize = 64 << 10;

impl Turn {
    /// The last message goes on if it is `open`, or the model's turn begins after it.
    pub fn after(open: bool, variables: Map<String, Value>) -> Self {
        Turn { begun: !open, open, variables }
    }

    /// Takes vLLM's parameters for it out of `fields`.
    ///
    /// # Errors
    /// A 400 that names the field.
    pub fn take(fields: &mut Fields) -> Result<Self> {
        let begun = fields.switch("add_generation_prompt")?.unwrap_or(true);
        let open = fields.flag("continue_final_message")?;
        if begun && open {
            let problem =
                "continue_final_message needs add_generation_prompt = false: a new turn would begin otherwise";
            return Err(ApiError::value("continue_final_message", problem));
        }
        Ok(Turn { begun, open, variables: variables(fields)? })
    }
}

/// Takes further variables of the template out of `fields`.
///
/// # Errors
/// A 400 about the field.
pub fn variables(fields: &mut Fields) -> Result<Map<String, Value>> {
    let object = |value: &Value| value.as_object().cloned();
    let variables = fields.checked(VARIABLES, "an object", object)?.unwrap_or_default();
    within(VARIABLES, "bytes", json!(variables).to_string().len(), MAX_VARIABLES)?;
    Ok(variables)
}

/// The conversation as tokens, and how it goes on from there.
///
/// # Errors
/// A 400 for a model that cannot chat, or knows of no tools.
pub fn prompt(served: &Served, conversation: &Conversation, tools: Option<&Tools>, turn: Turn) -> Result<Vec<u32>> {
    let Some(template) = &served.template else {
        let problem = format!("{} has no chat template, so it cannot chat; use /v1/completions", served.name);
        return Err(ApiError::about("model", "unsupported", problem));
    };
    if (tools.is_some() || conversation.has_calls()) && !template.mentions("tools") {
        let problem =
            format!("the chat template of {} has no place for tools, so the model cannot know of any", served.name);
        return Err(ApiError::lacking(if tools.is_some() { "tools" } else { conversation.field }, problem));
    }
    let mut options = RenderOptions::for_tokenizer(Date::today(), &served.tokenizer);
    options.tools = tools.map(Tools::json);
    options.add_generation_prompt = turn.begun;
    options.continue_final_message = turn.open;
    options.extra = turn.variables;
    let tokens = template.encode(&served.tokenizer, &conversation.messages, &options, Trust::Template);
    tokens.map_err(|error| match error {
        Error::Template { .. } => ApiError::value(conversation.field, error.to_string()),
        Error::Parameter { name: "extra", .. } => ApiError::value(VARIABLES, error.to_string()),
        other => other.into(),
    })
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
    for name in ["audio", "prediction", "verbosity", "web_search_options"] {
        fields.unwanted(name, |_| false)?;
    }
    fields.ignore(&["user", "metadata", "safety_identifier", "prompt_cache_key"]);
    Ok(())
}

/// Choices that are messages.
struct Chat {
    /// Where scores are wanted.
    tokenizer: Option<Arc<Tokenizer>>,
    /// One for each choice.
    parsers: Vec<Parser>,
    tallies: Vec<Tally>,
    /// Whether tools may be called.
    tools: bool,
}

impl Chat {
    fn logprobs(&self, scores: &[Score]) -> Value {
        let object = |tokenizer| json!({"content": scores::objects(tokenizer, scores), "refusal": null});
        self.tokenizer.as_deref().map_or(Value::Null, object)
    }

    /// Why a choice ended: a text with calls waits for their answers, unless it was cut off.
    fn reason(&self, index: usize, reason: &'static str) -> &'static str {
        match reason {
            "stop" if self.parsers[index].called() => "tool_calls",
            reason => reason,
        }
    }
}

/// The deltas of a stream for it. A call comes as OpenAI's do: the name first, then the arguments, here all at once.
fn deltas(said: Said) -> Vec<Value> {
    let call = |call: Value| json!({"tool_calls": [call]});
    match said {
        Said::Thought(text) => vec![json!({THOUGHTS: text})],
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
fn message(said: Vec<Said>) -> Value {
    let (mut thoughts, mut content, mut calls) = (String::new(), String::new(), Vec::new());
    for said in said {
        match said {
            Said::Thought(text) => thoughts.push_str(&text),
            Said::Text(text) => content.push_str(&text),
            Said::Call(Call { id, name, arguments, .. }) => {
                calls.push(json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}));
            }
        }
    }
    let mut message = json!({"role": "assistant", "content": content, "refusal": null});
    if !thoughts.is_empty() {
        message[THOUGHTS] = thoughts.into();
    }
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
        let parser = &mut self.parsers[index];
        let said = [parser.push(&completion.text), parser.end()].concat();
        json!({
            "index": index,
            "message": message(said),
            "logprobs": self.logprobs(scores),
            "finish_reason": self.reason(index, reason(&completion.finish)),
        })
    }

    fn count(&mut self, index: usize, tokens: &[u32]) {
        self.tallies[index].push(tokens);
    }

    fn details(&self) -> Option<Value> {
        let thoughts: usize = self.tallies.iter().map(Tally::count).sum();
        Some(json!({"reasoning_tokens": thoughts}))
    }

    /// With tools there may be no content at all, which is no empty one.
    fn opening(&self, index: usize) -> Option<Value> {
        let content = (!self.tools).then_some("");
        Some(chunk(index, json!({"role": "assistant", "content": content, "refusal": null}), Value::Null, None))
    }

    /// Scores go out as they come, though their text may be held back.
    fn pieces(&mut self, index: usize, text: &str, scores: &[Score]) -> Vec<Value> {
        let mut deltas: Vec<Value> = self.parsers[index].push(text).into_iter().flat_map(deltas).collect();
        if deltas.is_empty() && !scores.is_empty() {
            deltas.push(if self.tools { json!({}) } else { json!({"content": ""}) });
        }
        let mut logprobs = self.logprobs(scores);
        deltas.into_iter().map(|delta| chunk(index, delta, logprobs.take(), None)).collect()
    }

    fn endings(&mut self, index: usize, reason: &'static str) -> Vec<Value> {
        let held = self.parsers[index].end().into_iter().flat_map(deltas);
        let held = held.map(|delta| chunk(index, delta, Value::Null, None));
        held.chain([chunk(index, json!({}), Value::Null, Some(self.reason(index, reason)))]).collect()
    }
}
