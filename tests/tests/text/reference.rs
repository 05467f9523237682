//! Token ids against those of llama.cpp and transformers, on the real vocabularies of Llama 2, Llama 3 and SmolLM2.
//!
//! The vocabularies are too large and not free to ship: the tests read them from `LLAMA_REFERENCE` and `LLAMA_SMOLLM2`.

use llama_core::text::{Specials, Tokenizer};
use llama_tests::text::{from_environment, gguf, ids, json, vectors};

/// The tokenizer of a GGUF and of a `tokenizer.json`, whichever of the two the case is about.
fn tokenizer(source: &str) -> Option<Tokenizer> {
    let path = from_environment("LLAMA_REFERENCE")?.join("tokenizers").join(source);
    let tokenizer = match source.ends_with(".gguf") {
        true => Tokenizer::from_gguf(gguf(path).metadata()),
        false => Tokenizer::from_folder(path),
    };
    Some(tokenizer.unwrap_or_else(|e| panic!("{source}: {e}")))
}

fn check_vectors(vocabulary: &str, source: &str) {
    let (Some(cases), Some(tokenizer)) = (vectors(vocabulary), tokenizer(source)) else { return };
    assert_eq!(cases.len(), 46);
    for (text, expected) in &cases {
        let got = tokenizer.encode(text, Specials::Parse).unwrap();
        assert_eq!(&got, expected, "{source}: {text:?}");
        assert_eq!(tokenizer.encode(text, Specials::AsText).unwrap(), got, "no vector has a special token: {text:?}");
        assert_eq!(&tokenizer.decode(&got).unwrap(), text, "{source}: round trip");
    }
}

#[test]
fn llama2_from_gguf() {
    check_vectors("ggml-vocab-llama-spm.gguf", "ggml-vocab-llama-spm.gguf");
}

#[test]
fn llama2_from_json() {
    check_vectors("ggml-vocab-llama-spm.gguf", "llama2-hf");
}

#[test]
fn llama3_from_gguf() {
    check_vectors("ggml-vocab-llama-bpe.gguf", "ggml-vocab-llama-bpe.gguf");
}

#[test]
fn llama3_from_json() {
    check_vectors("ggml-vocab-llama-bpe.gguf", "llama31-hf");
}

/// Two files, two readers, one vocabulary: the same ids for a long real text.
#[test]
fn gguf_and_json_agree_on_wikitext() {
    let Some(folder) = from_environment("LLAMA_REFERENCE") else { return };
    let text = std::fs::read_to_string(folder.join("text/wiki.test.raw")).unwrap();
    for (a, b) in [("ggml-vocab-llama-spm.gguf", "llama2-hf"), ("ggml-vocab-llama-bpe.gguf", "llama31-hf")] {
        let (a, b) = (tokenizer(a).unwrap(), tokenizer(b).unwrap());
        let ids = a.encode(&text, Specials::AsText).unwrap();
        assert!(ids == b.encode(&text, Specials::AsText).unwrap());
        assert!(a.decode(&ids).unwrap() == text);
    }
}

#[test]
fn begin_of_sequence_and_end_tokens() {
    for (source, bos, ends) in [
        ("ggml-vocab-llama-spm.gguf", 1, vec![2]),
        ("llama2-hf", 1, vec![]),
        ("ggml-vocab-llama-bpe.gguf", 128_000, vec![128_001, 128_009]),
        ("llama31-hf", 128_000, vec![128_001, 128_009]),
    ] {
        let Some(tokenizer) = tokenizer(source) else { return };
        assert_eq!(tokenizer.bos(), Some(bos), "{source}");
        assert_eq!(tokenizer.encode_prompt("", Specials::AsText).unwrap(), [bos], "{source}");
        assert_eq!(tokenizer.end_tokens(), ends, "{source}");
    }
}

/// transformers' ids of 8,192 characters of wikitext; decoding gives the text back.
#[test]
fn smollm2_wikitext() {
    let (Some(folder), Some(model)) = (from_environment("LLAMA_REFERENCE"), from_environment("LLAMA_SMOLLM2")) else {
        return;
    };
    let tokenizer = Tokenizer::from_gguf(gguf(model).metadata()).unwrap();
    let text: String = std::fs::read_to_string(folder.join("text/wiki.test.raw")).unwrap().chars().take(8192).collect();
    let expected = ids(&json(folder.join("smollm2-135m/text.json"))["ids"]);
    let got = tokenizer.encode(&text, Specials::AsText).unwrap();
    assert_eq!(got[..expected.len()], expected);
    assert_eq!(tokenizer.decode(&got).unwrap(), text);
}

/// Greedy continuations decode to the text that transformers printed without special tokens.
#[test]
fn smollm2_decodes_its_replies() {
    let (Some(folder), Some(model)) = (from_environment("LLAMA_REFERENCE"), from_environment("LLAMA_SMOLLM2")) else {
        return;
    };
    let tokenizer = Tokenizer::from_gguf(gguf(model).metadata()).unwrap();
    let chats = json(folder.join("smollm2-135m/chat.json"));
    for chat in chats.as_array().unwrap() {
        let reply = tokenizer.decode(&ids(&chat["greedy_ids"])).unwrap();
        assert_eq!(reply, chat["greedy_text"].as_str().unwrap());
        let prompt = tokenizer.encode(chat["prompt"].as_str().unwrap(), Specials::Parse).unwrap();
        assert_eq!(prompt, ids(&chat["prompt_ids"]));
    }
}
