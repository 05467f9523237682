//! Rotary embedding and the write to the KV cache. A task is a run of rows that share a block, so that it alone writes
//! the block; a column of K is strided in there, sixteen positions to the vector.

use llama_core::backend::AttentionShape;
use llama_core::batch::BLOCK;
use llama_core::numerics::GROUP;

use crate::kernels::VectorKernels;
use crate::kv::{Element, Layout, Store, stride};
use crate::plan::Plan;
use crate::threads::{Disjoint, Threads};

/// Columns that are rounded at a time.
const COLUMNS: usize = 64;

/// Turns q and k of every row, multiplies q where attention has a temperature, and stores k and v in the row's slot of
/// `layer`. `qkv [T, qkv_cols]`.
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
    let count = if shape.turns(layer) { shape.inv_freq.len() } else { 0 };
    let turns = Turns { cos: &plan.cos, sin: &plan.sin, count, factors: &plan.factors };
    let (qkv, [k, v]) = (Disjoint::new(qkv), store.numbers_mut().map(Disjoint::new));
    let runs = &plan.runs[..];
    threads.for_each(runs.len(), &|i| {
        let run = runs[i];
        let first = run.first_row as usize;
        // SAFETY: runs are disjoint ranges of rows, each called once.
        let rows = unsafe { qkv.part(first * cols..(first + run.rows as usize) * cols) };
        turn_run(kernels, shape, rows, &turns, first);
        for head in 0..shape.kv_heads {
            let (index, k_len, v_len) =
                (layout.index(layer, head, run.block), layout.k_len::<E>(), layout.v_len::<E>());
            // SAFETY: `Plan::prepare` checked that no two runs have the same block.
            let (k, v) =
                unsafe { (k.part(index * k_len..(index + 1) * k_len), v.part(index * v_len..(index + 1) * v_len)) };
            store_run(kernels, shape, rows, head, run.first_slot as usize, k, v);
        }
    });
}

/// Cosines and sines, `[rows][count]`, none in a layer that does not turn, and what q is multiplied by, `[rows]` or none.
struct Turns<'a> {
    cos: &'a [f32],
    sin: &'a [f32],
    count: usize,
    factors: &'a [f32],
}

impl Turns<'_> {
    fn row(&self, row: usize) -> (&[f32], &[f32]) {
        let range = row * self.count..(row + 1) * self.count;
        (&self.cos[range.clone()], &self.sin[range])
    }
}

/// Turns q and k of a run, whose rows are the batch's from `first`.
fn turn_run(kernels: &VectorKernels, shape: &AttentionShape, rows: &mut [f32], turns: &Turns<'_>, first: usize) {
    for (i, row) in rows.chunks_exact_mut(shape.qkv_cols()).enumerate() {
        let (cos, sin) = turns.row(first + i);
        let qk = &mut row[..(shape.heads + shape.kv_heads) * shape.head_dim];
        if turns.count > 0 {
            qk.chunks_exact_mut(shape.head_dim).for_each(|head| kernels.rotate(head, cos, sin, shape.layout));
        }
        if let Some(factor) = turns.factors.get(first + i) {
            qk[..shape.heads * shape.head_dim].iter_mut().for_each(|q| *q *= factor);
        }
    }
}

/// Stores one head of a run in its block, from slot `first`.
fn store_run<E: Element>(
    kernels: &VectorKernels,
    shape: &AttentionShape,
    rows: &[f32],
    head: usize,
    first: usize,
    k: &mut [E],
    v: &mut [E],
) {
    let (dim, stride) = (shape.head_dim, stride(shape.head_dim));
    for (i, row) in rows.chunks_exact(shape.qkv_cols()).enumerate() {
        let key = &row[(shape.heads + head) * dim..][..dim];
        let value = &row[(shape.heads + shape.kv_heads + head) * dim..][..dim];
        scatter(kernels, key, k, first + i);
        put(kernels, value, v, stride, first + i);
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
