//! IQ1_S and IQ1_M: eight weights at a time are a word of a codebook of -1, 0 and 1, all of them moved by an eighth.
//!
//! `w = (d * (2 s + 1)) * (level +- 1/8)`, s 0..7. With the eighth taken into the scale codes are integers: -9, -7, -1, 1,
//! 7, 9. Source: ggml's `block_iq1_s`, `block_iq1_m` and the decoders of the Python package `gguf`. The encoders look for
//! the nearest word (`lattice.rs`).

use std::sync::LazyLock;

use bytemuck::{Pod, Zeroable};

use super::block::{Block, EQUAL, Half, SUPER, octets, widen};
use super::codebook;
use super::lattice::{self, Words};
use super::{Format, Group};

/// 50 bytes for 256 weights; every 32 share a 3-bit scale and the direction of the eighth.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Iq1S {
    /// Super-scale.
    pub d: Half,
    /// Low eight bits of the words.
    pub qs: [u8; SUPER / 8],
    /// For each 32 weights a little-endian number: three high bits of four words, the scale, and whether the eighth is
    /// taken off.
    pub qh: [[u8; 2]; SUPER / 32],
}

/// 56 bytes for 256 weights; every 16 share a 3-bit scale, every 8 the direction of the eighth.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Iq1M {
    /// Low eight bits of the words.
    pub qs: [u8; SUPER / 8],
    /// For each eight weights a nibble: three high bits of the word, and whether the eighth is taken off.
    pub qh: [u8; SUPER / 16],
    /// Four little-endian numbers: four scales each, and on top a nibble of the super-scale, the lowest first.
    pub scales: [[u8; 2]; 4],
}

/// The step of the scales by the super-scale, where codes are eighths.
const UNIT: f32 = 0.125;

/// Eight codes.
fn octet(word: usize, minus: bool) -> [i8; 8] {
    codebook::IQ1.vector(word).map(|level| 8 * level + if minus { -1 } else { 1 })
}

/// The codes of every word, moved up (`false`) or down.
fn words(minus: bool) -> impl Iterator<Item = [i8; 8]> {
    (0..1 << 11).map(move |word| octet(word, minus))
}

/// The books as the search wants them, made when first needed: of both directions, and of both in one.
static WORDS_S: LazyLock<[Words<8>; 2]> = LazyLock::new(|| [false, true].map(|minus| Words::new(words(minus))));
static WORDS_M: LazyLock<Words<8>> = LazyLock::new(|| Words::new(words(false).chain(words(true))));

fn vectors(x: &[f32]) -> &[[f32; 8]] {
    x.as_chunks().0
}

impl Block for Iq1S {
    const FORMAT: Format = Format::IQ1_S;

    fn group(&self, index: usize) -> Group {
        let high = u16::from_le_bytes(self.qh[index]);
        let word = |i: usize| usize::from(self.qs[4 * index + i]) | usize::from(high >> (3 * i) & 7) << 8;
        let scale = widen(self.d) * f32::from(2 * (high >> 12 & 7) + 1) * UNIT;
        Group { codes: octets(|i| octet(word(i), high >> 15 == 1)), scale: [scale; 2], min: [0.0; 2] }
    }

    fn encode(x: &[f32]) -> Self {
        Self::encode_weighing(x, &EQUAL)
    }

    fn encode_weighing(x: &[f32], weights: &[f32]) -> Self {
        let [plus, minus] = &*WORDS_S;
        let fitted = lattice::fit::<8, 32, 8>(&[plus, minus], vectors(x), vectors(weights), (UNIT, 7));
        let high = |g: usize| {
            let words = (0..4).fold(0, |high, i| high | (fitted.words[4 * g + i] >> 8) << (3 * i)) as u16;
            (words | u16::from(fitted.scales[g]) << 12 | (fitted.books[g] as u16) << 15).to_le_bytes()
        };
        Iq1S { d: fitted.d, qs: fitted.words.map(|word| word as u8), qh: std::array::from_fn(high) }
    }
}

impl Iq1M {
    /// The super-scale, put together from its four nibbles.
    fn d(&self) -> Half {
        let nibble = |i: usize| self.scales[i][1] >> 4;
        [nibble(0) | nibble(1) << 4, nibble(2) | nibble(3) << 4]
    }
}

impl Block for Iq1M {
    const FORMAT: Format = Format::IQ1_M;

    fn group(&self, index: usize) -> Group {
        let codes = |i: usize| {
            let nibble = self.qh[2 * index + i / 2] >> (i % 2 * 4) & 15;
            octet(usize::from(self.qs[4 * index + i]) | usize::from(nibble & 7) << 8, nibble >> 3 == 1)
        };
        let d = widen(self.d());
        let scale = [2 * index, 2 * index + 1].map(|s| {
            let packed = u16::from_le_bytes(self.scales[s / 4]);
            d * f32::from(2 * (packed >> (s % 4 * 3) & 7) + 1) * UNIT
        });
        Group { codes: octets(codes), scale, min: [0.0; 2] }
    }

    fn encode(x: &[f32]) -> Self {
        Self::encode_weighing(x, &EQUAL)
    }

    fn encode_weighing(x: &[f32], weights: &[f32]) -> Self {
        let fitted = lattice::fit::<8, 32, 16>(&[&WORDS_M], vectors(x), vectors(weights), (UNIT, 7));
        // The last bit of the number of a word, its twelfth, is the direction: what a nibble's is, too.
        let words = &fitted.words;
        let d = u16::from_le_bytes(fitted.d);
        Iq1M {
            qs: words.map(|word| word as u8),
            qh: std::array::from_fn(|i| (words[2 * i] >> 8 | words[2 * i + 1] >> 8 << 4) as u8),
            scales: std::array::from_fn(|i| {
                let packed = (0..4).fold(0, |bits, s| bits | u16::from(fitted.scales[4 * i + s]) << (3 * s));
                (packed | (d >> (4 * i) & 15) << 12).to_le_bytes()
            }),
        }
    }
}
