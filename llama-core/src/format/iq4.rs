//! IQ4_NL and IQ4_XS: four-bit codes that index a fixed table of sixteen unevenly spaced levels.
//!
//! `w = d * LEVELS[q]` for blocks of 32 (NL); `w = (d * (scale - 32)) * LEVELS[q]` for blocks of 256 whose every 32 share
//! a 6-bit scale (XS). Source: ggml's `block_iq4_nl`, `block_iq4_xs` and `kvalues_iq4nl`.

use bytemuck::{Pod, Zeroable};

use super::block::{Block, EQUAL, Half, SUPER, nibbles, pack_nibbles, widen};
use super::fit::signed::{self, Grid};
use super::{Format, Group};

/// What the sixteen codes stand for, ascending.
pub const LEVELS: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// 18 bytes for 32 weights.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Iq4Nl {
    /// Scale.
    pub d: Half,
    /// Codes 0..=15, placed as in [`Q4_0`](super::Q4_0).
    pub qs: [u8; 16],
}

/// 136 bytes for 256 weights.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Iq4Xs {
    /// Super-scale.
    pub d: Half,
    /// High two bits of the eight scales: scale `i`'s are bits `2i, 2i + 1` of the little-endian number.
    pub scales_h: [u8; 2],
    /// Low four bits of the scales: scale `i`'s are nibble `i % 2` of byte `i / 2`.
    pub scales_l: [u8; 4],
    /// Codes 0..=15: sixteen bytes for each 32 weights, placed as in [`Q4_0`](super::Q4_0).
    pub qs: [u8; SUPER / 2],
}

impl Iq4Xs {
    /// Scale of 32 weights, -32..=31.
    pub fn scale(&self, i: usize) -> i8 {
        let low = self.scales_l[i / 2] >> (i % 2 * 4) & 0xF;
        let high = (u16::from_le_bytes(self.scales_h) >> (2 * i) & 3) as u8;
        (low | high << 4) as i8 - 32
    }
}

impl Block for Iq4Nl {
    const FORMAT: Format = Format::IQ4_NL;

    fn group(&self, _index: usize) -> Group {
        Group { codes: levels(&self.qs), scale: [widen(self.d); 2], min: [0.0; 2] }
    }

    fn encode(x: &[f32]) -> Self {
        Self::encode_weighing(x, &EQUAL[..32])
    }

    fn encode_weighing(x: &[f32], weights: &[f32]) -> Self {
        let (d, codes) = signed::block::<Levels>(x, weights);
        Iq4Nl { d, qs: pack_nibbles(&codes.map(code)) }
    }
}

impl Block for Iq4Xs {
    const FORMAT: Format = Format::IQ4_XS;

    fn group(&self, index: usize) -> Group {
        let scale = widen(self.d) * f32::from(self.scale(index));
        Group { codes: levels(&self.qs[16 * index..]), scale: [scale; 2], min: [0.0; 2] }
    }

    fn encode(x: &[f32]) -> Self {
        Self::encode_weighing(x, &EQUAL)
    }

    fn encode_weighing(x: &[f32], weights: &[f32]) -> Self {
        let fit = signed::super_block::<Levels, 8, 32>(x, weights, -32.0);
        let codes = fit.codes.map(code);
        let qs: [[u8; 16]; 8] = std::array::from_fn(|g| pack_nibbles(&codes[32 * g..]));
        let scales = fit.scales.map(|s| (s + 32) as u8);
        let high = (0..8).fold(0u16, |bits, i| bits | u16::from(scales[i] >> 4) << (2 * i));
        Iq4Xs {
            d: fit.d,
            scales_h: high.to_le_bytes(),
            scales_l: std::array::from_fn(|i| scales[2 * i] & 0xF | scales[2 * i + 1] << 4),
            qs: *qs.as_flattened().as_array().expect("eight times 16 bytes"),
        }
    }
}

/// The levels of 32 codes.
fn levels(qs: &[u8]) -> [i8; 32] {
    nibbles(qs).map(|q| LEVELS[usize::from(q)])
}

/// The code of a level.
fn code(level: i8) -> u8 {
    LEVELS.partition_point(|&l| l < level) as u8
}

/// The values of [`LEVELS`], for the search.
struct Levels;

impl Grid for Levels {
    const LOWEST: f32 = -127.0;
    const BOTH: bool = true;
    const NEAR: &'static [f32] = &[-1.0, 1.0];
    const TRIES: (f32, f32, usize) = (99.0, 141.0, 10);

    /// The lowest, and every step that `v` is beyond the middle of: sixteen levels without a branch or a table.
    #[inline(always)]
    fn nearest(v: f32) -> f32 {
        let mut level = Self::LOWEST;
        for k in 0..15 {
            level += if v > MIDDLES[k] { STEPS[k] } else { 0.0 };
        }
        level
    }
}

/// What lies between one level and the next: the middle and the distance.
const MIDDLES: [f32; 15] = between(1, 0.5);
const STEPS: [f32; 15] = between(-1, 1.0);

const fn between(sign: i16, unit: f32) -> [f32; 15] {
    let (mut between, mut k) = ([0.0; 15], 0);
    while k < 15 {
        between[k] = (LEVELS[k + 1] as i16 + sign * LEVELS[k] as i16) as f32 * unit;
        k += 1;
    }
    between
}
