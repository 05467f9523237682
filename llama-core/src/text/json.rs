//! Reading JSON with errors that name the place: a value, its file and the keys that led to it.

use std::path::Path;

use serde_json::{Map, Value};

use crate::checkpoint::foreign;
use crate::error::{Error, InFile, Result};

/// The JSON in the file `path`.
pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Value> {
    let malformed = |bad: serde_json::Error| {
        let other = foreign::refusal_of_text(path, bytes);
        other.unwrap_or_else(|| Error::tokenizer("JSON", bad.to_string()).in_file(path))
    };
    serde_json::from_slice(bytes).map_err(malformed)
}

/// A JSON value and where it was found, such as `model.merges`.
#[derive(Clone)]
pub(super) struct Node<'a> {
    file: &'a Path,
    place: String,
    pub value: &'a Value,
}

impl<'a> Node<'a> {
    /// The root of a file; of a text in memory, `file` is the name of the file that it would be.
    pub fn root(file: &'a Path, value: &'a Value) -> Self {
        Node { file, place: String::new(), value }
    }

    /// A member; null if it is absent or this is no object.
    pub fn get(&self, key: &str) -> Node<'a> {
        let place = if self.place.is_empty() { key.to_owned() } else { format!("{}.{key}", self.place) };
        Node { file: self.file, place, value: self.value.get(key).unwrap_or(&Value::Null) }
    }

    /// A value inside this one, under a key that may be anything, or a number.
    pub fn inner(&self, key: impl std::fmt::Display, value: &'a Value) -> Node<'a> {
        Node { file: self.file, place: format!("{}[{key}]", self.place), value }
    }

    pub fn is_null(&self) -> bool {
        self.value.is_null()
    }

    /// An error about this value.
    pub fn error(&self, problem: impl Into<String>) -> Error {
        Error::tokenizer(&self.place, problem).in_file(self.file)
    }

    /// An error that says that this value is a shape the library does not know.
    pub fn unsupported(&self) -> Error {
        let mut shown = self.value.to_string();
        if let Some((cut, _)) = shown.char_indices().nth(200) {
            shown.truncate(cut);
            shown.push('…');
        }
        let advice = "only the tokenizers of the Llama family are known; any other would give wrong tokens";
        Error::unsupported(format!("{} = {shown}", self.place), advice).in_file(self.file)
    }

    pub fn str(&self) -> Result<&'a str> {
        self.value.as_str().ok_or_else(|| self.error("must be a string"))
    }

    /// A bool; `default` if it is absent.
    pub fn bool_or(&self, default: bool) -> Result<bool> {
        match self.value {
            Value::Null => Ok(default),
            Value::Bool(b) => Ok(*b),
            _ => Err(self.error("must be true or false")),
        }
    }

    /// A token id.
    pub fn id(&self) -> Result<u32> {
        let id = self.value.as_u64().and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| self.error("must be a token id"))
    }

    pub fn object(&self) -> Result<&'a Map<String, Value>> {
        self.value.as_object().ok_or_else(|| self.error("must be an object"))
    }

    /// The elements of an array; none if it is absent.
    pub fn array(&self) -> Result<Vec<Node<'a>>> {
        let node = |(i, value)| self.inner(i, value);
        match self.value {
            Value::Null => Ok(Vec::new()),
            Value::Array(values) => Ok(values.iter().enumerate().map(node).collect()),
            _ => Err(self.error("must be an array")),
        }
    }

    /// The member `type`.
    pub fn kind(&self) -> Result<&'a str> {
        self.get("type").str()
    }

    /// A component, with a `Sequence` of them under `list` laid out flat; none if it is absent.
    pub fn flatten(&self, list: &str) -> Result<Vec<Node<'a>>> {
        if self.is_null() {
            return Ok(Vec::new());
        }
        if self.kind()? != "Sequence" {
            return Ok(vec![self.clone()]);
        }
        let mut flat = Vec::new();
        for part in self.get(list).array()? {
            flat.extend(part.flatten(list)?);
        }
        Ok(flat)
    }
}
