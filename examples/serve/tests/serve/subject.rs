//! What is served in the tests: the model that ships in the repository, as it is or with something between it and the engine.

use std::net::TcpListener;
use std::path::Path;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use llama_core::adapter::Adapters;
use llama_core::backend::Limits;
use llama_core::batch::{Batch, BlockId};
use llama_core::checkpoint::Checkpoint;
use llama_core::config::Config;
use llama_core::engine::{Engine, EngineOptions};
use llama_core::model::{Llama, Model};
use llama_core::ranks::{Follower, Leader};
use llama_core::text::ChatTemplate;
use llama_core::{Loader, Result};
use llama_kernels::{Cpu, CpuOptions};
use llama_serve::{Bounds, Options, Server};

/// Turns of a conversation, between tokens that only the template can make.
pub const TEMPLATE: &str = "{{ bos_token }}{% for message in messages %}{{ message.role }}: {{ message.content }}\n\
                            {% endfor %}{% if add_generation_prompt %}assistant:{% endif %}";

pub fn engine_options() -> EngineOptions {
    EngineOptions { sequences: 8, chunk: 64, embeddings: true, ..EngineOptions::default() }
}

/// The model as it is.
pub fn engine(options: EngineOptions) -> Engine {
    Loader::open(shipped()).unwrap().options(options).load(cpu()).unwrap()
}

/// A server of the model as it is, within the usual bounds.
pub fn server() -> Server {
    serve(engine(engine_options()), Bounds::default())
}

pub fn serve(engine: Engine, bounds: Bounds) -> Server {
    serve_with(engine, Options { bounds, ..Options::default() })
}

pub fn serve_with(engine: Engine, options: Options) -> Server {
    serve_template(engine, TEMPLATE, options)
}

/// On a port that is free.
pub fn serve_template(engine: Engine, template: &str, mut options: Options) -> Server {
    options.address.set_port(0);
    let template = Some(ChatTemplate::new(template).unwrap());
    Server::start(llama_serve::Model { engine, template, name: "stories".into() }, options).unwrap()
}

/// Something done to the logits of a step, or in its stead.
pub type Hook = Box<dyn FnMut(&Batch, &mut Vec<f32>) -> Result<()> + Send>;

/// The model with a hook.
pub fn hooked(options: EngineOptions, hook: Hook) -> Engine {
    let checkpoint = Checkpoint::open(shipped()).unwrap();
    let limits = options.limits(checkpoint.config()).unwrap();
    let inner = Llama::load(cpu(), &checkpoint, limits, None, &mut |_| {}).unwrap();
    hooked_engine(Box::new(inner), hook, &checkpoint, &options)
}

fn hooked_engine(inner: Box<dyn Model>, hook: Hook, checkpoint: &Checkpoint, options: &EngineOptions) -> Engine {
    let tokenizer = Arc::new(checkpoint.tokenizer().unwrap());
    Engine::new(Box::new(Hooked { inner, hook }), Some(tokenizer), options).unwrap()
}

/// The same on two ranks, of which the second is a thread that sends what it ended with.
pub fn hooked_ranks(options: EngineOptions, hook: Hook) -> (Engine, Receiver<Result<()>>) {
    let door = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = door.local_addr().unwrap().to_string();
    let (ended, end) = mpsc::channel();
    thread::spawn(move || {
        let follow = || Loader::open(shipped())?.follow(cpu(), Follower::join(&address)?);
        ended.send(follow())
    });
    let checkpoint = Checkpoint::open(shipped()).unwrap();
    let limits = options.limits(checkpoint.config()).unwrap();
    let leader = Leader::wait(&door, 2).unwrap();
    let inner = leader.load(cpu(), &checkpoint, &Adapters::new(), |_| Ok(limits), None, &mut |_| {}).unwrap();
    (hooked_engine(inner, hook, &checkpoint, &options), end)
}

/// A door that every step goes through.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    /// The model behind the door, which is shut.
    pub fn engine(&self, options: EngineOptions) -> Engine {
        let gate = self.clone();
        hooked(
            options,
            Box::new(move |_, _| {
                gate.wait();
                Ok(())
            }),
        )
    }

    pub fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    fn wait(&self) {
        let open = self.0.0.lock().unwrap();
        drop(self.0.1.wait_while(open, |open| !*open).unwrap());
    }
}

struct Hooked {
    inner: Box<dyn Model>,
    hook: Hook,
}

impl Model for Hooked {
    fn config(&self) -> &Config {
        self.inner.config()
    }

    fn limits(&self) -> &Limits {
        self.inner.limits()
    }

    fn forward(&mut self, batch: &Batch, logits: &mut Vec<f32>) -> Result<()> {
        self.inner.forward(batch, logits)?;
        (self.hook)(batch, logits)
    }

    fn states(&mut self, states: &mut Vec<f32>) -> Result<()> {
        self.inner.states(states)
    }

    fn copy_blocks(&mut self, pairs: &[(BlockId, BlockId)]) -> Result<()> {
        self.inner.copy_blocks(pairs)
    }

    fn identity(&self) -> u64 {
        self.inner.identity()
    }

    fn read_block(&mut self, block: BlockId, out: &mut Vec<u8>) -> Result<()> {
        self.inner.read_block(block, out)
    }

    fn write_block(&mut self, block: BlockId, bytes: &[u8]) -> Result<()> {
        self.inner.write_block(block, bytes)
    }

    fn backend(&self) -> String {
        self.inner.backend()
    }
}

pub fn cpu() -> Cpu {
    Cpu::new(CpuOptions { threads: Some(1), ..CpuOptions::default() }).unwrap()
}

pub fn shipped() -> &'static Path {
    llama_examples::shipped_model()
}
