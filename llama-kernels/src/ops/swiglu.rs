//! SwiGLU (Shazeer 2020, arXiv:2002.05202), in chunks that may be part of a row or span several.

use crate::kernels::VectorKernels;
use crate::threads::Threads;

/// Elements of one task. Each costs an exponential and a division, so fewer than of an addition make a task.
const CHUNK: usize = 2048;

/// `out = silu(gate) * up`; `out [rows, ffn]`, `gate_up [rows, 2 * ffn]` holds gate then up.
pub fn swiglu(kernels: &VectorKernels, threads: &Threads, out: &mut [f32], gate_up: &[f32], ffn: usize) {
    assert!(gate_up.len() == 2 * out.len() && out.len().is_multiple_of(ffn), "swiglu {} of {ffn}", gate_up.len());
    threads.for_chunks(out, CHUNK, |i, mut out| {
        let mut at = i * CHUNK;
        while !out.is_empty() {
            let (row, column) = (at / ffn, at % ffn);
            let count = out.len().min(ffn - column);
            let (now, later) = out.split_at_mut(count);
            let (gate, up) = gate_up[row * 2 * ffn..][..2 * ffn].split_at(ffn);
            kernels.swiglu(now, &gate[column..][..count], &up[column..][..count]);
            (out, at) = (later, at + count);
        }
    });
}
