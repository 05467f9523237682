//! What an engine is made for, and the [`Limits`] that follow from it.

use crate::backend::{KvFormat, Limits};
use crate::batch::{BLOCK, BlockId};
use crate::config::{Config, Head};
use crate::error::{Error, Result};
use crate::numerics::GROUP;

/// Context when none is asked for, where the model was trained for more: long contexts cost memory, so they are asked for.
pub const DEFAULT_CONTEXT: usize = 8192;
/// Bytes of KV when neither `cache_blocks` nor `memory_limit` says otherwise; one whole context always fits.
pub const DEFAULT_KV_BYTES: u64 = 4 << 30;
/// Rows of logits a step may give beyond one a sequence: what scoring a prompt works through at a time.
const SCORED_ROWS: usize = 32;

/// Positions are 32-bit, and half of that leaves room to add two of them.
const MAX_CONTEXT: usize = 1 << 31;
const MAX_SEQUENCES: usize = 1 << 16;
const MAX_ROWS: usize = 1 << 20;
const MAX_DRAFTS: usize = 1 << 10;

/// What an engine is made for. Everything that is sized is sized by this, once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineOptions {
    /// Positions of one sequence, prompt and generated. `None`: what the model was trained for, at most
    /// [`DEFAULT_CONTEXT`].
    pub context: Option<usize>,
    /// Sequences that make progress in one step; more may wait.
    pub sequences: usize,
    /// Rows of one step: a longer prompt is worked through in chunks.
    pub chunk: usize,
    /// How K and V are kept.
    pub kv: KvFormat,
    /// Blocks of the KV cache, of [`BLOCK`] tokens each. `None`: enough for `sequences` whole contexts, as far as memory
    /// allows.
    pub cache_blocks: Option<usize>,
    /// Bytes that everything together may take.
    pub memory_limit: Option<u64>,
    /// Whether sequences that start with the same tokens share blocks, also one after the other.
    pub prefix_cache: bool,
    /// Whether hidden states may be asked for ([`Engine::embed`](super::Engine::embed),
    /// [`Engine::classify`](super::Engine::classify)): the engine then keeps room for a step's, `[rows, hidden]` in f32. A model
    /// without a head has nothing else to give, so its engine always does.
    pub embeddings: bool,
    /// Tokens guessed ahead that one step may check, over all sequences ([`draft`](super::draft)): speculative decoding, which
    /// changes no token. 0: none. Worth it where a step of a few rows costs little more than one of one: few sequences
    /// and text that is easily guessed.
    pub drafts: usize,
    /// Tokens that end a generation. `None`: those the tokenizer's file names.
    pub end_tokens: Option<Vec<u32>>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions {
            context: None,
            sequences: 8,
            chunk: 512,
            kv: KvFormat::default(),
            cache_blocks: None,
            memory_limit: None,
            prefix_cache: true,
            embeddings: false,
            drafts: 0,
            end_tokens: None,
        }
    }
}

impl EngineOptions {
    /// What a model must be made for.
    ///
    /// Where `cache_blocks` is `None`, the KV cache gets `sequences` whole contexts, or what fits into `memory_limit`
    /// (in its absence [`DEFAULT_KV_BYTES`]), but at least one context. A `memory_limit` below that is an
    /// [`Error::Memory`]; weights and workspaces are not counted here, so subtract them first where they are known.
    pub fn limits(&self, config: &Config) -> Result<Limits> {
        let limits = self.most(config)?;
        let Some(limit) = self.memory_limit else { return Ok(limits) };
        let needed = (limits.blocks as u64).saturating_mul(block_bytes(config, self.kv));
        if needed > limit {
            let advice = if self.cache_blocks.is_some() { "cache_blocks" } else { "context" };
            return Err(Error::Memory { what: "KV cache", needed, limit, advice });
        }
        Ok(limits)
    }

    /// The same, where one context, or `cache_blocks`, may exceed `memory_limit`.
    pub(crate) fn most(&self, config: &Config) -> Result<Limits> {
        let context = self.context.unwrap_or(config.context.min(DEFAULT_CONTEXT));
        within("context", context, MAX_CONTEXT)?;
        within("sequences", self.sequences, MAX_SEQUENCES)?;
        within("chunk", self.chunk, MAX_ROWS)?;
        if self.drafts > MAX_DRAFTS {
            return Err(Error::parameter("drafts", self.drafts, format!("must be at most {MAX_DRAFTS}")));
        }
        let decoding = self.sequences + self.drafts;
        let tokens = self.chunk.max(decoding);
        let outputs = match config.head {
            Head::None => 1,
            _ => decoding.max(tokens.min(SCORED_ROWS)),
        };
        let limits = Limits {
            tokens,
            sequences: self.sequences,
            outputs,
            context,
            blocks: self.blocks(config, context),
            kv: self.kv,
        };
        check(&limits)?;
        Ok(limits)
    }

    /// Whether an engine for `config` keeps room for hidden states.
    pub(crate) fn embeds(&self, config: &Config) -> bool {
        self.embeddings || config.head == Head::None
    }

    fn blocks(&self, config: &Config, context: usize) -> usize {
        let one = context.div_ceil(BLOCK);
        let room = self.memory_limit.unwrap_or(DEFAULT_KV_BYTES) / block_bytes(config, self.kv).max(1);
        let all = one.saturating_mul(self.sequences);
        self.cache_blocks.unwrap_or(all.min(usize::try_from(room).unwrap_or(usize::MAX)).max(one))
    }
}

/// Bytes of K and V of one block in all layers, without what a backend adds.
pub fn block_bytes(config: &Config, kv: KvFormat) -> u64 {
    let head = match kv {
        KvFormat::F8 => config.head_dim,
        KvFormat::Half | KvFormat::Bf16 => 2 * config.head_dim,
        KvFormat::F32 => 4 * config.head_dim,
        KvFormat::Q8 => config.head_dim + 4 * config.head_dim.div_ceil(GROUP),
    };
    [config.layers, config.kv_heads, head, 2, BLOCK]
        .into_iter()
        .fold(1, |bytes: u64, factor| bytes.saturating_mul(factor as u64))
}

/// That an engine can make progress within `limits`, and that its numbers fit.
pub(crate) fn check(limits: &Limits) -> Result<()> {
    within("tokens", limits.tokens, MAX_ROWS)?;
    within("sequences", limits.sequences, MAX_SEQUENCES)?;
    within("outputs", limits.outputs, MAX_ROWS)?;
    within("context", limits.context, MAX_CONTEXT)?;
    within("cache_blocks", limits.blocks, BlockId::MAX as usize)
}

fn within(name: &'static str, value: usize, most: usize) -> Result<()> {
    match (1..=most).contains(&value) {
        true => Ok(()),
        false => Err(Error::parameter(name, value, format!("must be 1 to {most}"))),
    }
}
