//! Perplexity: how surprised a model is by a text, in windows that do not overlap. Each begins with the
//! begin-of-sequence token where the model wants one, as the texts it was trained on did.
//!
//! ```text
//! cargo run --release --example 04-perplexity -- --model SmolLM2.gguf wiki.test.raw
//! ```

use std::process::ExitCode;

use clap::Parser;
use llama_core::Result;
use llama_examples::{ModelArgs, WindowArgs, bar, exit, print};

/// Measure the perplexity of a text file.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    text: WindowArgs,
}

fn main() -> ExitCode {
    exit(|| run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<()> {
    let text = arguments.text.read()?;
    let mut engine = arguments.model.load(1)?;
    let requests = arguments.text.requests(&engine, &text)?;
    let bar = bar(requests.len() as u64, "{bar:40} {pos}/{len} windows, {elapsed}, perplexity {msg}");
    let (mut sum, mut count) = (0.0, 0usize);
    for request in requests {
        let completion = engine.complete(request)?;
        sum += completion.prompt.iter().map(|score| f64::from(score.logprob)).sum::<f64>();
        count += completion.prompt.len();
        bar.set_message(format!("{:.4}", (-sum / count as f64).exp()));
        bar.inc(1);
    }
    bar.finish_and_clear();
    print(format_args!("perplexity {:.4} over {count} tokens\n", (-sum / count as f64).exp()))
}
