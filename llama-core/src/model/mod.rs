//! The one object-safe seam: what the engine needs of a model, whatever backend runs it.

mod check;
mod llama;
mod plan;
mod workspace;

pub use llama::{Llama, Progress};
pub use plan::MemoryPlan;

use crate::backend::Limits;
use crate::batch::{Batch, BlockId};
use crate::config::Config;
use crate::error::Result;

/// A model loaded on some backend, with its KV cache.
pub trait Model: Send {
    /// Sizes.
    fn config(&self) -> &Config;
    /// What one step and the KV cache may hold.
    fn limits(&self) -> &Limits;
    /// Runs one step and writes logits of `batch.outputs` into `logits`, which is replaced: `[outputs, vocab]`.
    fn forward(&mut self, batch: &Batch, logits: &mut Vec<f32>) -> Result<()>;
    /// Copies whole KV blocks `(from, to)` in every layer.
    fn copy_blocks(&mut self, pairs: &[(BlockId, BlockId)]) -> Result<()>;
    /// Name of the backend, for people.
    fn backend(&self) -> String;
}
