//! A GPU: the ceilings of the machine, every verb of a model's shape beside them, then whole models.
//!
//! ```text
//! cargo run --release -p llama-benches --bin cuda -- --shape 8b --format q4_0
//! cargo run --release -p llama-benches --bin cuda -- --model MODEL.gguf --json     # one line for peers/compare.py
//! cargo run --release -p llama-benches --bin cuda -- --shape 8b --write MODEL.gguf # random weights, for the peers too
//! ```
//! Reading and multiplying are measured first, by kernels of our own, in the same process. A decoded token is a step of
//! the model with its tokens picked on the device; its ceiling is the bytes of weights and cache that it must read over
//! the rate that memory is read at. A prompt's is its products over the rate of the matrix unit. Without a GPU it says so.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use cudarc::driver::DriverError;
use llama_benches::gpu::Ceilings;
use llama_benches::random::{SIZES, Sizes, write};
use llama_benches::report::exit;
use llama_benches::verbs::{Row, Verbs};
use llama_benches::whole::{Loaded, Task};
use llama_core::checkpoint::Checkpoint;
use llama_core::format::Format;
use llama_core::{Error, Result};
use llama_cuda::{Cuda, CudaOptions, Gemm};

/// Measure a GPU.
#[derive(Parser)]
struct Arguments {
    /// A GGUF file or a Hugging Face folder [default: random weights of --shape in --format, in the system's folder for temporary files]
    #[arg(long)]
    model: Option<PathBuf>,
    /// Write a model of --shape and --format to this file, and do nothing else
    #[arg(long)]
    write: Option<PathBuf>,
    /// 1b, 3b, 8b, 70b or tiny
    #[arg(long, value_parser = shape, default_value = "1b")]
    shape: Sizes,
    /// bf16, f16, q8_0, q4_0, q4_1, q4_k, q5_k or q6_k
    #[arg(long, value_parser = format, default_value = "bf16")]
    format: Format,
    /// Number of the device
    #[arg(long, default_value_t = 0)]
    device: usize,
    /// Multiply matrices by mma.sync on Hopper, too
    #[arg(long)]
    mma: bool,
    /// Perform steps of one to four rows by one kernel that stays
    #[arg(long)]
    persistent: bool,
    /// Tokens of the prompt
    #[arg(long, default_value_t = 2048)]
    prompt: usize,
    /// Tokens decoded
    #[arg(long, default_value_t = 128)]
    generate: usize,
    /// Tokens in the cache before decoding
    #[arg(long, default_value_t = 512)]
    context: usize,
    /// Sequences decoded side by side
    #[arg(long, value_delimiter = ',', default_value = "1,4,16")]
    batch: Vec<usize>,
    /// Rounds; the median counts for models, the fastest for verbs
    #[arg(long, default_value_t = 5)]
    repeat: usize,
    /// MiB that are read to measure the memory
    #[arg(long, default_value_t = 4096)]
    read: usize,
    /// Measure the model only, and print one line of JSON
    #[arg(long)]
    json: bool,
    /// What peers/compare.py passes to every engine
    #[arg(long, hide = true)]
    threads: Option<usize>,
}

fn shape(name: &str) -> Result<Sizes, String> {
    SIZES.into_iter().find(|sizes| sizes.name == name).ok_or_else(|| format!("no shape {name}"))
}

fn format(name: &str) -> Result<Format, String> {
    Format::ALL.into_iter().find(|f| f.name().eq_ignore_ascii_case(name)).ok_or_else(|| format!("no format {name}"))
}

fn main() -> ExitCode {
    exit(run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<()> {
    if let Some(path) = &arguments.write {
        return write(path, &arguments.shape, arguments.format).map_err(|source| Error::io(path, source));
    }
    let devices = Cuda::devices()?;
    let Some(device) = devices.get(arguments.device) else {
        println!("nothing measured: this machine has {} CUDA devices", devices.len());
        return Ok(());
    };
    let machine = Machine::measure(arguments).map_err(|error| Error::Backend {
        backend: "cuda",
        verb: "ceiling",
        problem: error.to_string(),
    })?;
    if !arguments.json {
        let (read, multiply) = (machine.read / 1e9, 2e-12 * machine.products);
        println!("{}: reads {read:.0} GB/s, {} {multiply:.0} TFLOP/s\n", device.name, machine.instruction);
        verbs(arguments, &machine)?;
    }
    models(arguments, &machine)
}

fn options(arguments: &Arguments) -> CudaOptions {
    let gemm = if arguments.mma { Gemm::Mma } else { Gemm::Wgmma };
    CudaOptions { device: arguments.device, persistent: arguments.persistent, gemm, ..CudaOptions::default() }
}

/// Ceilings: bytes and multiply-adds a second, and what multiplies.
struct Machine {
    read: f64,
    products: f64,
    instruction: &'static str,
}

impl Machine {
    fn measure(arguments: &Arguments) -> std::result::Result<Self, DriverError> {
        let ceilings = Ceilings::new(arguments.device)?;
        let rounds = if arguments.shape.name == "tiny" { 8 } else { 20_000 };
        let read = ceilings.read(arguments.read << 20, arguments.repeat)?;
        let (products, instruction) = ceilings.products(rounds, arguments.repeat)?;
        Ok(Machine { read, products, instruction })
    }

    /// A verb's time beside the longer of the two that the machine needs at least.
    fn line(&self, row: &Row) -> String {
        let (bytes, products) = (row.bytes / self.read, row.products / self.products);
        let (rate, share) = if bytes >= products {
            (format!("{:8.1} GB/s", row.bytes / row.seconds / 1e9), bytes / row.seconds)
        } else {
            (format!("{:8.1} TFLOP/s", 2e-12 * row.products / row.seconds), products / row.seconds)
        };
        format!("{:44} {:5} {:9.2} {rate:16} {:6.1} %", row.what, row.tokens, row.seconds * 1e6, share * 100.0)
    }
}

fn verbs(arguments: &Arguments, machine: &Machine) -> Result<()> {
    let cuda = Cuda::new(options(arguments))?;
    let uncached = (arguments.read as u64) << 17; // an eighth of what is read at once
    let verbs = Verbs::new(&cuda, arguments.shape, arguments.format, uncached, arguments.repeat);
    println!("{:44} {:>5} {:>9} {:16} {:>8}", "verb", "rows", "us", "    rate", "of floor");
    let tokens: Vec<usize> = arguments.batch.iter().copied().chain([arguments.prompt]).collect();
    for row in verbs.linears(&tokens)? {
        println!("{}", machine.line(&row));
    }
    for row in verbs.adapters(&arguments.batch, arguments.prompt)? {
        println!("{}", machine.line(&row));
    }
    for row in verbs.others(&arguments.batch, arguments.context, arguments.prompt)? {
        println!("{}", machine.line(&row));
    }
    println!();
    Ok(())
}

/// The model's file: the one given, or random weights written once.
fn file(arguments: &Arguments) -> Result<PathBuf> {
    if let Some(path) = &arguments.model {
        return Ok(path.clone());
    }
    let name = format!("llama-{}-{}.gguf", arguments.shape.name, arguments.format.name());
    let path = std::env::temp_dir().join(name);
    if !path.exists() {
        eprintln!("writing random weights to {}", path.display());
        let unfinished = path.with_extension("part");
        let written = write(&unfinished, &arguments.shape, arguments.format);
        written.and_then(|()| std::fs::rename(&unfinished, &path)).map_err(|source| Error::io(&path, source))?;
    }
    Ok(path)
}

fn models(arguments: &Arguments, machine: &Machine) -> Result<()> {
    let path = file(arguments)?;
    let checkpoint = Checkpoint::open(&path)?;
    let most = if arguments.json { 1 } else { arguments.batch.iter().copied().max().unwrap_or(1) };
    let Arguments { prompt, generate, context, repeat, .. } = *arguments;
    let task = Task { cuda: options(arguments), prompt, generate, context, repeat };
    let start = Instant::now();
    let mut loaded = Loaded::new(&checkpoint, task, most)?;
    let load = start.elapsed().as_secs_f64();
    let prefill = loaded.prefill()?;
    if arguments.json {
        let decode = loaded.decode(1)?;
        println!(
            "{{\"engine\":\"ours\",\"model\":{:?},\"pp{}\":{:.2},\"tg{}@{}\":{:.2},\"pp_ceiling\":{:.2},\"read_gbs\":{:.1},\
             \"bytes_per_token\":{:.0},\"load_s\":{load:.2}}}",
            path.file_name().unwrap_or_default().to_string_lossy(),
            arguments.prompt,
            prefill.rate,
            arguments.generate,
            arguments.context,
            decode.rate,
            machine.products / (prefill.products / arguments.prompt as f64),
            machine.read / 1e9,
            decode.bytes,
        );
        return Ok(());
    }
    let share = prefill.products / prefill.seconds / machine.products;
    println!("{}, loaded in {load:.1} s", path.display());
    let (count, rate, instruction) = (arguments.prompt, prefill.rate, machine.instruction);
    println!("prefill {count:5} tokens    {rate:9.0} tok/s {:6.1} % of {instruction}", 100.0 * share);
    for &sequences in &arguments.batch {
        let decode = loaded.decode(sequences)?;
        let share = decode.bytes / decode.seconds / machine.read;
        println!("decode  {sequences:5} sequences {:9.1} tok/s {:6.1} % of bytes / rate", decode.rate, 100.0 * share);
    }
    Ok(())
}
