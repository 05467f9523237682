//! Attention's loops on four vectors of four: sixteen positions (scores) or sixteen columns (values).
//!
//! A register tile is R query rows by C times sixteen, at most sixteen of the thirty-two registers as accumulators:
//! enough independent chains of fused multiply-adds to cover their latency, while each sixteen of K or V that were
//! loaded (and widened from half precision) serve R rows.

use std::arch::aarch64::*;
use std::ops::Range;

use half::{bf16, f16};
use llama_core::numerics::{LANES, PARTITION};

use super::vector::{Quad, exp, fold, load, store, store_quarter, widen};
use crate::arch::portable;
use crate::kernels::{Reading, Softmax};
use crate::kv::Element;

/// An element of K and V as these tiers read it.
pub trait Load: Element {
    /// Sixteen of them, widened.
    ///
    /// # Safety
    /// The CPU has NEON.
    unsafe fn load(x: &[Self; LANES]) -> Quad;
}

impl Load for f32 {
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load(x: &[f32; LANES]) -> Quad {
        load(x)
    }
}

impl Load for f16 {
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load(x: &[f16; LANES]) -> Quad {
        let x = x.as_ptr().cast();
        // SAFETY: four unaligned loads of exactly the array's bytes.
        let bits = unsafe { [vld1_u16(x), vld1_u16(x.add(4)), vld1_u16(x.add(8)), vld1_u16(x.add(12))] };
        [widen(bits[0]), widen(bits[1]), widen(bits[2]), widen(bits[3])]
    }
}

impl Load for bf16 {
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load(x: &[bf16; LANES]) -> Quad {
        let x = x.as_ptr().cast();
        // SAFETY: four unaligned loads of exactly the array's bytes.
        let bits = unsafe { [vld1_u16(x), vld1_u16(x.add(4)), vld1_u16(x.add(8)), vld1_u16(x.add(12))] };
        bits.map(|bits| vreinterpretq_f32_u32(vshlq_n_u32::<16>(vmovl_u16(bits))))
    }
}

impl Load for i8 {
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load(x: &[i8; LANES]) -> Quad {
        // SAFETY: an unaligned load of exactly the array's bytes.
        let bytes = unsafe { vld1q_s8(x.as_ptr()) };
        let (low, high) = (vmovl_s8(vget_low_s8(bytes)), vmovl_s8(vget_high_s8(bytes)));
        [vget_low_s16(low), vget_high_s16(low), vget_low_s16(high), vget_high_s16(high)]
            .map(|four| vcvtq_f32_s32(vmovl_s16(four)))
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn fmadd(a: f32, b: Quad, acc: &mut Quad) {
    for (acc, b) in acc.iter_mut().zip(b) {
        *acc = vfmaq_n_f32(*acc, b, a);
    }
}

/// Scores of each query against each position of each block; see `BlockKernels::scores`.
#[target_feature(enable = "neon")]
pub fn scores<E: Load>(q: &[&[f32]], k: Reading<'_, E>, scale: f32, out: &mut [f32]) {
    let k = k.now;
    match *q {
        [a] => score_rows::<E, 1, 4>(&[a], k, scale, out),
        [a, b] => score_rows::<E, 2, 2>(&[a, b], k, scale, out),
        [a, b, c] => score_rows::<E, 3, 1>(&[a, b, c], k, scale, out),
        [a, b, c, d] => score_rows::<E, 4, 1>(&[a, b, c, d], k, scale, out),
        _ => unreachable!("{} queries", q.len()),
    }
}

#[target_feature(enable = "neon")]
fn score_rows<E: Load, const R: usize, const B: usize>(q: &[&[f32]; R], k: &[&[E]], scale: f32, out: &mut [f32]) {
    let (groups, rest) = k.as_chunks::<B>();
    for (i, group) in groups.iter().enumerate() {
        score_tile::<E, R, B>(q, group, scale, &mut out[i * B * LANES..]);
    }
    for (i, block) in rest.iter().enumerate() {
        score_tile::<E, R, 1>(q, &[block], scale, &mut out[(groups.len() * B + i) * LANES..]);
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn score_tile<E: Load, const R: usize, const B: usize>(q: &[&[f32]; R], k: &[&[E]; B], scale: f32, out: &mut [f32]) {
    let dim = q[0].len();
    let q = q.map(|row| &row[..dim]);
    let columns = k.map(|block| &block.as_chunks::<LANES>().0[..dim]);
    let mut acc = [[[vdupq_n_f32(0.0); 4]; B]; R];
    for (g, first) in (0..dim).step_by(E::GROUP).enumerate() {
        let mut dots = [[[vdupq_n_f32(0.0); 4]; B]; R];
        for d in first..dim.min(first.saturating_add(E::GROUP)) {
            for b in 0..B {
                // SAFETY: this function requires the feature.
                let column = unsafe { E::load(&columns[b][d]) };
                for r in 0..R {
                    fmadd(q[r][d], column, &mut dots[r][b]);
                }
            }
        }
        for b in 0..B {
            let scale = E::scales(k[b], dim).get(g).map(|scales| load(scales));
            for r in 0..R {
                acc[r][b] = scale.map_or(dots[r][b], |scale| chain(scale, dots[r][b], acc[r][b]));
            }
        }
    }
    for (r, acc) in acc.iter().enumerate() {
        for (out, acc) in out[r * PARTITION..].as_chunks_mut().0.iter_mut().zip(acc.as_flattened()) {
            store_quarter(out, vmulq_n_f32(*acc, scale));
        }
    }
}

/// `scale * dots + acc`.
#[inline]
#[target_feature(enable = "neon")]
fn chain(scale: Quad, dots: Quad, mut acc: Quad) -> Quad {
    for (acc, (scale, dots)) in acc.iter_mut().zip(scale.into_iter().zip(dots)) {
        *acc = vfmaq_f32(*acc, scale, dots);
    }
    acc
}

/// Weighted sums of the rows of V; see `BlockKernels::values`.
#[target_feature(enable = "neon")]
pub fn values<E: Load>(p: &[&[f32]], v: Reading<'_, E>, positions: Range<usize>, out: &mut [f32]) {
    let v = v.now;
    match *p {
        [a] => value_rows::<E, 1, 4>(&[a], v, positions, out),
        [a, b] => value_rows::<E, 2, 2>(&[a, b], v, positions, out),
        [a, b, c] => value_rows::<E, 3, 1>(&[a, b, c], v, positions, out),
        [a, b, c, d] => value_rows::<E, 4, 1>(&[a, b, c, d], v, positions, out),
        _ => unreachable!("{} rows", p.len()),
    }
}

/// Columns that share a scale at a time, if there are scales.
#[target_feature(enable = "neon")]
fn value_rows<E: Load, const R: usize, const C: usize>(
    p: &[&[f32]; R],
    v: &[&[E]],
    positions: Range<usize>,
    out: &mut [f32],
) {
    let columns = out.len() / R;
    if E::scales(v[0], columns).is_empty() {
        return value_columns::<E, R, C>(p, v, positions, 0..columns / LANES, out);
    }
    for (g, first) in (0..columns).step_by(E::GROUP).enumerate() {
        let mut scaled = [[0.0; PARTITION]; R];
        for (scaled, p) in scaled.iter_mut().zip(p) {
            let (scaled, p) = (scaled.as_chunks_mut::<LANES>().0, p.as_chunks::<LANES>().0);
            for b in positions.start / LANES..positions.end.div_ceil(LANES) {
                let mut product = load(&p[b]);
                let scales = load(&E::scales(v[b], columns)[g]);
                product.iter_mut().zip(scales).for_each(|(p, scale)| *p = vmulq_f32(*p, scale));
                store(&mut scaled[b], product);
            }
        }
        let quads = first / LANES..columns.min(first + E::GROUP) / LANES;
        value_columns::<E, R, C>(&scaled.each_ref().map(|p| &p[..]), v, positions.clone(), quads, out);
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn value_columns<E: Load, const R: usize, const C: usize>(
    p: &[&[f32]; R],
    v: &[&[E]],
    positions: Range<usize>,
    quads: Range<usize>,
    out: &mut [f32],
) {
    let whole = quads.end - quads.len() % C;
    for from in (quads.start..whole).step_by(C) {
        value_tile::<E, R, C>(p, v, positions.clone(), from, out);
    }
    for from in whole..quads.end {
        value_tile::<E, R, 1>(p, v, positions.clone(), from, out);
    }
}

/// Columns `16 * from ..` of all rows.
#[inline]
#[target_feature(enable = "neon")]
fn value_tile<E: Load, const R: usize, const C: usize>(
    p: &[&[f32]; R],
    v: &[&[E]],
    positions: Range<usize>,
    from: usize,
    out: &mut [f32],
) {
    let out = out.as_chunks_mut::<LANES>().0;
    let quads = out.len() / R;
    let p = p.map(|row| &row[..positions.end]);
    let mut acc = [[[vdupq_n_f32(0.0); 4]; C]; R];
    for (acc, out) in acc.iter_mut().zip(out.chunks_exact(quads)) {
        for (acc, out) in acc.iter_mut().zip(&out[from..from + C]) {
            *acc = load(out);
        }
    }
    for t in positions {
        let row = &v[t / LANES].as_chunks::<LANES>().0[t % LANES * quads + from..][..C];
        for c in 0..C {
            // SAFETY: this function requires the feature.
            let column = unsafe { E::load(&row[c]) };
            for r in 0..R {
                fmadd(p[r][t], column, &mut acc[r][c]);
            }
        }
    }
    for (acc, out) in acc.iter().zip(out.chunks_exact_mut(quads)) {
        for (&acc, out) in acc.iter().zip(&mut out[from..from + C]) {
            store(out, acc);
        }
    }
}

/// Lanes of the sixteen from `16 i` that are inside `visible`, as masks.
#[inline]
#[target_feature(enable = "neon")]
fn masks(i: usize, visible: &Range<usize>) -> [uint32x4_t; 4] {
    let relative = |t: usize| t.saturating_sub(i * LANES).min(LANES) as u32;
    let (start, end) = (vdupq_n_u32(relative(visible.start)), vdupq_n_u32(relative(visible.end)));
    // SAFETY: four lanes from four numbers.
    let mut lane = unsafe { vld1q_u32([0, 1, 2, 3].as_ptr()) };
    let mut masks = [lane; 4];
    for mask in &mut masks {
        *mask = vandq_u32(vcgeq_u32(lane, start), vcltq_u32(lane, end));
        lane = vaddq_u32(lane, vdupq_n_u32(4));
    }
    masks
}

/// Exponentials of the visible scores below their maximum, and their sum.
#[target_feature(enable = "neon")]
pub fn softmax(scores: &mut [f32], visible: Range<usize>) -> Softmax {
    let (quads, _) = scores.as_chunks_mut::<LANES>();
    let touched = visible.start / LANES..visible.end.div_ceil(LANES);
    let lowest = vdupq_n_f32(f32::NEG_INFINITY);
    let mut max = lowest;
    for i in touched.clone() {
        for (scores, mask) in load(&quads[i]).into_iter().zip(masks(i, &visible)) {
            // FMAXNM passes over NaN.
            max = vmaxnmq_f32(max, vbslq_f32(mask, scores, lowest));
        }
    }
    let max = vmaxnmvq_f32(max);
    let mut sum = [vdupq_n_f32(0.0); 4];
    for i in touched {
        let (mut p, masks) = (load(&quads[i]), masks(i, &visible));
        for ((p, sum), mask) in p.iter_mut().zip(&mut sum).zip(masks) {
            *p = exp(vsubq_f32(*p, vdupq_n_f32(max)));
            *sum = vaddq_f32(*sum, vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(*p), mask)));
        }
        store(&mut quads[i], p);
    }
    Softmax { max, sum: fold(sum) }
}

/// Merges the partial result of later positions.
#[target_feature(enable = "neon")]
pub fn merge(all: &mut Softmax, acc: &mut [f32], later: Softmax, out: &[f32]) {
    portable::attention::merge(all, acc, later, out);
}
