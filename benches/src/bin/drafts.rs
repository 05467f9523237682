//! Speculative decoding beside decoding without it: the same engine, the same prompts, in turn.
//!
//! ```text
//! cargo run --release -p llama-benches --bin drafts -- --model MODEL.gguf --drafts 1,3,7
//! cargo run --release -p llama-benches --bin drafts -- --model LARGE.gguf --draft-model SMALL.gguf --drafts 3
//! ```
//! Prompts that a base model continues by repeating what it read (a text, a list), by varying it (code), and by telling
//! something new. For each and each number of drafts one line: decoded tokens a second without and with drafts (medians of
//! `--repeat` rounds in alternation), the median of the rounds' ratios, tokens a step, and how many drafts were accepted. The
//! tokens must be the same before anything is printed.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use llama_benches::report::{exit, median};
use llama_core::engine::{Engine, EngineOptions, Request, Stats};
use llama_core::sample::Sampling;
use llama_core::text::Specials;
use llama_core::{Error, Loader, Result};
use llama_kernels::{Cpu, CpuOptions};

const TEXT: &str = "The ferry left at seven in the morning with eleven passengers, two bicycles and a crate of lemons. \
    Halfway across the strait the engine stopped, and for twenty minutes nobody spoke. Then the captain's daughter, who \
    was nine years old, found a bent spoon in the fuel pump.";

/// Name and text, in which `{}` is [`TEXT`].
const PROMPTS: [(&str, &str); 4] = [
    ("copy", "Original: {}\n\nExact copy of the original: The ferry left"),
    (
        "list",
        "France: Paris. Germany: Berlin. Italy: Rome. Spain: Madrid. Portugal: Lisbon. Again, in the same order: France:",
    ),
    (
        "code",
        "struct Point {\n    x: f32,\n    y: f32,\n    z: f32,\n}\n\nimpl Point {\n    fn x(&self) -> f32 {\n        self.x\n    }\n\n    fn y(&self) -> f32 {\n",
    ),
    ("story", "Once upon a time, in a small village by the sea, there lived a"),
];

/// Measure one model.
#[derive(Parser)]
struct Arguments {
    /// A GGUF file or a Hugging Face folder
    #[arg(long)]
    model: PathBuf,
    /// A smaller model with the same tokens that drafts [default: look the drafts up]
    #[arg(long)]
    draft_model: Option<PathBuf>,
    /// Numbers of drafts
    #[arg(long, value_delimiter = ',', default_value = "1,3,7")]
    drafts: Vec<usize>,
    /// Threads [default: as many as this process may use]
    #[arg(long)]
    threads: Option<usize>,
    /// Tokens generated for each prompt
    #[arg(long, default_value_t = 96)]
    generate: usize,
    /// 0 takes the likeliest token
    #[arg(long, default_value_t = 0.0)]
    temperature: f32,
    /// Rounds after a warm-up
    #[arg(long, default_value_t = 5)]
    repeat: usize,
}

fn main() -> ExitCode {
    exit(run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<()> {
    let mut without = load(arguments, 0)?;
    for &drafts in &arguments.drafts {
        let mut with = load(arguments, drafts)?;
        for (name, prompt) in PROMPTS {
            let request = request(arguments, &without, &prompt.replace("{}", TEXT))?;
            let [expected, drafted] = [&mut without, &mut with].map(|engine| engine.complete(request.clone()));
            assert_eq!(drafted?.tokens, expected?.tokens, "{name} with {drafts} drafts");
            let before = with.stats();
            let rounds = (0..arguments.repeat)
                .map(|_| Ok([rate(&mut without, &request)?, rate(&mut with, &request)?]))
                .collect::<Result<Vec<_>>>()?;
            print(name, drafts, &rounds, before, with.stats());
        }
    }
    Ok(())
}

fn print(name: &str, drafts: usize, rounds: &[[f64; 2]], before: Stats, after: Stats) {
    let (steps, drafted) = (after.steps - before.steps, after.drafted - before.drafted);
    let accepted = after.accepted - before.accepted;
    println!(
        "{name:6} drafts {drafts:3}  {:8.1} tok/s without  {:8.1} with  ratio {:5.2}  {:5.2} tokens a step  {:3.0} % of drafts accepted",
        median(rounds.iter().map(|r| r[0])),
        median(rounds.iter().map(|r| r[1])),
        median(rounds.iter().map(|r| r[1] / r[0])),
        (steps + accepted) as f64 / steps as f64,
        100.0 * accepted as f64 / drafted.max(1) as f64,
    );
}

fn load(arguments: &Arguments, drafts: usize) -> Result<Engine> {
    let options = EngineOptions { sequences: 1, context: Some(1024), drafts, ..EngineOptions::default() };
    let open = |path: &Path| Ok::<_, Error>(Loader::open(path)?.options(options.clone()));
    let cpu = || Cpu::new(CpuOptions { threads: arguments.threads, ..CpuOptions::default() });
    let engine = open(&arguments.model)?.load(cpu()?)?;
    match &arguments.draft_model {
        Some(path) if drafts > 0 => {
            let drafter = open(path)?.drafter(cpu()?, &engine)?;
            engine.with_drafter(drafter)
        }
        _ => Ok(engine),
    }
}

fn request(arguments: &Arguments, engine: &Engine, prompt: &str) -> Result<Request> {
    let sampling = Sampling { temperature: arguments.temperature, seed: 1, ..Sampling::greedy() };
    let max_tokens = Some(arguments.generate);
    let prompt = engine.encode(prompt, Specials::AsText)?;
    Ok(Request { max_tokens, sampling, ignore_end: true, ..Request::new(prompt) })
}

/// Tokens a second after the first, which took the prompt.
fn rate(engine: &mut Engine, request: &Request) -> Result<f64> {
    let (mut first, mut tokens) = (None, 0);
    for event in engine.generate(request.clone())? {
        first.get_or_insert_with(Instant::now);
        tokens += usize::from(event?.token.is_some());
    }
    let time = first.map_or(f64::NAN, |first| first.elapsed().as_secs_f64());
    Ok((tokens - 1) as f64 / time)
}
