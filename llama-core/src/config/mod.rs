//! A model's sizes and rotary frequencies, whichever file they came from.

mod check;
mod head;
mod rope;

pub(crate) use check::{Keys, numbered_labels};
pub use head::{Head, Pooling, ProblemType};
pub(crate) use rope::{long_scale, row_of_halves, yarn_scale};

use crate::numerics::ln;

/// Hyperparameters of a Llama. A `Config` that exists has been checked: sizes are positive and divide as they must.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `"llama"`, `"mistral"`, `"qwen2"`: as the file names it.
    pub architecture: String,
    /// Tokens in the vocabulary: rows of the embedding.
    pub vocab: usize,
    /// Columns of the residual stream.
    pub hidden: usize,
    /// Columns of gate and of up.
    pub ffn: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Columns of a head.
    pub head_dim: usize,
    /// Positions the model was trained for.
    pub context: usize,
    /// Whether each head of queries and of keys is normed before it turns (Qwen3).
    pub head_norms: bool,
    /// How attention's temperature grows, where it does.
    pub temperature: Option<Temperature>,
    /// What a Granite multiplies its numbers by.
    pub multipliers: Multipliers,
    /// RMSNorm's epsilon.
    pub eps: f32,
    /// Rotary embedding.
    pub rope: Rope,
    /// Sliding window, where the model has one.
    pub window: Option<usize>,
    /// Where logits come from.
    pub head: Head,
    /// What becomes of a text's hidden states where a caller does not say.
    pub pooling: Pooling,
    /// Names of a classifier's labels, in the order of its scores; empty where the model is none.
    pub labels: Vec<String>,
    /// What a classifier's scores mean.
    pub problem_type: ProblemType,
}

impl Config {
    /// What multiplies `q . k`: `1 / sqrt(head_dim)` where a model has no other.
    pub fn attention_scale(&self) -> f32 {
        self.multipliers.attention.unwrap_or_else(|| 1.0 / (self.head_dim as f32).sqrt())
    }

    /// RMSNorm's epsilon for the residual stream as it is here: divided by [`Multipliers::residual`], so that what layers add to it
    /// needs no multiplier. A norm takes that factor away again, if its epsilon is divided by the factor's square.
    pub fn residual_eps(&self) -> f32 {
        (f64::from(self.eps) / f64::from(self.multipliers.residual).powi(2)) as f32
    }

    /// Whether logits are divided by something.
    pub(crate) fn divides_logits(&self) -> bool {
        self.head != Head::None && self.multipliers.logits != 1.0
    }

    /// What multiplies an embedding on its way into that residual stream.
    pub fn embedding_scale(&self) -> f32 {
        (f64::from(self.multipliers.embedding) / f64::from(self.multipliers.residual)) as f32
    }
}

/// What a model multiplies its numbers by beside what every Llama does (Granite, after Yang et al. 2022, arXiv:2203.03466).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Multipliers {
    /// Of an embedding.
    pub embedding: f32,
    /// Of what a layer's attention, and its feed-forward network, adds to the residual stream.
    pub residual: f32,
    /// Of `q . k`; `None` is `1 / sqrt(head_dim)`.
    pub attention: Option<f32>,
    /// What logits are divided by.
    pub logits: f32,
}

impl Default for Multipliers {
    fn default() -> Self {
        Multipliers { embedding: 1.0, residual: 1.0, attention: None, logits: 1.0 }
    }
}

/// The temperature of Ministral 3's attention, after Llama 4's: queries at position `p` are multiplied by
/// `1 + growth * ln(1 + floor(p / from))` after they were turned. That is 1 for the first `from` positions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Temperature {
    /// Not 0.
    pub growth: f32,
    /// Positions, of which there is at least one.
    pub from: usize,
}

impl Temperature {
    /// What a query at `position` is multiplied by: formed in `f64` and rounded once, by functions that are the same on every
    /// machine. Exactly 1 below `from`.
    pub fn factor(self, position: u32) -> f32 {
        let stretches = position as usize / self.from;
        (1.0 + f64::from(self.growth) * ln(1.0 + stretches as f64)) as f32
    }
}

/// Rotary position embedding (Su et al. 2021, arXiv:2104.09864) and how it was stretched.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// Columns of a head that turn: even, at most `head_dim`.
    pub dims: usize,
    /// Which columns turn together.
    pub layout: RopeLayout,
    /// Layers whose queries and keys do not turn (SmolLM3; Kazemnejad et al. 2023, arXiv:2305.19466), in order.
    pub unturned: Vec<usize>,
    /// How the context was stretched.
    pub scaling: RopeScaling,
}

/// Which two columns of a head one rotary frequency turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeLayout {
    /// Columns `2i` and `2i + 1`: GGUF's llama.
    Interleaved,
    /// Columns `i` and `i + rope_dim / 2`: Hugging Face.
    Halves,
}

/// Ways to stretch a rotary embedding past the context it was trained with.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// As trained.
    None,
    /// Positions divided by `factor` (Chen et al. 2023, arXiv:2306.15595).
    Linear {
        /// Divisor.
        factor: f64,
    },
    /// NTK-aware base. The base is fixed by the engine's context limit, not by the position reached, so that a token's
    /// bits do not depend on what follows it.
    Dynamic {
        /// Stretch.
        factor: f64,
        /// Context before stretching.
        original: usize,
    },
    /// YaRN (Peng et al. 2023, arXiv:2309.00071).
    Yarn {
        /// Stretch.
        factor: f64,
        /// Context before stretching.
        original: usize,
        /// Rotations above which a frequency is left alone.
        beta_fast: f64,
        /// Rotations below which a frequency is divided by `factor`.
        beta_slow: f64,
        /// Multiplies cosine and sine.
        attention_factor: f64,
        /// Whether the ramp's ends are rounded to whole dimensions.
        truncate: bool,
    },
    /// Llama 3.1's three bands.
    Llama3 {
        /// Stretch of the lowest band.
        factor: f64,
        /// Wavelengths above `original / low` are divided by `factor`.
        low: f64,
        /// Wavelengths below `original / high` are left alone.
        high: f64,
        /// Context before stretching.
        original: usize,
    },
    /// LongRoPE (Ding et al. 2024, arXiv:2402.13753): a divisor for each frequency, of two sets. Which is fixed by the engine's
    /// context limit, as [`RopeScaling::Dynamic`]'s base is.
    Long {
        /// `[dims / 2]`, for contexts of up to `original` positions.
        short: Vec<f32>,
        /// `[dims / 2]`, for longer ones.
        long: Vec<f32>,
        /// Context before stretching.
        original: usize,
        /// Multiplies cosine and sine, in either case.
        attention_factor: f64,
    },
    /// A divisor for each frequency: `rope_freqs.weight` of a GGUF, times its linear factor where it has one.
    Divisors {
        /// `[dims / 2]`.
        divisors: Vec<f32>,
    },
}

#[cfg(test)]
impl Config {
    /// Small sizes, for unit tests that ask for one or two of their own.
    pub(crate) fn of_tests() -> Config {
        Config {
            architecture: "llama".into(),
            vocab: 8,
            hidden: 16,
            ffn: 32,
            layers: 1,
            heads: 8,
            kv_heads: 8,
            head_dim: 2,
            context: 16,
            head_norms: false,
            temperature: None,
            multipliers: Multipliers::default(),
            eps: 1e-5,
            rope: Rope {
                theta: 1e4,
                dims: 2,
                layout: RopeLayout::Halves,
                unturned: Vec::new(),
                scaling: RopeScaling::None,
            },
            window: None,
            head: Head::Own,
            pooling: Pooling::Last,
            labels: Vec::new(),
            problem_type: ProblemType::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temperature_is_1_before_it_grows() {
        let temperature = Temperature { growth: 0.1, from: 16_384 };
        assert!([0, 1, 16_383].iter().all(|&position| temperature.factor(position) == 1.0));
        for (position, stretches) in
            [(16_384, 2f64), (32_767, 2.0), (32_768, 3.0), (262_143, 16.0), (u32::MAX, 262_144.0)]
        {
            let want = (1.0 + f64::from(0.1f32) * stretches.ln()) as f32;
            assert_eq!(temperature.factor(position), want, "{position}");
        }
    }
}
