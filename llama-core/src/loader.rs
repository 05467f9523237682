//! From a path to an [`Engine`]: the few lines every program would otherwise repeat.

use std::path::Path;
use std::sync::Arc;

use crate::backend::{Backend, Limits};
use crate::checkpoint::Checkpoint;
use crate::engine::{Engine, EngineOptions};
use crate::error::Result;
use crate::model::{Llama, MemoryPlan, Progress};

/// An opened checkpoint and what its engine is to be made for.
pub struct Loader {
    checkpoint: Checkpoint,
    options: EngineOptions,
}

impl Loader {
    /// Opens a GGUF file, a Hugging Face folder or a `.safetensors` file in one, and checks everything but the weights.
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

    /// What one step and the KV cache will hold on `backend`: with a memory limit, as many blocks as fit beside the rest.
    pub fn limits<B: Backend>(&self, backend: &B) -> Result<Limits> {
        let config = self.checkpoint.config();
        let Some(limit) = self.options.memory_limit else { return self.options.limits(config) };
        let unlimited = EngineOptions { memory_limit: None, ..self.options.clone() };
        let limits = unlimited.limits(config)?;
        let plan = MemoryPlan::of(backend, &self.checkpoint, &limits)?;
        if plan.total() <= limit {
            return Ok(limits);
        }
        let rest = plan.total() - plan.kv_cache;
        MemoryPlan { kv_cache: 0, ..plan }.check(Some(limit))?;
        EngineOptions { memory_limit: Some(limit - rest), ..self.options.clone() }.limits(config)
    }

    /// What [`Loader::load`] will hold in memory.
    pub fn memory_plan<B: Backend>(&self, backend: &B) -> Result<MemoryPlan> {
        MemoryPlan::of(backend, &self.checkpoint, &self.limits(backend)?)
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
        Engine::new(Box::new(model), Some(tokenizer), &self.options)
    }
}
