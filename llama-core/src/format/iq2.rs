//! IQ2_XXS, IQ2_XS and IQ2_S: eight weights at a time are a word of a codebook of three magnitudes, and eight signs.
//!
//! `w = (d * (2 s + 1) / 8) * level`, level one of 8, 25, 43 or its negative. In XXS and XS seven signs of eight are
//! stored, the number of negative weights being even. Source: ggml's `block_iq2_xxs`, `block_iq2_xs`, `block_iq2_s` and
//! the decoders of the Python package `gguf`. The encoders look for the nearest word (`lattice.rs`).

use std::sync::LazyLock;

use bytemuck::{Pod, Zeroable};

use super::block::{Block, EQUAL, Half, SUPER, octets, widen};
use super::codebook;
use super::lattice::{self, Fitted, Words, block_signs, even_signs, negate, signs_and_scale};
use super::{Format, Group};

/// 66 bytes for 256 weights; every 32 share a 4-bit scale.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Iq2Xxs {
    /// Super-scale.
    pub d: Half,
    /// For each 32 weights four words, then a little-endian number of four times seven signs and, on top, the scale.
    pub qs: [[u8; 8]; SUPER / 32],
}

/// 74 bytes for 256 weights; every 16 share a 4-bit scale.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Iq2Xs {
    /// Super-scale.
    pub d: Half,
    /// For each eight weights a little-endian number: nine bits of word, seven signs.
    pub qs: [[u8; 2]; SUPER / 8],
    /// Scales of each 32 weights, those of the first sixteen in the low nibble.
    pub scales: [u8; SUPER / 32],
}

/// 82 bytes for 256 weights; every 16 share a 4-bit scale.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Iq2S {
    /// Super-scale.
    pub d: Half,
    /// Low eight bits of the words.
    pub qs: [u8; SUPER / 8],
    /// Signs of each eight weights.
    pub signs: [u8; SUPER / 8],
    /// High two bits of four words a byte, the first lowest.
    pub qh: [u8; SUPER / 32],
    /// Scales, placed as in [`Iq2Xs`].
    pub scales: [u8; SUPER / 32],
}

/// The step of the scales by the super-scale.
const UNIT: f32 = 0.125;

fn scale(d: Half, s: u8) -> f32 {
    widen(d) * f32::from(2 * s + 1) * UNIT
}

fn nibble_scales(d: Half, byte: u8) -> [f32; 2] {
    [scale(d, byte & 15), scale(d, byte >> 4)]
}

impl Block for Iq2Xxs {
    const FORMAT: Format = Format::IQ2_XXS;

    fn group(&self, index: usize) -> Group {
        let [words @ .., a, b, c, d] = self.qs[index];
        let rest = u32::from_le_bytes([a, b, c, d]);
        let octet = |i: usize| {
            let vector = codebook::IQ2_XXS.vector(usize::from(words[i]));
            negate(vector, even_signs(rest >> (7 * i)))
        };
        Group { codes: octets(octet), scale: [scale(self.d, (rest >> 28) as u8); 2], min: [0.0; 2] }
    }

    fn encode(x: &[f32]) -> Self {
        Self::encode_weighing(x, &EQUAL)
    }

    fn encode_weighing(x: &[f32], weights: &[f32]) -> Self {
        let Signed { fitted, signs } = fit::<8>(x, weights, &WORDS_XXS, true);
        let qs = std::array::from_fn(|g| {
            let rest = signs_and_scale(&signs[4 * g..4 * g + 4], fitted.scales[g]);
            std::array::from_fn(|i| if i < 4 { fitted.words[4 * g + i] as u8 } else { rest[i - 4] })
        });
        Iq2Xxs { d: fitted.d, qs }
    }
}

impl Block for Iq2Xs {
    const FORMAT: Format = Format::IQ2_XS;

    fn group(&self, index: usize) -> Group {
        let octet = |i: usize| {
            let code = u16::from_le_bytes(self.qs[4 * index + i]);
            negate(codebook::IQ2_XS.vector(usize::from(code & 511)), even_signs(u32::from(code >> 9)))
        };
        Group { codes: octets(octet), scale: nibble_scales(self.d, self.scales[index]), min: [0.0; 2] }
    }

    fn encode(x: &[f32]) -> Self {
        Self::encode_weighing(x, &EQUAL)
    }

    fn encode_weighing(x: &[f32], weights: &[f32]) -> Self {
        let Signed { fitted, signs } = fit::<16>(x, weights, &WORDS_XS, true);
        let code = |i: usize| fitted.words[i] as u16 | u16::from(signs[i] & 127) << 9;
        Iq2Xs { d: fitted.d, qs: std::array::from_fn(|i| code(i).to_le_bytes()), scales: nibbles(&fitted.scales) }
    }
}

impl Block for Iq2S {
    const FORMAT: Format = Format::IQ2_S;

    fn group(&self, index: usize) -> Group {
        let octet = |i: usize| {
            let high = usize::from(self.qh[index] >> (2 * i) & 3);
            let word = usize::from(self.qs[4 * index + i]) | high << 8;
            negate(codebook::IQ2_S.vector(word), self.signs[4 * index + i])
        };
        Group { codes: octets(octet), scale: nibble_scales(self.d, self.scales[index]), min: [0.0; 2] }
    }

    fn encode(x: &[f32]) -> Self {
        Self::encode_weighing(x, &EQUAL)
    }

    fn encode_weighing(x: &[f32], weights: &[f32]) -> Self {
        let Signed { fitted, signs } = fit::<16>(x, weights, &WORDS_S, false);
        let high = |g: usize| (0..4).fold(0, |byte, i| byte | ((fitted.words[4 * g + i] >> 8) as u8) << (2 * i));
        Iq2S {
            d: fitted.d,
            qs: fitted.words.map(|word| word as u8),
            signs,
            qh: std::array::from_fn(high),
            scales: nibbles(&fitted.scales),
        }
    }
}

/// The books as the search wants them, made when first needed.
static WORDS_XXS: LazyLock<Words<8>> = LazyLock::new(|| Words::of(&codebook::IQ2_XXS));
static WORDS_XS: LazyLock<Words<8>> = LazyLock::new(|| Words::of(&codebook::IQ2_XS));
static WORDS_S: LazyLock<Words<8>> = LazyLock::new(|| Words::of(&codebook::IQ2_S));

/// A block with `S` scales.
struct Signed<const S: usize> {
    fitted: Fitted<{ SUPER / 8 }, S>,
    signs: [u8; SUPER / 8],
}

/// Scales in nibbles.
fn nibbles(scales: &[u8; 16]) -> [u8; 8] {
    std::array::from_fn(|g| scales[2 * g] | scales[2 * g + 1] << 4)
}

fn fit<const S: usize>(x: &[f32], weights: &[f32], words: &Words<8>, even: bool) -> Signed<S> {
    let (signs, magnitudes) = block_signs(x, weights, even);
    Signed { fitted: lattice::fit(&[words], &magnitudes, weights.as_chunks().0, (UNIT, 15)), signs }
}
