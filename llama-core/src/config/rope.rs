//! Rotary frequencies for every way a context is stretched. Formed in f64 and rounded once: transformers forms most of
//! them in f32, so the two differ in the last place of an f32.

use std::f64::consts::TAU;

use super::{Rope, RopeScaling};

impl Rope {
    /// `[dims / 2]` radians per position, for sequences of at most `context` positions.
    pub fn inv_freq(&self, context: usize) -> Vec<f32> {
        let plain = self.plain();
        let stretched: Vec<f64> = match self.scaling {
            RopeScaling::None => plain.collect(),
            RopeScaling::Linear { factor } => plain.map(|freq| freq / factor).collect(),
            RopeScaling::Dynamic { factor, original } => {
                let theta = dynamic_theta(self.theta, self.dims, factor, original, context);
                return Rope { theta, scaling: RopeScaling::None, ..self.clone() }.inv_freq(context);
            }
            RopeScaling::Yarn { factor, original, beta_fast, beta_slow, truncate, .. } => {
                let ramp = Ramp::new(self, original, [beta_fast, beta_slow], truncate);
                plain.enumerate().map(|(i, freq)| mix(freq, freq / factor, ramp.at(i))).collect()
            }
            RopeScaling::Llama3 { factor, low, high, original } => {
                plain.map(|freq| three_bands(freq, factor, low, high, original)).collect()
            }
            RopeScaling::Long { ref short, ref long, original, .. } => {
                divided(plain, if context > original { long } else { short })
            }
            RopeScaling::Divisors { ref divisors } => divided(plain, divisors),
        };
        stretched.into_iter().map(|freq| freq as f32).collect()
    }

    /// `[dims / 2]` divisors of the plain frequencies, where the context was stretched so that a GGUF tells it by them.
    pub(crate) fn divisors(&self) -> Option<Vec<f32>> {
        match self.scaling {
            RopeScaling::Divisors { ref divisors } => Some(divisors.clone()),
            RopeScaling::Llama3 { factor, low, high, original } => {
                Some(self.plain().map(|freq| (freq / three_bands(freq, factor, low, high, original)) as f32).collect())
            }
            _ => None,
        }
    }

    /// The frequencies of a context that was not stretched.
    fn plain(&self) -> impl Iterator<Item = f64> {
        (0..self.dims / 2).map(|i| self.theta.powf(-2.0 * i as f64 / self.dims as f64))
    }

    /// Multiplies cosine and sine.
    pub fn scale(&self) -> f32 {
        match self.scaling {
            RopeScaling::Yarn { attention_factor, .. } | RopeScaling::Long { attention_factor, .. } => {
                attention_factor as f32
            }
            _ => 1.0,
        }
    }
}

fn divided(plain: impl Iterator<Item = f64>, divisors: &[f32]) -> Vec<f64> {
    plain.zip(divisors).map(|(freq, &divisor)| freq / f64::from(divisor)).collect()
}

/// Which row of a matrix whose heads are in halves is row `row` of the same matrix in pairs, where of each head's `head_dim` rows the
/// first `dims` are turned.
pub(crate) fn row_of_halves(row: usize, head_dim: usize, dims: usize) -> usize {
    match (row / head_dim * head_dim, row % head_dim) {
        (head, within) if within < dims => head + within % 2 * (dims / 2) + within / 2,
        _ => row,
    }
}

/// Llama 3.1's stretch of one frequency: by `factor` where it makes few rotations, not at all where many.
fn three_bands(freq: f64, factor: f64, low: f64, high: f64, original: usize) -> f64 {
    let rotations = original as f64 * freq / TAU;
    mix(freq / factor, freq, ((rotations - low) / (high - low)).clamp(0.0, 1.0))
}

/// `a` at 0, `b` at 1.
fn mix(a: f64, b: f64, at: f64) -> f64 {
    a * (1.0 - at) + b * at
}

/// The base that stretches `original` positions to `context`, as transformers' `dynamic` has it for a sequence that long.
fn dynamic_theta(theta: f64, dims: usize, factor: f64, original: usize, context: usize) -> f64 {
    if dims <= 2 || context <= original {
        return theta;
    }
    let stretch = factor * context as f64 / original as f64 - (factor - 1.0);
    theta * stretch.powf(dims as f64 / (dims as f64 - 2.0))
}

/// YaRN's ramp over frequencies: 0 where a frequency is left alone, 1 where it is divided by the factor (section 3.2).
struct Ramp {
    from: f64,
    to: f64,
}

impl Ramp {
    /// `betas`: rotations over the original context at the ramp's start and at its end.
    fn new(rope: &Rope, original: usize, betas: [f64; 2], truncate: bool) -> Ramp {
        let index =
            |rotations: f64| rope.dims as f64 * (original as f64 / (rotations * TAU)).ln() / (2.0 * rope.theta.ln());
        let [from, to] = betas.map(index);
        let [from, to] = if truncate { [from.floor(), to.ceil()] } else { [from, to] };
        let [from, to] = [from.max(0.0), to.min(rope.dims as f64 - 1.0)];
        Ramp { from, to: if from == to { to + 0.001 } else { to } }
    }

    fn at(&self, i: usize) -> f64 {
        ((i as f64 - self.from) / (self.to - self.from)).clamp(0.0, 1.0)
    }
}

/// LongRoPE's factor on cosine and sine: `sqrt(1 + ln(stretch) / ln(original))`, and 1 where nothing is stretched.
pub(crate) fn long_scale(stretch: f64, original: usize) -> f64 {
    if stretch <= 1.0 { 1.0 } else { (1.0 + stretch.ln() / (original as f64).ln()).sqrt() }
}

/// YaRN's factor on cosine and sine (section 3.4): `0.1 m ln(stretch) + 1`, and 1 where nothing is stretched.
pub(crate) fn yarn_scale(stretch: f64, m: f64) -> f64 {
    if stretch <= 1.0 { 1.0 } else { 0.1 * m * stretch.ln() + 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RopeLayout;

    fn rope(theta: f64, dims: usize, scaling: RopeScaling) -> Rope {
        Rope { theta, dims, layout: RopeLayout::Halves, unturned: Vec::new(), scaling }
    }

    fn yarn(truncate: bool) -> RopeScaling {
        RopeScaling::Yarn {
            factor: 4.0,
            original: 128,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor: 1.0,
            truncate,
        }
    }

    /// Expected numbers: transformers' formulas, evaluated in numpy.
    #[test]
    fn follows_transformers() {
        let dynamic = || RopeScaling::Dynamic { factor: 4.0, original: 128 };
        let betas = RopeScaling::Yarn {
            factor: 8.0,
            original: 4096,
            beta_fast: 16.0,
            beta_slow: 2.0,
            attention_factor: 1.0,
            truncate: true,
        };
        let quarter = vec![4.0, 4.0, 4.0, 4.0];
        let long =
            || RopeScaling::Long { short: vec![1.0; 4], long: vec![4.0; 4], original: 128, attention_factor: 1.0 };
        for (rope, context, expected) in [
            (rope(1e4, 8, RopeScaling::None), 9, vec![1.0, 0.1, 0.01, 0.001]),
            (rope(1e4, 8, RopeScaling::Linear { factor: 4.0 }), 9, vec![0.25, 0.025, 0.0025, 0.00025]),
            (rope(1e4, 8, RopeScaling::Divisors { divisors: quarter }), 9, vec![0.25, 0.025, 0.0025, 0.00025]),
            (rope(1e4, 8, long()), 128, vec![1.0, 0.1, 0.01, 0.001]),
            (rope(1e4, 8, long()), 129, vec![0.25, 0.025, 0.0025, 0.00025]),
            (rope(1e4, 8, dynamic()), 100, vec![1.0, 0.1, 0.01, 0.001]),
            (rope(1e4, 8, dynamic()), 512, vec![1.0, 0.042529035, 0.001808719, 7.6923076e-5]),
            (
                rope(1e4, 16, yarn(false)),
                512,
                vec![1.0, 0.22563748, 0.042705674, 0.007905694, 0.0025, 7.905694e-4, 2.5e-4, 7.905694e-5],
            ),
            (
                rope(5e5, 16, betas),
                512,
                vec![1.0, 0.19392274, 0.03760603, 0.004102124, 1.767767e-4, 3.4281024e-5, 6.6478697e-6, 1.2891732e-6],
            ),
        ] {
            let found = rope.inv_freq(context);
            assert_eq!(found.len(), expected.len());
            for (f, e) in found.iter().zip(&expected) {
                assert!((f64::from(*f) - e).abs() < 2e-7 * e, "{:?}: {found:?} and not {expected:?}", rope.scaling);
            }
        }
    }

    #[test]
    fn a_truncated_ramp_differs() {
        assert_ne!(rope(1e4, 16, yarn(true)).inv_freq(512), rope(1e4, 16, yarn(false)).inv_freq(512));
    }

    #[test]
    fn nothing_is_scaled_where_nothing_is_stretched() {
        assert_eq!([yarn_scale(1.0, 1.0), long_scale(1.0, 4096)], [1.0; 2]);
        assert_eq!(rope(1e4, 2, RopeScaling::Dynamic { factor: 2.0, original: 8 }).inv_freq(64), [1.0]);
    }
}
