//! The fields of a request, taken out one by one, each checked as it is taken. What is left in the end nobody knows, and
//! that is an error: a parameter that is passed over would give an answer other than the one asked for.

use std::ops::RangeInclusive;

use hyper::StatusCode;
use serde_json::{Map, Value};

use crate::error::{ApiError, Result};

/// The object that a request's body is, or one within it.
pub struct Fields {
    /// Where the object is, for errors; nothing for the body.
    place: String,
    fields: Map<String, Value>,
}

/// Where an endpoint has what an object with a `type` is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// In an object of its own, which is called as the type is: chats.
    Nested,
    /// Beside the type: responses.
    Flat,
    /// The same, by Anthropic's names: messages.
    Anthropic,
}

impl Layout {
    /// What `object`, of which the type has been taken, is about.
    ///
    /// # Errors
    /// A 400 that names the object which is missing, or a field that does not belong beside it.
    pub fn open(self, mut object: Fields, kind: &str) -> Result<Fields> {
        if self != Layout::Nested {
            return Ok(object);
        }
        let inner = object.object(kind)?.ok_or_else(|| object.missing(kind))?;
        object.end()?;
        Ok(inner)
    }
}

impl Fields {
    /// Parses a body.
    ///
    /// # Errors
    /// `invalid_json` with the place where it stops being JSON (nesting deeper than 128 counts as that), and for JSON that
    /// is not an object.
    pub fn parse(body: &[u8]) -> Result<Self> {
        let wrong = |message: String| ApiError::new(StatusCode::BAD_REQUEST, "invalid_json", message);
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => Ok(Fields { place: String::new(), fields }),
            Ok(_) => Err(wrong("the body must be a JSON object".into())),
            Err(error) => Err(wrong(format!("the body is not JSON: {error}"))),
        }
    }

    /// The fields of what stands at `place`.
    ///
    /// # Errors
    /// A 400 about the place, unless an object is there.
    pub fn at(place: &str, value: Value) -> Result<Self> {
        match value {
            Value::Object(fields) => Ok(Fields { place: place.into(), fields }),
            other => Err(ApiError::value(place, format!("{place} is {}; it must be an object", shown(&other)))),
        }
    }

    /// What errors call a field.
    pub fn path(&self, name: &str) -> String {
        if self.place.is_empty() { name.into() } else { format!("{}.{name}", self.place) }
    }

    /// A field of any kind; `null` is as good as absent.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.fields.remove(name).filter(|value| !value.is_null())
    }

    /// A field that stays where it is.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }

    /// Whether a field is there.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// A number within `range`.
    pub fn number(&mut self, name: &str, range: RangeInclusive<f64>) -> Result<Option<f64>> {
        self.checked(name, &format!("a number, {} to {}", range.start(), range.end()), |value| {
            value.as_f64().filter(|number| range.contains(number))
        })
    }

    /// An integer within `range`.
    pub fn integer(&mut self, name: &str, range: RangeInclusive<usize>) -> Result<Option<usize>> {
        self.checked(name, &format!("an integer, {} to {}", range.start(), range.end()), |value| {
            usize::try_from(value.as_u64()?).ok().filter(|number| range.contains(number))
        })
    }

    /// `true` or `false`; absent is `false`.
    pub fn flag(&mut self, name: &str) -> Result<bool> {
        Ok(self.switch(name)?.unwrap_or(false))
    }

    /// `true` or `false`.
    pub fn switch(&mut self, name: &str) -> Result<Option<bool>> {
        self.checked(name, "true or false", Value::as_bool)
    }

    /// A string.
    pub fn string(&mut self, name: &str) -> Result<Option<String>> {
        self.checked(name, "a string", |value| Some(value.as_str()?.to_owned()))
    }

    /// A list of token ids. Which ids there are the engine knows.
    pub fn tokens(&mut self, name: &str) -> Result<Vec<u32>> {
        Ok(self.checked(name, "a list of token ids", tokens)?.unwrap_or_default())
    }

    /// A field as `read` understands it; what it does not understand is an error that says what is `expected`.
    pub fn checked<T>(
        &mut self,
        name: &str,
        expected: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match read(&value) {
            Some(read) => Ok(Some(read)),
            None => {
                let path = self.path(name);
                Err(ApiError::value(&path, format!("{path} is {}; it must be {expected}", shown(&value))))
            }
        }
    }

    /// An object's own fields.
    pub fn object(&mut self, name: &str) -> Result<Option<Fields>> {
        self.take(name).map(|value| Fields::at(&self.path(name), value)).transpose()
    }

    /// A list, with the place of each of its values; empty where it is absent.
    pub fn list(&mut self, name: &str) -> Result<Vec<(String, Value)>> {
        let path = self.path(name);
        match self.take(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(values)) => {
                Ok(values.into_iter().enumerate().map(|(at, value)| (format!("{path}[{at}]"), value)).collect())
            }
            Some(other) => Err(ApiError::value(&path, format!("{path} is {}; it must be a list", shown(&other)))),
        }
    }

    /// The error about a field that is not there and has to be.
    pub fn missing(&self, name: &str) -> ApiError {
        let path = self.path(name);
        ApiError::about(&path, "missing_required_parameter", format!("{path} is missing"))
    }

    /// A field for what this server cannot do: it may only say that this is not wanted.
    pub fn unwanted(&mut self, name: &str, is_off: impl FnOnce(&Value) -> bool) -> Result<()> {
        match self.take(name) {
            Some(value) if !is_off(&value) => {
                let path = self.path(name);
                let problem = format!("{path} = {} is not supported by this server; leave it out", shown(&value));
                Err(ApiError::lacking(&path, problem))
            }
            _ => Ok(()),
        }
    }

    /// Fields that change no answer, whatever they hold.
    pub fn ignore(&mut self, names: &[&str]) {
        names.iter().for_each(|name| drop(self.take(name)));
    }

    /// That nothing is left.
    pub fn end(self) -> Result<()> {
        match self.fields.iter().find(|(_, value)| !value.is_null()) {
            None => Ok(()),
            Some((name, _)) => {
                let param = self.path(&clipped(name));
                Err(ApiError::about(&param, "unknown_parameter", format!("{param} is not a parameter of this server")))
            }
        }
    }
}

/// A list of token ids; `None` where it is anything else.
pub fn tokens(value: &Value) -> Option<Vec<u32>> {
    value.as_array()?.iter().map(|id| u32::try_from(id.as_u64()?).ok()).collect()
}

/// A list of strings; `None` where it is anything else.
pub fn strings(value: &Value) -> Option<Vec<String>> {
    value.as_array()?.iter().map(|text| Some(text.as_str()?.to_owned())).collect()
}

/// A value in a message: its beginning, where it is long.
pub fn shown(value: &Value) -> String {
    match value {
        Value::Array(values) => format!("a list of {}", values.len()),
        Value::Object(_) => "an object".into(),
        value => clipped(&value.to_string()),
    }
}

fn clipped(text: &str) -> String {
    const MOST: usize = 80;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(json: &str) -> Fields {
        Fields::parse(json.as_bytes()).unwrap()
    }

    #[test]
    fn null_is_absent_and_what_is_left_is_named() {
        let mut fields =
            fields(r#"{"outer": {"a": null, "b": 1, "c": 2, "d": null}}"#).object("outer").unwrap().unwrap();
        assert_eq!(fields.integer("a", 1..=2).unwrap(), None);
        assert_eq!(fields.integer("b", 1..=2).unwrap(), Some(1));
        let error = fields.end().unwrap_err();
        assert_eq!((error.code, error.param.as_deref()), ("unknown_parameter", Some("outer.c")));
    }

    #[test]
    fn numbers_out_of_range_or_of_another_kind_are_refused() {
        for wrong in ["-1", "3", "1.5", "2.0", "1e0", "\"1\"", "true", "[]", "{}", "18446744073709551616"] {
            assert!(fields(&format!(r#"{{"x": {wrong}}}"#)).integer("x", 0..=2).is_err(), "{wrong}");
        }
        for wrong in ["-0.1", "2.1", "1e39", "1e308", "\"1\"", "false"] {
            let error = fields(&format!(r#"{{"x": {wrong}}}"#)).number("x", 0.0..=2.0).unwrap_err();
            assert!(error.message.contains("x is ") && error.message.contains("0 to 2"), "{}", error.message);
        }
    }

    #[test]
    fn long_values_are_shown_in_part() {
        let error = fields(&format!(r#"{{"x": "{}"}}"#, "é".repeat(5000))).number("x", 0.0..=1.0).unwrap_err();
        assert!(error.message.len() < 300, "{}", error.message.len());
    }
}
