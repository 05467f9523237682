//! Hugging Face folders as they are found: both spellings, the hub's cache, chat templates in four places.

use std::path::Path;

use llama_core::checkpoint::Checkpoint;
use llama_core::config::{Head, RopeScaling};
use llama_core::{Error, Result};
use llama_tests::hostile::folder::{CONFIG, Folder, TENSORS, model, shard};

fn open(files: &Folder) -> Result<Checkpoint> {
    let folder = tempfile::tempdir().unwrap();
    files.write(folder.path()).unwrap();
    Checkpoint::open(folder.path())
}

/// The model with `piece` of its config.json replaced.
fn with(piece: &str, by: &str) -> Result<Checkpoint> {
    open(model().replace("config.json", piece, by))
}

/// The model with other rotary parameters: a JSON object, and whether in the spelling of transformers 4.
fn scaling(parameters: &str, old: bool) -> Result<RopeScaling> {
    let start = CONFIG.find("\"rope_parameters\"").unwrap();
    let end = start + CONFIG[start..].find('}').unwrap() + 1;
    let key = if old { "\"rope_theta\": 10000.0, \"rope_scaling\"" } else { "\"rope_parameters\"" };
    with(&CONFIG[start..end], &format!("{key}: {parameters}")).map(|c| c.config().rope.scaling.clone())
}

#[test]
fn both_spellings_of_the_rotary_embedding() {
    let linear = RopeScaling::Linear { factor: 2.0 };
    assert_eq!(scaling(r#"{"type": "linear", "factor": 2.0}"#, true).unwrap(), linear);
    assert_eq!(scaling(r#"{"rope_type": "linear", "factor": 2}"#, true).unwrap(), linear);
    assert_eq!(scaling(r#"{"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}"#, false).unwrap(), linear);
    assert_eq!(scaling("null", true).unwrap(), RopeScaling::None);
    assert_eq!(scaling(r#"{"rope_type": "default"}"#, false).unwrap(), RopeScaling::None);
    let dynamic = RopeScaling::Dynamic { factor: 4.0, original: 64 };
    assert_eq!(scaling(r#"{"type": "dynamic", "factor": 4.0}"#, true).unwrap(), dynamic);
}

/// transformers: `attention_factor` if given, else mscale's ratio, else `0.1 ln(factor) + 1`.
#[test]
fn yarn_attention_factors() {
    let factor = |extra: &str| {
        let parameters = format!(
            r#"{{"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "truncate": false{extra}}}"#
        );
        match scaling(&parameters, true).unwrap() {
            RopeScaling::Yarn { attention_factor, beta_fast: 32.0, original: 16, truncate: false, .. } => {
                attention_factor
            }
            other => panic!("{other:?}"),
        }
    };
    let plain = 0.1 * 4f64.ln() + 1.0;
    assert_eq!(factor(""), plain);
    assert_eq!(factor(r#", "attention_factor": 0.75"#), 0.75);
    assert_eq!(factor(r#", "mscale": 2.0, "mscale_all_dim": 1.0"#), (0.2 * 4f64.ln() + 1.0) / plain);
    assert_eq!(factor(r#", "mscale": 2.0, "beta_fast": null"#), plain);
}

#[test]
fn windows() {
    let window = |by: &str| with("\"hidden_act\": \"silu\",", by).unwrap().config().window;
    assert_eq!(window("\"sliding_window\": 16,"), None, "Llama has none");
    let mistral = |by: &str| {
        let mut files = model();
        files.replace("config.json", "LlamaForCausalLM", "MistralForCausalLM");
        files.replace("config.json", "\"model_type\": \"llama\"", "\"model_type\": \"mistral\"");
        open(files.replace("config.json", "\"hidden_act\": \"silu\",", by)).unwrap().config().window
    };
    assert_eq!(mistral("\"sliding_window\": 16,"), Some(16));
    assert_eq!(mistral("\"sliding_window\": null,"), None);
    assert_eq!(mistral(""), Some(4096), "MistralConfig's default");
}

#[test]
fn absent_keys_have_the_defaults_of_transformers() {
    let absent = |piece: &str| with(piece, "").unwrap().config().clone();
    assert_eq!(absent("\"rms_norm_eps\": 1e-05,").eps, 1e-6);
    assert_eq!(absent("\"head_dim\": 4,").head_dim, 4);
    assert_eq!(absent("\"tie_word_embeddings\": false,").head, Head::Own);
    assert_eq!(absent("\"architectures\": [\"LlamaForCausalLM\"],").architecture, "llama");
    assert_eq!(absent("\"model_type\": \"llama\",").architecture, "llama");
    let text = with("\"num_key_value_heads\": 1,", "").unwrap_err().to_string();
    assert!(text.contains("k_proj.weight: is [4, 8]; [8, 8]"), "as many KV heads as heads: {text}");
}

#[test]
fn a_tied_head_is_not_read() {
    let tied = with("\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true").unwrap();
    assert_eq!(tied.unused().collect::<Vec<&str>>(), ["lm_head.weight"]);
}

/// A bare model has a head only where its embedding is one; a classifier's head is another. Names may have their prefix.
#[test]
fn the_class_decides_about_the_head() {
    let head = |class: &str, tied: &str| {
        let mut files = model();
        files.set("model.safetensors", shard(&[&TENSORS[..11], &[("score.weight", &[2, 8])]].concat()));
        files.replace("config.json", "LlamaForCausalLM", class);
        open(files.replace(
            "config.json",
            "\"tie_word_embeddings\": false",
            &format!("\"tie_word_embeddings\": {tied}"),
        ))
        .map(|checkpoint| (checkpoint.config().head, checkpoint.config().labels.len()))
    };
    assert_eq!(head("LlamaForCausalLM", "true").unwrap(), (Head::Tied, 0));
    assert_eq!(head("LlamaModel", "true").unwrap(), (Head::Tied, 0));
    assert_eq!(head("LlamaModel", "false").unwrap(), (Head::None, 0));
    assert_eq!(head("LlamaForSequenceClassification", "true").unwrap(), (Head::None, 2));
    assert_eq!(head("LlamaForSequenceClassification", "false").unwrap(), (Head::None, 2));
    assert!(head("LlamaForCausalLM", "false").unwrap_err().to_string().contains("lm_head.weight: is missing"));
}

#[test]
fn chat_templates_in_four_places() {
    let source = |files: &Folder| open(files).unwrap().chat_template_source();
    let list = r#"{"chat_template": [{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}]}"#;
    assert_eq!(source(model().set("tokenizer_config.json", list)).unwrap(), "d");
    assert_eq!(source(model().set("tokenizer_config.json", r#"{"chat_template": null}"#)), None);
    assert_eq!(source(model().unset("tokenizer_config.json")), None);
    assert_eq!(source(model().set("chat_template.json", r#"{"chat_template": "j"}"#)).unwrap(), "j");
    assert_eq!(source(model().set("chat_template.jinja", "{{ jinja }}")).unwrap(), "{{ jinja }}");
}

#[test]
fn texts_of_the_tokenizer() {
    let folder = tempfile::tempdir().unwrap();
    model().set("tokenizer.json", "{\"a\": 1}").write(folder.path()).unwrap();
    let checkpoint = Checkpoint::open(folder.path().join("model.safetensors")).unwrap();
    let files = checkpoint.folder().unwrap();
    assert_eq!(files.tokenizer_json().unwrap().unwrap(), "{\"a\": 1}");
    assert!(files.tokenizer_config_json().unwrap().unwrap().contains("chat_template"));
    assert_eq!(files.text("no.such.json").unwrap(), None);
    assert_eq!(files.config_json()["vocab_size"], 8);
}

/// The hub's cache keeps contents in `blobs/` and links to them from `snapshots/<revision>/`.
#[cfg(unix)]
#[test]
fn the_hub_cache_opens() {
    let hub = tempfile::tempdir().unwrap();
    let (blobs, snapshot) = (hub.path().join("blobs"), hub.path().join("snapshots/0123abcd"));
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::create_dir_all(&snapshot).unwrap();
    model().write(&blobs).unwrap();
    for (name, _) in model().files {
        std::os::unix::fs::symlink(Path::new("../../blobs").join(&name), snapshot.join(&name)).unwrap();
    }
    Checkpoint::open(&snapshot).unwrap();
    Checkpoint::open(snapshot.join("model.safetensors")).unwrap();
    std::fs::remove_file(snapshot.join("config.json")).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", snapshot.join("config.json")).unwrap();
    assert!(matches!(Checkpoint::open(&snapshot), Err(Error::File { .. })));
}
