//! TQ1_0 and TQ2_0: weights that are -1, 0 or 1 times one scale a block, for models trained so.
//!
//! `w = d * (q - 1)`. TQ2_0 has two bits a code. TQ1_0 has five codes a byte: the byte is the fraction of 256 that the
//! five digits of base three are of 243, rounded up, so that multiplying by a power of three (modulo 256) and then by
//! three brings a digit above the point. Source: ggml's `block_tq1_0` and `block_tq2_0`; the encoders are its reference
//! quantisers: the scale is the largest magnitude.

use bytemuck::{Pod, Zeroable};

use super::block::{Block, Half, SUPER, inverse, narrow, widen};
use super::q2_k::{pack_two_bits, two_bits};
use super::{Format, Group};

/// 54 bytes for 256 weights.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Tq1_0 {
    /// Digit `n` of byte `b` is weight `32 n + b` (bytes 0..32) or `160 + 16 n + b - 32` (bytes 32..48).
    pub qs: [u8; 48],
    /// Digit `n`, of four, of byte `b` is weight `240 + 4 n + b`.
    pub qh: [u8; 4],
    /// Scale.
    pub d: Half,
}

/// 66 bytes for 256 weights.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Tq2_0 {
    /// Codes 0..=2 (3 is decoded, too), placed as in [`Q2K`](super::Q2K).
    pub qs: [u8; SUPER / 4],
    /// Scale.
    pub d: Half,
}

/// Powers of three: the first digit is the highest.
const POWERS: [u8; 5] = [1, 3, 9, 27, 81];

/// Byte, of the 52, and digit of weight `i`.
fn place(i: usize) -> (usize, usize) {
    match i {
        0..160 => (i % 32, i / 32),
        160..240 => (32 + i % 16, (i - 160) / 16),
        _ => (48 + i % 4, (i - 240) / 4),
    }
}

impl Block for Tq1_0 {
    const FORMAT: Format = Format::TQ1_0;

    fn group(&self, index: usize) -> Group {
        let digit = |l: usize| {
            let (byte, digit) = place(32 * index + l);
            let byte = if byte < 48 { self.qs[byte] } else { self.qh[byte - 48] };
            ((u16::from(byte.wrapping_mul(POWERS[digit])) * 3) >> 8) as i8 - 1
        };
        Group { codes: std::array::from_fn(digit), scale: [widen(self.d); 2], min: [0.0; 2] }
    }

    fn encode(x: &[f32]) -> Self {
        let (d, codes) = ternary(x);
        let mut digits = [0u16; 52];
        for (i, &code) in codes.iter().enumerate() {
            let (byte, digit) = place(i);
            digits[byte] += u16::from(code) * u16::from(POWERS[4 - digit]);
        }
        let bytes = digits.map(|digits| (digits * 256).div_ceil(243) as u8);
        Tq1_0 { qs: std::array::from_fn(|b| bytes[b]), qh: std::array::from_fn(|b| bytes[48 + b]), d }
    }
}

impl Block for Tq2_0 {
    const FORMAT: Format = Format::TQ2_0;

    fn group(&self, index: usize) -> Group {
        let codes = two_bits(&self.qs, index).map(|q| q as i8 - 1);
        Group { codes, scale: [widen(self.d); 2], min: [0.0; 2] }
    }

    fn encode(x: &[f32]) -> Self {
        let (d, codes) = ternary(x);
        Tq2_0 { qs: pack_two_bits(&codes), d }
    }
}

/// Scale and codes 0..=2; what is nearest to neither rounds away from zero.
fn ternary(x: &[f32]) -> (Half, [u8; SUPER]) {
    let d = x.iter().fold(0.0f32, |max, v| max.max(v.abs()));
    let inverse = inverse(d);
    (narrow(d), std::array::from_fn(|i| ((x[i] * inverse).round().clamp(-1.0, 1.0) + 1.0) as u8))
}
