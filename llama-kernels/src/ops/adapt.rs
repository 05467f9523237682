//! What adapters add to the product of a weight: `out += b (a x)`, for the rows that have one.
//!
//! Thin matrices are weights of floats, and a run of rows is a shorter batch for the linear that there is. Only gate and up, the
//! widest product, never come to memory: what is added to them is added panel by panel, before SwiGLU takes them.

use std::ops::Range;

use llama_core::batch::AdapterRun;
use llama_core::numerics::LANES;

use super::linear::{Column, Output, run};
use crate::arch::linear::LinearKernels;
use crate::kernels::VectorKernels;
use crate::quant::{Input, LinearScratch};
use crate::threads::Threads;
use crate::weight::pack::MAX_PANEL_ROWS;
use crate::weight::{Adapter, Weight};

/// Which rows have which adapter, and room `[tokens, cols]` for what `a` makes of them: a run's lies where its rows are, part after
/// part.
pub struct Low<'a> {
    /// At each adapter's number.
    pub adapters: &'a [Option<Adapter>],
    /// Rows that have one.
    pub runs: &'a [AdapterRun],
    /// The room.
    pub low: &'a mut [f32],
    /// At least as many as an adapter has ranks.
    pub cols: usize,
}

/// The same when it is filled.
pub struct Adapted<'a> {
    adapters: &'a [Option<Adapter>],
    runs: &'a [AdapterRun],
    low: &'a [f32],
    cols: usize,
}

impl<'a> Low<'a> {
    /// Multiplies the rows of `x [tokens, in]` that have an adapter by its `a`.
    ///
    /// # Panics
    /// If the slices have other lengths, or `scratch` is too small.
    pub fn fill(
        self,
        kernels: &LinearKernels,
        threads: &Threads,
        scratch: &mut LinearScratch,
        x: &[f32],
    ) -> Adapted<'a> {
        let Low { adapters, runs, low, cols } = self;
        for AdapterRun { adapter, rows } in runs {
            let Some(adapter) = adapters[*adapter as usize].as_ref().filter(|adapter| adapter.adds()) else { continue };
            let down = adapter.down();
            let low = &mut low[rows.start * cols..][..rows.len() * down.rows()];
            let x = &x[rows.start * down.cols()..rows.end * down.cols()];
            run(kernels, threads, scratch, (Input::plain(x), &mut []), down, Output::WriteSegments(low));
        }
        Adapted { adapters, runs, low, cols }
    }
}

impl Adapted<'_> {
    /// Adds to `out [tokens, out]`.
    ///
    /// # Panics
    /// If the slice has another length, or `scratch` is too small.
    pub fn add_to(&self, kernels: &LinearKernels, threads: &Threads, scratch: &mut LinearScratch, out: &mut [f32]) {
        for AdapterRun { adapter, rows } in self.runs {
            let Some(adapter) = &self.adapters[*adapter as usize] else { continue };
            let mut low = &self.low[rows.start * self.cols..];
            for up in adapter.up() {
                let own;
                (own, low) = low.split_at(rows.len() * up.cols());
                let out = &mut out[rows.start * up.rows()..rows.end * up.rows()];
                run(kernels, threads, scratch, (Input::plain(own), &mut []), up, Output::Add(out));
            }
        }
    }

    /// Adds to what a panel made of `tokens`: to `rows` of a weight, which are some of the part that begins with row `first`. A
    /// token is `terms` columns, and the first of them has its numbers.
    pub(super) fn add(
        &self,
        kernels: &VectorKernels,
        tokens: Range<usize>,
        (first, rows): (usize, Range<usize>),
        columns: &mut [Column],
        terms: usize,
    ) {
        for run in self.runs {
            let own = tokens.start.max(run.rows.start)..tokens.end.min(run.rows.end);
            let adapter = self.adapters[run.adapter as usize].as_ref().filter(|_| !own.is_empty());
            let Some((before, up)) = adapter.and_then(|adapter| adapter.part(first)) else { continue };
            let low = &self.low[run.rows.start * self.cols + run.rows.len() * before..];
            for row in rows.clone().step_by(LANES) {
                let (ranks, lane) = ranks_of(up, row - first);
                for token in own.clone() {
                    let low = &low[(token - run.rows.start) * up.cols()..][..up.cols()];
                    let column = columns[(token - tokens.start) * terms][row - rows.start..].first_chunk_mut();
                    kernels.add_low_rank(column.expect("whole lanes"), low, ranks, lane);
                }
            }
        }
    }
}

/// The panel of `b` that has row `row` of its part, rank by rank, and which of the panel's rows that is.
fn ranks_of(up: &Weight, row: usize) -> (&[[f32; MAX_PANEL_ROWS]], usize) {
    let (_, panel) = up.segments()[0].panel(row / MAX_PANEL_ROWS);
    (bytemuck::cast_slice::<u8, f32>(panel).as_chunks().0, row % MAX_PANEL_ROWS)
}
