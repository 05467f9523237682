//! One column tile of activations as it is written: quants, scales, and the sums that go with zero points and minima.

use llama_core::numerics::{GROUP, Scaling, quantize_group, remainder};

use crate::weight::pack::ZEROS;

/// 2^-100: the least scale of a tile whose scales are told to be [powers of two](crate::arch::linear::Acts::powers).
const POWERS_MIN: f32 = f32::from_bits(27 << 23);

/// One column tile of [`Activations`](super::Activations), to be written. What no panel will read is empty.
pub struct QuantTile<'a> {
    /// Tokens times terms.
    pub(super) columns: usize,
    /// Columns of a token: 1 or 2.
    pub(super) terms: usize,
    pub(super) scaling: Scaling,
    pub(super) zero_pairs: bool,
    pub(super) quants: &'a mut [[i32; 8]],
    pub(super) scales: &'a mut [f32],
    /// [`Acts::powers`](crate::arch::linear::Acts::powers).
    pub(super) powers: &'a mut bool,
    pub(super) zeros: [&'a mut [i32]; ZEROS.len()],
    pub(super) sums: [&'a mut [f32]; 2],
}

impl QuantTile<'_> {
    /// Quantises `x [tokens, k]` in plain code.
    pub(crate) fn fill(&mut self, x: &[f32]) {
        self.fill_with(x, QuantGroup::of);
    }

    /// Quantises `x [tokens, k]`, each group by `quantise`. Inlined, so that a tier's function is inlined into it.
    #[inline(always)]
    pub(crate) fn fill_with(&mut self, x: &[f32], quantise: impl Fn(&[f32; GROUP], Scaling) -> QuantGroup) {
        let (terms, scaling) = (self.terms, self.scaling);
        for (t, row) in x.chunks_exact(x.len() / (self.columns / terms)).enumerate() {
            for (g, x) in row.as_chunks::<GROUP>().0.iter().enumerate() {
                let first = quantise(x, scaling);
                self.put(g, t * terms, &first);
                if terms == 2 {
                    self.put(g, t * terms + 1, &quantise(&first.left_of(x), scaling));
                }
            }
        }
        let usual = POWERS_MIN..=POWERS_MIN.recip();
        *self.powers = scaling == Scaling::PowerOfTwo && self.scales.iter().all(|scale| usual.contains(scale));
    }

    /// Columns of the tile.
    #[cfg(target_arch = "aarch64")]
    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    /// Brings the quants of every two columns into the order in which they are multiplied eight at a time: two words of
    /// the first, two of the second, and so on. The last of an odd number of columns stays as it is.
    #[cfg(target_arch = "aarch64")]
    pub(crate) fn pair(&mut self) {
        for group in self.quants.chunks_exact_mut(self.columns) {
            for [first, second] in group.as_chunks_mut::<2>().0 {
                let ([a, b, c, d, e, f, g, h], [i, j, k, l, m, n, o, p]) = (*first, *second);
                (*first, *second) = ([a, b, i, j, c, d, k, l], [e, f, m, n, g, h, o, p]);
            }
        }
    }

    /// Group `g` of column `c`.
    #[inline(always)]
    fn put(&mut self, g: usize, c: usize, group: &QuantGroup) {
        let at = g * self.columns + c;
        self.scales[at] = group.scale;
        self.quants[at] = group.quants;
        self.put_sums(g, c, group);
    }

    #[inline(always)]
    fn put_sums(&mut self, g: usize, c: usize, group: &QuantGroup) {
        let columns = self.columns;
        let [low, high] = group.pairs;
        let whole = [low[0] + high[0], low[1] + high[1]];
        let zero_pairs = self.zero_pairs;
        for (zeros, (point, subs)) in self.zeros.iter_mut().zip(ZEROS).filter(|(zeros, _)| !zeros.is_empty()) {
            if subs == 1 {
                zeros[g * columns + c] = zero(point, whole, zero_pairs);
            } else {
                zeros[2 * g * columns + c] = zero(point, low, zero_pairs);
                zeros[(2 * g + 1) * columns + c] = zero(point, high, zero_pairs);
            }
        }
        let sum = |pairs: [i16; 2]| group.scale * f32::from(pairs[0] + pairs[1]);
        let [one, two] = &mut self.sums;
        if !one.is_empty() {
            one[g * columns + c] = sum(whole);
        }
        if !two.is_empty() {
            two[2 * g * columns + c] = sum(low);
            two[(2 * g + 1) * columns + c] = sum(high);
        }
    }
}

/// What takes a zero point off: `-point * sum`, of both numbers together or of each. As two of 16 bits it may wrap only
/// where no kernel reads it: points up to 16 for 32 quants, up to 32 for 16.
#[inline(always)]
fn zero(point: i32, pairs: [i16; 2], apart: bool) -> i32 {
    let [a, b] = pairs.map(|sum| -point * i32::from(sum));
    if apart { a & 0xFFFF | b << 16 } else { a + b }
}

/// A quantised group.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct QuantGroup {
    pub scale: f32,
    /// Four quants in each, lowest byte first.
    pub quants: [i32; 8],
    /// Sums over the first and over the last sixteen quants: of the first and second of every four, and of the others.
    pub pairs: [[i16; 2]; 2],
}

impl QuantGroup {
    /// By the definition.
    fn of(x: &[f32; GROUP], scaling: Scaling) -> QuantGroup {
        let (scale, quants) = quantize_group(x, scaling);
        let mut pairs = [[0; 2]; 2];
        for (i, q) in quants.into_iter().enumerate() {
            pairs[2 * i / GROUP][i % 4 / 2] += i16::from(q);
        }
        QuantGroup { scale, quants: pack_quants(&quants), pairs }
    }

    /// What it leaves of the `x` that it was made of.
    #[inline(always)]
    fn left_of(&self, x: &[f32; GROUP]) -> [f32; GROUP] {
        remainder(x, self.scale, &bytemuck::cast(self.quants.map(i32::to_le)))
    }
}

fn pack_quants(quants: &[i8; GROUP]) -> [i32; 8] {
    let mut out = [0; 8];
    for (out, q) in out.iter_mut().zip(quants.as_chunks::<4>().0) {
        *out = i32::from_le_bytes(q.map(|q| q as u8));
    }
    out
}
