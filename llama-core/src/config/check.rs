//! What a model's sizes must satisfy, whichever file they came from: after [`Config::check`], nothing downstream divides
//! by zero, overflows or asks for an absurd amount of memory because of a number in a file.

use std::fmt::Display;
use std::ops::RangeInclusive;

use super::{Config, Multipliers, Rope, RopeScaling, Temperature};
use crate::error::{Error, Result};

/// Largest sizes that are believed: some ten times those of the largest Llama.
const MOST_VOCAB: usize = 1 << 24;
const MOST_HIDDEN: usize = 1 << 20;
const MOST_FFN: usize = 1 << 22;
const MOST_LAYERS: usize = 4096;
const MOST_HEADS: usize = 1 << 14;
const MOST_HEAD_DIM: usize = 4096;
const MOST_CONTEXT: usize = 1 << 31;
const MOST_LABELS: usize = 1 << 14;
const MOST_FACTOR: f64 = 1e6;
const LEAST_MULTIPLIER: f32 = 1e-4;

/// How a kind of file spells the hyperparameters, for error messages.
#[derive(Debug)]
pub(crate) struct Keys {
    pub(crate) vocab: &'static str,
    pub(crate) hidden: &'static str,
    pub(crate) ffn: &'static str,
    pub(crate) layers: &'static str,
    pub(crate) heads: &'static str,
    pub(crate) kv_heads: &'static str,
    pub(crate) head_dim: &'static str,
    pub(crate) context: &'static str,
    pub(crate) eps: &'static str,
    pub(crate) theta: &'static str,
    pub(crate) rope_dims: &'static str,
    pub(crate) scaling: &'static str,
    pub(crate) window: &'static str,
    pub(crate) labels: &'static str,
    pub(crate) temperature: &'static str,
    pub(crate) embedding_multiplier: &'static str,
    pub(crate) residual_multiplier: &'static str,
    pub(crate) attention_multiplier: &'static str,
    pub(crate) logits_scaling: &'static str,
}

impl Config {
    /// An error that names the key of the first size that cannot be.
    pub(crate) fn check(&self, keys: &Keys) -> Result<()> {
        within(keys.vocab, self.vocab, 1..=MOST_VOCAB)?;
        within(keys.hidden, self.hidden, 1..=MOST_HIDDEN)?;
        within(keys.ffn, self.ffn, 1..=MOST_FFN)?;
        within(keys.layers, self.layers, 1..=MOST_LAYERS)?;
        within(keys.heads, self.heads, 1..=MOST_HEADS)?;
        within(keys.kv_heads, self.kv_heads, 1..=self.heads)?;
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(Error::config(
                keys.kv_heads,
                format!("is {}; a divisor of the {} heads was expected", self.kv_heads, self.heads),
            ));
        }
        within(keys.head_dim, self.head_dim, 2..=MOST_HEAD_DIM)?;
        within(keys.context, self.context, 1..=MOST_CONTEXT)?;
        within(keys.eps, self.eps, 1e-12..=1.0)?;
        if let Some(window) = self.window {
            within(keys.window, window, 1..=MOST_CONTEXT)?;
        }
        within(keys.labels, self.labels.len(), 0..=MOST_LABELS)?;
        if let Some(Temperature { growth, from }) = self.temperature {
            within(keys.temperature, f64::from(growth), -MOST_FACTOR..=MOST_FACTOR)?;
            within(&format!("{} original context", keys.scaling), from, 1..=MOST_CONTEXT)?;
        }
        self.multipliers.check(keys)?;
        self.rope.check(keys, self)
    }
}

impl Multipliers {
    fn check(&self, keys: &Keys) -> Result<()> {
        let Multipliers { embedding, residual, attention, logits } = *self;
        for (key, multiplier) in [
            (keys.embedding_multiplier, embedding),
            (keys.residual_multiplier, residual),
            (keys.attention_multiplier, attention.unwrap_or(1.0)),
            (keys.logits_scaling, logits),
        ] {
            within(key, multiplier, LEAST_MULTIPLIER..=1.0 / LEAST_MULTIPLIER)?;
        }
        Ok(())
    }
}

/// Names of `count` labels that have none, as transformers names them. `key` is what says how many there are.
pub(crate) fn numbered_labels(key: &str, count: usize) -> Result<Vec<String>> {
    within(key, count, 1..=MOST_LABELS)?;
    Ok((0..count).map(|i| format!("LABEL_{i}")).collect())
}

impl Rope {
    fn check(&self, keys: &Keys, config: &Config) -> Result<()> {
        within(keys.theta, self.theta, 1.0 + f64::EPSILON..=1e15)?;
        within(keys.rope_dims, self.dims, 2..=config.head_dim)?;
        if !self.dims.is_multiple_of(2) {
            return Err(Error::config(keys.rope_dims, format!("is {}; an even number was expected", self.dims)));
        }
        self.scaling.check(keys.scaling, self.dims)?;
        match self.inv_freq(config.context).into_iter().find(|freq| !freq.is_finite()) {
            Some(freq) => {
                Err(Error::config(keys.scaling, format!("makes the frequency {freq}; finite ones were expected")))
            }
            None => Ok(()),
        }
    }
}

impl RopeScaling {
    fn check(&self, key: &str, dims: usize) -> Result<()> {
        let stretch = |factor: f64| within(&format!("{key} factor"), factor, 1.0..=MOST_FACTOR);
        let before = |original: usize| within(&format!("{key} original context"), original, 1..=MOST_CONTEXT);
        match *self {
            RopeScaling::None => Ok(()),
            RopeScaling::Linear { factor } => stretch(factor),
            RopeScaling::Dynamic { factor, original } => stretch(factor).and(before(original)),
            RopeScaling::Yarn { factor, original, beta_fast, beta_slow, attention_factor, .. } => {
                stretch(factor).and(before(original))?;
                within(&format!("{key} attention factor"), attention_factor, 1e-3..=1e3)?;
                increasing(key, "beta_slow", beta_slow, "beta_fast", beta_fast)
            }
            RopeScaling::Llama3 { factor, low, high, original } => {
                stretch(factor).and(before(original))?;
                increasing(key, "low_freq_factor", low, "high_freq_factor", high)
            }
            RopeScaling::Long { ref short, ref long, original, attention_factor } => {
                within(&format!("{key} original context"), original, 2..=MOST_CONTEXT)?;
                within(&format!("{key} attention factor"), attention_factor, 1e-3..=1e3)?;
                check_divisors(key, short, dims).and_then(|()| check_divisors(key, long, dims))
            }
            RopeScaling::Divisors { ref divisors } => check_divisors(key, divisors, dims),
        }
    }
}

fn check_divisors(key: &str, divisors: &[f32], dims: usize) -> Result<()> {
    if divisors.len() != dims / 2 {
        return Err(Error::config(
            key,
            format!("has {} divisors; {}, one for each frequency, were expected", divisors.len(), dims / 2),
        ));
    }
    let bad = divisors.iter().position(|divisor| !divisor.is_finite() || *divisor < f32::MIN_POSITIVE);
    match bad {
        Some(i) => Err(Error::config(key, format!("divisor {i} is {}; a positive number was expected", divisors[i]))),
        None => Ok(()),
    }
}

fn increasing(key: &str, low_name: &str, low: f64, high_name: &str, high: f64) -> Result<()> {
    within(&format!("{key} {low_name}"), low, 1e-6..=MOST_FACTOR)?;
    within(&format!("{key} {high_name}"), high, 1e-6..=MOST_FACTOR)?;
    match low < high {
        true => Ok(()),
        false => Err(Error::config(key, format!("{low_name} is {low}; less than {high_name}, {high}, was expected"))),
    }
}

/// An error unless `value` lies in `range`. Not a number lies in none.
fn within<T: PartialOrd + Display>(key: &str, value: T, range: RangeInclusive<T>) -> Result<()> {
    match range.contains(&value) {
        true => Ok(()),
        false => Err(Error::config(key, format!("is {value}; {} to {} was expected", range.start(), range.end()))),
    }
}
