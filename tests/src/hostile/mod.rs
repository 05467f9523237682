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
