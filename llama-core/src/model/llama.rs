//! Llama on one screen: [`Llama::step`] is the whole model, for every format, size and backend.
//!
//! Touvron et al. 2023 (arXiv:2302.13971): pre-norm decoder, RMSNorm, rotary positions, SwiGLU; grouped-query attention
//! from Llama 2 on. Shapes are `[rows, columns]`; T rows of tokens, O rows whose logits are wanted.

use crate::adapter::{Adapters, Loaded, Named, Place};
use crate::backend::{AttentionShape, Backend, Limits, Norm, Part};
use crate::batch::{AdapterId, AdapterRun, Batch, BlockId, Stage};
use crate::checkpoint::{Checkpoint, TensorView, checksum};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::format::Format;
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
    /// What is in each of the places for adapters.
    adapters: Vec<Option<Loaded>>,
    places: Vec<Place>,
    /// The rows of the step at hand that adapters change.
    adapted: Vec<AdapterRun>,
    backend: B,
    embed: B::Weight, // [vocab, hidden]
    layers: Vec<Layer<B>>,
    norm: B::Tensor,              // [1, hidden]
    head_norm: Option<B::Tensor>, // [1, hidden]: the same for logits, where the model divides those
    head: Option<Linear<B>>,      // [vocab, hidden]; None: the embedding serves, or nothing asks
    kv: B::KvCache,
    plan: B::Plan,
    work: Workspace<B>,
}

struct Layer<B: Backend> {
    attn_norm: B::Tensor,               // [1, hidden]
    qkv: Linear<B>,                     // [(heads + 2 kv_heads) head_dim, hidden]
    head_norms: Option<[B::Tensor; 2]>, // of queries and keys, [1, head_dim] each
    o: Linear<B>,                       // [hidden, heads head_dim]
    ffn_norm: B::Tensor,                // [1, hidden]
    gate_up: Linear<B>,                 // [2 ffn, hidden]
    down: Linear<B>,                    // [hidden, ffn]
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

    /// The same, with adapters beside the weights, of which each sequence of a batch may have one, and room for others.
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
        let places = adapters.all_places();
        let weight = |parts: &[Part<'_>]| -> Result<B::Weight> {
            let weight = backend.weight(parts)?;
            parts.iter().for_each(|part| part.weight.release());
            Ok(weight)
        };
        let linear = |parts: &[Part<'_>], fused: &Fused| -> Result<Linear<B>> {
            let mut linear = Linear::new(&backend, weight(parts)?, fused, &places, &config)?;
            for (place, named) in adapters.all().iter().enumerate() {
                linear.put(&backend, place, fused, named, &config)?;
            }
            Ok(linear)
        };
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
                head_norms: layer.head_norms.map(|[q, k]| Ok([gain(q)?, gain(k)?])).transpose()?,
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
            head_norm: config
                .divides_logits()
                .then(|| divided(&backend, parts.norm, config.multipliers.logits))
                .transpose()?,
            kv: backend.kv_cache(&shape, &limits)?,
            plan: backend.plan(&shape, &limits)?,
            work: Workspace::new(&backend, &config, &limits, widest_rank(&places, &config))?,
            config,
            batches: check::Batches::new(&limits)?,
            adapted: Vec::with_capacity(if places.is_empty() { 0 } else { limits.sequences }),
            adapters: adapters.loaded().cloned().map(Some).chain(std::iter::repeat(None)).take(places.len()).collect(),
            places,
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
        self.batches.check(batch, &self.config, &self.limits, &self.adapters)?;
        if batch.rows() == 0 {
            return Ok(());
        }
        self.work.set_rows(batch.rows(), batch.outputs.len());
        self.backend.prepare(&mut self.plan, batch)?;
        batch.adapted(Stage::Tokens, &mut self.adapted);
        self.step(batch.outputs.len())
    }

    /// Has `act` done to each linear of the graph.
    fn each_linear(&mut self, mut act: impl FnMut(&B, &mut Linear<B>, &Fused) -> Result<()>) -> Result<()> {
        let Llama { backend, layers, head, .. } = self;
        for (l, Layer { qkv, o, gate_up, down, .. }) in layers.iter_mut().enumerate() {
            let linears = [qkv, o, gate_up, down].into_iter().zip(Fused::layer(l));
            linears.into_iter().try_for_each(|(linear, fused)| act(backend, linear, &fused))?;
        }
        head.as_mut().map_or(Ok(()), |head| act(backend, head, &Fused::head()))
    }

    /// Has `named`, which fits, add from `place`.
    fn put(&mut self, place: usize, named: &Named) -> Result<()> {
        let config = self.config.clone();
        self.each_linear(|backend, linear, fused| linear.put(backend, place, fused, named, &config))?;
        named.verify()
    }

    fn step(&mut self, outputs: usize) -> Result<()> {
        let Llama { config, backend: b, embed, layers, norm, head_norm, head, kv, plan, work, adapted, .. } = self;
        let (eps, scale) = (config.residual_eps(), config.embedding_scale());
        let norm_by = |gain| Norm { gain, eps };
        let linears = Linears { backend: &*b, plan: &*plan, runs: adapted };
        b.replay(|| {
            b.embed(&mut work.residual, embed, scale, plan)?;
            for (l, layer) in layers.iter().enumerate() {
                let (attn_norm, ffn_norm) = (norm_by(&layer.attn_norm), norm_by(&layer.ffn_norm));
                let room = (&mut work.x, &mut work.low);
                linears.norm_linear(&mut work.qkv, room, &work.residual, attn_norm, &layer.qkv)?;
                if let Some([q, k]) = &layer.head_norms {
                    b.norm_heads(&mut work.qkv, [q, k], config.eps, plan)?;
                }
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
            b.rms_norm(&mut work.x, &work.residual, head_norm.as_ref().unwrap_or(norm), eps)?;
            b.take_outputs(&mut work.last, &work.x, plan)?;
            match head {
                Some(head) => linears.linear(&mut work.logits, &mut work.low, &work.last, head, Stage::Outputs),
                None => b.linear(&mut work.logits, &work.last, embed),
            }
        })
    }
}

/// `gain`, divided: logits are linear in what the head multiplies, so dividing that divides them.
fn divided<B: Backend>(backend: &B, gain: TensorView<'_>, divisor: f32) -> Result<B::Tensor> {
    let gains: Vec<f32> = gain.to_f32().iter().map(|gain| gain / divisor).collect();
    backend.gain(TensorView::new(gain.name(), Format::F32, 1, gains.len(), bytemuck::cast_slice(&gains))?)
}

fn no_room(named: &Named) -> Error {
    let problem = "finds no place: load the model with room for more adapters (Loader::adapter_room)";
    Error::parameter("adapter", &named.loaded().name, problem)
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
        b.rms_norm(&mut work.x, &work.residual, norm, config.residual_eps())?;
        b.read(&work.x, states)
    }

    fn copy_blocks(&mut self, pairs: &[(BlockId, BlockId)]) -> Result<()> {
        check::blocks(pairs.iter().flat_map(|&(from, to)| [from, to]), &self.limits)?;
        self.backend.copy_blocks(&mut self.kv, pairs)
    }

    fn identity(&self) -> u64 {
        self.identity
    }

    fn adapters(&self) -> &[Option<Loaded>] {
        &self.adapters
    }

    fn add_adapter(&mut self, named: &Named, free: &[AdapterId]) -> Result<AdapterId> {
        let misfit = |id: &AdapterId| self.places[*id as usize].check(named).err();
        let Some(&id) = free.iter().find(|id| misfit(id).is_none()) else {
            return Err(free.first().and_then(misfit).unwrap_or_else(|| no_room(named)));
        };
        // If this fails, half of it is there: no batch may ask for that, and what comes next is written over it.
        self.adapters[id as usize] = None;
        self.put(id as usize, named)?;
        self.adapters[id as usize] = Some(named.loaded().clone());
        Ok(id)
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
