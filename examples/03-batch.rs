//! Batch: many prompts at once, one a line, from a file or standard input. The engine decodes them side by side and a
//! prompt's text is the same as if it had been alone.
//!
//! ```text
//! printf 'Once upon a time\nLily and Ben\n' | cargo run --release --example 03-batch
//! ```

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use llama_core::engine::{Event, Finish, Request};
use llama_core::text::Specials;
use llama_core::{Error, Result};
use llama_examples::{ModelArgs, SamplingArgs, bar, exit, note, print, rate, stdio};

/// Continue every line of a file.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Sequences decoded side by side
    #[arg(long, default_value_t = 16)]
    sequences: usize,
    /// Tokens to generate for each prompt
    #[arg(long, short = 'n', default_value_t = 64)]
    max_tokens: usize,
    /// Prompts, one a line [default: standard input]
    prompts: Option<PathBuf>,
}

fn main() -> ExitCode {
    exit(|| run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<()> {
    let prompts = read_prompts(arguments)?;
    let mut engine = arguments.model.load(arguments.sequences)?;
    let mut texts = HashMap::new();
    let mut order = Vec::new();
    for prompt in &prompts {
        let request = Request {
            max_tokens: Some(arguments.max_tokens),
            sampling: arguments.sampling.sampling(),
            ..Request::new(engine.encode(prompt, Specials::AsText)?)
        };
        let id = engine.submit(request)?;
        texts.insert(id, prompt.clone());
        order.push(id);
    }

    let bar = bar(prompts.len() as u64, "{bar:40} {pos}/{len} prompts, {elapsed}");
    let (start, mut tokens) = (Instant::now(), 0);
    engine.run(|event: Event| {
        tokens += usize::from(event.token.is_some());
        let text = texts.entry(event.id).or_default();
        text.push_str(&event.text);
        match event.finish {
            Some(Finish::Failed(error)) => text.push_str(&format!(" [failed: {error}]")),
            Some(_) => bar.inc(1),
            None => {}
        }
    })?;
    bar.finish_and_clear();

    for id in order {
        print(format_args!("{}\n\n", texts[&id]))?;
    }
    note(format_args!("{tokens} tokens, {:.1} tok/s over all prompts", rate(tokens, start.elapsed())));
    Ok(())
}

/// The lines that hold anything.
fn read_prompts(arguments: &Arguments) -> Result<Vec<String>> {
    let lines: Vec<String> = match &arguments.prompts {
        Some(path) => {
            let file = std::fs::File::open(path).map_err(|e| Error::io(path, e))?;
            BufReader::new(file).lines().collect::<Result<_, _>>().map_err(|e| Error::io(path, e))?
        }
        None => std::io::stdin().lock().lines().collect::<Result<_, _>>().map_err(stdio)?,
    };
    Ok(lines.into_iter().filter(|line| !line.trim().is_empty()).collect())
}
