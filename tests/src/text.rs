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

/// A small byte-level vocabulary of our own: all bytes, a few merges, three control tokens and a user-defined one.
pub fn tiny_byte_level() -> Value {
    let mut spellings: Vec<String> = (0x21..=0x7E)
        .chain(0xA1..=0xAC)
        .chain(0xAE..=0xFF)
        .chain(0x100..=0x143)
        .filter_map(char::from_u32)
        .map(String::from)
        .collect();
    let merges = ["h e", "l l", "he ll", "hell o", "Ġ hello", "a a", "aa aa", "Ġ Ġ", "_ _", "1 1", "ð Ł", "ä ½", "| >"];
    spellings.extend(merges.iter().map(|m| m.replace(' ', "")));
    let n = spellings.len();
    let vocab: serde_json::Map<String, Value> = spellings.into_iter().zip((0..).map(Value::from)).collect();
    let added = |i: usize, content: &str, special: bool| serde_json::json!({"id": n + i, "content": content, "special": special});
    serde_json::json!({
        "added_tokens": [added(0, "<|begin|>", true), added(1, "<|eot_id|>", true), added(2, "[INST]", true), added(3, "<think>", false)],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
        "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|begin|>"}}, {"Sequence": {"id": "A"}}]},
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    })
}

/// The same with the pipeline of Qwen's tokenizers: text is composed, every digit stands alone, and nothing begins a text.
pub fn tiny_qwen() -> Value {
    let mut json = tiny_byte_level();
    let words = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    json["normalizer"] = serde_json::json!({"type": "NFC"});
    json["pre_tokenizer"] = serde_json::json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": words}, "behavior": "Isolated", "invert": false},
        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false}]});
    json["post_processor"] =
        serde_json::json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    json
}

/// A small SentencePiece vocabulary of our own: byte tokens, a few merges, `<unk>`, `<s>` and `</s>`.
pub fn tiny_sentencepiece() -> Value {
    let mut spellings: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
    spellings.extend((0..256).map(|b| format!("<0x{b:02X}>")));
    spellings.extend("▁abcdefghijklmnopqrstuvwxyz<>/é你".chars().map(String::from));
    let merges = ["h e", "l l", "he ll", "hell o", "▁ hello", "a a", "aa aa", "▁ ▁", "< /"];
    spellings.extend(merges.iter().map(|m| m.replace(' ', "")));
    let vocab: serde_json::Map<String, Value> = spellings.into_iter().zip((0..).map(Value::from)).collect();
    let special = |id: usize, content: &str| serde_json::json!({"id": id, "content": content, "special": true});
    serde_json::json!({
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": null,
        "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}]},
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {"type": "BPE", "unk_token": "<unk>", "byte_fallback": true, "fuse_unk": true, "vocab": vocab, "merges": merges},
    })
}
