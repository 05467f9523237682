//! What a person sees who gives a program the wrong thing: one line that names the file and says what to do.

use std::path::{Path, PathBuf};

use clap::Parser;
use llama_core::engine::{Engine, Request};
use llama_core::text::Specials;
use llama_examples::{ModelArgs, SamplingArgs, fitting, shipped_model};

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    model: ModelArgs,
}

/// What comes of `--model path` and further arguments.
fn load(path: &Path, more: &[&str]) -> llama_core::Result<Engine> {
    let model = ["program", "--threads", "1", "--model"].map(Into::into).into_iter().chain([path.as_os_str().into()]);
    let arguments: Vec<std::ffi::OsString> = model.chain(more.iter().map(Into::into)).collect();
    Arguments::parse_from(arguments).model.load(1)
}

/// Loading `path` fails with `path`, or `file` in that folder, and these words after it.
fn says(path: &Path, file: &str, words: &str) {
    let Err(error) = load(path, &[]) else { panic!("{} was loaded", path.display()) };
    let named = if file.is_empty() { path.to_owned() } else { path.join(file) };
    assert_eq!(error.to_string(), format!("{}: {words}", named.display()));
}

/// A folder with these files.
fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, contents) in files {
        std::fs::write(folder.path().join(name), contents).unwrap();
    }
    folder
}

/// A small model of the test suite.
fn tiny(name: &str) -> Vec<u8> {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/tiny/gqa-9-3"));
    std::fs::read(folder.join(name)).unwrap()
}

const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";

#[test]
fn paths_that_are_no_model() {
    let place = folder(&[]);
    says(&place.path().join("no.gguf"), "", "No such file or directory (os error 2)");
    says(place.path(), "config.json", "is not in this folder; open the folder of a model, or a GGUF file");
}

const ADAPTER: &str =
    "open its base model with it (--adapter, Loader::adapter), or merge it into that (08-convert --adapter)";

#[test]
fn folders_without_weights() {
    const MISSING: &str = "is not in this folder, and neither is model.safetensors.index.json: it has";
    let config = tiny("config.json");
    let has = |name: &str, words: &str| {
        let place = folder(&[("config.json", &config), (name, b"x")]);
        says(place.path(), "model.safetensors", &format!("{MISSING} {words}"));
    };
    has("README.md", "no weights at all; fetch them");
    has("adapter_model.safetensors", &format!("only a LoRA adapter's; {ADAPTER}"));
    has(
        "pytorch_model.bin",
        "only PyTorch's pytorch_model.bin; convert it to safetensors (transformers' save_pretrained)",
    );
}

#[test]
fn adapters() {
    let place = folder(&[("adapter_config.json", b"{}")]);
    let words = format!("is not in this folder, which holds a LoRA adapter; {ADAPTER}");
    says(place.path(), "config.json", &words);
}

#[test]
fn files_of_another_kind() {
    const WORDS: &str =
        "a pointer of Git LFS in place of the file is not supported: fetch the file itself: git lfs pull";
    let place = folder(&[
        ("model.gguf", POINTER),
        ("config.json", &tiny("config.json")),
        ("model.safetensors", POINTER),
        ("pytorch_model.bin", b"PK\x03\x04 and so on"),
    ]);
    says(&place.path().join("model.gguf"), "", WORDS);
    says(place.path(), "model.safetensors", WORDS);
    let words =
        "a ZIP archive (as PyTorch's .bin and .pt are) is not supported: convert the model to safetensors or GGUF";
    says(&place.path().join("pytorch_model.bin"), "", words);
}

#[test]
fn downloads_that_broke_off() {
    let whole = std::fs::read(shipped_model()).unwrap();
    let weights = tiny("model.safetensors");
    let place = folder(&[
        ("model.gguf", &whole[..700_000]),
        ("config.json", &tiny("config.json")),
        ("model.safetensors", &weights[..weights.len() - 1]),
    ]);
    for path in [place.path().join("model.gguf"), place.path().to_owned()] {
        let error = load(&path, &[]).err().unwrap().to_string();
        assert!(error.contains("; it is cut off, so fetch"), "{error}");
        assert!(error.starts_with(&path.display().to_string()), "{error}");
    }
}

#[test]
fn models_of_another_architecture() {
    let mut other = std::fs::read(shipped_model()).unwrap();
    // Key, type, length, value.
    let key = b"general.architecture";
    let value = other.windows(key.len()).position(|bytes| bytes == key).unwrap() + key.len() + 4 + 8;
    other[value..value + 5].copy_from_slice(b"gemma");
    let config = String::from_utf8(tiny("config.json")).unwrap().replace("llama", "gemma").replace("Llama", "Gemma");
    let place = folder(&[("model.gguf", &other), ("config.json", config.as_bytes())]);
    let words = "general.architecture \"gemma\" is not supported: models of architecture \"llama\", \"mistral3\", \"qwen2\", \
                 \"qwen3\", \"smollm3\", \"phi3\", \"granite\" and \"seed_oss\" are read";
    says(&place.path().join("model.gguf"), "", words);
    let words = "model_type \"gemma\" with architecture \"GemmaForCausalLM\" is not supported: Llama, Mistral, \
                 Ministral3, Qwen2, Qwen3, SmolLM3, Phi3, Granite and SeedOss are read: ForCausalLM, ForSequenceClassification and Model";
    says(place.path(), "config.json", words);
}

#[test]
fn folders_without_a_tokenizer() {
    let place = folder(&[("config.json", &tiny("config.json")), ("model.safetensors", &tiny("model.safetensors"))]);
    let words = "is not in this folder, and neither is tokenizer.model; put the model's own beside its weights";
    says(place.path(), "tokenizer.json", words);
}

/// These are about numbers that the person gave, and name the number.
#[test]
fn too_much_of_something() {
    let says = |more: &[&str]| load(shipped_model(), more).err().unwrap().to_string();
    let memory = says(&["--memory-limit", "1"]);
    assert!(
        memory.starts_with("memory for the whole model: ") && memory.contains("the limit is 1048576 bytes (1 MiB)")
    );
    let cache = says(&["--memory-limit", "16", "--context", "4000000"]);
    assert!(cache.ends_with("; lower the number of KV blocks (context or sequences)"), "{cache}");
    assert_eq!(says(&["--context", "0"]), "parameter context = 0: must be 1 to 2147483648");

    let mut engine = load(shipped_model(), &["--context", "64"]).unwrap();
    let prompt = engine.encode(&"hello ".repeat(100), Specials::AsText).unwrap();
    let tokens = prompt.len();
    assert_eq!((fitting(9, &engine, 60), fitting(4, &engine, 60), fitting(9, &engine, tokens)), (4, 4, 1));
    let request = Request { max_tokens: Some(fitting(9, &engine, tokens)), ..Request::new(prompt) };
    let error = engine.submit(request).unwrap_err().to_string();
    let needed = tokens + 1;
    let words = "the limit is 64; shorten the prompt or raise the context limit";
    assert_eq!(error, format!("context overflow: {needed} tokens are needed and {words}"));
}

/// A breaker of repetitions that nobody looks for would be passed over.
#[test]
fn breakers_without_a_penalty() {
    #[derive(Parser)]
    struct Arguments {
        #[command(flatten)]
        sampling: SamplingArgs,
    }
    let engine = load(shipped_model(), &[]).unwrap();
    let sampling =
        |arguments: &[&str]| Arguments::parse_from([&["program"], arguments].concat()).sampling.sampling(&engine);
    for arguments in [&["--dry-breaker", "x"][..], &["--dry-breaker", "x", "--dry-multiplier", "0"]] {
        let words = "parameter --dry-breaker = \"x\": changes nothing without a --dry-multiplier above 0; give one, or leave it out";
        assert_eq!(sampling(arguments).unwrap_err().to_string(), words);
    }
    assert!(!sampling(&["--dry-breaker", "x", "--dry-multiplier", "0.8"]).unwrap().dry_breakers.is_empty());
}
