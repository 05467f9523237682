//! The one arithmetic, said plainly: the scalar definitions that every backend and tier on a CPU reproduces bit for bit.
//!
//! A kernel may vectorise over rows, tokens, heads or positions as it likes, because each *output* is a fixed sequence of
//! IEEE-754 operations that depends on nothing but its own inputs:
//!
//! * a dot product of floats is one chain of fused multiply-adds in index order, starting at 0 ([`dot`]);
//! * a dot product of a quantised row is exact in integers over each group of 32 (or sub-group of 16), and the groups are
//!   chained by fused multiply-adds in index order (`backend::reference`);
//! * a sum over a row has sixteen virtual lanes, folded by halves ([`sum`], [`sum_of_squares`]);
//! * `exp`, `sin` and `cos` are the polynomials below, because no two C libraries agree on theirs.
//!
//! See docs/numerics.md for why each choice costs nothing at speed.

/// Virtual lanes of a row sum: element `i` belongs to lane `i % LANES`.
pub const LANES: usize = 16;

/// Activations are quantised to int8 in groups of this many.
pub const GROUP: usize = 32;

/// Positions of one attention partition: softmax partials are formed over absolute positions
/// `[PARTITION * i, PARTITION * (i + 1))` and merged in order.
pub const PARTITION: usize = 256;

/// Folds lanes by halves: 16 -> 8 -> 4 -> 2 -> 1, lane `i` taking lane `i + half`.
#[inline]
pub fn fold(mut lanes: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// Sum of a row in lane order.
pub fn sum(x: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    for (i, &v) in x.iter().enumerate() {
        lanes[i % LANES] += v;
    }
    fold(lanes)
}

/// Sum of the squares of a row in lane order, each lane a chain of fused multiply-adds.
pub fn sum_of_squares(x: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    for (i, &v) in x.iter().enumerate() {
        lanes[i % LANES] = v.mul_add(v, lanes[i % LANES]);
    }
    fold(lanes)
}

/// Dot product: one chain of fused multiply-adds in index order.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).fold(0.0f32, |acc, (&a, &b)| a.mul_add(b, acc))
}

/// The nearest number of e4m3, the eight-bit float with four bits of exponent and three of fraction (ties to even, at most
/// 448).
pub fn round_to_e4m3(x: f32) -> f32 {
    const MOST: f32 = 448.0;
    const LEAST_EXPONENT: i32 = -6;
    let exponent = ((x.to_bits() >> 23 & 0xff) as i32 - 127).max(LEAST_EXPONENT);
    let step = f32::from_bits(((exponent - 3 + 127) as u32) << 23);
    ((x / step).round_ties_even() * step).clamp(-MOST, MOST)
}

/// Dot product with numbers that share scales: chains of [`dot`] over each `group` of columns, chained by
/// `fma(scale, dot, acc)` in the order of groups, from 0. `scales` has one for each group; the last may be shorter.
pub fn scaled_dot(q: &[f32], numbers: &[f32], scales: &[f32], group: usize) -> f32 {
    let groups = q.chunks(group).zip(numbers.chunks(group));
    groups.zip(scales).fold(0.0f32, |acc, ((q, x), &scale)| scale.mul_add(dot(q, x), acc))
}

/// The factor of RMSNorm: `1 / sqrt(mean(x^2) + eps)`, each operation rounded once.
pub fn rms_scale(x: &[f32], eps: f32) -> f32 {
    1.0 / (sum_of_squares(x) / x.len() as f32 + eps).sqrt()
}

/// Below this, [`exp`] returns its value here (about 1.2e-38): nothing is subnormal.
pub const EXP_MIN: f32 = -87.336_54;
/// Above this, [`exp`] returns its value here (about 2.4e38): nothing overflows.
pub const EXP_MAX: f32 = 88.376_26;
/// `log2(e)`.
pub const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// The leading bits of `ln 2`, exactly 0.693359375: a product with a small integer is exact.
pub const LN2_HI: f32 = 0.693_359_4;
/// `ln 2 - LN2_HI`.
pub const LN2_LO: f32 = -2.121_944_4e-4;
/// Coefficients of [`exp`] on `[-ln 2 / 2, ln 2 / 2]`, highest power first (Cephes `expf`, Moshier 1989, then `x` and `1`).
pub const EXP_POLY: [f32; 8] =
    [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_5e-2, 1.666_666_5e-1, 0.5, 1.0, 1.0];

/// `e^x` within 2 ulp, saturating at [`EXP_MIN`] and [`EXP_MAX`]; NaN stays NaN.
///
/// `n = round(x log2 e)` to even, `r = x - n ln 2` in two fused steps, Horner by fused multiply-adds, times `2^n`.
#[inline]
pub fn exp(x: f32) -> f32 {
    let x = x.clamp(EXP_MIN, EXP_MAX);
    let n = (x * LOG2_E).round_ties_even();
    let r = (-n).mul_add(LN2_LO, (-n).mul_add(LN2_HI, x));
    let p = EXP_POLY[1..].iter().fold(EXP_POLY[0], |p, &c| p.mul_add(r, c));
    p * f32::from_bits(((n as i32 + 127) as u32) << 23)
}

/// `x / (1 + e^-x)`.
#[inline]
pub fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// Sine and cosine of an angle in radians, correct to the last bit of `f32` in all but a few cases in a million,
/// for |angle| up to 2^30: reduced in `f64` by multiples of pi/2 (Cody and Waite), then Taylor polynomials on
/// [-pi/4, pi/4]. Called once per token and frequency, so `f64` costs nothing that matters.
pub fn sin_cos(angle: f32) -> (f32, f32) {
    const HI: f64 = 1.570_796_326_734_125_6;
    const LO: f64 = 6.077_100_506_506_192e-11;
    let n = (f64::from(angle) * std::f64::consts::FRAC_2_PI).round_ties_even();
    let r = (-n).mul_add(LO, (-n).mul_add(HI, f64::from(angle)));
    let r2 = r * r;
    // Each step multiplies by r^2 / ((k)(k+1)); ten terms leave an error far below one f32 ulp.
    let (mut s, mut c) = (1.0f64, 1.0f64);
    for k in (1..=8).rev() {
        let k = f64::from(k);
        s = (-r2 / (2.0 * k * (2.0 * k + 1.0))).mul_add(s, 1.0);
        c = (-r2 / (2.0 * k * (2.0 * k - 1.0))).mul_add(c, 1.0);
    }
    let s = s * r;
    let (s, c) = match n.rem_euclid(4.0) as u8 {
        0 => (s, c),
        1 => (c, -s),
        2 => (-s, -c),
        _ => (-c, s),
    };
    (s as f32, c as f32)
}

/// Natural logarithm of a positive normal number, from multiplications, divisions and additions alone, so that every machine
/// agrees.
///
/// `x = m 2^e` with `m` in `[1/sqrt 2, sqrt 2)`, `ln m = 2 atanh((m - 1) / (m + 1))` by its series.
pub(crate) fn ln(x: f64) -> f64 {
    const FRACTION: u64 = (1 << 52) - 1;
    let exponent = (x.to_bits() >> 52) as i32 - 1023;
    let m = f64::from_bits(x.to_bits() & FRACTION | 1023 << 52);
    let (m, exponent) = if m < std::f64::consts::SQRT_2 { (m, exponent) } else { (m / 2.0, exponent + 1) };
    let z = (m - 1.0) / (m + 1.0);
    // z^2 < 0.0295: the first term left out is below 2^-53.
    let series = (0..=10).rev().fold(0.0, |sum, k| sum * z * z + 1.0 / f64::from(2 * k + 1));
    f64::from(exponent) * std::f64::consts::LN_2 + 2.0 * z * series
}

/// Groups whose largest magnitude is below this are quantised to zeros with scale 0.
pub const QUANT_MIN: f32 = f32::from_bits(0x0D80_0000); // 2^-100

/// How a group of activations gets its scale from its largest magnitude.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scaling {
    /// `max / 127`: the largest quant is 127.
    #[default]
    Full,
    /// The smallest power of two with which no quant exceeds 127: the largest quant is 64 to 127.
    PowerOfTwo,
}

impl Scaling {
    /// The scale of a group whose largest magnitude is `max`, at least [`QUANT_MIN`], and what its numbers are multiplied by
    /// to become quants. Where `max` is not finite, neither is the scale, and every product rounds to 0 or is NaN.
    ///
    /// A power of two is read off the bits: with `max = m * 2^e`, `1 <= m < 2`, it is `2^(e - 6)`, so that the quant is
    /// `64 m` rounded; from `m = 2 - 2^-7` on that would be 128, and adding `2^-7` carries into the exponent.
    #[inline]
    pub fn factors(self, max: f32) -> (f32, f32) {
        match self {
            Scaling::Full => (max / 127.0, 127.0 / max),
            Scaling::PowerOfTwo => {
                let power = || f32::from_bits(((max.to_bits() + 0x1_0000) & 0x7F80_0000) - (6 << 23));
                let scale = if max.is_finite() { power() } else { max };
                (scale, 1.0 / scale)
            }
        }
    }
}

/// Quantises one group of activations: `x[i] ~ scale * quants[i]`, quants rounded to even.
///
/// The maximum is taken over the bits of `|x|` as integers, so that a NaN wins and reaches the scale instead of vanishing.
#[inline]
pub fn quantize_group(x: &[f32; GROUP], scaling: Scaling) -> (f32, [i8; GROUP]) {
    let max = x.iter().map(|v| v.to_bits() & 0x7FFF_FFFF).max().unwrap_or(0);
    if max < QUANT_MIN.to_bits() {
        return (0.0, [0; GROUP]);
    }
    let (scale, inverse) = scaling.factors(f32::from_bits(max));
    (scale, x.map(|v| (v * inverse).round_ties_even() as i8))
}

/// What a quantised group leaves of `x`, the next **term** to be quantised: `x[i] - scale * quants[i]`, rounded once.
#[inline(always)] // into kernels that have fused multiply-adds
pub fn remainder(x: &[f32; GROUP], scale: f32, quants: &[i8; GROUP]) -> [f32; GROUP] {
    std::array::from_fn(|i| (-scale).mul_add(f32::from(quants[i]), x[i]))
}

/// Quantises a row in groups of [`GROUP`] columns, the last perhaps shorter: what a short group lacks counts as zeros.
/// Scales are [`Scaling::Full`].
pub fn quantize_row(x: &[f32], mut each: impl FnMut(f32, &[i8])) {
    for x in x.chunks(GROUP) {
        let mut group = [0.0; GROUP];
        group[..x.len()].copy_from_slice(x);
        let (scale, quants) = quantize_group(&group, Scaling::Full);
        each(scale, &quants[..x.len()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ln_agrees_with_the_library() {
        for i in 1..200_000 {
            let x = f64::from(i) * f64::from(i) * 1e-4;
            let want = x.ln();
            assert!((ln(x) - want).abs() <= 4e-16 * want.abs().max(1.0), "ln({x}) = {} not {want}", ln(x));
        }
        assert_eq!(ln(1.0), 0.0);
    }

    /// Every finite e4m3 from its bits: itself under rounding, and what lies between goes to the nearer, or the even one.
    #[test]
    fn e4m3_rounds_to_nearest_even() {
        let value = |bits: u32| match (bits >> 3, (bits & 7) as f32) {
            (0, fraction) => fraction / 512.0,
            (exponent, fraction) => (1.0 + fraction / 8.0) * (exponent as f32 - 7.0).exp2(),
        };
        for bits in 0..0x7e {
            let (low, high) = (value(bits), value(bits + 1));
            let middle = low.midpoint(high);
            let even = if bits % 2 == 0 { low } else { high };
            for (x, want) in [(low, low), (high, high), (middle, even), (low.midpoint(middle), low)] {
                assert_eq!((round_to_e4m3(x), round_to_e4m3(-x)), (want, -want), "{x}");
            }
        }
        assert_eq!((round_to_e4m3(449.0), round_to_e4m3(f32::NEG_INFINITY)), (448.0, -448.0));
        assert!(round_to_e4m3(f32::NAN).is_nan());
    }

    #[test]
    fn exp_is_within_two_ulp() {
        for i in -870_000..=880_000 {
            let x = i as f32 * 1e-4;
            let want = f64::from(x).exp();
            let ulp = f64::from((want as f32).abs()) * f64::from(f32::EPSILON);
            assert!((f64::from(exp(x)) - want).abs() <= 2.0 * ulp, "exp({x}) = {} not {want}", exp(x));
        }
        assert!(exp(f32::NAN).is_nan());
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn sin_cos_agree_with_the_library_in_f64() {
        for i in 0..400_000 {
            let x = i as f32 * 0.731;
            let (s, c) = sin_cos(x);
            assert!((f64::from(s) - f64::from(x).sin()).abs() < 6.1e-8, "sin {x}");
            assert!((f64::from(c) - f64::from(x).cos()).abs() < 6.1e-8, "cos {x}");
        }
    }

    #[test]
    fn quantising_keeps_nan_and_halves_no_more_than_a_step() {
        let mut x = [0.0f32; GROUP];
        for (i, v) in x.iter_mut().enumerate() {
            *v = (i as f32 - 11.3) * 0.37;
        }
        for scaling in [Scaling::Full, Scaling::PowerOfTwo] {
            let (scale, q) = quantize_group(&x, scaling);
            for (v, q) in x.iter().zip(q) {
                assert!((v - scale * f32::from(q)).abs() <= 0.5001 * scale);
            }
            let with = |extreme| {
                let mut x = x;
                x[7] = extreme;
                quantize_group(&x, scaling)
            };
            for not_finite in [f32::NAN, -f32::NAN, f32::from_bits(0x7FFF_FFFF), f32::INFINITY, f32::NEG_INFINITY] {
                let (scale, quants) = with(not_finite);
                assert_eq!((scale.is_finite(), scale.is_nan(), quants), (false, not_finite.is_nan(), [0; GROUP]));
            }
            let (scale, quants) = with(f32::MAX);
            assert!(scale.is_finite() && quants[7] >= 64);
            assert_eq!(quantize_group(&[1e-38; GROUP], scaling), (0.0, [0; GROUP]));
            assert_eq!(quantize_group(&[QUANT_MIN.next_down(); GROUP], scaling), (0.0, [0; GROUP]));
            assert!(quantize_group(&[QUANT_MIN; GROUP], scaling).1[0] >= 64);
        }
    }

    /// Every fraction there is: the quant of the maximum, before and after rounding, and that half the scale would not do.
    #[test]
    fn powers_of_two_are_the_smallest_that_fit() {
        let quant = |max: f32, scale: f32| (max / scale).round_ties_even();
        for exponent in [27u32, 127, 254] {
            for fraction in 0..1 << 23 {
                let max = f32::from_bits(exponent << 23 | fraction);
                let (scale, inverse) = Scaling::PowerOfTwo.factors(max);
                assert!(scale.to_bits() & 0x7F_FFFF == 0 && scale * inverse == 1.0, "{max:e}: {scale:e}");
                assert!((64.0..=127.0).contains(&quant(max, scale)), "{max:e}");
                assert!(quant(max, scale / 2.0) > 127.0, "{max:e}");
            }
        }
    }

    /// A second term leaves a 254th of what one term leaves.
    #[test]
    fn a_second_term_rounds_what_the_first_left() {
        let x: [f32; GROUP] = std::array::from_fn(|i| (i as f32 * 0.731).sin());
        let (first, quants) = quantize_group(&x, Scaling::Full);
        let left = remainder(&x, first, &quants);
        assert!(left.iter().all(|r| r.abs() <= 0.5001 * first));
        let (second, quants) = quantize_group(&left, Scaling::Full);
        assert!(second <= 0.5001 * first / 127.0);
        assert!(remainder(&left, second, &quants).iter().all(|r| r.abs() <= 0.5001 * second));
        assert!(remainder(&[1.0; GROUP], f32::NAN, &[0; GROUP]).iter().all(|r| r.is_nan()));
        assert_eq!(remainder(&[-0.0; GROUP], 0.0, &[0; GROUP]).map(f32::to_bits), [(-0.0f32).to_bits(); GROUP]);
    }
}
