//! Files that are read after a checkpoint was opened, and what a template says while it runs: the errors name their file, too.

use std::path::Path;

use llama_core::checkpoint::Checkpoint;
use llama_core::text::{ChatTemplate, Date, Message, RenderOptions, Tokenizer};
use llama_core::{Error, Loader};
use llama_kernels::{Cpu, CpuOptions};
use llama_tests::hostile::folder::{self, Folder};
use llama_tests::hostile::gguf::{Value, model};
use llama_tests::hostile::is_of_use;
use serde_json::json;

/// Whether `error` is about the file `name` of `folder`.
#[track_caller]
fn names(error: &Error, folder: &Path, name: &str) {
    is_of_use(error, folder).unwrap_or_else(|lacks| panic!("{error} {lacks}"));
    assert_eq!(error.path(), Some(folder.join(name).as_path()), "{error}");
}

/// A byte-level tokenizer.json of this many letters.
fn letters(tokens: u8) -> String {
    let vocab = (0..tokens).map(|id| (char::from(b'a' + id).to_string(), json!(id)));
    let vocab: serde_json::Map<_, _> = vocab.collect();
    json!({
        "added_tokens": [], "decoder": {"type": "ByteLevel"},
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    })
    .to_string()
}

fn written(files: &Folder) -> (tempfile::TempDir, Checkpoint) {
    let place = tempfile::tempdir().unwrap();
    files.write(place.path()).unwrap();
    let checkpoint = Checkpoint::open(place.path()).unwrap();
    (place, checkpoint)
}

#[test]
fn tokenizers() {
    let refused = |name: &str, change: &dyn Fn(&mut Folder)| {
        let mut files = folder::model();
        files.set("tokenizer.json", letters(8));
        change(&mut files);
        let (place, checkpoint) = written(&files);
        names(&checkpoint.tokenizer().unwrap_err(), place.path(), name);
        let alone = Tokenizer::from_folder(place.path());
        assert!(alone.map_or_else(|error| error.path().is_some(), |_| name.ends_with("config.json")), "{name}");
    };
    refused("tokenizer.json", &|f| _ = f.unset("tokenizer.json"));
    refused("tokenizer.json", &|f| _ = f.set("tokenizer.json", "{"));
    refused("tokenizer.json", &|f| _ = f.replace("tokenizer.json", "\"BPE\"", "\"Unigram\""));
    refused("tokenizer.json", &|f| _ = f.replace("tokenizer.json", "\"merges\":[]", "\"merges\":[\"a z\"]"));
    refused("tokenizer_config.json", &|f| _ = f.set("tokenizer_config.json", r#"{"eos_token": "z"}"#));
    // These two name end tokens that the model has rows for and the tokenizer no tokens.
    refused("generation_config.json", &|f| _ = f.set("tokenizer.json", letters(4)));
    refused("config.json", &|f| {
        f.unset("generation_config.json").set("tokenizer.json", letters(2));
    });
}

#[test]
fn tokenizers_of_ggufs() {
    let place = tempfile::tempdir().unwrap();
    for (key, value) in [
        ("tokenizer.ggml.model", Value::string("bert")),
        ("tokenizer.ggml.token_type", Value::i32s(&[9; 8])),
        ("tokenizer.ggml.tokens", Value::strings(&["a"; 8])),
    ] {
        std::fs::write(place.path().join("model.gguf"), model().set(key, value).bytes()).unwrap();
        let checkpoint = Checkpoint::open(place.path().join("model.gguf")).unwrap();
        names(&checkpoint.tokenizer().unwrap_err(), place.path(), "model.gguf");
        names(&Tokenizer::from_gguf(checkpoint.metadata().unwrap()).unwrap_err(), place.path(), "model.gguf");
    }
}

/// A template that does not parse, and one that refuses a conversation.
#[test]
fn chat_templates() {
    let (messages, options) = ([Message::new("user", "a")], RenderOptions::new(Date::new(2026, 1, 1).unwrap()));
    for name in ["chat_template.jinja", "tokenizer_config.json"] {
        let with = |template: &str| {
            let mut files = folder::model();
            let config = json!({ "chat_template": template }).to_string();
            files.set(name, if name.ends_with("json") { &config } else { template });
            written(&files)
        };
        let (place, checkpoint) = with("{% if %}");
        for opened in [checkpoint.chat_template(), ChatTemplate::from_folder(place.path())] {
            assert_eq!(opened.unwrap_err().path(), Some(place.path().join(name).as_path()));
        }
        let (place, checkpoint) = with("{{ raise_exception('one\\nturn') }}");
        for opened in [checkpoint.chat_template(), ChatTemplate::from_folder(place.path())] {
            let error = opened.unwrap().unwrap().render(&messages, &options).unwrap_err();
            assert_eq!(error.to_string(), format!("{}: chat template: one\\nturn", place.path().join(name).display()));
        }
    }
    let error = ChatTemplate::new("{{ raise_exception('no') }}").unwrap().render(&messages, &options).unwrap_err();
    assert_eq!((error.path(), error.to_string()), (None, "chat template: no".into()));
}

/// Weights are looked at while they are loaded.
#[test]
fn weights_that_are_not_finite() {
    for name in ["blk.0.ffn_down.weight", "output_norm.weight", "token_embd.weight"] {
        let place = tempfile::tempdir().unwrap();
        let mut file = model();
        file.tensor(name).data[4..8].copy_from_slice(&f32::NAN.to_le_bytes());
        std::fs::write(place.path().join("model.gguf"), file.bytes()).unwrap();
        let checkpoint = Checkpoint::open(place.path().join("model.gguf")).unwrap();
        let limits = llama_core::engine::EngineOptions::default().limits(checkpoint.config()).unwrap();
        let cpu = Cpu::new(CpuOptions { threads: Some(1), ..CpuOptions::default() }).unwrap();
        let error =
            llama_core::model::Llama::load(cpu, &checkpoint, limits, None, &mut |_| ()).map(|_| ()).unwrap_err();
        assert_eq!(error.path(), Some(place.path().join("model.gguf").as_path()), "{error}");
        assert!(error.to_string().contains(&format!(": tensor {name}: ")), "{error}");
    }
}

/// More tokens than rows.
#[test]
fn a_tokenizer_that_is_too_large() {
    let mut files = folder::model();
    let (place, checkpoint) = written(files.set("tokenizer.json", letters(9)));
    drop(checkpoint);
    let cpu = Cpu::new(CpuOptions { threads: Some(1), ..CpuOptions::default() }).unwrap();
    let error = Loader::open(place.path()).unwrap().load(cpu).map(|_| ()).unwrap_err();
    assert_eq!(error.path(), Some(place.path().join("tokenizer.json").as_path()), "{error}");
}
