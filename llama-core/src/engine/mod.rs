//! The engine: many requests in, tokens and text out, one ragged batch a step.
//!
//! [`Engine::submit`] checks a [`Request`] and queues it; [`Engine::step`] plans a batch (`scheduler.rs`), runs the
//! model once, samples a token for every sequence whose tokens all have their KV, and reports what happened as
//! [`Event`]s. New requests join and finished ones leave between any two steps (Orca's iteration-level scheduling,
//! Yu et al., OSDI 2022), and prompts are worked through in chunks beside the other sequences' decoding (Sarathi-Serve,
//! Agrawal et al. 2024, arXiv:2403.02310). Nothing runs between calls: no threads, no runtime, no clocks.
//!
//! A sequence that decodes may have tokens guessed ahead, which one step checks together ([`draft`]).
//!
//! What a sequence is told never depends on its company, on chunking, on a prefix-cache hit, on drafts or on having been
//! preempted, provided the model's arithmetic does not; only [`Event::cached_tokens`] tells of the cache. An error of one sequence
//! is that sequence's [`Finish::Failed`]; an error of the model fails the step, which may be tried again: it left no trace.
//!
//! A prompt may also be asked for its hidden states in place of text, as one vector or as scores of a classifier's labels
//! ([`Engine::embed`], [`Engine::classify`], and [`Engine::submit_embed`], [`Engine::submit_classify`] for servers): it goes
//! through the same queue and batches, and no logits are computed for it.
//!
//! Some classifiers generate: Llama Guard answers a conversation, rendered by its own chat template, with `safe` or
//! `unsafe`, and the log-probability of that token says how sure it is:
//!
//! ```
//! # use llama_core::engine::{Engine, Request, Score};
//! # use llama_core::sample::Sampling;
//! # use llama_core::text::Tokenizer;
//! /// The verdict on a rendered conversation, and its probability.
//! fn judge(engine: &mut Engine, tokenizer: &Tokenizer, prompt: Vec<u32>) -> llama_core::Result<Option<(String, f32)>> {
//!     let sampling = Sampling { logprobs: Some(0), ..Sampling::greedy() };
//!     let answer = engine.complete(Request { max_tokens: Some(3), sampling, ..Request::new(prompt) })?;
//!     let word = |score: &Score| tokenizer.decode(&[score.token]).ok().filter(|text| !text.trim().is_empty());
//!     Ok(answer.scores.iter().find_map(|score| Some((word(score)?.trim().to_owned(), score.logprob.exp()))))
//! }
//! ```
//!
//! For programs that want one answer there are [`Engine::generate`], an iterator, and [`Engine::complete`]; they step
//! the engine too, so whatever else was submitted gets on meanwhile, and its events wait for the next step.

mod adapters;
pub mod draft;
mod embed;
mod event;
mod generation;
mod grammar;
mod manner;
mod options;
mod pool;
mod prefix;
mod request;
mod scheduler;
mod sequence;
mod table;
mod text;

pub use crate::config::Pooling;
pub use embed::Embed;
pub use event::{Completion, Event, Finish, Score, SequenceId};
pub use generation::Generation;
pub use grammar::{Constraint, Grammar};
pub(crate) use options::check as check_limits;
pub use options::{DEFAULT_CONTEXT, DEFAULT_KV_BYTES, EngineOptions, block_bytes};
pub use pool::Classifier;
pub use request::{MAX_SPELLED_TOKENS, MAX_STOP_BYTES, MAX_STOP_STRINGS, MAX_STOP_TOKENS, Request};

use std::sync::Arc;

use crate::backend::Limits;
use crate::batch::{AdapterId, Batch};
use crate::config::{Config, Head};
use crate::error::{Error, Result};
use crate::kv::BlockPool;
use crate::model::Model;
use crate::sample::{Allowed, Draw, Outputs, Refusal, Sampler};
use crate::text::{Specials, Tokenizer};

use adapters::Offered;
use draft::{Draft, Drafter, Lookup};
use manner::Manner;
use scheduler::Scheduler;
use sequence::{Rows, Sequence};
use text::Text;

/// Figures of an engine at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Sequences with blocks, making progress.
    pub running: usize,
    /// Sequences in the queue.
    pub waiting: usize,
    /// Blocks that running sequences reference.
    pub blocks_used: usize,
    /// Blocks that later prompts can find, referenced or not.
    pub blocks_published: usize,
    /// Blocks of the KV cache.
    pub blocks: usize,
    /// Steps run so far.
    pub steps: u64,
    /// Rows computed so far.
    pub rows: u64,
    /// How often a sequence had to give up its blocks.
    pub preemptions: u64,
    /// Tokens whose KV came out of the prefix cache instead of being computed, so far.
    pub cached_tokens: u64,
    /// Drafts checked so far.
    pub drafted: u64,
    /// Drafts that turned out right so far: tokens that took no step of their own.
    pub accepted: u64,
}

/// A model at work for many requests at once.
pub struct Engine {
    model: Box<dyn Model>,
    tokenizer: Option<Arc<Tokenizer>>,
    end_tokens: Vec<u32>,
    prefix_cache: bool,
    scheduler: Scheduler,
    offered: Offered,
    submitted: u64,
    steps: u64,
    rows: u64,
    /// Events not handed out yet.
    outbox: Vec<Event>,
    batch: Batch,
    outputs: Outputs,
    /// Hidden states of the step, where one of them was wanted; `None` where nobody may want any.
    states: Option<Vec<f32>>,
    classifier: Option<Arc<Classifier>>,
    /// For one draw.
    allowed: Allowed,
    /// Empty between steps.
    draws: Vec<Draw<'static>>,
    drafter: Box<dyn Drafter>,
    /// Empty between steps.
    drafts: Vec<Draft<'static>>,
    drafted: u64,
    accepted: u64,
}

impl Engine {
    /// An engine for `model`, which was made for [`EngineOptions::limits`]. Without a tokenizer events carry tokens and
    /// no text. Of `options` it takes the end tokens, whether to share prefixes and whether to keep room for hidden states; all
    /// sizes are the model's.
    pub fn new(model: Box<dyn Model>, tokenizer: Option<Arc<Tokenizer>>, options: &EngineOptions) -> Result<Self> {
        let limits = *model.limits();
        let vocab = model.config().vocab;
        options::check(&limits)?;
        let known = tokenizer.as_ref().map_or(0, |tokenizer| tokenizer.vocab());
        if known > vocab {
            let problem = format!("has {known} tokens, and the model's embedding {vocab}");
            return Err(Error::tokenizer("vocabulary", problem));
        }
        let named = || tokenizer.as_ref().map_or(Vec::new(), |tokenizer| tokenizer.end_tokens().to_vec());
        let end_tokens = options.end_tokens.clone().unwrap_or_else(named);
        request::in_vocabulary("end_tokens", &end_tokens, vocab)?;
        let states = options.embeds(model.config()).then(|| roomy_states(&limits, model.config())).transpose()?;
        let mut scheduler = Scheduler::new(limits, options.drafts)?;
        Ok(Engine {
            offered: Offered::all(&*model, scheduler.pool_mut()),
            model,
            tokenizer,
            end_tokens,
            prefix_cache: options.prefix_cache,
            scheduler,
            submitted: 0,
            steps: 0,
            rows: 0,
            outbox: Vec::new(),
            batch: roomy_batch(&limits),
            outputs: roomy_outputs(&limits, vocab)?,
            states,
            classifier: None,
            allowed: Allowed::none(vocab),
            draws: Vec::with_capacity(limits.outputs),
            drafter: Box::new(Lookup),
            drafts: Vec::with_capacity(limits.sequences),
            drafted: 0,
            accepted: 0,
        })
    }

    /// The same engine with drafts from `drafter` instead of [`Lookup`], as many as [`EngineOptions::drafts`] allows.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a drafter that knows another number of tokens than the model.
    pub fn with_drafter(mut self, drafter: impl Drafter + 'static) -> Result<Self> {
        let vocab = self.model.config().vocab;
        drafter.vocab().map_or(Ok(()), |known| draft::check_vocab(known, vocab))?;
        self.drafter = Box::new(drafter);
        Ok(self)
    }

    /// The same engine, which may be asked to classify.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a classifier of another model: its labels or columns are not the model's.
    pub fn with_classifier(mut self, classifier: Classifier) -> Result<Self> {
        classifier.check(self.model.config())?;
        self.classifier = Some(Arc::new(classifier));
        Ok(self)
    }

    /// The model.
    pub fn model(&self) -> &dyn Model {
        &*self.model
    }

    /// The tokenizer, where there is one.
    pub fn tokenizer(&self) -> Option<&Arc<Tokenizer>> {
        self.tokenizer.as_ref()
    }

    /// The tokens that end a generation.
    pub fn end_tokens(&self) -> &[u32] {
        &self.end_tokens
    }

    /// A prompt as tokens, with the begin-of-sequence token where the model wants one.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] where the engine has no tokenizer; otherwise as [`Tokenizer::encode_prompt`].
    pub fn encode(&self, text: &str, specials: Specials) -> Result<Vec<u32>> {
        self.own_tokenizer()?.encode_prompt(text, specials)
    }

    /// A request for what belongs between two texts ([`Tokenizer::encode_infill`]); it stops where a middle ends.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the engine has no tokenizer, otherwise as [`Tokenizer::encode_infill`].
    pub fn infill(&self, prefix: &str, suffix: &str) -> Result<Request> {
        let tokenizer = self.own_tokenizer()?;
        let prompt = tokenizer.encode_infill(prefix, suffix)?;
        let stop_tokens = tokenizer.infill().map_or_else(Vec::new, |infill| infill.end_tokens.clone());
        Ok(Request { stop_tokens, ..Request::new(prompt) })
    }

    fn own_tokenizer(&self) -> Result<&Arc<Tokenizer>> {
        self.tokenizer().ok_or_else(|| Error::tokenizer("tokenizer", "this engine was made without one"))
    }

    /// Queues a request. The queue has no end of its own: a server for strangers bounds how many it lets in.
    ///
    /// # Errors
    /// [`Error::Parameter`] names what is out of range, or an adapter that there is none of; [`Error::ContextOverflow`] says how
    /// many tokens were asked for and how many there may be; [`Error::Unsupported`] is for models without a head. Nothing is
    /// queued then.
    pub fn submit(&mut self, mut request: Request) -> Result<SequenceId> {
        let config = self.model.config();
        check_generates(config)?;
        let max_tokens = request.check(config.vocab, self.model.limits(), self.tokenizer.is_some())?;
        let variant = self.variant(request.adapter.as_deref())?;
        let id = self.next_id();
        let text = Text::take(self.tokenizer.clone(), &mut request);
        let manner = Manner::take(&mut request, &self.end_tokens);
        self.scheduler.submit(Sequence::new(id, request, variant, max_tokens, manner, text, self.prefix_cache));
        Ok(id)
    }

    /// Ends a sequence wherever it stands and frees its blocks at once. Its last event comes with the next step. False if
    /// there is no such sequence, or it has ended already.
    pub fn cancel(&mut self, id: SequenceId) -> bool {
        let Some(mut sequence) = self.withdraw(id) else { return false };
        let mut event = Event::new(id);
        sequence.finish(Finish::Cancelled, &mut event);
        self.outbox.push(event);
        true
    }

    /// Whether there is nothing to do and nothing to report.
    pub fn is_idle(&self) -> bool {
        self.scheduler.running() + self.scheduler.waiting() + self.outbox.len() == 0
    }

    /// Runs one step and hands out the events so far. When idle it does nothing.
    ///
    /// # Errors
    /// What the model returned. Every sequence is as it was before the step.
    pub fn step(&mut self) -> Result<std::vec::Drain<'_, Event>> {
        self.advance()?;
        Ok(self.outbox.drain(..))
    }

    /// Steps until idle.
    pub fn run(&mut self, mut on_event: impl FnMut(Event)) -> Result<()> {
        while !self.is_idle() {
            self.step()?.for_each(&mut on_event);
        }
        Ok(())
    }

    /// Figures of the moment.
    pub fn stats(&self) -> Stats {
        let pool = self.scheduler.pool();
        Stats {
            running: self.scheduler.running(),
            waiting: self.scheduler.waiting(),
            blocks_used: pool.used(),
            blocks_published: pool.published(),
            blocks: pool.capacity(),
            steps: self.steps,
            rows: self.rows,
            preemptions: self.scheduler.preemptions(),
            cached_tokens: self.scheduler.cached_tokens(),
            drafted: self.drafted,
            accepted: self.accepted,
        }
    }

    /// Takes a sequence out wherever it stands, without a report.
    fn withdraw(&mut self, id: SequenceId) -> Option<Sequence> {
        self.drafter.forget(id);
        self.scheduler.remove(id)
    }

    fn next_id(&mut self) -> SequenceId {
        self.submitted += 1;
        SequenceId(self.submitted)
    }

    /// Plans, runs and evaluates one step; events go to the outbox.
    fn advance(&mut self) -> Result<()> {
        self.draft()?;
        self.scheduler.plan(&mut self.batch);
        if self.batch.rows() == 0 {
            return Ok(());
        }
        if let Err(error) = self.sample().and_then(|()| self.read_states()) {
            self.scheduler.rollback();
            return Err(error);
        }
        self.steps += 1;
        self.rows += self.batch.rows() as u64;
        self.evaluate();
        self.scheduler.retire(|id| self.drafter.forget(id));
        Ok(())
    }

    /// Has guesses made for the sequences that decode.
    fn draft(&mut self) -> Result<()> {
        let mut drafts = emptied(std::mem::take(&mut self.drafts));
        drafts.extend(self.scheduler.drafts(self.model.config().vocab));
        let result = if drafts.is_empty() { Ok(()) } else { self.drafter.draft(&mut drafts) };
        self.drafts = emptied(drafts);
        result
    }

    /// Runs the model. Tokens are picked where the logits are; only sequences that want log-probabilities, keep to a grammar or
    /// draw as only the host's sampler does have the step's logits brought here.
    fn sample(&mut self) -> Result<()> {
        let mut draws = emptied(std::mem::take(&mut self.draws));
        let (mut row, mut wants_logits) = (0, false);
        for sequence in self.scheduler.planned() {
            wants_logits |= sequence.wants_logits();
            draws.extend(sequence.draws(row));
            row += sequence.planned_outputs();
        }
        self.outputs.wants_logits = wants_logits;
        let result = self.model.sample(&self.batch, &draws, &mut self.outputs);
        let wanted = draws.len();
        self.draws = emptied(draws);
        result?;
        assert_eq!(self.outputs.picks.len(), wanted, "tokens picked and draws");
        let (brought, vocab) = (self.outputs.logits.len(), self.model.config().vocab);
        assert!(!wants_logits || brought == row * vocab, "{brought} logits of {row} outputs over {vocab} tokens");
        Ok(())
    }

    /// Brings the step's hidden states here, where one of them is wanted.
    fn read_states(&mut self) -> Result<()> {
        let Some(states) = &mut self.states else { return Ok(()) };
        states.clear();
        if self.scheduler.planned().any(Sequence::wants_states) {
            self.model.states(states)?;
            let (rows, hidden) = (self.batch.rows(), self.model.config().hidden);
            assert_eq!(states.len(), rows * hidden, "hidden states of {rows} rows of {hidden}");
        }
        Ok(())
    }

    fn evaluate(&mut self) {
        let &Config { vocab, hidden, .. } = self.model.config();
        let mut states = self.states.as_deref().unwrap_or_default();
        let Outputs { wants_logits, logits, picks, sampler } = &mut self.outputs;
        let mut logits = if *wants_logits { logits.as_slice() } else { &[] };
        let mut picks = picks.as_slice();
        let (pool, sequences, planned) = self.scheduler.planned_mut();
        for &at in planned {
            let sequence = &mut sequences[at];
            let logits = front(&mut logits, sequence.planned_outputs() * vocab).chunks_exact(vocab);
            let states = front(&mut states, sequence.planned_rows() * hidden);
            let picks = front(&mut picks, sequence.draws(0).len());
            let rows = Rows { logits, states, picks, sampler, allowed: &mut self.allowed };
            let checked = sequence.advance(pool, rows, &self.end_tokens, &mut self.outbox);
            self.drafted += checked.drafted as u64;
            self.accepted += checked.accepted as u64;
        }
    }
}

/// That a model has a head to generate with.
fn check_generates(config: &Config) -> Result<()> {
    if config.head != Head::None {
        return Ok(());
    }
    let advice = "ask for embeddings or labels, or load the ForCausalLM model";
    Err(Error::unsupported("generation by a model without a head", advice))
}

/// Cuts the first `count` off `rest`; where nothing was brought there is nothing.
fn front<'a, T>(rest: &mut &'a [T], count: usize) -> &'a [T] {
    let (front, later) = rest.split_at(count.min(rest.len()));
    *rest = later;
    front
}

/// The list's memory, for borrows of another step: collecting a list's own iterator reuses its allocation.
fn emptied<T, U>(mut list: Vec<T>) -> Vec<U> {
    list.clear();
    list.into_iter().map(|_| unreachable!("the list is empty")).collect()
}

/// Bytes that an engine holds for itself, beside its model and tokenizer, before anything is submitted.
pub(crate) fn bytes(limits: &Limits, config: &Config, options: &EngineOptions) -> u64 {
    let vocab = config.vocab;
    let batch = size_of::<u32>() * (2 * (limits.tokens + limits.sequences) + limits.blocks + limits.outputs);
    let sequences = limits.sequences * (size_of::<Sequence>() + size_of::<usize>() + size_of::<Option<AdapterId>>());
    let draws = limits.outputs * (size_of::<Draw<'_>>() + size_of::<Result<u32, Refusal>>());
    let drafts = limits.sequences * size_of::<Draft<'_>>();
    let lists = (batch + sequences + draws + drafts) as u64;
    let states = if options.embeds(config) { states_bytes(limits, config) } else { 0 };
    let rows = [logits_bytes(limits, vocab), states, Classifier::bytes(config)];
    let rest = [BlockPool::bytes(limits.blocks), Sampler::bytes(vocab, limits.context), Allowed::bytes(vocab), lists];
    rows.into_iter().chain(rest).fold(0, u64::saturating_add)
}

fn logits_bytes(limits: &Limits, vocab: usize) -> u64 {
    (limits.outputs as u64).saturating_mul(vocab as u64).saturating_mul(size_of::<f32>() as u64)
}

fn states_bytes(limits: &Limits, config: &Config) -> u64 {
    (limits.tokens as u64).saturating_mul(config.hidden as u64).saturating_mul(size_of::<f32>() as u64)
}

fn roomy_states(limits: &Limits, config: &Config) -> Result<Vec<f32>> {
    let mut states = Vec::new();
    let refused = |_| Error::refused("the engine's hidden states", states_bytes(limits, config), "the chunk");
    states.try_reserve_exact(limits.tokens.saturating_mul(config.hidden)).map_err(refused)?;
    Ok(states)
}

fn roomy_outputs(limits: &Limits, vocab: usize) -> Result<Outputs> {
    let mut outputs = Outputs::new(vocab);
    let refused = |_| Error::refused("the engine's logits", logits_bytes(limits, vocab), "the sequences or the chunk");
    outputs.logits.try_reserve_exact(limits.outputs.saturating_mul(vocab)).map_err(refused)?;
    outputs.picks.reserve_exact(limits.outputs);
    outputs.sampler.reserve(limits.context);
    Ok(outputs)
}

/// An empty batch that seldom has to grow: only sequences that share blocks can list more of them than there are.
fn roomy_batch(limits: &Limits) -> Batch {
    let mut batch = Batch::new();
    batch.tokens.reserve(limits.tokens);
    batch.positions.reserve(limits.tokens);
    batch.q_indptr.reserve(limits.sequences);
    batch.kv_indptr.reserve(limits.sequences);
    batch.block_ids.reserve(limits.blocks);
    batch.outputs.reserve(limits.outputs);
    batch.adapters.reserve(limits.sequences);
    batch
}
