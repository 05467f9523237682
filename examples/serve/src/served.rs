//! What is served: the engine's facts that a request is checked against before it gets there.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard};

use llama_core::batch::BLOCK;
use llama_core::config::{Config, ProblemType};
use llama_core::engine::Engine;
use llama_core::text::{ChatTemplate, Tokenizer};
use llama_core::{Error, Result};
use llama_structured::Grammars;

use crate::thoughts::{Tags, TokenSets};

/// A model's name and what can be known of it without the engine.
pub struct Served {
    /// What requests call it.
    pub name: String,
    /// Adapters beside it, each of which requests may ask for in its stead.
    adapters: RwLock<Adapters>,
    /// Its sizes.
    pub config: Config,
    /// Its tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// How a conversation becomes a prompt, where the model has been taught any.
    pub template: Option<ChatTemplate>,
    /// Tokens that end a text.
    pub ends: Vec<u32>,
    /// What JSON is in its tokens, once somebody has asked for any.
    grammars: OnceLock<Grammars>,
    /// What may come before forms, once a model that thinks has been asked for any.
    token_sets: OnceLock<Arc<TokenSets>>,
    /// Tokens that end a repetition, once somebody has asked for any.
    breakers: OnceLock<Arc<[u32]>>,
    /// Positions of one sequence, prompt and generated.
    pub context: usize,
    /// Tokens that the model has.
    pub vocab: usize,
    /// Names of what it classifies texts as; none where it is no classifier.
    pub labels: Vec<String>,
    /// What their scores mean.
    pub problem_type: ProblemType,
    /// Columns of an embedding.
    pub hidden: usize,
    /// All that may change an answer, but for adapters: model, its sizes, backend, version.
    model: String,
}

/// Those that requests may ask for at the moment.
struct Adapters {
    names: Vec<String>,
    /// Changes with whatever may change an answer.
    fingerprint: String,
}

impl Served {
    /// The facts of `engine`.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] for an engine without one, [`Error::Parameter`] for an adapter with the model's name.
    pub fn new(engine: &Engine, template: Option<ChatTemplate>, name: impl Into<String>) -> Result<Self> {
        let Some(tokenizer) = engine.tokenizer() else {
            return Err(Error::tokenizer("tokenizer", "a server needs an engine with one"));
        };
        let (name, limits) = (name.into(), engine.model().limits());
        if engine.adapters().any(|adapter| adapter == name) {
            return Err(Error::parameter("adapter", name, "is the model's name, too: give one of them another"));
        }
        let config = engine.model().config().clone();
        let model = format!("{name} {config:?} {} {}", engine.model().backend(), env!("CARGO_PKG_VERSION"));
        Ok(Served {
            name,
            adapters: RwLock::new(Adapters::of(engine, &model)),
            model,
            tokenizer: tokenizer.clone(),
            template,
            ends: engine.end_tokens().to_vec(),
            grammars: OnceLock::new(),
            token_sets: OnceLock::new(),
            breakers: OnceLock::new(),
            context: limits.context.min(limits.blocks.saturating_mul(BLOCK)),
            vocab: config.vocab,
            labels: engine.labels().to_vec(),
            problem_type: config.problem_type,
            hidden: config.hidden,
            config,
        })
    }

    /// Takes down which adapters the engine has now.
    pub fn update(&self, engine: &Engine) {
        *self.adapters.write().unwrap_or_else(PoisonError::into_inner) = Adapters::of(engine, &self.model);
    }

    /// Whether requests may ask for an adapter of that name.
    pub fn has(&self, adapter: &str) -> bool {
        self.adapters().names.iter().any(|known| known == adapter)
    }

    /// What requests may call a model: its own name, then its adapters'.
    pub fn names(&self) -> Vec<String> {
        std::iter::once(&self.name).chain(&self.adapters().names).cloned().collect()
    }

    /// Changes with whatever may change an answer: model, its sizes, adapters, backend, version.
    pub fn fingerprint(&self) -> String {
        self.adapters().fingerprint.clone()
    }

    fn adapters(&self) -> RwLockReadGuard<'_, Adapters> {
        self.adapters.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What ends a repetition where a request does not say.
    pub fn dry_breakers(&self) -> &Arc<[u32]> {
        self.breakers.get_or_init(|| self.tokenizer.dry_breakers().into())
    }

    /// What JSON is in the model's tokens. Who asks first waits half a second; two who do so at once both make it.
    ///
    /// # Errors
    /// As [`Grammars::new`].
    pub fn grammars(&self) -> Result<&Grammars> {
        match self.grammars.get() {
            Some(grammars) => Ok(grammars),
            None => {
                let made = Grammars::new(&self.tokenizer, &self.ends)?;
                Ok(self.grammars.get_or_init(|| made))
            }
        }
    }

    /// What may come before forms, in the model's tokens. Its template has these `tags`.
    pub fn token_sets(&self, tags: &'static Tags) -> Arc<TokenSets> {
        let make = || Arc::new(TokenSets::new(tags, self.tokenizer.clone(), self.vocab, &self.ends));
        self.token_sets.get_or_init(make).clone()
    }
}

impl Adapters {
    fn of(engine: &Engine, model: &str) -> Self {
        let mut hash = DefaultHasher::new();
        let loaded: Vec<_> = engine.loaded_adapters().collect();
        format!("{model} {loaded:?}").hash(&mut hash);
        Adapters {
            names: engine.adapters().map(str::to_owned).collect(),
            fingerprint: format!("fp_{:016x}", hash.finish()),
        }
    }
}
