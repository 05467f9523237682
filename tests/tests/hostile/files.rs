//! Bad model files are refused with an error that says where; good neighbours of them open.

use std::path::Path;

use llama_core::backend::Reference;
use llama_core::checkpoint::gguf::Header;
use llama_core::checkpoint::{Checkpoint, safetensors};
use llama_core::engine::EngineOptions;
use llama_core::model::Llama;
use llama_tests::hostile::gguf::{Gguf, Tensor, Value, model};
use llama_tests::hostile::{Case, folder, folder_cases, gguf_cases, gguf_model_cases, is_of_use};

/// What happens when `bytes` are opened as a file called `name`.
fn open(folder: &Path, name: &str, bytes: &[u8]) -> llama_core::Result<Checkpoint> {
    let path = folder.join(name);
    let _ = std::fs::remove_file(&path);
    std::fs::write(&path, bytes).unwrap();
    Checkpoint::open(path)
}

/// Runs every case, each in a folder of its own, and lists those that were not refused as they must be: with the words of
/// the case, and as [`is_of_use`] has it.
fn refuse_all<T>(cases: Vec<Case<T>>, at_least: usize, mut open: impl FnMut(&Path, &T) -> llama_core::Result<()>) {
    assert!(cases.len() >= at_least, "{} cases", cases.len());
    let mut wrong = Vec::new();
    for case in &cases {
        let folder = tempfile::tempdir().unwrap();
        let Err(error) = open(folder.path(), &case.input) else {
            wrong.push(format!("{}: accepted", case.name));
            continue;
        };
        let text = error.to_string();
        println!("{}: {text}", case.name);
        if let Some(says) = case.says.iter().find(|&says| !text.contains(says)) {
            wrong.push(format!("{}: {text:?} does not say {says:?}", case.name));
        }
        if let Err(lacks) = is_of_use(&error, folder.path()) {
            wrong.push(format!("{}: {text:?} {lacks}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

fn refuse_gguf(cases: Vec<Case<Vec<u8>>>, at_least: usize) {
    refuse_all(cases, at_least, |folder, bytes| open(folder, "model.gguf", bytes).map(|_| ()));
}

#[test]
fn gguf_containers() {
    refuse_gguf(gguf_cases::cases(), 90);
}

#[test]
fn gguf_models() {
    refuse_gguf(gguf_model_cases::cases(), 60);
}

#[test]
fn every_key_with_every_wrong_type() {
    refuse_gguf(gguf_model_cases::wrong_types(), 120);
}

#[test]
fn safetensors_containers() {
    refuse_all(folder_cases::containers(), 35, |folder, bytes| {
        let path = folder.join("x.safetensors");
        std::fs::write(&path, bytes).unwrap();
        safetensors::File::open(path).map(|_| ())
    });
}

#[test]
fn folders() {
    refuse_all(folder_cases::folders(), 35, |folder, files| {
        files.write(folder).unwrap();
        Checkpoint::open(folder).map(|_| ())
    });
}

#[test]
fn every_prefix() {
    let mut half = model();
    half.version = 2;
    for tensor in &mut half.tensors {
        (tensor.kind, tensor.data) = (1, vec![0; tensor.data.len() / 2]);
    }
    let folder = tempfile::tempdir().unwrap();
    for bytes in [model().bytes(), half.bytes()] {
        assert!(bytes.len() < 8192);
        open(folder.path(), "whole.gguf", &bytes).unwrap();
        for end in 0..bytes.len() {
            assert!(Header::parse(Path::new("x"), &bytes[..end]).is_err(), "{end} of {} bytes", bytes.len());
        }
    }
    let bytes = folder::shard(&folder::TENSORS);
    safetensors::Header::parse(Path::new("x"), &bytes).unwrap();
    for end in 0..bytes.len() {
        assert!(safetensors::Header::parse(Path::new("x"), &bytes[..end]).is_err(), "{end} of {} bytes", bytes.len());
    }
}

/// A gain is checked where it is read, on any backend: its file opens, and loading names tensor and element.
#[test]
fn gains_that_are_not_finite() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["blk.0.attn_norm.weight", "blk.0.ffn_norm.weight", "output_norm.weight"] {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut file = model();
            let tensor = file.tensor(name);
            tensor.data[4..8].copy_from_slice(&value.to_le_bytes());
            let checkpoint = open(folder.path(), "model.gguf", &file.bytes()).unwrap();
            let path = checkpoint.path().display();
            let limits = EngineOptions::default().limits(checkpoint.config()).unwrap();
            let error =
                Llama::load(Reference::default(), &checkpoint, limits, None, &mut |_| ()).map(|_| ()).unwrap_err();
            assert_eq!(error.to_string(), format!("{path}: tensor {name}: element 1 is not finite"));
        }
    }
}

/// What lies right beside the bad files, and must not be refused with them.
#[test]
fn good_neighbours() {
    let folder = tempfile::tempdir().unwrap();
    let accept = |name: &str, change: &dyn Fn(&mut Gguf)| {
        let mut file = model();
        change(&mut file);
        if let Err(error) = open(folder.path(), "good.gguf", &file.bytes()) {
            panic!("{name}: {error}");
        }
    };
    accept("as it is", &|_| {});
    accept("version 2", &|f| f.version = 2);
    for alignment in [8u32, 64, 4096, 65_536] {
        accept("another alignment", &|f| {
            f.alignment = alignment as usize;
            f.set("general.alignment", Value::u32(alignment));
        });
    }
    accept("integers of other widths", &|f| {
        f.set("llama.block_count", Value::raw(10, 1u64.to_le_bytes()))
            .set("llama.attention.head_count", Value::raw(5, 2i32.to_le_bytes()))
            .set("llama.attention.head_count_kv", Value::i32s(&[1]))
            .set("llama.vocab_size", Value::raw(2, 8u16.to_le_bytes()));
    });
    accept("floats of the other width", &|f| {
        f.set("llama.rope.freq_base", Value::raw(12, 5e5f64.to_le_bytes()));
    });
    accept("a key of 65,535 bytes and a name of 64", &|f| {
        f.pairs.push((vec![b'k'; 65_535], Value::raw(7, [1])));
        f.tensors.push(Tensor::f32(&"n".repeat(64), &[1], 1.0));
    });
    accept("empty strings and arrays", &|f| {
        f.set("x", Value::string("")).set("y", Value::strings(&[])).set("z", Value::array(12, 0, &[]));
    });
    accept("four dimensions", &|f| f.tensors.push(Tensor::f32("x", &[2, 2, 2, 2], 1.0)));
    accept("an unused tensor in blocks", &|f| {
        f.tensors.push(Tensor { kind: 2, data: vec![0; 18], ..Tensor::f32("x", &[32], 1.0) });
    });
    accept("padding after the last tensor", &|f| {
        f.tensors.push(Tensor::f32("x", &[1], 1.0));
        f.tail = vec![0; 28];
    });
    accept("no head", &|f| f.tensors.retain(|t| t.name != b"output.weight"));
    accept("no tokenizer", &|f| f.pairs.retain(|(key, _)| !key.starts_with(b"tokenizer")));
    accept("no defaults", &|f| {
        f.unset("llama.attention.head_count_kv").unset("llama.rope.freq_base").unset("llama.rope.dimension_count");
        f.unset("llama.vocab_size").set("llama.attention.head_count_kv", Value::u32(1));
    });
    accept("a window of 0, which is none", &|f| {
        f.set("llama.attention.sliding_window", Value::u32(0));
    });
    accept("the largest ids", &|f| {
        f.set("tokenizer.ggml.eos_token_id", Value::u32(7)).set("tokenizer.ggml.padding_token_id", Value::u32(0));
    });
    accept("-1 as the id of a token that nobody reads", &|f| {
        for token in ["padding", "seperator", "mask"] {
            f.set(&format!("tokenizer.ggml.{token}_token_id"), Value::u32(u32::MAX));
        }
    });
    accept("keys of other families that change nothing", &|f| {
        f.set("llama.logit_scale", Value::f32(1.0))
            .set("llama.embedding_scale", Value::f32(0.0))
            .set("llama.final_logit_softcapping", Value::f32(0.0))
            .set("llama.attention.scale", Value::f32(0.5))
            .set("llama.attention.causal", Value::raw(7, [1]));
    });
    accept("stored rotary frequencies, and tensors outside the graph", &|f| {
        for name in ["blk.0.attn_rot_embd.weight", "v.blk.0.attn_q.weight", "mm.0.weight"] {
            f.tensors.push(Tensor::f32(name, &[2], 1.0));
        }
    });
}

#[test]
fn good_folders() {
    for files in [folder::model(), folder::sharded()] {
        let folder = tempfile::tempdir().unwrap();
        files.write(folder.path()).unwrap();
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        assert_eq!(checkpoint.end_tokens(), [4, 2, 3]);
        assert_eq!(checkpoint.chat_template_source().unwrap(), "{{ messages[0].content }}");
    }
}

/// What changes nothing in a folder that could be another family's.
#[test]
fn good_neighbours_among_folders() {
    let accept = |name: &str, change: &dyn Fn(&mut folder::Folder)| {
        let (place, mut files) = (tempfile::tempdir().unwrap(), folder::model());
        change(&mut files);
        files.write(place.path()).unwrap();
        if let Err(error) = Checkpoint::open(place.path()) {
            panic!("{name}: {error}");
        }
    };
    for keys in [
        r#""embedding_multiplier": 1.0, "residual_multiplier": 1, "logits_scaling": 1, "num_experts": 0"#,
        r#""attention_multiplier": null, "quantization_config": null, "final_logit_softcapping": null"#,
        r#""rope_interleaved": false, "qk_layernorm": false, "is_causal": true, "no_rope_layers": [1, 1]"#,
        r#""layer_types": ["full_attention"], "sliding_window": null, "pretraining_tp": 2"#,
        r#""rope_scaling": {"type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}"#,
    ] {
        accept(keys, &|f| {
            f.replace("config.json", "\"model_type\"", &format!("{keys}, \"model_type\""));
        });
    }
    accept("silu by its other name", &|f| {
        f.replace("config.json", "\"silu\"", "\"swish\"");
    });
    accept("stored rotary frequencies, and tensors outside the graph", &|f| {
        let more: [(&str, &[usize]); 2] = [("model.layers.0.self_attn.rotary_emb.inv_freq", &[2]), ("vision.x", &[1])];
        f.set("model.safetensors", folder::shard(&[&folder::TENSORS, more.as_slice()].concat()));
    });
}

#[test]
fn as_many_as_the_readme_says() {
    let files = gguf_cases::cases().len() + gguf_model_cases::cases().len() + gguf_model_cases::wrong_types().len();
    let count = files + folder_cases::containers().len() + folder_cases::folders().len();
    let readme = include_str!("../../../README.md");
    assert!(readme.contains(&format!("{count} named bad files")), "{count} named bad files");
}
