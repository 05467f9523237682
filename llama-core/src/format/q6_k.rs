//! Q6_K: 256 codes of six bits; every sixteen share a signed byte as scale of one super-scale.
//!
//! `w = (d * scale) * (q - 32)`. Source: ggml's `block_q6_K`.

use bytemuck::{Pod, Zeroable};

use super::block::{Block, EQUAL, Half, SUPER, widen};
use super::fit::signed::{self, Uniform};
use super::q2_k::{pack_two_bits, two_bits};
use super::{Format, Group};

/// 210 bytes for 256 weights.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Q6K {
    /// Low four bits; weight `128 h + 64 n + 32 p + l` in nibble `n` of byte `64 h + 32 p + l`.
    pub ql: [u8; SUPER / 2],
    /// High two bits, placed as in [`Q2K`](super::Q2K).
    pub qh: [u8; SUPER / 4],
    /// Scale of each sixteen weights.
    pub scales: [i8; 16],
    /// Super-scale.
    pub d: Half,
}

impl Block for Q6K {
    const FORMAT: Format = Format::Q6_K;

    fn group(&self, index: usize) -> Group {
        let (half, nibble, part) = (index / 4, index / 2 % 2, index % 2);
        let low = &self.ql[64 * half + 32 * part..][..32];
        let high = two_bits(&self.qh, index);
        Group {
            codes: std::array::from_fn(|l| (low[l] >> (4 * nibble) & 0xF | high[l] << 4) as i8 - 32),
            scale: [2 * index, 2 * index + 1].map(|i| widen(self.d) * f32::from(self.scales[i])),
            min: [0.0; 2],
        }
    }

    fn encode(x: &[f32]) -> Self {
        Self::encode_weighing(x, &EQUAL)
    }

    fn encode_weighing(x: &[f32], weights: &[f32]) -> Self {
        let fit = signed::super_block::<Uniform<-32>, 16, 16>(x, weights, -128.0);
        let codes = fit.codes.map(|q| (q + 32) as u8);
        Q6K {
            ql: std::array::from_fn(|i| {
                let first = i / 64 * 128 + i % 64;
                codes[first] & 0xF | codes[first + 64] << 4
            }),
            qh: pack_two_bits(&codes.map(|q| q >> 4)),
            scales: fit.scales,
            d: fit.d,
        }
    }
}
