//! Numbers as a scale times a signed code: Q3_K, Q6_K and IQ4, and Q4_0 and Q5_0 where weights count differently.

use super::{Fit, NOTHING, Part, extreme, round};
use crate::format::block::{Half, SUPER, inverse, narrow, widen};

/// How often the super-scale is solved for.
const ROUNDS: usize = 2;

/// How often the best scale is solved for anew, with its own codes.
const REFINEMENTS: usize = 2;

/// The values a signed code can stand for.
pub(in crate::format) trait Grid {
    /// The value of largest magnitude; negative.
    const LOWEST: f32;

    /// Values that the search maps the number of largest magnitude to: the first, the last, and how many.
    const TRIES: (f32, f32, usize);

    /// Integer scales tried beside the nearest one to the wanted: many where they lie close together.
    const NEAR: &'static [f32];

    /// Whether the search tries the extreme at the other end, too.
    const BOTH: bool;

    /// The value nearest to `v`.
    fn nearest(v: f32) -> f32;
}

/// Every integer from this (negative) one to minus it, exclusive.
pub(in crate::format) struct Uniform<const LOWEST: i8>;

impl<const LOWEST: i8> Grid for Uniform<LOWEST> {
    const LOWEST: f32 = LOWEST as f32;
    const BOTH: bool = LOWEST > -32;
    const NEAR: &'static [f32] =
        if LOWEST > -32 { &[-1.0, 1.0, -2.0, 2.0] } else { &[-1.0, 1.0, -2.0, 2.0, -3.0, 3.0, -4.0, 4.0] };
    const TRIES: (f32, f32, usize) = match LOWEST {
        -4 => (2.7, 5.7, 16),
        -8 => (6.5, 10.5, 17),
        -16 => (14.5, 18.5, 17),
        _ => (30.5, 33.5, 16),
    };

    #[inline(always)]
    fn nearest(v: f32) -> f32 {
        round(v, Self::LOWEST, -1.0 - Self::LOWEST)
    }
}

impl<const L: usize> Part<'_, L> {
    /// Sums of `x q` and `q q`, `q` the values nearest to `x * per_step`.
    #[inline(always)]
    fn products<G: Grid>(&self, per_step: f32) -> [f32; 2] {
        self.sums(|x, w| {
            let q = G::nearest(x * per_step);
            [w * x * q, w * q * q]
        })
    }

    /// Squared error with this scale and the best values.
    #[inline(always)]
    fn error<G: Grid>(&self, scale: f32) -> f32 {
        let per_step = inverse(scale);
        let [error] = self.sums(|x, w| {
            let error = x - scale * G::nearest(x * per_step);
            [w * error * error]
        });
        error
    }

    /// The best scale for the values nearest to `x * per_step`.
    fn solve<G: Grid>(&self, per_step: f32) -> Fit {
        let [xq, qq] = self.products::<G>(per_step);
        // With the scale xq / qq the squared error is that of zeros less xq^2 / qq.
        let scale = xq * inverse(qq);
        Fit { scale, gain: scale * xq }
    }

    /// The scale with which the grid's values approximate the numbers best, among those tried. May be negative.
    fn scale<G: Grid>(&self) -> f32 {
        let (all, counting) = (extreme(self.x), extreme(&self.counting()));
        let mut best = self.scale_about::<G>(all);
        if counting != all {
            best = best.or(self.scale_about::<G>(counting));
        }
        best.scale
    }

    /// The best scale about the one that just covers numbers as large as this.
    fn scale_about<G: Grid>(&self, extreme: f32) -> Fit {
        let mut best = Fit::NONE;
        if extreme.abs() < NOTHING {
            return best;
        }
        let (first, last, tries) = G::TRIES;
        for k in 0..tries {
            let level = first + (last - first) / (tries - 1) as f32 * k as f32;
            best = best.or(self.solve::<G>(-level / extreme));
            if G::BOTH {
                best = best.or(self.solve::<G>(level / extreme));
            }
        }
        for _ in 0..REFINEMENTS {
            best = best.or(self.solve::<G>(inverse(best.scale)));
        }
        best
    }
}

/// Scale (rounded to `f16`) and values of one block of 32 without sub-blocks.
pub(in crate::format) fn block<G: Grid>(x: &[f32], weights: &[f32]) -> (Half, [i8; 32]) {
    let part = Part::<32>::of(x, weights, 0);
    let d = narrow(part.scale::<G>());
    let inverse = inverse(widen(d));
    (d, part.x.map(|x| G::nearest(x * inverse) as i8))
}

/// `x ~ d * scales[i * N / 256] * codes[i]`.
pub(in crate::format) struct Signed<const N: usize> {
    pub d: Half,
    pub scales: [i8; N],
    pub codes: [i8; SUPER],
}

/// Integers of a super-scale, and what they leave.
#[derive(Clone, Copy)]
struct Scales<const N: usize> {
    d: Half,
    scales: [f32; N],
    error: f32,
}

/// A block of 256 whose `N` scales are integers from `lowest` (negative) to `-1 - lowest`.
pub(in crate::format) struct Fitter<'a, const N: usize, const L: usize> {
    parts: [Part<'a, L>; N],
    exact: [f32; N],
    lowest: f32,
}

/// Fits a block of 256 whose `N` scales, one for each `L` weights, are integers from `lowest` (negative) to
/// `-1 - lowest`.
pub(in crate::format) fn super_block<G: Grid, const N: usize, const L: usize>(
    x: &[f32],
    weights: &[f32],
    lowest: f32,
) -> Signed<N> {
    let parts: [Part<L>; N] = std::array::from_fn(|i| Part::of(x, weights, i));
    let exact = parts.map(|part| part.scale::<G>());
    let fitter = Fitter { parts, exact, lowest };
    let best = fitter.search::<G>();
    let step = best.scales.map(|s| widen(best.d) * s);
    let inverses = step.map(inverse);
    let codes = std::array::from_fn(|i| G::nearest(x[i] * inverses[i / L]) as i8);
    Signed { d: best.d, scales: best.scales.map(|s| s as i8), codes }
}

impl<const N: usize, const L: usize> Fitter<'_, N, L> {
    fn search<G: Grid>(&self) -> Scales<N> {
        let mut best = self.integers::<G>(narrow(extreme(&self.exact) / self.lowest));
        let mut last = best;
        for _ in 0..ROUNDS {
            let d = narrow(self.solve::<G>(&last));
            if d == last.d {
                break;
            }
            last = self.integers::<G>(d);
            if last.error < best.error {
                best = last;
            }
        }
        best
    }

    /// The best integers for a super-scale.
    fn integers<G: Grid>(&self, d: Half) -> Scales<N> {
        let mut found = Scales { d, scales: [0.0; N], error: 0.0 };
        for (i, part) in self.parts.iter().enumerate() {
            let (scale, error) = self.integer::<G>(part, self.exact[i], widen(d));
            found.scales[i] = scale;
            found.error += error;
        }
        found
    }

    /// Of the integers about the wanted scale the one with the least error, and that.
    fn integer<G: Grid>(&self, part: &Part<L>, wanted: f32, d: f32) -> (f32, f32) {
        let (low, high) = (self.lowest, -1.0 - self.lowest);
        let middle = round(wanted * inverse(d), low, high);
        let mut best = (middle, part.error::<G>(d * middle));
        for near in G::NEAR {
            let scale = round(middle + *near, low, high);
            let error = part.error::<G>(d * scale);
            if error < best.1 {
                best = (scale, error);
            }
        }
        best
    }

    /// Least squares for the super-scale, integers and codes given.
    fn solve<G: Grid>(&self, last: &Scales<N>) -> f32 {
        let (mut xq, mut qq) = (0.0f32, 0.0f32);
        for (part, &scale) in self.parts.iter().zip(&last.scales) {
            let products = part.products::<G>(inverse(widen(last.d) * scale));
            xq += scale * products[0];
            qq += scale * scale * products[1];
        }
        xq * inverse(qq)
    }
}
