//! Activations made ready for a linear: int8 in groups of 32 for quantised weights, f32 for float ones, in tiles of
//! columns.
//!
//! A **column tile** is a few consecutive tokens that go through a panel together. The tokens of a batch are split into
//! as few tiles as the tier allows, of equal width within one, and everything a microkernel reads lies in the order it
//! reads it: `[group][column]`. Which tile a token is in changes nothing in its arithmetic.
//!
//! For quantised panels a token is as many neighbouring columns as its activations have **terms** (`Numerics::terms`), so
//! that microkernels need not know of them; for float panels it is one column.
//!
//! Few tokens (a decode step) are made ready by every thread for itself, in the region that multiplies: nobody waits for
//! anybody. Many are shared out in a region of their own.
//!
//! Next to the quants lie what a group's zero point and minimum will be multiplied by, for each kind of format that the
//! weight has, so that the inner loop need not: `-zero_point * sum(quants)`, an exact integer which starts the dot product, and
//! `scale * sum(quants)`, for groups of 32 and for their halves.

mod tile;

use std::ops::Range;

use bytemuck::Zeroable;
use llama_core::Result;
use llama_core::backend::Numerics;
use llama_core::numerics::{GROUP, Scaling};

use crate::arch::linear::{Acts, LinearKernels};
use crate::buffer::Buffer;
use crate::kernels::VectorKernels;
use crate::threads::{Disjoint, Threads};
use crate::weight::Weight;
use crate::weight::pack::{Pack, ZEROS};

#[cfg(target_arch = "x86_64")]
pub(crate) use tile::QuantGroup;
pub use tile::QuantTile;

/// Columns of activations that are interleaved at a time.
const NEAR: usize = 64;

/// Tokens that every thread makes ready for itself, redundantly: for so few that takes no longer than the threads would
/// wait for one another.
const FEW: usize = 4;

/// Room for the activations of any linear of up to so many tokens of up to so many columns. Allocated once.
pub struct LinearScratch {
    numerics: Numerics,
    /// Of many tokens: tiles are shared out, then everybody reads all. Of few, the caller's own.
    all: Activations,
    /// Of few, `[workers]`.
    own: Vec<Own>,
}

/// One worker's room for few tokens.
struct Own {
    /// `[FEW][cols]`, where rows are normed.
    rows: Buffer<f32>,
    acts: Activations,
}

/// What a linear multiplies: rows of `x [tokens, in]`, normed first where there is a norm.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// The rows.
    pub x: &'a [f32],
    /// How they are normed.
    pub norm: Option<RowNorm<'a>>,
}

/// The norm of a row.
#[derive(Clone, Copy)]
pub struct RowNorm<'a> {
    /// The inner loop.
    pub kernels: &'a VectorKernels,
    /// `[in]`.
    pub gain: &'a [f32],
    /// Added to the mean of squares.
    pub eps: f32,
}

impl<'a> Input<'a> {
    /// Rows as they are.
    pub fn plain(x: &'a [f32]) -> Self {
        Input { x, norm: None }
    }

    /// The elements `range`, whole rows, which are normed into `room`.
    fn rows<'b>(&'b self, range: Range<usize>, room: &'b mut [f32]) -> &'b [f32] {
        let x = &self.x[range];
        let Some(RowNorm { kernels, gain, eps }) = self.norm else { return x };
        for (out, x) in room.chunks_exact_mut(gain.len()).zip(x.chunks_exact(gain.len())) {
            kernels.rms_norm(out, x, gain, eps);
        }
        room
    }
}

/// Activations in the forms that a weight's panels read.
pub struct Activations {
    scaling: Scaling,
    /// Tokens times columns of a row.
    capacity: usize,
    tiles: Tiles,
    cols: usize,
    /// `[tile][k][column]`.
    floats: Buffer<f32>,
    /// `[tile][group][column]`, four quants in each i32.
    quants: Buffer<[i32; 8]>,
    /// `[tile][group][column]`.
    scales: Buffer<f32>,
    /// `[tile]`, see [`Acts::powers`].
    powers: Buffer<bool>,
    /// For each of [`ZEROS`]: `[tile][group][sub-block][column]`.
    zeros: [Buffer<i32>; ZEROS.len()],
    /// For one and for two sub-blocks: `[tile][group][sub-block][column]`.
    sums: [Buffer<f32>; 2],
}

/// How tokens are split into column tiles.
#[derive(Debug, Clone, Copy)]
pub struct Tiles {
    tokens: usize,
    /// Columns of a token.
    terms: usize,
    count: usize,
}

impl Tiles {
    /// As few tiles as the tier's `kernels` allow, where each token is `terms` columns.
    pub fn of(tokens: usize, terms: usize, kernels: &LinearKernels) -> Tiles {
        Tiles { tokens, terms, count: tokens.div_ceil(kernels.columns() / terms) }
    }

    /// Columns of all tokens.
    pub fn columns(self) -> usize {
        self.tokens * self.terms
    }

    /// Columns of a token for panels packed as `pack`.
    pub fn terms(self, pack: Pack) -> usize {
        if pack.is_float() { 1 } else { self.terms }
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
    /// Room for `tokens` rows of `widest` columns, for a team of `threads`, computed with as `numerics` says.
    pub fn new(tokens: usize, widest: usize, threads: usize, numerics: Numerics) -> Result<LinearScratch> {
        let few = tokens.min(FEW);
        let acts = |tokens| Activations::new(tokens, widest, numerics);
        let own = || Ok(Own { rows: buffer(few.saturating_mul(widest))?, acts: acts(few)? });
        Ok(LinearScratch { numerics, all: acts(tokens)?, own: (1..threads).map(|_| own()).collect::<Result<_>>()? })
    }

    /// Bytes of [`LinearScratch::new`].
    pub fn bytes(tokens: usize, widest: usize, threads: usize, numerics: Numerics) -> u64 {
        let few = tokens.min(FEW);
        let acts = |tokens| Activations::bytes(tokens, widest, numerics);
        let rows = Buffer::<f32>::bytes((few as u64).saturating_mul(widest as u64));
        let own = acts(few).saturating_add(rows).saturating_add(size_of::<Own>() as u64);
        acts(tokens).saturating_add(own.saturating_mul(threads.saturating_sub(1) as u64))
    }

    /// How `tokens` rows that `w` multiplies are split. Terms are for quantised weights.
    pub fn tiles(&self, kernels: &LinearKernels, tokens: usize, w: &Weight) -> Tiles {
        let floats = w.segments().iter().all(|segment| segment.pack().is_float());
        Tiles::of(tokens, if floats { 1 } else { self.numerics.terms() }, kernels)
    }

    /// Runs `task(i, activations)` for every `i` in `0 .. tasks` on the team, with `input` in the forms that `w` needs.
    /// Rows are normed in `room`, as long as they are.
    ///
    /// # Panics
    /// If there are not `tokens` rows of `w.cols()`, or more than there is room for.
    pub fn run(
        &mut self,
        kernels: &LinearKernels,
        threads: &Threads,
        (input, room): (Input<'_>, &mut [f32]),
        w: &Weight,
        tasks: usize,
        task: &(dyn Fn(usize, &Activations) + Sync),
    ) {
        let tiles = self.tiles(kernels, input.x.len() / w.cols(), w);
        if tiles.count > 1 || tiles.tokens > FEW {
            self.all.take(kernels, threads, (input, room), tiles, w);
            let all = &self.all;
            return threads.for_each(tasks, &|i| task(i, all));
        }
        let LinearScratch { all, own, .. } = self;
        assert!(threads.count() <= own.len() + 1, "{} threads, room for {} workers", threads.count(), own.len());
        let (len, normed) = (input.x.len(), if input.norm.is_some() { input.x.len() } else { 0 });
        let (all, own, room) = (Disjoint::new(std::slice::from_mut(all)), Disjoint::new(own), Disjoint::new(room));
        threads.share(tasks, &|thread, tasks| {
            let mut tasks = tasks.peekable();
            // Who comes when everything is handed out need not make anything ready.
            if tasks.peek().is_none() {
                return;
            }
            // SAFETY: no two threads of a region have the same number, and each is called once; 0 is the caller.
            let (rows, acts) = unsafe {
                match thread.checked_sub(1) {
                    None => (room.part(0..normed), &mut all.part(0..1)[0]),
                    Some(worker) => {
                        let Own { rows, acts } = &mut own.part(worker..worker + 1)[0];
                        (&mut rows[..normed], acts)
                    }
                }
            };
            let x = input.rows(0..len, rows);
            let writer = acts.open(tiles, w);
            // SAFETY: this thread's activations, of one tile, which is written once.
            unsafe { writer.write(kernels, 0, x) };
            tasks.for_each(|i| task(i, acts));
        });
    }
}

impl Activations {
    fn new(tokens: usize, widest: usize, numerics: Numerics) -> Result<Activations> {
        let capacity = tokens.saturating_mul(widest);
        let groups = tokens.saturating_mul(numerics.terms()).saturating_mul(widest.div_ceil(GROUP));
        Ok(Activations {
            scaling: numerics.scaling(),
            capacity,
            tiles: Tiles { tokens: 0, terms: 1, count: 0 },
            cols: 0,
            floats: buffer(capacity)?,
            quants: buffer(groups)?,
            scales: buffer(groups)?,
            powers: buffer(tokens)?,
            zeros: [
                buffer(groups * ZEROS[0].1)?,
                buffer(groups * ZEROS[1].1)?,
                buffer(groups * ZEROS[2].1)?,
                buffer(groups * ZEROS[3].1)?,
                buffer(groups * ZEROS[4].1)?,
                buffer(groups * ZEROS[5].1)?,
            ],
            sums: [buffer(groups)?, buffer(2 * groups)?],
        })
    }

    fn bytes(tokens: usize, widest: usize, numerics: Numerics) -> u64 {
        let columns = (tokens as u64).saturating_mul(numerics.terms() as u64);
        let groups = columns.saturating_mul(widest.div_ceil(GROUP) as u64);
        let zeros = ZEROS.iter().map(|&(_, subs)| Buffer::<i32>::bytes(groups.saturating_mul(subs as u64)));
        let rest = [
            Buffer::<f32>::bytes((tokens as u64).saturating_mul(widest as u64)),
            Buffer::<bool>::bytes(tokens as u64),
            Buffer::<[i32; 8]>::bytes(groups),
            Buffer::<f32>::bytes(groups),
            Buffer::<f32>::bytes(groups),
            Buffer::<f32>::bytes(groups.saturating_mul(2)),
        ];
        zeros.chain(rest).fold(0, u64::saturating_add)
    }

    /// Takes over `input`, a task a tile.
    fn take(
        &mut self,
        kernels: &LinearKernels,
        threads: &Threads,
        (input, room): (Input<'_>, &mut [f32]),
        tiles: Tiles,
        w: &Weight,
    ) {
        let writer = self.open(tiles, w);
        let room = Disjoint::new(room);
        threads.for_each(tiles.count(), &|i| {
            let tokens = tiles.tokens(i);
            let range = tokens.start * w.cols()..tokens.end * w.cols();
            // SAFETY: the tokens of two tiles do not overlap, and no task runs twice.
            let room = unsafe { room.part(if input.norm.is_some() { range.clone() } else { 0..0 }) };
            // SAFETY: as above.
            unsafe { writer.write(kernels, i, input.rows(range, room)) };
        });
    }

    /// Makes room for tiles of rows that `w` multiplies.
    fn open(&mut self, tiles: Tiles, w: &Weight) -> Writer<'_> {
        let len = tiles.tokens * w.cols();
        assert!(len <= self.capacity, "[{}, {}] activations, room for {}", tiles.tokens, w.cols(), self.capacity);
        (self.tiles, self.cols) = (tiles, w.cols());
        Writer {
            tiles,
            scaling: self.scaling,
            cols: w.cols(),
            reads: Reads::of(w),
            floats: Disjoint::new(&mut self.floats),
            quants: Disjoint::new(&mut self.quants),
            scales: Disjoint::new(&mut self.scales),
            powers: Disjoint::new(&mut self.powers),
            zeros: self.zeros.each_mut().map(|zeros| Disjoint::new(zeros)),
            sums: self.sums.each_mut().map(|sums| Disjoint::new(sums)),
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
        let (terms, row) = (self.tiles.terms, self.tiles.terms * self.cols / GROUP);
        let groups = tokens.start * row..tokens.end * row;
        let subs = groups.start * pack.subs()..groups.end * pack.subs();
        Acts {
            columns: tokens.len() * terms,
            floats: &[],
            quants: &self.quants[groups.clone()],
            scales: &self.scales[groups],
            powers: self.powers[i],
            zeros: pack.zero().map_or(&[], |zero| &self.zeros[zero][subs.clone()]),
            sums: if pack.has_min() { &self.sums[pack.subs() - 1][subs] } else { &[] },
        }
    }
}

/// What a weight's panels read of activations.
#[derive(Clone, Copy)]
struct Reads {
    floats: bool,
    quants: bool,
    zeros: [bool; ZEROS.len()],
    sums: [bool; 2],
}

impl Reads {
    fn of(w: &Weight) -> Reads {
        let any = |reads: &dyn Fn(Pack) -> bool| w.segments().iter().any(|segment| reads(segment.pack()));
        Reads {
            floats: any(&Pack::is_float),
            quants: any(&|pack| !pack.is_float()),
            zeros: std::array::from_fn(|z| any(&|pack| pack.zero() == Some(z))),
            sums: [1, 2].map(|subs| any(&|pack| pack.has_min() && pack.subs() == subs)),
        }
    }
}

/// [`Activations`] to be written tile by tile.
struct Writer<'a> {
    tiles: Tiles,
    scaling: Scaling,
    cols: usize,
    reads: Reads,
    floats: Disjoint<'a, f32>,
    quants: Disjoint<'a, [i32; 8]>,
    scales: Disjoint<'a, f32>,
    powers: Disjoint<'a, bool>,
    zeros: [Disjoint<'a, i32>; ZEROS.len()],
    sums: [Disjoint<'a, f32>; 2],
}

impl Writer<'_> {
    /// Writes tile `i` of rows `x`.
    ///
    /// # Safety
    /// Nobody else writes this tile meanwhile.
    unsafe fn write(&self, kernels: &LinearKernels, i: usize, x: &[f32]) {
        let (tokens, terms, reads) = (self.tiles.tokens(i), self.tiles.terms, self.reads);
        assert_eq!(x.len(), tokens.len() * self.cols, "activations [{}, {}]", tokens.len(), self.cols);
        if reads.floats {
            // SAFETY: the tokens of two tiles do not overlap, and the caller promises that nobody else has this one.
            let out = unsafe { self.floats.part(tokens.start * self.cols..tokens.end * self.cols) };
            interleave(x, tokens.len(), out);
        }
        if !reads.quants {
            return;
        }
        let row = terms * self.cols / GROUP;
        let part = |subs: usize| subs * tokens.start * row..subs * tokens.end * row;
        let part_if = |read: bool, subs: usize| if read { part(subs) } else { 0..0 };
        // SAFETY: as above.
        let out = unsafe {
            QuantTile {
                columns: tokens.len() * terms,
                terms,
                scaling: self.scaling,
                zero_pairs: kernels.zero_pairs(),
                quants: self.quants.part(part(1)),
                scales: self.scales.part(part(1)),
                powers: &mut self.powers.part(i..i + 1)[0],
                zeros: std::array::from_fn(|z| self.zeros[z].part(part_if(reads.zeros[z], ZEROS[z].1))),
                sums: std::array::from_fn(|s| self.sums[s].part(part_if(reads.sums[s], s + 1))),
            }
        };
        kernels.quantise(x, out);
    }
}

/// `[column][k]` to `[k][column]`, so few `k` at a time that what is written stays in the first-level cache.
fn interleave(x: &[f32], columns: usize, out: &mut [f32]) {
    let cols = x.len() / columns;
    for (i, out) in out.chunks_mut(NEAR * columns).enumerate() {
        for c in 0..columns {
            let row = &x[c * cols + i * NEAR..][..out.len() / columns];
            out.iter_mut().skip(c).step_by(columns).zip(row).for_each(|(out, x)| *out = *x);
        }
    }
}

fn buffer<T: Zeroable>(len: usize) -> Result<Buffer<T>> {
    Buffer::zeroed(len, "activations of a linear", "the tokens of a step")
}
