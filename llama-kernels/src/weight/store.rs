//! Where the panels of a model's weights lie: in one mapping of huge pages, or in a cache file.

use std::ops::Range;
use std::sync::Arc;

use llama_core::Result;
use llama_core::checkpoint::TensorView;

use super::cache::{Cache, Mapped};
use super::pack::Pack;
use super::plain::Spare;
use crate::buffer::Pages;

const WHAT: &str = "weights";
const ADVICE: &str = "the size of the model";

/// Memory for the weights of one model.
#[derive(Default)]
pub struct Store {
    reserve: Option<Pages>,
    cache: Option<Cache>,
    spare: Spare,
}

impl Store {
    /// Takes weights from `cache` from now on.
    pub fn map(&mut self, cache: Cache) {
        self.cache = Some(cache);
    }

    /// The cache in use.
    pub fn cache(&self) -> Option<&Cache> {
        self.cache.as_ref()
    }

    /// Gets memory for so many bytes of weights in one piece. What comes later finds a place of its own.
    pub fn reserve(&mut self, bytes: u64) -> Result<()> {
        if self.cache.is_none() {
            self.reserve = Some(Pages::zeroed(usize::try_from(bytes).unwrap_or(usize::MAX), WHAT, ADVICE)?);
        }
        Ok(())
    }

    /// Zeros for `len` bytes of panels.
    pub(super) fn take(&mut self, len: usize) -> Result<Pages> {
        match self.reserve.as_mut().and_then(|reserve| reserve.split(len)) {
            Some(pages) => Ok(pages),
            None => Pages::zeroed(len, WHAT, ADVICE),
        }
    }

    /// Zeros for so many plain panels of `view`, the others of which have form `pack`.
    pub(super) fn take_plain(&mut self, view: &TensorView<'_>, pack: Pack, plain: usize) -> Result<Pages> {
        let bytes = self.spare.take(view, pack, plain)?;
        self.take(bytes)
    }

    /// The panels of `view`, and its plain ones, if they are in the cache.
    pub(super) fn find(&self, view: &TensorView<'_>, pack: Pack) -> Option<[Mapped; 2]> {
        self.cache.as_ref()?.find(view, pack)
    }
}

/// The panels of one segment.
pub(super) enum Panels {
    /// In memory.
    Pages(Pages),
    /// In a cache file.
    Mapped(Mapped),
    /// In memory that others have parts of.
    Part(Arc<Pages>, Range<usize>),
}

impl Panels {
    pub(super) fn data(&self) -> &[u8] {
        match self {
            Panels::Pages(pages) => pages,
            Panels::Mapped(mapped) => mapped.data(),
            Panels::Part(pages, part) => &pages[part.clone()],
        }
    }
}
