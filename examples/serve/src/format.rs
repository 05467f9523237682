//! `response_format`: JSON, by a schema or by none, or plain text.

use std::sync::Arc;

use llama_core::engine::Grammar;
use llama_structured::Grammars;
use serde_json::Value;

use crate::error::{ApiError, Result};
use crate::fields::Fields;
use crate::served::Served;

/// What the answer must be; `None` for any text.
///
/// # Errors
/// A 400 for a format that there is not, or a schema that cannot be kept to.
pub fn response_format(served: &Served, fields: &mut Fields) -> Result<Option<Arc<dyn Grammar>>> {
    let Some(mut format) = fields.object("response_format")? else { return Ok(None) };
    let grammar = match format.string("type")?.as_deref() {
        Some("text") => None,
        Some("json_object") => Some(grammars(served, "response_format")?.json_object()?),
        Some("json_schema") => Some(json_schema(served, &mut format)?),
        _ => {
            let problem = "the type of response_format must be text, json_object or json_schema";
            return Err(ApiError::value("response_format", problem));
        }
    };
    format.end()?;
    Ok(grammar)
}

/// A schema with a name. `strict` changes nothing: the answer keeps to the schema either way.
fn json_schema(served: &Served, format: &mut Fields) -> Result<Arc<dyn Grammar>> {
    let mut named = format.object("json_schema")?.ok_or_else(|| format.missing("json_schema"))?;
    named.ignore(&["name", "description", "strict"]);
    let object = |schema: &Value| schema.is_object().then(|| schema.clone());
    let schema = named.checked("schema", "an object", object)?.ok_or_else(|| named.missing("schema"))?;
    named.end()?;
    Ok(grammars(served, "response_format")?.json_schema(&schema)?)
}

/// What makes grammars for the model, where `param` needs one.
///
/// # Errors
/// A 400 about `param` if no token ends the model's texts.
pub fn grammars<'a>(served: &'a Served, param: &str) -> Result<&'a Grammars> {
    if served.ends.is_empty() {
        return Err(ApiError::lacking(param, "no token ends this model's texts, so they cannot be JSON"));
    }
    Ok(served.grammars()?)
}
