//! `POST /v1/responses`: a conversation as a list of items, and what the model adds to it. Nothing is stored: who goes on with a
//! conversation sends all of it.
//!
//! It is a chat in other words. `input.rs` makes the messages of the items, what is between them and the engine is the chat's own,
//! and `output.rs` makes items of what the model says. `events.rs` writes them, whole or as they come, and `echo.rs` what an answer
//! repeats of its request. The field names are those of OpenAI's published client (the PyPI package `openai`, its types).

mod echo;
mod events;
mod input;
mod output;

use serde_json::{Map, Value, json};

use crate::chat::{Turn, prompt};
use crate::error::{ApiError, Result};
use crate::fields::{Fields, Layout};
use crate::format::grammar;
use crate::options::Bounds;
use crate::parameters::{ALTERNATIVES, Parameters};
use crate::served::Served;
use crate::thoughts::{Tally, Thoughts, effort};
use crate::tools::Tools;
use crate::work::{Answer, Work};

use events::Response;
use output::Output;

/// The one thing that may be included in an answer.
const LOGPROBS: &str = "message.output_text.logprobs";

/// What a request asks for.
///
/// # Errors
/// A 400 that names the field.
pub fn read(served: &Served, _: &Bounds, mut fields: Fields) -> Result<Work> {
    refuse_what_is_lacking(&mut fields)?;
    let echo = echo::take(&mut fields)?;
    let mut parameters = Parameters::take(served, &mut fields, 1)?;
    let tools = Tools::take(&mut fields, Layout::Flat)?;
    let request = &mut parameters.request;
    request.max_tokens = fields.integer("max_output_tokens", 1..=usize::MAX)?;
    request.sampling.logprobs = logprobs(&mut fields, tools.is_some())?;
    let format = format(&mut fields)?;
    request.grammar = grammar(served, Layout::Flat, format, &mut fields, tools.as_ref())?;
    let scored = request.sampling.logprobs.is_some();
    let variables = reasoning(served, &mut fields)?;
    let conversation = input::take(&mut fields)?;
    fields.end()?;
    let prompt = prompt(served, &conversation, tools.as_ref(), Turn::after(false, variables))?;
    let thoughts = Thoughts::begin(served, &prompt, &mut parameters.request)?;
    let tasks = parameters.tasks(served, &prompt)?.collect();
    let tokenizer = scored.then(|| served.tokenizer.clone());
    let tally = Tally::new(served.tokenizer.clone(), thoughts.clone());
    let output = Output::new(Tools::parser(tools.as_ref(), served, thoughts), tokenizer);
    let response = Response::new(served, output, tally, scored, prompt.len(), echo);
    Ok(Work { tasks, answer: Answer::Texts(Box::new(response)), stream: parameters.stream })
}

/// The form of the answer, if `text` says any.
fn format(fields: &mut Fields) -> Result<Option<Fields>> {
    let Some(mut text) = fields.object("text")? else { return Ok(None) };
    let format = text.object("format")?;
    text.unwanted("verbosity", |_| false)?;
    text.end()?;
    Ok(format)
}

/// What `reasoning` says to the template. A summary of thoughts is nothing that this server makes: all of them are told.
fn reasoning(served: &Served, fields: &mut Fields) -> Result<Map<String, Value>> {
    let mut variables = Map::new();
    let Some(mut reasoning) = fields.object("reasoning")? else { return Ok(variables) };
    effort::take(served, &mut reasoning, "effort", &mut variables)?;
    for summary in ["summary", "generate_summary"] {
        reasoning.unwanted(summary, |value| value == "auto")?;
    }
    reasoning.end()?;
    Ok(variables)
}

/// How many alternatives to report with each token, if scores are wanted at all. Calls have no place for any, and which
/// tokens became a call nobody knows.
fn logprobs(fields: &mut Fields, tools: bool) -> Result<Option<usize>> {
    let mut wanted = false;
    for (path, item) in fields.list("include")? {
        if item != LOGPROBS {
            return Err(ApiError::lacking(&path, format!("{path} must be {LOGPROBS}; nothing else can be included")));
        }
        wanted = true;
    }
    let top = fields.integer("top_logprobs", ALTERNATIVES)?.unwrap_or(0);
    match wanted {
        true if tools => {
            Err(ApiError::lacking("include", "logprobs are of text only; leave out tools, or have tool_choice = none"))
        }
        false if top > 0 => Err(ApiError::value("top_logprobs", format!("top_logprobs needs include = [{LOGPROBS}]"))),
        wanted => Ok(wanted.then_some(top)),
    }
}

fn refuse_what_is_lacking(fields: &mut Fields) -> Result<()> {
    refuse_what_is_stored(fields)?;
    fields.unwanted("n", |value| *value == json!(1))?;
    fields.unwanted("truncation", |value| value == "disabled")?;
    fields.unwanted("service_tier", |value| value == "auto" || value == "default")?;
    for name in ["max_tool_calls", "context_management", "moderation", "prompt_cache_options"] {
        fields.unwanted(name, |_| false)?;
    }
    fields.ignore(&["user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"]);
    Ok(())
}

/// What needs an answer, or anything else, to be there after its request.
fn refuse_what_is_stored(fields: &mut Fields) -> Result<()> {
    for name in ["store", "background", "previous_response_id", "conversation", "prompt"] {
        if fields.take(name).is_some_and(|value| value != Value::Bool(false)) {
            let problem = format!("{name} needs something to be stored, and this server stores nothing; leave it out");
            return Err(ApiError::lacking(name, format!("{problem}, and send the whole conversation as input")));
        }
    }
    Ok(())
}
