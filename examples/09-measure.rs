//! Measure: how much each column of a model's matrices counts when it reads a text, which makes conversion to few bits better.
//!
//! ```text
//! cargo run --release --example 09-measure -- --model MY-FINE-TUNE text-like-that-of-its-users.txt my-fine-tune.imatrix.gguf
//! cargo run --release --example 08-convert -- --model MY-FINE-TUNE --imatrix my-fine-tune.imatrix.gguf --to Q3_K_M my-fine-tune.gguf
//! ```
//! A few hundred windows do; llama.cpp's `llama-quantize --imatrix` reads the file, too.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use llama_core::backend::Backend;
use llama_core::convert::Measure;
use llama_core::engine::{Engine, Request};
use llama_core::{Error, Loader, Result};
use llama_examples::{ModelArgs, Use, bar, exit, first_adapter, note, windows, with_bar};

/// Measure the importance of a model's columns for a text.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    model: ModelArgs,
    /// Tokens of one window
    #[arg(long, default_value_t = 512)]
    window: usize,
    /// Windows at most
    #[arg(long)]
    windows: Option<usize>,
    /// UTF-8 text
    text: PathBuf,
    /// The new file, a GGUF
    output: PathBuf,
}

fn main() -> ExitCode {
    exit(|| run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<()> {
    let text = std::fs::read_to_string(&arguments.text).map_err(|e| Error::io(&arguments.text, e))?;
    let loader = arguments.model.open()?.options(arguments.model.engine_options(1));
    let measure = Measure::of(loader.checkpoint());
    let mut engine = arguments.model.on_device(Measured(loader, &measure))?;
    let windows = windows(&engine, &text, arguments.window, arguments.windows)?;
    let bar = bar(windows.len() as u64, "{bar:40} {pos}/{len} windows, {elapsed}");
    for window in windows {
        let adapter = first_adapter(&engine);
        engine.complete(Request { max_tokens: Some(0), prompt_logprobs: true, adapter, ..Request::new(window) })?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    let name = arguments.text.file_name().unwrap_or_default().to_string_lossy();
    measure.write(&arguments.output, &name, arguments.window)?;
    note(format_args!("{}", arguments.output.display()));
    Ok(())
}

struct Measured<'a>(Loader, &'a Measure);

impl Use for Measured<'_> {
    type Outcome = Engine;

    fn with<B: Backend>(self, backend: B) -> Result<Engine> {
        with_bar("loading", |progress| self.0.load_with(self.1.on(backend), progress))
    }
}
