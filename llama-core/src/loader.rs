//! From a path to an [`Engine`]: the few lines every program would otherwise repeat.

use std::path::Path;
use std::sync::Arc;

use crate::adapter::{Adapter, AdapterRoom, Adapters};
use crate::backend::{Backend, Limits};
use crate::batch::BLOCK;
use crate::checkpoint::Checkpoint;
use crate::engine::draft::{self, DraftModel};
use crate::engine::{self, Classifier, Engine, EngineOptions};
use crate::error::{Error, InFile, Result};
use crate::model::{Llama, MemoryPlan, Model, Progress};
use crate::ranks::{Follower, Leader, Sharded};
use crate::text::Tokenizer;

/// An opened checkpoint and what its engine is to be made for.
pub struct Loader {
    checkpoint: Checkpoint,
    adapters: Adapters,
    options: EngineOptions,
}

impl Loader {
    /// Opens a GGUF file, a Hugging Face folder or a `.safetensors` file in one, and checks everything but the
    /// weights and the tokenizer.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Ok(Loader { checkpoint: Checkpoint::open(path)?, adapters: Adapters::new(), options: EngineOptions::default() })
    }

    /// Replaces the options.
    pub fn options(mut self, options: EngineOptions) -> Self {
        self.options = options;
        self
    }

    /// Keeps `strength` times `adapter` beside the weights, for requests that ask for it by `name`. Several under one name are
    /// added up.
    ///
    /// # Errors
    /// As [`Adapters::add`].
    pub fn adapter(mut self, name: &str, adapter: Adapter, strength: f32) -> Result<Self> {
        self.adapters.add(name, adapter, strength, self.checkpoint.config())?;
        Ok(self)
    }

    /// Keeps room for adapters that are added while the engine serves ([`Engine::add_adapter`]).
    ///
    /// # Errors
    /// As [`Adapters::set_room`].
    pub fn adapter_room(mut self, room: AdapterRoom) -> Result<Self> {
        self.adapters.set_room(room)?;
        Ok(self)
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
        self.limits_by(&self.options, backend)
    }

    fn limits_by<B: Backend>(&self, options: &EngineOptions, backend: &B) -> Result<Limits> {
        let most = options.most(self.checkpoint.config())?;
        let Some(limit) = options.memory_limit else { return Ok(most) };
        let plan = |blocks| self.plan(options, backend, &Limits { blocks, ..most });
        if plan(most.blocks)?.total() <= limit {
            return Ok(most);
        }
        let mut fits = options.cache_blocks.unwrap_or(most.context.div_ceil(BLOCK));
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
        self.plan(&self.options, backend, &self.limits(backend)?)
    }

    fn plan<B: Backend>(&self, options: &EngineOptions, backend: &B, limits: &Limits) -> Result<MemoryPlan> {
        let engine = engine::bytes(limits, self.checkpoint.config(), options);
        Ok(MemoryPlan { engine, ..MemoryPlan::with(backend, &self.checkpoint, &self.adapters, limits)? })
    }

    /// Prepares the weights on `backend`.
    pub fn load<B: Backend>(self, backend: B) -> Result<Engine> {
        self.load_with(backend, |_| ())
    }

    /// Prepares the weights on `backend` and tells how far it has come.
    pub fn load_with<B: Backend>(self, backend: B, mut progress: impl FnMut(Progress)) -> Result<Engine> {
        let limits = self.limits(&backend)?;
        let tokenizer = self.checkpoint.tokenizer()?;
        let Loader { checkpoint, adapters, options } = &self;
        let model = Llama::load_with(backend, checkpoint, adapters, limits, options.memory_limit, &mut progress)?;
        self.engine(Box::new(model), tokenizer)
    }

    /// Prepares this rank's share of the weights on `backend`, and has the followers prepare theirs.
    ///
    /// # Errors
    /// [`Error::Parameter`] if the model cannot be divided among so many ranks; [`Error::Peer`] about a rank that goes away or
    /// cannot load; otherwise as [`Loader::load`].
    pub fn lead<B: Backend>(self, backend: B, leader: Leader) -> Result<Engine> {
        self.lead_with(backend, leader, |_| ())
    }

    /// The same, and tells how far this rank's share has come.
    pub fn lead_with<B: Backend>(
        self,
        backend: B,
        leader: Leader,
        mut progress: impl FnMut(Progress),
    ) -> Result<Engine> {
        let tokenizer = self.checkpoint.tokenizer()?;
        let (limits, limit) = (|backend: &Sharded<B>| self.limits(backend), self.options.memory_limit);
        let model = leader.load(backend, &self.checkpoint, &self.adapters, limits, limit, &mut progress)?;
        self.engine(model, tokenizer)
    }

    /// Prepares this rank's share of the weights on `backend` and takes part in every step until the leader leaves. Of the
    /// options only the memory limit counts, the leader's are everybody's; of adapters it needs the leader's, in their order.
    ///
    /// # Errors
    /// [`Error::Parameter`] if the leader has another model, other adapters, or computes otherwise; [`Error::Peer`] if a rank goes away;
    /// otherwise as [`Loader::load`] and what a backend says.
    pub fn follow<B: Backend>(self, backend: B, follower: Follower) -> Result<()> {
        self.follow_with(backend, follower, |_| ())
    }

    /// The same, and tells how far loading has come.
    pub fn follow_with<B: Backend>(
        self,
        backend: B,
        follower: Follower,
        mut progress: impl FnMut(Progress),
    ) -> Result<()> {
        follower.serve(backend, &self.checkpoint, &self.adapters, self.options.memory_limit, &mut progress)
    }

    fn engine(self, model: Box<dyn Model>, tokenizer: Tokenizer) -> Result<Engine> {
        let engine = Engine::new(model, Some(Arc::new(tokenizer)), &self.options);
        let engine = engine.in_file(&self.checkpoint.tokenizer_file())?;
        match Classifier::of(&self.checkpoint)? {
            Some(classifier) => engine.with_classifier(classifier),
            None => Ok(engine),
        }
    }

    /// Prepares the weights on `backend`, without adapters, to draft for `engine` ([`Engine::with_drafter`]), for as many sequences, as far as
    /// the context of both goes.
    ///
    /// # Errors
    /// [`Error::Parameter`] if the two models do not know the same tokens by the same ids; otherwise as [`Loader::load`].
    pub fn drafter<B: Backend>(mut self, backend: B, engine: &Engine) -> Result<DraftModel> {
        self.knows_tokens_of(engine)?;
        (self.options, self.adapters) = (self.drafting(engine.model().limits()), Adapters::new());
        let (limits, limit) = (self.limits(&backend)?, self.options.memory_limit);
        DraftModel::new(Box::new(Llama::load(backend, &self.checkpoint, limits, limit, &mut |_| ())?))
    }

    /// How much of a memory limit for two this drafter takes on `backend`, of which the engine that `engine` loads has the rest: at
    /// most as large a part as its files are of both's, but enough for one context. [`Loader::drafter`] keeps to it if it
    /// is its [`EngineOptions::memory_limit`].
    ///
    /// # Errors
    /// [`Error::Memory`] if one context does not fit `limit`; otherwise as [`EngineOptions::limits`].
    pub fn drafter_bytes<B: Backend>(&self, backend: &B, engine: &Loader, limit: u64) -> Result<u64> {
        let options = self.drafting(&engine.options.most(engine.checkpoint.config())?);
        let most = options.most(self.checkpoint.config())?;
        let blocks = options.cache_blocks.unwrap_or(most.context.div_ceil(BLOCK));
        let least = self.plan(&options, backend, &Limits { blocks, ..most })?;
        least.check(Some(limit))?;
        let [own, theirs] = [self, engine].map(|loader| u128::from(loader.checkpoint.file_bytes()));
        let part = (u128::from(limit) * own / (own + theirs)) as u64;
        let options = EngineOptions { memory_limit: Some(part.max(least.total())), ..options };
        Ok(self.plan(&options, backend, &self.limits_by(&options, backend)?)?.total())
    }

    /// Options of a drafter beside an engine within `limits`.
    fn drafting(&self, limits: &Limits) -> EngineOptions {
        let context = Some(limits.context.min(self.checkpoint.config().context));
        EngineOptions { context, sequences: limits.sequences, drafts: 0, embeddings: false, ..self.options.clone() }
    }

    fn knows_tokens_of(&self, engine: &Engine) -> Result<()> {
        let vocab = engine.model().config().vocab;
        draft::check_vocab(self.checkpoint.config().vocab, vocab)?;
        let Some(theirs) = engine.tokenizer() else { return Ok(()) };
        let ours = self.checkpoint.tokenizer()?;
        let Some(id) = (0..vocab as u32).find(|&id| spelling(&ours, id) != spelling(theirs, id)) else { return Ok(()) };
        let [ours, theirs] = [&ours, theirs].map(|tokenizer| spelling(tokenizer, id).escape_ascii());
        let problem =
            format!("is the token \"{ours}\", and the model's is \"{theirs}\": draft with a model of its family");
        Err(Error::parameter("drafter", id, problem))
    }
}

/// Some models pad their embedding: what has no token has no spelling.
fn spelling(tokenizer: &Tokenizer, id: u32) -> &[u8] {
    tokenizer.piece(id).unwrap_or_default()
}
