//! What an answer repeats of its request.

use serde_json::Value;

use crate::error::Result;
use crate::fields::Fields;
use crate::format::within;

/// Most bytes of `instructions`, and of `text` as JSON. They are kept for as long as their request is on its way, and every other
/// text becomes tokens, which are bounded.
const MAX_INSTRUCTIONS: usize = 1 << 20;
const MAX_TEXT: usize = 256 << 10;
/// Most pairs of `metadata`, and most characters of their keys and values: as many as OpenAI's API takes.
const MAX_PAIRS: usize = 16;
const MAX_KEY: usize = 64;
const MAX_VALUE: usize = 512;

/// Parameters with what stands for them where a request has not said. Those that have to be absent are `null`.
const ECHOED: [(&str, &str); 17] = [
    ("instructions", "null"),
    ("max_output_tokens", "null"),
    ("max_tool_calls", "null"),
    ("metadata", "{}"),
    ("parallel_tool_calls", "true"),
    ("previous_response_id", "null"),
    ("reasoning", "null"),
    ("temperature", "1.0"),
    ("text", r#"{"format":{"type":"text"}}"#),
    ("tool_choice", r#""auto""#),
    ("tools", "[]"),
    ("top_logprobs", "0"),
    ("top_p", "1.0"),
    ("truncation", r#""disabled""#),
    ("service_tier", r#""default""#),
    ("store", "false"),
    ("background", "false"),
];

/// All of it, as the fields of an object without its braces; `metadata`, which is there for this only, is taken. It is kept as it
/// is written, since a tree of JSON would take ten times as much.
///
/// # Errors
/// A 400 for what is too long, and for `metadata` that is none.
pub fn take(fields: &mut Fields) -> Result<String> {
    let bytes =
        |name: &str| fields.get(name).map_or(0, |value| value.as_str().map_or(value.to_string().len(), str::len));
    within("instructions", "bytes", bytes("instructions"), MAX_INSTRUCTIONS)?;
    within("text", "bytes", bytes("text"), MAX_TEXT)?;
    let field = |&(name, default): &(&str, &str)| match fields.get(name) {
        Some(value) => format!("\"{name}\":{value}"),
        None => format!("\"{name}\":{default}"),
    };
    let echo = ECHOED.iter().map(field).collect::<Vec<_>>().join(",");
    let expected =
        format!("an object of {MAX_PAIRS} strings at most, of {MAX_VALUE} characters, with keys of {MAX_KEY}");
    fields.checked("metadata", &expected, is_metadata)?;
    Ok(echo)
}

fn is_metadata(value: &Value) -> Option<()> {
    let pairs = value.as_object()?;
    let is_short = |text: &str, most| text.chars().count() <= most;
    let is_pair = |(key, value): (&String, &Value)| {
        is_short(key, MAX_KEY) && value.as_str().is_some_and(|value| is_short(value, MAX_VALUE))
    };
    (pairs.len() <= MAX_PAIRS && pairs.iter().all(is_pair)).then_some(())
}
