//! GGUF files that other programs wrote, opened without a model.

use std::path::{Path, PathBuf};

use llama_core::checkpoint::gguf::File;
use llama_core::format::Format;

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples")
}

/// A file of the reference folder, or `None` after saying that the test is skipped.
fn reference(name: &str) -> Option<PathBuf> {
    match std::env::var_os("LLAMA_REFERENCE") {
        Some(folder) => Some(Path::new(&folder).join(name)),
        None => {
            println!("skipped: LLAMA_REFERENCE is not set, {name} is not at hand");
            None
        }
    }
}

#[test]
fn stories_header() {
    let file = File::open(examples().join("stories260K.gguf")).unwrap();
    let metadata = file.metadata();
    assert_eq!(metadata.iter().len(), 23);
    assert_eq!(metadata.string("general.architecture").unwrap(), Some("llama"));
    assert_eq!(metadata.u32("llama.embedding_length").unwrap(), Some(64));
    assert_eq!(metadata.f32("llama.rope.freq_base").unwrap(), Some(10000.0));
    assert_eq!(metadata.bool("tokenizer.ggml.add_bos_token").unwrap(), Some(true));
    assert_eq!(metadata.strings("tokenizer.ggml.tokens").unwrap().unwrap().len(), 512);
    assert_eq!(metadata.u32("no.such.key").unwrap(), None);
    let wrong = metadata.u32("general.architecture").unwrap_err().to_string();
    assert!(
        wrong.ends_with(
            "stories260K.gguf: hyperparameter general.architecture: is of type string; integer was expected"
        )
    );

    assert_eq!(file.tensors().len(), 47);
    let k = file.find("blk.4.attn_k.weight").unwrap();
    assert_eq!((k.format(), k.rows(), k.cols()), (Format::F32, 32, 64));
    assert_eq!(file.view(k).unwrap().to_f32().len(), 32 * 64);
}

#[test]
fn vocabularies_without_tensors() {
    for (name, tokens) in [("ggml-vocab-llama-bpe.gguf", 128_256), ("ggml-vocab-llama-spm.gguf", 32_000)] {
        let Some(path) = reference(&format!("tokenizers/{name}")) else { return };
        let file = File::open(path).unwrap();
        assert_eq!(file.metadata().strings("tokenizer.ggml.tokens").unwrap().unwrap().len(), tokens);
        assert_eq!(file.metadata().i32s("tokenizer.ggml.token_type").unwrap().unwrap().len(), tokens);
        assert!(file.tensors().is_empty());
    }
}
