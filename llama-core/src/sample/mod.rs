//! From logits to a token: pure functions over slices, no allocation once a [`Sampler`] is made, with [room](Sampler::reserve).
//!
//! The order of the stages: bias, penalties, DRY, what is allowed, temperature, top-k, typical, top-p, min-p, XTC, draw. It is
//! that of transformers and vLLM for what both have, and for the others that of llama.cpp, which takes the temperature last.
//! Temperature 0 takes the most probable token that is allowed after bias, penalties and DRY; of equals the one with the lowest id.
//!
//! A draw is a function of logits, [`Sampling`], [`History`] and position, on every machine: exponentials are our own
//! (`elementary.rs`), sums are exact (`candidates.rs`), and random numbers come from a counter (`philox.rs`). So a
//! sequence's text doesn't depend on what else ran, and a sequence that is evicted and evaluated again continues as it
//! would have; and a device that samples beside its logits (`outputs.rs`) picks the same tokens.

mod adjust;
mod allowed;
mod candidates;
mod dry;
mod elementary;
mod forbid;
mod logprobs;
mod outputs;
mod philox;
mod sampling;
#[cfg(test)]
mod tests;

pub use allowed::Allowed;
pub use logprobs::Logprob;
pub use outputs::{Draw, Outputs};
pub use sampling::{MAX_LOGPROBS, Sampling};

use crate::error::{Error, Result};
use adjust::{Tally, adjust};
use candidates::{Candidate, Candidates};
use philox::Stream;

/// A sequence's tokens so far, for the penalties, DRY and words that may not come.
#[derive(Debug, Clone, Copy, Default)]
pub struct History<'a> {
    /// Prompt, then what was generated; ids below the vocabulary's size.
    pub tokens: &'a [u32],
    /// How many of them are the prompt.
    pub prompt: usize,
}

impl<'a> History<'a> {
    /// Where the last `window` tokens begin.
    fn start(&self, window: usize) -> usize {
        self.tokens.len().saturating_sub(window)
    }

    /// The last `window` tokens.
    fn last(&self, window: usize) -> &'a [u32] {
        &self.tokens[self.start(window)..]
    }
}

/// What was picked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampled<'a> {
    /// Token id.
    pub token: u32,
    /// Its log-probability, if [`Sampling::logprobs`] asked for it.
    pub logprob: Option<f32>,
    /// The most probable tokens, most probable first, as many as were asked for.
    pub top: &'a [Logprob],
}

/// Why no token could be picked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Refusal {
    /// The model produced a logit that is not finite.
    NotFinite {
        /// The first such token.
        token: u32,
        /// Its logit.
        value: f32,
    },
    /// [`Sampling`] forbids every token, or every one that is [`Allowed`].
    NothingAllowed,
}

impl Refusal {
    /// The crate's error, for a sequence whose logits at `position` were refused.
    pub fn into_error(self, sequence: u64, position: u32) -> Error {
        match self {
            Refusal::NotFinite { token, value } => Error::NotFinite { sequence, token, position, value },
            Refusal::NothingAllowed => Error::parameter("logit_bias", "-inf for every token", "must leave a token"),
        }
    }
}

/// Picks tokens. Holds scratch for one vocabulary; carries nothing from one call to the next.
#[derive(Debug)]
pub struct Sampler {
    adjusted: Vec<f32>,
    tally: Vec<Tally>,
    candidates: Candidates,
    /// Lengths of DRY's matches.
    matches: Vec<u32>,
    top: Vec<Logprob>,
}

impl Sampler {
    /// A sampler for `vocab` tokens, with all the memory it will use for them: 36 bytes for each. Where
    /// [`Sampling::dry_multiplier`] is on, four more for each token of a [`History`] are found as it grows, or
    /// [reserved](Sampler::reserve).
    pub fn new(vocab: usize) -> Self {
        Sampler {
            adjusted: vec![0.0; vocab],
            tally: vec![Tally::default(); vocab],
            candidates: Candidates::new(vocab),
            matches: Vec::new(),
            top: Vec::with_capacity(MAX_LOGPROBS),
        }
    }

    /// Makes room for histories of up to `context` tokens, so that no draw has to.
    pub fn reserve(&mut self, context: usize) {
        self.matches.reserve_exact(context);
    }

    /// Bytes that a sampler for `vocab` tokens holds, with room for histories of `context` tokens.
    pub fn bytes(vocab: usize, context: usize) -> u64 {
        let each = size_of::<f32>() + size_of::<Tally>() + 2 * size_of::<Candidate>();
        let own = (vocab as u64).saturating_mul(each as u64) + (MAX_LOGPROBS * size_of::<Logprob>()) as u64;
        own.saturating_add((context as u64).saturating_mul(size_of::<u32>() as u64))
    }

    /// Picks the token that follows `position`. `logits` has one for each token of the vocabulary.
    ///
    /// # Errors
    /// A [`Refusal`], if a logit is not finite or no token is allowed.
    ///
    /// # Panics
    /// If `logits` is not as long as the vocabulary, if `sampling` was not [validated](Sampling::validate) for it, or if
    /// a token of `history` is outside it.
    pub fn sample(
        &mut self,
        logits: &[f32],
        sampling: &Sampling,
        history: History<'_>,
        position: u64,
    ) -> Result<Sampled<'_>, Refusal> {
        let token = self.pick(logits, sampling, history, position)?;
        Ok(self.report(logits, token, sampling.logprobs))
    }

    /// As [`Sampler::sample`], of the tokens that are `allowed`. Log-probabilities are the model's, as if all were.
    ///
    /// # Errors
    /// As [`Sampler::sample`].
    ///
    /// # Panics
    /// As [`Sampler::sample`], and if `allowed` is of another vocabulary.
    pub fn sample_allowed(
        &mut self,
        logits: &[f32],
        sampling: &Sampling,
        history: History<'_>,
        position: u64,
        allowed: &Allowed,
    ) -> Result<Sampled<'_>, Refusal> {
        assert_eq!(allowed.vocab(), self.vocab(), "allowed tokens and vocabulary");
        let token = self.pick_among(logits, sampling, history, position, Some(allowed))?;
        Ok(self.report(logits, token, sampling.logprobs))
    }

    /// As [`Sampler::sample`], without log-probabilities.
    ///
    /// # Errors
    /// As [`Sampler::sample`].
    ///
    /// # Panics
    /// As [`Sampler::sample`].
    pub fn pick(
        &mut self,
        logits: &[f32],
        sampling: &Sampling,
        history: History<'_>,
        position: u64,
    ) -> Result<u32, Refusal> {
        self.pick_among(logits, sampling, history, position, None)
    }

    fn pick_among(
        &mut self,
        logits: &[f32],
        sampling: &Sampling,
        history: History<'_>,
        position: u64,
        allowed: Option<&Allowed>,
    ) -> Result<u32, Refusal> {
        assert_eq!(logits.len(), self.vocab(), "logits and vocabulary");
        check_finite(logits)?;
        let logits = if sampling.adjusts() || allowed.is_some() {
            self.adjusted.copy_from_slice(logits);
            adjust(&mut self.adjusted, sampling, history, &mut self.tally);
            dry::penalise(&mut self.adjusted, sampling, history, &mut self.tally, &mut self.matches);
            forbid::forbid(&mut self.adjusted, sampling, history);
            allowed.inspect(|allowed| allowed.forbid_others(&mut self.adjusted));
            &self.adjusted
        } else {
            logits
        };
        let token = match sampling.temperature {
            0.0 => greatest(logits),
            _ => draw(&mut self.candidates, logits, sampling, position),
        };
        token.ok_or(Refusal::NothingAllowed)
    }

    /// Tokens of the vocabulary.
    pub fn vocab(&self) -> usize {
        self.adjusted.len()
    }

    /// Reports on `token`, which is given, as if it had been picked: its log-probability and the `n` most probable.
    ///
    /// # Errors
    /// A [`Refusal`], if a logit is not finite.
    ///
    /// # Panics
    /// If `token` has no logit.
    pub fn score(&mut self, logits: &[f32], token: u32, n: usize) -> Result<Sampled<'_>, Refusal> {
        check_finite(logits)?;
        Ok(self.report(logits, token, Some(n)))
    }

    fn report(&mut self, logits: &[f32], token: u32, logprobs: Option<usize>) -> Sampled<'_> {
        self.top.clear();
        let logprob = logprobs.map(|n| {
            let log_sum = logprobs::log_sum_exp(logits);
            logprobs::most_probable(logits, log_sum, n, &mut self.top);
            logprobs::logprob(logits[token as usize], log_sum)
        });
        Sampled { token, logprob, top: &self.top }
    }
}

fn draw(candidates: &mut Candidates, logits: &[f32], sampling: &Sampling, position: u64) -> Option<u32> {
    candidates.fill(logits);
    if sampling.top_k > 0 {
        candidates.top_k(sampling.top_k);
    }
    candidates.weigh(sampling.temperature);
    if sampling.typical_p < 1.0 {
        candidates.typical(sampling.typical_p);
    }
    if sampling.top_p < 1.0 {
        candidates.top_p(sampling.top_p);
    }
    if sampling.min_p > 0.0 {
        candidates.min_p(sampling.min_p);
    }
    if sampling.excludes() {
        let chance = philox::uniform(sampling.seed, position, Stream::Exclude);
        if chance < f64::from(sampling.xtc_probability) {
            candidates.exclude_top(sampling.xtc_threshold);
        }
    }
    candidates.draw(philox::bits(sampling.seed, position, Stream::Draw))
}

/// The first greatest logit's token, unless all are `-inf`.
fn greatest(logits: &[f32]) -> Option<u32> {
    let (mut token, mut max) = (None, f32::NEG_INFINITY);
    for (i, &logit) in logits.iter().enumerate() {
        if logit > max {
            (token, max) = (Some(i as u32), logit);
        }
    }
    token
}

fn check_finite(logits: &[f32]) -> Result<(), Refusal> {
    match logits.iter().position(|v| !v.is_finite()) {
        None => Ok(()),
        Some(i) => Err(Refusal::NotFinite { token: i as u32, value: logits[i] }),
    }
}
