//! What a model will hold in memory, from the header and the limits alone, before a byte of weights is read.

use std::fmt;

use crate::adapter::Adapters;
use crate::backend::{AttentionShape, Backend, Limits, Part, Role};
use crate::checkpoint::{Checkpoint, Name, TensorView};
use crate::config::{Config, Head};
use crate::error::{Error, Result};
use crate::format::Format;
use crate::model::linear::{adapter_bytes, widest_rank};
use crate::model::workspace;

/// The tensors of a checkpoint as the graph fuses them.
pub(super) struct Parts<'a> {
    pub embed: Vec<Part<'a>>,
    pub layers: Vec<LayerParts<'a>>,
    pub norm: TensorView<'a>,
    pub head: Option<Vec<Part<'a>>>,
}

/// One layer's.
pub(super) struct LayerParts<'a> {
    pub attn_norm: TensorView<'a>,
    pub qkv: Vec<Part<'a>>,
    pub head_norms: Option<[TensorView<'a>; 2]>,
    pub o: Vec<Part<'a>>,
    pub ffn_norm: TensorView<'a>,
    pub gate_up: Vec<Part<'a>>,
    pub down: Vec<Part<'a>>,
}

impl<'a> Parts<'a> {
    pub fn new(checkpoint: &'a Checkpoint) -> Result<Self> {
        let part = |weight, bias| -> Result<Part<'a>> {
            Ok(Part { weight: checkpoint.view(weight)?, bias: checkpoint.find(bias) })
        };
        let whole = |name| -> Result<Vec<Part<'a>>> { Ok(vec![Part { weight: checkpoint.view(name)?, bias: None }]) };
        let config = checkpoint.config();
        let layer = |l| -> Result<LayerParts<'a>> {
            Ok(LayerParts {
                attn_norm: checkpoint.view(Name::AttnNorm(l))?,
                qkv: vec![
                    part(Name::Q(l), Name::QBias(l))?,
                    part(Name::K(l), Name::KBias(l))?,
                    part(Name::V(l), Name::VBias(l))?,
                ],
                head_norms: match config.head_norms {
                    true => Some([checkpoint.view(Name::QNorm(l))?, checkpoint.view(Name::KNorm(l))?]),
                    false => None,
                },
                o: vec![part(Name::O(l), Name::OBias(l))?],
                ffn_norm: checkpoint.view(Name::FfnNorm(l))?,
                gate_up: vec![part(Name::Gate(l), Name::GateBias(l))?, part(Name::Up(l), Name::UpBias(l))?],
                down: vec![part(Name::Down(l), Name::DownBias(l))?],
            })
        };
        Ok(Parts {
            embed: whole(Name::Embed)?,
            layers: (0..config.layers).map(layer).collect::<Result<_>>()?,
            norm: checkpoint.view(Name::Norm)?,
            head: (config.head == Head::Own).then(|| whole(Name::Head)).transpose()?,
        })
    }

    fn weights(&self) -> impl Iterator<Item = &[Part<'a>]> {
        let layers = self.layers.iter().flat_map(LayerParts::weights);
        std::iter::once(&self.embed[..]).chain(layers).chain(self.head.as_deref())
    }

    /// Bytes in the checkpoint.
    pub fn bytes(&self) -> u64 {
        self.weights().map(Self::bytes_of).sum()
    }

    pub fn bytes_of(parts: &[Part<'_>]) -> u64 {
        parts.iter().map(|part| part.weight.data().len() as u64).sum()
    }
}

impl<'a> LayerParts<'a> {
    fn weights(&self) -> [&[Part<'a>]; 4] {
        [&self.qkv, &self.o, &self.gate_up, &self.down]
    }

    pub fn bytes(&self) -> u64 {
        self.weights().into_iter().map(Parts::bytes_of).sum()
    }
}

/// Bytes that a loaded model holds, and its engine, and the most that it holds while it is loaded. Not counted: the
/// tokenizer, and what a backend has of the file at a time while it prepares weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Prepared weights and gains.
    pub weights: u64,
    /// What adapters add to them, and the room for more adapters.
    pub adapters: u64,
    /// The KV cache's blocks.
    pub kv_cache: u64,
    /// Activations of one step, logits included.
    pub activations: u64,
    /// The backend's own: quantised activations, rotations, schedules.
    pub scratch: u64,
    /// The engine's own: logits to sample from, hidden states, lists of KV blocks, a classifier. 0 where a model is planned
    /// without an engine.
    pub engine: u64,
}

impl MemoryPlan {
    /// The plan of `checkpoint` on `backend` within `limits`.
    pub fn of<B: Backend>(backend: &B, checkpoint: &Checkpoint, limits: &Limits) -> Result<Self> {
        Self::with(backend, checkpoint, &Adapters::new(), limits)
    }

    /// The same with adapters.
    pub fn with<B: Backend>(
        backend: &B,
        checkpoint: &Checkpoint,
        adapters: &Adapters,
        limits: &Limits,
    ) -> Result<Self> {
        Ok(Self::new(backend, checkpoint.config(), limits, &Parts::new(checkpoint)?, adapters))
    }

    pub(super) fn new<B: Backend>(
        backend: &B,
        config: &Config,
        limits: &Limits,
        parts: &Parts<'_>,
        adapters: &Adapters,
    ) -> Self {
        let weight = |parts: &[Part<'_>]| {
            let shapes: Vec<(Format, usize, usize)> =
                parts.iter().map(|p| (p.weight.format(), p.weight.rows(), p.weight.cols())).collect();
            backend.weight_bytes(&shapes)
        };
        let gains = |count: usize, cols| count as u64 * backend.tensor_bytes(1, cols, Role::Residual);
        let of_logits = if config.divides_logits() { gains(1, config.hidden) } else { 0 };
        let of_heads = if config.head_norms { gains(2 * config.layers, config.head_dim) } else { 0 };
        let shape = AttentionShape::new(config, limits.context);
        let places = adapters.all_places();
        let rank = widest_rank(&places, config);
        let widest = workspace::widest_input(config).max(rank);
        MemoryPlan {
            weights: parts.weights().map(weight).sum::<u64>()
                + gains(2 * config.layers + 1, config.hidden)
                + of_heads
                + of_logits,
            adapters: adapter_bytes(backend, &places, config),
            kv_cache: backend.kv_bytes(&shape, limits),
            activations: workspace::bytes(backend, config, limits, rank),
            scratch: backend.scratch_bytes(&shape, limits, widest),
            engine: 0,
        }
    }

    /// Everything.
    pub fn total(&self) -> u64 {
        [self.weights, self.adapters, self.kv_cache, self.activations, self.scratch, self.engine]
            .into_iter()
            .fold(0, u64::saturating_add)
    }

    /// Refuses a plan above `limit`, naming the largest number that a caller can lower.
    pub fn check(&self, limit: Option<u64>) -> Result<()> {
        let Some(limit) = limit.filter(|&limit| self.total() > limit) else { return Ok(()) };
        let advice = if self.weights > limit {
            "the model's size (a smaller model or format)"
        } else if self.weights.saturating_add(self.adapters) > limit {
            "the number of adapters, or the room for more of them"
        } else if self.kv_cache >= self.activations {
            "the number of KV blocks (context or sequences)"
        } else {
            "the tokens of a step (chunk)"
        };
        Err(Error::Memory { what: "the whole model", needed: self.total(), limit, advice })
    }
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / (1 << 20) as f64;
        write!(f, "{:.1} MiB: weights {:.1}, ", mib(self.total()), mib(self.weights),)?;
        if self.adapters > 0 {
            write!(f, "adapters {:.1}, ", mib(self.adapters))?;
        }
        write!(
            f,
            "KV cache {:.1}, activations {:.1}, scratch {:.1}, engine {:.1}",
            mib(self.kv_cache),
            mib(self.activations),
            mib(self.scratch),
            mib(self.engine)
        )
    }
}
