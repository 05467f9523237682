//! MXFP4: 32 four-bit floats (a sign, two bits of exponent, one of fraction) that share a power of two.
//!
//! `w = 2^(e - 127) * f`, f one of 0, 0.5, 1, 1.5, 2, 3, 4, 6 or its negative. Here as in ggml the scale is half of that
//! and the codes are doubled, which makes them integers. Source: OCP Microscaling Formats (MX) 1.0; ggml's `block_mxfp4`,
//! whose reference quantiser the encoder is: the exponent is that of the largest magnitude, less two.

use bytemuck::{Pod, Zeroable};

use super::block::{Block, nibbles, pack_nibbles};
use super::{Format, Group};

/// Twice what the sixteen codes stand for.
pub const E2M1: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// 17 bytes for 32 weights.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Mxfp4 {
    /// Exponent, biased by 127.
    pub e: u8,
    /// Codes 0..=15, placed as in [`Q4_0`](super::Q4_0).
    pub qs: [u8; 16],
}

impl Mxfp4 {
    /// The largest exponent with which every code is a finite `f32`. MX keeps 255 for "not a number"; ggml has no such
    /// thing, and so decodes these to large numbers and infinity.
    pub const MAX_E: u8 = 252;

    /// `2^(e - 128)`: what [`E2M1`] is multiplied with. Exact: the two smallest are subnormal.
    pub fn scale(e: u8) -> f32 {
        f32::from_bits(if e < 2 { 0x0020_0000 << e } else { u32::from(e - 1) << 23 })
    }
}

impl Block for Mxfp4 {
    const FORMAT: Format = Format::MXFP4;

    fn group(&self, _index: usize) -> Group {
        let codes = nibbles(&self.qs).map(|q| E2M1[usize::from(q)]);
        Group { codes, scale: [Mxfp4::scale(self.e); 2], min: [0.0; 2] }
    }

    fn encode(x: &[f32]) -> Self {
        let largest = x.iter().fold(0.0f32, |max, v| max.max(v.abs()));
        let e = ((largest.to_bits() >> 23) as u8).saturating_sub(2);
        let levels = E2M1.map(|level| f32::from(level) * Mxfp4::scale(e));
        let codes: [u8; 32] = std::array::from_fn(|i| nearest(x[i], &levels));
        Mxfp4 { e, qs: pack_nibbles(&codes) }
    }
}

/// The first of the levels nearest to `v`.
fn nearest(v: f32, levels: &[f32; 16]) -> u8 {
    (1..16).fold(0, |best, i| if (levels[i] - v).abs() < (levels[best] - v).abs() { i } else { best }) as u8
}
