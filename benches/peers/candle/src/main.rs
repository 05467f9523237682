//! Times candle on one GGUF and prints one line of JSON: prompt processing and generation, in tokens per second.
//!
//! The measures are those of `../llamacpp.py`, so that the three engines can stand in one table: `pp` is one forward
//! of the whole prompt in an empty cache with logits of its last token, `tg` is a row of single-token forwards after
//! `--context` tokens. Each is the median of `--repeat` runs, after a prompt and one further token that are not counted
//! and pay for the weights candle repacks lazily. No sampling, no tokenizer.

mod peer;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use candle_core::{Device, Result, Tensor};
use clap::Parser;

use crate::peer::{Kind, Peer};

#[derive(Parser)]
struct Args {
    /// A GGUF file of architecture `llama`.
    #[arg(long)]
    model: PathBuf,
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Tokens in the timed prompt.
    #[arg(long, default_value_t = 512)]
    prompt: usize,
    /// Tokens generated in a timed run.
    #[arg(long, default_value_t = 64)]
    generate: usize,
    /// Tokens already in the cache when generation starts.
    #[arg(long, default_value_t = 0)]
    context: usize,
    /// Sequences generated side by side, all of them at one position.
    #[arg(long, default_value_t = 1)]
    sequences: usize,
    /// Counted runs of each measure.
    #[arg(long, default_value_t = 5)]
    repeat: usize,
    /// Which of candle's two Llama graphs to run, and on what weights.
    #[arg(long, value_enum, default_value_t = Kind::Gguf)]
    kind: Kind,
}

fn main() -> Result<()> {
    let args = Args::parse();
    set_threads(args.threads);
    let mut bench = Bench { peer: Peer::load(&args.model, args.kind)? };

    let next = bench.warm_up(args.prompt)?;
    let pp = median(args.repeat, || bench.prompt(args.prompt))?;
    let tg = median(args.repeat, || bench.generate(args.context, args.generate, args.sequences))?;
    let side_by_side = if args.sequences > 1 { format!("x{}", args.sequences) } else { String::new() };

    let model = args.model.file_name().unwrap_or_default().to_string_lossy();
    println!(
        r#"{{"engine": "candle", "model": {model:?}, "threads": {}, "kind": "{}", "build": "{}", "next": {next}, "pp{}": {:.2}, "tg{}@{}{side_by_side}": {:.2}}}"#,
        args.threads,
        args.kind.name(),
        if cfg!(target_feature = "avx2") { "native" } else { "default" },
        args.prompt,
        args.prompt as f64 / pp.as_secs_f64(),
        args.generate,
        args.context,
        (args.generate * args.sequences) as f64 / tg.as_secs_f64(),
    );
    Ok(())
}

/// Candle and rayon take their thread counts from the environment, the first time they need a pool.
fn set_threads(threads: usize) {
    for name in ["RAYON_NUM_THREADS", "CANDLE_NUM_THREADS"] {
        // SAFETY: `main` calls this before anything else, so no other thread exists that could read the environment.
        unsafe { std::env::set_var(name, threads.to_string()) };
    }
}

/// The median of `repeat` durations.
fn median(repeat: usize, mut run: impl FnMut() -> Result<Duration>) -> Result<Duration> {
    let mut times = (0..repeat.max(1)).map(|_| run()).collect::<Result<Vec<_>>>()?;
    times.sort();
    let upper = times.len() / 2;
    let lower = (times.len() - 1) / 2;
    Ok((times[lower] + times[upper]) / 2)
}

struct Bench {
    peer: Peer,
}

impl Bench {
    /// Takes both paths once. Returns the likeliest token after the prompt: engines that do the same work mostly agree
    /// on it.
    fn warm_up(&mut self, prompt: usize) -> Result<u32> {
        self.peer.restart()?;
        let next = self.feed(0, prompt, 1)?.flatten_all()?.argmax(0)?.to_scalar()?;
        self.feed(prompt, 1, 1)?;
        Ok(next)
    }

    fn prompt(&mut self, prompt: usize) -> Result<Duration> {
        self.peer.restart()?;
        let start = Instant::now();
        self.feed(0, prompt, 1)?;
        Ok(start.elapsed())
    }

    fn generate(&mut self, context: usize, count: usize, sequences: usize) -> Result<Duration> {
        self.peer.restart()?;
        if context > 0 {
            self.feed(0, context, sequences)?;
        }
        let start = Instant::now();
        for position in context..context + count {
            self.feed(position, 1, sequences)?;
        }
        Ok(start.elapsed())
    }

    /// Forwards `count` tokens at `position` of each of `sequences` and returns the logits of the last ones. The ids are
    /// spread over the vocabulary in the same way for every engine.
    fn feed(&mut self, position: usize, count: usize, sequences: usize) -> Result<Tensor> {
        let spread = (self.peer.vocab() - 3) as u64;
        let id = |i: usize| (i as u64 * 7919 % spread + 3) as u32;
        let tokens: Vec<u32> = (position..position + count).map(id).collect();
        self.peer
            .forward(&Tensor::new(tokens.as_slice(), &Device::Cpu)?.unsqueeze(0)?.repeat((sequences, 1))?, position)
    }
}
