//! Addition and the copy of the rows whose logits are wanted.

use crate::kernels::VectorKernels;
use crate::threads::Threads;

/// Elements of one task: a few microseconds' work, several times what handing it out costs.
pub const GRAIN: usize = 8192;

/// `acc += x`.
pub fn add(kernels: &VectorKernels, threads: &Threads, acc: &mut [f32], x: &[f32]) {
    assert_eq!(acc.len(), x.len(), "add");
    threads.for_chunks(acc, GRAIN, |i, acc| kernels.add(acc, &x[i * GRAIN..][..acc.len()]));
}

/// `out[i] = x[rows[i]]`, rows of `cols`.
pub fn take_rows(out: &mut [f32], x: &[f32], rows: &[u32], cols: usize) {
    assert_eq!(out.len(), rows.len() * cols, "take_outputs");
    for (out, &row) in out.chunks_exact_mut(cols).zip(rows) {
        out.copy_from_slice(&x[row as usize * cols..][..cols]);
    }
}
