//! Generate: open a model, continue a prompt, print text as it comes, and say how fast it was.
//!
//! ```text
//! cargo run --release --example 01-generate
//! cargo run --release --example 01-generate -- --model SmolLM2.gguf --prompt "The Moon is" --max-tokens 100
//! cargo run --release --example 01-generate -- --model SmolLM2.gguf --prompt "One two three four. One two" --drafts 4
//! cargo run --release --example 01-generate -- --model SmolLM2.gguf --prompt "$(cat long.txt)" --prefix long.kv
//! cargo run --release --example 01-generate -- --model SmolLM2.gguf --prompt "The Moon is" --adapter MY-LORA
//! cargo run --release --example 01-generate -- --model CodeLlama-7B.gguf --prompt "fn double(x: u32) -> u32 {" --suffix "}"
//! ```
//! With `--prefix` the second start computes of a long prompt only what is new.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use llama_core::Result;
use llama_core::batch::BLOCK;
use llama_core::engine::{Request, Stats};
use llama_core::text::Specials;
use llama_examples::{ModelArgs, SamplingArgs, exit, first_adapter, fitting, note, print, rate, resident_bytes};

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
    /// Tokens to generate at most; fewer where the context is full before [default: until it is]
    #[arg(long, short = 'n')]
    max_tokens: Option<usize>,
    /// Fill in what belongs between the prompt and this text, with a model that was trained to
    #[arg(long)]
    suffix: Option<String>,
    /// Keep what is computed of the text in this file, and begin with what is in it already
    #[arg(long)]
    prefix: Option<PathBuf>,
}

fn main() -> ExitCode {
    exit(|| run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<()> {
    let mut engine = arguments.model.load(1)?;
    let request = match &arguments.suffix {
        None => Request::new(engine.encode(&arguments.prompt, Specials::AsText)?),
        Some(suffix) => engine.infill(&arguments.prompt, suffix)?,
    };
    let prompt_tokens = request.prompt.len();
    let mut text = request.prompt.clone();

    let start = Instant::now();
    if let Some(path) = arguments.prefix.as_deref().filter(|path| path.exists()) {
        engine.load_prefix(path)?;
    }
    let (mut first, mut tokens, adapter) = (None, 0, first_adapter(&engine));
    let request = Request {
        max_tokens: arguments.max_tokens.map(|wanted| fitting(wanted, &engine, prompt_tokens)),
        sampling: arguments.sampling.sampling(&engine)?,
        adapter: adapter.clone(),
        ..request
    };
    let events = engine.generate(request)?;
    print(&arguments.prompt)?;
    let told = events.into_iter().try_for_each(|event| {
        let event = event?;
        first.get_or_insert_with(|| start.elapsed());
        tokens += usize::from(event.token.is_some());
        text.extend(event.token);
        print(&event.text)
    });
    print(arguments.suffix.as_deref().unwrap_or_default())?;
    print("\n")?;
    told?;
    let whole = start.elapsed();
    if let Some(path) = arguments.prefix.as_deref().filter(|_| text.len() > BLOCK) {
        match &adapter {
            Some(adapter) => engine.save_adapted_prefix(adapter, &text, path)?,
            None => engine.save_prefix(&text, path)?,
        };
    }

    let first = first.unwrap_or_default();
    let decode = whole - first;
    note(format_args!("\n{}", engine.model().backend()));
    let prompt_rate = rate(prompt_tokens, first);
    note(format_args!("prompt      {prompt_tokens:6} tokens  {prompt_rate:9.1} tok/s  (TTFT {first:.1?})"));
    note(format_args!("generation  {tokens:6} tokens  {:9.1} tok/s", rate(tokens.saturating_sub(1), decode)));
    let Stats { drafted, accepted, cached_tokens, .. } = engine.stats();
    if cached_tokens > 0 {
        note(format_args!("prefix      {cached_tokens:6} tokens of the prompt were there already"));
    }
    if drafted > 0 {
        note(format_args!("drafts      {drafted:6} tokens, {accepted} of them accepted"));
    }
    if let Some(bytes) = resident_bytes() {
        note(format_args!("memory      {:6.0} MiB resident", bytes as f64 / f64::from(1 << 20)));
    }
    Ok(())
}
