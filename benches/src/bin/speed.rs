//! Prefill and decode of one model, each beside the ceiling of the machine, measured in turn.
//!
//! ```text
//! cargo run --release -p llama-benches --bin speed -- --model MODEL.gguf --threads 2
//! ```
//! pp: `--prompt` tokens in an empty context, in steps of at most 512, logits of the last. tg: `--generate` steps of one
//! token of each of `--sequences` after `--context` tokens, all of them counted. The ceilings: a raw read of as many bytes as
//! a step's weights, before and after decoding, against the bytes of weights and KV cache that steps read; and before the
//! prompt a loop of the tier's best multiply-accumulate instruction. Printed are medians of
//! `--repeat` rounds after a warm-up, medians of the rounds' ratios, and the likeliest token after the prompt, as one line
//! of JSON; `--verbs` adds where the time went. The bytes are those of the weights as they are kept (`--numerics float` keeps
//! them decoded); the multiply-accumulates are the model's, though `--numerics precise` does each twice.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use llama_benches::report::{exit, median};
use llama_benches::subject::{Shape, Subject};
use llama_core::Result;
use llama_core::backend::Numerics;
use llama_core::checkpoint::Checkpoint;
use llama_kernels::{CpuOptions, Tier};

/// Measure one model.
#[derive(Parser)]
struct Arguments {
    /// A GGUF file or a Hugging Face folder
    #[arg(long)]
    model: PathBuf,
    /// Threads [default: as many as this process may use]
    #[arg(long)]
    threads: Option<usize>,
    /// Instruction-set tier [default: the fastest this CPU has]
    #[arg(long)]
    tier: Option<Tier>,
    /// default, fast, precise or float
    #[arg(long, default_value = "default")]
    numerics: Numerics,
    /// Keep BF16 weights in twelve bits, exactly
    #[arg(long)]
    compact: bool,
    /// Tokens of the prompt
    #[arg(long, default_value_t = 512)]
    prompt: usize,
    /// Tokens decoded
    #[arg(long, default_value_t = 64)]
    generate: usize,
    /// Tokens in the cache before decoding
    #[arg(long, default_value_t = 0)]
    context: usize,
    /// Sequences decoded side by side
    #[arg(long, default_value_t = 1)]
    sequences: usize,
    /// Rounds
    #[arg(long, default_value_t = 5)]
    repeat: usize,
    /// Print the time of each verb
    #[arg(long)]
    verbs: bool,
}

fn main() -> ExitCode {
    exit(run(&Arguments::parse()))
}

/// One round's figures.
struct Round {
    prefill_rate: f64,
    prefill_share: f64,
    decode_rate: f64,
    decode_share: f64,
    read: f64,
}

fn run(arguments: &Arguments) -> Result<()> {
    let &Arguments { threads, tier, numerics, compact, .. } = arguments;
    let cpu = CpuOptions { threads, tier, numerics, compact };
    let context = arguments.prompt.max(arguments.context + arguments.generate) + 1;
    let shape = Shape { cpu, context, sequences: arguments.sequences };
    let start = Instant::now();
    let mut subject = Subject::load(&Checkpoint::open(&arguments.model)?, shape)?;
    let load = start.elapsed().as_secs_f64();
    subject.fill_context(arguments.prompt, 1)?;
    let next = subject.likeliest();
    round(&mut subject, arguments)?;
    subject.backend().reset();
    let rounds: Vec<Round> = (0..arguments.repeat).map(|_| round(&mut subject, arguments)).collect::<Result<_>>()?;
    let side_by_side = if arguments.sequences > 1 { format!("x{}", arguments.sequences) } else { String::new() };
    let of = |value: fn(&Round) -> f64| median(rounds.iter().map(value));
    println!(
        "{{\"engine\":\"ours\",\"model\":{:?},\"numerics\":\"{}\",\"threads\":{},\"next\":{next},\"pp{}\":{:.2},\"tg{}@{}{side_by_side}\":{:.2},\"pp_of_peak\":{:.3},\
         \"pp_ceiling\":{:.2},\"tg_of_read\":{:.3},\"read_gbs\":{:.2},\"bytes_per_token\":{},\"load_s\":{load:.2}}}",
        arguments.model.file_name().unwrap_or_default().to_string_lossy(),
        arguments.numerics.name(),
        subject.threads(),
        arguments.prompt,
        of(|r| r.prefill_rate),
        arguments.generate,
        arguments.context,
        of(|r| r.decode_rate),
        of(|r| r.prefill_share),
        of(|r| r.prefill_rate / r.prefill_share),
        of(|r| r.decode_share),
        of(|r| r.read),
        subject.weight_bytes
    );
    if arguments.verbs {
        for entry in subject.backend().times() {
            eprintln!("{:16} {:8} calls {:10.1} us each", entry.verb, entry.calls, micros(&entry));
        }
    }
    Ok(())
}

fn micros(entry: &llama_core::backend::VerbTime) -> f64 {
    entry.time.as_secs_f64() * 1e6 / entry.calls as f64
}

/// Ceiling, prefill, ceiling, decode, ceiling.
fn round(subject: &mut Subject, arguments: &Arguments) -> Result<Round> {
    let peak = subject.peak();
    let start = Instant::now();
    subject.fill_context(arguments.prompt, 1)?;
    let prefill = start.elapsed().as_secs_f64();

    let before = subject.read();
    subject.fill_context(arguments.context, arguments.sequences)?;
    let start = Instant::now();
    for i in 0..arguments.generate {
        subject.feed(arguments.context + i, 1, arguments.sequences)?;
    }
    let decode = start.elapsed().as_secs_f64();
    let read = (before + subject.read()) / 2.0;
    // The cache as it is in the middle of the tokens.
    let cached = (arguments.context + arguments.generate / 2) as u64 * arguments.sequences as u64;
    let step_bytes = subject.weight_bytes + cached * subject.position_bytes;
    Ok(Round {
        prefill_rate: arguments.prompt as f64 / prefill,
        prefill_share: (subject.macs * arguments.prompt as u64) as f64 / prefill / peak,
        decode_rate: (arguments.generate * arguments.sequences) as f64 / decode,
        decode_share: step_bytes as f64 * arguments.generate as f64 / decode / read,
        read: read / 1e9,
    })
}
