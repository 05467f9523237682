//! What is asked of the engine, checked before anything is queued.

use std::sync::Arc;

use crate::backend::Limits;
use crate::batch::BLOCK;
use crate::error::{Error, Result};
use crate::sample::Sampling;

use super::embed::Embed;
use super::grammar::Grammar;

/// Stop strings of one request.
pub const MAX_STOP_STRINGS: usize = 16;
/// Bytes of one stop string.
pub const MAX_STOP_BYTES: usize = 1024;
/// Stop tokens of one request.
pub const MAX_STOP_TOKENS: usize = 256;
/// Control tokens of one request that have a text.
pub const MAX_SPELLED_TOKENS: usize = 16;

/// One prompt and how to continue it.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Token ids, at least one, each below the model's `vocab`.
    pub prompt: Vec<u32>,
    /// Tokens to generate at most. `None`: until the context is full. 0 is allowed with `prompt_logprobs`: the prompt is
    /// scored and not continued.
    pub max_tokens: Option<usize>,
    /// Tokens to generate at least, and at most `max_tokens`. Until there are so many, no token is drawn that would end the text
    /// (one of `stop_tokens`, or of the engine's `end_tokens` unless they are ignored), and no stop string ends it. A grammar
    /// that allows nothing but an end ends it all the same.
    pub min_tokens: usize,
    /// How tokens are chosen, and how many alternatives are reported with each.
    pub sampling: Sampling,
    /// Strings that end the generation; the text ends before them, or with them (`include_stop`). They need the engine to have a tokenizer.
    pub stop_strings: Vec<String>,
    /// The text has the stop string that ended it.
    pub include_stop: bool,
    /// Tokens that end the generation, besides the engine's `end_tokens`. They are reported and give no text.
    pub stop_tokens: Vec<u32>,
    /// Control tokens that are part of the text by their spelling, such as those around what a model thinks. Others have no text.
    pub spelled_tokens: Vec<u32>,
    /// Go on past `end_tokens`.
    pub ignore_end: bool,
    /// Report the log-probability of every token of the prompt but the first, with as many alternatives as
    /// `sampling` asks for. Such a prompt is computed even where the prefix cache holds it.
    pub prompt_logprobs: bool,
    /// The adapter to compute it with, by the name that it was loaded by ([`Loader::adapter`](crate::Loader::adapter)); the model
    /// as it is, where there is none.
    pub adapter: Option<String>,
    /// Which texts may be generated; any, where there is none. Its tokens are drawn on the host.
    pub grammar: Option<Arc<dyn Grammar>>,
}

impl Request {
    /// A greedy continuation of `prompt`.
    pub fn new(prompt: impl Into<Vec<u32>>) -> Self {
        Request { prompt: prompt.into(), ..Request::default() }
    }

    /// Checks everything against the model's sizes. Returns how many tokens may be generated.
    pub(super) fn check(&self, vocab: usize, limits: &Limits, has_text: bool) -> Result<usize> {
        check_prompt(&self.prompt, vocab)?;
        self.sampling.validate(vocab)?;
        self.check_text(vocab, has_text)?;
        self.fit(limits)
    }

    fn check_text(&self, vocab: usize, has_text: bool) -> Result<()> {
        at_most("stop_strings", self.stop_strings.len(), MAX_STOP_STRINGS, "strings")?;
        if !has_text && !self.stop_strings.is_empty() {
            let problem = "stop strings need an engine with a tokenizer";
            return Err(Error::parameter("stop_strings", format!("{:?}", self.stop_strings), problem));
        }
        for string in &self.stop_strings {
            at_most("stop_strings", string.len(), MAX_STOP_BYTES, "bytes in one string")?;
            if string.is_empty() {
                return Err(Error::parameter("stop_strings", "\"\"", "a stop string must not be empty"));
            }
        }
        at_most("stop_tokens", self.stop_tokens.len(), MAX_STOP_TOKENS, "tokens")?;
        in_vocabulary("stop_tokens", &self.stop_tokens, vocab)?;
        at_most("spelled_tokens", self.spelled_tokens.len(), MAX_SPELLED_TOKENS, "tokens")?;
        in_vocabulary("spelled_tokens", &self.spelled_tokens, vocab)
    }

    /// How many tokens may be generated, if the sequence fits when it is alone.
    fn fit(&self, limits: &Limits) -> Result<usize> {
        let pool = limits.blocks.saturating_mul(BLOCK);
        let prompt = self.prompt.len();
        let asked = self.max_tokens.unwrap_or_else(|| limits.context.min(pool).saturating_sub(prompt).max(1));
        if asked == 0 && !self.prompt_logprobs {
            return Err(Error::parameter("max_tokens", 0, "must be at least 1 unless prompt_logprobs is set"));
        }
        fit(prompt.saturating_add(asked), limits)?;
        if self.min_tokens > asked {
            let problem = format!("must be at most max_tokens, which is {asked}");
            return Err(Error::parameter("min_tokens", self.min_tokens, problem));
        }
        Ok(asked)
    }
}

impl Embed {
    /// Checks everything against the model's sizes.
    pub(super) fn check(&self, vocab: usize, limits: &Limits) -> Result<()> {
        check_prompt(&self.prompt, vocab)?;
        fit(self.prompt.len(), limits)
    }
}

fn check_prompt(prompt: &[u32], vocab: usize) -> Result<()> {
    match prompt.is_empty() {
        true => Err(Error::parameter("prompt", "[]", "must hold at least one token")),
        false => in_vocabulary("prompt", prompt, vocab),
    }
}

/// That a sequence of `needed` tokens fits when it is alone.
fn fit(needed: usize, limits: &Limits) -> Result<()> {
    if needed > limits.context {
        return Err(Error::ContextOverflow { needed, limit: limits.context });
    }
    if needed > limits.blocks.saturating_mul(BLOCK) {
        let problem = format!("{} blocks are needed for {needed} tokens", needed.div_ceil(BLOCK));
        return Err(Error::parameter("cache_blocks", limits.blocks, problem));
    }
    Ok(())
}

/// That every one of `tokens` is below `vocab`.
pub(super) fn in_vocabulary(name: &'static str, tokens: &[u32], vocab: usize) -> Result<()> {
    match tokens.iter().position(|&token| token as usize >= vocab) {
        None => Ok(()),
        Some(at) => {
            let problem = format!("entry {at} must be below the vocabulary's size, {vocab}");
            Err(Error::parameter(name, tokens[at], problem))
        }
    }
}

fn at_most(name: &'static str, count: usize, most: usize, what: &str) -> Result<()> {
    match count <= most {
        true => Ok(()),
        false => Err(Error::parameter(name, count, format!("at most {most} {what}"))),
    }
}
