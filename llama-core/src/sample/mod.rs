//! From logits to a token: pure functions over slices, no allocation once a [`Sampler`] is made.
//!
//! The order of the stages is that of transformers and vLLM: bias, penalties, what is allowed, temperature, top-k, top-p,
//! min-p, draw. Temperature 0 takes the most probable token after bias and penalties; of equals the one with the lowest id.
//!
//! A draw is a function of logits, [`Sampling`], [`History`] and position, on every machine: exponentials are our own
//! (`elementary.rs`), sums are exact (`candidates.rs`), and the random number comes from a counter (`philox.rs`). So a
//! sequence's text doesn't depend on what else ran, and a sequence that is evicted and evaluated again continues as it
//! would have; and a device that samples beside its logits (`outputs.rs`) picks the same tokens.

mod adjust;
mod allowed;
mod candidates;
mod elementary;
mod logprobs;
mod outputs;
mod philox;
#[cfg(test)]
mod tests;

pub use allowed::Allowed;
pub use logprobs::Logprob;
pub use outputs::{Draw, Outputs};

use crate::error::{Error, Result};
use adjust::{Tally, adjust};
use candidates::{Candidate, Candidates};

/// Most alternatives that [`Sampling::logprobs`] can ask for.
pub const MAX_LOGPROBS: usize = 20;

/// How one request picks its tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the most probable token. At least 0.
    pub temperature: f32,
    /// Keeps this many of the most probable tokens, exactly (of equals the lower ids); 0 keeps all.
    pub top_k: usize,
    /// Keeps the fewest most probable tokens that reach this probability together; 1 keeps all. Above 0, at most 1.
    pub top_p: f32,
    /// Keeps tokens at least this many times as probable as the most probable; 0 keeps all. 0 to 1.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens of prompt and text; 1 does nothing. Above 0.
    pub repetition_penalty: f32,
    /// Subtracted from the logit of every token that was generated. -2 to 2.
    pub presence_penalty: f32,
    /// Subtracted as many times as the token was generated. -2 to 2.
    pub frequency_penalty: f32,
    /// How many of the last tokens the penalties look at; `usize::MAX` for all.
    pub penalty_window: usize,
    /// Added to the logits of tokens: -100 to 100, or `-inf`, which forbids the token.
    pub logit_bias: Vec<(u32, f32)>,
    /// Key of the random numbers.
    pub seed: u64,
    /// `Some(n)` reports the chosen token's log-probability and those of the `n` most probable, at most
    /// [`MAX_LOGPROBS`]. They are the model's: before bias, penalties, temperature and truncation.
    pub logprobs: Option<usize>,
}

impl Default for Sampling {
    /// [`Sampling::greedy`].
    fn default() -> Self {
        Sampling::greedy()
    }
}

impl Sampling {
    /// The most probable token, always; nothing else is on. The base of every other setting:
    /// `Sampling { temperature: 0.8, seed: 7, ..Sampling::greedy() }`.
    pub fn greedy() -> Self {
        Sampling {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            penalty_window: usize::MAX,
            logit_bias: Vec::new(),
            seed: 0,
            logprobs: None,
        }
    }

    /// Checks every parameter for a vocabulary of `vocab` tokens.
    ///
    /// # Errors
    /// [`Error::Parameter`] with name, value and what is allowed, for the first that is out of range.
    pub fn validate(&self, vocab: usize) -> Result<()> {
        in_range("temperature", self.temperature, self.temperature >= 0.0, "at least 0")?;
        in_range("top_p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "above 0 and at most 1")?;
        in_range("min_p", self.min_p, (0.0..=1.0).contains(&self.min_p), "0 to 1")?;
        in_range("repetition_penalty", self.repetition_penalty, self.repetition_penalty > 0.0, "above 0")?;
        for (name, v) in [("presence_penalty", self.presence_penalty), ("frequency_penalty", self.frequency_penalty)] {
            in_range(name, v, (-2.0..=2.0).contains(&v), "-2 to 2")?;
        }
        self.validate_bias(vocab)?;
        match self.logprobs {
            Some(n) if n > MAX_LOGPROBS => {
                Err(Error::parameter("logprobs", n, format!("must be at most {MAX_LOGPROBS}")))
            }
            _ => Ok(()),
        }
    }

    fn validate_bias(&self, vocab: usize) -> Result<()> {
        for &(token, bias) in &self.logit_bias {
            let value = || format!("({token}, {bias})");
            if token as usize >= vocab {
                return Err(Error::parameter("logit_bias", value(), format!("the token must be below {vocab}")));
            }
            if !(-100.0..=100.0).contains(&bias) && bias != f32::NEG_INFINITY {
                return Err(Error::parameter("logit_bias", value(), "the bias must be -100 to 100, or -inf"));
            }
        }
        Ok(())
    }

    /// Whether the logits change for other reasons than temperature.
    fn adjusts(&self) -> bool {
        !self.logit_bias.is_empty() || self.penalises()
    }

    /// Whether tokens that have occurred are penalised: [`History`] matters only then.
    pub fn penalises(&self) -> bool {
        self.repetition_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }
}

fn in_range(name: &'static str, value: f32, allowed: bool, range: &str) -> Result<()> {
    if allowed && value.is_finite() {
        Ok(())
    } else {
        Err(Error::parameter(name, value, format!("must be finite and {range}")))
    }
}

/// A sequence's tokens so far, for the penalties.
#[derive(Debug, Clone, Copy, Default)]
pub struct History<'a> {
    /// Prompt, then what was generated; ids below the vocabulary's size.
    pub tokens: &'a [u32],
    /// How many of them are the prompt.
    pub prompt: usize,
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
    /// [`Sampling::logit_bias`] forbids every token, or every one that is [`Allowed`].
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
    top: Vec<Logprob>,
}

impl Sampler {
    /// A sampler for `vocab` tokens, with all the memory it will use: 36 bytes for each.
    pub fn new(vocab: usize) -> Self {
        Sampler {
            adjusted: vec![0.0; vocab],
            tally: vec![Tally::default(); vocab],
            candidates: Candidates::new(vocab),
            top: Vec::with_capacity(MAX_LOGPROBS),
        }
    }

    /// Bytes that a sampler for `vocab` tokens holds.
    pub fn bytes(vocab: usize) -> u64 {
        let each = size_of::<f32>() + size_of::<Tally>() + 2 * size_of::<Candidate>();
        (vocab as u64).saturating_mul(each as u64) + (MAX_LOGPROBS * size_of::<Logprob>()) as u64
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
            allowed.inspect(|allowed| allowed.forbid_others(&mut self.adjusted));
            &self.adjusted
        } else {
            logits
        };
        let token = match sampling.temperature {
            0.0 => greatest(logits),
            _ => draw(&mut self.candidates, logits, sampling, philox::bits(sampling.seed, position)),
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

fn draw(candidates: &mut Candidates, logits: &[f32], sampling: &Sampling, bits: u64) -> Option<u32> {
    candidates.fill(logits);
    if sampling.top_k > 0 {
        candidates.top_k(sampling.top_k);
    }
    candidates.weigh(sampling.temperature);
    if sampling.top_p < 1.0 {
        candidates.top_p(sampling.top_p);
    }
    if sampling.min_p > 0.0 {
        candidates.min_p(sampling.min_p);
    }
    candidates.draw(bits)
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
