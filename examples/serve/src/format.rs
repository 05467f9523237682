//! What the form of an answer must be: `response_format`, `text.format` or `output_config.format`, which is JSON or plain text, and
//! vLLM's `structured_outputs`, which is JSON, a choice, or what a regular expression or a grammar says.
//!
//! A grammar is compiled before the request is let in, so its source is bounded by what that may take.

use std::sync::Arc;

use llama_core::engine::Grammar;
use llama_structured::Grammars;
use serde_json::Value;

use crate::error::{ApiError, Result};
use crate::fields::{Fields, Layout, strings};
use crate::served::Served;
use crate::tools::Tools;

/// Most bytes of a schema, as JSON.
const MAX_SCHEMA: usize = 256 << 10;
/// Most bytes of a regular expression: what is repeated and optional takes time that grows with their square.
const MAX_REGEX: usize = 2 << 10;
/// Most bytes of a grammar.
const MAX_GRAMMAR: usize = 16 << 10;
/// Most texts to choose from.
const MAX_CHOICES: usize = 1024;
/// Most bytes of all of them.
const MAX_CHOICE_BYTES: usize = 64 << 10;

impl Layout {
    /// What errors call a format, and the schema in it.
    fn format(self) -> [&'static str; 2] {
        match self {
            Layout::Nested => ["response_format", "response_format.json_schema.schema"],
            Layout::Flat => ["text.format", "text.format.schema"],
            Layout::Anthropic => ["output_config.format", "output_config.format.schema"],
        }
    }
}

/// What the answer must be: of a form, by `format` or by `structured_outputs` among `fields`, or a call, by `tools`; `None` for
/// any text.
///
/// # Errors
/// A 400 for what cannot be kept to, and for two that each say what the answer is.
pub fn grammar(
    served: &Served,
    layout: Layout,
    format: Option<Fields>,
    fields: &mut Fields,
    tools: Option<&Tools>,
) -> Result<Option<Arc<dyn Grammar>>> {
    let name = layout.format()[0];
    let format = format.map_or(Ok(None), |format| by_format(served, layout, format))?;
    let outputs = structured_outputs(served, fields)?;
    let call = tools.map_or(Ok(None), |tools| tools.grammar(served))?;
    let problem = match (&format, &outputs, &call) {
        (Some(_), Some(_), _) => format!("{name} and structured_outputs each say what the answer is"),
        (None, Some(_), Some(_)) => "tool_choice demands a call, and structured_outputs says what the answer is".into(),
        (Some(_), None, Some(_)) => format!("tool_choice demands a call, and {name} an answer in JSON"),
        _ => return Ok(format.or(outputs).or(call)),
    };
    let param = if outputs.is_some() { "structured_outputs" } else { name };
    Err(ApiError::value(param, format!("{problem}; leave out one of them")))
}

fn by_format(served: &Served, layout: Layout, mut format: Fields) -> Result<Option<Arc<dyn Grammar>>> {
    let name = layout.format()[0];
    let grammar = match format.string("type")?.as_deref() {
        Some("text") => None,
        Some("json_object") => Some(grammars(served, name)?.json_object()?),
        Some("json_schema") => return json_schema(served, layout, format).map(Some),
        _ => {
            return Err(ApiError::value(name, format!("the type of {name} must be text, json_object or json_schema")));
        }
    };
    format.end()?;
    Ok(grammar)
}

/// A schema with a name. `strict` changes nothing: the answer keeps to the schema either way.
fn json_schema(served: &Served, layout: Layout, format: Fields) -> Result<Arc<dyn Grammar>> {
    let mut named = layout.open(format, "json_schema")?;
    named.ignore(&["name", "description", "strict"]);
    let object = |schema: &Value| schema.is_object().then(|| schema.clone());
    let schema = named.checked("schema", "an object", object)?.ok_or_else(|| named.missing("schema"))?;
    named.end()?;
    by_schema(served, layout.format()[1], &schema)
}

/// What the answer must be by `structured_outputs`; `None` where it is absent.
///
/// # Errors
/// A 400 that names the key: of more or fewer than one, of one that this server lacks, or of what cannot be kept to.
pub fn structured_outputs(served: &Served, fields: &mut Fields) -> Result<Option<Arc<dyn Grammar>>> {
    const NAME: &str = "structured_outputs";
    let Some(mut outputs) = fields.object(NAME)? else { return Ok(None) };
    let (grammar, given) = one_of_each(served, &mut outputs)?;
    // White space is one space after a comma or colon either way.
    outputs.flag("disable_any_whitespace")?;
    outputs.unwanted("disable_additional_properties", |value| *value == Value::Bool(false))?;
    for name in ["whitespace_pattern", "structural_tag"] {
        outputs.unwanted(name, |_| false)?;
    }
    outputs.end()?;
    match (given, grammar) {
        (1, Some(compile)) => compile().map(Some),
        (given, _) => {
            let problem =
                format!("{NAME} has {given} of json, json_object, regex, choice and grammar; it must have one");
            Err(ApiError::value(NAME, problem))
        }
    }
}

/// A grammar that is yet to be compiled.
type Compile<'a> = Box<dyn FnOnce() -> Result<Arc<dyn Grammar>> + 'a>;

/// Reads all the keys that say what the answer is: the last one, and how many there are.
fn one_of_each<'a>(served: &'a Served, outputs: &mut Fields) -> Result<(Option<Compile<'a>>, usize)> {
    let mut found: Vec<Compile<'a>> = Vec::new();
    if let Some(schema) = outputs.checked("json", "a JSON schema, as an object or a string", schema)? {
        found.push(Box::new(move || by_schema(served, "structured_outputs.json", &schema)));
    }
    if outputs.flag("json_object")? {
        found.push(Box::new(|| Ok(grammars(served, "structured_outputs.json_object")?.json_object()?)));
    }
    if let Some(regex) = outputs.string("regex")? {
        found.push(Box::new(move || by_regex(served, &regex)));
    }
    if let Some(texts) = outputs.checked("choice", "a list of strings", strings)? {
        found.push(Box::new(move || by_choice(served, &texts)));
    }
    if let Some(lark) = outputs.string("grammar")? {
        found.push(Box::new(move || by_lark(served, &lark)));
    }
    let given = found.len();
    Ok((found.pop(), given))
}

/// An object, or a string that is one as JSON.
fn schema(value: &Value) -> Option<Value> {
    let parsed = value.as_str().and_then(|text| serde_json::from_str(text).ok());
    parsed.or_else(|| Some(value.clone())).filter(Value::is_object)
}

fn by_schema(served: &Served, param: &'static str, schema: &Value) -> Result<Arc<dyn Grammar>> {
    within(param, "bytes", schema.to_string().len(), MAX_SCHEMA)?;
    Ok(grammars(served, param)?.json_schema(schema)?)
}

fn by_regex(served: &Served, regex: &str) -> Result<Arc<dyn Grammar>> {
    const PARAM: &str = "structured_outputs.regex";
    within(PARAM, "bytes", regex.len(), MAX_REGEX)?;
    Ok(grammars(served, PARAM)?.regex(regex)?)
}

fn by_choice(served: &Served, texts: &[String]) -> Result<Arc<dyn Grammar>> {
    const PARAM: &str = "structured_outputs.choice";
    if texts.is_empty() {
        return Err(ApiError::value(PARAM, format!("{PARAM} has nothing to choose from")));
    }
    within(PARAM, "texts", texts.len(), MAX_CHOICES)?;
    within(PARAM, "bytes", texts.iter().map(String::len).sum(), MAX_CHOICE_BYTES)?;
    Ok(grammars(served, PARAM)?.choice(texts)?)
}

fn by_lark(served: &Served, lark: &str) -> Result<Arc<dyn Grammar>> {
    const PARAM: &str = "structured_outputs.grammar";
    within(PARAM, "bytes", lark.len(), MAX_GRAMMAR)?;
    Ok(grammars(served, PARAM)?.lark(lark)?)
}

/// That what `param` holds is not too large to be compiled.
///
/// # Errors
/// A 400 about it.
pub fn within(param: &str, what: &str, found: usize, most: usize) -> Result<()> {
    match found <= most {
        true => Ok(()),
        false => Err(ApiError::value(param, format!("{param} has {found} {what}; at most {most} are allowed"))),
    }
}

/// What makes grammars for the model, where `param` needs one; their errors name it.
///
/// # Errors
/// A 400 about `param` if no token ends the model's texts.
pub fn grammars(served: &Served, param: &'static str) -> Result<Grammars> {
    if served.ends.is_empty() {
        return Err(ApiError::lacking(param, "no token ends this model's texts, so they cannot keep to a form"));
    }
    Ok(served.grammars()?.named(param))
}
