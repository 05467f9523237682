//! The one object-safe seam: what the engine needs of a model, whatever backend runs it.

pub(crate) mod check;
mod linear;
mod llama;
mod plan;
mod workspace;

pub use llama::{Llama, Progress};
pub use plan::MemoryPlan;
pub(crate) use workspace::widest_input;

use crate::adapter::{Loaded, Named};
use crate::backend::Limits;
use crate::batch::{AdapterId, Batch, BlockId};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::sample::{Draw, Outputs};

/// A model loaded on some backend, with its KV cache.
pub trait Model: Send {
    /// Sizes.
    fn config(&self) -> &Config;
    /// What one step and the KV cache may hold.
    fn limits(&self) -> &Limits;
    /// Runs one step and writes logits of `batch.outputs` into `logits`, which is replaced: `[outputs, vocab]`.
    fn forward(&mut self, batch: &Batch, logits: &mut Vec<f32>) -> Result<()>;
    /// Runs one step, picks a token for each of `draws` into `outputs.picks`, and brings the logits to the host where
    /// `outputs` wants them. What `outputs` held before is gone.
    fn sample(&mut self, batch: &Batch, draws: &[Draw<'_>], outputs: &mut Outputs) -> Result<()> {
        check::draws(draws, batch)?;
        outputs.clear();
        self.forward(batch, &mut outputs.logits)?;
        outputs.pick(draws);
        Ok(())
    }
    /// Reads the last hidden states of every row of the step before, after the model's last norm, into `states`, which is
    /// replaced: `[rows, hidden]`. What it reads after a step that failed, or before the first, is not defined.
    fn states(&mut self, states: &mut Vec<f32>) -> Result<()>;
    /// Copies whole KV blocks `(from, to)` in every layer.
    fn copy_blocks(&mut self, pairs: &[(BlockId, BlockId)]) -> Result<()>;
    /// A number that is the same where a block of the KV cache holds the same bytes for the same tokens, and hardly elsewhere: of the
    /// weights it sees what [`Checkpoint::contents`](crate::checkpoint::Checkpoint::contents) does.
    fn identity(&self) -> u64;
    /// Its places for adapters, each at its number, and what is in them: first those that it was loaded with.
    fn adapters(&self) -> &[Option<Loaded>] {
        &[]
    }
    /// Puts an adapter into the first of the places `free` that it fits, in the stead of whatever is there, and returns which that
    /// was. Other places' adapters add what they did, bit for bit.
    ///
    /// # Errors
    /// [`Error::Unsupported`] by a model whose adapters are those that it was loaded with;
    /// [`Error::Parameter`] if it has too many ranks for each of them, or there is none; as reading the
    /// adapter, and then there is nothing in the place.
    fn add_adapter(&mut self, named: &Named, free: &[AdapterId]) -> Result<AdapterId> {
        let _ = free;
        let what = format!("adapter {:?} for a model that is loaded", named.loaded().name);
        Err(Error::unsupported(what, "give it when the model is loaded (Loader::adapter)"))
    }
    /// Reads the K and V of a block into `out`, which is replaced; their length is the same for every block.
    fn read_block(&mut self, block: BlockId, out: &mut Vec<u8>) -> Result<()>;
    /// Writes them, as [`Model::read_block`] of a model with the same [`Model::identity`] read them.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a block outside the pool or bytes that are not as many as a block's.
    fn write_block(&mut self, block: BlockId, bytes: &[u8]) -> Result<()>;
    /// Name of the backend, for people.
    fn backend(&self) -> String;
}
