//! JSON from strangers: duplicate keys are errors, and memory is bounded by the file's size.
//!
//! `serde_json` keeps the last of two equal keys, so two programs may read two models from one file; and a file of
//! `[0,0,0,…` takes sixteen times its size as [`Value`]s. Here both are errors.

use std::cell::Cell;
use std::fmt;
use std::path::Path;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::{foreign, map};
use crate::error::{Error, Result};

/// Bytes of the largest JSON file that is read at all.
const LARGEST: usize = 256 << 20;
/// Bytes of text that pay for one value (a key, its value and the growth of an ordered map take about 240), and values
/// that every file may have.
const BYTES_A_VALUE: usize = 20;
const FREE_VALUES: usize = 1024;

/// A whole JSON file as text.
pub(super) fn text(path: &Path) -> Result<String> {
    let map = map::Map::open(path)?;
    if map.bytes().len() > LARGEST {
        return Err(Error::file(
            path,
            "file length",
            None,
            format!("is {} bytes; at most {LARGEST} are read", map.bytes().len()),
        ));
    }
    match std::str::from_utf8(map.bytes()) {
        Ok(text) => Ok(text.to_owned()),
        Err(bad) => Err(Error::file(path, "text", bad.valid_up_to() as u64, "is not UTF-8, which was expected")),
    }
}

/// A JSON file that holds one object without duplicate keys, at any depth.
pub(super) fn object(path: &Path) -> Result<Map<String, Value>> {
    parse(path, &text(path)?)
}

fn parse(path: &Path, text: &str) -> Result<Map<String, Value>> {
    let budget = Cell::new(text.len() / BYTES_A_VALUE + FREE_VALUES);
    let mut json = serde_json::Deserializer::from_str(text);
    let value = Strict(&budget).deserialize(&mut json).and_then(|value| json.end().map(|()| value));
    match value {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Error::file(path, "JSON", None, "is not an object, which was expected")),
        Err(bad) => {
            Err(foreign::refusal_of_text(path, text.as_bytes())
                .unwrap_or_else(|| error(path, 0, text.as_bytes(), &bad)))
        }
    }
}

/// The error of a JSON text that starts `start` bytes into `path`.
pub(super) fn error(path: &Path, start: usize, text: &[u8], bad: &serde_json::Error) -> Error {
    let lines = text.split_inclusive(|&byte| byte == b'\n').take(bad.line().saturating_sub(1));
    let before: usize = lines.map(<[u8]>::len).sum();
    let advice = if bad.is_eof() { "; it is cut off, so fetch it again" } else { "" };
    Error::file(path, "JSON", (start + before + bad.column().saturating_sub(1)) as u64, format!("{bad}{advice}"))
}

/// Builds a [`Value`] while a budget of values lasts.
struct Strict<'a>(&'a Cell<usize>);

impl Strict<'_> {
    fn pay<E: serde::de::Error>(&self) -> Result<(), E> {
        let left = self.0.get().checked_sub(1).ok_or_else(|| E::custom("too many values for a file of this size"))?;
        self.0.set(left);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Value, D::Error> {
        self.pay()?;
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_f64<E: serde::de::Error>(self, v: f64) -> Result<Value, E> {
        Number::from_f64(v).map(Value::Number).ok_or_else(|| E::custom("a number is not finite"))
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(Strict(self.0))? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = pairs.next_key::<String>()? {
            if object.contains_key(&key) {
                return Err(A::Error::custom(format!("key {key:?} occurs twice")));
            }
            object.insert(key, pairs.next_value_seed(Strict(self.0))?);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> String {
        parse(Path::new("x.json"), text).unwrap_err().to_string()
    }

    #[test]
    fn keeps_what_is_well_formed() {
        let text = r#"{"a": [1, -2, 2.5, null, true, "s"], "b": {"a": {}}}"#;
        assert_eq!(Value::Object(parse(Path::new("x"), text).unwrap()), serde_json::from_str::<Value>(text).unwrap());
    }

    #[test]
    fn refuses_with_the_offset() {
        assert!(problem("{\n\"a\": 1, \"a\": 2}").contains("x.json: JSON at byte"));
        assert!(problem(r#"{"x": {"a": 1, "a": 2}}"#).contains("key \"a\" occurs twice"));
        assert!(problem("[]").contains("is not an object"));
        assert!(problem("{} x").contains("at byte 3"));
        assert!(problem(&format!("{{\"a\": [{}0]}}", "0,".repeat(5000))).contains("too many values"));
        assert!(problem(&"[".repeat(200)).contains("recursion limit"));
    }
}
