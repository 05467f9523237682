//! Attention's loops on vectors of eight: positions (scores) or columns (values), two vectors to the sixteen of a block.
//!
//! A register tile is R query rows by N vectors, eight accumulators: a fused multiply-add takes four cycles and two start in
//! each, so these eight chains just cover the latency. Twelve would leave slack, and with the vector of K or V and the
//! rows' numbers they take every register: the compiler then keeps one chain in memory, which halves the speed. Each vector
//! of K or V that was loaded (and widened) serves R rows.
//!
//! Arrays are filled by loops: a closure in `map` or `from_fn` is not always inlined here, and then the lengths of slices
//! are not known in the inner loop, which checks each of them.

use std::arch::x86_64::*;
use std::ops::Range;

use half::{bf16, f16};
use llama_core::numerics::{LANES, PARTITION};

use super::fetch;
use super::vector::{Pair, exp, fold, load, store};
use crate::arch::portable;
use crate::kernels::{Reading, Softmax};
use crate::kv::Element;

/// Numbers of a vector.
const EIGHT: usize = LANES / 2;

/// An element of K and V as this tier reads it.
pub trait Load: Element {
    /// Eight of them, widened.
    ///
    /// # Safety
    /// The CPU has AVX2 and F16C.
    unsafe fn load(x: &[Self; EIGHT]) -> __m256;
}

impl Load for f32 {
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn load(x: &[f32; EIGHT]) -> __m256 {
        get(x)
    }
}

impl Load for f16 {
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn load(x: &[f16; EIGHT]) -> __m256 {
        // SAFETY: an unaligned load of exactly the array's bytes.
        _mm256_cvtph_ps(unsafe { _mm_loadu_si128(x.as_ptr().cast()) })
    }
}

impl Load for bf16 {
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn load(x: &[bf16; EIGHT]) -> __m256 {
        // SAFETY: an unaligned load of exactly the array's bytes.
        let bits = _mm256_cvtepu16_epi32(unsafe { _mm_loadu_si128(x.as_ptr().cast()) });
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits))
    }
}

impl Load for i8 {
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn load(x: &[i8; EIGHT]) -> __m256 {
        // SAFETY: an unaligned load of exactly the array's bytes.
        _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(unsafe { _mm_loadl_epi64(x.as_ptr().cast()) }))
    }
}

/// Scores of each query against each position of each block; see `BlockKernels::scores`.
#[target_feature(enable = "avx2,fma,f16c")]
pub fn scores<E: Load>(q: &[&[f32]], k: Reading<'_, E>, scale: f32, out: &mut [f32]) {
    match *q {
        [a] => score_rows::<E, 1, 4>(&[a], k, scale, out),
        [a, b] => score_rows::<E, 2, 2>(&[a, b], k, scale, out),
        [a, b, c] => score_rows::<E, 3, 1>(&[a, b, c], k, scale, out),
        [a, b, c, d] => score_rows::<E, 4, 1>(&[a, b, c, d], k, scale, out),
        _ => unreachable!("{} queries", q.len()),
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
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

/// Scores against B blocks, two vectors each.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn score_tile<E: Load, const R: usize, const B: usize>(
    q: &[&[f32]; R],
    (k, ahead): (&[&[E]; B], &[&[E]; B]),
    scale: f32,
    out: &mut [f32],
) {
    let dim = q[0].len();
    let (mut rows, mut columns): ([&[f32]; R], [&[[E; LANES]]; B]) = ([&[]; R], [&[]; B]);
    rows.iter_mut().zip(q).for_each(|(row, q)| *row = &q[..dim]);
    columns.iter_mut().zip(k).for_each(|(columns, block)| *columns = &block.as_chunks().0[..dim]);
    let mut acc = [[[_mm256_setzero_ps(); 2]; R]; B];
    for (g, first) in (0..dim).step_by(E::GROUP).enumerate() {
        let mut dots = [[[_mm256_setzero_ps(); 2]; R]; B];
        for d in first..dim.min(first.saturating_add(E::GROUP)) {
            let mut q = [_mm256_setzero_ps(); R];
            for r in 0..R {
                q[r] = _mm256_set1_ps(rows[r][d]);
            }
            for b in 0..B {
                fetch(ahead[b], d * LANES);
                for (half, column) in columns[b][d].as_chunks().0.iter().enumerate() {
                    // SAFETY: this function requires the features.
                    let column = unsafe { E::load(column) };
                    for r in 0..R {
                        dots[b][r][half] = _mm256_fmadd_ps(q[r], column, dots[b][r][half]);
                    }
                }
            }
        }
        for b in 0..B {
            match E::scales(k[b], dim).get(g) {
                Some(scales) => chain(load(scales), &dots[b], &mut acc[b]),
                None => acc[b] = dots[b],
            }
        }
    }
    let scale = _mm256_set1_ps(scale);
    for (b, acc) in acc.iter().enumerate() {
        for (r, acc) in acc.iter().enumerate() {
            let out = out[r * PARTITION + b * LANES..].first_chunk_mut().expect("a block of scores");
            store(out, [_mm256_mul_ps(acc[0], scale), _mm256_mul_ps(acc[1], scale)]);
        }
    }
}

/// `acc = scales * dots + acc` for each row.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn chain<const R: usize>(scales: Pair, dots: &[Pair; R], acc: &mut [Pair; R]) {
    for (acc, dots) in acc.iter_mut().zip(dots) {
        *acc = [_mm256_fmadd_ps(scales[0], dots[0], acc[0]), _mm256_fmadd_ps(scales[1], dots[1], acc[1])];
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn get(x: &[f32; EIGHT]) -> __m256 {
    // SAFETY: an unaligned load of exactly the array's bytes.
    unsafe { _mm256_loadu_ps(x.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn put(out: &mut [f32; EIGHT], x: __m256) {
    // SAFETY: an unaligned store of exactly the array's bytes.
    unsafe { _mm256_storeu_ps(out.as_mut_ptr(), x) }
}

/// Weighted sums of the rows of V; see `BlockKernels::values`.
#[target_feature(enable = "avx2,fma,f16c")]
pub fn values<E: Load>(p: &[&[f32]], v: Reading<'_, E>, positions: Range<usize>, out: &mut [f32]) {
    match *p {
        [a] => value_rows::<E, 1, 8>(&[a], v, positions, out),
        [a, b] => value_rows::<E, 2, 4>(&[a, b], v, positions, out),
        [a, b, c] => value_rows::<E, 3, 2>(&[a, b, c], v, positions, out),
        [a, b, c, d] => value_rows::<E, 4, 3>(&[a, b, c, d], v, positions, out),
        _ => unreachable!("{} rows", p.len()),
    }
}

/// Columns that share a scale at a time, if there are scales.
#[target_feature(enable = "avx2,fma,f16c")]
fn value_rows<E: Load, const R: usize, const N: usize>(
    p: &[&[f32]; R],
    v: Reading<'_, E>,
    positions: Range<usize>,
    out: &mut [f32],
) {
    let columns = out.len() / R;
    if E::scales(v.now[0], columns).is_empty() {
        return value_columns::<E, R, N>(p, v, positions, 0..columns / EIGHT, out);
    }
    for (g, first) in (0..columns).step_by(E::GROUP).enumerate() {
        let mut scaled = [[0.0; PARTITION]; R];
        for (scaled, p) in scaled.iter_mut().zip(p) {
            let blocks = positions.start / LANES..positions.end.div_ceil(LANES);
            let (scaled, p) = (scaled.as_chunks_mut::<LANES>().0, p.as_chunks::<LANES>().0);
            for b in blocks {
                let (p, scale) = (load(&p[b]), load(&E::scales(v.now[b], columns)[g]));
                store(&mut scaled[b], [_mm256_mul_ps(p[0], scale[0]), _mm256_mul_ps(p[1], scale[1])]);
            }
        }
        let eights = first / EIGHT..columns.min(first + E::GROUP) / EIGHT;
        value_columns::<E, R, N>(&scaled.each_ref().map(|p| &p[..]), v, positions.clone(), eights, out);
    }
}

/// Whole tiles, and pairs of vectors behind them.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn value_columns<E: Load, const R: usize, const N: usize>(
    p: &[&[f32]; R],
    v: Reading<'_, E>,
    positions: Range<usize>,
    eights: Range<usize>,
    out: &mut [f32],
) {
    let mut at = eights.start;
    while at < eights.end {
        let left = eights.end - at;
        if left >= N && left != N + 1 {
            value_tile::<E, R, N>(p, v, positions.clone(), at, out);
            at += N;
        } else {
            value_tile::<E, R, 2>(p, v, positions.clone(), at, out);
            at += 2;
        }
    }
}

/// N vectors of columns, from the `from`-th, of all rows.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn value_tile<E: Load, const R: usize, const N: usize>(
    p: &[&[f32]; R],
    v: Reading<'_, E>,
    positions: Range<usize>,
    from: usize,
    out: &mut [f32],
) {
    let out = out.as_chunks_mut::<EIGHT>().0;
    let eights = out.len() / R;
    let mut acc = [[_mm256_setzero_ps(); N]; R];
    for (acc, out) in acc.iter_mut().zip(out.chunks_exact(eights)) {
        acc.iter_mut().zip(&out[from..from + N]).for_each(|(acc, out)| *acc = get(out));
    }
    let blocks = positions.start / LANES..positions.end.div_ceil(LANES);
    for (b, (block, ahead)) in blocks.clone().zip(v.now[blocks.clone()].iter().zip(&v.ahead[blocks])) {
        let (start, share) = (b * LANES, N * LANES * EIGHT);
        // Each of a row's tiles asks for its share of the block.
        for line in (0..share).step_by(64 / size_of::<E>()) {
            fetch(ahead, from * LANES * EIGHT + line);
        }
        let inside = positions.start.max(start) - start..positions.end.min(start + LANES) - start;
        let mut weights: [&[f32]; R] = [&[]; R];
        for (weights, p) in weights.iter_mut().zip(p) {
            *weights = &p[start..][inside.clone()];
        }
        let rows = &block.as_chunks::<EIGHT>().0[inside.start * eights..inside.end * eights];
        for (t, row) in rows.chunks_exact(eights).enumerate() {
            let row: &[[E; EIGHT]; N] = row[from..].first_chunk().expect("whole rows");
            let mut column = [_mm256_setzero_ps(); N];
            for n in 0..N {
                // SAFETY: this function requires the features.
                column[n] = unsafe { E::load(&row[n]) };
            }
            for r in 0..R {
                let p = _mm256_set1_ps(weights[r][t]);
                for n in 0..N {
                    acc[r][n] = _mm256_fmadd_ps(p, column[n], acc[r][n]);
                }
            }
        }
    }
    for (acc, out) in acc.iter().zip(out.chunks_exact_mut(eights)) {
        acc.iter().zip(&mut out[from..from + N]).for_each(|(&acc, out)| put(out, acc));
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

/// Exponentials of the visible scores below their maximum, and their sum. Only the first and the last pair have positions
/// that are not visible.
#[target_feature(enable = "avx2,fma")]
pub fn softmax(scores: &mut [f32], visible: Range<usize>) -> Softmax {
    let touched = visible.start / LANES..visible.end.div_ceil(LANES);
    let pairs = &mut scores.as_chunks_mut::<LANES>().0[touched.clone()];
    let (before, behind) = (visible.start - touched.start * LANES, touched.end * LANES - visible.end);
    let last = pairs.len() - 1;
    pairs[0][..before].fill(f32::NEG_INFINITY);
    pairs[last][LANES - behind..].fill(f32::NEG_INFINITY);
    let mut max = [_mm256_set1_ps(f32::NEG_INFINITY); 2];
    for pair in &*pairs {
        let scores = load(pair);
        max = [_mm256_max_ps(scores[0], max[0]), _mm256_max_ps(scores[1], max[1])];
    }
    let max = largest(_mm256_max_ps(max[0], max[1]));
    let mut sum = [_mm256_setzero_ps(); 2];
    for (i, pair) in pairs.iter_mut().enumerate() {
        let (scores, max) = (load(pair), _mm256_set1_ps(max));
        let mut p = exp([_mm256_sub_ps(scores[0], max), _mm256_sub_ps(scores[1], max)]);
        store(pair, p);
        if i == 0 || i == last {
            let masks = masks(touched.start + i, &visible);
            p = [_mm256_and_ps(p[0], masks[0]), _mm256_and_ps(p[1], masks[1])];
        }
        sum = [_mm256_add_ps(sum[0], p[0]), _mm256_add_ps(sum[1], p[1])];
    }
    Softmax { max, sum: fold(sum) }
}

/// The largest of eight numbers, none of them NaN.
#[inline]
#[target_feature(enable = "avx2")]
fn largest(x: __m256) -> f32 {
    let four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
}

/// Merges the partial result of later positions.
#[target_feature(enable = "avx2,fma")]
pub fn merge(all: &mut Softmax, acc: &mut [f32], later: Softmax, out: &[f32]) {
    portable::attention::merge(all, acc, later, out);
}
