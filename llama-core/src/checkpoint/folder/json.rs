//! JSON files of a folder, and typed reading of an object whose errors name the key. `null` is the same as absent, as
//! transformers has it.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::checkpoint::json;
use crate::error::{Error, InFile, Result};

/// A JSON file that holds an object. What is in it can be used by way of [`Document::read`] alone, so that an error about
/// it names the file.
#[derive(Debug)]
pub(crate) struct Document {
    path: PathBuf,
    contents: Map<String, Value>,
}

impl Document {
    pub(crate) fn open(path: &Path) -> Result<Document> {
        Ok(Document { path: path.to_owned(), contents: json::object(path)? })
    }

    /// What a file that does not exist says.
    pub(crate) fn absent(path: PathBuf) -> Document {
        Document { path, contents: Map::new() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// For callers outside.
    pub(crate) fn contents(&self) -> &Map<String, Value> {
        &self.contents
    }

    /// What `of` makes of the contents.
    pub(crate) fn read<'a, T>(&'a self, of: impl FnOnce(Object<'a>) -> Result<T>) -> Result<T> {
        of(Object(&self.contents)).in_file(&self.path)
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Object<'a>(pub(crate) &'a Map<String, Value>);

impl<'a> Object<'a> {
    pub(crate) fn get(self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    pub(crate) fn size(self, key: &str) -> Result<Option<usize>> {
        let whole = |value: &Value| usize::try_from(value.as_u64()?).ok();
        self.typed(key, "a whole number that is not negative", whole)
    }

    /// `absent` where there is no such key, and none where it is `null`.
    pub(crate) fn size_or(self, key: &str, absent: Option<usize>) -> Result<Option<usize>> {
        if self.0.contains_key(key) { self.size(key) } else { Ok(absent) }
    }

    pub(crate) fn required(self, key: &str) -> Result<usize> {
        self.size(key)?.ok_or_else(|| Error::config(key, "is missing, and a Llama needs it"))
    }

    pub(crate) fn number(self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a number", Value::as_f64)
    }

    pub(crate) fn bool(self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "true or false", Value::as_bool)
    }

    pub(crate) fn string(self, key: &str) -> Result<Option<&'a str>> {
        self.typed(key, "a string", Value::as_str)
    }

    pub(crate) fn object(self, key: &str) -> Result<Option<Object<'a>>> {
        self.typed(key, "an object", |value| value.as_object().map(Object))
    }

    /// One id or a list of them, each less than `vocab`.
    pub(crate) fn ids(self, key: &str, vocab: usize) -> Result<Vec<u32>> {
        let one = |value: &Value| u32::try_from(value.as_u64()?).ok().filter(|&id| (id as usize) < vocab);
        let ids = self.typed(key, &format!("an id, or a list of ids, less than {vocab}"), |value| match value {
            Value::Array(list) => list.iter().map(one).collect(),
            single => one(single).map(|id| vec![id]),
        })?;
        Ok(ids.unwrap_or_default())
    }

    fn typed<T>(self, key: &str, expected: &str, of: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match of(value) {
            Some(typed) => Ok(Some(typed)),
            None => Err(Error::config(key, format!("is {}; {expected} was expected", shortened(value)))),
        }
    }
}

/// A value as JSON, cut where it is long.
pub(crate) fn shortened(value: &Value) -> String {
    match value {
        Value::Array(list) => format!("a list of {}", list.len()),
        Value::Object(object) => format!("an object of {} keys", object.len()),
        Value::String(text) => format!("{:?}", text.chars().take(40).collect::<String>()),
        other => other.to_string(),
    }
}
