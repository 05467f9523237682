//! SentencePiece's tokenizer.model, in folders without tokenizer.json.
//!
//! With sentencepiece 0.2.3 on the vocabularies of Mistral's v1, v2 and v3 tokenizers, 4,500 texts (random ones and pieces
//! of wikitext-2) gave the same ids, on 2026-11-26. Those files are not the project's to ship.

use llama_core::checkpoint::gguf::Metadata;
use llama_core::text::{Specials, Tokenizer};
use llama_core::{Error, Result};
use llama_tests::hostile::is_of_use;
use llama_tests::text::{from_environment, gguf, vectors};

/// A field of a message of Protocol Buffers.
fn field(number: u64, value: Value<'_>) -> Vec<u8> {
    match value {
        Value::Integer(n) => [integer(number << 3), integer(n)].concat(),
        Value::Bytes(bytes) => [integer(number << 3 | 2), integer(bytes.len() as u64), bytes.to_vec()].concat(),
        Value::Float(x) => [integer(number << 3 | 5), x.to_le_bytes().to_vec()].concat(),
    }
}

enum Value<'a> {
    Integer(u64),
    Bytes(&'a [u8]),
    Float(f32),
}

fn integer(mut n: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while n > 127 {
        out.push(n as u8 | 128);
        n >>= 7;
    }
    out.push(n as u8);
    out
}

fn piece(spelling: &str, score: f32, kind: u64) -> Vec<u8> {
    let fields =
        [field(1, Value::Bytes(spelling.as_bytes())), field(2, Value::Float(score)), field(3, Value::Integer(kind))];
    field(1, Value::Bytes(&fields.concat()))
}

const BPE: (u64, u64) = (3, 2);
const KEEPS_SPACES: (u64, u64) = (4, 0);

/// A trainer or a normalizer with some numbers.
fn numbers(number: u64, numbers: &[(u64, u64)]) -> Vec<u8> {
    let fields: Vec<u8> = numbers.iter().flat_map(|&(number, n)| field(number, Value::Integer(n))).collect();
    field(number, Value::Bytes(&fields))
}

fn pieces() -> Vec<u8> {
    let kinds = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), ("<0x0A>", 0.0, 6)];
    let letters = [("▁a", -1.0, 1), ("ab", -2.0, 1), ("▁", -3.0, 1), ("a", -4.0, 1), ("b", -5.0, 1)];
    kinds.iter().chain(&letters).flat_map(|&(spelling, score, kind)| piece(spelling, score, kind)).collect()
}

/// A Llama's file.
fn model() -> Vec<u8> {
    let ids = [BPE, (43, u64::MAX)];
    [pieces(), numbers(2, &ids), numbers(3, &[KEEPS_SPACES])].concat()
}

fn open(model: &[u8], files: &[(&str, &str)]) -> Result<Tokenizer> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokenizer.model"), model).unwrap();
    for (name, contents) in files {
        std::fs::write(folder.path().join(name), contents).unwrap();
    }
    let opened = Tokenizer::from_folder(folder.path());
    opened.inspect_err(|error| is_of_use(error, folder.path()).unwrap_or_else(|lacks| panic!("{error} {lacks}")))
}

#[test]
fn as_llama_has_it() {
    let tokenizer = open(&model(), &[]).unwrap();
    assert_eq!((tokenizer.vocab(), tokenizer.bos(), tokenizer.eos()), (9, Some(1), Some(2)));
    assert_eq!(tokenizer.encode_prompt("ab ab\n", Specials::AsText).unwrap(), [1, 4, 8, 4, 8, 3]);
    assert_eq!(tokenizer.decode(&[4, 8, 4, 8, 3]).unwrap(), "ab ab\n");
    assert_eq!(tokenizer.encode("a</s>a", Specials::Parse).unwrap(), [4, 2, 4], "a space before every segment");
}

#[test]
fn what_the_files_beside_it_say() {
    let ids = |model: &[u8], config: &str, text: &str| {
        let tokenizer = open(model, &[("tokenizer_config.json", config)]).unwrap();
        tokenizer.encode_prompt(text, Specials::Parse).unwrap()
    };
    assert_eq!(ids(&model(), r#"{"legacy": false}"#, "a</s>a"), [1, 4, 2, 7]);
    assert_eq!(ids(&model(), r#"{"add_prefix_space": false, "add_bos_token": false}"#, "a"), [7]);
    assert_eq!(ids(&model(), r#"{"bos_token": "</s>", "eos_token": "<s>", "add_eos_token": true}"#, "a"), [2, 4, 1]);
    let no_space = [pieces(), numbers(2, &[BPE]), numbers(3, &[KEEPS_SPACES, (3, 0)])].concat();
    assert_eq!(ids(&no_space, "{}", "a"), [1, 7]);
    let added = ("added_tokens.json", r#"{"<|im_start|>": 9, "ba": 10}"#);
    let tokenizer = open(&model(), &[added]).unwrap();
    assert_eq!(tokenizer.encode("<|im_start|>baba", Specials::Parse).unwrap(), [9, 10, 10]);
    assert!(tokenizer.is_control(9) && !tokenizer.is_control(10));
}

#[test]
fn other_kinds_are_refused() {
    let with = |trainer: &[(u64, u64)], normalizer: &[(u64, u64)]| {
        open(&[pieces(), numbers(2, trainer), numbers(3, normalizer)].concat(), &[])
    };
    let table = field(3, Value::Bytes(&[field(2, Value::Bytes(b"x")), field(4, Value::Integer(0))].concat()));
    for (says, opened) in [
        ("algorithm 1", with(&[], &[KEEPS_SPACES])),
        ("suffix", with(&[BPE, (24, 1)], &[KEEPS_SPACES])),
        ("removal of extra spaces", with(&[BPE], &[])),
        ("not escaped", with(&[BPE], &[KEEPS_SPACES, (5, 0)])),
        ("replacements", open(&[pieces(), numbers(2, &[BPE]), table].concat(), &[])),
    ] {
        let error = opened.unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }) && error.to_string().contains(says), "{says}: {error}");
    }
    for (says, bytes) in [
        ("is empty; fetch it", vec![]),
        ("pieces: are none", numbers(2, &[BPE])),
        ("no known kind", piece("a", 0.0, 7)),
        ("not UTF-8", field(1, Value::Bytes(&field(1, Value::Bytes(b"\xff"))))),
        ("tiktoken", b"IQ== 0\nIg== 1\n".to_vec()),
        ("message: is not one of SentencePiece's", vec![10, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255]),
    ] {
        let error = open(&bytes, &[]).unwrap_err().to_string();
        assert!(error.contains("tokenizer.model") && error.contains(says), "{says}: {error}");
    }
    assert!(open(&model(), &[("tokenizer_config.json", r#"{"bos_token": "<nobody>"}"#)]).is_err());
}

/// A file cut off anywhere, and with any byte replaced: an error or a tokenizer that works.
#[test]
fn damaged_files_do_not_panic() {
    let whole = model();
    let mut opened = 0;
    let mut look = |bytes: &[u8]| {
        if let Ok(tokenizer) = open(bytes, &[]) {
            opened += 1;
            tokenizer.decode(&tokenizer.encode("ab </s>é\n", Specials::Parse).unwrap()).unwrap();
        }
    };
    for at in 0..whole.len() {
        look(&whole[..at]);
        for byte in [0, 1, 8, 127, 128, 255, whole[at] ^ 1] {
            let mut bytes = whole.clone();
            bytes[at] = byte;
            look(&bytes);
        }
    }
    assert!((100..8 * whole.len()).contains(&opened), "{opened} opened");
}

/// Llama 2's vocabulary as a tokenizer.model gives the ids of llama.cpp's vectors.
#[test]
fn llama2_from_model() {
    let name = "ggml-vocab-llama-spm.gguf";
    let (Some(cases), Some(folder)) = (vectors(name), from_environment("LLAMA_REFERENCE")) else { return };
    let file = gguf(folder.join("tokenizers").join(name));
    let metadata: &Metadata = file.metadata();
    let tokens = metadata.strings("tokenizer.ggml.tokens").unwrap().unwrap();
    let scores = metadata.f32s("tokenizer.ggml.scores").unwrap().unwrap();
    let kinds = metadata.i32s("tokenizer.ggml.token_type").unwrap().unwrap();
    let pieces =
        tokens.iter().zip(scores).zip(kinds).flat_map(|((token, &score), &kind)| piece(token, score, kind as u64));
    let model: Vec<u8> = pieces.chain(numbers(2, &[BPE])).chain(numbers(3, &[KEEPS_SPACES])).collect();
    let tokenizer = open(&model, &[]).unwrap();
    for (text, ids) in cases {
        assert_eq!(tokenizer.encode(&text, Specials::AsText).unwrap(), ids, "{text:?}");
    }
}
