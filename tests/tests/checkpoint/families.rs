//! Families beside Llama and Mistral: what their configurations say, and what no Qwen2, Qwen3 or SmolLM3 is.

use std::fs;
use std::path::Path;

use llama_core::checkpoint::{Checkpoint, Name};
use llama_core::config::RopeLayout;
use llama_core::convert::Converter;
use llama_core::{Error, Result};
use llama_tests::models::data;
use llama_tests::text::tiny_sentencepiece;

/// A folder of `tests/data/tiny` whose config.json has other words in some places.
fn with(name: &str, edits: &[(&str, &str)], to: &Path) -> Result<Checkpoint> {
    let from = data().join("tiny").join(name);
    let mut config = fs::read_to_string(from.join("config.json")).unwrap();
    for (old, new) in edits {
        assert!(config.contains(old), "{old}");
        config = config.replace(old, new);
    }
    fs::write(to.join("config.json"), config).unwrap();
    fs::copy(from.join("model.safetensors"), to.join("model.safetensors")).unwrap();
    Checkpoint::open(to)
}

fn opened(name: &str, edits: &[(&str, &str)]) -> Result<Checkpoint> {
    with(name, edits, tempfile::tempdir().unwrap().path())
}

/// The GGUF that a folder becomes, byte by byte.
fn gguf(name: &str, edits: &[(&str, &str)]) -> Result<Vec<u8>> {
    let place = tempfile::tempdir().unwrap();
    let folder = with(name, edits, place.path())?;
    fs::write(place.path().join("tokenizer.json"), tiny_sentencepiece().to_string()).unwrap();
    fs::write(place.path().join("tokenizer_config.json"), r#"{"bos_token": "<s>", "eos_token": "</s>"}"#).unwrap();
    let file = place.path().join("model.gguf");
    Converter::new(&folder).write(&file, |_| ())?;
    Ok(fs::read(file).unwrap())
}

fn open_bytes(bytes: &[u8]) -> Result<Checkpoint> {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("model.gguf");
    fs::write(&file, bytes).unwrap();
    Checkpoint::open(file)
}

fn replaced(bytes: &[u8], old: &str, new: &str) -> Vec<u8> {
    assert_eq!(old.len(), new.len());
    let mut bytes = bytes.to_vec();
    let places: Vec<usize> = (0..bytes.len()).filter(|&i| bytes[i..].starts_with(old.as_bytes())).collect();
    assert!(!places.is_empty(), "{old}");
    places.into_iter().for_each(|i| bytes[i..i + old.len()].copy_from_slice(new.as_bytes()));
    bytes
}

#[test]
fn folders_and_ggufs_say_the_same() {
    for (name, head_norms, unturned, layout) in [
        ("qwen2", false, vec![], RopeLayout::Halves),
        ("qwen3", true, vec![], RopeLayout::Halves),
        ("smollm3", false, vec![3], RopeLayout::Interleaved),
    ] {
        let folder = opened(name, &[]).unwrap();
        let file = open_bytes(&gguf(name, &[]).unwrap()).unwrap();
        for config in [folder.config(), file.config()] {
            assert_eq!((config.architecture.as_str(), config.head_norms), (name, head_norms));
            assert_eq!((&config.rope.unturned, config.window), (&unturned, None), "{name}");
        }
        assert_eq!((folder.config().rope.layout, file.config().rope.layout), (RopeLayout::Halves, layout));
        // Rows stay where they are unless the other kind of file has them in another order.
        let same = folder.find(Name::Q(0)).unwrap().data() == file.find(Name::Q(0)).unwrap().data();
        assert_eq!(same, layout == RopeLayout::Halves, "{name}");
    }
}

#[test]
fn windows_are_of_all_layers_or_of_none() {
    let window = |edits: &[(&str, &str)]| opened("qwen2", edits).map(|checkpoint| checkpoint.config().window);
    let on = ("\"use_sliding_window\": false", "\"use_sliding_window\": true");
    let from = |layer: &'static str| ("\"max_window_layers\": 28", layer);
    assert_eq!(window(&[]).unwrap(), None, "it is said how long, but not that it is used");
    assert_eq!(window(&[on]).unwrap(), None, "from a layer on that there is not");
    assert_eq!(window(&[on, from("\"max_window_layers\": 0")]).unwrap(), Some(512));
    assert_eq!(window(&[on, from("\"max_window_layers\": 4")]).unwrap(), None);
    let error = window(&[on, from("\"max_window_layers\": 2")]).unwrap_err();
    assert!(matches!(&error, Error::Unsupported { .. }), "{error}");
    assert!(error.to_string().contains("sliding_window 512 from layer 2 of 4 on"), "{error}");
    // transformers 5 says it layer by layer.
    let all = ("\"full_attention\"", "\"sliding_attention\"");
    let given = ("\"sliding_window\": null", "\"sliding_window\": 64");
    let qwen3 = |edits: &[(&str, &str)]| opened("qwen3", edits).map(|checkpoint| checkpoint.config().window);
    assert_eq!(qwen3(&[on, given]).unwrap(), None);
    assert_eq!(qwen3(&[on, given, all]).unwrap(), Some(64));
    let last = ("\"full_attention\"\n  ]", "\"sliding_attention\"\n  ]");
    assert!(qwen3(&[on, given, last]).unwrap_err().to_string().contains("layer_types"));
    let error = opened("smollm3", &[on, given]).unwrap_err().to_string();
    assert!(error.contains("sliding_window 64 on layers that do not turn"), "{error}");
}

#[test]
fn layers_that_do_not_turn_are_listed_or_counted() {
    let list = "\"no_rope_layers\": [\n    1,\n    1,\n    1,\n    0\n  ]";
    let unturned =
        |by: &str| opened("smollm3", &[(list, by)]).map(|checkpoint| checkpoint.config().rope.unturned.clone());
    assert_eq!(unturned("\"no_rope_layers\": [0, 1, 0, 1, 1]").unwrap(), [0, 2], "it may be longer than the model");
    assert_eq!(unturned("\"no_rope_layers\": null").unwrap(), [3], "every fourth");
    for (by, says) in [
        ("\"no_rope_layers\": [0, 1, 0]", "no_rope_layers: is a list of 3; a 0 or 1 for each of 4 layers"),
        ("\"no_rope_layers\": [0, 1, 0, 2]", "no_rope_layers"),
        ("\"no_rope_layers\": [0, 1, 0, -1]", "no_rope_layers"),
        ("\"no_rope_layers\": 4", "no_rope_layers: is 4"),
    ] {
        let error = unturned(by).unwrap_err();
        assert!(matches!(error, Error::Config { .. }) && error.to_string().contains(says), "{error}");
    }
    for layers in ["1000000000000000", "18446744073709551615"] {
        let many = [
            (list, "\"no_rope_layers\": null"),
            ("\"num_hidden_layers\": 4", &*format!("\"num_hidden_layers\": {layers}")),
        ];
        let error = opened("smollm3", &many).unwrap_err().to_string();
        assert!(error.contains(&format!("num_hidden_layers: is {layers}; 1 to 4096")), "{error}");
    }
    let interval = |interval: &'static str| ("\"no_rope_layer_interval\": 4", interval);
    let of = |by| opened("smollm3", &[(list, "\"no_rope_layers\": null"), interval(by)]);
    assert_eq!(of("\"no_rope_layer_interval\": 2").unwrap().config().rope.unturned, [1, 3]);
    let error = of("\"no_rope_layer_interval\": 0").unwrap_err().to_string();
    assert!(error.contains("no_rope_layer_interval: is 0"), "{error}");
    let error = gguf("smollm3", &[(list, "\"no_rope_layers\": [0, 1, 1, 1]")]).unwrap_err().to_string();
    assert!(error.contains("layers [0] that do not turn in a GGUF"), "{error}");
    let error = opened("qwen2", &[("\"use_cache\"", "\"no_rope_layers\": [1, 1, 1, 0], \"use_cache\"")]).unwrap_err();
    assert!(error.to_string().contains("no_rope_layers a list of 4"), "no Qwen2 has such: {error}");
}

/// What belongs to a family is there, and what does not is refused, by its name.
#[test]
fn tensors_are_those_of_the_family() {
    let as_qwen3 = [("Qwen2", "Qwen3"), ("qwen2", "qwen3"), ("\"hidden_act\"", "\"head_dim\": 16, \"hidden_act\"")];
    let as_qwen2 = [("Qwen3", "Qwen2"), ("qwen3", "qwen2")];
    let as_llama = [("Qwen2", "Llama"), ("qwen2", "llama")];
    let qwen3 = gguf("qwen3", &[]).unwrap();
    let qwen2 = gguf("qwen2", &[]).unwrap();
    for (found, says) in [
        (opened("qwen2", &as_qwen3), "q_norm.weight: is missing"),
        (opened("qwen3", &as_qwen2), "_norm.weight, a norm of"),
        (
            opened("qwen2", &as_llama),
            "q_proj.bias: is present, which was not expected: attention_bias in config.json is false",
        ),
        (
            opened("smollm3", &[("SmolLM3", "Qwen2"), ("smollm3", "qwen2"), ("\"no_rope_layers\"", "\"was\"")]),
            "q_proj.bias: is missing, which was not expected: a Qwen2 has",
        ),
        (open_bytes(&replaced(&qwen3, "qwen3", "qwen2")), "_norm.weight, a norm of"),
        (open_bytes(&replaced(&qwen2, "qwen2", "qwen3")), "attn_q_norm.weight: is missing"),
        (open_bytes(&replaced(&qwen3, "attn_q_norm", "attn_q_nurm")), "attn_q_nurm"),
        (
            open_bytes(&replaced(&qwen2, "blk.1.attn_k.bias", "xlk.1.attn_k.bias")),
            "blk.1.attn_k.bias: is missing, and a qwen2",
        ),
    ] {
        let error = found.err().unwrap().to_string();
        assert!(error.contains(says), "{says}: {error}");
    }
}
