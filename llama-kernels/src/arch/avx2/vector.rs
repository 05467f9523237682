//! Row loops on pairs of vectors of eight lanes: the low half holds virtual lanes 0 to 7, the high half 8 to 15.
//!
//! A row's tail is worked on in a pair padded with zeros, which add nothing to any sum.

use std::arch::x86_64::*;

use half::{bf16, f16};
use llama_core::backend::RopeLayout;
use llama_core::numerics::{EXP_MAX, EXP_MIN, EXP_POLY, LANES, LN2_HI, LN2_LO, LOG2_E};

use crate::arch::portable::{self, vector::padded};
use crate::weight::pack::MAX_PANEL_ROWS;

/// Sixteen lanes.
pub type Pair = [__m256; 2];

/// Sixteen numbers.
#[inline]
#[target_feature(enable = "avx2")]
pub fn load(x: &[f32; LANES]) -> Pair {
    // SAFETY: two unaligned loads of exactly the array's bytes.
    unsafe { [_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))] }
}

/// Stores sixteen numbers.
#[inline]
#[target_feature(enable = "avx2")]
pub fn store(out: &mut [f32; LANES], [low, high]: Pair) {
    // SAFETY: two unaligned stores of exactly the array's bytes.
    unsafe {
        _mm256_storeu_ps(out.as_mut_ptr(), low);
        _mm256_storeu_ps(out.as_mut_ptr().add(8), high);
    }
}

/// [`llama_core::numerics::fold`] of sixteen lanes.
#[inline]
#[target_feature(enable = "avx2")]
pub fn fold(x: Pair) -> f32 {
    let eight = _mm256_add_ps(x[0], x[1]);
    let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}

/// [`llama_core::numerics::exp`] of sixteen numbers. `min` and `max` return their second operand where one is NaN.
///
/// The steps of both vectors alternate: a chain of fifteen fills the core's queue of waiting instructions soon, and what is
/// ready stands behind it.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub fn exp(x: Pair) -> Pair {
    let (mut n, mut r, mut p) = (x, x, [_mm256_set1_ps(EXP_POLY[0]); 2]);
    for i in 0..2 {
        r[i] = _mm256_max_ps(_mm256_set1_ps(EXP_MIN), _mm256_min_ps(_mm256_set1_ps(EXP_MAX), x[i]));
        n[i] = _mm256_mul_ps(r[i], _mm256_set1_ps(LOG2_E));
        n[i] = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(n[i]);
    }
    for part in [LN2_HI, LN2_LO] {
        let part = _mm256_set1_ps(part);
        r = [_mm256_fnmadd_ps(n[0], part, r[0]), _mm256_fnmadd_ps(n[1], part, r[1])];
    }
    for &c in &EXP_POLY[1..] {
        let c = _mm256_set1_ps(c);
        p = [_mm256_fmadd_ps(p[0], r[0], c), _mm256_fmadd_ps(p[1], r[1], c)];
    }
    for i in 0..2 {
        let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n[i]), _mm256_set1_epi32(127));
        p[i] = _mm256_mul_ps(p[i], _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent)));
    }
    p
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn silu(x: Pair) -> Pair {
    let one = _mm256_set1_ps(1.0);
    let sign = _mm256_set1_ps(-0.0);
    let below = exp([_mm256_xor_ps(x[0], sign), _mm256_xor_ps(x[1], sign)]);
    [_mm256_div_ps(x[0], _mm256_add_ps(one, below[0])), _mm256_div_ps(x[1], _mm256_add_ps(one, below[1]))]
}

#[target_feature(enable = "avx2,fma")]
fn sum_of_squares(x: &[f32]) -> f32 {
    let (chunks, tail) = x.as_chunks::<LANES>();
    let mut sum = [_mm256_setzero_ps(); 2];
    for x in chunks.iter().chain([&padded(tail)]) {
        let [low, high] = load(x);
        sum = [_mm256_fmadd_ps(low, low, sum[0]), _mm256_fmadd_ps(high, high, sum[1])];
    }
    fold(sum)
}

/// `out = x * rms_scale(x, eps) * gain`.
#[target_feature(enable = "avx2,fma")]
pub fn rms_norm(out: &mut [f32], x: &[f32], gain: &[f32], eps: f32) {
    let scale = 1.0 / (sum_of_squares(x) / x.len() as f32 + eps).sqrt();
    portable::vector::scale_by(out, x, gain, scale);
}

/// `x *= rms_scale(x, eps) * gain`, the scale first.
#[target_feature(enable = "avx2,fma")]
pub fn norm_in_place(x: &mut [f32], gain: &[f32], eps: f32) {
    let scale = 1.0 / (sum_of_squares(x) / x.len() as f32 + eps).sqrt();
    portable::vector::scale_in_place(x, gain, scale);
}

/// `acc += x`.
#[target_feature(enable = "avx2")]
pub fn add(acc: &mut [f32], x: &[f32]) {
    portable::vector::add(acc, x);
}

/// `acc += sum over k of low[k] * ranks[k][first..]`.
#[target_feature(enable = "avx2,fma")]
pub fn add_low_rank(acc: &mut [f32; LANES], low: &[f32], ranks: &[[f32; MAX_PANEL_ROWS]], first: usize) {
    portable::vector::add_low_rank(acc, low, ranks, first);
}

/// `out = silu(gate) * up`.
#[target_feature(enable = "avx2,fma")]
pub fn swiglu(out: &mut [f32], gate: &[f32], up: &[f32]) {
    let (chunks, tail) = out.as_chunks_mut::<LANES>();
    let ((gates, gate_tail), (ups, up_tail)) = (gate.as_chunks::<LANES>(), up.as_chunks::<LANES>());
    for ((out, gate), up) in chunks.iter_mut().zip(gates).zip(ups) {
        store(out, swiglu_one(gate, up));
    }
    if tail.is_empty() {
        return;
    }
    let mut last = [0.0; LANES];
    store(&mut last, swiglu_one(&padded(gate_tail), &padded(up_tail)));
    tail.copy_from_slice(&last[..tail.len()]);
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn swiglu_one(gate: &[f32; LANES], up: &[f32; LANES]) -> Pair {
    let (silu, up) = (silu(load(gate)), load(up));
    [_mm256_mul_ps(silu[0], up[0]), _mm256_mul_ps(silu[1], up[1])]
}

/// Turns the pairs of one head.
#[target_feature(enable = "avx2,fma")]
pub fn rotate(head: &mut [f32], cos: &[f32], sin: &[f32], layout: RopeLayout) {
    portable::vector::rotate(head, cos, sin, layout);
}

/// Rounds to half precision, to nearest even.
#[target_feature(enable = "avx2,f16c")]
pub fn narrow(x: &[f32], out: &mut [f16]) {
    let ((chunks, tail), (outs, out_tail)) = (x.as_chunks::<LANES>(), out.as_chunks_mut::<LANES>());
    for (x, out) in chunks.iter().zip(outs) {
        narrow_one(x, out);
    }
    let mut last = [f16::ZERO; LANES];
    narrow_one(&padded(tail), &mut last);
    out_tail.copy_from_slice(&last[..tail.len()]);
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn narrow_one(x: &[f32; LANES], out: &mut [f16; LANES]) {
    let [low, high] = load(x);
    let [low, high] =
        [_mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(low), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(high)];
    // SAFETY: an unaligned store of exactly the array's bytes.
    unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), _mm256_set_m128i(high, low)) }
}

/// Rounds to bfloat16, to nearest even.
#[target_feature(enable = "avx2")]
pub fn narrow_bf16(x: &[f32], out: &mut [bf16]) {
    let ((chunks, tail), (outs, out_tail)) = (x.as_chunks::<LANES>(), out.as_chunks_mut::<LANES>());
    for (x, out) in chunks.iter().zip(outs) {
        narrow_one_bf16(x, out);
    }
    let mut last = [bf16::ZERO; LANES];
    narrow_one_bf16(&padded(tail), &mut last);
    out_tail.copy_from_slice(&last[..tail.len()]);
}

#[inline]
#[target_feature(enable = "avx2")]
fn narrow_one_bf16(x: &[f32; LANES], out: &mut [bf16; LANES]) {
    let [low, high] = load(x);
    // Packing works within halves of a register: the last step puts the runs of four numbers in order.
    let bits = _mm256_permute4x64_epi64::<0b_11_01_10_00>(_mm256_packus_epi32(upper_half(low), upper_half(high)));
    // SAFETY: an unaligned store of exactly the array's bytes.
    unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), bits) }
}

/// The upper half of each number's bits, rounded to even by what is added to them; a NaN stays one.
#[inline]
#[target_feature(enable = "avx2")]
fn upper_half(x: __m256) -> __m256i {
    let bits = _mm256_castps_si256(x);
    let upper = _mm256_srli_epi32::<16>(bits);
    let half = _mm256_add_epi32(_mm256_and_si256(upper, _mm256_set1_epi32(1)), _mm256_set1_epi32(0x7FFF));
    let rounded = _mm256_srli_epi32::<16>(_mm256_add_epi32(bits, half));
    let quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
    _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(x, x)))
}

/// Quantises in groups, each with its scale.
#[target_feature(enable = "avx2")]
pub fn quantise(x: &[f32], out: &mut [i8], scales: &mut [f32]) {
    portable::vector::quantise(x, out, scales);
}
