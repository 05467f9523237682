//! Attention's loops in plain Rust, over vectors of sixteen positions or columns like every tier.

use std::ops::Range;

use half::{bf16, f16};
use llama_core::numerics::{self, LANES, PARTITION};

use crate::kernels::{ROWS, Reading, Softmax};
use crate::kv::Element;

/// An element of K and V as this tier reads it.
pub trait Load: Element {
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

impl Load for bf16 {
    #[inline(always)]
    fn load(self) -> f32 {
        self.to_f32()
    }
}

impl Load for i8 {
    #[inline(always)]
    fn load(self) -> f32 {
        f32::from(self)
    }
}

/// Sixteen elements, widened once for all rows.
#[inline(always)]
fn widen<E: Load>(x: &[E; LANES]) -> [f32; LANES] {
    x.map(E::load)
}

#[inline(always)]
fn fmadd(a: f32, b: &[f32; LANES], acc: &mut [f32; LANES]) {
    acc.iter_mut().zip(b).for_each(|(acc, &b)| *acc = a.mul_add(b, *acc));
}

/// Scores of each query against each position of each block; see `BlockKernels::scores`.
pub fn scores<E: Load>(q: &[&[f32]], k: Reading<'_, E>, scale: f32, out: &mut [f32]) {
    let k = k.now;
    let dim = q[0].len();
    for (b, block) in k.iter().enumerate() {
        let (columns, scales) = (&block.as_chunks::<LANES>().0[..dim], E::scales(block, dim));
        let mut acc = [[0.0f32; LANES]; ROWS];
        for (g, columns) in columns.chunks(E::GROUP).enumerate() {
            let mut dots = [[0.0f32; LANES]; ROWS];
            for (d, column) in columns.iter().enumerate() {
                let column = widen(column);
                dots.iter_mut().zip(q).for_each(|(dot, q)| fmadd(q[g * E::GROUP + d], &column, dot));
            }
            match scales.get(g) {
                Some(scales) => acc.iter_mut().zip(&dots).for_each(|(acc, dots)| chain(scales, dots, acc)),
                None => acc = dots,
            }
        }
        for (r, acc) in acc.iter().enumerate().take(q.len()) {
            out[r * PARTITION + b * LANES..][..LANES].copy_from_slice(&acc.map(|dot| dot * scale));
        }
    }
}

/// `acc = scales * dots + acc`.
#[inline(always)]
fn chain(scales: &[f32; LANES], dots: &[f32; LANES], acc: &mut [f32; LANES]) {
    acc.iter_mut().zip(scales).zip(dots).for_each(|((acc, scale), &dot)| *acc = scale.mul_add(dot, *acc));
}

/// Weighted sums of the rows of V; see `BlockKernels::values`.
pub fn values<E: Load>(p: &[&[f32]], v: Reading<'_, E>, positions: Range<usize>, out: &mut [f32]) {
    let v = v.now;
    let columns = out.len() / p.len();
    let (out, vectors) = (out.as_chunks_mut::<LANES>().0, columns / LANES);
    for t in positions {
        let block = v[t / LANES];
        let (row, scales) = (&block.as_chunks::<LANES>().0[t % LANES * vectors..], E::scales(block, columns));
        for (c, column) in row[..vectors].iter().enumerate() {
            let (column, scales) = (widen(column), scales.get(c * LANES / E::GROUP));
            for (r, p) in p.iter().enumerate() {
                fmadd(scales.map_or(p[t], |scales| p[t] * scales[t % LANES]), &column, &mut out[r * vectors + c]);
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
