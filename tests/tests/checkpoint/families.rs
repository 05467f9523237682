//! Families beside Llama and Mistral: what their configurations say, and what none of their models is.

use std::fs;
use std::path::Path;

use llama_core::checkpoint::{Checkpoint, Name};
use llama_core::config::{Head, Multipliers, RopeLayout, RopeScaling};
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
        ("phi3", false, vec![], RopeLayout::Halves),
        ("granite", false, vec![], RopeLayout::Interleaved),
        ("seed_oss", false, vec![], RopeLayout::Halves),
    ] {
        let folder = opened(name, &[]).unwrap();
        let file = open_bytes(&gguf(name, &[]).unwrap()).unwrap();
        for config in [folder.config(), file.config()] {
            assert_eq!((config.architecture.as_str(), config.head_norms), (name, head_norms));
            assert_eq!((&config.rope.unturned, config.window), (&unturned, None), "{name}");
        }
        assert_eq!((folder.config().multipliers, folder.config().eps), (file.config().multipliers, file.config().eps));
        assert_eq!(folder.config().rope.dims, file.config().rope.dims, "{name}");
        assert_eq!((folder.config().rope.layout, file.config().rope.layout), (RopeLayout::Halves, layout));
        // Rows stay where they are unless the other kind of file has them in another order.
        let same = folder.find(Name::Q(0)).unwrap().data() == file.find(Name::Q(0)).unwrap().data();
        assert_eq!(same, layout == RopeLayout::Halves, "{name}");
    }
}

/// What transformers takes where config.json is silent; the published SmolLM3 does not say that it is tied.
#[test]
fn absent_keys_are_as_transformers_has_them() {
    assert_eq!(opened("smollm3", &[]).unwrap().config().head, Head::Tied);
    let silent = [(",\n  \"tie_word_embeddings\": true", "")];
    let error = opened("granite", &silent).unwrap_err().to_string();
    assert!(error.contains("lm_head.weight: is missing"), "{error}");
    let kv = |name: &str, by: &str| {
        let error = opened(name, &[("\"num_key_value_heads\": 2,", by)]).unwrap_err().to_string();
        // The first tensor that has other rows, or heads that so many do not divide.
        error.split("; ").nth(1).map(str::to_owned).unwrap_or(error)
    };
    assert!(kv("smollm3", "").contains("[64, 64] was expected"), "four of sixteen");
    assert!(kv("seed_oss", "").contains("1 to 4"), "eight are more than four");
    assert!(kv("granite", "").contains("[64, 64] was expected"), "as many as heads");
    assert!(
        kv("seed_oss", "\"num_key_value_heads\": null,").contains("[96, 64] was expected"),
        "null is as many as heads"
    );
    let eps = |name: &str| opened(name, &[("\"rms_norm_eps\": 1e-06,", "")]).unwrap().config().eps;
    assert_eq!([eps("phi3"), eps("granite"), eps("qwen2")], [1e-5, 1e-6, 1e-6]);
    let wide = opened("seed_oss", &[("\"head_dim\": 24,", "")]).unwrap_err().to_string();
    assert!(wide.contains("[512, 64] was expected"), "{wide}");
    let ministral = [("SeedOss", "Ministral3"), ("seed_oss", "ministral3"), ("\"rope_parameters\"", "\"other\"")];
    let error = opened("seed_oss", &ministral).unwrap_err().to_string();
    assert!(error.contains("rope_parameters: is missing, and a Ministral 3"), "{error}");
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

/// Which key of either file is which.
#[test]
fn multipliers_are_granites() {
    let expected = Multipliers { embedding: 12.0, residual: 0.22, attention: Some(0.0625), logits: 3.0 };
    assert_eq!(opened("granite", &[]).unwrap().config().multipliers, expected);
    let file = gguf("granite", &[]).unwrap();
    assert_eq!(open_bytes(&file).unwrap().config().multipliers, expected);
    let config = |edits: &[(&str, &str)]| opened("granite", edits).map(|checkpoint| checkpoint.config().clone());
    let absent = [
        ("\"attention_multiplier\": 0.0625,", ""),
        ("\"embedding_multiplier\": 12.0,", ""),
        ("\"residual_multiplier\": 0.22,", ""),
        ("\"logits_scaling\": 3.0,", ""),
    ];
    let none = config(&absent).unwrap().multipliers;
    assert_eq!(none, Multipliers { attention: Some(1.0), ..Multipliers::default() }, "as transformers has it");
    for (key, value) in [
        ("attention_multiplier", "0.0625"),
        ("embedding_multiplier", "12.0"),
        ("residual_multiplier", "0.22"),
        ("logits_scaling", "3.0"),
    ] {
        for wrong in ["0", "-1.0", "1e300"] {
            let edit = (&*format!("\"{key}\": {value}"), &*format!("\"{key}\": {wrong}"));
            let error = config(&[edit]).unwrap_err().to_string();
            assert!(error.contains(key) && error.contains("was expected"), "{key} {wrong}: {error}");
        }
    }
    // Another's file with such a key was made for another program.
    let error = opened("granite", &[("Granite", "Llama"), ("granite", "llama")]).unwrap_err().to_string();
    assert!(error.contains("_multiplier"), "{error}");
    let renamed = replaced(&file, "granite", "smollm3");
    let error = open_bytes(&renamed).unwrap_err().to_string();
    assert!(error.contains("smollm3.") && error.contains("_scale"), "{error}");
    let zero = replaced(&file, "granite.residual_scale", "granite.residual_stale");
    assert_eq!(open_bytes(&zero).unwrap().config().multipliers.residual, 1.0);
}

fn long(checkpoint: &Checkpoint) -> (Vec<f32>, Vec<f32>, usize, f64) {
    match checkpoint.config().rope.scaling.clone() {
        RopeScaling::Long { short, long, original, attention_factor } => (short, long, original, attention_factor),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_long_rope_has_two_sets_of_divisors() {
    let folder = opened("phi3", &[]).unwrap();
    let (short, divisors, original, factor) = long(&folder);
    assert_eq!((short[2], divisors[5], original), (1.1, 10.5, 48));
    assert!((factor - (1.0 + (512f64 / 48.0).ln() / 48f64.ln()).sqrt()).abs() < 1e-12, "{factor}");
    assert_eq!((folder.config().rope.dims, folder.config().head_dim), (12, 16));
    let bytes = gguf("phi3", &[]).unwrap();
    let file = long(&open_bytes(&bytes).unwrap());
    assert_eq!((file.0, file.1, file.2, file.3), (short.clone(), divisors.clone(), 48, f64::from(factor as f32)));
    // What Phi-3 called it first, and what transformers still reads so; and a factor that is given.
    for (kind, key, value) in [("su", "rope_type", 0.0), ("yarn", "type", 0.0), ("longrope", "rope_type", 1.5)] {
        let given = format!("\"{key}\": \"{kind}\", \"attention_factor\": {value}");
        let given = if value == 0.0 { format!("\"{key}\": \"{kind}\"") } else { given };
        let found = long(&opened("phi3", &[("\"rope_type\": \"longrope\"", &given)]).unwrap());
        assert_eq!(found, (short.clone(), divisors.clone(), 48, if value == 0.0 { factor } else { value }), "{kind}");
    }
    for (old, new, says) in [
        ("\"short_factor\": [\n      1.0,", "\"short_factor\": [", "has 5 divisors; 6"),
        ("\"long_factor\": [\n      1.0,", "\"long_factor\": [\n      0.0,", "divisor 0 is 0; a positive"),
        (
            "\"long_factor\": [\n      1.0,",
            "\"long_factor\": [\n      \"1\",",
            "long_factor: is a list of 6; a list with a number",
        ),
        ("\"long_factor\"", "\"other\"", "long_factor: is missing; a list with a number"),
        ("\"long_factor\": [\n      1.0,", "\"long_factor\": 7, \"other\": [\n      1.0,", "long_factor: is 7"),
        (
            "\"partial_rotary_factor\": 0.75",
            "\"partial_rotary_factor\": 1.75",
            "partial_rotary_factor: is 1.75; above 0",
        ),
        ("\"partial_rotary_factor\": 0.75", "\"partial_rotary_factor\": 0", "partial_rotary_factor: is 0; above 0"),
        ("\"partial_rotary_factor\": 0.75", "\"partial_rotary_factor\": 0.01", "head_dim: is 0; 2 to 16"),
        ("_embeddings\": 48", "_embeddings\": 1", "original context: is 1; 2 to"),
    ] {
        let error = opened("phi3", &[(old, new)]).unwrap_err();
        assert!(matches!(error, Error::Config { .. }) && error.to_string().contains(says), "{says}: {error}");
    }
    let part = ("\"rope_theta\": 5000000.0", "\"partial_rotary_factor\": 0.5, \"rope_theta\": 5000000.0");
    let error = opened("smollm3", &[part]).unwrap_err().to_string();
    assert!(error.contains("partial_rotary_factor other than 1"), "{error}");
    let one = replaced(&bytes, "rope_factors_long", "xope_factors_long");
    let error = open_bytes(&one).unwrap_err().to_string();
    assert!(error.contains("rope_factors_long.weight: is missing, and this model's LongRoPE"), "{error}");
    let none = replaced(&one, "rope_factors_short", "xope_factors_short");
    assert!(!matches!(open_bytes(&none).unwrap().config().rope.scaling, RopeScaling::Long { .. }));
}

/// A file of another architecture says that it is one.
#[test]
fn other_families_may_have_a_long_rope() {
    let list = (1..=12).map(|i| format!("{i}.5")).collect::<Vec<_>>().join(", ");
    let said = format!(
        "\"rope_type\": \"longrope\", \"short_factor\": [{list}], \"long_factor\": [{list}], \
         \"factor\": 4, \"original_max_position_embeddings\": 128"
    );
    let edit = [("\"rope_type\": \"default\"", &*said)];
    let folder = long(&opened("seed_oss", &edit).unwrap());
    assert_eq!((folder.0[11], folder.2, folder.3), (12.5, 128, (1.0 + 4f64.ln() / 128f64.ln()).sqrt()));
    let bytes = gguf("seed_oss", &edit).unwrap();
    let file = long(&open_bytes(&bytes).unwrap());
    assert_eq!((file.0, file.1, file.2, file.3), (folder.0, folder.1, 128, f64::from(folder.3 as f32)));
    let none = replaced(&bytes, "rope_factors_", "xope_factors_");
    let error = open_bytes(&none).unwrap_err().to_string();
    assert!(error.contains("rope_factors_short.weight: is missing"), "{error}");
    let untold = replaced(&bytes, "seed_oss.rope.scaling.type", "seed_oss.rope.scaling.tipe");
    let error = open_bytes(&untold).unwrap_err().to_string();
    assert!(error.contains("rope_factors_") && error.contains("of a longrope embedding"), "{error}");
}

/// Rows of one tensor, in this order.
#[test]
fn matrices_that_are_one_tensor_are_told_apart() {
    let folder = opened("phi3", &[]).unwrap();
    let file = open_bytes(&gguf("phi3", &[]).unwrap()).unwrap();
    for (checkpoint, [qkv, both]) in [
        (&folder, ["model.layers.2.self_attn.qkv_proj.weight", "model.layers.2.mlp.gate_up_proj.weight"]),
        (&file, ["blk.2.attn_qkv.weight", "blk.2.ffn_up.weight"]),
    ] {
        let names = [Name::Q(2), Name::K(2), Name::V(2), Name::Gate(2), Name::Up(2)];
        let views = names.map(|name| checkpoint.view(name).unwrap());
        assert_eq!(views.map(|view| view.name()), [qkv, qkv, qkv, both, both]);
        assert_eq!(views.map(|view| view.rows()), [64, 32, 32, 112, 112]);
        assert_eq!(checkpoint.unused().count(), 0);
        let whole = |name: &str| checkpoint.tensors().find(|tensor| tensor.name == name).unwrap().rows;
        assert_eq!((whole(qkv), whole(both)), (128, 224));
        let ends = views.map(|view| view.data().as_ptr_range());
        assert!(ends[0].end == ends[1].start && ends[1].end == ends[2].start && ends[3].end == ends[4].start);
    }
}

/// What belongs to a family is there, and what does not is refused, by its name.
#[test]
fn tensors_are_those_of_the_family() {
    let as_qwen3 = [("Qwen2", "Qwen3"), ("qwen2", "qwen3"), ("\"hidden_act\"", "\"head_dim\": 16, \"hidden_act\"")];
    let as_qwen2 = [("Qwen3", "Qwen2"), ("qwen3", "qwen2")];
    let as_llama = [("Qwen2", "Llama"), ("qwen2", "llama")];
    let qwen3 = gguf("qwen3", &[]).unwrap();
    let [qwen2, phi3, seed] = ["qwen2", "phi3", "seed_oss"].map(|name| gguf(name, &[]).unwrap());
    for (found, says) in [
        (opened("qwen2", &as_qwen3), "q_norm.weight: is missing"),
        (opened("qwen3", &as_qwen2), "_norm.weight, a norm of"),
        (
            opened("qwen2", &as_llama),
            "q_proj.bias: is present, which was not expected: attention_bias in config.json is false",
        ),
        (
            opened(
                "smollm3",
                &[
                    ("SmolLM3", "Qwen2"),
                    ("smollm3", "qwen2"),
                    ("\"no_rope_layers\"", "\"tie_word_embeddings\": true, \"was\""),
                ],
            ),
            "q_proj.bias: is missing, which was not expected: a Qwen2 has",
        ),
        (open_bytes(&replaced(&qwen3, "qwen3", "qwen2")), "_norm.weight, a norm of"),
        (open_bytes(&replaced(&qwen2, "qwen2", "qwen3")), "attn_q_norm.weight: is missing"),
        (open_bytes(&replaced(&qwen3, "attn_q_norm", "attn_q_nurm")), "attn_q_nurm"),
        (
            opened(
                "phi3",
                &[("Phi3", "Mistral"), ("phi3", "mistral"), ("\"partial", "\"was"), ("longrope", "default")],
            ),
            "gate_up_proj.weight, gate and up in one",
        ),
        (opened("qwen3", &[("Qwen3", "Phi3"), ("qwen3", "phi3")]), "gate_proj.weight, one that no Llama"),
        (opened("phi3", &[("\"intermediate_size\": 112", "\"intermediate_size\": 96")]), "[224, 64]; [192, 64]"),
        (opened("phi3", &[("key_value_heads\": 2", "key_value_heads\": 4")]), "[128, 64]; [192, 64]"),
        (open_bytes(&replaced(&phi3, "blk.1.attn_qkv", "xlk.1.attn_qkv")), "blk.1.attn_qkv.weight: is missing"),
        (open_bytes(&replaced(&seed, ".post_attention_norm", ".ffn_norm_that_isn't")), "ffn_norm_that_isn't"),
        (
            opened("seed_oss", &[("attention_bias\": true", "attention_bias\": false")]),
            "q_proj.bias: is present, which was not expected: attention_bias",
        ),
        (
            opened("seed_oss", &[("attention_out_bias\": false", "attention_out_bias\": true")]),
            "o_proj.bias: is missing, which was not expected: attention_out_bias in config.json is true",
        ),
        (
            open_bytes(&replaced(&qwen2, "blk.1.attn_k.bias", "xlk.1.attn_k.bias")),
            "blk.1.attn_k.bias: is missing, and a qwen2",
        ),
    ] {
        let error = found.err().unwrap().to_string();
        assert!(error.contains(says), "{says}: {error}");
    }
}
