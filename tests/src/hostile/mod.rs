//! Bad model files: named ones, each with the words its error must contain, and mutants of good ones.
//!
//! Classes follow public reports (CVE-2024-21802, -21825, -21836, -23496, -23605, -8063; CVE-2025-0312, -0315, -0317,
//! -53630, -66959; CVE-2026-27940, -33298, -7482 and the issues of ggml, candle and other readers) and the test suites of
//! ggml and safetensors. A name says what is wrong with the file.

pub mod folder;
pub mod folder_cases;
pub mod gguf;
pub mod gguf_cases;
pub mod gguf_model_cases;
pub mod mutate;

use std::io::ErrorKind;
use std::path::Path;

use llama_core::Error;

/// A bad file.
#[derive(Debug, Clone)]
pub struct Case<T> {
    /// What is wrong with it.
    pub name: String,
    /// The file, or the folder.
    pub input: T,
    /// Each must occur in the error's text: the field, key or tensor, and the offset where one is known.
    pub says: Vec<String>,
}

impl<T> Case<T> {
    /// A case whose error contains all of `says`.
    pub fn new(name: impl Into<String>, input: T, says: &[&str]) -> Case<T> {
        Case { name: name.into(), input, says: says.iter().map(|&s| s.into()).collect() }
    }
}

/// How an error says what was expected, or what to do. JSON's parser says what it met, which tells the same.
const ADVICE: [&str; 13] = [
    "expected",
    "allowed",
    "at most",
    "needs it",
    "fetch",
    "open",
    "put ",
    "convert",
    "keep ",
    "JSON",
    "must be",
    "take ",
    "is not supported: ",
];

/// Whether an error about a model in `folder` is one line that begins with a file of it, or one that is missing there, and
/// says what was expected or what to do.
pub fn is_of_use(error: &Error, folder: &Path) -> Result<(), &'static str> {
    let text = error.to_string();
    let path = error.path().ok_or("is about no file")?;
    let missing = matches!(error, Error::Io { source, .. } if source.kind() == ErrorKind::NotFound);
    match text.strip_prefix(&format!("{}: ", path.display())) {
        _ if path.strip_prefix(folder).is_err() || path == folder => Err("names no file of the folder"),
        _ if path.exists() == missing => Err("names a file that is not there, or misses one that is"),
        None => Err("does not begin with the file"),
        Some(rest) if rest.contains(&folder.display().to_string()) => Err("names the folder twice"),
        Some(rest) if !ADVICE.iter().any(|words| rest.contains(words)) => {
            Err("says not what was expected, nor what to do")
        }
        _ if text.contains(char::is_control) => Err("is more than a line"),
        _ => Ok(()),
    }
}
