//! Row loops on vectors of sixteen lanes: the virtual lanes of the arithmetic are the real ones here.
//!
//! A row's tail is worked on in a vector padded with zeros, which add nothing to any sum.

use std::arch::x86_64::*;

use half::{bf16, f16};
use llama_core::backend::RopeLayout;
use llama_core::numerics::{self, EXP_MAX, EXP_MIN, EXP_POLY, LANES, LN2_HI, LN2_LO, LOG2_E};

use crate::arch::portable::{self, vector::padded};
use crate::weight::pack::MAX_PANEL_ROWS;

/// Sixteen numbers.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn load(x: &[f32; LANES]) -> __m512 {
    // SAFETY: an unaligned load of exactly the array's bytes.
    unsafe { _mm512_loadu_ps(x.as_ptr()) }
}

/// Stores sixteen numbers.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn store(out: &mut [f32; LANES], x: __m512) {
    // SAFETY: an unaligned store of exactly the array's bytes.
    unsafe { _mm512_storeu_ps(out.as_mut_ptr(), x) }
}

/// [`numerics::fold`] of a vector.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn fold(x: __m512) -> f32 {
    let mut lanes = [0.0; LANES];
    store(&mut lanes, x);
    numerics::fold(lanes)
}

/// [`numerics::exp`] of sixteen numbers. `min` and `max` return their second operand where one is NaN.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
pub fn exp(x: __m512) -> __m512 {
    let x = _mm512_max_ps(_mm512_set1_ps(EXP_MIN), _mm512_min_ps(_mm512_set1_ps(EXP_MAX), x));
    let n = _mm512_mul_ps(x, _mm512_set1_ps(LOG2_E));
    let n = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(n);
    let r = _mm512_fnmadd_ps(n, _mm512_set1_ps(LN2_HI), x);
    let r = _mm512_fnmadd_ps(n, _mm512_set1_ps(LN2_LO), r);
    let mut p = _mm512_set1_ps(EXP_POLY[0]);
    for &c in &EXP_POLY[1..] {
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
    }
    let exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
    _mm512_mul_ps(p, _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent)))
}

#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn silu(x: __m512) -> __m512 {
    let one = _mm512_set1_ps(1.0);
    _mm512_div_ps(x, _mm512_add_ps(one, exp(_mm512_xor_ps(x, _mm512_set1_ps(-0.0)))))
}

#[target_feature(enable = "avx512f,avx512dq")]
fn sum_of_squares(x: &[f32]) -> f32 {
    let (chunks, tail) = x.as_chunks::<LANES>();
    let mut sum = _mm512_setzero_ps();
    for x in chunks.iter().chain([&padded(tail)]) {
        let x = load(x);
        sum = _mm512_fmadd_ps(x, x, sum);
    }
    fold(sum)
}

/// `out = x * rms_scale(x, eps) * gain`.
#[target_feature(enable = "avx512f,avx512dq")]
pub fn rms_norm(out: &mut [f32], x: &[f32], gain: &[f32], eps: f32) {
    let scale = 1.0 / (sum_of_squares(x) / x.len() as f32 + eps).sqrt();
    portable::vector::scale_by(out, x, gain, scale);
}

/// `x *= rms_scale(x, eps) * gain`, the scale first.
#[target_feature(enable = "avx512f,avx512dq")]
pub fn norm_in_place(x: &mut [f32], gain: &[f32], eps: f32) {
    let scale = 1.0 / (sum_of_squares(x) / x.len() as f32 + eps).sqrt();
    portable::vector::scale_in_place(x, gain, scale);
}

/// `acc += x`.
#[target_feature(enable = "avx512f")]
pub fn add(acc: &mut [f32], x: &[f32]) {
    portable::vector::add(acc, x);
}

/// `acc += sum over k of low[k] * ranks[k][first..]`.
#[target_feature(enable = "avx512f")]
pub fn add_low_rank(acc: &mut [f32; LANES], low: &[f32], ranks: &[[f32; MAX_PANEL_ROWS]], first: usize) {
    portable::vector::add_low_rank(acc, low, ranks, first);
}

/// `out = silu(gate) * up`.
#[target_feature(enable = "avx512f,avx512dq")]
pub fn swiglu(out: &mut [f32], gate: &[f32], up: &[f32]) {
    let (chunks, tail) = out.as_chunks_mut::<LANES>();
    let ((gates, gate_tail), (ups, up_tail)) = (gate.as_chunks::<LANES>(), up.as_chunks::<LANES>());
    for ((out, gate), up) in chunks.iter_mut().zip(gates).zip(ups) {
        store(out, _mm512_mul_ps(silu(load(gate)), load(up)));
    }
    if tail.is_empty() {
        return;
    }
    let mut last = [0.0; LANES];
    store(&mut last, _mm512_mul_ps(silu(load(&padded(gate_tail))), load(&padded(up_tail))));
    tail.copy_from_slice(&last[..tail.len()]);
}

/// Turns the pairs of one head.
#[target_feature(enable = "avx512f,fma")]
pub fn rotate(head: &mut [f32], cos: &[f32], sin: &[f32], layout: RopeLayout) {
    portable::vector::rotate(head, cos, sin, layout);
}

/// Rounds to half precision, to nearest even.
#[target_feature(enable = "avx512f")]
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
#[target_feature(enable = "avx512f")]
fn narrow_one(x: &[f32; LANES], out: &mut [f16; LANES]) {
    let halves = _mm512_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(load(x));
    // SAFETY: an unaligned store of exactly the array's bytes.
    unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), halves) }
}

/// Rounds to bfloat16, to nearest even.
#[target_feature(enable = "avx512f")]
pub fn narrow_bf16(x: &[f32], out: &mut [bf16]) {
    let ((chunks, tail), (outs, out_tail)) = (x.as_chunks::<LANES>(), out.as_chunks_mut::<LANES>());
    for (x, out) in chunks.iter().zip(outs) {
        narrow_one_bf16(x, out);
    }
    let mut last = [bf16::ZERO; LANES];
    narrow_one_bf16(&padded(tail), &mut last);
    out_tail.copy_from_slice(&last[..tail.len()]);
}

/// Keeps the upper half of the bits, rounded to even by what is added to them; a NaN stays one.
#[inline]
#[target_feature(enable = "avx512f")]
fn narrow_one_bf16(x: &[f32; LANES], out: &mut [bf16; LANES]) {
    let x = load(x);
    let bits = _mm512_castps_si512(x);
    let upper = _mm512_srli_epi32::<16>(bits);
    let half = _mm512_add_epi32(_mm512_and_si512(upper, _mm512_set1_epi32(1)), _mm512_set1_epi32(0x7FFF));
    let rounded = _mm512_srli_epi32::<16>(_mm512_add_epi32(bits, half));
    let is_nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
    let upper = _mm512_mask_or_epi32(rounded, is_nan, upper, _mm512_set1_epi32(0x40));
    // SAFETY: an unaligned store of exactly the array's bytes.
    unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), _mm512_cvtepi32_epi16(upper)) }
}

/// Quantises in groups, each with its scale.
#[target_feature(enable = "avx512f")]
pub fn quantise(x: &[f32], out: &mut [i8], scales: &mut [f32]) {
    portable::vector::quantise(x, out, scales);
}
