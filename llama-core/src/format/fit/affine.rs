//! Numbers as a scale times a code less a minimum: Q2_K, Q4_K and Q5_K, and Q4_1 and Q5_1 where weights count
//! differently.

use super::{NOTHING, Part, extreme, round};
use crate::format::block::{Half, SUPER, inverse, narrow, widen};

/// How often the super-scales are solved for.
const ROUNDS: usize = 2;

/// Integers tried about the wanted ones. A smaller scale that cuts off wants a smaller minimum.
const NEAR: [(f32, f32); 7] = [(0.0, 0.0), (0.0, -1.0), (0.0, 1.0), (-1.0, 0.0), (1.0, 0.0), (-1.0, -1.0), (1.0, 1.0)];

/// How often the best line is solved for anew, with its own codes.
const REFINEMENTS: usize = 2;

/// A difference of products that is less than this by either has nothing but what rounding left of sums in `f32`.
const NOISE: f32 = 1e-6;

/// `x ~ scale * q - min`; the scale is not negative.
#[derive(Clone, Copy)]
struct Line {
    scale: f32,
    min: f32,
}

/// A line, and by how much its squared error is less than that of the mean; a line through zero may have more.
#[derive(Clone, Copy)]
struct Fit {
    line: Line,
    gain: f32,
}

/// Whether minima may be negative.
#[derive(Clone, Copy, PartialEq)]
enum Minima {
    Positive,
    Any,
}

/// What of numbers does not depend on codes.
#[derive(Clone, Copy)]
struct Totals {
    /// The sum of weights.
    n: f32,
    mean: f32,
    /// The sum of what rounding leaves of `x - mean`.
    x: f32,
}

/// Sums over numbers: of weights, and of `x`, `q`, `q q` and `x q`, where `x` and `q` are less `middle`, the mean and its
/// code. Where one number counts a million times as often as the others, sums of squares about zero have lost the others.
struct Moments {
    middle: [f32; 2],
    n: f32,
    x: f32,
    q: f32,
    qq: f32,
    xq: f32,
}

impl Moments {
    /// Least squares; where codes are all the same, or the minimum would be negative and must not, the best line through
    /// zero.
    fn solve(&self, minima: Minima) -> Fit {
        let det = self.n * self.qq - self.q * self.q;
        let scale = positive((self.n * self.xq - self.x * self.q) * inverse(det));
        let offset = (self.x - scale * self.q) / self.n;
        let min = scale * self.middle[1] - self.middle[0] - offset;
        if det > NOISE * self.n * self.qq && (min >= 0.0 || minima == Minima::Any) {
            // What is left is at right angles to the line's points: the mean's squared error less theirs.
            Fit { line: Line { scale, min }, gain: scale * self.xq + offset * self.x }
        } else {
            self.about_zero().solve_through_zero(self)
        }
    }

    /// `self` are sums about zero, `middle` those about the middle.
    fn solve_through_zero(&self, middle: &Moments) -> Fit {
        let scale = positive(self.xq * inverse(self.qq));
        let [mean, _] = middle.middle;
        let mean_gain = mean * (self.n * mean + 2.0 * middle.x);
        Fit { line: Line { scale, min: 0.0 }, gain: scale * self.xq - mean_gain }
    }

    /// The sums of `x` and `q` themselves.
    fn about_zero(&self) -> Moments {
        let Moments { middle: [mean, code], n, x, q, qq, xq } = *self;
        Moments {
            middle: [0.0; 2],
            n,
            x: x + n * mean,
            q: q + n * code,
            qq: qq + code * (2.0 * q + n * code),
            xq: xq + code * x + mean * (q + n * code),
        }
    }
}

/// Zero for what is negative; written out because `f32::max` may return either of two zeros.
fn positive(v: f32) -> f32 {
    if v > 0.0 { v } else { 0.0 }
}

impl<const L: usize> Part<'_, L> {
    /// The sums, `q` the codes that this line gives.
    #[inline(always)]
    fn moments(&self, totals: Totals, per_step: f32, min: f32, top: f32) -> Moments {
        let code = |x: f32| round((x + min) * per_step, 0.0, top);
        let middle = [totals.mean, code(totals.mean)];
        let [q, qq, xq] = self.sums(|x, w| {
            let q = code(x) - middle[1];
            let wq = w * q;
            [wq, wq * q, wq * (x - middle[0])]
        });
        Moments { middle, n: totals.n, x: totals.x, q, qq, xq }
    }

    fn totals(&self) -> Totals {
        let [n, x] = self.sums(|x, w| [w, w * x]);
        let mean = x / n;
        let [x] = self.sums(|x, w| [w * (x - mean)]);
        Totals { n, mean, x }
    }

    /// Squared error with this line's best codes.
    #[inline(always)]
    fn line_error(&self, line: Line, top: f32) -> f32 {
        let per_step = inverse(line.scale);
        let [error] = self.sums(|x, w| {
            let error = x - (line.scale * round((x + line.min) * per_step, 0.0, top) - line.min);
            [w * error * error]
        });
        error
    }

    /// The line whose points at `0..=top` approximate the numbers best, among those tried.
    fn line(&self, top: f32, minima: Minima) -> Line {
        let totals = self.totals();
        let (all, counting) = (ends(self.x, minima), ends(&self.counting(), minima));
        let mut best = self.line_about(totals, all, top, minima);
        if counting != all {
            best = better(best, self.line_about(totals, counting, top, minima));
        }
        best.line
    }

    /// The best line about the one that just covers the numbers from `low` to `high`.
    fn line_about(&self, totals: Totals, (low, high): (f32, f32), top: f32, minima: Minima) -> Fit {
        let range = high - low;
        let plain = Line { scale: range / top, min: -low };
        if range < NOTHING {
            return Fit { line: Line { scale: 0.0, ..plain }, gain: 0.0 };
        }
        let mut best = Fit { line: plain, gain: f32::NEG_INFINITY };
        for &(below, above) in cuts(top) {
            let per_step = (top + below + above) / range;
            best = better(best, self.moments(totals, per_step, -low - below / per_step, top).solve(minima));
        }
        for _ in 0..REFINEMENTS {
            best = better(best, self.moments(totals, inverse(best.line.scale), best.line.min, top).solve(minima));
        }
        best
    }
}

/// The least and the greatest number; where minima must be positive the least is at most zero.
fn ends<const L: usize>(x: &[f32; L], minima: Minima) -> (f32, f32) {
    let start = if minima == Minima::Any { x[0] } else { 0.0 };
    let low = x.iter().fold(start, |min, &v| if v < min { v } else { min });
    (low, x.iter().fold(low, |max, &v| if v > max { v } else { max }))
}

fn better(a: Fit, b: Fit) -> Fit {
    if b.gain > a.gain { b } else { a }
}

/// By how many steps fewer or more than `top` the range is divided, at its lower and its upper end: more cut numbers off,
/// by which few levels gain more than many.
fn cuts(top: f32) -> &'static [(f32, f32)] {
    const FEW: [(f32, f32); 16] = pairs(-0.25, 0.25, 4);
    const MANY: [(f32, f32); 25] = pairs(-0.5, 0.38, 5);
    if top < 4.0 { &FEW } else { &MANY }
}

/// Every pair of `n` numbers in steps.
const fn pairs<const NN: usize>(first: f32, step: f32, n: usize) -> [(f32, f32); NN] {
    let (mut pairs, mut k) = ([(0.0, 0.0); NN], 0);
    while k < NN {
        pairs[k] = (first + step * (k / n) as f32, first + step * (k % n) as f32);
        k += 1;
    }
    pairs
}

/// Scale, minimum (what is added; both rounded to `f16`) and codes `0..=top` of one block of 32 without sub-blocks.
pub(in crate::format) fn block(x: &[f32], weights: &[f32], top: u8) -> (Half, Half, [u8; 32]) {
    let (part, top) = (Part::<32>::of(x, weights, 0), f32::from(top));
    let line = part.line(top, Minima::Any);
    let (d, m) = (narrow(line.scale), narrow(-line.min));
    let inverse = inverse(widen(d));
    (d, m, part.x.map(|x| round((x - widen(m)) * inverse, 0.0, top) as u8))
}

/// `x ~ d * scales[i * N / 256] * codes[i] - dmin * mins[i * N / 256]`.
pub(in crate::format) struct Affine<const N: usize> {
    pub d: Half,
    pub dmin: Half,
    pub scales: [u8; N],
    pub mins: [u8; N],
    pub codes: [u8; SUPER],
}

/// Integers of super-scales, and what they leave.
#[derive(Clone, Copy)]
struct Lines<const N: usize> {
    d: Half,
    dmin: Half,
    lines: [Line; N],
    error: f32,
}

struct Fitter<'a, const N: usize, const L: usize> {
    parts: [Part<'a, L>; N],
    exact: [Line; N],
    top: f32,
    top_scale: f32,
}

/// Fits a block of 256 with codes `0..=top` and `N` scales and minima `0..=top_scale`, one for each `L` weights.
pub(in crate::format) fn super_block<const N: usize, const L: usize>(
    x: &[f32],
    weights: &[f32],
    top: f32,
    top_scale: f32,
) -> Affine<N> {
    let parts: [Part<L>; N] = std::array::from_fn(|i| Part::of(x, weights, i));
    let exact = parts.map(|part| part.line(top, Minima::Positive));
    let best = Fitter { parts, exact, top, top_scale }.search();
    let (d, dmin) = (widen(best.d), widen(best.dmin));
    let codes = std::array::from_fn(|i| {
        let line = best.lines[i / L];
        round((x[i] + dmin * line.min) * inverse(d * line.scale), 0.0, top) as u8
    });
    let (scales, mins) = (best.lines.map(|line| line.scale as u8), best.lines.map(|line| line.min as u8));
    Affine { d: best.d, dmin: best.dmin, scales, mins, codes }
}

impl<const N: usize, const L: usize> Fitter<'_, N, L> {
    fn search(&self) -> Lines<N> {
        let share = |part: fn(&Line) -> f32| narrow(extreme(&self.exact.each_ref().map(part)) / self.top_scale);
        let mut best = self.integers(share(|line| line.scale), share(|line| line.min));
        let mut last = best;
        for _ in 0..ROUNDS {
            let (d, dmin) = self.solve(&last);
            if (d, dmin) == (last.d, last.dmin) {
                break;
            }
            last = self.integers(d, dmin);
            if last.error < best.error {
                best = last;
            }
        }
        best
    }

    fn integers(&self, d: Half, dmin: Half) -> Lines<N> {
        let mut found = Lines { d, dmin, lines: [Line { scale: 0.0, min: 0.0 }; N], error: 0.0 };
        for (i, part) in self.parts.iter().enumerate() {
            let (line, error) = self.integer(part, self.exact[i], widen(d), widen(dmin));
            found.lines[i] = line;
            found.error += error;
        }
        found
    }

    fn integer(&self, part: &Part<L>, wanted: Line, d: f32, dmin: f32) -> (Line, f32) {
        let integer = |v: f32| round(v, 0.0, self.top_scale);
        let (scale, min) = (integer(wanted.scale * inverse(d)), integer(wanted.min * inverse(dmin)));
        let mut best = (Line { scale, min }, f32::INFINITY);
        for (near_scale, near_min) in NEAR {
            let line = Line { scale: integer(scale + near_scale), min: integer(min + near_min) };
            let error = part.line_error(Line { scale: d * line.scale, min: dmin * line.min }, self.top);
            if error < best.1 {
                best = (line, error);
            }
        }
        best
    }

    /// Least squares for both super-scales, integers and codes given.
    fn solve(&self, last: &Lines<N>) -> (Half, Half) {
        let (d, dmin) = (widen(last.d), widen(last.dmin));
        let (mut ss, mut sm, mut mm, mut xs, mut xm) = (0.0f64, 0.0f64, 0.0f64, 0.0f64, 0.0f64);
        for (part, line) in self.parts.iter().zip(&last.lines) {
            let sums = part.moments(part.totals(), inverse(d * line.scale), dmin * line.min, self.top).about_zero();
            let (scale, min) = (f64::from(line.scale), f64::from(line.min));
            ss += scale * scale * f64::from(sums.qq);
            sm += scale * min * f64::from(sums.q);
            mm += min * min * f64::from(sums.n);
            xs += scale * f64::from(sums.xq);
            xm += min * f64::from(sums.x);
        }
        let det = ss * mm - sm * sm;
        if det > f64::from(NOISE) * ss * mm {
            let (d, dmin) = ((xs * mm - sm * xm) / det, (sm * xs - ss * xm) / det);
            if d > 0.0 && dmin > 0.0 {
                return (narrow(d as f32), narrow(dmin as f32));
            }
        }
        (if ss > 0.0 && mm == 0.0 { narrow((xs / ss) as f32) } else { last.d }, last.dmin)
    }
}
