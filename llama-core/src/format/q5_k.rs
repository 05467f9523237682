//! Q5_K: Q4_K with a fifth bit for each code.
//!
//! `w = (d * scale) * q - (dmin * min)`. Source: ggml's `block_q5_K`.

use bytemuck::{Pod, Zeroable};

use super::block::{Block, EQUAL, Half, SUPER, widen};
use super::fit::affine;
use super::q4_k::{four_bits, pack_four_bits};
use super::{Format, Group, k_scales};

/// 176 bytes for 256 weights.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Q5K {
    /// Super-scale of the scales.
    pub d: Half,
    /// Super-scale of the minima.
    pub dmin: Half,
    /// Eight scales and eight minima of six bits.
    pub scales: [u8; 12],
    /// Fifth bits: weight `32 g + l`'s is bit `g` of byte `l`.
    pub qh: [u8; SUPER / 8],
    /// Low four bits, placed as in [`Q4K`](super::Q4K).
    pub qs: [u8; SUPER / 2],
}

impl Q5K {
    /// Scale and minimum of 32 weights, each 0..=63.
    pub fn scale_min(&self, index: usize) -> (u8, u8) {
        k_scales::get(&self.scales, index)
    }
}

impl Block for Q5K {
    const FORMAT: Format = Format::Q5_K;

    fn group(&self, index: usize) -> Group {
        let (scale, min) = self.scale_min(index);
        let low = four_bits(&self.qs, index);
        Group {
            codes: std::array::from_fn(|l| (low[l] | (self.qh[l] >> index & 1) << 4) as i8),
            scale: [widen(self.d) * f32::from(scale); 2],
            min: [-(widen(self.dmin) * f32::from(min)); 2],
        }
    }

    fn encode(x: &[f32]) -> Self {
        Self::encode_weighing(x, &EQUAL)
    }

    fn encode_weighing(x: &[f32], weights: &[f32]) -> Self {
        let fit = affine::super_block::<8, 32>(x, weights, 31.0, 63.0);
        Q5K {
            d: fit.d,
            dmin: fit.dmin,
            scales: k_scales::pack(fit.scales, fit.mins),
            qh: std::array::from_fn(|l| (0..8).fold(0, |byte, g| byte | fit.codes[32 * g + l] >> 4 << g)),
            qs: pack_four_bits(&fit.codes),
        }
    }
}
