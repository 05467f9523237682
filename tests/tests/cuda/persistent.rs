//! A whole model through the persistent kernel, on a driver that runs the shipped PTX in the simulator: the bits of separate
//! launches, and the same memory.

use std::path::Path;

use llama_core::backend::{KvFormat, Limits};
use llama_core::batch::Batch;
use llama_core::checkpoint::Checkpoint;
use llama_core::model::{Llama, Model};
use llama_cuda::{Cuda, CudaOptions};
use llama_tests::driver::Driver;
use llama_tests::models::{Feed, bits, data, limits};
use mock_cuda::{Capability, Config};
use serde_json::{Map, json};

/// Logits and hidden states of four tokens of each of `sequences` sequences, one a step, and how many step shapes became programs and graphs.
fn decode(name: &str, sequences: usize, capability: Capability, persistent: bool) -> (Vec<u32>, [usize; 2]) {
    decode_of(&data().join("tiny").join(name), sequences, capability, persistent)
}

fn decode_of(path: &Path, sequences: usize, capability: Capability, persistent: bool) -> (Vec<u32>, [usize; 2]) {
    let driver = Driver::new(&Config { capability, multiprocessors: 2, ..Config::default() });
    let cuda = Cuda::new(CudaOptions { persistent, ..CudaOptions::default() }).expect("a backend");
    let checkpoint = Checkpoint::open(path).expect("a checkpoint");
    let limits = Limits { kv: KvFormat::Half, ..limits(sequences, 16) };
    let mut model = Llama::load(cuda, &checkpoint, limits, None, &mut |_| {}).expect("a model");
    let mut feeds: Vec<Feed> = (0..sequences as u32).map(|s| Feed::new(&[5 + s, 9, 3, 7], s, 4, 16)).collect();
    let (mut batch, mut logits, mut states, mut all) = (Batch::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..4 {
        batch.clear();
        feeds.iter_mut().for_each(|feed| assert_eq!(feed.push(&mut batch, 1), 1));
        model.forward(&batch, &mut logits).unwrap_or_else(|error| panic!("{error}: {:?}", driver.last_finding()));
        model.states(&mut states).unwrap_or_else(|error| panic!("{error}: {:?}", driver.last_finding()));
        all.extend(bits(&logits).into_iter().chain(bits(&states)));
    }
    (all, [model.backend().programs(), model.backend().graphs()])
}

#[test]
fn the_bits_are_those_of_separate_launches() {
    for (name, sequences, capability) in [
        ("llama3-gqa", 1, Capability::AMPERE),
        ("biased", 4, Capability::AMPERE),
        ("llama2-mha", 2, Capability::HOPPER),
    ] {
        let (want, [programs, graphs]) = decode(name, sequences, capability, false);
        assert_eq!((programs, graphs), (0, 1), "{name}");
        let (got, [programs, graphs]) = decode(name, sequences, capability, true);
        assert_eq!((programs, graphs), (1, 0), "{name}");
        assert_eq!(got, want, "{name}");
    }
}

#[test]
fn steps_of_more_rows_are_graphs() {
    let (_, kept) = decode("llama2-mha", 5, Capability::AMPERE, true);
    assert_eq!(kept, [0, 1]);
}

/// Writes a checkpoint of one layer with one head of 256.
fn write_large_head(folder: &Path) {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": 64,
        "intermediate_size": 64, "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 256,
        "num_hidden_layers": 1, "vocab_size": 32, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "tie_word_embeddings": true, "dtype": "bfloat16",
    });
    let (mut header, mut weights) = (Map::new(), Vec::new());
    for (name, shape) in [
        ("embed_tokens", vec![32, 64]),
        ("norm", vec![64]),
        ("layers.0.input_layernorm", vec![64]),
        ("layers.0.post_attention_layernorm", vec![64]),
        ("layers.0.self_attn.q_proj", vec![256, 64]),
        ("layers.0.self_attn.k_proj", vec![256, 64]),
        ("layers.0.self_attn.v_proj", vec![256, 64]),
        ("layers.0.self_attn.o_proj", vec![64, 256]),
        ("layers.0.mlp.gate_proj", vec![64, 64]),
        ("layers.0.mlp.up_proj", vec![64, 64]),
        ("layers.0.mlp.down_proj", vec![64, 64]),
    ] {
        let start = weights.len();
        // Numbers of both signs about a half, as bf16.
        let signs = (0..shape.iter().product::<u32>()).map(|i| i.wrapping_mul(2_654_435_769) >> 16);
        signs.for_each(|bits| weights.extend((0x3e80 | bits as u16 & 0x81ff).to_le_bytes()));
        let entry = json!({ "dtype": "BF16", "shape": shape, "data_offsets": [start, weights.len()] });
        header.insert(format!("model.{name}.weight"), entry);
    }
    let header = serde_json::to_vec(&header).expect("plain JSON");
    let file = [&(header.len() as u64).to_le_bytes(), &header[..], &weights[..]].concat();
    std::fs::write(folder.join("model.safetensors"), file).expect("a writable folder");
    std::fs::write(folder.join("config.json"), config.to_string()).expect("a writable folder");
}

#[test]
fn large_heads_are_graphs_where_a_block_has_too_little_shared_memory() {
    let folder = tempfile::tempdir().expect("a writable folder");
    write_large_head(folder.path());
    let (want, kept) = decode_of(folder.path(), 1, Capability::AMPERE, false);
    assert_eq!(kept, [0, 1]);
    for (capability, kept) in [(Capability::AMPERE, [1, 0]), (Capability::HOPPER, [1, 0]), (Capability::ADA, [0, 1])] {
        let (got, found) = decode_of(folder.path(), 1, capability, true);
        assert!(found == kept || Driver::is_real(), "{capability:?}: {found:?}");
        assert_eq!(got, want, "{capability:?}");
    }
}
