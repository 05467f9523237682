//! The tensors a step writes into, made once: a step allocates nothing and its addresses are stable.

use crate::backend::{Backend, Limits, Role, Rows};
use crate::config::Config;
use crate::error::Result;

/// Activations of one step; T rows of tokens, O rows of outputs.
pub(super) struct Workspace<B: Backend> {
    pub residual: B::Tensor, // [T, hidden]
    pub x: B::Tensor,        // [T, hidden]
    pub qkv: B::Tensor,      // [T, (heads + 2 kv_heads) head_dim]
    pub heads: B::Tensor,    // [T, heads head_dim]
    pub gate_up: B::Tensor,  // [T, 2 ffn]
    pub act: B::Tensor,      // [T, ffn]
    pub last: B::Tensor,     // [O, hidden]
    pub logits: B::Tensor,   // [O, vocab]
    /// `[T, rank]`; `None` where there are no adapters.
    pub low: Option<B::Tensor>,
}

impl<B: Backend> Workspace<B> {
    pub fn new(backend: &B, config: &Config, limits: &Limits, rank: usize) -> Result<Self> {
        let low = |(rows, cols, role)| backend.tensor(rows, cols, role);
        let [residual, x, qkv, heads, gate_up, act, last, logits] =
            shapes(config, limits).map(|(rows, cols, role)| backend.tensor(rows, cols, role));
        Ok(Workspace {
            residual: residual?,
            x: x?,
            qkv: qkv?,
            heads: heads?,
            gate_up: gate_up?,
            act: act?,
            last: last?,
            logits: logits?,
            low: low_shape(limits, rank).map(low).transpose()?,
        })
    }

    /// Uses `tokens` rows, and `outputs` rows of logits.
    pub fn set_rows(&mut self, tokens: usize, outputs: usize) {
        let Workspace { residual, x, qkv, heads, gate_up, act, last, logits, low } = self;
        low.iter_mut().for_each(|low| low.set_rows(tokens.max(outputs)));
        [residual, x, qkv, heads, gate_up, act].into_iter().for_each(|tensor| tensor.set_rows(tokens));
        [last, logits].into_iter().for_each(|tensor| tensor.set_rows(outputs));
    }
}

/// Largest rows, columns and role of each tensor, in the order of the fields.
fn shapes(config: &Config, limits: &Limits) -> [(usize, usize, Role); 8] {
    let (t, o) = (limits.tokens, limits.outputs);
    let heads = config.heads * config.head_dim;
    let qkv = heads + 2 * config.kv_heads * config.head_dim;
    [
        (t, config.hidden, Role::Residual),
        (t, config.hidden, Role::Activation),
        (t, qkv, Role::Local),
        (t, heads, Role::Activation),
        (t, 2 * config.ffn, Role::Local),
        (t, config.ffn, Role::Activation),
        (o, config.hidden, Role::Activation),
        (o, config.vocab, Role::Logits),
    ]
}

/// The same of `low`, for adapters of at most `rank`: whole on every rank and in f32, as what is added to a residual is.
fn low_shape(limits: &Limits, rank: usize) -> Option<(usize, usize, Role)> {
    (rank > 0).then_some((limits.tokens.max(limits.outputs), rank, Role::Residual))
}

/// Bytes of all of them.
pub(super) fn bytes<B: Backend>(backend: &B, config: &Config, limits: &Limits, rank: usize) -> u64 {
    let all = shapes(config, limits).into_iter().chain(low_shape(limits, rank));
    all.map(|(rows, cols, role)| backend.tensor_bytes(rows, cols, role)).sum()
}

/// Columns of the widest input of a linear.
pub(crate) fn widest_input(config: &Config) -> usize {
    config.hidden.max(config.ffn).max(config.heads * config.head_dim)
}
