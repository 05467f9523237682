//! Row loops in plain Rust. The bodies of those that need no vector intrinsics are here once: the other tiers inline
//! them, where the compiler vectorises them with the tier's instructions. It may not change what they compute.

use half::{bf16, f16};
use llama_core::backend::RopeLayout;
use llama_core::numerics::{self, GROUP, LANES};

use crate::weight::pack::MAX_PANEL_ROWS;

/// `out = x * rms_scale(x, eps) * gain`.
pub fn rms_norm(out: &mut [f32], x: &[f32], gain: &[f32], eps: f32) {
    scale_by(out, x, gain, numerics::rms_scale(x, eps));
}

/// `x *= rms_scale(x, eps) * gain`, the scale first.
pub fn norm_in_place(x: &mut [f32], gain: &[f32], eps: f32) {
    scale_in_place(x, gain, numerics::rms_scale(x, eps));
}

/// `x = x * scale * gain`, rounded twice.
#[inline(always)]
pub fn scale_in_place(x: &mut [f32], gain: &[f32], scale: f32) {
    x.iter_mut().zip(gain).for_each(|(x, &gain)| *x = *x * scale * gain);
}

/// `out = x * scale * gain`, rounded twice.
#[inline(always)]
pub fn scale_by(out: &mut [f32], x: &[f32], gain: &[f32], scale: f32) {
    for ((out, &x), &gain) in out.iter_mut().zip(x).zip(gain) {
        *out = x * scale * gain;
    }
}

/// `acc += x`.
#[inline(always)]
pub fn add(acc: &mut [f32], x: &[f32]) {
    for (acc, &x) in acc.iter_mut().zip(x) {
        *acc += x;
    }
}

/// `acc += sum over k of low[k] * ranks[k][first..]`, a chain of fused multiply-adds from 0, then one addition.
#[inline(always)]
pub fn add_low_rank(acc: &mut [f32; LANES], low: &[f32], ranks: &[[f32; MAX_PANEL_ROWS]], first: usize) {
    let mut sums = [0.0f32; LANES];
    for (&low, rank) in low.iter().zip(ranks) {
        sums.iter_mut().zip(&rank[first..first + LANES]).for_each(|(sum, &b)| *sum = b.mul_add(low, *sum));
    }
    add(acc, &sums);
}

/// `out = silu(gate) * up`.
pub fn swiglu(out: &mut [f32], gate: &[f32], up: &[f32]) {
    for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
        *out = numerics::silu(gate) * up;
    }
}

/// Turns the pairs of one head.
#[inline(always)]
pub fn rotate(head: &mut [f32], cos: &[f32], sin: &[f32], layout: RopeLayout) {
    let head = &mut head[..2 * cos.len()];
    match layout {
        RopeLayout::Interleaved => {
            for (pair, (&cos, &sin)) in head.as_chunks_mut::<2>().0.iter_mut().zip(cos.iter().zip(sin)) {
                *pair = turn(pair[0], pair[1], cos, sin).into();
            }
        }
        RopeLayout::Halves => {
            let (a, b) = head.split_at_mut(cos.len());
            for ((a, b), (&cos, &sin)) in a.iter_mut().zip(b).zip(cos.iter().zip(sin)) {
                (*a, *b) = turn(*a, *b, cos, sin);
            }
        }
    }
}

#[inline(always)]
fn turn(a: f32, b: f32, cos: f32, sin: f32) -> (f32, f32) {
    (a.mul_add(cos, -(b * sin)), b.mul_add(cos, a * sin))
}

/// The last, short chunk of a row with zeros behind it.
#[inline(always)]
pub fn padded(tail: &[f32]) -> [f32; LANES] {
    let mut lanes = [0.0; LANES];
    lanes[..tail.len()].copy_from_slice(tail);
    lanes
}

/// Rounds to half precision, to nearest even.
pub fn narrow(x: &[f32], out: &mut [f16]) {
    out.iter_mut().zip(x).for_each(|(out, &x)| *out = f16::from_f32(x));
}

/// Rounds to bfloat16, to nearest even.
pub fn narrow_bf16(x: &[f32], out: &mut [bf16]) {
    out.iter_mut().zip(x).for_each(|(out, &x)| *out = bf16::from_f32(x));
}

/// Quantises in groups, each with its scale.
#[inline(always)]
pub fn quantise(x: &[f32], out: &mut [i8], scales: &mut [f32]) {
    let mut slots = out.chunks_mut(GROUP).zip(scales);
    numerics::quantize_row(x, |scale, quants| {
        let (out, slot) = slots.next().expect("a group for each of x");
        *slot = scale;
        out.copy_from_slice(quants);
    });
}
