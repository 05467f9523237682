//! Q2_K: 256 codes of two bits; every sixteen share a 4-bit scale and a 4-bit minimum of two super-scales.
//!
//! `w = (d * scale) * q - (dmin * min)`. Source: ggml's `block_q2_K`.

use bytemuck::{Pod, Zeroable};

use super::block::{Block, EQUAL, Half, SUPER, widen};
use super::fit::affine;
use super::{Format, Group};

/// 84 bytes for 256 weights.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Q2K {
    /// Scale (low nibble) and minimum (high nibble) of each sixteen weights.
    pub scales: [u8; 16],
    /// Codes 0..=3; weight `128 h + 32 j + l` in bits `2j, 2j + 1` of byte `32 h + l`.
    pub qs: [u8; SUPER / 4],
    /// Super-scale of the scales.
    pub d: Half,
    /// Super-scale of the minima.
    pub dmin: Half,
}

impl Block for Q2K {
    const FORMAT: Format = Format::Q2_K;

    fn group(&self, index: usize) -> Group {
        let scales = [self.scales[2 * index], self.scales[2 * index + 1]];
        Group {
            codes: two_bits(&self.qs, index).map(|q| q as i8),
            scale: scales.map(|s| widen(self.d) * f32::from(s & 0xF)),
            min: scales.map(|s| -(widen(self.dmin) * f32::from(s >> 4))),
        }
    }

    fn encode(x: &[f32]) -> Self {
        Self::encode_weighing(x, &EQUAL)
    }

    fn encode_weighing(x: &[f32], weights: &[f32]) -> Self {
        let fit = affine::super_block::<16, 16>(x, weights, 3.0, 15.0);
        Q2K {
            scales: std::array::from_fn(|i| fit.scales[i] | fit.mins[i] << 4),
            qs: pack_two_bits(&fit.codes),
            d: fit.d,
            dmin: fit.dmin,
        }
    }
}

/// The two-bit codes of group `index` of eight.
pub(super) fn two_bits(qs: &[u8; 64], index: usize) -> [u8; 32] {
    std::array::from_fn(|l| qs[index / 4 * 32 + l] >> (index % 4 * 2) & 3)
}

/// The reverse of [`two_bits`] for all groups; higher bits of the codes are ignored.
pub(super) fn pack_two_bits(codes: &[u8; SUPER]) -> [u8; 64] {
    std::array::from_fn(|i| {
        let first = i / 32 * 128 + i % 32;
        (0..4).fold(0, |byte, j| byte | (codes[first + 32 * j] & 3) << (2 * j))
    })
}
