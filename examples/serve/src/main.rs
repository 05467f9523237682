//! Serve: a model over HTTP, for every program that speaks OpenAI's API.
//!
//! ```text
//! cargo run --release -p llama-serve -- --model SmolLM2-135M-Instruct.Q4_1.gguf
//! curl http://127.0.0.1:8080/v1/chat/completions -H 'Content-Type: application/json' \
//!     -d '{"messages": [{"role": "user", "content": "What is the capital of France?"}]}'
//! ```
//! SIGTERM or ctrl-C ends it: requests on their way are answered first, as far as `--drain` seconds last.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use llama_core::adapter::AdapterRoom;
use llama_core::engine::EngineOptions;
use llama_core::{Error, Result};
use llama_examples::{ModelArgs, exit, note, shipped_model};
use llama_serve::{Bounds, Model, Options, Server};

/// Serve a model over HTTP.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    model: ModelArgs,
    /// Address to listen on; 0.0.0.0 lets other machines in, so give it --api-key-file too
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    host: IpAddr,
    /// Port to listen on; 0: any that is free
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// What requests call the model [default: the file's name]
    #[arg(long)]
    name: Option<String>,
    /// A file of keys, one a line: a request must bring one of them
    #[arg(long)]
    api_key_file: Option<PathBuf>,
    /// A name besides localhost that this server goes by, where it listens on a loopback address without keys
    #[arg(long)]
    host_name: Vec<String>,
    /// Adapters that may be loaded while the server runs, beside those of --adapter, out of --adapter-folder
    #[arg(long, value_name = "N", requires = "adapter_folder")]
    adapter_room: Option<usize>,
    /// The most ranks that one of them may have for a matrix
    #[arg(long, value_name = "R", default_value_t = 16, requires = "adapter_room")]
    adapter_rank: usize,
    /// Where they are: whoever may ask may have adapters of this folder loaded, and all unloaded
    #[arg(long, value_name = "DIR", requires = "adapter_room")]
    adapter_folder: Option<PathBuf>,
    /// Sequences worked through side by side
    #[arg(long, default_value_t = 16)]
    sequences: usize,
    /// Sequences admitted, those that wait included; more are told to come later
    #[arg(long, default_value_t = Bounds::default().sequences)]
    queue: usize,
    /// Tokens of their prompts
    #[arg(long, default_value_t = Bounds::default().prompt_tokens)]
    queue_tokens: usize,
    /// Seconds for requests to be answered when the server ends
    #[arg(long, default_value_t = Bounds::default().drain_time.as_secs())]
    drain: u64,
}

fn main() -> ExitCode {
    exit(|| run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    let options = options(arguments)?;
    let server = Server::start(model(arguments)?, options)?;
    note(format_args!("listening on http://{}", server.address()));
    match server.wait() {
        true => Ok(ExitCode::SUCCESS),
        false => {
            note("error: not every request could be answered");
            Ok(ExitCode::FAILURE)
        }
    }
}

fn model(arguments: &Arguments) -> Result<Model> {
    let loader = arguments.model.open()?;
    let loader = match arguments.adapter_room {
        Some(adapters) => loader.adapter_room(AdapterRoom { adapters, rank: arguments.adapter_rank })?,
        None => loader,
    };
    let template = loader.checkpoint().chat_template()?;
    let options = EngineOptions { embeddings: true, ..arguments.model.engine_options(arguments.sequences) };
    let engine = arguments.model.load_with(loader, options)?;
    let path = arguments.model.model.as_deref().unwrap_or(shipped_model());
    Ok(Model { engine, template, name: arguments.name.clone().unwrap_or_else(|| name(path)) })
}

/// A model's file or folder without path and ending.
fn name(path: &Path) -> String {
    let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
    name.map_or("model".into(), |name| name.to_string_lossy().into_owned())
}

fn options(arguments: &Arguments) -> Result<Options> {
    let bounds = Bounds {
        sequences: at_least_one("queue", arguments.queue)?,
        prompt_tokens: at_least_one("queue-tokens", arguments.queue_tokens)?,
        drain_time: Duration::from_secs(arguments.drain),
        ..Bounds::default()
    };
    Ok(Options {
        address: SocketAddr::new(arguments.host, arguments.port),
        api_keys: arguments.api_key_file.as_deref().map_or(Ok(Vec::new()), keys)?,
        hosts: arguments.host_name.clone(),
        adapter_folder: arguments.adapter_folder.clone(),
        signals: true,
        bounds,
    })
}

fn at_least_one(name: &'static str, value: usize) -> Result<usize> {
    match value {
        0 => Err(Error::parameter(name, 0, "must be at least 1")),
        value => Ok(value),
    }
}

/// The lines of a file that hold anything.
fn keys(path: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path).map_err(|error| Error::io(path, error))?;
    let keys: Vec<_> = text.lines().map(str::trim).filter(|key| !key.is_empty()).map(str::to_owned).collect();
    match keys.is_empty() {
        true => Err(Error::parameter("api-key-file", path.display(), "holds no key, so anybody could ask")),
        false => Ok(keys),
    }
}
