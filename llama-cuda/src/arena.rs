//! Device memory in one piece: what the plan says a model will hold is taken at once, and handed out front to back.
//!
//! What does not fit the piece (tensors made without a plan, biases, which the plan does not know) gets a block of its own.
//! Memory returns to the device when the last span of its block is dropped.

use std::sync::Arc;

use llama_core::{Error, Result};

use crate::device::{Block, Device, Span};

/// Every span begins at a multiple of this, which any access a kernel makes divides.
pub(crate) const ALIGN: u64 = 256;

/// Bytes that a span of `bytes` takes.
pub(crate) const fn padded(bytes: u64) -> u64 {
    bytes.next_multiple_of(ALIGN)
}

/// The piece, and how much of it is handed out.
#[derive(Default)]
pub(crate) struct Arena {
    block: Option<Arc<Block>>,
    used: u64,
}

impl Arena {
    /// Takes `bytes` at once; what was taken before stays with its users.
    ///
    /// # Errors
    /// [`Error::Memory`] with the bytes needed and the bytes that are free.
    pub fn reserve(&mut self, device: &Arc<Device>, bytes: u64) -> Result<()> {
        let block = Block::new(device, padded(bytes))?;
        let block = block.ok_or_else(|| refuse(device, "the whole model", bytes))?;
        *self = Arena { block: Some(Arc::new(block)), used: 0 };
        Ok(())
    }

    /// `bytes` for `what`, from the piece if it has them.
    pub fn span(&mut self, device: &Arc<Device>, what: &'static str, bytes: u64) -> Result<Span> {
        let needed = padded(bytes.max(1));
        if let Some(block) = self.block.as_ref().filter(|block| block.bytes() - self.used >= needed) {
            let span = Span::new(block, self.used, bytes);
            self.used += needed;
            return Ok(span);
        }
        let block = Block::new(device, needed)?.ok_or_else(|| refuse(device, what, bytes))?;
        Ok(Span::new(&Arc::new(block), 0, bytes))
    }
}

fn refuse(device: &Arc<Device>, what: &'static str, needed: u64) -> Error {
    let limit = device.free_memory().unwrap_or(0);
    let advice = "the model's size (a smaller model or format), the context, the sequences or the chunk";
    Error::Memory { what, needed, limit, advice }
}
