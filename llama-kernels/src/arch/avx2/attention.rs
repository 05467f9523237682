//! Attention's loops on pairs of vectors of eight: sixteen positions (scores) or sixteen columns (values).
//!
//! A register tile is R query rows by C pairs, at most eight of the sixteen registers as accumulators: enough
//! independent chains of fused multiply-adds to cover their latency, while each pair of K or V that was loaded (and
//! widened from half precision) serves R rows.

use std::arch::x86_64::*;
use std::ops::Range;

use half::f16;
use llama_core::numerics::{LANES, PARTITION};

use super::vector::{Pair, exp, fold, load, store};
use crate::arch::portable;
use crate::kernels::Softmax;

/// An element of K and V as this tier reads it.
pub trait Load: Copy {
    /// Sixteen of them, widened.
    ///
    /// # Safety
    /// The CPU has AVX2 and F16C.
    unsafe fn load(x: &[Self; LANES]) -> Pair;
}

impl Load for f32 {
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn load(x: &[f32; LANES]) -> Pair {
        load(x)
    }
}

impl Load for f16 {
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn load(x: &[f16; LANES]) -> Pair {
        // SAFETY: two unaligned loads of exactly the array's bytes.
        let (low, high) = unsafe { (_mm_loadu_si128(x.as_ptr().cast()), _mm_loadu_si128(x.as_ptr().add(8).cast())) };
        [_mm256_cvtph_ps(low), _mm256_cvtph_ps(high)]
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn fmadd(a: f32, b: Pair, acc: Pair) -> Pair {
    let a = _mm256_set1_ps(a);
    [_mm256_fmadd_ps(a, b[0], acc[0]), _mm256_fmadd_ps(a, b[1], acc[1])]
}

/// Scores of each query against each position of each block; see `BlockKernels::scores`.
#[target_feature(enable = "avx2,fma,f16c")]
pub fn scores<E: Load>(q: &[&[f32]], k: &[&[E]], scale: f32, out: &mut [f32]) {
    match *q {
        [a] => score_rows::<E, 1, 4>(&[a], k, scale, out),
        [a, b] => score_rows::<E, 2, 2>(&[a, b], k, scale, out),
        [a, b, c] => score_rows::<E, 3, 1>(&[a, b, c], k, scale, out),
        [a, b, c, d] => score_rows::<E, 4, 1>(&[a, b, c, d], k, scale, out),
        _ => unreachable!("{} queries", q.len()),
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
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
#[target_feature(enable = "avx2,fma,f16c")]
fn score_tile<E: Load, const R: usize, const B: usize>(q: &[&[f32]; R], k: &[&[E]; B], scale: f32, out: &mut [f32]) {
    let dim = q[0].len();
    let q = q.map(|row| &row[..dim]);
    let k = k.map(|block| &block.as_chunks::<LANES>().0[..dim]);
    let mut acc = [[[_mm256_setzero_ps(); 2]; B]; R];
    for d in 0..dim {
        for b in 0..B {
            // SAFETY: this function requires the features.
            let column = unsafe { E::load(&k[b][d]) };
            for r in 0..R {
                acc[r][b] = fmadd(q[r][d], column, acc[r][b]);
            }
        }
    }
    let scale = _mm256_set1_ps(scale);
    for (r, acc) in acc.iter().enumerate() {
        let (out, _) = out[r * PARTITION..][..B * LANES].as_chunks_mut::<LANES>();
        for (out, acc) in out.iter_mut().zip(acc) {
            store(out, [_mm256_mul_ps(acc[0], scale), _mm256_mul_ps(acc[1], scale)]);
        }
    }
}

/// Weighted sums of the rows of V; see `BlockKernels::values`.
#[target_feature(enable = "avx2,fma,f16c")]
pub fn values<E: Load>(p: &[&[f32]], v: &[&[E]], positions: Range<usize>, out: &mut [f32]) {
    match *p {
        [a] => value_rows::<E, 1, 4>(&[a], v, positions, out),
        [a, b] => value_rows::<E, 2, 2>(&[a, b], v, positions, out),
        [a, b, c] => value_rows::<E, 3, 1>(&[a, b, c], v, positions, out),
        [a, b, c, d] => value_rows::<E, 4, 1>(&[a, b, c, d], v, positions, out),
        _ => unreachable!("{} rows", p.len()),
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn value_rows<E: Load, const R: usize, const C: usize>(
    p: &[&[f32]; R],
    v: &[&[E]],
    positions: Range<usize>,
    out: &mut [f32],
) {
    let pairs = out.len() / R / LANES;
    let whole = pairs - pairs % C;
    for from in (0..whole).step_by(C) {
        value_tile::<E, R, C>(p, v, positions.clone(), from, out);
    }
    for from in whole..pairs {
        value_tile::<E, R, 1>(p, v, positions.clone(), from, out);
    }
}

/// Columns `16 * from ..` of all rows.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn value_tile<E: Load, const R: usize, const C: usize>(
    p: &[&[f32]; R],
    v: &[&[E]],
    positions: Range<usize>,
    from: usize,
    out: &mut [f32],
) {
    let out = out.as_chunks_mut::<LANES>().0;
    let pairs = out.len() / R;
    let p = p.map(|row| &row[..positions.end]);
    let mut acc = [[[_mm256_setzero_ps(); 2]; C]; R];
    for (acc, out) in acc.iter_mut().zip(out.chunks_exact(pairs)) {
        for (acc, out) in acc.iter_mut().zip(&out[from..from + C]) {
            *acc = load(out);
        }
    }
    for t in positions {
        let row = &v[t / LANES].as_chunks::<LANES>().0[t % LANES * pairs + from..][..C];
        for c in 0..C {
            // SAFETY: this function requires the features.
            let column = unsafe { E::load(&row[c]) };
            for r in 0..R {
                acc[r][c] = fmadd(p[r][t], column, acc[r][c]);
            }
        }
    }
    for (acc, out) in acc.iter().zip(out.chunks_exact_mut(pairs)) {
        for (&acc, out) in acc.iter().zip(&mut out[from..from + C]) {
            store(out, acc);
        }
    }
}

/// Lanes of pair `i` that are inside `visible`, as masks.
#[inline]
#[target_feature(enable = "avx2")]
fn masks(i: usize, visible: &Range<usize>) -> Pair {
    let relative = |t: usize| t.saturating_sub(i * LANES).min(LANES) as i32;
    let (start, end) = (_mm256_set1_epi32(relative(visible.start) - 1), _mm256_set1_epi32(relative(visible.end)));
    let low = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    let high = _mm256_add_epi32(low, _mm256_set1_epi32(8));
    let inside = |lane| _mm256_and_si256(_mm256_cmpgt_epi32(lane, start), _mm256_cmpgt_epi32(end, lane));
    [_mm256_castsi256_ps(inside(low)), _mm256_castsi256_ps(inside(high))]
}

/// Exponentials of the visible scores below their maximum, and their sum.
#[target_feature(enable = "avx2,fma")]
pub fn softmax(scores: &mut [f32], visible: Range<usize>) -> Softmax {
    let (pairs, _) = scores.as_chunks_mut::<LANES>();
    let touched = visible.start / LANES..visible.end.div_ceil(LANES);
    let lowest = _mm256_set1_ps(f32::NEG_INFINITY);
    let mut max = lowest;
    for i in touched.clone() {
        let (scores, masks) = (load(&pairs[i]), masks(i, &visible));
        for half in 0..2 {
            max = _mm256_max_ps(_mm256_blendv_ps(lowest, scores[half], masks[half]), max);
        }
    }
    let max = largest(max);
    let mut sum = [_mm256_setzero_ps(); 2];
    for i in touched {
        let (scores, masks) = (load(&pairs[i]), masks(i, &visible));
        let mut p = scores;
        for half in 0..2 {
            p[half] = exp(_mm256_sub_ps(scores[half], _mm256_set1_ps(max)));
            sum[half] = _mm256_add_ps(sum[half], _mm256_and_ps(p[half], masks[half]));
        }
        store(&mut pairs[i], p);
    }
    Softmax { max, sum: fold(sum) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn largest(x: __m256) -> f32 {
    let mut lanes = [0.0; LANES];
    store(&mut lanes, [x, x]);
    lanes.iter().fold(f32::NEG_INFINITY, |max, &x| if x > max { x } else { max })
}

/// Merges the partial result of later positions.
#[target_feature(enable = "avx2,fma")]
pub fn merge(all: &mut Softmax, acc: &mut [f32], later: Softmax, out: &[f32]) {
    portable::attention::merge(all, acc, later, out);
}
