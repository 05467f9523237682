//! Generate: open a model, continue a prompt, print text as it comes, and say how fast it was.
//!
//! ```text
//! cargo run --release --example 01-generate
//! cargo run --release --example 01-generate -- --model SmolLM2.gguf --prompt "The Moon is" --max-tokens 100
//! ```

use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use llama_core::Result;
use llama_core::engine::Request;
use llama_core::text::Specials;
use llama_examples::{ModelArgs, SamplingArgs, exit, rate, resident_bytes, stdio};

/// Continue a prompt.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Text to continue
    #[arg(long, short, default_value = "Once upon a time")]
    prompt: String,
    /// Tokens to generate at most [default: until the context is full]
    #[arg(long, short = 'n')]
    max_tokens: Option<usize>,
}

fn main() -> ExitCode {
    exit(|| run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<()> {
    let mut engine = arguments.model.load(1)?;
    let prompt = engine.encode(&arguments.prompt, Specials::AsText)?;
    let prompt_tokens = prompt.len();
    print(&arguments.prompt)?;

    let start = Instant::now();
    let (mut first, mut tokens) = (None, 0);
    let request =
        Request { max_tokens: arguments.max_tokens, sampling: arguments.sampling.sampling(), ..Request::new(prompt) };
    for event in engine.generate(request)? {
        let event = event?;
        first.get_or_insert_with(|| start.elapsed());
        tokens += usize::from(event.token.is_some());
        print(&event.text)?;
    }
    println!();

    let first = first.unwrap_or_default();
    let decode = start.elapsed() - first;
    eprintln!("\n{}", engine.model().backend());
    eprintln!("prompt      {prompt_tokens:6} tokens  {:9.1} tok/s  (TTFT {first:.1?})", rate(prompt_tokens, first));
    eprintln!("generation  {tokens:6} tokens  {:9.1} tok/s", rate(tokens.saturating_sub(1), decode));
    if let Some(bytes) = resident_bytes() {
        eprintln!("memory      {:6.0} MiB resident", bytes as f64 / f64::from(1 << 20));
    }
    Ok(())
}

fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(stdio)
}
