//! Whole models on a GPU: a prompt in one step, and tokens decoded one by one, picked on the device.

use std::time::Instant;

use llama_core::Result;
use llama_core::backend::{KvFormat, Limits};
use llama_core::batch::{BLOCK, Batch};
use llama_core::checkpoint::{Checkpoint, Name};
use llama_core::config::Head;
use llama_core::engine::block_bytes;
use llama_core::model::{Llama, MemoryPlan, Model};
use llama_core::sample::{Draw, History, Outputs, Sampling};
use llama_cuda::{Cuda, CudaOptions};

use crate::report::median;

/// What is asked of a model.
#[derive(Debug, Clone, Copy)]
pub struct Task {
    /// The device, and how it computes.
    pub cuda: CudaOptions,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Tokens decoded.
    pub generate: usize,
    /// Tokens in the cache before decoding.
    pub context: usize,
    /// Rounds, of which the median counts.
    pub repeat: usize,
}

/// One step's figures.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// Tokens a second, of all sequences.
    pub rate: f64,
    /// Seconds of the step.
    pub seconds: f64,
    /// Bytes of weights and cache that it must read.
    pub bytes: f64,
    /// Multiply-adds that it must do.
    pub products: f64,
}

/// A model on a device.
pub struct Loaded {
    task: Task,
    model: Llama<Cuda>,
    /// Bytes of weights that a step reads, and of the cache for each position.
    weights: f64,
    cached: f64,
    /// Multiply-adds of a token in the matrices of all layers.
    products: f64,
    outputs: Outputs,
    batch: Batch,
}

impl Loaded {
    /// Loads `checkpoint` with room for so many sequences.
    ///
    /// # Errors
    /// What the backend says.
    pub fn new(checkpoint: &Checkpoint, task: Task, sequences: usize) -> Result<Self> {
        let cuda = Cuda::new(task.cuda)?;
        let context = task.prompt.max(task.context + task.generate) + 1;
        let limits = Limits {
            tokens: task.prompt.max(sequences),
            sequences,
            outputs: sequences,
            context,
            blocks: sequences * context.div_ceil(BLOCK),
            kv: KvFormat::Half,
        };
        let config = checkpoint.config();
        let table = checkpoint.view(Name::Embed)?;
        let unread = if config.head == Head::Tied { 0 } else { table.data().len() as u64 };
        let matrices: u64 = checkpoint.tensors().filter(|t| t.rows > 1).map(|t| (t.rows * t.cols) as u64).sum();
        let tables = if config.head == Head::Tied { 1 } else { 2 } * (table.rows() * table.cols()) as u64;
        Ok(Loaded {
            task,
            weights: MemoryPlan::of(&cuda, checkpoint, &limits)?.weights.saturating_sub(unread) as f64,
            cached: block_bytes(config, KvFormat::Half) as f64 / BLOCK as f64,
            products: (matrices - tables) as f64,
            outputs: Outputs::new(config.vocab),
            batch: Batch::new(),
            model: Llama::load(cuda, checkpoint, limits, None, &mut |_| {})?,
        })
    }

    /// `count` tokens at `position` of each of `sequences`, and the likeliest next token of each.
    fn feed(&mut self, position: usize, count: usize, sequences: usize) -> Result<()> {
        let (vocab, table) = (self.model.config().vocab, self.model.limits().context.div_ceil(BLOCK));
        let tokens: Vec<u32> = (position..position + count).map(|i| (i * 7919 % (vocab - 3) + 3) as u32).collect();
        let greedy = Sampling::greedy();
        self.batch.clear();
        for s in 0..sequences {
            let blocks: Vec<u32> = (s * table..(s + 1) * table).map(|block| block as u32).collect();
            self.batch.push(&tokens, position as u32, &blocks, [count as u32 - 1]);
        }
        let draw =
            |row| Draw { row, sampling: &greedy, history: History::default(), position: (position + count) as u64 };
        let draws: Vec<Draw<'_>> = (0..sequences).map(draw).collect();
        self.model.sample(&self.batch, &draws, &mut self.outputs)
    }

    fn median(&mut self, mut run: impl FnMut(&mut Self) -> Result<()>) -> Result<f64> {
        run(self)?;
        let mut times = Vec::new();
        for _ in 0..self.task.repeat.max(1) {
            let start = Instant::now();
            run(self)?;
            times.push(start.elapsed().as_secs_f64());
        }
        Ok(median(times))
    }

    /// The prompt, into an empty cache.
    ///
    /// # Errors
    /// What the backend says.
    pub fn prefill(&mut self) -> Result<Step> {
        let count = self.task.prompt;
        let seconds = self.median(|loaded| loaded.feed(0, count, 1))?;
        let config = self.model.config();
        let attention = config.layers * config.heads * config.head_dim * count * (count + 1);
        let products = self.products * count as f64 + attention as f64;
        Ok(Step { rate: count as f64 / seconds, seconds, bytes: self.weights, products })
    }

    /// Tokens of so many sequences side by side.
    ///
    /// # Errors
    /// What the backend says.
    pub fn decode(&mut self, sequences: usize) -> Result<Step> {
        let (context, steps) = (self.task.context, self.task.generate);
        let chunk = (self.model.limits().tokens / sequences).max(1);
        for done in (0..context).step_by(chunk) {
            self.feed(done, chunk.min(context - done), sequences)?;
        }
        let all = self.median(|loaded| (0..steps).try_for_each(|i| loaded.feed(context + i, 1, sequences)))?;
        let seconds = all / steps as f64;
        let positions = (context + steps / 2) * sequences;
        let bytes = self.weights + self.cached * positions as f64;
        Ok(Step { rate: sequences as f64 / seconds, seconds, bytes, products: self.products * sequences as f64 })
    }
}
