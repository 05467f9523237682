//! Prefill and decode of one model, each beside the ceiling of the machine, measured in turn.
//!
//! ```text
//! cargo run --release -p llama-benches --bin speed -- --model MODEL.gguf --threads 2
//! ```
//! pp: one step of `--prompt` tokens in an empty context, logits of the last. tg: `--generate` steps of one token after
//! `--context` tokens. Before each, the ceiling: a raw read of as many bytes as a decoded token touches, and a loop of
//! the tier's best multiply-accumulate instruction. Printed are medians of `--repeat` rounds after a warm-up, and medians
//! of the rounds' ratios, as one line of JSON; `--verbs` adds where the time went.

use std::hint::black_box;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use llama_benches::ceiling;
use llama_core::Result;
use llama_core::backend::{KvFormat, Limits, Numerics, Timed};
use llama_core::batch::{BLOCK, Batch, BlockId};
use llama_core::checkpoint::{Checkpoint, Name};
use llama_core::format::Format;
use llama_core::model::{Llama, MemoryPlan, Model};
use llama_kernels::threads::Threads;
use llama_kernels::{Cpu, CpuOptions, Tier};

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
    #[arg(long, value_parser = tier)]
    tier: Option<Tier>,
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

fn tier(name: &str) -> Result<Tier, String> {
    Tier::ALL.into_iter().find(|tier| tier.name() == name).ok_or_else(|| format!("no tier {name}"))
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A model under measurement.
struct Bench {
    model: Llama<Timed<Cpu>>,
    threads: Threads,
    tier: Tier,
    /// Bytes of weights that a decoded token reads.
    weight_bytes: u64,
    /// Multiply-accumulates of the linears of one token of a prompt, without the head.
    macs: u64,
    floats: bool,
    /// Of `weight_bytes` length, to be read.
    memory: Vec<u8>,
    batch: Batch,
    logits: Vec<f32>,
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
    let mut bench = Bench::load(arguments)?;
    bench.round(arguments)?;
    bench.model.backend().reset();
    let rounds: Vec<Round> = (0..arguments.repeat).map(|_| bench.round(arguments)).collect::<Result<_>>()?;
    let of = |value: fn(&Round) -> f64| median(rounds.iter().map(value).collect());
    println!(
        "{{\"engine\":\"ours\",\"model\":{:?},\"threads\":{},\"pp{}\":{:.2},\"tg{}@{}\":{:.2},\"pp_of_peak\":{:.3},\
         \"tg_of_read\":{:.3},\"read_gbs\":{:.2},\"bytes_per_token\":{}}}",
        arguments.model.file_name().unwrap_or_default().to_string_lossy(),
        bench.threads.count(),
        arguments.prompt,
        of(|r| r.prefill_rate),
        arguments.generate,
        arguments.context,
        of(|r| r.decode_rate),
        of(|r| r.prefill_share),
        of(|r| r.decode_share),
        of(|r| r.read),
        bench.weight_bytes
    );
    if arguments.verbs {
        for entry in bench.model.backend().times() {
            eprintln!("{:16} {:8} calls {:10.1} us each", entry.verb, entry.calls, micros(&entry));
        }
    }
    Ok(())
}

fn micros(entry: &llama_core::backend::VerbTime) -> f64 {
    entry.time.as_secs_f64() * 1e6 / entry.calls as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

impl Bench {
    fn load(arguments: &Arguments) -> Result<Self> {
        let checkpoint = Checkpoint::open(&arguments.model)?;
        let cpu =
            Cpu::new(CpuOptions { threads: arguments.threads, tier: arguments.tier, numerics: Numerics::Default })?;
        let (count, tier) = (cpu.threads(), cpu.tier());
        let context = arguments.prompt.max(arguments.context + arguments.generate) + 1;
        let limits = Limits {
            tokens: arguments.prompt.max(512),
            sequences: arguments.sequences,
            outputs: arguments.sequences,
            context,
            blocks: arguments.sequences * context.div_ceil(BLOCK),
            kv: KvFormat::F16,
        };
        let weights = MemoryPlan::of(&cpu, &checkpoint, &limits)?.weights;
        let table = checkpoint.view(Name::Embed)?;
        let unread = if checkpoint.config().tied { 0 } else { table.data().len() as u64 };
        let weight_bytes = weights.saturating_sub(unread);
        let matrices = checkpoint.tensors().filter(|t| t.rows > 1).map(|t| (t.rows * t.cols) as u64).sum::<u64>();
        let heads = if checkpoint.config().tied { 1 } else { 2 };
        let macs = matrices - heads * (table.rows() * table.cols()) as u64;
        let floats = matches!(checkpoint.view(Name::Q(0))?.format(), Format::F32 | Format::F16 | Format::BF16);
        let model = Llama::load(Timed::new(cpu), &checkpoint, limits, None, &mut |_| {})?;
        let memory = vec![1u8; weight_bytes as usize];
        let (batch, logits) = (Batch::new(), Vec::new());
        Ok(Bench { model, threads: Threads::new(count)?, tier, weight_bytes, macs, floats, memory, batch, logits })
    }

    fn round(&mut self, arguments: &Arguments) -> Result<Round> {
        let peak = self.peak();
        let prefill = self.prefill(arguments.prompt, arguments.prompt)?;
        let read = self.read();
        for done in (0..arguments.context).step_by(512) {
            self.feed(done, 512.min(arguments.context - done), arguments.sequences)?;
        }
        let decode = self.decode(arguments)?;
        Ok(Round {
            prefill_rate: arguments.prompt as f64 / prefill,
            prefill_share: (self.macs * arguments.prompt as u64) as f64 / prefill / peak,
            decode_rate: (arguments.generate * arguments.sequences) as f64 / decode,
            decode_share: self.weight_bytes as f64 * arguments.generate as f64 / decode / read,
            read: read / 1e9,
        })
    }

    /// Multiply-accumulates a second on all threads, of the instruction that prefill lives on.
    fn peak(&self) -> f64 {
        let rounds = 20_000_000;
        let loops = if self.floats { ceiling::f32_macs } else { ceiling::int8_macs };
        let tier = self.tier;
        let start = Instant::now();
        self.threads.for_each(self.threads.count(), &|_| {
            black_box(loops(tier, rounds));
        });
        (loops(tier, 1) * rounds) as f64 * self.threads.count() as f64 / start.elapsed().as_secs_f64()
    }

    /// Bytes a second of a raw read, best of three.
    fn read(&self) -> f64 {
        let times = (0..3).map(|_| {
            let start = Instant::now();
            black_box(ceiling::raw_read(&self.threads, &self.memory));
            start.elapsed().as_secs_f64()
        });
        self.memory.len() as f64 / times.fold(f64::INFINITY, f64::min)
    }

    fn prefill(&mut self, count: usize, chunk: usize) -> Result<f64> {
        let start = Instant::now();
        for done in (0..count).step_by(chunk.max(1)) {
            self.feed(done, chunk.min(count - done), 1)?;
        }
        Ok(start.elapsed().as_secs_f64())
    }

    fn decode(&mut self, arguments: &Arguments) -> Result<f64> {
        let start = Instant::now();
        for i in 0..arguments.generate {
            self.feed(arguments.context + i, 1, arguments.sequences)?;
        }
        Ok(start.elapsed().as_secs_f64())
    }

    /// `count` tokens at `position` of each of `sequences`, logits of the last of each.
    fn feed(&mut self, position: usize, count: usize, sequences: usize) -> Result<()> {
        let vocab = self.model.config().vocab;
        let table = self.model.limits().context.div_ceil(BLOCK);
        let tokens: Vec<u32> = (position..position + count).map(|i| (i * 7919 % (vocab - 3) + 3) as u32).collect();
        self.batch.clear();
        for s in 0..sequences {
            let blocks: Vec<BlockId> = (s * table..(s + 1) * table).map(|block| block as BlockId).collect();
            self.batch.push(&tokens, position as u32, &blocks, [count as u32 - 1]);
        }
        self.model.forward(&self.batch, &mut self.logits)
    }
}
