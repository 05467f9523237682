//! Measure: how much each column of a model's matrices counts when it reads a text, which makes conversion to few bits better.
//!
//! ```text
//! cargo run --release --example 09-measure -- --model MY-FINE-TUNE text-like-that-of-its-users.txt my-fine-tune.imatrix.gguf
//! cargo run --release --example 08-convert -- --model MY-FINE-TUNE --imatrix my-fine-tune.imatrix.gguf --to Q3_K_M my-fine-tune.gguf
//! ```
//! A few hundred windows do. The file is spelled as llama.cpp's `llama-imatrix` spells its own.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use llama_core::backend::Backend;
use llama_core::checkpoint::Checkpoint;
use llama_core::convert::Measure;
use llama_core::engine::Engine;
use llama_core::{Loader, Result};
use llama_examples::{ModelArgs, Use, WindowArgs, bar, exit, note, with_bar};

/// Measure the importance of a model's columns for a text.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    text: WindowArgs,
    /// The new file, a GGUF
    output: PathBuf,
}

fn main() -> ExitCode {
    exit(|| run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<()> {
    arguments.model.alone()?;
    let text = arguments.text.read()?;
    let loader = arguments.model.open()?.options(arguments.model.engine_options(1));
    let measure = Measure::of(loader.checkpoint());
    let mut engine = arguments.model.on_device(Measured(loader, &measure))?;
    let requests = arguments.text.requests(&engine, &text)?;
    let bar = bar(requests.len() as u64, "{bar:40} {pos}/{len} windows, {elapsed}");
    for request in requests {
        engine.complete(request)?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    let WindowArgs { text, window, .. } = &arguments.text;
    measure.write(&arguments.output, &text.file_name().unwrap_or_default().to_string_lossy(), *window)?;
    note(format_args!("{}", arguments.output.display()));
    Ok(())
}

struct Measured<'a>(Loader, &'a Measure);

impl Use for Measured<'_> {
    type Outcome = Engine;

    fn loads(&self) -> Option<&Checkpoint> {
        Some(self.0.checkpoint())
    }

    fn with<B: Backend>(self, backend: B) -> Result<Engine> {
        with_bar("loading", |progress| self.0.load_with(self.1.on(backend), progress))
    }
}
