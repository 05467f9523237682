//! `x w^T + bias`, for one token and for hundreds, by the same microkernels, and what is done before and after it in the
//! same region: the norm of its input, and the addition to the residual or SwiGLU of its output.
//!
//! Work is split over panels only: a task takes a run of consecutive panels through all column tiles. Decoding, that is
//! one stream of memory per thread; with many tokens a task's panels are few enough to stay in the second-level cache
//! while every tile passes by, so that weights come from memory once. Nothing that a number depends on is split.
//!
//! Where unpacking a panel costs more than an instruction or two for a column, the order is turned around: a panel is
//! unpacked once for a **pass** of many columns, and then the next.
//!
//! Where activations have two terms, each is a column, and what a panel made of a token's columns is added up before
//! anything else is done with it.
//!
//! With SwiGLU panels of gate and of up take turns, so that neither half of a number ever leaves the cache of its thread.

use std::ops::Range;

use super::adapt::Adapted;
use crate::arch::linear::{Acts, LinearKernels, MAX_COLUMNS, PASS, Room};
use crate::kernels::VectorKernels;
use crate::quant::{Activations, Input, LinearScratch, Tiles};
use crate::threads::{Disjoint, Threads};
use crate::weight::pack::{MAX_PANEL_ROWS, Pack};
use crate::weight::{Segment, Weight};

/// Bytes of weights that a task goes through with many tokens: a share of the second-level cache.
const CACHED_BYTES: usize = 384 << 10;
/// Bytes of weights of a task of one column tile: enough to hide the cost of handing it out.
const STREAMED_BYTES: usize = 256 << 10;

/// `out = w x + bias`. `x [tokens, in]`, `out [tokens, out]`.
///
/// # Panics
/// If the slices have other lengths, or `scratch` is too small.
pub fn linear(
    kernels: &LinearKernels,
    threads: &Threads,
    scratch: &mut LinearScratch,
    out: &mut [f32],
    x: &[f32],
    tokens: usize,
    w: &Weight,
) {
    assert_eq!(x.len(), tokens * w.cols(), "input [{tokens}, {}]", w.cols());
    run(kernels, threads, scratch, (Input::plain(x), &mut []), w, Output::Write(out));
}

/// What becomes of a product.
pub enum Output<'a> {
    /// `out = product`, `[tokens, out]`.
    Write(&'a mut [f32]),
    /// `out += product`, `[tokens, out]`.
    Add(&'a mut [f32]),
    /// As `Write`, segment after segment: of each its `[tokens, rows]`.
    WriteSegments(&'a mut [f32]),
    /// `act = silu(gate) * up`, `act [tokens, ffn]`, of gate and up that are the two segments of a weight which is
    /// [`paired`].
    Swiglu {
        /// The inner loop.
        kernels: &'a VectorKernels,
        /// `[tokens, ffn]`.
        act: &'a mut [f32],
        /// What adapters add to gate and up before.
        adapted: Option<Adapted<'a>>,
    },
}

/// Whether a weight is gate and up in whole panels, row for row, so that SwiGLU can follow its panels.
pub fn paired(w: &Weight) -> bool {
    matches!(w.segments(), [gate, up]
        if gate.pack().rows() == up.pack().rows() && gate.panels() == up.panels() && gate.row_count() == up.row_count())
}

/// A linear with what is done before and after it. The input's `room` is as long as it is where rows are normed.
///
/// # Panics
/// If the slices have other lengths, or `scratch` is too small.
pub fn run(
    kernels: &LinearKernels,
    threads: &Threads,
    scratch: &mut LinearScratch,
    input: (Input<'_>, &mut [f32]),
    w: &Weight,
    output: Output<'_>,
) {
    let tokens = input.0.x.len() / w.cols();
    if tokens == 0 {
        return;
    }
    let (panels, bytes) = size(w);
    let (sink, panels) = match output {
        Output::Write(out) => (Sink::Write(whole(out, tokens, w.rows())), panels),
        Output::Add(out) => (Sink::Add(whole(out, tokens, w.rows())), panels),
        Output::WriteSegments(out) => (Sink::WriteSegments { tokens, out: whole(out, tokens, w.rows()) }, panels),
        Output::Swiglu { kernels, act, adapted } => {
            assert!(paired(w), "gate and up of other rows");
            (Sink::Swiglu { kernels, act: whole(act, tokens, w.rows() / 2), adapted }, panels / 2)
        }
    };
    let tiles = scratch.tiles(kernels, tokens, w);
    let tasks = tasks(bytes, tiles.count(), threads.count()).min(panels);
    let job = Job { kernels, w, sink };
    let task = |i, acts: &Activations| job.run(i * panels / tasks..(i + 1) * panels / tasks, acts);
    scratch.run(kernels, threads, input, w, tasks, &task);
}

fn whole(out: &mut [f32], tokens: usize, rows: usize) -> Disjoint<'_, f32> {
    assert_eq!(out.len(), tokens * rows, "output [{tokens}, {rows}]");
    Disjoint::new(out)
}

/// Panels and bytes.
fn size(w: &Weight) -> (usize, usize) {
    let add = |(panels, bytes), s: &Segment| (panels + s.panels(), bytes + s.panels() * s.panel_bytes());
    w.segments().iter().fold((0, 0), add)
}

/// How many tasks to make of so many bytes: a multiple of the threads, unless there is too little to share.
fn tasks(bytes: usize, tiles: usize, threads: usize) -> usize {
    let share = if tiles > 1 { CACHED_BYTES } else { STREAMED_BYTES };
    let wanted = bytes.div_ceil(share);
    if threads == 1 && tiles == 1 { 1 } else { wanted.next_multiple_of(threads) }
}

/// Rows of a panel, for one column of activations.
pub(super) type Column = [f32; MAX_PANEL_ROWS];

struct Job<'a> {
    kernels: &'a LinearKernels,
    w: &'a Weight,
    sink: Sink<'a>,
}

/// An [`Output`] that tasks share.
enum Sink<'a> {
    Write(Disjoint<'a, f32>),
    Add(Disjoint<'a, f32>),
    WriteSegments { tokens: usize, out: Disjoint<'a, f32> },
    Swiglu { kernels: &'a VectorKernels, act: Disjoint<'a, f32>, adapted: Option<Adapted<'a>> },
}

impl Job<'_> {
    /// All tokens through `panels`, counted over all segments; of both segments where they are paired.
    fn run(&self, panels: Range<usize>, acts: &Activations) {
        let packs = self.w.segments().iter().map(Segment::pack);
        if self.kernels.makes_passes(acts.tiles().columns(), packs) {
            self.passes(panels, acts);
        } else {
            self.tiles(panels, acts);
        }
    }

    /// One column tile after the other.
    fn tiles(&self, panels: Range<usize>, all: &Activations) {
        let mut room = [[[0.0; MAX_PANEL_ROWS]; MAX_COLUMNS]; 2];
        let mut acts = Acts::default();
        for i in 0..all.tiles().count() {
            let mut of = None;
            self.each(&panels, (all.tiles(), i..i + 1), &mut room, |pack, panel, tile| {
                if of.replace(pack) != Some(pack) {
                    acts = all.acts(i, pack);
                }
                self.kernels.run(pack, panel, acts, tile);
            });
        }
    }

    /// Each panel with as many column tiles as a pass takes, before the next.
    fn passes(&self, panels: Range<usize>, all: &Activations) {
        let (mut room, mut unpacked) = ([[[0.0; MAX_PANEL_ROWS]; PASS + MAX_COLUMNS]; 2], Room::new());
        let mut acts = [Acts::default(); PASS];
        let (count, most) = (all.tiles().count(), PASS / self.kernels.columns());
        for first in (0..count).step_by(most) {
            let pass = first..count.min(first + most);
            let (acts, mut of) = (&mut acts[..pass.len()], None);
            self.each(&panels, (all.tiles(), pass.clone()), &mut room, |pack, panel, columns| {
                if of.replace(pack) != Some(pack) {
                    acts.iter_mut().zip(pass.clone()).for_each(|(acts, i)| *acts = all.acts(i, pack));
                }
                self.kernels.run_pass(pack, panel, acts, columns, &mut unpacked);
            });
        }
    }

    /// Every one of `panels` through `multiply`, with what follows it: where segments are paired, panels of gate and of up
    /// in turn.
    fn each<const N: usize>(
        &self,
        panels: &Range<usize>,
        (tiles, own): (Tiles, Range<usize>),
        [first, second]: &mut [[Column; N]; 2],
        mut multiply: impl FnMut(Pack, &[u8], &mut [Column; N]),
    ) {
        let tokens = tiles.tokens(own.start).start..tiles.tokens(own.end - 1).end;
        let mut product = |segment: &Segment, p: usize, columns: &mut [Column; N]| {
            let terms = tiles.terms(segment.pack());
            let (pack, panel) = segment.panel(p);
            multiply(pack, panel, columns);
            add_terms(&mut columns[..tokens.len() * terms], terms);
            terms
        };
        if let (Sink::Swiglu { .. }, [gate, up]) = (&self.sink, self.w.segments()) {
            for p in panels.clone() {
                // Those of up are as many: panels of floats have other rows than panels of codes.
                let terms = product(gate, p, first);
                product(up, p, second);
                self.complete(tokens.clone(), (gate, p), first, terms);
                self.complete(tokens.clone(), (up, p), second, terms);
                let columns = [&mut *first, &mut *second].map(|columns| columns.iter_mut().step_by(terms));
                self.gate(tokens.clone(), gate, p, columns);
            }
            return;
        }
        for (segment, own) in self.segments(panels) {
            for p in own {
                let terms = product(segment, p, first);
                self.finish(tokens.clone(), segment, p, first.iter().step_by(terms));
            }
        }
    }

    /// The segments that have some of `panels`, and which of theirs.
    fn segments(&self, panels: &Range<usize>) -> impl Iterator<Item = (&Segment, Range<usize>)> {
        let (start, end, mut first) = (panels.start, panels.end, 0);
        self.w.segments().iter().map(move |segment| {
            let own = start.max(first) - first..end.clamp(first, first + segment.panels()) - first;
            first += segment.panels();
            (segment, own)
        })
    }

    /// Hands over what panel `p` made of `tokens`.
    fn finish<'a>(&self, tokens: Range<usize>, segment: &Segment, p: usize, columns: impl Iterator<Item = &'a Column>) {
        let (rows, bias, all) = (segment.panel_rows(p), segment.panel_bias(p), self.w.rows());
        for (token, column) in tokens.zip(columns) {
            let range = match self.sink {
                Sink::WriteSegments { tokens, .. } => segment.place(tokens, token, &rows),
                _ => token * all + rows.start..token * all + rows.end,
            };
            // SAFETY: tasks have disjoint panels, panels have disjoint rows, and every part ends with this iteration.
            unsafe {
                match &self.sink {
                    Sink::Write(out) | Sink::WriteSegments { out, .. } => put(column, bias, out.part(range)),
                    Sink::Add(out) => add(column, bias, out.part(range)),
                    Sink::Swiglu { .. } => unreachable!("not of one panel"),
                }
            }
        }
    }

    /// Adds to what panel `p` made of `tokens` its biases, and then what adapters do.
    fn complete(&self, tokens: Range<usize>, (segment, p): (&Segment, usize), columns: &mut [Column], terms: usize) {
        let bias = segment.panel_bias(p);
        if !bias.is_empty() {
            let columns = columns.iter_mut().step_by(terms).take(tokens.len());
            columns.for_each(|column| column.iter_mut().zip(bias).for_each(|(x, bias)| *x += bias));
        }
        if let Sink::Swiglu { kernels, adapted: Some(adapted), .. } = &self.sink {
            adapted.add(kernels, tokens, (segment.first_row(), segment.panel_rows(p)), columns, terms);
        }
    }

    /// SwiGLU of what panel `p` of gate and that of up made of `tokens`.
    fn gate<'a>(
        &self,
        tokens: Range<usize>,
        gate: &Segment,
        p: usize,
        [gates, ups]: [impl Iterator<Item = &'a mut Column>; 2],
    ) {
        let Sink::Swiglu { kernels, act, .. } = &self.sink else { unreachable!("gate without up") };
        let (rows, all) = (gate.panel_rows(p), self.w.rows() / 2);
        for ((token, gates), ups) in tokens.zip(gates).zip(ups) {
            // SAFETY: as in `finish`.
            let act = unsafe { act.part(token * all + rows.start..token * all + rows.end) };
            kernels.swiglu(act, &gates[..rows.len()], &ups[..rows.len()]);
        }
    }
}

/// Adds up the terms of every token, neighbouring columns, in the first of them.
fn add_terms(columns: &mut [Column], terms: usize) {
    if terms == 1 {
        return;
    }
    for token in columns.chunks_exact_mut(terms) {
        let [first, others @ ..] = token else { continue };
        for other in others {
            first.iter_mut().zip(other).for_each(|(sum, product)| *sum += *product);
        }
    }
}

/// The first rows of a column, as many as `out` has. Sixteen, as most panels have, are copied without a call.
fn put(column: &Column, bias: &[f32], out: &mut [f32]) {
    match (<&mut [f32; 16]>::try_from(&mut *out), column.first_chunk()) {
        (Ok(out), Some(column)) => *out = *column,
        _ => out.copy_from_slice(&column[..out.len()]),
    }
    out.iter_mut().zip(bias).for_each(|(out, bias)| *out += bias);
}

/// As [`put`], added: the product with its bias first, then the sum.
fn add(column: &Column, bias: &[f32], out: &mut [f32]) {
    if bias.is_empty() {
        out.iter_mut().zip(column).for_each(|(out, product)| *out += product);
    } else {
        out.iter_mut().zip(column).zip(bias).for_each(|((out, product), bias)| *out += product + bias);
    }
}
