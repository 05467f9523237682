//! Choosing scales: how the encoders of the K-quants and of IQ4 approximate numbers by few levels.
//!
//! For a given step the nearest codes are obvious, and for given codes the best scale (and minimum) is a least-squares
//! problem with a closed form. So: try a fixed number of steps around the one that just covers the range, round, solve,
//! and keep the solution with the least squared error. Then round the scales of a block to integers of a super-scale, the
//! super-scale to `f16`, and the codes once more, to what is left. Every weight counts the same: ggml's own quantisers
//! search likewise but weigh large numbers more.

use super::block::{Half, SUPER, inverse, narrow, widen};

/// Steps tried on either side of the plain one.
const TRIES: i32 = 9;

/// The values a signed code can stand for.
pub(super) enum Grid {
    /// Every integer from this (negative) one to minus it, exclusive.
    Uniform(i8),
    /// These, ascending, the first of the largest magnitude.
    Levels(&'static [i8; 16]),
}

impl Grid {
    /// The value of largest magnitude; negative.
    fn lowest(&self) -> f32 {
        f32::from(match self {
            Grid::Uniform(lowest) => *lowest,
            Grid::Levels(levels) => levels[0],
        })
    }

    /// The value nearest to `v`; NaN counts as zero.
    fn nearest(&self, v: f32) -> i8 {
        match self {
            Grid::Uniform(lowest) => v.round_ties_even().clamp(f32::from(*lowest), f32::from(-1 - *lowest)) as i8,
            Grid::Levels(levels) => {
                let middle = |pair: &[i8]| f32::from(i16::from(pair[0]) + i16::from(pair[1])) / 2.0;
                levels[levels.windows(2).filter(|pair| v > middle(pair)).count()]
            }
        }
    }

    /// How far, in values, the search stretches the range: where few levels must do, cutting off the largest pays.
    fn reach(&self) -> f32 {
        match self {
            Grid::Uniform(_) => 1.0,
            Grid::Levels(_) => 14.0,
        }
    }
}

/// Scale (rounded to `f16`) and values of one block of 32 without sub-blocks.
pub(super) fn signed(x: &[f32], grid: &Grid) -> (Half, [i8; 32]) {
    let d = narrow(signed_scale(x, grid));
    let inverse = inverse(widen(d));
    (d, std::array::from_fn(|i| grid.nearest(x[i] * inverse)))
}

/// `x ~ d * scales[i * N / 256] * codes[i]`.
pub(super) struct Signed<const N: usize> {
    pub d: Half,
    pub scales: [i8; N],
    pub codes: [i8; SUPER],
}

/// Fits a block of 256 whose `N` scales are integers from `lowest` (negative) to `-1 - lowest`.
pub(super) fn signed_block<const N: usize>(x: &[f32], lowest: i8, grid: &Grid) -> Signed<N> {
    let part = |i: usize| &x[i * SUPER / N..(i + 1) * SUPER / N];
    let exact: [f32; N] = std::array::from_fn(|i| signed_scale(part(i), grid));
    let d = narrow(extreme(&exact) / f32::from(lowest));
    let per_d = inverse(widen(d));
    let scales = exact.map(|s| Grid::Uniform(lowest).nearest(s * per_d));
    let inverses = scales.map(|s| inverse(widen(d) * f32::from(s)));
    let codes = std::array::from_fn(|i| grid.nearest(x[i] * inverses[i * N / SUPER]));
    Signed { d, scales, codes }
}

/// The scale with which the grid's values approximate `x` best, among those tried. May be negative.
fn signed_scale(x: &[f32], grid: &Grid) -> f32 {
    let extreme = extreme(x);
    let mut best = (0.0, 0.0);
    for k in -TRIES..=TRIES {
        let stretch = grid.reach() * k as f32 / TRIES as f32;
        let per_step = (grid.lowest() + stretch) * inverse(extreme);
        let (mut xq, mut qq) = (0.0f32, 0.0f32);
        for &x in x {
            let q = f32::from(grid.nearest(x * per_step));
            xq += x * q;
            qq += q * q;
        }
        // With the scale xq / qq the squared error is that of zeros less xq^2 / qq.
        let scale = xq * inverse(qq);
        if scale * xq > best.0 {
            best = (scale * xq, scale);
        }
    }
    best.1
}

/// The first number of largest magnitude, with its sign; 0 for none.
fn extreme(x: &[f32]) -> f32 {
    x.iter().fold(0.0f32, |max, &v| if v.abs() > max.abs() { v } else { max })
}

/// `x ~ d * scales[i * N / 256] * codes[i] - dmin * mins[i * N / 256]`.
pub(super) struct Affine<const N: usize> {
    pub d: Half,
    pub dmin: Half,
    pub scales: [u8; N],
    pub mins: [u8; N],
    pub codes: [u8; SUPER],
}

/// Fits a block of 256 with codes `0..=top` and `N` scales and minima `0..=top_scale`.
pub(super) fn affine_block<const N: usize>(x: &[f32], top: u8, top_scale: u8) -> Affine<N> {
    let part = |i: usize| &x[i * SUPER / N..(i + 1) * SUPER / N];
    let exact: [Line; N] = std::array::from_fn(|i| affine_line(part(i), top));
    let (d, scales) = share(exact.map(|line| line.scale), top_scale);
    let (dmin, mins) = share(exact.map(|line| line.min), top_scale);
    let codes = std::array::from_fn(|i| {
        let part = i * N / SUPER;
        let min = widen(dmin) * f32::from(mins[part]);
        code(x[i] + min, inverse(widen(d) * f32::from(scales[part])), top)
    });
    Affine { d, dmin, scales, mins, codes }
}

/// Non-negative numbers as integers `0..=top` of one `f16`.
fn share<const N: usize>(exact: [f32; N], top: u8) -> (Half, [u8; N]) {
    let d = narrow(extreme(&exact) / f32::from(top));
    let per_d = inverse(widen(d));
    (d, exact.map(|v| code(v, per_d, top)))
}

/// `v` in steps, rounded, within `0..=top`; NaN counts as zero.
fn code(v: f32, per_step: f32, top: u8) -> u8 {
    (v * per_step).round_ties_even().clamp(0.0, f32::from(top)) as u8
}

/// `x ~ scale * q - min`; both are non-negative.
#[derive(Clone, Copy)]
struct Line {
    scale: f32,
    min: f32,
}

/// The line whose points at `0..=top` approximate `x` best, among those tried.
fn affine_line(x: &[f32], top: u8) -> Line {
    let low = x.iter().fold(0.0f32, |min, &v| min.min(v));
    let high = x.iter().fold(low, |max, &v| max.max(v));
    let range = high - low;
    let error = |line: Line| x.iter().map(|&v| line.error(v, top)).sum::<f32>();
    let plain = Line { scale: range / f32::from(top), min: -low };
    let mut best = (error(plain), plain);
    for k in -TRIES..=TRIES {
        let per_step = (f32::from(top) + k as f32 / TRIES as f32) * inverse(range);
        let line = solve(x, |v| code(v - low, per_step, top));
        let error = error(line);
        if error < best.0 {
            best = (error, line);
        }
    }
    best.1
}

impl Line {
    /// Squared error of `v` with its best code.
    fn error(self, v: f32, top: u8) -> f32 {
        let q = f32::from(code(v + self.min, inverse(self.scale), top));
        let error = v - (self.scale * q - self.min);
        error * error
    }
}

/// Least squares for given codes; where the minimum would be negative, the best line through zero.
fn solve(x: &[f32], code: impl Fn(f32) -> u8) -> Line {
    let n = x.len() as f32;
    let (mut sx, mut sq, mut sqq, mut sxq) = (0.0f32, 0.0f32, 0.0f32, 0.0f32);
    for &x in x {
        let q = f32::from(code(x));
        sx += x;
        sq += q;
        sqq += q * q;
        sxq += x * q;
    }
    let per_det = inverse(n * sqq - sq * sq);
    let scale = (n * sxq - sx * sq) * per_det;
    let min = (sq * sxq - sqq * sx) * per_det;
    if per_det > 0.0 && min >= 0.0 {
        Line { scale: scale.max(0.0), min }
    } else {
        Line { scale: (sxq * inverse(sqq)).max(0.0), min: 0.0 }
    }
}
