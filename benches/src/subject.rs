//! A model under measurement, with the ceilings of the machine beside it.

use std::hint::black_box;
use std::time::Instant;

use llama_core::backend::{KvFormat, Limits, Numerics, Reference, Timed};
use llama_core::batch::{BLOCK, Batch, BlockId};
use llama_core::checkpoint::{Checkpoint, Name};
use llama_core::config::Head;
use llama_core::engine::block_bytes;
use llama_core::model::{Llama, MemoryPlan, Model};
use llama_core::{Error, Result};
use llama_kernels::threads::Threads;
use llama_kernels::{Cpu, CpuOptions, Tier};
#[cfg(target_os = "linux")]
use memmap2::Advice;
use memmap2::MmapMut;

use crate::ceiling;

/// Rows of the largest step.
const CHUNK: usize = 512;

/// How a model is loaded and fed.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Threads, tier and numerics.
    pub cpu: CpuOptions,
    /// Positions of each sequence.
    pub context: usize,
    /// Sequences decoded side by side.
    pub sequences: usize,
}

/// A loaded model.
pub struct Subject {
    model: Llama<Timed<Cpu>>,
    threads: Threads,
    tier: Tier,
    numerics: Numerics,
    /// Bytes of weights that a step reads.
    pub weight_bytes: u64,
    /// Bytes of the KV cache that it reads for each position behind it.
    pub position_bytes: u64,
    /// Multiply-accumulates of the linears of one token, without the head.
    pub macs: u64,
    floats: bool,
    /// `weight_bytes` to be read, in huge pages as the weights are.
    memory: MmapMut,
    batch: Batch,
    logits: Vec<f32>,
}

impl Subject {
    /// Loads `checkpoint`.
    pub fn load(checkpoint: &Checkpoint, shape: Shape) -> Result<Self> {
        let cpu = Cpu::new(shape.cpu)?;
        let (count, tier) = (cpu.threads(), cpu.tier());
        let limits = limits(shape);
        let config = checkpoint.config();
        let table = checkpoint.view(Name::Embed)?;
        let unread = if config.head == Head::Tied { 0 } else { table.data().len() as u64 };
        let weight_bytes = MemoryPlan::of(&cpu, checkpoint, &limits)?.weights.saturating_sub(unread);
        let matrices = checkpoint.tensors().filter(|t| t.rows > 1).map(|t| (t.rows * t.cols) as u64).sum::<u64>();
        let tables = if config.head == Head::Tied { 1 } else { 2 };
        let macs = matrices - tables * (table.rows() * table.cols()) as u64;
        let floats = !shape.cpu.numerics.is_integer() || !checkpoint.view(Name::Q(0))?.format().is_quantised();
        Ok(Subject {
            model: Llama::load(Timed::new(cpu), checkpoint, limits, None, &mut |_| {})?,
            threads: Threads::new(count)?,
            tier,
            numerics: shape.cpu.numerics,
            weight_bytes,
            position_bytes: block_bytes(config, KvFormat::Half) / BLOCK as u64,
            macs,
            floats,
            memory: touched(weight_bytes as usize)?,
            batch: Batch::new(),
            logits: Vec::new(),
        })
    }

    /// Threads in use.
    pub fn threads(&self) -> usize {
        self.threads.count()
    }

    /// The backend and its timings.
    pub fn backend(&self) -> &Timed<Cpu> {
        self.model.backend()
    }

    /// Multiply-accumulates a second on all threads, of the instruction that prefill lives on.
    pub fn peak(&self) -> f64 {
        ceiling::macs_per_second(&self.threads, self.tier, self.floats, 20_000_000)
    }

    /// Bytes a second of a raw read of as many bytes as a decoded token touches, best of three.
    pub fn read(&self) -> f64 {
        let times = (0..3).map(|_| {
            let start = Instant::now();
            black_box(ceiling::raw_read(&self.threads, &self.memory));
            start.elapsed().as_secs_f64()
        });
        self.memory.len() as f64 / times.fold(f64::INFINITY, f64::min)
    }

    /// One step: `count` tokens at `position` of each of `sequences`; logits of the last of each.
    pub fn feed(&mut self, position: usize, count: usize, sequences: usize) -> Result<&[f32]> {
        fill(&mut self.batch, &self.model, position, count, sequences);
        self.model.forward(&self.batch, &mut self.logits)?;
        Ok(&self.logits)
    }

    /// The token with the greatest of the last logits: engines that do the same work mostly agree on it.
    pub fn likeliest(&self) -> usize {
        let greatest = |best, i| if self.logits[i] > self.logits[best] { i } else { best };
        (0..self.logits.len()).fold(0, greatest)
    }

    /// `count` tokens from `position` in steps of at most 512.
    pub fn fill_context(&mut self, count: usize, sequences: usize) -> Result<()> {
        let chunk = (CHUNK / sequences).max(1);
        for done in (0..count).step_by(chunk) {
            self.feed(done, chunk.min(count - done), sequences)?;
        }
        Ok(())
    }

    /// That a short prompt's logits have the bits of the reference backend.
    ///
    /// # Panics
    /// If they have not: a wrong result is not worth timing.
    pub fn check(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        let limits = Limits { tokens: 4, sequences: 1, outputs: 1, context: 4, blocks: 1, kv: KvFormat::Half };
        let mut reference = Llama::load(Reference::new(self.numerics), checkpoint, limits, None, &mut |_| {})?;
        let (mut batch, mut want) = (Batch::new(), Vec::new());
        fill(&mut batch, &reference, 0, 4, 1);
        reference.forward(&batch, &mut want)?;
        let got = self.feed(0, 4, 1)?;
        assert!(got.iter().map(|x| x.to_bits()).eq(want.iter().map(|x| x.to_bits())), "not the reference's bits");
        Ok(())
    }
}

/// Anonymous memory in huge pages where the system has them, written once so that it is there.
fn touched(bytes: usize) -> Result<MmapMut> {
    let mut memory = MmapMut::map_anon(bytes).map_err(|source| Error::io("anonymous memory", source))?;
    #[cfg(target_os = "linux")]
    let _ = memory.advise(Advice::HugePage); // refused where the system has none, and then nobody has them
    memory.fill(1);
    Ok(memory)
}

fn limits(shape: Shape) -> Limits {
    let Shape { context, sequences, .. } = shape;
    let blocks = sequences * context.div_ceil(BLOCK);
    let tokens = context.min(CHUNK).max(sequences);
    Limits { tokens, sequences, outputs: sequences, context, blocks, kv: KvFormat::Half }
}

/// Tokens that depend on the position alone, every sequence with blocks of its own.
fn fill(batch: &mut Batch, model: &dyn Model, position: usize, count: usize, sequences: usize) {
    let vocab = model.config().vocab;
    let table = model.limits().context.div_ceil(BLOCK);
    let tokens: Vec<u32> = (position..position + count).map(|i| (i * 7919 % (vocab - 3) + 3) as u32).collect();
    batch.clear();
    for s in 0..sequences {
        let blocks: Vec<BlockId> = (s * table..(s + 1) * table).map(|block| block as BlockId).collect();
        batch.push(&tokens, position as u32, &blocks, [count as u32 - 1]);
    }
}
