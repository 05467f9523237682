//! Batch: many prompts at once, one a line, from a file or standard input. The engine decodes them side by side and a
//! prompt's text is the same as if it had been alone. One that fails says so in its place and stops no other.
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
use llama_core::engine::{Engine, Event, Finish, Request, SequenceId};
use llama_core::sample::Sampling;
use llama_core::text::Specials;
use llama_core::{Error, Result};
use llama_examples::{
    ModelArgs, SamplingArgs, bar, exit, first_adapter, fitting, lossy_lines, note, print, rate, stdio,
};

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
    /// Tokens to generate for each prompt at most; fewer where the context is full before
    #[arg(long, short = 'n', default_value_t = 64)]
    max_tokens: usize,
    /// Prompts, one a line [default: standard input]
    prompts: Option<PathBuf>,
}

fn main() -> ExitCode {
    exit(|| run(&Arguments::parse()))
}

/// A prompt and what became of it.
struct Entry {
    /// Number of its line.
    line: usize,
    /// The prompt, and its continuation as it comes.
    text: String,
    error: Option<Error>,
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    let mut entries = read_prompts(arguments)?;
    let mut engine = arguments.model.load(arguments.sequences)?;
    let sampling = arguments.sampling.sampling(&engine)?;
    let bar = bar(entries.len() as u64, "{bar:40} {pos}/{len} prompts, {elapsed}");
    let mut submitted = HashMap::new();
    for entry in &mut entries {
        match submit(&mut engine, arguments, sampling.clone(), &entry.text) {
            Ok(id) => {
                submitted.insert(id, entry);
            }
            Err(error) => {
                entry.error = Some(error);
                bar.inc(1);
            }
        }
    }

    let (start, mut tokens) = (Instant::now(), 0);
    engine.run(|event: Event| {
        tokens += usize::from(event.token.is_some());
        let Some(entry) = submitted.get_mut(&event.id) else { return };
        entry.text.push_str(&event.text);
        bar.inc(u64::from(event.finish.is_some()));
        if let Some(Finish::Failed(error)) = event.finish {
            entry.error = Some(error);
        }
    })?;
    let time = start.elapsed();
    bar.finish_and_clear();
    let outcome = report(&entries)?;
    note(format_args!("{tokens} tokens, {:.1} tok/s over all prompts", rate(tokens, time)));
    Ok(outcome)
}

fn submit(engine: &mut Engine, arguments: &Arguments, sampling: Sampling, prompt: &str) -> Result<SequenceId> {
    let prompt = engine.encode(prompt, Specials::AsText)?;
    engine.submit(Request {
        max_tokens: Some(fitting(arguments.max_tokens, engine, prompt.len())),
        sampling,
        adapter: first_adapter(engine),
        ..Request::new(prompt)
    })
}

/// Prints all texts in the order of the prompts.
fn report(entries: &[Entry]) -> Result<ExitCode> {
    for Entry { line, text, error } in entries {
        match error {
            None => print(format_args!("{text}\n\n"))?,
            Some(error) => print(format_args!("{text} [line {line} failed: {error}]\n\n"))?,
        }
    }
    match entries.iter().filter(|entry| entry.error.is_some()).count() {
        0 => Ok(ExitCode::SUCCESS),
        failed => {
            note(format_args!("error: {failed} of {} prompts failed", entries.len()));
            Ok(ExitCode::FAILURE)
        }
    }
}

/// The lines that hold anything.
fn read_prompts(arguments: &Arguments) -> Result<Vec<Entry>> {
    match &arguments.prompts {
        Some(path) => {
            let file = std::fs::File::open(path).map_err(|e| Error::io(path, e))?;
            numbered(BufReader::new(file)).map_err(|e| Error::io(path, e))
        }
        None => numbered(std::io::stdin().lock()).map_err(stdio),
    }
}

fn numbered(input: impl BufRead) -> std::io::Result<Vec<Entry>> {
    let entries = lossy_lines(input).zip(1..).map(|(text, line)| Ok(Entry { line, text: text?, error: None }));
    let mut entries = entries.collect::<std::io::Result<Vec<Entry>>>()?;
    entries.retain(|entry| !entry.text.trim().is_empty());
    Ok(entries)
}
