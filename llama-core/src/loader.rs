//! From a path to an [`Engine`]: the few lines every program would otherwise repeat.

use std::path::Path;
use std::sync::Arc;

use crate::backend::{Backend, Limits};
use crate::batch::BLOCK;
use crate::checkpoint::Checkpoint;
use crate::engine::{self, Classifier, Engine, EngineOptions};
use crate::error::Result;
use crate::model::{Llama, MemoryPlan, Progress};

/// An opened checkpoint and what its engine is to be made for.
pub struct Loader {
    checkpoint: Checkpoint,
    options: EngineOptions,
}

impl Loader {
    /// Opens a GGUF file, a Hugging Face folder or a `.safetensors` file in one, and checks everything but the
    /// weights and the tokenizer.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Ok(Loader { checkpoint: Checkpoint::open(path)?, options: EngineOptions::default() })
    }

    /// Replaces the options.
    pub fn options(mut self, options: EngineOptions) -> Self {
        self.options = options;
        self
    }

    /// The checkpoint.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// What one step and the KV cache will hold on `backend`. Under a memory limit the cache gets the blocks that fit
    /// beside the rest, one whole context at least.
    ///
    /// # Errors
    /// [`Error::Memory`](crate::Error::Memory) if that is too much, with the number to lower; otherwise as
    /// [`EngineOptions::limits`].
    pub fn limits<B: Backend>(&self, backend: &B) -> Result<Limits> {
        let most = self.options.most(self.checkpoint.config())?;
        let Some(limit) = self.options.memory_limit else { return Ok(most) };
        let plan = |blocks| self.plan(backend, &Limits { blocks, ..most });
        if plan(most.blocks)?.total() <= limit {
            return Ok(most);
        }
        let mut fits = self.options.cache_blocks.unwrap_or(most.context.div_ceil(BLOCK));
        plan(fits)?.check(Some(limit))?;
        let mut exceeds = most.blocks;
        while exceeds - fits > 1 {
            let middle = fits.midpoint(exceeds);
            let side = if plan(middle)?.total() <= limit { &mut fits } else { &mut exceeds };
            *side = middle;
        }
        Ok(Limits { blocks: fits, ..most })
    }

    /// What [`Loader::load`] will hold in memory.
    pub fn memory_plan<B: Backend>(&self, backend: &B) -> Result<MemoryPlan> {
        self.plan(backend, &self.limits(backend)?)
    }

    fn plan<B: Backend>(&self, backend: &B, limits: &Limits) -> Result<MemoryPlan> {
        let engine = engine::bytes(limits, self.checkpoint.config(), &self.options);
        Ok(MemoryPlan { engine, ..MemoryPlan::of(backend, &self.checkpoint, limits)? })
    }

    /// Prepares the weights on `backend`.
    pub fn load<B: Backend>(self, backend: B) -> Result<Engine> {
        self.load_with(backend, |_| ())
    }

    /// Prepares the weights on `backend` and tells how far it has come.
    pub fn load_with<B: Backend>(self, backend: B, mut progress: impl FnMut(Progress)) -> Result<Engine> {
        let limits = self.limits(&backend)?;
        let tokenizer = Arc::new(self.checkpoint.tokenizer()?);
        let model = Llama::load(backend, &self.checkpoint, limits, self.options.memory_limit, &mut progress)?;
        let engine = Engine::new(Box::new(model), Some(tokenizer), &self.options)?;
        match Classifier::of(&self.checkpoint)? {
            Some(classifier) => engine.with_classifier(classifier),
            None => Ok(engine),
        }
    }
}
