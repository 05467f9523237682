//! Q3_K: 256 codes of three bits; every sixteen share a signed 6-bit scale of one super-scale.
//!
//! `w = (d * (scale - 32)) * (q - 4)`, where `q` is two low bits plus a third bit from `hmask`.
//! Source: ggml's `block_q3_K`.

use bytemuck::{Pod, Zeroable};

use super::block::{Block, EQUAL, Half, SUPER, widen};
use super::fit::signed::{self, Uniform};
use super::q2_k::{pack_two_bits, two_bits};
use super::{Format, Group};

/// 110 bytes for 256 weights.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Q3K {
    /// Third bits: weight `32 g + l`'s is bit `g` of byte `l`.
    pub hmask: [u8; SUPER / 8],
    /// Low two bits, placed as in [`Q2K`](super::Q2K).
    pub qs: [u8; SUPER / 4],
    /// Sixteen scales of six bits: low nibbles in bytes 0..8 (scale `i` below `i + 8`), then two high bits of scale `i`
    /// in bits `2 (i / 4)` of byte `8 + i % 4`.
    pub scales: [u8; 12],
    /// Super-scale.
    pub d: Half,
}

impl Q3K {
    /// Scale `i` of sixteen, -32..=31.
    pub fn scale(&self, i: usize) -> i8 {
        let low = self.scales[i % 8] >> (i / 8 * 4) & 0xF;
        let high = self.scales[8 + i % 4] >> (i / 4 * 2) & 3;
        (low | high << 4) as i8 - 32
    }
}

impl Block for Q3K {
    const FORMAT: Format = Format::Q3_K;

    fn group(&self, index: usize) -> Group {
        let low = two_bits(&self.qs, index);
        Group {
            codes: std::array::from_fn(|l| (low[l] | (self.hmask[l] >> index & 1) << 2) as i8 - 4),
            scale: [2 * index, 2 * index + 1].map(|i| widen(self.d) * f32::from(self.scale(i))),
            min: [0.0; 2],
        }
    }

    fn encode(x: &[f32]) -> Self {
        Self::encode_weighing(x, &EQUAL)
    }

    fn encode_weighing(x: &[f32], weights: &[f32]) -> Self {
        let fit = signed::super_block::<Uniform<-4>, 16, 16>(x, weights, -32.0);
        let codes = fit.codes.map(|q| (q + 4) as u8);
        Q3K {
            hmask: std::array::from_fn(|l| (0..8).fold(0, |byte, g| byte | codes[32 * g + l] >> 2 << g)),
            qs: pack_two_bits(&codes),
            scales: pack_scales(fit.scales.map(|s| (s + 32) as u8)),
            d: fit.d,
        }
    }
}

/// Packs scales 0..=63 as [`Q3K::scale`] reads them.
fn pack_scales(scales: [u8; 16]) -> [u8; 12] {
    std::array::from_fn(|i| match i {
        0..8 => scales[i] & 0xF | scales[i + 8] << 4,
        _ => (0..4).fold(0, |byte, j| byte | scales[4 * j + i - 8] >> 4 << (2 * j)),
    })
}
