//! Choosing from a codebook: how the encoders of IQ1, IQ2 and IQ3 approximate vectors of numbers.
//!
//! The error of a word `c` with scale `s` is `|x|^2 - 2 s (x . c) + s^2 |c|^2`, so one pass of dot products serves every
//! scale: try a fixed number of them between the one that maps the largest number to the highest level and the one that
//! maps it to the lowest, take the nearest word of each vector, solve for the scale (`(sum of x . c) / (sum of |c|^2)`),
//! and keep the solution with the least squared error. Then the scales of a block become odd multiples of one `f16`, and
//! the words are chosen once more. Plain and complete on purpose: every word is looked at. Every weight counts the same,
//! where ggml's quantisers weigh by importance.

use super::block::{Half, SUPER, inverse, narrow, widen};
use super::codebook::Codebook;

/// Scales tried.
const TRIES: usize = 20;

/// The words of a codebook as numbers.
pub(super) struct Words<const N: usize> {
    words: Vec<[f32; N]>,
    /// Squared lengths.
    squares: Vec<f32>,
    /// Lowest and highest magnitude in a word.
    range: (f32, f32),
}

/// A scale, and by how much it makes the squared error of zeros smaller.
#[derive(Clone, Copy)]
pub(super) struct Fit {
    pub scale: f32,
    pub gain: f32,
}

impl<const N: usize> Words<N> {
    /// These words, numbered in this order.
    pub fn new(words: impl Iterator<Item = [i8; N]>) -> Self {
        let words: Vec<[f32; N]> = words.map(|word| word.map(f32::from)).collect();
        let squares = words.iter().map(|word| dot(word, word)).collect();
        let levels = || words.iter().flatten().map(|v| v.abs());
        let range = (levels().fold(f32::MAX, f32::min), levels().fold(0.0, f32::max));
        Words { words, squares, range }
    }

    /// The words of `book`.
    pub fn of(book: &Codebook<N>) -> Self {
        Words::new(book.vectors())
    }

    /// The positive scale with which words approximate all of `x` best, among those tried; 0 for zeros.
    pub fn fit(&self, x: &[[f32; N]]) -> Fit {
        let largest = x.iter().flatten().fold(0.0f32, |max, v| max.max(v.abs()));
        let dots: Vec<Vec<f32>> = x.iter().map(|x| self.words.iter().map(|word| dot(x, word)).collect()).collect();
        let (low, high) = self.range;
        let step = (1.1 * high / low).powf(1.0 / (TRIES - 1) as f32);
        let mut best = Fit { scale: 0.0, gain: 0.0 };
        let mut scale = largest / (1.1 * high);
        for _ in 0..TRIES {
            let (mut xc, mut cc) = (0.0f32, 0.0f32);
            for dots in &dots {
                let (word, _) = self.best(dots.iter().copied(), scale);
                xc += dots[word];
                cc += self.squares[word];
            }
            let solved = xc * inverse(cc);
            if solved > 0.0 && solved * xc > best.gain {
                best = Fit { scale: solved, gain: solved * xc };
            }
            scale *= step;
        }
        best
    }

    /// The word nearest to `x / scale`, and its gain.
    pub fn nearest(&self, x: &[f32; N], scale: f32) -> (usize, f32) {
        let (word, gain) = self.best(self.words.iter().map(|word| dot(x, word)), scale);
        (word, 2.0 * scale * gain)
    }

    /// The first word whose gain is largest, and the gain by `2 scale`.
    fn best(&self, dots: impl Iterator<Item = f32>, scale: f32) -> (usize, f32) {
        let gains = dots.zip(&self.squares).map(|(dot, square)| dot - 0.5 * scale * square);
        gains.enumerate().fold((0, f32::NEG_INFINITY), |best, (i, gain)| if gain > best.1 { (i, gain) } else { best })
    }
}

fn dot<const N: usize>(a: &[f32; N], b: &[f32; N]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Non-negative scales as `(2 s + 1) * unit * d`, `s` at most `top`.
pub(super) struct OddScales<const S: usize> {
    pub d: Half,
    pub scales: [u8; S],
    /// The scales as they will be decoded.
    pub exact: [f32; S],
}

impl<const S: usize> OddScales<S> {
    pub fn new(wanted: [f32; S], unit: f32, top: u8) -> Self {
        let largest = wanted.iter().fold(0.0f32, |max, &scale| max.max(scale));
        let d = narrow(largest / (unit * f32::from(2 * top + 1)));
        let step = widen(d) * unit;
        let code =
            |scale: f32| ((scale * inverse(step) - 1.0) / 2.0).round_ties_even().clamp(0.0, f32::from(top)) as u8;
        let scales = wanted.map(code);
        OddScales { d, scales, exact: scales.map(|s| f32::from(2 * s + 1) * step) }
    }
}

/// Eight numbers as signs, one bit each, and magnitudes. Where the number of signs has to be `even`, the smallest number
/// takes the wrong one and has a negative magnitude.
pub(super) fn signs(x: &[f32; 8], even: bool) -> (u8, [f32; 8]) {
    let mut signs = (0..8).fold(0u8, |signs, i| signs | u8::from(x[i] < 0.0) << i);
    let mut magnitudes = x.map(f32::abs);
    if even && signs.count_ones() % 2 == 1 {
        let smallest = (1..8).fold(0, |least, i| if magnitudes[i] < magnitudes[least] { i } else { least });
        signs ^= 1 << smallest;
        magnitudes[smallest] = -magnitudes[smallest];
    }
    (signs, magnitudes)
}

/// [`signs`] of every eight weights of a block.
pub(super) fn block_signs(x: &[f32], even: bool) -> ([u8; SUPER / 8], [[f32; 8]; SUPER / 8]) {
    let octets: [(u8, [f32; 8]); SUPER / 8] =
        std::array::from_fn(|i| signs(x.as_chunks().0.get(i).expect("a block of 256"), even));
    (octets.map(|octet| octet.0), octets.map(|octet| octet.1))
}

/// What XXS formats store for 32 weights: four times seven signs and, on top, the scale.
pub(super) fn signs_and_scale(signs: &[u8], scale: u8) -> [u8; 4] {
    let signs = signs.iter().enumerate().fold(0, |all, (i, &signs)| all | u32::from(signs & 127) << (7 * i));
    (signs | u32::from(scale) << 28).to_le_bytes()
}

/// Eight signs of which seven are stored: their number is even.
pub(super) fn even_signs(seven: u32) -> u8 {
    let signs = seven as u8 & 127;
    signs | (signs.count_ones() as u8 & 1) << 7
}

/// Eight levels, those negated whose bit is set.
pub(super) fn negate(levels: [i8; 8], signs: u8) -> [i8; 8] {
    std::array::from_fn(|i| if signs >> i & 1 == 1 { -levels[i] } else { levels[i] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_times_a_scale_is_found() {
        let words = Words::of(&super::super::codebook::IQ2_XS);
        for (i, scale) in [(0, 1.0f32), (17, 0.01), (511, 300.0), (202, 7.5)] {
            let x = words.words[i].map(|v| v * scale);
            let fit = words.fit(&[x]);
            assert!((fit.scale / scale - 1.0).abs() < 1e-5 || i == 0, "word {i}: {} for {scale}", fit.scale);
            assert_eq!(words.nearest(&x, scale).0, i);
        }
    }

    #[test]
    fn signs_come_back_and_are_even_at_the_least_cost() {
        let x = [1.0, -2.0, 3.0, -0.5, 5.0, -6.0, 7.0, 8.0];
        let (odd, magnitudes) = signs(&x, false);
        assert_eq!((odd, magnitudes[3]), (0b0010_1010, 0.5));
        let (even, magnitudes) = signs(&x, true);
        assert_eq!((even, magnitudes[3]), (0b0010_0010, -0.5));
        assert_eq!(even_signs(u32::from(even & 127)), even);
        assert_eq!(negate([1; 8], 0b1000_0001), [-1, 1, 1, 1, 1, 1, 1, -1]);
    }
}
