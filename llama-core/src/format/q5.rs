//! Q5_0 and Q5_1: Q4_0 and Q4_1 with a fifth bit for each code, the 32 fifth bits kept together.
//!
//! `w = d * (q - 16)` and `w = d * q + m`. Source: ggml's `block_q5_0` and `block_q5_1`; the encoders are its reference
//! quantisers, as in [`Q4_0`](super::Q4_0) and [`Q4_1`](super::Q4_1).

use bytemuck::{Pod, Zeroable};

use super::block::{Block, Half, better, nibbles, pack_nibbles, widen};
use super::fit::affine;
use super::fit::signed::{self, Uniform};
use super::q4::{encode_affine, encode_symmetric};
use super::{Format, Group};

/// 22 bytes for 32 weights.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Q5_0 {
    /// Scale, often negative.
    pub d: Half,
    /// Fifth bits: weight `i`'s is bit `i` of the little-endian number.
    pub qh: [u8; 4],
    /// Low four bits, placed as in [`Q4_0`](super::Q4_0).
    pub qs: [u8; 16],
}

/// 24 bytes for 32 weights.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Q5_1 {
    /// Scale.
    pub d: Half,
    /// Minimum.
    pub m: Half,
    /// Fifth bits, placed as in [`Q5_0`].
    pub qh: [u8; 4],
    /// Low four bits, placed as in [`Q4_0`](super::Q4_0).
    pub qs: [u8; 16],
}

impl Q5_0 {
    fn new((d, codes): (Half, [u8; 32])) -> Self {
        Q5_0 { d, qh: fifth_bits(&codes), qs: pack_nibbles(&codes) }
    }
}

impl Block for Q5_0 {
    const FORMAT: Format = Format::Q5_0;

    fn group(&self, _index: usize) -> Group {
        Group { codes: codes(self.qh, &self.qs).map(|q| q as i8 - 16), scale: [widen(self.d); 2], min: [0.0; 2] }
    }

    fn encode(x: &[f32]) -> Self {
        Q5_0::new(encode_symmetric(x, 16))
    }

    fn encode_weighing(x: &[f32], weights: &[f32]) -> Self {
        let (d, codes) = signed::block::<Uniform<-16>>(x, weights);
        let searched = Q5_0::new((d, codes.map(|q| (q + 16) as u8)));
        better(Self::encode(x), searched, x, weights)
    }
}

impl Q5_1 {
    fn new((d, m, codes): (Half, Half, [u8; 32])) -> Self {
        Q5_1 { d, m, qh: fifth_bits(&codes), qs: pack_nibbles(&codes) }
    }
}

impl Block for Q5_1 {
    const FORMAT: Format = Format::Q5_1;

    fn group(&self, _index: usize) -> Group {
        Group { codes: codes(self.qh, &self.qs).map(|q| q as i8), scale: [widen(self.d); 2], min: [widen(self.m); 2] }
    }

    fn encode(x: &[f32]) -> Self {
        Q5_1::new(encode_affine(x, 31))
    }

    fn encode_weighing(x: &[f32], weights: &[f32]) -> Self {
        better(Self::encode(x), Q5_1::new(affine::block(x, weights, 31)), x, weights)
    }
}

fn codes(qh: [u8; 4], qs: &[u8; 16]) -> [u8; 32] {
    let (high, low) = (u32::from_le_bytes(qh), nibbles(qs));
    std::array::from_fn(|i| low[i] | ((high >> i & 1) << 4) as u8)
}

fn fifth_bits(codes: &[u8; 32]) -> [u8; 4] {
    let bits = codes.iter().enumerate().fold(0u32, |bits, (i, &q)| bits | u32::from(q >> 4) << i);
    bits.to_le_bytes()
}
