//! RMSNorm of rows, and of the heads within them: a row a task, several rows where they are short.

use llama_core::backend::AttentionShape;

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

/// Every head of q and of k divided by its rms and multiplied by its gain, in place. `qkv [rows, qkv_cols]`; `gains` of queries and of
/// keys.
pub fn norm_heads(
    kernels: &VectorKernels,
    threads: &Threads,
    qkv: &mut [f32],
    gains: [&[f32]; 2],
    eps: f32,
    shape: &AttentionShape,
) {
    let (cols, dim) = (shape.qkv_cols(), shape.head_dim);
    assert!(qkv.len().is_multiple_of(cols) && gains.iter().all(|gain| gain.len() == dim), "norm_heads of {dim}");
    threads.for_chunks(qkv, GRAIN.div_ceil(cols) * cols, |_, rows| {
        for row in rows.chunks_exact_mut(cols) {
            let (q, kv) = row.split_at_mut(shape.heads * dim);
            let k = &mut kv[..shape.kv_heads * dim];
            for (heads, gain) in [q, k].into_iter().zip(gains) {
                heads.chunks_exact_mut(dim).for_each(|head| kernels.norm_in_place(head, gain, eps));
            }
        }
    });
}
