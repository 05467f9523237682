//! Vocabularies of folders in a GGUF: against llama.cpp's own files of the same vocabularies, and its vectors.

use std::fs;

use llama_core::checkpoint::Checkpoint;
use llama_core::checkpoint::gguf::{Array, Metadata, Value};
use llama_core::convert::Converter;
use llama_core::text::{Specials, Tokenizer};
use llama_tests::hostile::folder::{CONFIG, TENSORS, shard};
use llama_tests::text::{from_environment, gguf, tiny_byte_level, tiny_sentencepiece, vectors};
use proptest::prelude::*;
use serde_json::{Value as Json, json};
use tempfile::TempDir;

/// The folder of a model of so many rows whose weights are 0, converted.
fn converted(tokenizer: &[u8], config: &str, rows: usize) -> (TempDir, Result<Checkpoint, String>) {
    let place = tempfile::tempdir().unwrap();
    let write = |name: &str, contents: &[u8]| fs::write(place.path().join(name), contents).unwrap();
    let table = [rows, 8];
    let of = |&(name, shape): &(&'static str, &'static [usize])| {
        (name, if shape == [8, 8] && is_table(name) { &table } else { shape })
    };
    write("model.safetensors", &shard(&TENSORS.iter().map(of).collect::<Vec<(&str, &[usize])>>()));
    write("config.json", CONFIG.replace("\"vocab_size\": 8", &format!("\"vocab_size\": {rows}")).as_bytes());
    write("tokenizer.json", tokenizer);
    write("tokenizer_config.json", config.as_bytes());
    let path = place.path().join("model.gguf");
    let folder = Checkpoint::open(place.path()).unwrap();
    let written = Converter::new(&folder).write(&path, |_| ());
    (place, written.and_then(|_| Checkpoint::open(path)).map_err(|error| error.to_string()))
}

fn is_table(name: &str) -> bool {
    name == "lm_head.weight" || name == "model.embed_tokens.weight"
}

fn strings<'a>(metadata: &'a Metadata, key: &str) -> &'a [String] {
    metadata.strings(&format!("tokenizer.ggml.{key}")).unwrap().unwrap_or_else(|| panic!("{key}"))
}

/// Llama 2's and Llama 3.1's tokenizer.json beside the vocabularies that llama.cpp's converter made of the same models.
#[test]
fn real_vocabularies_are_llama_cpps() {
    let Some(reference) = from_environment("LLAMA_REFERENCE") else { return };
    let reference = reference.join("tokenizers");
    for (folder, vocabulary, rows) in
        [("llama2-hf", "ggml-vocab-llama-spm.gguf", 32_000), ("llama31-hf", "ggml-vocab-llama-bpe.gguf", 128_256)]
    {
        let text = |name: &str| fs::read_to_string(reference.join(folder).join(name)).unwrap_or("{}".into());
        let (_place, model) = converted(text("tokenizer.json").as_bytes(), &text("tokenizer_config.json"), rows);
        let (model, theirs) = (model.unwrap(), gguf(reference.join(vocabulary)));
        let (ours, theirs) = (model.metadata().unwrap(), theirs.metadata());
        assert!(strings(ours, "tokens") == strings(theirs, "tokens"), "{folder}: tokens");
        let kinds = |metadata: &Metadata| metadata.i32s("tokenizer.ggml.token_type").unwrap().unwrap().to_vec();
        assert!(kinds(ours) == kinds(theirs), "{folder}: kinds");
        assert_eq!(ours.get("tokenizer.ggml.model"), theirs.get("tokenizer.ggml.model"));
        if folder == "llama31-hf" {
            assert_eq!(ours.get("tokenizer.ggml.pre"), theirs.get("tokenizer.ggml.pre"));
            assert!(strings(ours, "merges") == strings(theirs, "merges"), "merges");
        }
        let tokenizer = Tokenizer::from_gguf(ours).unwrap();
        for (text, ids) in vectors(vocabulary).unwrap() {
            assert_eq!(tokenizer.encode(&text, Specials::Parse).unwrap(), ids, "{folder}: {text:?}");
        }
    }
}

fn tokenizers(json: &Json, rows: usize) -> [Tokenizer; 2] {
    let (place, model) = converted(json.to_string().as_bytes(), "{}", rows);
    [Checkpoint::open(place.path()).unwrap().tokenizer().unwrap(), model.unwrap().tokenizer().unwrap()]
}

#[test]
fn any_text_gets_the_same_tokens() {
    for json in [tiny_byte_level(), tiny_sentencepiece()] {
        let [folder, file] = tokenizers(&json, 400);
        assert_eq!(folder.end_tokens(), file.end_tokens());
        assert_eq!(file.vocab(), 400);
        let pieces = "(hello|hell| |a|aa|  |<s>|</s>|\\[INST\\]|<think>|<\\|begin\\|>|你好|é|\n|1|11|_|[ -~]){0,20}";
        proptest!(ProptestConfig::with_cases(200), |(text in pieces, parse in any::<bool>())| {
            let specials = if parse { Specials::Parse } else { Specials::AsText };
            let ids = folder.encode_prompt(&text, specials).unwrap();
            prop_assert_eq!(&ids, &file.encode_prompt(&text, specials).unwrap());
            prop_assert_eq!(folder.decode(&ids).unwrap(), file.decode(&ids).unwrap());
        });
    }
}

/// Merges whose order no scores give: "hello" of other parts is missing, or made twice with another between.
#[test]
fn merges_without_scores_are_refused() {
    let with = |merges: &[&str]| {
        let mut json = tiny_sentencepiece();
        let list = json["model"]["merges"].as_array_mut().unwrap();
        list.extend(merges.iter().map(|&merge| Json::from(merge)));
        let next = json["model"]["vocab"].as_object().unwrap().len();
        json["model"]["vocab"]["llo"] = next.into();
        converted(json.to_string().as_bytes(), "{}", 400).1.map(|_| ())
    };
    let refused = with(&["ll o"]).unwrap_err();
    assert!(refused.contains("\"hello\"") && refused.contains("no merge makes it of"), "{refused}");
    let refused = with(&["ll o", "he llo"]).unwrap_err();
    assert!(refused.contains("\"hello\"") && refused.contains("others between them"), "{refused}");
}

#[test]
fn ends_that_have_no_known_name_get_a_key() {
    let (_place, model) = converted(tiny_byte_level().to_string().as_bytes(), "{}", 300);
    let model = model.unwrap();
    // config.json says 2 and 3, and the tokenizer no eos.
    assert_eq!(model.metadata().unwrap().get("tokenizer.ggml.eot_token_id"), Some(&Value::U32(2)));
    assert_eq!(model.metadata().unwrap().get("tokenizer.ggml.eom_token_id"), Some(&Value::U32(3)));
    let tokens = strings(model.metadata().unwrap(), "tokens");
    assert_eq!((tokens.len(), tokens[299].as_str()), (300, "[PAD299]"));
    assert!(matches!(model.metadata().unwrap().get("tokenizer.ggml.merges"), Some(Value::Array(Array::String(_)))));
}

#[test]
fn tokens_for_infilling_get_keys() {
    let mut vocabulary = tiny_byte_level();
    let added = vocabulary["added_tokens"].as_array_mut().unwrap();
    let first = added.iter().map(|token| token["id"].as_u64().unwrap()).max().unwrap() + 1;
    // What else ends a middle has no key: it is known by its spelling there, too.
    let spellings = ["<fim_suffix>", "<fim_prefix>", "<fim_middle>", "<fim_pad>", "<filename>"];
    added.extend((first..).zip(spellings).map(|(id, content)| json!({"id": id, "content": content, "special": true})));
    let text = vocabulary.to_string();
    let (_place, model) = converted(text.as_bytes(), "{}", 300);
    let model = model.unwrap();
    for (key, id) in [("fim_suf", first), ("fim_pre", first + 1), ("fim_mid", first + 2)] {
        let key = format!("tokenizer.ggml.{key}_token_id");
        assert_eq!(model.metadata().unwrap().get(&key), Some(&Value::U32(id as u32)), "{key}");
    }
    let folders = Tokenizer::from_json(text.as_bytes(), None).unwrap();
    assert_eq!(model.tokenizer().unwrap().infill(), folders.infill());
    assert_eq!(folders.infill().unwrap().end_tokens, [first as u32 + 3, first as u32 + 4]);
}
