//! Reading JSON with errors that name the place: a value and the path that led to it.

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// A JSON value and where it was found, such as `model.merges`.
#[derive(Clone)]
pub(super) struct Node<'a> {
    pub path: String,
    pub value: &'a Value,
}

impl<'a> Node<'a> {
    /// The root of a document called `name`.
    pub fn root(name: &str, value: &'a Value) -> Self {
        Node { path: name.to_owned(), value }
    }

    /// A member; null if it is absent or this is no object.
    pub fn get(&self, key: &str) -> Node<'a> {
        Node { path: format!("{}.{key}", self.path), value: self.value.get(key).unwrap_or(&Value::Null) }
    }

    pub fn is_null(&self) -> bool {
        self.value.is_null()
    }

    /// An error about this value.
    pub fn error(&self, problem: impl Into<String>) -> Error {
        Error::tokenizer(self.path.clone(), problem)
    }

    /// An error that says that this value is a shape the library does not know.
    pub fn unsupported(&self) -> Error {
        let mut shown = self.value.to_string();
        if let Some((cut, _)) = shown.char_indices().nth(200) {
            shown.truncate(cut);
            shown.push('…');
        }
        Error::Unsupported {
            what: format!("{} = {shown}", self.path),
            advice: "only the tokenizers of the Llama family are known; any other would give wrong tokens".into(),
        }
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
        let node = |(i, value)| Node { path: format!("{}[{i}]", self.path), value };
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
