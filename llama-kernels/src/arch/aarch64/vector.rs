//! Row loops on four vectors of four lanes: vector `i` holds virtual lanes `4 i` to `4 i + 3`.
//!
//! A row's tail is worked on in vectors padded with zeros, which add nothing to any sum.

use std::arch::aarch64::*;

use half::{bf16, f16};
use llama_core::backend::RopeLayout;
use llama_core::numerics::{EXP_MAX, EXP_MIN, EXP_POLY, LANES, LN2_HI, LN2_LO, LOG2_E};

use crate::arch::portable::{self, vector::padded};
use crate::weight::pack::MAX_PANEL_ROWS;

/// Sixteen lanes.
pub type Quad = [float32x4_t; 4];

/// Sixteen numbers.
#[inline]
#[target_feature(enable = "neon")]
pub fn load(x: &[f32; LANES]) -> Quad {
    let x = x.as_ptr();
    // SAFETY: four unaligned loads of exactly the array's bytes.
    unsafe { [vld1q_f32(x), vld1q_f32(x.add(4)), vld1q_f32(x.add(8)), vld1q_f32(x.add(12))] }
}

/// Stores sixteen numbers.
#[inline]
#[target_feature(enable = "neon")]
pub fn store(out: &mut [f32; LANES], x: Quad) {
    for (out, x) in out.as_chunks_mut().0.iter_mut().zip(x) {
        store_quarter(out, x);
    }
}

/// Four numbers.
#[inline]
#[target_feature(enable = "neon")]
pub fn load_quarter(x: &[f32; 4]) -> float32x4_t {
    // SAFETY: an unaligned load of exactly the array's bytes.
    unsafe { vld1q_f32(x.as_ptr()) }
}

/// Stores four numbers.
#[inline]
#[target_feature(enable = "neon")]
pub fn store_quarter(out: &mut [f32; 4], x: float32x4_t) {
    // SAFETY: an unaligned store of exactly the array's bytes.
    unsafe { vst1q_f32(out.as_mut_ptr(), x) }
}

/// [`llama_core::numerics::fold`] of sixteen lanes.
#[inline]
#[target_feature(enable = "neon")]
pub fn fold(x: Quad) -> f32 {
    let four = vaddq_f32(vaddq_f32(x[0], x[2]), vaddq_f32(x[1], x[3]));
    vpadds_f32(vadd_f32(vget_low_f32(four), vget_high_f32(four)))
}

/// [`llama_core::numerics::exp`] of four numbers. FMAX and FMIN return NaN where an operand is.
#[inline]
#[target_feature(enable = "neon")]
pub fn exp(x: float32x4_t) -> float32x4_t {
    let x = vmaxq_f32(vdupq_n_f32(EXP_MIN), vminq_f32(vdupq_n_f32(EXP_MAX), x));
    let n = vrndnq_f32(vmulq_n_f32(x, LOG2_E));
    let r = vfmsq_n_f32(x, n, LN2_HI);
    let r = vfmsq_n_f32(r, n, LN2_LO);
    let mut p = vdupq_n_f32(EXP_POLY[0]);
    for &c in &EXP_POLY[1..] {
        p = vfmaq_f32(vdupq_n_f32(c), p, r);
    }
    let exponent = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
    vmulq_f32(p, vreinterpretq_f32_s32(vshlq_n_s32::<23>(exponent)))
}

#[inline]
#[target_feature(enable = "neon")]
fn silu(x: float32x4_t) -> float32x4_t {
    vdivq_f32(x, vaddq_f32(vdupq_n_f32(1.0), exp(vnegq_f32(x))))
}

#[target_feature(enable = "neon")]
fn sum_of_squares(x: &[f32]) -> f32 {
    let (chunks, tail) = x.as_chunks::<LANES>();
    let mut sum = [vdupq_n_f32(0.0); 4];
    for x in chunks.iter().chain([&padded(tail)]) {
        for (sum, x) in sum.iter_mut().zip(load(x)) {
            *sum = vfmaq_f32(*sum, x, x);
        }
    }
    fold(sum)
}

/// `out = x * rms_scale(x, eps) * gain`.
#[target_feature(enable = "neon")]
pub fn rms_norm(out: &mut [f32], x: &[f32], gain: &[f32], eps: f32) {
    let scale = 1.0 / (sum_of_squares(x) / x.len() as f32 + eps).sqrt();
    portable::vector::scale_by(out, x, gain, scale);
}

/// `x *= rms_scale(x, eps) * gain`, the scale first.
#[target_feature(enable = "neon")]
pub fn norm_in_place(x: &mut [f32], gain: &[f32], eps: f32) {
    let scale = 1.0 / (sum_of_squares(x) / x.len() as f32 + eps).sqrt();
    portable::vector::scale_in_place(x, gain, scale);
}

/// `acc += x`.
#[target_feature(enable = "neon")]
pub fn add(acc: &mut [f32], x: &[f32]) {
    portable::vector::add(acc, x);
}

/// `acc += sum over k of low[k] * ranks[k][first..]`.
#[target_feature(enable = "neon")]
pub fn add_low_rank(acc: &mut [f32; LANES], low: &[f32], ranks: &[[f32; MAX_PANEL_ROWS]], first: usize) {
    portable::vector::add_low_rank(acc, low, ranks, first);
}

/// `out = silu(gate) * up`.
#[target_feature(enable = "neon")]
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
#[target_feature(enable = "neon")]
fn swiglu_one(gate: &[f32; LANES], up: &[f32; LANES]) -> Quad {
    let (mut out, up) = (load(gate), load(up));
    for (out, up) in out.iter_mut().zip(up) {
        *out = vmulq_f32(silu(*out), up);
    }
    out
}

/// Turns the pairs of one head.
#[target_feature(enable = "neon")]
pub fn rotate(head: &mut [f32], cos: &[f32], sin: &[f32], layout: RopeLayout) {
    portable::vector::rotate(head, cos, sin, layout);
}

/// Rounds to half precision, to nearest even.
#[target_feature(enable = "neon")]
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
#[target_feature(enable = "neon")]
fn narrow_one(x: &[f32; LANES], out: &mut [f16; LANES]) {
    for (out, x) in out.as_chunks_mut::<4>().0.iter_mut().zip(load(x)) {
        let half = vreinterpret_u16_f16(vcvt_f16_f32(x));
        // SAFETY: an unaligned store of exactly the chunk's bytes.
        unsafe { vst1_u16(out.as_mut_ptr().cast(), half) }
    }
}

/// Four numbers of half precision, as bits.
#[inline]
#[target_feature(enable = "neon")]
pub fn widen(bits: uint16x4_t) -> float32x4_t {
    vcvt_f32_f16(vreinterpret_f16_u16(bits))
}

/// Rounds to bfloat16, to nearest even.
#[target_feature(enable = "neon")]
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
#[target_feature(enable = "neon")]
fn narrow_one_bf16(x: &[f32; LANES], out: &mut [bf16; LANES]) {
    for (out, x) in out.as_chunks_mut::<4>().0.iter_mut().zip(load(x)) {
        // SAFETY: an unaligned store of exactly the chunk's bytes.
        unsafe { vst1_u16(out.as_mut_ptr().cast(), vmovn_u32(upper_half(x))) }
    }
}

/// The upper half of each number's bits, rounded to even by what is added to them; a NaN stays one.
#[inline]
#[target_feature(enable = "neon")]
fn upper_half(x: float32x4_t) -> uint32x4_t {
    let bits = vreinterpretq_u32_f32(x);
    let upper = vshrq_n_u32::<16>(bits);
    let half = vaddq_u32(vandq_u32(upper, vdupq_n_u32(1)), vdupq_n_u32(0x7FFF));
    let rounded = vshrq_n_u32::<16>(vaddq_u32(bits, half));
    vbslq_u32(vceqq_f32(x, x), rounded, vorrq_u32(upper, vdupq_n_u32(0x40)))
}

/// Quantises in groups, each with its scale.
#[target_feature(enable = "neon")]
pub fn quantise(x: &[f32], out: &mut [i8], scales: &mut [f32]) {
    portable::vector::quantise(x, out, scales);
}
