//! IQ3_XXS and IQ3_S: four weights at a time are a word of a codebook of eight magnitudes; eight have a byte of signs.
//!
//! `w = (d * (2 s + 1) / 4) * level`, level 4 to 62 (XXS, which stores seven signs of eight, the number of negative
//! weights being even); `w = (d * (2 s + 1)) * level`, level 1 to 15 and odd (S). Source: ggml's `block_iq3_xxs`,
//! `block_iq3_s` and the decoders of the Python package `gguf`. The encoders look for the nearest word (`lattice.rs`).

use std::sync::LazyLock;

use bytemuck::{Pod, Zeroable};

use super::block::{Block, EQUAL, Half, SUPER, octets, widen};
use super::codebook::{self, Codebook};
use super::lattice::{self, Fitted, Words, block_signs, even_signs, negate, signs_and_scale};
use super::{Format, Group};

/// 98 bytes for 256 weights; every 32 share a 4-bit scale.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Iq3Xxs {
    /// Super-scale.
    pub d: Half,
    /// Words.
    pub qs: [u8; SUPER / 4],
    /// For each 32 weights a little-endian number: four times seven signs and, on top, the scale.
    pub scales: [[u8; 4]; SUPER / 32],
}

/// 110 bytes for 256 weights; every 32 share a 4-bit scale.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Iq3S {
    /// Super-scale.
    pub d: Half,
    /// Low eight bits of the words.
    pub qs: [u8; SUPER / 4],
    /// Ninth bits of eight words a byte, the first lowest.
    pub qh: [u8; SUPER / 32],
    /// Signs of each eight weights.
    pub signs: [u8; SUPER / 8],
    /// Scales: nibble `i % 2` of byte `i / 2`.
    pub scales: [u8; SUPER / 64],
}

/// The steps of the scales by the super-scale.
const UNIT_XXS: f32 = 0.25;
const UNIT_S: f32 = 1.0;

/// Eight levels from two words.
fn pair(book: &Codebook<4>, words: [usize; 2]) -> [i8; 8] {
    let [a, b] = words.map(|word| book.vector(word));
    std::array::from_fn(|i| if i < 4 { a[i] } else { b[i - 4] })
}

impl Block for Iq3Xxs {
    const FORMAT: Format = Format::IQ3_XXS;

    fn group(&self, index: usize) -> Group {
        let rest = u32::from_le_bytes(self.scales[index]);
        let octet = |i: usize| {
            let words = [0, 1].map(|j| usize::from(self.qs[8 * index + 2 * i + j]));
            negate(pair(&codebook::IQ3_XXS, words), even_signs(rest >> (7 * i)))
        };
        let scale = widen(self.d) * (2 * (rest >> 28) + 1) as f32 * UNIT_XXS;
        Group { codes: octets(octet), scale: [scale; 2], min: [0.0; 2] }
    }

    fn encode(x: &[f32]) -> Self {
        Self::encode_weighing(x, &EQUAL)
    }

    fn encode_weighing(x: &[f32], weights: &[f32]) -> Self {
        let Signed { fitted, signs } = fit(x, weights, &WORDS_XXS, UNIT_XXS, true);
        let rest = |g: usize| signs_and_scale(&signs[4 * g..4 * g + 4], fitted.scales[g]);
        Iq3Xxs { d: fitted.d, qs: fitted.words.map(|word| word as u8), scales: std::array::from_fn(rest) }
    }
}

impl Block for Iq3S {
    const FORMAT: Format = Format::IQ3_S;

    fn group(&self, index: usize) -> Group {
        let word = |i: usize| usize::from(self.qs[8 * index + i]) | usize::from(self.qh[index] >> i & 1) << 8;
        let octet =
            |i: usize| negate(pair(&codebook::IQ3_S, [word(2 * i), word(2 * i + 1)]), self.signs[4 * index + i]);
        let scale = widen(self.d) * f32::from(2 * (self.scales[index / 2] >> (index % 2 * 4) & 15) + 1) * UNIT_S;
        Group { codes: octets(octet), scale: [scale; 2], min: [0.0; 2] }
    }

    fn encode(x: &[f32]) -> Self {
        Self::encode_weighing(x, &EQUAL)
    }

    fn encode_weighing(x: &[f32], weights: &[f32]) -> Self {
        let Signed { fitted, signs } = fit(x, weights, &WORDS_S, UNIT_S, false);
        let scales = &fitted.scales;
        Iq3S {
            d: fitted.d,
            qs: fitted.words.map(|word| word as u8),
            qh: std::array::from_fn(|g| (0..8).fold(0, |byte, i| byte | ((fitted.words[8 * g + i] >> 8) as u8) << i)),
            signs,
            scales: std::array::from_fn(|i| scales[2 * i] | scales[2 * i + 1] << 4),
        }
    }
}

/// The books as the search wants them, made when first needed.
static WORDS_XXS: LazyLock<Words<4>> = LazyLock::new(|| Words::of(&codebook::IQ3_XXS));
static WORDS_S: LazyLock<Words<4>> = LazyLock::new(|| Words::of(&codebook::IQ3_S));

/// A block with eight scales.
struct Signed {
    fitted: Fitted<{ SUPER / 4 }, 8>,
    signs: [u8; SUPER / 8],
}

fn fit(x: &[f32], weights: &[f32], words: &Words<4>, unit: f32, even: bool) -> Signed {
    let (signs, magnitudes) = block_signs(x, weights, even);
    let quads: &[[f32; 4]] = magnitudes.as_flattened().as_chunks().0;
    Signed { fitted: lattice::fit(&[words], quads, weights.as_chunks().0, (unit, 15)), signs }
}
