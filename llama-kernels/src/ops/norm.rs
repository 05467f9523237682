//! RMSNorm, alone and fused with the residual's addition: a row a task, several rows where they are short.

use crate::kernels::VectorKernels;
use crate::ops::elementwise::GRAIN;
use crate::threads::{Disjoint, Threads};

/// `out = x / rms(x) * gain`, `[rows, gain.len()]`.
pub fn rms_norm(kernels: &VectorKernels, threads: &Threads, out: &mut [f32], x: &[f32], gain: &[f32], eps: f32) {
    assert_eq!(out.len(), x.len(), "rms_norm");
    let cols = gain.len();
    let chunk = GRAIN.div_ceil(cols) * cols;
    threads.for_chunks(out, chunk, |i, out| {
        for (out, x) in out.chunks_exact_mut(cols).zip(x[i * chunk..].chunks_exact(cols)) {
            kernels.rms_norm(out, x, gain, eps);
        }
    });
}

/// `residual += x`, then `x = residual / rms(residual) * gain`, while the row is in cache.
pub fn add_rms_norm(
    kernels: &VectorKernels,
    threads: &Threads,
    residual: &mut [f32],
    x: &mut [f32],
    gain: &[f32],
    eps: f32,
) {
    assert_eq!(residual.len(), x.len(), "add_rms_norm");
    let cols = gain.len();
    let chunk = GRAIN.div_ceil(cols) * cols;
    let x = Disjoint::new(x);
    threads.for_chunks(residual, chunk, |i, residual| {
        let start = i * chunk;
        // SAFETY: chunk `i` of `x`, as long as chunk `i` of the residual; chunks do not overlap, each runs once.
        let x = unsafe { x.part(start..start + residual.len()) };
        for (residual, x) in residual.chunks_exact_mut(cols).zip(x.chunks_exact_mut(cols)) {
            kernels.add(residual, x);
            kernels.rms_norm(x, residual, gain, eps);
        }
    });
}
