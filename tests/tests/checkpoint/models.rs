//! Whole models opened: the eleven tiny Hugging Face folders, the GGUF that ships, and SmolLM2 where it is at hand.

use std::path::{Path, PathBuf};

use llama_core::backend::RopeLayout;
use llama_core::checkpoint::{Checkpoint, Name};
use llama_core::config::{Head, Rope, RopeScaling};
use llama_core::format::Format;

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn tiny(name: &str) -> Checkpoint {
    Checkpoint::open(here("data/tiny").join(name)).unwrap()
}

fn assert_close(found: &[f32], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (i, (&f, &e)) in found.iter().zip(expected).enumerate() {
        assert!((f64::from(f) - e).abs() <= 1.2e-7 * e.abs(), "frequency {i}: {f} and not {e}");
    }
}

/// Name, kv_heads, head_dim, scaling, window, tied.
#[test]
fn tiny_folders() {
    let llama3 = |factor| RopeScaling::Llama3 { factor, low: 1.0, high: 4.0, original: 64 };
    let yarn = RopeScaling::Yarn {
        factor: 4.0,
        original: 128,
        beta_fast: 32.0,
        beta_slow: 1.0,
        attention_factor: 0.1 * 4f64.ln() + 1.0,
        truncate: true,
    };
    for (name, kv_heads, head_dim, theta, scaling, window, tied) in [
        ("llama2-mha", 4, 16, 1e4, RopeScaling::None, None, false),
        ("llama3-gqa", 2, 16, 5e5, RopeScaling::None, None, false),
        ("llama31-rope", 2, 16, 5e5, llama3(8.0), None, false),
        ("llama32-tied", 2, 16, 5e5, llama3(32.0), None, true),
        ("gqa-9-3", 3, 16, 1e5, RopeScaling::None, None, false),
        ("mqa", 1, 16, 1e4, RopeScaling::None, None, false),
        ("wide-heads", 2, 32, 1e4, RopeScaling::None, None, false),
        ("biased", 2, 16, 1e4, RopeScaling::None, None, false),
        ("rope-linear", 2, 16, 1e4, RopeScaling::Linear { factor: 4.0 }, None, false),
        ("rope-yarn", 2, 16, 1e4, yarn, None, false),
        ("mistral-window", 2, 16, 1e4, RopeScaling::None, Some(16), false),
    ] {
        let checkpoint = tiny(name);
        let config = checkpoint.config();
        let rope = Rope { theta, dims: head_dim, layout: RopeLayout::Halves, unturned: Vec::new(), scaling };
        assert_eq!((config.kv_heads, config.head_dim, &config.rope), (kv_heads, head_dim, &rope), "{name}");
        assert_eq!(
            (config.window, config.head == Head::Tied, config.layers, config.vocab),
            (window, tied, 3, 384),
            "{name}"
        );
        assert_eq!(checkpoint.find(Name::Head).is_none(), tied, "{name}");
        assert_eq!(checkpoint.find(Name::QBias(2)).is_some(), name == "biased", "{name}");
        assert_eq!(checkpoint.view(Name::Down(1)).unwrap().cols(), config.ffn, "{name}");
        assert_eq!((checkpoint.end_tokens(), checkpoint.unused().count()), (vec![2], 0), "{name}");
        checkpoint.verify().unwrap();
    }
}

/// Expected numbers: the formulas of transformers' modeling_rope_utils.py, evaluated in numpy.
#[test]
fn frequencies_of_the_tiny_folders() {
    let llama31 = [
        1.0,
        0.07940300554037094,
        0.004700753837823868,
        0.0009115830762311816,
        0.00017677669529803097,
        3.428102354519069e-05,
        6.647869668086059e-06,
        1.289173155782919e-06,
    ];
    assert_close(&tiny("llama31-rope").config().rope.inv_freq(512), &llama31);
    let llama32 = [
        1.0,
        0.06713303923606873,
        0.001175188459455967,
        0.0002278957690577954,
        4.419417382450774e-05,
        8.570255886297673e-06,
        1.6619674170215148e-06,
        3.2229328894572973e-07,
    ];
    assert_close(&tiny("llama32-tied").config().rope.inv_freq(512), &llama32);
    let yarn = [
        1.0,
        0.23717083036899567,
        0.05000000074505806,
        0.007905693724751472,
        0.0024999999441206455,
        0.0007905694073997438,
        0.0002500000118743628,
        7.905693928478286e-05,
    ];
    assert_close(&tiny("rope-yarn").config().rope.inv_freq(512), &yarn);
    assert_close(&[tiny("rope-yarn").config().rope.scale()], &[1.138629436111989]);
}

#[test]
fn stories() {
    let checkpoint = Checkpoint::open(here("../examples/stories260K.gguf")).unwrap();
    let config = checkpoint.config();
    assert_eq!((config.hidden, config.ffn, config.layers, config.heads, config.kv_heads), (64, 172, 5, 8, 4));
    assert_eq!((config.vocab, config.context, config.head_dim, config.eps), (512, 512, 8, 1e-5));
    assert_eq!((config.rope.layout, config.rope.dims), (RopeLayout::Interleaved, 8));
    assert_eq!(checkpoint.end_tokens(), [2]);
    assert_eq!(checkpoint.chat_template_source(), None);
    assert_eq!((checkpoint.file_bytes(), checkpoint.tensors().len()), (1_054_400, 47));
    assert!(checkpoint.metadata().is_some() && checkpoint.folder().is_none());
}

#[test]
fn smollm2() {
    let Some(path) = std::env::var_os("LLAMA_SMOLLM2") else {
        println!("skipped: LLAMA_SMOLLM2 is not set");
        return;
    };
    let checkpoint = Checkpoint::open(path).unwrap();
    let config = checkpoint.config();
    assert_eq!(
        (config.layers, config.heads, config.kv_heads, config.head_dim, config.head),
        (30, 9, 3, 64, Head::Tied)
    );
    assert_eq!(checkpoint.view(Name::Embed).unwrap().format(), Format::Q8_0);
    assert_eq!(checkpoint.view(Name::Gate(29)).unwrap().format(), Format::Q4_1);
    assert!(checkpoint.chat_template_source().unwrap().contains("im_start"));
    assert_eq!(checkpoint.end_tokens(), [2]);
}

/// Prefixes in files and ranks take models for one by it.
#[test]
fn contents_tell_versions_of_a_model() {
    let folder = tempfile::tempdir().unwrap();
    let original = std::fs::read(here("../examples/stories260K.gguf")).unwrap();
    let contents = |bytes: &[u8]| {
        let path = folder.path().join("model.gguf");
        std::fs::write(&path, bytes).unwrap();
        Checkpoint::open(path).unwrap().contents()
    };
    let own = Checkpoint::open(here("../examples/stories260K.gguf")).unwrap();
    assert_eq!(contents(&original), own.contents(), "a copy");
    let tensor = own.view(Name::Embed).unwrap().data();
    let start = original.windows(256).position(|bytes| bytes == &tensor[..256]).unwrap();
    let last = tensor.len() - 1;
    for at in [0, 255, last / 7, last * 2 / 7, last * 3 / 7, last * 6 / 7, last - 255, last] {
        let mut other = original.clone();
        other[start + at] ^= 1;
        assert_ne!(contents(&other), own.contents(), "byte {at} of {}", tensor.len());
    }
    let vector = own.view(Name::Norm).unwrap().data();
    let start = original.windows(vector.len()).position(|bytes| bytes == vector).unwrap();
    for at in (0..vector.len()).step_by(17) {
        let mut other = original.clone();
        other[start + at] ^= 1;
        assert_ne!(contents(&other), own.contents(), "byte {at} of {}", vector.len());
    }
}

#[test]
fn checkpoints_are_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Checkpoint>();
}
