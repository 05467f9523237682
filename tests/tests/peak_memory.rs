//! The most memory that a process ever holds while it loads and runs a model is what the plan says: of the files there is
//! never more than a piece. Linux counts the peak, of a whole process: so a child loads the model.
#![cfg(target_os = "linux")]

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use llama_core::Loader;
use llama_core::adapter::{Adapter, AdapterRoom, Named};
use llama_core::checkpoint::{Checkpoint, Name};
use llama_core::engine::{Engine, EngineOptions, Request};
use llama_core::format::Format;
use llama_kernels::{Cpu, CpuOptions};
use llama_tests::adapters::{self, Change};
use llama_tests::hostile::gguf::{self, Gguf, Tensor, Value};

const CHILD: &str = "LLAMA_TESTS_PEAK_MEMORY";
const CACHE: &str = "LLAMA_TESTS_PEAK_MEMORY_CACHE";
const CONTEXT: usize = 16;
const ROOM: AdapterRoom = AdapterRoom { adapters: 4, rank: 16 };
/// Adapters that come and go, one after the other.
const COMING: usize = 40;

#[test]
fn the_peak_is_the_plan() {
    if let Some(model) = std::env::var_os(CHILD) {
        return child(Path::new(&model));
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    write(&path, Format::Q8_0);
    write_adapters(&path);
    let child = |cache: Option<&str>| {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "the_peak_is_the_plan", "--nocapture"]).env(CHILD, &path);
        if let Some(name) = cache {
            child.env(CACHE, folder.path().join(name));
        }
        assert!(child.status().unwrap().success(), "cache {cache:?}");
    };
    child(None);
    // A file of packed weights is written, then mapped, then mapped alone.
    child(Some("cache"));
    child(Some("cache"));
    // Twelve bits for sixteen.
    write(&path, Format::BF16);
    child(None);
}

/// What a process holds before it knows a model is not in the plan: its code, the threads, what the files' headers say,
/// the tokenizer.
fn child(model: &Path) {
    let cpu = Cpu::new(CpuOptions { threads: Some(2), compact: true, ..CpuOptions::default() }).unwrap();
    let options = EngineOptions { context: Some(CONTEXT), sequences: 1, chunk: CONTEXT, ..EngineOptions::default() };
    let loader = Loader::open(model).unwrap().options(options).adapter_room(ROOM).unwrap();
    let _like_the_engines = loader.checkpoint().tokenizer().unwrap();
    let named = |name: usize| {
        let adapter = Adapter::open(model.with_file_name(format!("{name}.gguf"))).unwrap();
        Named::new(name.to_string(), adapter, 1.0, loader.checkpoint().config()).unwrap()
    };
    let coming: Vec<_> = (0..ROOM.adapters).map(named).collect();
    let plan = loader.memory_plan(&cpu).unwrap();
    let (adapters, plan) = (plan.adapters, plan.total());
    let before = status("VmRSS:");
    let cache = std::env::var_os(CACHE);
    let cpu = match &cache {
        Some(cache) => cpu.cached(cache, loader.checkpoint()).unwrap(),
        None => cpu,
    };
    let mut engine = loader.load(cpu).unwrap();
    let loaded = status("VmHWM:") - before;
    let prompt = vec![1; CONTEXT - 2];
    engine.complete(Request { max_tokens: Some(1), ..Request::new(prompt.clone()) }).unwrap();
    come_and_go(&mut engine, &coming);
    engine.complete(Request { max_tokens: Some(1), adapter: Some("0".into()), ..Request::new(prompt) }).unwrap();
    let peak = status("VmHWM:") - before;
    println!("{} plan {plan}, peak {peak}, of which loading {loaded}; before {before}", adapters);
    assert!(plan > 140 << 20, "{plan} is too little for a hundredth to be seen");
    // Of a mapped file, what is never looked at is never in memory: rows of the embedding.
    let least = if cache.is_some() { plan / 2 } else { plan - plan / 100 };
    assert!((least..=plan + plan / 100).contains(&peak), "plan {plan}, peak {peak}, cache {cache:?}");
}

/// Fills the room, and has one after another make room for the next: what comes gets the memory of what was removed.
fn come_and_go(engine: &mut Engine, all: &[Named]) {
    all.iter().for_each(|named| engine.add_named(named).unwrap());
    for i in 0..COMING {
        let named = &all[i % all.len()];
        engine.remove_adapter(&named.loaded().name).unwrap();
        engine.add_named(named).unwrap();
    }
}

/// Adapters of all matrices beside the model, as many as there is room for.
fn write_adapters(model: &Path) {
    let checkpoint = Checkpoint::open(model).unwrap();
    let config = checkpoint.config();
    for name in 0..ROOM.adapters {
        let of = |matrix| Change::random(matrix, ROOM.rank, config, name as u64);
        let layers = (0..config.layers)
            .flat_map(|l| [Name::Q(l), Name::K(l), Name::V(l), Name::O(l), Name::Gate(l), Name::Up(l), Name::Down(l)]);
        let all: Vec<_> = layers.chain([Name::Head]).map(of).collect();
        let file = adapters::gguf(&all, config.head_dim, 1.0).bytes();
        std::fs::write(model.with_file_name(format!("{name}.gguf")), file).unwrap();
    }
}

/// A figure of this process in bytes.
fn status(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    value.trim().strip_suffix(" kB").unwrap().trim().parse::<u64>().unwrap() << 10
}

/// A Llama in `format` whose weights are a hole in the file: all zero, and no disk is written. Its head, which is loaded last,
/// has an eighth of all weights.
fn write(path: &Path, format: Format) {
    const HIDDEN: u64 = 2048;
    const KV: u64 = 512;
    const FFN: u64 = 4096;
    const VOCAB: u64 = 8192;
    let mut file = header(HIDDEN, FFN, VOCAB);
    let mut end = 0;
    let mut add = |name: String, dims: &[u64]| {
        let format = if dims.len() == 1 { Format::F32 } else { format };
        let bytes = format.row_bytes(dims[0] as usize).unwrap() as u64 * dims[1..].iter().product::<u64>();
        let dims = dims.into();
        file.tensors.push(Tensor {
            name: name.into(),
            dim_count: None,
            dims,
            kind: format.ggml_type(),
            offset: Some(end),
            data: Vec::new(),
        });
        end += bytes.next_multiple_of(32);
    };
    add("token_embd.weight".into(), &[HIDDEN, VOCAB]);
    for l in 0..3 {
        for (name, dims) in [
            ("attn_norm", &[HIDDEN][..]),
            ("attn_q", &[HIDDEN, HIDDEN]),
            ("attn_k", &[HIDDEN, KV]),
            ("attn_v", &[HIDDEN, KV]),
            ("attn_output", &[HIDDEN, HIDDEN]),
            ("ffn_norm", &[HIDDEN]),
            ("ffn_gate", &[HIDDEN, FFN]),
            ("ffn_up", &[HIDDEN, FFN]),
            ("ffn_down", &[FFN, HIDDEN]),
        ] {
            add(format!("blk.{l}.{name}.weight"), dims);
        }
    }
    add("output_norm.weight".into(), &[HIDDEN]);
    add("output.weight".into(), &[HIDDEN, VOCAB]);
    let mut front = file.bytes();
    front.resize(front.len().next_multiple_of(file.alignment), 0);
    let mut out = File::create(path).unwrap();
    out.write_all(&front).unwrap();
    out.set_len(front.len() as u64 + end).unwrap();
}

fn header(hidden: u64, ffn: u64, vocab: u64) -> Gguf {
    let mut file = gguf::model();
    let tokens: Vec<String> = (0..vocab).map(|i| format!("t{i}")).collect();
    let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
    let mut kinds = vec![1; vocab as usize];
    kinds[..3].copy_from_slice(&[2, 3, 3]);
    file.tensors.clear();
    file.set("llama.context_length", Value::u32(64))
        .set("llama.embedding_length", Value::u32(hidden as u32))
        .set("llama.block_count", Value::u32(3))
        .set("llama.feed_forward_length", Value::u32(ffn as u32))
        .set("llama.attention.head_count", Value::u32(32))
        .set("llama.attention.head_count_kv", Value::u32(8))
        .set("llama.rope.dimension_count", Value::u32(64))
        .set("llama.vocab_size", Value::u32(vocab as u32))
        .set("tokenizer.ggml.tokens", Value::strings(&tokens))
        .set("tokenizer.ggml.scores", Value::f32s(&vec![0.0; vocab as usize]))
        .set("tokenizer.ggml.token_type", Value::i32s(&kinds));
    file
}
