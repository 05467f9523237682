//! Where the text suites find the outputs of other programs, and how they read them.

use std::path::PathBuf;

use llama_core::checkpoint::gguf::File;
use serde_json::Value;

/// The folder or file that an environment variable names, or `None` after saying that the test is skipped.
pub fn from_environment(variable: &str) -> Option<PathBuf> {
    let path = std::env::var_os(variable).map(PathBuf::from);
    if path.is_none() {
        println!("skipped: {variable} is not set");
    }
    path
}

/// A GGUF file that the test cannot do without.
pub fn gguf(path: PathBuf) -> File {
    File::open(&path).unwrap_or_else(|e| panic!("{e}"))
}

/// A JSON file that the test cannot do without.
pub fn json(path: PathBuf) -> Value {
    let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// An array of token ids.
pub fn ids(value: &Value) -> Vec<u32> {
    value.as_array().expect("an array of ids").iter().map(|id| id.as_u64().expect("an id") as u32).collect()
}

/// llama.cpp's test vectors beside a vocabulary: texts, and their ids a line.
pub fn vectors(vocabulary: &str) -> Option<Vec<(String, Vec<u32>)>> {
    let folder = from_environment("LLAMA_REFERENCE")?.join("tokenizers");
    let read = |ending: &str| std::fs::read_to_string(folder.join(format!("{vocabulary}.{ending}"))).expect(ending);
    let (input, output) = (read("inp"), read("out"));
    let texts: Vec<&str> = input.split("\n__ggml_vocab_test__\n").collect();
    let rows: Vec<Vec<u32>> =
        output.lines().map(|l| l.split_whitespace().map(|id| id.parse().expect("an id")).collect()).collect();
    assert!(texts.len() == rows.len() || texts.len() == rows.len() + 1, "{} texts, {} rows", texts.len(), rows.len());
    Some(texts.into_iter().map(str::to_owned).zip(rows).collect())
}
