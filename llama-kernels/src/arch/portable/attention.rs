//! Attention's loops in plain Rust, over vectors of sixteen positions or columns like every tier.

use std::ops::Range;

use half::f16;
use llama_core::numerics::{self, LANES, PARTITION};

use crate::kernels::Softmax;

/// An element of K and V as this tier reads it.
pub trait Load: Copy {
    /// Its value.
    fn load(self) -> f32;
}

impl Load for f32 {
    #[inline(always)]
    fn load(self) -> f32 {
        self
    }
}

impl Load for f16 {
    #[inline(always)]
    fn load(self) -> f32 {
        self.to_f32()
    }
}

/// Scores of each query against each position of each block; see `BlockKernels::scores`.
pub fn scores<E: Load>(q: &[&[f32]], k: &[&[E]], scale: f32, out: &mut [f32]) {
    for (b, block) in k.iter().enumerate() {
        for (r, q) in q.iter().enumerate() {
            let mut acc = [0.0f32; LANES];
            for (&q, column) in q.iter().zip(block.as_chunks::<LANES>().0) {
                for (acc, k) in acc.iter_mut().zip(column) {
                    *acc = q.mul_add(k.load(), *acc);
                }
            }
            out[r * PARTITION + b * LANES..][..LANES].copy_from_slice(&acc.map(|dot| dot * scale));
        }
    }
}

/// Weighted sums of the rows of V; see `BlockKernels::values`.
pub fn values<E: Load>(p: &[&[f32]], v: &[&[E]], positions: Range<usize>, out: &mut [f32]) {
    let stride = out.len() / p.len();
    for (p, out) in p.iter().zip(out.chunks_exact_mut(stride)) {
        for t in positions.clone() {
            let row = &v[t / LANES][t % LANES * stride..][..stride];
            for (out, v) in out.iter_mut().zip(row) {
                *out = p[t].mul_add(v.load(), *out);
            }
        }
    }
}

/// Exponentials of the visible scores below their maximum, and their sum.
pub fn softmax(scores: &mut [f32], visible: Range<usize>) -> Softmax {
    let max = scores[visible.clone()].iter().fold(f32::NEG_INFINITY, |max, &s| if s > max { s } else { max });
    let mut lanes = [0.0f32; LANES];
    for t in visible {
        scores[t] = numerics::exp(scores[t] - max);
        lanes[t % LANES] += scores[t];
    }
    Softmax { max, sum: numerics::fold(lanes) }
}

/// Merges the partial result of later positions.
#[inline(always)]
pub fn merge(all: &mut Softmax, acc: &mut [f32], later: Softmax, out: &[f32]) {
    let max = if later.max > all.max { later.max } else { all.max };
    let (a, b) = (numerics::exp(all.max - max), numerics::exp(later.max - max));
    *all = Softmax { max, sum: all.sum.mul_add(a, later.sum * b) };
    for (acc, &out) in acc.iter_mut().zip(out) {
        *acc = acc.mul_add(a, out * b);
    }
}
