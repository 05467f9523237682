//! Llama on one screen: [`Llama::step`] is the whole model, for every format, size and backend.
//!
//! Touvron et al. 2023 (arXiv:2302.13971): pre-norm decoder, RMSNorm, rotary positions, SwiGLU; grouped-query attention
//! from Llama 2 on. Shapes are `[rows, columns]`; T rows of tokens, O rows whose logits are wanted.

use crate::adapter::{Adapters, Loaded};
use crate::backend::{AttentionShape, Backend, Limits, Norm, Part};
use crate::batch::{AdapterRun, Batch, BlockId, Stage};
use crate::checkpoint::{Checkpoint, TensorView, checksum};
use crate::config::Config;
use crate::error::Result;
use crate::model::linear::{Fused, Linear, Linears, widest_rank};
use crate::model::plan::{MemoryPlan, Parts};
use crate::model::workspace::Workspace;
use crate::model::{Model, check};
use crate::sample::{Draw, Outputs};

/// How far the preparing of weights has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the checkpoint that are prepared.
    pub done: u64,
    /// Bytes of the checkpoint that will be.
    pub total: u64,
}

/// A Llama on backend `B`.
pub struct Llama<B: Backend> {
    config: Config,
    limits: Limits,
    batches: check::Batches,
    identity: u64,
    adapters: Vec<Loaded>,
    /// The rows of the step at hand that adapters change.
    adapted: Vec<AdapterRun>,
    backend: B,
    embed: B::Weight, // [vocab, hidden]
    layers: Vec<Layer<B>>,
    norm: B::Tensor,         // [1, hidden]
    head: Option<Linear<B>>, // [vocab, hidden]; None: the embedding serves, or nothing asks
    kv: B::KvCache,
    plan: B::Plan,
    work: Workspace<B>,
}

struct Layer<B: Backend> {
    attn_norm: B::Tensor, // [1, hidden]
    qkv: Linear<B>,       // [(heads + 2 kv_heads) head_dim, hidden]
    o: Linear<B>,         // [hidden, heads head_dim]
    ffn_norm: B::Tensor,  // [1, hidden]
    gate_up: Linear<B>,   // [2 ffn, hidden]
    down: Linear<B>,      // [hidden, ffn]
}

impl<B: Backend> Llama<B> {
    /// Prepares all weights of `checkpoint` on `backend`, after [`MemoryPlan::check`]ing that everything fits `memory_limit`.
    pub fn load(
        backend: B,
        checkpoint: &Checkpoint,
        limits: Limits,
        memory_limit: Option<u64>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self> {
        Llama::load_with(backend, checkpoint, &Adapters::new(), limits, memory_limit, progress)
    }

    /// The same, with adapters beside the weights, of which each sequence of a batch may have one.
    ///
    /// # Errors
    /// As [`Llama::load`], and as reading the adapters.
    pub fn load_with(
        backend: B,
        checkpoint: &Checkpoint,
        adapters: &Adapters,
        limits: Limits,
        memory_limit: Option<u64>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self> {
        let config = checkpoint.config().clone();
        let parts = Parts::new(checkpoint)?;
        let memory = MemoryPlan::new(&backend, &config, &limits, &parts, adapters);
        memory.check(memory_limit)?;
        backend.reserve(memory.total(), memory.weights + memory.adapters)?;

        let total = parts.bytes();
        let mut done = 0;
        let mut advance = |bytes: u64| {
            done += bytes;
            progress(Progress { done, total });
        };
        let weight = |parts: &[Part<'_>]| -> Result<B::Weight> {
            let weight = backend.weight(parts)?;
            parts.iter().for_each(|part| part.weight.release());
            Ok(weight)
        };
        let linear =
            |parts: &[Part<'_>], fused: &Fused| Linear::new(&backend, weight(parts)?, fused, adapters, &config);
        let gain = |view: TensorView<'_>| match view.to_f32().iter().position(|x| !x.is_finite()) {
            Some(i) => Err(view.error(format!("element {i} is not finite"))),
            None => backend.gain(view),
        };
        let shape = AttentionShape::new(&config, limits.context);
        let form = format!("{:?} {} {shape:?}", backend.numerics(), backend.kv_form(&shape, &limits));
        // Before there are weights: a look at a tensor may bring two megabytes of the file into memory.
        let identity = checksum(checkpoint.contents(), form.as_bytes());
        let embed = weight(&parts.embed)?;
        advance(Parts::bytes_of(&parts.embed));
        let mut layers = Vec::with_capacity(config.layers);
        for (l, layer) in parts.layers.iter().enumerate() {
            let [qkv, o, gate_up, down] = &Fused::layer(l);
            layers.push(Layer {
                attn_norm: gain(layer.attn_norm)?,
                qkv: linear(&layer.qkv, qkv)?,
                o: linear(&layer.o, o)?,
                ffn_norm: gain(layer.ffn_norm)?,
                gate_up: linear(&layer.gate_up, gate_up)?,
                down: linear(&layer.down, down)?,
            });
            advance(layer.bytes());
        }
        let head = parts.head.as_ref().map(|head| linear(head, &Fused::head())).transpose()?;
        advance(parts.head.as_deref().map_or(0, Parts::bytes_of));
        checkpoint.verify()?;
        adapters.verify()?;
        Ok(Llama {
            norm: gain(parts.norm)?,
            kv: backend.kv_cache(&shape, &limits)?,
            plan: backend.plan(&shape, &limits)?,
            work: Workspace::new(&backend, &config, &limits, widest_rank(adapters, &config))?,
            config,
            batches: check::Batches::new(&limits, adapters.len())?,
            adapted: Vec::with_capacity(if adapters.is_empty() { 0 } else { limits.sequences }),
            adapters: adapters.loaded().cloned().collect(),
            limits,
            identity,
            backend,
            embed,
            layers,
            head,
        })
    }

    /// The backend, for its timings.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// Checks the batch and leaves its logits in the workspace.
    fn run(&mut self, batch: &Batch) -> Result<()> {
        self.batches.check(batch, &self.config, &self.limits)?;
        if batch.rows() == 0 {
            return Ok(());
        }
        self.work.set_rows(batch.rows(), batch.outputs.len());
        self.backend.prepare(&mut self.plan, batch)?;
        batch.adapted(Stage::Tokens, &mut self.adapted);
        self.step(batch.outputs.len())
    }

    fn step(&mut self, outputs: usize) -> Result<()> {
        let Llama { config, backend: b, embed, layers, norm, head, kv, plan, work, adapted, .. } = self;
        let norm_by = |gain| Norm { gain, eps: config.eps };
        let linears = Linears { backend: &*b, plan: &*plan, runs: adapted };
        b.replay(|| {
            b.embed(&mut work.residual, embed, plan)?;
            for (l, layer) in layers.iter().enumerate() {
                let (attn_norm, ffn_norm) = (norm_by(&layer.attn_norm), norm_by(&layer.ffn_norm));
                let room = (&mut work.x, &mut work.low);
                linears.norm_linear(&mut work.qkv, room, &work.residual, attn_norm, &layer.qkv)?;
                b.rope_and_store(&mut work.qkv, kv, l, plan)?;
                b.attention(&mut work.heads, &work.qkv, kv, l, plan)?;
                let room = (&mut work.x, &mut work.low);
                linears.linear_add(&mut work.residual, room, &work.heads, &layer.o)?;
                let room = (&mut work.gate_up, &mut work.x, &mut work.low);
                linears.norm_linear_swiglu(&mut work.act, room, &work.residual, ffn_norm, &layer.gate_up)?;
                let room = (&mut work.x, &mut work.low);
                linears.linear_add(&mut work.residual, room, &work.act, &layer.down)?;
            }
            if outputs == 0 {
                return Ok(());
            }
            b.rms_norm(&mut work.x, &work.residual, norm, config.eps)?;
            b.take_outputs(&mut work.last, &work.x, plan)?;
            match head {
                Some(head) => linears.linear(&mut work.logits, &mut work.low, &work.last, head, Stage::Outputs),
                None => b.linear(&mut work.logits, &work.last, embed),
            }
        })
    }
}

impl<B: Backend> Model for Llama<B> {
    fn config(&self) -> &Config {
        &self.config
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn forward(&mut self, batch: &Batch, logits: &mut Vec<f32>) -> Result<()> {
        logits.clear();
        self.run(batch)?;
        if batch.outputs.is_empty() { Ok(()) } else { self.backend.read(&self.work.logits, logits) }
    }

    fn sample(&mut self, batch: &Batch, draws: &[Draw<'_>], outputs: &mut Outputs) -> Result<()> {
        check::draws(draws, batch)?;
        outputs.clear();
        self.run(batch)?;
        if outputs.wants_logits && !batch.outputs.is_empty() {
            self.backend.read(&self.work.logits, &mut outputs.logits)?;
        }
        if draws.is_empty() { Ok(()) } else { self.backend.sample(&mut self.work.logits, draws, outputs) }
    }

    /// The residual is what a step leaves behind, so states cost a step that wants none nothing.
    fn states(&mut self, states: &mut Vec<f32>) -> Result<()> {
        let Llama { config, backend: b, norm, work, .. } = self;
        b.rms_norm(&mut work.x, &work.residual, norm, config.eps)?;
        b.read(&work.x, states)
    }

    fn copy_blocks(&mut self, pairs: &[(BlockId, BlockId)]) -> Result<()> {
        check::blocks(pairs.iter().flat_map(|&(from, to)| [from, to]), &self.limits)?;
        self.backend.copy_blocks(&mut self.kv, pairs)
    }

    fn identity(&self) -> u64 {
        self.identity
    }

    fn adapters(&self) -> &[Loaded] {
        &self.adapters
    }

    fn read_block(&mut self, block: BlockId, out: &mut Vec<u8>) -> Result<()> {
        check::blocks([block].into_iter(), &self.limits)?;
        self.backend.read_block(&self.kv, block, out)
    }

    fn write_block(&mut self, block: BlockId, bytes: &[u8]) -> Result<()> {
        check::blocks([block].into_iter(), &self.limits)?;
        self.backend.write_block(&mut self.kv, block, bytes)
    }

    fn backend(&self) -> String {
        self.backend.name()
    }
}
