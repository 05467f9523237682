//! The logits of a text, every position's, for comparing arithmetics: `benches/peers/accuracy.py` runs it.
//!
//! ```text
//! cargo run --release -p llama-benches --bin logits -- --model MODEL.gguf --ids IDS --logits OUT --numerics float --kv f32
//! ```
//! IDS holds token ids of 32 bits, OUT gets rows of the vocabulary in f32, both little-endian. A text longer than
//! `--window` is cut into windows, each evaluated in an empty cache.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use llama_benches::report::exit;
use llama_core::backend::{KvFormat, Limits, Numerics};
use llama_core::batch::{BLOCK, Batch, BlockId};
use llama_core::checkpoint::Checkpoint;
use llama_core::model::{Llama, Model};
use llama_core::{Error, Result};
use llama_kernels::{Cpu, CpuOptions};

/// Rows of one step.
const CHUNK: usize = 256;

/// Write the logits of a text.
#[derive(Parser)]
struct Arguments {
    /// A GGUF file or a Hugging Face folder
    #[arg(long)]
    model: PathBuf,
    /// Token ids, 32 bits each
    #[arg(long)]
    ids: PathBuf,
    /// The file to write
    #[arg(long)]
    logits: PathBuf,
    /// Positions after which the cache is emptied
    #[arg(long, default_value_t = 1024)]
    window: usize,
    /// Threads [default: as many as this process may use]
    #[arg(long)]
    threads: Option<usize>,
    /// default, fast, precise or float
    #[arg(long, default_value = "default")]
    numerics: Numerics,
    /// half, bf16, q8 or f32
    #[arg(long, default_value = "half")]
    kv: KvFormat,
}

fn main() -> ExitCode {
    exit(run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<()> {
    let window = arguments.window.max(1);
    let blocks = window.div_ceil(BLOCK);
    let limits = Limits { tokens: CHUNK, sequences: 1, outputs: CHUNK, context: window, blocks, kv: arguments.kv };
    let cpu = CpuOptions { threads: arguments.threads, numerics: arguments.numerics, ..CpuOptions::default() };
    let checkpoint = Checkpoint::open(&arguments.model)?;
    let mut model = Llama::load(Cpu::new(cpu)?, &checkpoint, limits, None, &mut |_| {})?;
    let ids = read_ids(&arguments.ids)?;
    let failed = |source| Error::io(&arguments.logits, source);
    let mut out = BufWriter::new(File::create(&arguments.logits).map_err(failed)?);
    for window in ids.chunks(window) {
        evaluate(&mut model, window, |logits| out.write_all(&bytes(logits)).map_err(failed))?;
    }
    out.flush().map_err(failed)
}

fn read_ids(path: &Path) -> Result<Vec<u32>> {
    let bytes = std::fs::read(path).map_err(|source| Error::io(path, source))?;
    Ok(bytes.as_chunks().0.iter().map(|id| u32::from_le_bytes(*id)).collect())
}

fn bytes(logits: &[f32]) -> Vec<u8> {
    logits.iter().flat_map(|logit| logit.to_le_bytes()).collect()
}

/// Feeds one window from position 0 on; `write` gets the logits of each step, `[rows, vocab]`.
fn evaluate(model: &mut dyn Model, ids: &[u32], mut write: impl FnMut(&[f32]) -> Result<()>) -> Result<()> {
    let blocks: Vec<BlockId> = (0..ids.len().div_ceil(BLOCK) as BlockId).collect();
    let (mut batch, mut logits) = (Batch::new(), Vec::new());
    for (step, chunk) in ids.chunks(CHUNK).enumerate() {
        batch.clear();
        batch.push(chunk, (step * CHUNK) as u32, &blocks, 0..chunk.len() as u32);
        model.forward(&batch, &mut logits)?;
        write(&logits)?;
    }
    Ok(())
}
