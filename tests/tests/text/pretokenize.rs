//! Words of random texts against those of Hugging Face's `tokenizers`, for every pre-tokenizer that a `tokenizer.json`
//! can spell; `tests/data/pretokenizers/make.py` wrote them.

use llama_core::text::{Pattern, Tokenizer};
use llama_tests::models::data;
use llama_tests::text::{json, tiny_byte_level};
use serde_json::{Value, json};

#[test]
fn words_are_those_of_tokenizers() {
    let mut differing = Vec::new();
    let cases = json(data().join("pretokenizers/words.json"));
    for case in cases.as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let pattern = Pattern::from_gguf_name(name).unwrap();
        for words in case["words"].as_array().unwrap() {
            let expected: Vec<&str> = words.as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
            let (text, mut found) = (expected.concat(), Vec::new());
            pattern.split(&text, |word| found.push(word));
            if found != expected {
                differing.push(format!("{name}: {found:?} and not {expected:?}"));
            }
        }
    }
    assert!(differing.is_empty(), "{} differ:\n{}", differing.len(), differing.join("\n"));
}

/// The same pipelines, as a `tokenizer.json` has them.
#[test]
fn pipelines_are_recognised() {
    for case in json(data().join("pretokenizers/words.json")).as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let mut parts = case["parts"].as_array().unwrap().clone();
        let own_regex = matches!(name, "gpt-2" | "smollm");
        if own_regex {
            parts.pop();
        }
        parts.push(json!({"type": "ByteLevel", "add_prefix_space": false, "use_regex": own_regex}));
        let read = |parts: Vec<Value>| {
            let mut tokenizer = tiny_byte_level();
            tokenizer["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": Value::Array(parts)});
            Tokenizer::from_json(tokenizer.to_string().as_bytes(), None)
        };
        read(parts.clone()).unwrap_or_else(|e| panic!("{name}: {e}"));
        // What an expression that matches everything does not match may as well be removed; of others that would be text.
        if parts[0]["type"] == "Split" {
            (parts[0]["behavior"], parts[0]["invert"]) = ("Removed".into(), true.into());
            assert_eq!(read(parts.clone()).is_ok(), parts.len() == 2, "{name}");
            parts[0]["invert"] = false.into();
            read(parts).expect_err("what it matches would be removed");
        }
    }
}
