//! Perplexity: how surprised a model is by a text, in windows that do not overlap. Each begins with the
//! begin-of-sequence token where the model wants one, as the texts it was trained on did.
//!
//! ```text
//! cargo run --release --example 04-perplexity -- --model SmolLM2.gguf wiki.test.raw
//! ```

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use llama_core::engine::Request;
use llama_core::{Error, Result};
use llama_examples::{ModelArgs, bar, exit, first_adapter, print, windows};

/// Measure the perplexity of a text file.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    model: ModelArgs,
    /// Tokens of one window; the first of each is not scored
    #[arg(long, default_value_t = 512)]
    window: usize,
    /// Windows at most
    #[arg(long)]
    windows: Option<usize>,
    /// UTF-8 text
    text: PathBuf,
}

fn main() -> ExitCode {
    exit(|| run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<()> {
    let text = std::fs::read_to_string(&arguments.text).map_err(|e| Error::io(&arguments.text, e))?;
    let mut engine = arguments.model.load(1)?;
    let windows = windows(&engine, &text, arguments.window, arguments.windows)?;
    let bar = bar(windows.len() as u64, "{bar:40} {pos}/{len} windows, {elapsed}, perplexity {msg}");
    let (mut sum, mut count) = (0.0, 0usize);
    for window in windows {
        let adapter = first_adapter(&engine);
        let request = Request { max_tokens: Some(0), prompt_logprobs: true, adapter, ..Request::new(window) };
        let completion = engine.complete(request)?;
        sum += completion.prompt.iter().map(|score| f64::from(score.logprob)).sum::<f64>();
        count += completion.prompt.len();
        bar.set_message(format!("{:.4}", (-sum / count as f64).exp()));
        bar.inc(1);
    }
    bar.finish_and_clear();
    print(format_args!("perplexity {:.4} over {count} tokens\n", (-sum / count as f64).exp()))
}
