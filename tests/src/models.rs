//! Models on every backend and tier, and ways of feeding them.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use llama_core::Result;
use llama_core::adapter::{Adapters, Loaded, Named};
use llama_core::backend::{KvFormat, Limits, Numerics, Reference};
use llama_core::batch::{AdapterId, BLOCK, Batch, BlockId};
use llama_core::checkpoint::Checkpoint;
use llama_core::config::Config;
use llama_core::model::{Llama, Model};
use llama_core::ranks::{Follower, Leader};
use llama_core::sample::{Draw, Outputs};
use llama_cuda::{Cuda, CudaOptions};
use llama_kernels::{Cpu, CpuOptions, Tier};

/// A backend a suite loops over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// The executable specification.
    Reference,
    /// A tier of the CPU backend with so many threads.
    Cpu(Tier, usize),
    /// So many ranks of the CPU backend on this machine, with so many threads each. The leader has the best tier, the
    /// followers this one: the portable one is slow, but another.
    Ranks(usize, usize, Tier),
    /// The first CUDA device.
    Cuda,
}

impl Machine {
    /// The reference, then every tier this CPU has with 1 and 2 threads: the machines that give the same bits.
    pub fn all() -> Vec<Machine> {
        let tiers = Tier::available().flat_map(|tier| [Machine::Cpu(tier, 1), Machine::Cpu(tier, 2)]);
        std::iter::once(Machine::Reference).chain(tiers).collect()
    }

    /// Loads `checkpoint` on this machine.
    pub fn load(self, checkpoint: &Checkpoint, limits: Limits, numerics: Numerics) -> Box<dyn Model> {
        self.load_with(checkpoint, &Arc::default(), limits, numerics)
    }

    /// Loads `checkpoint` with adapters on this machine.
    pub fn load_with(
        self,
        checkpoint: &Checkpoint,
        adapters: &Arc<Adapters>,
        limits: Limits,
        numerics: Numerics,
    ) -> Box<dyn Model> {
        let quiet = &mut |_| {};
        match self {
            Machine::Reference => {
                Box::new(Llama::load_with(Reference::new(numerics), checkpoint, adapters, limits, None, quiet).unwrap())
            }
            Machine::Cpu(tier, threads) => {
                let options =
                    CpuOptions { tier: Some(tier), threads: Some(threads), numerics, ..CpuOptions::default() };
                Box::new(
                    Llama::load_with(Cpu::new(options).unwrap(), checkpoint, adapters, limits, None, quiet).unwrap(),
                )
            }
            Machine::Ranks(ranks, threads, tier) => {
                Box::new(Ranked::load((ranks, threads), [Tier::best(), tier], checkpoint, adapters, limits, numerics))
            }
            Machine::Cuda => {
                let options = CudaOptions { numerics, ..CudaOptions::default() };
                Box::new(
                    Llama::load_with(Cuda::new(options).unwrap(), checkpoint, adapters, limits, None, quiet).unwrap(),
                )
            }
        }
    }
}

/// A leader's model, and its followers on threads of this process.
struct Ranked {
    model: Option<Box<dyn Model>>,
    followers: Vec<JoinHandle<()>>,
}

impl Ranked {
    fn load(
        (ranks, threads): (usize, usize),
        [first, others]: [Tier; 2],
        checkpoint: &Checkpoint,
        adapters: &Arc<Adapters>,
        limits: Limits,
        numerics: Numerics,
    ) -> Self {
        let cpu = move |tier| {
            Cpu::new(CpuOptions { tier: Some(tier), threads: Some(threads), numerics, ..CpuOptions::default() })
                .unwrap()
        };
        let door = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = door.local_addr().unwrap().to_string();
        let follow = |_| {
            let (address, path, adapters) = (address.clone(), checkpoint.path().to_owned(), Arc::clone(adapters));
            thread::spawn(move || {
                let (follower, checkpoint) = (Follower::join(&address).unwrap(), Checkpoint::open(path).unwrap());
                follower.serve(cpu(others), &checkpoint, &adapters, None, &mut |_| ()).unwrap();
            })
        };
        let followers = (1..ranks).map(follow).collect();
        let leader = Leader::wait(&door, ranks).unwrap();
        let model = leader.load(cpu(first), checkpoint, adapters, |_| Ok(limits), None, &mut |_| ()).unwrap();
        Ranked { model: Some(model), followers }
    }

    fn model(&self) -> &dyn Model {
        self.model.as_deref().expect("until it is dropped")
    }

    fn model_mut(&mut self) -> &mut dyn Model {
        self.model.as_deref_mut().expect("until it is dropped")
    }
}

/// The leader leaves, and the followers have nothing to say against it.
impl Drop for Ranked {
    fn drop(&mut self) {
        drop(self.model.take());
        for follower in self.followers.drain(..) {
            assert!(follower.join().is_ok() || thread::panicking(), "a follower's error");
        }
    }
}

impl Model for Ranked {
    fn config(&self) -> &Config {
        self.model().config()
    }

    fn limits(&self) -> &Limits {
        self.model().limits()
    }

    fn forward(&mut self, batch: &Batch, logits: &mut Vec<f32>) -> Result<()> {
        self.model_mut().forward(batch, logits)
    }

    fn sample(&mut self, batch: &Batch, draws: &[Draw<'_>], outputs: &mut Outputs) -> Result<()> {
        self.model_mut().sample(batch, draws, outputs)
    }

    fn states(&mut self, states: &mut Vec<f32>) -> Result<()> {
        self.model_mut().states(states)
    }

    fn copy_blocks(&mut self, pairs: &[(BlockId, BlockId)]) -> Result<()> {
        self.model_mut().copy_blocks(pairs)
    }

    fn identity(&self) -> u64 {
        self.model().identity()
    }

    fn adapters(&self) -> &[Option<Loaded>] {
        self.model().adapters()
    }

    fn add_adapter(&mut self, named: &Named, free: &[AdapterId]) -> Result<AdapterId> {
        self.model_mut().add_adapter(named, free)
    }

    fn read_block(&mut self, block: BlockId, out: &mut Vec<u8>) -> Result<()> {
        self.model_mut().read_block(block, out)
    }

    fn write_block(&mut self, block: BlockId, bytes: &[u8]) -> Result<()> {
        self.model_mut().write_block(block, bytes)
    }

    fn backend(&self) -> String {
        self.model().backend()
    }
}

/// Limits for up to `sequences` sequences of `context` positions, everything in one step, f32 KV.
pub fn limits(sequences: usize, context: usize) -> Limits {
    let tokens = sequences * context;
    let blocks = sequences * context.div_ceil(BLOCK) + 16;
    Limits { tokens, sequences, outputs: tokens, context, blocks, kv: KvFormat::F32 }
}

/// The `tests/data` folder.
pub fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data")
}

/// The model that ships in the repository.
pub fn stories260k() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/stories260K.gguf")
}

/// The folder of outputs of other programs, or `None` with a note that `test` skips.
pub fn reference(test: &str) -> Option<PathBuf> {
    given("LLAMA_REFERENCE", test)
}

/// SmolLM2-135M-Instruct Q4_1 as GGUF, or `None` with a note that `test` skips.
pub fn smollm2(test: &str) -> Option<PathBuf> {
    given("LLAMA_SMOLLM2", test)
}

fn given(variable: &str, test: &str) -> Option<PathBuf> {
    let path = std::env::var_os(variable).map(PathBuf::from);
    if path.is_none() {
        eprintln!("skipped: {test} needs the environment variable {variable}");
    }
    path
}

/// A sequence being fed by hand: its tokens, its blocks and how many positions are in the cache.
pub struct Feed {
    /// All tokens.
    pub ids: Vec<u32>,
    /// Block table.
    pub blocks: Vec<BlockId>,
    /// Positions already evaluated.
    pub done: usize,
    /// What it is computed with.
    pub adapter: Option<AdapterId>,
}

impl Feed {
    /// A sequence whose blocks are `stride` apart, from `first`: scattered, so that a wrong table shows.
    pub fn new(ids: &[u32], first: BlockId, stride: BlockId, context: usize) -> Self {
        let blocks = (0..context.div_ceil(BLOCK) as BlockId).map(|i| first + i * stride).collect();
        Feed { ids: ids.to_vec(), blocks, done: 0, adapter: None }
    }

    /// Appends the next `count` tokens to `batch`, all of them outputs.
    pub fn push(&mut self, batch: &mut Batch, count: usize) -> usize {
        let count = count.min(self.ids.len() - self.done);
        batch.push(&self.ids[self.done..self.done + count], self.done as u32, &self.blocks, 0..count as u32);
        batch.adapt(self.adapter);
        self.done += count;
        count
    }
}

/// Logits of every position of `ids`, fed in chunks of `chunk`: `[ids, vocab]`.
pub fn logits_in_chunks(model: &mut dyn Model, ids: &[u32], chunk: usize) -> Vec<f32> {
    let mut feed = Feed::new(ids, 1, 1, ids.len());
    run(model, &mut feed, chunk)
}

/// Feeds the rest of `feed` in chunks and returns its logits.
pub fn run(model: &mut dyn Model, feed: &mut Feed, chunk: usize) -> Vec<f32> {
    let (mut batch, mut all, mut logits) = (Batch::new(), Vec::new(), Vec::new());
    while feed.done < feed.ids.len() {
        batch.clear();
        feed.push(&mut batch, chunk);
        model.forward(&batch, &mut logits).unwrap();
        all.extend_from_slice(&logits);
    }
    all
}

/// Index of the first largest.
pub fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (i, &v) in logits.iter().enumerate() {
        if v > logits[best] {
            best = i;
        }
    }
    best as u32
}

/// `ids` followed by `count` greedily chosen tokens.
pub fn greedy(model: &mut dyn Model, ids: &[u32], count: usize) -> Vec<u32> {
    logits_and_greedy(model, ids, count).1
}

/// Logits of every position of `ids`, and `ids` followed by `count` greedily chosen tokens: the prompt is evaluated once.
pub fn logits_and_greedy(model: &mut dyn Model, ids: &[u32], count: usize) -> (Vec<f32>, Vec<u32>) {
    let vocab = model.config().vocab;
    let mut feed = Feed::new(ids, 0, 1, ids.len() + count);
    let all = run(model, &mut feed, usize::MAX);
    let mut last = all[all.len() - vocab..].to_vec();
    while feed.ids.len() < ids.len() + count {
        if feed.ids.len() > ids.len() {
            last = run(model, &mut feed, usize::MAX);
        }
        feed.ids.push(argmax(&last));
    }
    (all, feed.ids)
}

/// The bits of `x`, for comparisons that mean equal.
pub fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|v| v.to_bits()).collect()
}
