//! Structured: a text that keeps to a JSON schema, a regular expression or a grammar, token by token.
//!
//! ```text
//! cargo run --release -p llama-structured -- --regex "(yes|no)" --prompt "Did the dog run? "
//! cargo run --release -p llama-structured -- --model SmolLM2.gguf --prompt "A city as JSON: " --json-schema city.json
//! ```

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Parser};
use llama_core::engine::{Grammar, Request};
use llama_core::text::Specials;
use llama_core::{Error, Result};
use llama_examples::{ModelArgs, SamplingArgs, exit, first_adapter, fitting, print};
use llama_structured::Grammars;

/// Continue a prompt by a grammar.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    grammar: GrammarArgs,
    /// Text to continue
    #[arg(long, short)]
    prompt: String,
    /// Tokens to generate at most; fewer where the context is full before [default: until it is]
    #[arg(long, short = 'n')]
    max_tokens: Option<usize>,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct GrammarArgs {
    /// A file with a JSON schema
    #[arg(long)]
    json_schema: Option<PathBuf>,
    /// A regular expression
    #[arg(long)]
    regex: Option<String>,
    /// A file with a context-free grammar, in llguidance's dialect of Lark
    #[arg(long)]
    lark: Option<PathBuf>,
}

fn main() -> ExitCode {
    exit(|| run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<()> {
    let mut engine = arguments.model.load(1)?;
    let grammar = Some(grammar(&Grammars::of(&engine)?, &arguments.grammar)?);
    let prompt = engine.encode(&arguments.prompt, Specials::AsText)?;
    let sampling = arguments.sampling.sampling(&engine)?;
    let max_tokens = arguments.max_tokens.map(|wanted| fitting(wanted, &engine, prompt.len()));
    let adapter = first_adapter(&engine);
    let request = Request { max_tokens, sampling, grammar, adapter, ..Request::new(prompt) };
    for event in engine.generate(request)? {
        print(&event?.text)?;
    }
    print("\n")
}

fn grammar(grammars: &Grammars, arguments: &GrammarArgs) -> Result<Arc<dyn Grammar>> {
    let read = |path: &PathBuf| std::fs::read_to_string(path).map_err(|e| Error::io(path, e));
    match arguments {
        GrammarArgs { json_schema: Some(path), .. } => {
            let not_json = |e: serde_json::Error| Error::parameter("json_schema", path.display(), e.to_string());
            grammars.json_schema(&serde_json::from_str(&read(path)?).map_err(not_json)?)
        }
        GrammarArgs { lark: Some(path), .. } => grammars.lark(&read(path)?),
        GrammarArgs { regex, .. } => grammars.regex(regex.as_deref().unwrap_or_default()),
    }
}
