//! Q4_0 and Q4_1: 32 codes of four bits, the first sixteen in the low nibbles.
//!
//! Q4_0 has a scale and a fixed zero point, `w = d * (q - 8)`; Q4_1 a scale and a minimum, `w = d * q + m`.
//! Source: ggml's `block_q4_0` and `block_q4_1`; the encoders are its reference quantisers: Q4_0 gives the number of
//! largest magnitude, sign and all, the code 0, Q4_1 spreads its codes from the least number to the greatest. Comparisons
//! are written out because `f32::min` may return either of two zeros.

use bytemuck::{Pod, Zeroable};

use super::block::{Block, Half, better, inverse, narrow, nibbles, pack_nibbles, widen};
use super::fit::affine;
use super::fit::signed::{self, Uniform};
use super::{Format, Group};

/// 18 bytes for 32 weights.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Q4_0 {
    /// Scale, often negative.
    pub d: Half,
    /// Codes 0..=15; weight `i` in the low nibble of byte `i`, weight `i + 16` in its high nibble.
    pub qs: [u8; 16],
}

/// 20 bytes for 32 weights.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Q4_1 {
    /// Scale.
    pub d: Half,
    /// Minimum.
    pub m: Half,
    /// Codes 0..=15, placed as in [`Q4_0`].
    pub qs: [u8; 16],
}

impl Q4_0 {
    fn new((d, codes): (Half, [u8; 32])) -> Self {
        Q4_0 { d, qs: pack_nibbles(&codes) }
    }
}

impl Block for Q4_0 {
    const FORMAT: Format = Format::Q4_0;

    fn group(&self, _index: usize) -> Group {
        Group { codes: nibbles(&self.qs).map(|q| q as i8 - 8), scale: [widen(self.d); 2], min: [0.0; 2] }
    }

    fn encode(x: &[f32]) -> Self {
        Q4_0::new(encode_symmetric(x, 8))
    }

    fn encode_weighing(x: &[f32], weights: &[f32]) -> Self {
        let (d, codes) = signed::block::<Uniform<-8>>(x, weights);
        let searched = Q4_0::new((d, codes.map(|q| (q + 8) as u8)));
        better(Self::encode(x), searched, x, weights)
    }
}

impl Q4_1 {
    fn new((d, m, codes): (Half, Half, [u8; 32])) -> Self {
        Q4_1 { d, m, qs: pack_nibbles(&codes) }
    }
}

impl Block for Q4_1 {
    const FORMAT: Format = Format::Q4_1;

    fn group(&self, _index: usize) -> Group {
        Group { codes: nibbles(&self.qs).map(|q| q as i8), scale: [widen(self.d); 2], min: [widen(self.m); 2] }
    }

    fn encode(x: &[f32]) -> Self {
        Q4_1::new(encode_affine(x, 15))
    }

    fn encode_weighing(x: &[f32], weights: &[f32]) -> Self {
        better(Self::encode(x), Q4_1::new(affine::block(x, weights, 15)), x, weights)
    }
}

/// Scale and codes `0..2 * zero` of `w = d * (q - zero)`. The sums are rounded twice, as ggml's are: not fused.
pub(super) fn encode_symmetric(x: &[f32], zero: u8) -> (Half, [u8; 32]) {
    let extreme = x.iter().fold(x[0], |max, &v| if v.abs() > max.abs() { v } else { max });
    let d = extreme / -f32::from(zero);
    let inverse = inverse(d);
    let half_up = f32::from(zero) + 0.5;
    (narrow(d), std::array::from_fn(|i| ((x[i] * inverse + half_up) as u8).min(2 * zero - 1)))
}

/// Scale, minimum and codes `0..=top` of `w = d * q + m`.
pub(super) fn encode_affine(x: &[f32], top: u8) -> (Half, Half, [u8; 32]) {
    let min = x.iter().fold(x[0], |min, &v| if v < min { v } else { min });
    let max = x.iter().fold(x[0], |max, &v| if v > max { v } else { max });
    let d = (max - min) / f32::from(top);
    let inverse = inverse(d);
    let code = |v: f32| (((v - min) * inverse + 0.5) as u8).min(top);
    (narrow(d), narrow(min), std::array::from_fn(|i| code(x[i])))
}
