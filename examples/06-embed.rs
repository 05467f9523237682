//! Embed: texts as vectors, one a line, and how similar each is to the first: the product of their unit vectors. A model
//! made for it says in its files how the tokens' states become one vector; with another, such as the one that ships here,
//! the order of the numbers means more than the numbers.
//!
//! ```text
//! printf 'The dog ran.\nA dog was running.\nIt was a cold day.\n' | cargo run --release --example 06-embed -- --pooling mean
//! cargo run --release --example 06-embed -- --model e5-mistral-7b-instruct --vectors queries.txt passages.txt
//! cargo run --release --example 06-embed -- --model some-reward-model --labels answers.txt
//! ```

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use llama_core::engine::{Embed, Engine, Pooling};
use llama_core::text::Specials;
use llama_core::{Error, Result};
use llama_examples::{ModelArgs, exit, first_adapter, lossy_lines, note, print, rate, stdio};

/// Embed every line of some files.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    model: ModelArgs,
    /// How the states of a text's tokens become one vector: last, mean [default: as the model's files say]
    #[arg(long)]
    pooling: Option<Pooling>,
    /// Texts worked through side by side
    #[arg(long, default_value_t = 16)]
    sequences: usize,
    /// Print each text's vector, instead of its similarity to the first
    #[arg(long, conflicts_with = "labels")]
    vectors: bool,
    /// Print the scores that a classifier gives its labels, instead
    #[arg(long, conflicts_with = "pooling")]
    labels: bool,
    /// Texts, one a line [default: standard input]
    texts: Vec<PathBuf>,
}

fn main() -> ExitCode {
    exit(|| run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<()> {
    if arguments.pooling == Some(Pooling::Tokens) {
        return Err(Error::parameter("pooling", "tokens", "a text needs one vector here: last or mean"));
    }
    let texts = texts(&arguments.texts)?;
    let mut engine = arguments.model.load_to_embed(arguments.sequences)?;
    let prompts = texts.iter().map(|text| engine.encode(text, Specials::AsText)).collect::<Result<Vec<_>>>()?;
    let (start, tokens) = (Instant::now(), prompts.iter().map(Vec::len).sum());
    let adapter = first_adapter(&engine);
    if let (true, Some(adapter)) = (arguments.labels, &adapter) {
        let problem = "labels are scored by the model as it is: merge the adapter into it (08-convert)";
        return Err(Error::parameter("adapter", adapter, problem));
    }
    if arguments.labels {
        classify(&mut engine, &texts, prompts)?;
    } else {
        let embed = |prompt| Embed { pooling: arguments.pooling, adapter: adapter.clone(), ..Embed::new(prompt) };
        let vectors = engine.embed_all(prompts.into_iter().map(embed))?;
        texts.iter().zip(&vectors).try_for_each(|(text, vector)| match arguments.vectors {
            true => print(format_args!("{}\n", numbers(vector))),
            false => print(format_args!("{:8.4}  {text}\n", product(&vectors[0], vector))),
        })?;
    }
    note(format_args!("{} texts, {tokens} tokens, {:.1} tok/s", texts.len(), rate(tokens, start.elapsed())));
    Ok(())
}

fn classify(engine: &mut Engine, texts: &[String], prompts: Vec<Vec<u32>>) -> Result<()> {
    for (text, prompt) in texts.iter().zip(prompts) {
        let scores = engine.classify(prompt)?;
        let scores = engine.labels().iter().zip(scores).map(|(label, score)| format!("{label} {score:.4}"));
        print(format_args!("{}  {text}\n", scores.collect::<Vec<_>>().join(", ")))?;
    }
    Ok(())
}

/// The cosine of the angle between two unit vectors.
fn product(x: &[f32], y: &[f32]) -> f32 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

fn numbers(vector: &[f32]) -> String {
    vector.iter().map(f32::to_string).collect::<Vec<_>>().join(" ")
}

/// The lines that hold anything, of all files in their order.
fn texts(paths: &[PathBuf]) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    match paths {
        [] => add(&mut texts, std::io::stdin().lock()).map_err(stdio)?,
        paths => paths.iter().try_for_each(|path| add_file(&mut texts, path))?,
    }
    Ok(texts)
}

fn add_file(texts: &mut Vec<String>, path: &Path) -> Result<()> {
    let file = std::fs::File::open(path).map_err(|e| Error::io(path, e))?;
    add(texts, BufReader::new(file)).map_err(|e| Error::io(path, e))
}

fn add(texts: &mut Vec<String>, input: impl BufRead) -> std::io::Result<()> {
    for line in lossy_lines(input) {
        let line = line?;
        texts.extend((!line.trim().is_empty()).then_some(line));
    }
    Ok(())
}
