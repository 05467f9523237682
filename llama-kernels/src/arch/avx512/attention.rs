//! Attention's loops on vectors of sixteen positions (scores) or sixteen columns (values).
//!
//! A register tile is R query rows by B blocks (scores) or C vectors of columns (values): R * B and R * C independent
//! chains of fused multiply-adds, enough to cover their latency, while each vector of K or V that was loaded (and widened
//! from half precision) serves R rows.

use std::arch::x86_64::*;
use std::ops::Range;

use half::{bf16, f16};
use llama_core::numerics::{LANES, PARTITION};

use super::super::avx2::fetch;
use super::vector::{exp, fold, load, store};
use crate::arch::portable;
use crate::kernels::{Reading, Softmax};
use crate::kv::Element;

/// An element of K and V as this tier reads it.
pub trait Load: Element {
    /// Sixteen of them, widened.
    ///
    /// # Safety
    /// The CPU has AVX-512 F.
    unsafe fn load(x: &[Self; LANES]) -> __m512;
}

impl Load for f32 {
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load(x: &[f32; LANES]) -> __m512 {
        load(x)
    }
}

impl Load for f16 {
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load(x: &[f16; LANES]) -> __m512 {
        // SAFETY: an unaligned load of exactly the array's bytes.
        _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(x.as_ptr().cast()) })
    }
}

impl Load for bf16 {
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load(x: &[bf16; LANES]) -> __m512 {
        // SAFETY: an unaligned load of exactly the array's bytes.
        let bits = _mm512_cvtepu16_epi32(unsafe { _mm256_loadu_si256(x.as_ptr().cast()) });
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
    }
}

impl Load for i8 {
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load(x: &[i8; LANES]) -> __m512 {
        // SAFETY: an unaligned load of exactly the array's bytes.
        _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(unsafe { _mm_loadu_si128(x.as_ptr().cast()) }))
    }
}

/// Scores of each query against each position of each block; see `BlockKernels::scores`.
#[target_feature(enable = "avx512f")]
pub fn scores<E: Load>(q: &[&[f32]], k: Reading<'_, E>, scale: f32, out: &mut [f32]) {
    match *q {
        [a] => score_rows::<E, 1, 8>(&[a], k, scale, out),
        [a, b] => score_rows::<E, 2, 4>(&[a, b], k, scale, out),
        [a, b, c] => score_rows::<E, 3, 4>(&[a, b, c], k, scale, out),
        [a, b, c, d] => score_rows::<E, 4, 4>(&[a, b, c, d], k, scale, out),
        _ => unreachable!("{} queries", q.len()),
    }
}

#[target_feature(enable = "avx512f")]
fn score_rows<E: Load, const R: usize, const B: usize>(
    q: &[&[f32]; R],
    k: Reading<'_, E>,
    scale: f32,
    out: &mut [f32],
) {
    let ((groups, rest), (ahead, rest_ahead)) = (k.now.as_chunks::<B>(), k.ahead.as_chunks::<B>());
    for (i, group) in groups.iter().zip(ahead).enumerate() {
        score_tile::<E, R, B>(q, group, scale, &mut out[i * B * LANES..]);
    }
    for (i, (&block, &ahead)) in rest.iter().zip(rest_ahead).enumerate() {
        score_tile::<E, R, 1>(q, (&[block], &[ahead]), scale, &mut out[(groups.len() * B + i) * LANES..]);
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn score_tile<E: Load, const R: usize, const B: usize>(
    q: &[&[f32]; R],
    (k, ahead): (&[&[E]; B], &[&[E]; B]),
    scale: f32,
    out: &mut [f32],
) {
    let dim = q[0].len();
    let q = q.map(|row| &row[..dim]);
    let columns = k.map(|block| &block.as_chunks::<LANES>().0[..dim]);
    let mut acc = [[_mm512_setzero_ps(); B]; R];
    for (g, first) in (0..dim).step_by(E::GROUP).enumerate() {
        let mut dots = [[_mm512_setzero_ps(); B]; R];
        for d in first..dim.min(first.saturating_add(E::GROUP)) {
            let mut column = [_mm512_setzero_ps(); B];
            for b in 0..B {
                fetch(ahead[b], d * LANES);
                // SAFETY: this function requires the feature.
                column[b] = unsafe { E::load(&columns[b][d]) };
            }
            for r in 0..R {
                let q = _mm512_set1_ps(q[r][d]);
                for b in 0..B {
                    dots[r][b] = _mm512_fmadd_ps(q, column[b], dots[r][b]);
                }
            }
        }
        for b in 0..B {
            let scale = E::scales(k[b], dim).get(g).map(|scales| load(scales));
            for r in 0..R {
                acc[r][b] = scale.map_or(dots[r][b], |scale| _mm512_fmadd_ps(scale, dots[r][b], acc[r][b]));
            }
        }
    }
    let scale = _mm512_set1_ps(scale);
    for (r, acc) in acc.iter().enumerate() {
        let (out, _) = out[r * PARTITION..][..B * LANES].as_chunks_mut::<LANES>();
        for (out, &acc) in out.iter_mut().zip(acc) {
            store(out, _mm512_mul_ps(acc, scale));
        }
    }
}

/// Weighted sums of the rows of V; see `BlockKernels::values`.
#[target_feature(enable = "avx512f")]
pub fn values<E: Load>(p: &[&[f32]], v: Reading<'_, E>, positions: Range<usize>, out: &mut [f32]) {
    match *p {
        [a] => value_rows::<E, 1>(&[a], v, positions, out),
        [a, b] => value_rows::<E, 2>(&[a, b], v, positions, out),
        [a, b, c] => value_rows::<E, 3>(&[a, b, c], v, positions, out),
        [a, b, c, d] => value_rows::<E, 4>(&[a, b, c, d], v, positions, out),
        _ => unreachable!("{} rows", p.len()),
    }
}

/// Columns that share a scale at a time, if there are scales.
#[target_feature(enable = "avx512f")]
fn value_rows<E: Load, const R: usize>(p: &[&[f32]; R], v: Reading<'_, E>, positions: Range<usize>, out: &mut [f32]) {
    let columns = out.len() / R;
    if E::scales(v.now[0], columns).is_empty() {
        return value_columns::<E, R>(p, v, positions, 0..columns / LANES, out);
    }
    for (g, first) in (0..columns).step_by(E::GROUP).enumerate() {
        let mut scaled = [[0.0; PARTITION]; R];
        for (scaled, p) in scaled.iter_mut().zip(p) {
            let (scaled, p) = (scaled.as_chunks_mut::<LANES>().0, p.as_chunks::<LANES>().0);
            for b in positions.start / LANES..positions.end.div_ceil(LANES) {
                store(&mut scaled[b], _mm512_mul_ps(load(&p[b]), load(&E::scales(v.now[b], columns)[g])));
            }
        }
        let vectors = first / LANES..columns.min(first + E::GROUP) / LANES;
        value_columns::<E, R>(&scaled.each_ref().map(|p| &p[..]), v, positions.clone(), vectors, out);
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn value_columns<E: Load, const R: usize>(
    p: &[&[f32]; R],
    v: Reading<'_, E>,
    positions: Range<usize>,
    vectors: Range<usize>,
    out: &mut [f32],
) {
    let mut from = vectors.start;
    while from < vectors.end {
        let step = (vectors.end - from).min(4);
        match step {
            4 => value_tile::<E, R, 4>(p, v, positions.clone(), from, out),
            3 => value_tile::<E, R, 3>(p, v, positions.clone(), from, out),
            2 => value_tile::<E, R, 2>(p, v, positions.clone(), from, out),
            _ => value_tile::<E, R, 1>(p, v, positions.clone(), from, out),
        }
        from += step;
    }
}

/// Columns `16 * from ..` of all rows.
#[inline]
#[target_feature(enable = "avx512f")]
fn value_tile<E: Load, const R: usize, const C: usize>(
    p: &[&[f32]; R],
    v: Reading<'_, E>,
    positions: Range<usize>,
    from: usize,
    out: &mut [f32],
) {
    let out = out.as_chunks_mut::<LANES>().0;
    let vectors = out.len() / R;
    let p = p.map(|row| &row[..positions.end]);
    let mut acc = [[_mm512_setzero_ps(); C]; R];
    for (acc, out) in acc.iter_mut().zip(out.chunks_exact(vectors)) {
        for (acc, out) in acc.iter_mut().zip(&out[from..from + C]) {
            *acc = load(out);
        }
    }
    for t in positions {
        // Each of a row's tiles asks for its share of the block, a part with every row.
        fetch(v.ahead[t / LANES], (from * LANES + t % LANES * C) * LANES);
        let row = &v.now[t / LANES].as_chunks::<LANES>().0[t % LANES * vectors + from..][..C];
        let mut columns = [_mm512_setzero_ps(); C];
        for (column, v) in columns.iter_mut().zip(row) {
            // SAFETY: this function requires the feature.
            *column = unsafe { E::load(v) };
        }
        for r in 0..R {
            let p = _mm512_set1_ps(p[r][t]);
            for c in 0..C {
                acc[r][c] = _mm512_fmadd_ps(p, columns[c], acc[r][c]);
            }
        }
    }
    for (acc, out) in acc.iter().zip(out.chunks_exact_mut(vectors)) {
        for (&acc, out) in acc.iter().zip(&mut out[from..from + C]) {
            store(out, acc);
        }
    }
}

/// Lanes of vector `i` that are inside `visible`.
#[inline(always)]
fn mask(i: usize, visible: &Range<usize>) -> __mmask16 {
    let below = |end: usize| (1u32 << end.saturating_sub(i * LANES).min(LANES)) - 1;
    (below(visible.end) & !below(visible.start)) as __mmask16
}

/// Exponentials of the visible scores below their maximum, and their sum.
#[target_feature(enable = "avx512f,avx512dq")]
pub fn softmax(scores: &mut [f32], visible: Range<usize>) -> Softmax {
    let (vectors, _) = scores.as_chunks_mut::<LANES>();
    let touched = visible.start / LANES..visible.end.div_ceil(LANES);
    let mut max = _mm512_set1_ps(f32::NEG_INFINITY);
    for i in touched.clone() {
        max = _mm512_mask_max_ps(max, mask(i, &visible), load(&vectors[i]), max);
    }
    let max = _mm512_reduce_max_ps(max);
    let mut sum = _mm512_setzero_ps();
    for i in touched {
        let p = exp(_mm512_sub_ps(load(&vectors[i]), _mm512_set1_ps(max)));
        sum = _mm512_mask_add_ps(sum, mask(i, &visible), sum, p);
        store(&mut vectors[i], p);
    }
    Softmax { max, sum: fold(sum) }
}

/// Merges the partial result of later positions.
#[target_feature(enable = "avx512f,fma")]
pub fn merge(all: &mut Softmax, acc: &mut [f32], later: Softmax, out: &[f32]) {
    portable::attention::merge(all, acc, later, out);
}
