//! Activations made ready for a linear: int8 in groups of 32 for quantised weights, f32 for float ones, in tiles of
//! columns.
//!
//! A **column tile** is a few consecutive tokens that go through a panel together. The tokens of a batch are split into
//! as few tiles as the tier allows, of equal width within one, and everything a microkernel reads lies in the order it
//! reads it: `[group][column]`. Which tile a token is in changes nothing in its arithmetic.
//!
//! Next to the quants lie what a group's zero point and minimum will be multiplied by, for every kind of format, so that
//! the inner loop need not: `-zero_point * sum(quants)`, an exact integer which starts the dot product, and
//! `scale * sum(quants)`, for groups of 32 and for their halves.

use std::ops::Range;

use llama_core::numerics::{GROUP, quantize_group};

use crate::arch::linear::{Acts, LinearKernels};
use crate::threads::{Disjoint, Threads};
use crate::weight::Weight;
use crate::weight::pack::{Pack, ZEROS};

/// Activations of up to so many tokens of up to so many columns. Allocated once.
pub struct LinearScratch {
    /// Tokens times columns.
    capacity: usize,
    tiles: Tiles,
    cols: usize,
    /// `[tile][k][column]`.
    floats: Vec<f32>,
    /// `[tile][group][column]`, four quants in each i32.
    quants: Vec<[i32; 8]>,
    /// `[tile][group][column]`.
    scales: Vec<f32>,
    /// For each of [`ZEROS`]: `[tile][group][sub-block][column]`.
    zeros: [Vec<i32>; ZEROS.len()],
    /// For one and for two sub-blocks: `[tile][group][sub-block][column]`.
    sums: [Vec<f32>; 2],
}

/// How tokens are split into column tiles.
#[derive(Debug, Clone, Copy)]
pub struct Tiles {
    tokens: usize,
    count: usize,
}

impl Tiles {
    /// As few tiles as `widest` allows.
    pub fn new(tokens: usize, widest: usize) -> Tiles {
        Tiles { tokens, count: tokens.div_ceil(widest) }
    }

    /// Number of tiles.
    pub fn count(self) -> usize {
        self.count
    }

    /// Tokens of tile `i`.
    pub fn tokens(self, i: usize) -> Range<usize> {
        i * self.tokens / self.count..(i + 1) * self.tokens / self.count
    }
}

impl LinearScratch {
    /// Room for `tokens` rows of `widest` columns.
    pub fn new(tokens: usize, widest: usize) -> LinearScratch {
        let groups = tokens * widest.div_ceil(GROUP);
        LinearScratch {
            capacity: tokens * widest,
            tiles: Tiles::new(0, 1),
            cols: 0,
            floats: vec![0.0; tokens * widest],
            quants: vec![[0; 8]; groups],
            scales: vec![0.0; groups],
            zeros: ZEROS.map(|(_, subs)| vec![0; subs * groups]),
            sums: [vec![0.0; groups], vec![0.0; 2 * groups]],
        }
    }

    /// Bytes of [`LinearScratch::new`].
    pub fn bytes(tokens: usize, widest: usize) -> u64 {
        let group = 32 + 4 + 4 * ZEROS.iter().map(|&(_, subs)| subs as u64).sum::<u64>() + 4 * (1 + 2);
        4 * tokens as u64 * widest as u64 + group * tokens as u64 * widest.div_ceil(GROUP) as u64
    }

    /// Takes over `x [tokens, w.cols()]` in the forms that `w` needs.
    ///
    /// # Panics
    /// If `x` has another length, or is more than there is room for.
    pub fn prepare(&mut self, kernels: &LinearKernels, threads: &Threads, x: &[f32], tokens: usize, w: &Weight) {
        assert_eq!(x.len(), tokens * w.cols(), "activations [{tokens}, {}]", w.cols());
        assert!(x.len() <= self.capacity, "[{tokens}, {}] activations, room for {}", w.cols(), self.capacity);
        (self.tiles, self.cols) = (Tiles::new(tokens, kernels.columns()), w.cols());
        if w.segments().iter().any(|segment| segment.pack().is_float()) {
            self.interleave(threads, x);
        }
        if w.segments().iter().any(|segment| !segment.pack().is_float()) {
            self.quantise(kernels, threads, x);
        }
    }

    /// How the tokens taken over are split.
    pub fn tiles(&self) -> Tiles {
        self.tiles
    }

    /// Tile `i` as panels packed as `pack` need it.
    pub fn acts(&self, i: usize, pack: Pack) -> Acts<'_> {
        let tokens = self.tiles.tokens(i);
        if pack.is_float() {
            let floats = &self.floats[tokens.start * self.cols..tokens.end * self.cols];
            return Acts { columns: tokens.len(), floats, ..Acts::default() };
        }
        let groups = self.groups(&tokens);
        let subs = groups.start * pack.subs()..groups.end * pack.subs();
        Acts {
            columns: tokens.len(),
            floats: &[],
            quants: &self.quants[groups.clone()],
            scales: &self.scales[groups],
            zeros: pack.zero().map_or(&[], |zero| &self.zeros[zero][subs.clone()]),
            sums: if pack.has_min() { &self.sums[pack.subs() - 1][subs] } else { &[] },
        }
    }

    /// Where the groups of a tile's tokens lie.
    fn groups(&self, tokens: &Range<usize>) -> Range<usize> {
        let row = self.cols / GROUP;
        tokens.start * row..tokens.end * row
    }

    fn interleave(&mut self, threads: &Threads, x: &[f32]) {
        let (tiles, cols) = (self.tiles, self.cols);
        let out = Disjoint::new(&mut self.floats);
        threads.for_each(tiles.count(), &|i| {
            let tokens = tiles.tokens(i);
            let range = tokens.start * cols..tokens.end * cols;
            // SAFETY: the tokens of two tiles do not overlap, and no task runs twice.
            let out = unsafe { out.part(range.clone()) };
            interleave(&x[range], tokens.len(), out);
        });
    }

    fn quantise(&mut self, kernels: &LinearKernels, threads: &Threads, x: &[f32]) {
        let (tiles, cols, row) = (self.tiles, self.cols, self.cols / GROUP);
        let (quants, scales) = (Disjoint::new(&mut self.quants), Disjoint::new(&mut self.scales));
        let zeros = self.zeros.each_mut().map(|zeros| Disjoint::new(zeros));
        let sums = self.sums.each_mut().map(|sums| Disjoint::new(sums));
        threads.for_each(tiles.count(), &|i| {
            let tokens = tiles.tokens(i);
            let part = |subs: usize| subs * tokens.start * row..subs * tokens.end * row;
            // SAFETY: the tokens of two tiles do not overlap, and no task runs twice.
            let out = unsafe {
                QuantTile {
                    columns: tokens.len(),
                    quants: quants.part(part(1)),
                    scales: scales.part(part(1)),
                    zeros: std::array::from_fn(|z| zeros[z].part(part(ZEROS[z].1))),
                    sums: std::array::from_fn(|s| sums[s].part(part(s + 1))),
                }
            };
            kernels.quantise(&x[tokens.start * cols..tokens.end * cols], out);
        });
    }
}

/// `[column][k]` to `[k][column]`.
fn interleave(x: &[f32], columns: usize, out: &mut [f32]) {
    let cols = x.len() / columns;
    for (c, row) in x.chunks_exact(cols).enumerate() {
        out.iter_mut().skip(c).step_by(columns).zip(row).for_each(|(out, x)| *out = *x);
    }
}

/// One column tile of [`LinearScratch`], to be written.
pub struct QuantTile<'a> {
    columns: usize,
    quants: &'a mut [[i32; 8]],
    scales: &'a mut [f32],
    zeros: [&'a mut [i32]; ZEROS.len()],
    sums: [&'a mut [f32]; 2],
}

impl QuantTile<'_> {
    /// Quantises `x [columns, k]`. Plain code of one definition: each tier compiles it with its own instructions.
    #[inline(always)]
    pub(crate) fn fill(&mut self, x: &[f32]) {
        let columns = self.columns;
        for (c, row) in x.chunks_exact(x.len() / columns).enumerate() {
            for (g, group) in row.as_chunks::<GROUP>().0.iter().enumerate() {
                let (scale, quants) = quantize_group(group);
                let at = g * columns + c;
                self.scales[at] = scale;
                self.quants[at] = pack_quants(&quants);
                let halves = half_sums(&quants);
                self.put_sums(g, c, scale, halves);
            }
        }
    }

    #[inline(always)]
    fn put_sums(&mut self, g: usize, c: usize, scale: f32, halves: [i32; 2]) {
        let columns = self.columns;
        let whole = halves[0] + halves[1];
        for (zeros, (point, subs)) in self.zeros.iter_mut().zip(ZEROS) {
            if subs == 1 {
                zeros[g * columns + c] = -point * whole;
            } else {
                zeros[2 * g * columns + c] = -point * halves[0];
                zeros[(2 * g + 1) * columns + c] = -point * halves[1];
            }
        }
        self.sums[0][g * columns + c] = scale * whole as f32;
        self.sums[1][2 * g * columns + c] = scale * halves[0] as f32;
        self.sums[1][(2 * g + 1) * columns + c] = scale * halves[1] as f32;
    }
}

#[inline(always)]
fn pack_quants(quants: &[i8; GROUP]) -> [i32; 8] {
    let mut out = [0; 8];
    for (out, q) in out.iter_mut().zip(quants.as_chunks::<4>().0) {
        *out = i32::from_le_bytes(q.map(|q| q as u8));
    }
    out
}

#[inline(always)]
fn half_sums(quants: &[i8; GROUP]) -> [i32; 2] {
    let (low, high) = quants.split_at(GROUP / 2);
    [low.iter().map(|&q| i32::from(q)).sum(), high.iter().map(|&q| i32::from(q)).sum()]
}
