//! RMSNorm: a row a task, several rows where they are short.

use crate::kernels::VectorKernels;
use crate::ops::elementwise::GRAIN;
use crate::threads::Threads;

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
