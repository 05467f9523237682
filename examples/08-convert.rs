//! Convert: a model, whatever it is stored as, becomes one GGUF in a format of your choice.
//!
//! ```text
//! cargo run --release --example 08-convert -- --model MY-FINE-TUNE --to Q4_K_M my-fine-tune.gguf
//! cargo run --release --example 08-convert -- --model LLAMA --adapter MY-LORA --to Q8_0 my-llama.gguf
//! ```
//! With --adapter what a LoRA adapter learned becomes part of the weights.

use std::convert::Infallible;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use llama_core::Result;
use llama_core::adapter::Adapter;
use llama_core::checkpoint::Checkpoint;
use llama_core::convert::{Converter, Importance, Mixture};
use llama_examples::{exit, note, shipped_model, with_bar};

/// Write a model as one GGUF file.
#[derive(Parser)]
struct Arguments {
    /// A GGUF file or a Hugging Face folder [default: the model that ships with the examples]
    #[arg(long, short)]
    model: Option<PathBuf>,
    /// How matrices are stored: Q4_K_M, Q8_0, BF16, ... [default: as they are]
    #[arg(long)]
    to: Option<Mixture>,
    /// Add this LoRA adapter, a folder of PEFT's or a GGUF; =0.5 behind it adds half of it. May be given several times
    #[arg(long, value_name = "PATH[=STRENGTH]", value_parser = adapter)]
    adapter: Vec<(PathBuf, f32)>,
    /// Weigh errors by this importance matrix, a file of llama-imatrix: fewer bits hurt less
    #[arg(long)]
    imatrix: Option<PathBuf>,
    /// Threads [default: as many as this process may use]
    #[arg(long, short)]
    threads: Option<usize>,
    /// The new file
    output: PathBuf,
}

fn main() -> ExitCode {
    exit(|| run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<()> {
    let model = Checkpoint::open(arguments.model.as_deref().unwrap_or(shipped_model()))?;
    let opened = |(path, strength): &(PathBuf, f32)| Ok((Adapter::open(path)?, *strength));
    let adapters: Vec<_> = arguments.adapter.iter().map(opened).collect::<Result<_>>()?;
    let mut converter = Converter::new(&model);
    for (adapter, strength) in &adapters {
        converter = converter.adapter(adapter, *strength)?;
    }
    let importance = arguments.imatrix.as_ref().map(Importance::open).transpose()?;
    if let Some(importance) = &importance {
        converter = converter.importance(importance)?;
    }
    if let Some(mixture) = arguments.to {
        converter = converter.mixture(mixture);
    }
    if let Some(threads) = arguments.threads {
        converter = converter.threads(threads);
    }
    let written = with_bar("converting", |progress| converter.write(&arguments.output, progress))?;
    written.notes.iter().for_each(|text| note(format_args!("note: {text}")));
    let (before, after) = (model.file_bytes(), written.bytes);
    note(format_args!("{}: {} MiB, where there were {}", arguments.output.display(), mib(after), mib(before)));
    Ok(())
}

/// A path, and behind the last `=` how strong; what is no number there belongs to the path.
fn adapter(text: &str) -> Result<(PathBuf, f32), Infallible> {
    let strong = text.rsplit_once('=').and_then(|(path, strength)| Some((path.into(), strength.parse().ok()?)));
    Ok(strong.unwrap_or((text.into(), 1.0)))
}

fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}
