//! What serving costs: the same requests to an engine in this process and to a server of another engine over loopback, whole
//! and as streams, in turn. Clients ask again as soon as they are answered, so that as many sequences as there are clients are
//! on their way in all three. Engines have one thread, so that there is a core for everybody else. Printed are medians of
//! rounds after a warm-up, and medians of the rounds' ratios.
//!
//! ```text
//! LLAMA_BENCH_MODEL=MODEL.gguf cargo bench -p llama-serve --bench overhead
//! ```

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Instant;

use llama_core::engine::{Engine, EngineOptions, Request};
use llama_core::{Loader, Result};
use llama_kernels::{Cpu, CpuOptions};
use llama_serve::{Model, Options, Server};
use serde_json::json;

use client::Client;

#[path = "../tests/serve/client.rs"]
#[expect(dead_code, reason = "the tests need more of it")]
mod client;

const ROUNDS: usize = 5;
const PROMPT: usize = 16;
const GENERATED: usize = 32;
/// Requests of a round.
const REQUESTS: usize = 32;

fn main() -> Result<()> {
    // `cargo bench` passes its own.
    let model = std::env::var_os("LLAMA_BENCH_MODEL").map(PathBuf::from);
    let model = model.unwrap_or_else(|| llama_examples::shipped_model().into());
    let load = || -> Result<Engine> {
        let options = EngineOptions { context: Some(256), sequences: 16, ..EngineOptions::default() };
        Loader::open(&model)?.options(options).load(Cpu::new(CpuOptions { threads: Some(1), ..CpuOptions::default() })?)
    };
    let mut engine = load()?;
    let vocab = engine.model().config().vocab as u32;
    let served = Model { engine: load()?, template: None, name: "model".into() };
    let mut options = Options::default();
    options.address.set_port(0);
    let server = Server::start(served, options)?;
    println!("{}, {REQUESTS} requests of {PROMPT} tokens, {GENERATED} generated each", model.display());
    for clients in [1, 16] {
        let mut rounds = Vec::new();
        for round in 0..=ROUNDS {
            let prompts = prompts(round, vocab);
            let alone = rate(|| in_process(&mut engine, clients, &prompts))?;
            let whole = rate(|| over_http(server.address(), clients, &prompts, false))?;
            let stream = rate(|| over_http(server.address(), clients, &prompts, true))?;
            rounds.push([alone, whole, stream, whole / alone, stream / alone]);
        }
        let [alone, whole, stream, of_whole, of_stream] = medians(&rounds[1..]);
        println!(
            "{clients} clients: engine {alone:.0} tok/s, whole answers {whole:.0} ({:.1} %), streams {stream:.0} ({:.1} %)",
            100.0 * of_whole,
            100.0 * of_stream,
        );
    }
    server.stop();
    Ok(())
}

/// Tokens a second, all clients together.
fn rate(run: impl FnOnce() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    run()?;
    Ok((REQUESTS * GENERATED) as f64 / start.elapsed().as_secs_f64())
}

fn medians(rounds: &[[f64; 5]]) -> [f64; 5] {
    std::array::from_fn(|column| {
        let mut values: Vec<f64> = rounds.iter().map(|round| round[column]).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    })
}

/// The three ways get the same prompts. They are a block long, and the last token of a prompt is always computed, so a prefix
/// cache has nothing to give.
fn prompts(round: usize, vocab: u32) -> Vec<Vec<u32>> {
    let token = |request: usize, at: usize| (round * 7919 + request * 104_729 + at * 31) as u32 % (vocab - 300) + 300;
    (0..REQUESTS).map(|request| (0..PROMPT).map(|at| token(request, at)).collect()).collect()
}

/// Keeps `clients` requests on their way.
fn in_process(engine: &mut Engine, clients: usize, prompts: &[Vec<u32>]) -> Result<()> {
    let (mut waiting, mut running) = (prompts.iter(), HashSet::new());
    loop {
        while running.len() < clients
            && let Some(prompt) = waiting.next()
        {
            let request = Request { max_tokens: Some(GENERATED), ignore_end: true, ..Request::new(prompt.clone()) };
            running.insert(engine.submit(request)?);
        }
        if running.is_empty() {
            return Ok(());
        }
        for event in engine.step()? {
            if event.finish.is_some() {
                running.remove(&event.id);
            }
        }
    }
}

/// Every client has a connection and asks for its share of the prompts, one after the other.
fn over_http(address: SocketAddr, clients: usize, prompts: &[Vec<u32>], stream: bool) -> Result<()> {
    std::thread::scope(|scope| {
        for prompts in prompts.chunks(prompts.len().div_ceil(clients)) {
            scope.spawn(move || {
                let mut client = Client::connect(address);
                for prompt in prompts {
                    let body = json!({
                        "prompt": prompt, "max_tokens": GENERATED, "temperature": 0, "ignore_eos": true, "stream": stream,
                    });
                    client.post("/v1/completions", &body.to_string());
                    assert_eq!(client.reply().status, 200);
                }
            });
        }
    });
    Ok(())
}
