//! Rotary embedding and the write to the KV cache. A task is a run of rows that share a block, so that it alone writes
//! the block; a column of K is strided in there, sixteen positions to the vector.

use llama_core::backend::AttentionShape;
use llama_core::batch::BLOCK;
use llama_core::numerics::GROUP;

use crate::kernels::VectorKernels;
use crate::kv::{Element, Layout, Store, stride};
use crate::plan::{Plan, Run};
use crate::threads::{Disjoint, Threads};

/// Columns that are rounded at a time.
const COLUMNS: usize = 64;

/// Turns q and k of every row and stores k and v in the row's slot of `layer`. `qkv [T, qkv_cols]`.
pub fn rope_and_store<E: Element>(
    kernels: &VectorKernels,
    threads: &Threads,
    qkv: &mut [f32],
    (layout, store): (&Layout, &mut Store<E>),
    layer: usize,
    plan: &Plan,
) {
    let (shape, cols) = (&plan.shape, plan.shape.qkv_cols());
    assert!(layout.fits(shape) && qkv.len() == plan.tokens.len() * cols, "rope_and_store of {} numbers", qkv.len());
    let turns = Turns { cos: &plan.cos, sin: &plan.sin, count: shape.inv_freq.len() };
    let (k_len, v_len) = (shape.kv_heads * layout.k_len::<E>(), shape.kv_heads * layout.v_len::<E>());
    let (qkv, k, v) = (Disjoint::new(qkv), Disjoint::new(&mut store.k), Disjoint::new(&mut store.v));
    let runs = &plan.runs[..];
    threads.for_each(runs.len(), &|i| {
        let run = runs[i];
        let (first, index) = (run.first_row as usize, layout.index(layer, run.block));
        // SAFETY: runs are disjoint ranges of rows, each called once.
        let rows = unsafe { qkv.part(first * cols..(first + run.rows as usize) * cols) };
        // SAFETY: `Plan::prepare` checked that no two runs have the same block.
        let (k, v) =
            unsafe { (k.part(index * k_len..(index + 1) * k_len), v.part(index * v_len..(index + 1) * v_len)) };
        store_run(kernels, shape, rows, &turns, run, k, v);
    });
}

/// Cosines and sines, `[rows][count]`.
struct Turns<'a> {
    cos: &'a [f32],
    sin: &'a [f32],
    count: usize,
}

impl Turns<'_> {
    fn row(&self, row: usize) -> (&[f32], &[f32]) {
        let range = row * self.count..(row + 1) * self.count;
        (&self.cos[range.clone()], &self.sin[range])
    }
}

/// `k` and `v`: all heads of the run's block.
fn store_run<E: Element>(
    kernels: &VectorKernels,
    shape: &AttentionShape,
    rows: &mut [f32],
    turns: &Turns<'_>,
    run: Run,
    k: &mut [E],
    v: &mut [E],
) {
    let (dim, stride) = (shape.head_dim, stride(shape.head_dim));
    for (i, row) in rows.chunks_exact_mut(shape.qkv_cols()).enumerate() {
        let slot = run.first_slot as usize + i;
        let (cos, sin) = turns.row(run.first_row as usize + i);
        let (qk, values) = row.split_at_mut((shape.heads + shape.kv_heads) * dim);
        qk.chunks_exact_mut(dim).for_each(|head| kernels.rotate(head, cos, sin, shape.layout));

        let keys = &qk[shape.heads * dim..];
        for (key, k) in keys.chunks_exact(dim).zip(k.chunks_exact_mut(E::len(dim))) {
            scatter(kernels, key, k, slot);
        }
        for (value, v) in values.chunks_exact(dim).zip(v.chunks_exact_mut(E::len(stride))) {
            put(kernels, value, v, stride, slot);
        }
    }
}

/// Writes a key to column `slot` of its block.
fn scatter<E: Element>(kernels: &VectorKernels, key: &[f32], k: &mut [E], slot: usize) {
    let mut rounded = [E::zeroed(); COLUMNS];
    for (i, part) in key.chunks(COLUMNS).enumerate() {
        let (rounded, mut scales) = (&mut rounded[..part.len()], [0.0; COLUMNS / GROUP]);
        E::narrow(kernels, part, rounded, &mut scales);
        let columns = k[i * COLUMNS * BLOCK..].chunks_exact_mut(BLOCK);
        columns.zip(rounded).for_each(|(column, &mut x)| column[slot] = x);
        keep(E::scales_mut(k, key.len()), i, slot, scales);
    }
}

/// Writes a value to row `slot` of its block.
fn put<E: Element>(kernels: &VectorKernels, value: &[f32], v: &mut [E], stride: usize, slot: usize) {
    for (i, part) in value.chunks(COLUMNS).enumerate() {
        let mut scales = [0.0; COLUMNS / GROUP];
        E::narrow(kernels, part, &mut v[slot * stride + i * COLUMNS..][..part.len()], &mut scales);
        keep(E::scales_mut(v, stride), i, slot, scales);
    }
}

/// Writes the scales of the `i`-th run of [`COLUMNS`], as far as there are any.
fn keep(all: &mut [[f32; BLOCK]], i: usize, slot: usize, scales: [f32; COLUMNS / GROUP]) {
    all.iter_mut().skip(i * scales.len()).zip(scales).for_each(|(kept, scale)| kept[slot] = scale);
}
