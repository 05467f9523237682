//! A server that speaks OpenAI's HTTP API, and Anthropic's for messages, over one [`Engine`]: chat completions, responses, messages,
//! completions, embeddings, similarities and labels, whole or as a stream, for one user or many at once.
//!
//! Two threads do the work. One owns the engine and does nothing but step it (`worker.rs`). The other has the network
//! (`listen.rs`): connections are tasks of a single-threaded runtime, and what takes time of its own, parsing, templates and
//! tokenizing, is done on a few threads beside it. What goes from one to the other is bounded.
//!
//! # The walk of a request
//!
//! | | |
//! |---|---|
//! | `listen.rs`, `stall.rs` | a connection, whose head, body and reader each have a time |
//! | `route.rs` | who asks, what for; the walk itself is the function `work` |
//! | `body.rs` | the body, within its bounds |
//! | `fields.rs`, `parameters.rs`, `format.rs`, `tools.rs`, `messages.rs`, `turns.rs`, `prompts.rs` | JSON to values, each checked; what nobody knows is refused |
//! | `chat.rs`, `completions.rs`, `responses/`, `anthropic/`, `embeddings.rs`, `similarity.rs`, `classify.rs` | values to `Work`: requests of the engine, and how to answer |
//! | `adapters.rs` | adapters that come and go |
//! | `tokens.rs` | what is answered without the engine: a text's tokens, and a text of tokens |
//! | `budget.rs` | places for the request's sequences and tokens, or a 429 |
//! | `worker.rs` | the engine's thread |
//! | `mailbox.rs` | events on their way back; dropping its reader cancels |
//! | `texts.rs`, `thoughts/`, `calls/`, `scores.rs`, `response.rs` | events to JSON, whole or piece by piece |
//! | `board.rs` | what `/health` and `/metrics` tell |
//!
//! Every error is an [`error::ApiError`]: a status, and the object that OpenAI's clients read, or Anthropic's at their paths.

#![forbid(unsafe_code)]

mod adapters;
mod anthropic;
mod board;
mod body;
mod budget;
mod calls;
mod chat;
mod classify;
mod completions;
mod embeddings;
pub mod error;
mod fields;
mod format;
mod listen;
mod mailbox;
mod messages;
mod options;
mod parameters;
mod prompts;
mod response;
mod responses;
mod route;
mod scores;
mod served;
mod similarity;
mod stall;
mod texts;
mod thoughts;
mod tokens;
mod tools;
mod turns;
mod work;
mod worker;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::Duration;

use llama_core::engine::{Engine, Stats};
use llama_core::text::ChatTemplate;
use llama_core::{Error, Result};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

pub use options::{Bounds, Options};

use adapters::Folder;
use board::Board;
use route::State;
use served::Served;
use worker::Worker;

/// Threads that parse, render templates and tokenize.
const TEXT_THREADS: usize = 4;
/// Time for such a thread to finish, when the server ends.
const TEXT_TIME: Duration = Duration::from_secs(1);

/// What is served.
pub struct Model {
    /// The engine. Embeddings can be had if it was made for them.
    pub engine: Engine,
    /// How a conversation becomes a prompt; without it there is no chat.
    pub template: Option<ChatTemplate>,
    /// What requests call the model.
    pub name: String,
}

/// A running server. Dropped, it ends as [`Server::stop`] has it, with nobody waiting; one that minds signals goes on.
pub struct Server {
    address: SocketAddr,
    board: Arc<Board>,
    stop: watch::Sender<bool>,
    network: JoinHandle<bool>,
    engine: JoinHandle<()>,
}

impl Server {
    /// Listens and starts both threads.
    ///
    /// # Errors
    /// [`Error::Io`] if the address cannot be had, the system refuses threads, or there is no [`Options::adapter_folder`];
    /// [`Error::Tokenizer`] for an engine without a tokenizer.
    pub fn start(model: Model, options: Options) -> Result<Self> {
        let Model { engine, template, name } = model;
        let served = Arc::new(Served::new(&engine, template, name)?);
        let folder = options.adapter_folder.as_deref().map(Folder::open).transpose()?;
        let at = options.address.to_string();
        let io = |error| Error::io(&at, error);
        let runtime = runtime().map_err(io)?;
        let listener = {
            let _context = runtime.enter();
            listen::bind(options.address).map_err(io)?
        };
        let address = listener.local_addr().map_err(io)?;
        let board = Arc::new(Board::default());
        // As many orders as there are places, so there is room for every job that was admitted, and one for an adapter.
        let (orders, received) = sync_channel(options.bounds.sequences + 1);
        let worker = Worker::new(engine, received, board.clone(), served.clone());
        let (stop, stopped) = watch::channel(false);
        if options.signals {
            runtime.spawn(stop_on_signal(stop.clone()));
        }
        let state = Arc::new(State::new(served, options, folder, board.clone(), orders));
        let network = spawn("network", move || run(runtime, listener, state, stopped)).map_err(io)?;
        let engine = spawn("engine", move || worker.run()).map_err(io)?;
        Ok(Server { address, board, stop, network, engine })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The engine's figures after its last step.
    pub fn stats(&self) -> Stats {
        self.board.stats()
    }

    /// Takes no more connections, lets requests be answered for [`Bounds::drain_time`], and ends. True if all of them were.
    pub fn stop(self) -> bool {
        self.stop.send_replace(true);
        self.wait()
    }

    /// Waits for a signal that ends the server ([`Options::signals`]). True if all requests could be answered before.
    pub fn wait(self) -> bool {
        let drained = self.network.join().unwrap_or(false);
        self.engine.join().is_ok() && drained
    }
}

/// One thread for all connections: they wait most of the time, and the engine needs the others.
fn runtime() -> std::io::Result<Runtime> {
    Builder::new_current_thread().enable_io().enable_time().max_blocking_threads(TEXT_THREADS).build()
}

fn spawn<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> std::io::Result<JoinHandle<T>> {
    std::thread::Builder::new().name(name.into()).spawn(work)
}

/// The thread of the network. When it ends nobody can send jobs any more, which ends the engine's thread.
fn run(runtime: Runtime, listener: TcpListener, state: Arc<State>, stop: watch::Receiver<bool>) -> bool {
    let drained = runtime.block_on(listen::serve(listener, state, stop));
    runtime.shutdown_timeout(TEXT_TIME);
    drained
}

/// Stops the server when a signal asks for it. A second one ends the process, as the system has it.
async fn stop_on_signal(stop: watch::Sender<bool>) {
    let interrupted = tokio::signal::ctrl_c();
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminated) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = interrupted => {}
                _ = terminated.recv() => {}
            }
        }
    }
    #[cfg(not(unix))]
    let _ = interrupted.await;
    stop.send_replace(true);
}
