//! What loading a model costs, beside reading the bytes of its files.
//!
//! ```text
//! cargo run --release -p llama-benches --bin load -- --model MODEL.gguf --threads 2
//! ```
//! Each round reads every byte of the file through a new map, then writes as many bytes of new memory in huge pages (the
//! two things that no loader can leave out), both on all threads; then it opens and loads the model, and evaluates one
//! token. Printed for each round are times, the ratio of load to read and write, seconds that the processors spent (which
//! other programs change less), page faults, the most memory that the process ever had, beside the plan, and how much of it
//! lies in huge pages. With `--cache` the first round writes the file of packed weights and the others map it.
//! The files are in the system's cache unless somebody has just taken them out of it: then the first round with
//! `--no-read` is a cold start.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use llama_benches::ceiling;
use llama_benches::process::{self, Usage};
use llama_benches::report::exit;
use llama_core::checkpoint::map::Map;
use llama_core::engine::{Engine, EngineOptions, Request};
use llama_core::{Error, Loader, Result};
use llama_kernels::threads::{self, Threads};
use llama_kernels::{Cpu, CpuOptions};
use memmap2::MmapMut;

/// Measure loading.
#[derive(Parser)]
struct Arguments {
    /// A GGUF file
    #[arg(long)]
    model: PathBuf,
    /// Threads [default: as many as this process may use]
    #[arg(long)]
    threads: Option<usize>,
    /// Rounds
    #[arg(long, default_value_t = 5)]
    repeat: usize,
    /// Take packed weights from this cache file, written by the first round
    #[arg(long)]
    cache: Option<PathBuf>,
    /// Keep BF16 weights in twelve bits, exactly
    #[arg(long)]
    compact: bool,
    /// Leave out the raw read, which would warm the system's cache
    #[arg(long)]
    no_read: bool,
}

/// One round's figures.
#[derive(Default)]
struct Round {
    read: Span,
    fresh: Span,
    load: Span,
    token: Span,
    plan: u64,
    huge: u64,
}

/// Wall seconds, and what the system counted meanwhile.
#[derive(Default)]
struct Span(f64, Usage);

impl Span {
    fn of<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, Span)> {
        let (start, before) = (Instant::now(), Usage::now().unwrap_or_default());
        let done = work()?;
        Ok((done, Span(start.elapsed().as_secs_f64(), Usage::now().unwrap_or_default().since(before))))
    }

    /// Seconds of all threads.
    fn processors(&self) -> f64 {
        self.1.user + self.1.system
    }
}

fn main() -> ExitCode {
    exit(run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<()> {
    let before = process::status("VmHWM").unwrap_or(0);
    for _ in 0..arguments.repeat {
        let Round { read, fresh, load, token, plan, huge } = round(arguments)?;
        println!(
            "{{\"read_s\":{:.3},\"fresh_s\":{:.3},\"load_s\":{:.3},\"first_token_s\":{:.3},\"load_ratio\":{:.2},\
             \"read_cpu_s\":{:.2},\"fresh_cpu_s\":{:.2},\"load_user_s\":{:.2},\"load_system_s\":{:.2},\"faults\":{},\
             \"plan_mib\":{:.1},\"peak_mib\":{:.1},\"before_mib\":{:.1},\"huge_mib\":{:.1}}}",
            read.0,
            fresh.0,
            load.0,
            load.0 + token.0,
            if arguments.no_read { 0.0 } else { load.0 / (read.0 + fresh.0) },
            read.processors(),
            fresh.processors(),
            load.1.user,
            load.1.system,
            load.1.faults,
            mib(plan),
            mib(process::status("VmHWM").unwrap_or(0)),
            mib(before),
            mib(huge),
        );
    }
    Ok(())
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1 << 20) as f64
}

fn round(arguments: &Arguments) -> Result<Round> {
    let mut round = Round::default();
    if !arguments.no_read {
        let threads = Threads::new(arguments.threads.unwrap_or_else(threads::available))?;
        let (bytes, read) = Span::of(|| read(&arguments.model, &threads))?;
        let ((), fresh) = Span::of(|| fresh(bytes, &threads))?;
        round = Round { read, fresh, ..round };
    }
    let ((mut engine, plan), load) = Span::of(|| load(arguments))?;
    let huge = process::huge_bytes().unwrap_or(0);
    let (_, token) = Span::of(|| engine.complete(Request { max_tokens: Some(1), ..Request::new([1]) }))?;
    Ok(Round { load, token, plan, huge, ..round })
}

fn load(arguments: &Arguments) -> Result<(Engine, u64)> {
    let &Arguments { threads, compact, .. } = arguments;
    let cpu = Cpu::new(CpuOptions { threads, compact, ..CpuOptions::default() })?;
    let options = EngineOptions { context: Some(128), sequences: 1, ..EngineOptions::default() };
    let loader = Loader::open(&arguments.model)?.options(options);
    let cpu = match &arguments.cache {
        Some(cache) => cpu.cached(cache, loader.checkpoint())?,
        None => cpu,
    };
    let plan = loader.memory_plan(&cpu)?.total();
    Ok((loader.load(cpu)?, plan))
}

/// Maps the file and reads it on all threads. Returns its length.
fn read(model: &Path, threads: &Threads) -> Result<usize> {
    let map = Map::open(model)?;
    black_box(ceiling::raw_read(threads, map.bytes()));
    Ok(map.bytes().len())
}

/// Writes a byte into each small page of as much new memory, in huge pages where the system has them.
fn fresh(bytes: usize, threads: &Threads) -> Result<()> {
    let mut memory = MmapMut::map_anon(bytes).map_err(|source| Error::io("anonymous memory", source))?;
    #[cfg(target_os = "linux")]
    let _ = memory.advise(memmap2::Advice::HugePage); // refused where the system has none, and then nobody has them
    threads.for_chunks(&mut memory, 4 << 20, |_, part| part.iter_mut().step_by(4096).for_each(|byte| *byte = 1));
    black_box(memory);
    Ok(())
}
