//! `tools` and `tool_choice` of messages: a tool is its name, description and schema, without an object around them.

use serde_json::json;

use crate::error::{ApiError, Result};
use crate::fields::{Fields, shown};
use crate::tools::{Choice, Function, Tools, functions};

/// Longest name of a tool: Anthropic's API takes no more.
const MAX_NAME: usize = 128;

/// Takes them out of `fields`; `None` where there are none, or the model is not to know of them.
///
/// # Errors
/// A 400 that names the field.
pub fn take(fields: &mut Fields) -> Result<Option<Tools>> {
    let functions = functions(fields, function)?;
    let Some(mut wanted) = fields.object("tool_choice")? else {
        return Ok(Tools::new(functions, Choice::Offer, true));
    };
    let parallel = !wanted.flag("disable_parallel_tool_use")?;
    let choice = choice(wanted, &functions)?;
    Ok(Tools::new(functions, choice, parallel))
}

fn function(mut tool: Fields) -> Result<Function> {
    if let Some(kind) = tool.string("type")?.filter(|kind| kind != "custom") {
        let (path, kind) = (tool.path("type"), shown(&kind.into()));
        let problem = format!("{path} is {kind}; it must be custom: this server has no tools of its own");
        return Err(ApiError::lacking(&path, problem));
    }
    if !tool.has("input_schema") {
        return Err(tool.missing("input_schema"));
    }
    tool.unwanted("defer_loading", |value| *value == json!(false))?;
    tool.unwanted("allowed_callers", |value| *value == json!(["direct"]))?;
    tool.unwanted("input_examples", |value| *value == json!([]))?;
    tool.ignore(&["cache_control", "eager_input_streaming"]);
    Function::take(tool, "input_schema", MAX_NAME)
}

fn choice(mut wanted: Fields, functions: &[Function]) -> Result<Choice> {
    let choice = match wanted.string("type")?.as_deref() {
        Some("tool") => return Choice::named(wanted, functions),
        Some("any") => Choice::demand(0..functions.len())?,
        Some("auto") => Choice::Offer,
        Some("none") => Choice::Hide,
        _ => {
            let path = wanted.path("type");
            return Err(ApiError::value(&path, format!("{path} must be auto, any, tool or none")));
        }
    };
    wanted.end()?;
    Ok(choice)
}
