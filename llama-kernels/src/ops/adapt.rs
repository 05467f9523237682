//! What adapters add to the product of a weight: `out += b (a x)`, for the rows that have one.

use llama_core::batch::AdapterRun;

use super::linear::{Output, run};
use crate::arch::linear::LinearKernels;
use crate::quant::{Input, LinearScratch};
use crate::threads::Threads;
use crate::weight::Adapter;

/// Adds to `out [tokens, out]` what the adapters of `runs` make of `x [tokens, in]`. `low` has room for all ranks of a run's
/// tokens.
///
/// # Panics
/// If the slices have other lengths, or `scratch` is too small.
pub fn adapt(
    kernels: &LinearKernels,
    threads: &Threads,
    scratch: &mut LinearScratch,
    (out, low, x): (&mut [f32], &mut [f32], &[f32]),
    adapters: &[Option<Adapter>],
    runs: &[AdapterRun],
) {
    for AdapterRun { adapter, rows } in runs {
        let Some(adapter) = &adapters[*adapter as usize] else { continue };
        let (down, tokens) = (adapter.down(), rows.len());
        let (mut low, x) = (&mut low[..tokens * down.rows()], &x[rows.start * down.cols()..rows.end * down.cols()]);
        run(kernels, threads, scratch, (Input::plain(x), &mut []), down, Output::WriteSegments(low));
        for up in adapter.up() {
            let own;
            (own, low) = low.split_at_mut(tokens * up.cols());
            let out = &mut out[rows.start * up.rows()..rows.end * up.rows()];
            run(kernels, threads, scratch, (Input::plain(own), &mut []), up, Output::Add(out));
        }
    }
}
