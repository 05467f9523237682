//! How one request picks its tokens, and what its parameters may be.

use std::sync::Arc;

use super::Allowed;
use crate::error::{Error, Result};

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
    /// Keeps tokens at least this many times as probable as the most probable that is left; 0 keeps all. 0 to 1.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens of prompt and text; 1 does nothing. Above 0.
    pub repetition_penalty: f32,
    /// Subtracted from the logit of every token that was generated. -2 to 2.
    pub presence_penalty: f32,
    /// Subtracted as many times as the token was generated. -2 to 2.
    pub frequency_penalty: f32,
    /// How many of the last tokens the penalties look at; `usize::MAX` for all.
    pub penalty_window: usize,
    /// Keeps the fewest tokens whose surprise is nearest the entropy (of equals the lower ids) that reach this probability
    /// together; 1 keeps all. Above 0, at most 1. Meister et al. 2022, "Locally typical sampling", arXiv:2202.00666.
    pub typical_p: f32,
    /// How often the most probable tokens are excluded (XTC, "exclude top choices"): where at least two of those that the other
    /// stages leave have a probability of `xtc_threshold` among them, only the least probable of these is kept (of equals the
    /// one with the highest id), and all that are less probable. 0 is never. 0 to 1.
    pub xtc_probability: f32,
    /// What a top choice has at least; above 0.5 there are no two. 0 to 1.
    pub xtc_threshold: f32,
    /// DRY, "don't repeat yourself": where a token came after the same `length` tokens before that the text ends with now,
    /// `dry_multiplier * dry_base ^ (length - dry_allowed_length)` is subtracted from its logit, once, for the greatest `length`.
    /// 0 does nothing. At least 0.
    pub dry_multiplier: f32,
    /// At least 1. What it grows to is bounded by the largest `f32`.
    pub dry_base: f32,
    /// The least `length` that is penalised, in tokens; 0 penalises every token of the window but its first.
    pub dry_allowed_length: usize,
    /// How many of the last tokens DRY looks at, those of the prompt too; `usize::MAX` for all.
    pub dry_window: usize,
    /// Tokens that no repetition goes across and that are not penalised by DRY, ascending.
    /// [`Tokenizer::dry_breakers`](crate::text::Tokenizer::dry_breakers) gives the usual ones, and
    /// [`Tokenizer::containing`](crate::text::Tokenizer::containing) those with texts of your own. A text that is spelled over
    /// several tokens breaks nothing.
    pub dry_breakers: Arc<[u32]>,
    /// The only tokens that may be drawn, at least one; all, where there is no list. [`Allowed::only`] makes one.
    pub allowed_tokens: Option<Arc<Allowed>>,
    /// Lists of tokens that no text gets to have: where what was generated ends with all of a list but its last token, that is not
    /// drawn. A list of one token forbids it. What the prompt ends with is no beginning of any.
    /// [`Tokenizer::bad_words`](crate::text::Tokenizer::bad_words) makes them of words.
    pub bad_words: Arc<[Box<[u32]>]>,
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
            typical_p: 1.0,
            xtc_probability: 0.0,
            xtc_threshold: 0.1,
            dry_multiplier: 0.0,
            dry_base: 1.75,
            dry_allowed_length: 2,
            dry_window: usize::MAX,
            dry_breakers: Arc::default(),
            allowed_tokens: None,
            bad_words: Arc::default(),
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
        in_range("typical_p", self.typical_p, self.typical_p > 0.0 && self.typical_p <= 1.0, "above 0 and at most 1")?;
        for (name, v) in [("xtc_probability", self.xtc_probability), ("xtc_threshold", self.xtc_threshold)] {
            in_range(name, v, (0.0..=1.0).contains(&v), "0 to 1")?;
        }
        in_range("dry_multiplier", self.dry_multiplier, self.dry_multiplier >= 0.0, "at least 0")?;
        in_range("dry_base", self.dry_base, self.dry_base >= 1.0, "at least 1")?;
        self.validate_breakers(vocab)?;
        self.validate_allowed(vocab)?;
        self.validate_words(vocab)?;
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

    fn validate_allowed(&self, vocab: usize) -> Result<()> {
        let wrong = |value: usize, problem| Err(Error::parameter("allowed_tokens", value, problem));
        match self.allowed_tokens.as_deref() {
            Some(allowed) if allowed.vocab() != vocab => {
                wrong(allowed.vocab(), format!("the list must be of a vocabulary of {vocab}"))
            }
            Some(allowed) if allowed.count() == 0 => wrong(0, "at least one token must be allowed".into()),
            _ => Ok(()),
        }
    }

    fn validate_words(&self, vocab: usize) -> Result<()> {
        for word in self.bad_words.iter() {
            let wrong = |problem| Err(Error::parameter("bad_words", format!("{word:?}"), problem));
            if word.is_empty() {
                return wrong("a list must have at least one token".into());
            }
            if word.iter().any(|&token| token as usize >= vocab) {
                return wrong(format!("the tokens must be below {vocab}"));
            }
        }
        Ok(())
    }

    fn validate_breakers(&self, vocab: usize) -> Result<()> {
        if let Some(pair) = self.dry_breakers.windows(2).find(|pair| pair[0] >= pair[1]) {
            let value = format!("[.., {}, {}, ..]", pair[0], pair[1]);
            return Err(Error::parameter("dry_breakers", value, "the tokens must be ascending"));
        }
        match self.dry_breakers.last() {
            Some(&token) if token as usize >= vocab => {
                Err(Error::parameter("dry_breakers", token, format!("the token must be below {vocab}")))
            }
            _ => Ok(()),
        }
    }

    /// Whether the logits change for other reasons than temperature.
    pub(super) fn adjusts(&self) -> bool {
        !self.logit_bias.is_empty() || self.penalises() || self.is_dry() || self.forbids()
    }

    /// Whether there are tokens that may not be drawn, beside those that `logit_bias` forbids.
    pub(super) fn forbids(&self) -> bool {
        self.allowed_tokens.is_some() || !self.bad_words.is_empty()
    }

    /// Which parameters may have left no token.
    pub(crate) fn forbidding(&self) -> &'static str {
        match (&self.allowed_tokens, self.bad_words.is_empty()) {
            (None, true) => "logit_bias",
            (None, false) => "bad_words",
            (Some(_), _) => "allowed_tokens",
        }
    }

    /// Whether tokens that have occurred are penalised: [`History`](super::History) matters only then, for DRY and for bad words.
    pub fn penalises(&self) -> bool {
        self.repetition_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }

    /// Whether tokens that would continue a repetition are penalised.
    pub(super) fn is_dry(&self) -> bool {
        self.dry_multiplier != 0.0 && self.dry_window != 0
    }

    /// Whether the most probable tokens are excluded at times.
    pub(super) fn excludes(&self) -> bool {
        self.xtc_probability > 0.0 && self.xtc_threshold <= 0.5
    }

    /// Whether a draw takes what only [`Sampler`](super::Sampler) does: typical, XTC, DRY, allowed tokens or bad words. A backend that
    /// samples beside its logits leaves such a draw to it.
    pub fn needs_host(&self) -> bool {
        self.is_dry() || self.forbids() || self.temperature > 0.0 && (self.typical_p < 1.0 || self.excludes())
    }
}

fn in_range(name: &'static str, value: f32, allowed: bool, range: &str) -> Result<()> {
    if allowed && value.is_finite() {
        Ok(())
    } else {
        Err(Error::parameter(name, value, format!("must be finite and {range}")))
    }
}
