//! Q4_K: 256 codes of four bits; every 32 share a 6-bit scale and a 6-bit minimum of two super-scales.
//!
//! `w = (d * scale) * q - (dmin * min)`. Source: ggml's `block_q4_K`.

use bytemuck::{Pod, Zeroable};

use super::block::{Block, EQUAL, Half, SUPER, widen};
use super::fit::affine;
use super::{Format, Group, k_scales};

/// 144 bytes for 256 weights.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Q4K {
    /// Super-scale of the scales.
    pub d: Half,
    /// Super-scale of the minima.
    pub dmin: Half,
    /// Eight scales and eight minima of six bits.
    pub scales: [u8; 12],
    /// Codes 0..=15; weight `64 c + l` in the low nibble of byte `32 c + l`, weight `64 c + 32 + l` in its high nibble.
    pub qs: [u8; SUPER / 2],
}

impl Q4K {
    /// Scale and minimum of 32 weights, each 0..=63.
    pub fn scale_min(&self, index: usize) -> (u8, u8) {
        k_scales::get(&self.scales, index)
    }
}

impl Block for Q4K {
    const FORMAT: Format = Format::Q4_K;

    fn group(&self, index: usize) -> Group {
        let (scale, min) = self.scale_min(index);
        Group {
            codes: four_bits(&self.qs, index).map(|q| q as i8),
            scale: [widen(self.d) * f32::from(scale); 2],
            min: [-(widen(self.dmin) * f32::from(min)); 2],
        }
    }

    fn encode(x: &[f32]) -> Self {
        Self::encode_weighing(x, &EQUAL)
    }

    fn encode_weighing(x: &[f32], weights: &[f32]) -> Self {
        let fit = affine::super_block::<8, 32>(x, weights, 15.0, 63.0);
        Q4K { d: fit.d, dmin: fit.dmin, scales: k_scales::pack(fit.scales, fit.mins), qs: pack_four_bits(&fit.codes) }
    }
}

/// The low four bits of group `index` of eight.
pub(super) fn four_bits(qs: &[u8; 128], index: usize) -> [u8; 32] {
    std::array::from_fn(|l| qs[index / 2 * 32 + l] >> (index % 2 * 4) & 0xF)
}

/// The reverse of [`four_bits`] for all groups; higher bits of the codes are ignored.
pub(super) fn pack_four_bits(codes: &[u8; SUPER]) -> [u8; 128] {
    std::array::from_fn(|i| {
        let first = i / 32 * 64 + i % 32;
        codes[first] & 0xF | codes[first + 32] << 4
    })
}
