//! `POST /v1/messages` and `/v1/messages/count_tokens`: a conversation as Anthropic's API spells it, and the model's next turn in it,
//! or how many tokens it has.
//!
//! It is a chat in other words. `input.rs` makes the messages of a template of what is said in blocks, and `tools.rs` functions of
//! tools; what is between them and the engine is the chat's own. `reply.rs` writes what the model says as blocks, whole or as they
//! come, and `error.rs` what goes wrong. The field names are those of Anthropic's published client (the PyPI package `anthropic`, its
//! types).

mod error;
mod input;
mod reply;
mod tools;

use llama_core::engine::Request;
use serde_json::{Map, Value, json};

use crate::chat::{Turn, prompt, variables};
use crate::error::{ApiError, Result};
use crate::fields::{Fields, Layout, strings};
use crate::format::grammar;
use crate::messages::Conversation;
use crate::options::Bounds;
use crate::parameters::Parameters;
use crate::served::Served;
use crate::thoughts::{Thoughts, effort};
use crate::tools::Tools;
use crate::work::{Answer, Work};

pub use error::error;
use reply::Reply;

/// Whether errors of a path are told in Anthropic's words.
pub fn has(path: &str) -> bool {
    path.strip_prefix("/v1/messages").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// What a request for a message asks for.
///
/// # Errors
/// A 400 that names the field.
pub fn read(served: &Served, _: &Bounds, mut fields: Fields) -> Result<Work> {
    fields.unwanted("n", |value| *value == json!(1))?;
    fields.unwanted("stop", |_| false)?;
    let mut parameters = Parameters::take(served, &mut fields, 1)?;
    parameters.request.stop_strings =
        fields.checked("stop_sequences", "a list of strings", strings)?.unwrap_or_default();
    let most = fields.integer("max_tokens", 1..=usize::MAX)?.ok_or_else(|| fields.missing("max_tokens"))?;
    let asked = Asked::take(served, &mut fields)?;
    let tools = asked.tools.as_ref();
    parameters.request.grammar = grammar(served, Layout::Anthropic, asked.format, &mut fields, tools)?;
    fields.end()?;
    let prompt = prompt(served, &asked.conversation, tools, asked.turn)?;
    let bounded = bound(&mut parameters.request, most, served.context.saturating_sub(prompt.len()));
    let thoughts = Thoughts::begin(served, &prompt, &mut parameters.request)?;
    let tasks = parameters.tasks(served, &prompt)?.collect();
    let parser = Tools::parser(tools, served, thoughts);
    let reply = Reply::new(served, parser.telling_thoughts(asked.thinks), prompt.len(), bounded);
    Ok(Work { tasks, answer: Answer::Texts(Box::new(reply)), stream: parameters.stream })
}

/// Has the text end after `most` tokens, or where the context is full, which has `room` for so many. True if the first is what
/// bounds it. Clients ask for as much as the models that they know can say.
fn bound(request: &mut Request, most: usize, room: usize) -> bool {
    request.max_tokens = Some(most).filter(|&most| most <= room);
    request.max_tokens.is_some()
}

/// How many tokens a request's prompt has, in JSON.
///
/// # Errors
/// A 400 that names the field.
pub fn count(served: &Served, mut fields: Fields) -> Result<String> {
    let Asked { conversation, tools, turn, .. } = Asked::take(served, &mut fields)?;
    fields.end()?;
    let prompt = prompt(served, &conversation, tools.as_ref(), turn)?;
    Ok(json!({"input_tokens": prompt.len()}).to_string())
}

/// What both are asked about.
struct Asked {
    conversation: Conversation,
    tools: Option<Tools>,
    turn: Turn,
    /// The form of the answer, where there is one.
    format: Option<Fields>,
    /// Whether thoughts are asked for.
    thinks: bool,
}

impl Asked {
    fn take(served: &Served, fields: &mut Fields) -> Result<Self> {
        refuse_what_is_lacking(fields)?;
        let tools = tools::take(fields)?;
        let format = format(fields)?;
        let mut variables = variables(fields)?;
        let thinks = think(served, fields, &mut variables)?;
        let (conversation, open) = input::take(fields)?;
        Ok(Asked { conversation, tools, turn: Turn::after(open, variables), format, thinks })
    }
}

/// The form of the answer, by the name that it has now or by the one that it had at first.
fn format(fields: &mut Fields) -> Result<Option<Fields>> {
    let old = fields.object("output_format")?;
    let Some(mut config) = fields.object("output_config")? else { return Ok(old) };
    // As much effort as where nothing is said.
    config.unwanted("effort", |effort| effort == "high")?;
    let new = config.object("format")?;
    config.end()?;
    match (old, new) {
        (Some(_), Some(_)) => {
            let problem = "output_format and output_config.format each say what the answer is; leave out one of them";
            Err(ApiError::value("output_format", problem))
        }
        (old, new) => Ok(new.or(old)),
    }
}

/// Takes `thinking` out of `fields`: it turns the template's switch, where there is one. A budget cannot be kept to. True if thoughts
/// are to be told: who does not ask for any expects none.
fn think(served: &Served, fields: &mut Fields, variables: &mut Map<String, Value>) -> Result<bool> {
    let Some(mut thinking) = fields.object("thinking")? else { return Ok(false) };
    let kind = thinking.string("type")?;
    let path = thinking.path("type");
    match kind.as_deref() {
        // How much the model thinks is up to itself either way.
        Some("adaptive") => {}
        Some("enabled") if !effort::is_known(served) => {
            let problem = format!("{path} is enabled, and the chat template knows of no thinking; leave it out");
            return Err(ApiError::lacking(&path, problem));
        }
        Some(kind @ ("enabled" | "disabled")) => effort::switch(kind == "enabled", variables),
        _ => return Err(ApiError::value(&path, format!("{path} must be disabled, adaptive or enabled"))),
    }
    thinking.integer("budget_tokens", 1..=usize::MAX)?;
    let omitted = thinking.string("display")?.as_deref() == Some("omitted");
    thinking.end()?;
    Ok(!omitted && kind.as_deref() != Some("disabled"))
}

fn refuse_what_is_lacking(fields: &mut Fields) -> Result<()> {
    if fields.has("thread") {
        let problem =
            "thread needs something to be stored, and this server stores nothing; send the whole conversation";
        return Err(ApiError::about("thread", error::NO_THREADS, problem));
    }
    fields.unwanted("service_tier", |value| value == "auto" || value == "standard_only")?;
    fields.unwanted("speed", |value| value == "standard")?;
    fields.unwanted("mcp_servers", |value| *value == json!([]))?;
    fields.unwanted("context_management", clears_thinking_only)?;
    for name in ["container", "inference_geo"] {
        fields.unwanted(name, |_| false)?;
    }
    fields.ignore(&["metadata", "cache_control", "diagnostics", "user_profile_id"]);
    Ok(())
}

/// Thinking of earlier turns is left out in any case.
fn clears_thinking_only(value: &Value) -> bool {
    let is_of_thinking = |edit: &Value| edit["type"].as_str().is_some_and(|kind| kind.starts_with("clear_thinking_"));
    value["edits"].as_array().is_some_and(|edits| edits.iter().all(is_of_thinking))
}
