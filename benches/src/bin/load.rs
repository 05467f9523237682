//! What loading a model costs, beside reading the bytes of its files.
//!
//! ```text
//! cargo run --release -p llama-benches --bin load -- --model MODEL.gguf --threads 2
//! ```
//! Each round maps the files anew and reads every byte on all threads (the ceiling), then opens and loads the model, and
//! evaluates one token. Printed are the best of all rounds, the ratio of load to read within a round, what the system
//! counted meanwhile (page faults, its own time), and the most memory that the process ever had, beside the plan. The
//! files are in the system's cache unless somebody has just taken them out of it: then the first round's line, which is
//! printed alone, shows a cold start.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use llama_benches::{ceiling, process};
use llama_core::checkpoint::map::Map;
use llama_core::engine::{EngineOptions, Request};
use llama_core::{Loader, Result};
use llama_kernels::threads::{self, Threads};
use llama_kernels::{Cpu, CpuOptions};

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
    /// Leave out the raw read, which would warm the system's cache
    #[arg(long)]
    no_read: bool,
}

/// One round's figures, in seconds.
struct Round {
    read: f64,
    load: f64,
    token: f64,
    system: f64,
    faults: u64,
    plan: u64,
    huge: u64,
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

fn run(arguments: &Arguments) -> Result<()> {
    let before = process::status("VmHWM").unwrap_or(0);
    for _ in 0..arguments.repeat {
        let round = round(arguments)?;
        let peak = process::status("VmHWM").unwrap_or(0);
        println!(
            "{{\"read_s\":{:.3},\"load_s\":{:.3},\"load_of_read\":{:.2},\"first_token_s\":{:.3},\"system_cpu_s\":{:.2},\
             \"faults\":{},\"plan_mib\":{:.1},\"peak_mib\":{:.1},\"before_mib\":{:.1},\"huge_mib\":{:.1}}}",
            round.read,
            round.load,
            round.load / round.read,
            round.load + round.token,
            round.system,
            round.faults,
            mib(round.plan),
            mib(peak),
            mib(before),
            mib(round.huge),
        );
    }
    Ok(())
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1 << 20) as f64
}

fn round(arguments: &Arguments) -> Result<Round> {
    let read = if arguments.no_read { f64::NAN } else { read(arguments)? };
    let (faults, system) = process::faults_and_system_time().unwrap_or_default();
    let start = Instant::now();
    let cpu = Cpu::new(CpuOptions { threads: arguments.threads, ..CpuOptions::default() })?;
    let options = EngineOptions { context: Some(128), sequences: 1, ..EngineOptions::default() };
    let loader = Loader::open(&arguments.model)?.options(options);
    let plan = loader.memory_plan(&cpu)?.total();
    let mut engine = loader.load(cpu)?;
    let load = start.elapsed().as_secs_f64();
    let (faults_after, system_after) = process::faults_and_system_time().unwrap_or_default();
    let huge = process::huge_bytes().unwrap_or(0);
    let start = Instant::now();
    engine.complete(Request { max_tokens: Some(1), ..Request::new([1]) })?;
    let token = start.elapsed().as_secs_f64();
    Ok(Round { read, load, token, system: system_after - system, faults: faults_after - faults, plan, huge })
}

/// Seconds to map the file and read it on all threads.
fn read(arguments: &Arguments) -> Result<f64> {
    let threads = Threads::new(arguments.threads.unwrap_or_else(threads::available))?;
    let start = Instant::now();
    let map = Map::open(&arguments.model)?;
    std::hint::black_box(ceiling::raw_read(&threads, map.bytes()));
    map.release(map.bytes());
    Ok(start.elapsed().as_secs_f64())
}
