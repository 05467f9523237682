//! The linear's kernels on NEON with i8mm, for many columns: SMMLA multiplies eight columns of two rows with those of two
//! tokens, 32 products where SDOT adds 16.
//!
//! [`quantise`] leaves the quants of every two tokens in the order of one operand, and every two code vectors are zipped into
//! the rows of two when they are unpacked. For a quarter of a group of 32 columns and two tokens that is 8 SMMLA where it
//! would be 16 SDOT. One to three tokens, as when decoding, take USDOT straight from packed codes.

use std::arch::aarch64::*;
use std::ops::Range;

use super::dot::smmla;
use super::linear_bits::{Codes, load, store};
use super::linear_blocks::Scales;
use super::linear_many::{Column, Inputs, Tiles, WIDEST};
use super::vector::{load_quarter, store_quarter};
use crate::arch::linear::Acts;
use crate::quant::QuantTile;

/// Columns from which tiles are of pairs.
pub(super) const FROM: usize = 4;

#[target_feature(enable = "neon")]
pub(super) fn quantise(x: &[f32], mut out: QuantTile<'_>) {
    out.fill(x);
    if out.columns() >= FROM {
        out.pair();
    }
}

/// Two rows to an operand, two rows by two columns to a sum.
pub(super) struct Pairs;

impl Tiles for Pairs {
    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn put<const S: usize, const OUT: usize>(codes: Codes, scales: Scales<S>, out: &mut [u8; OUT]) {
        for (k, codes) in codes.as_chunks::<2>().0.iter().enumerate() {
            let [a, b] = codes.map(|codes| vreinterpretq_u32_s8(codes));
            store(vreinterpretq_u8_u32(vzip1q_u32(a, b)), out, 32 * k);
            store(vreinterpretq_u8_u32(vzip2q_u32(a, b)), out, 32 * k + 16);
        }
        for (s, factors) in scales.scale.into_iter().chain(scales.min).enumerate() {
            store(vreinterpretq_u8_f32(vzip1q_f32(factors, factors)), out, 128 + 32 * s);
            store(vreinterpretq_u8_f32(vzip2q_f32(factors, factors)), out, 128 + 32 * s + 16);
        }
    }

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn tile<const S: usize, const MIN: bool, const STEP: usize, const OUT: usize>(
        run: [&[[u8; OUT]]; 4],
        acts: &Acts<'_>,
        own: Range<usize>,
        out: &mut [Column],
    ) {
        match acts.columns {
            ..=FROM => pairs::<S, MIN, OUT, FROM, 2>(run, Inputs::of(acts, own, MIN), out),
            5 => pairs::<S, MIN, OUT, 5, 3>(run, Inputs::of(acts, own, MIN), out),
            6 => pairs::<S, MIN, OUT, 6, 3>(run, Inputs::of(acts, own, MIN), out),
            7 => pairs::<S, MIN, OUT, 7, 4>(run, Inputs::of(acts, own, MIN), out),
            _ => pairs::<S, MIN, OUT, WIDEST, 4>(run, Inputs::of(acts, own, MIN), out),
        }
    }
}

/// [`Tiles::tile`] of `P` pairs of columns, of which the last may be one column twice. (Not inlined, so that the registers are
/// its own.)
#[target_feature(enable = "neon")]
#[inline(never)]
fn pairs<const S: usize, const MIN: bool, const OUT: usize, const C: usize, const P: usize>(
    run: [&[[u8; OUT]]; 4],
    inputs: Inputs<'_, C, S>,
    out: &mut [Column],
) {
    for (q, run) in run.into_iter().enumerate() {
        let mut acc = [[vdupq_n_f32(0.0); 2]; P];
        for (acc, columns) in acc.iter_mut().zip(out[..C].chunks(2)) {
            let [a, b] =
                [&columns[0], &columns[columns.len() - 1]].map(|column| load_quarter(&column.as_chunks().0[q]));
            *acc = [vzip1q_f32(a, b), vzip2q_f32(a, b)];
        }
        for (g, group) in run.iter().enumerate() {
            for sub in 0..S {
                let mut dots = [[vdupq_n_s32(0); 2]; P];
                for k in sub * 4 / S..(sub + 1) * 4 / S {
                    let codes = |r: usize| vreinterpretq_s8_u8(load(group, 32 * k + 16 * r));
                    let codes = [codes(0), codes(1)];
                    for (p, dots) in dots.iter_mut().enumerate() {
                        let quants = eight(&inputs.quants[g], p, k);
                        // SAFETY: only the table of its tier has these kernels.
                        *dots = unsafe { [smmla(dots[0], codes[0], quants), smmla(dots[1], codes[1], quants)] };
                    }
                }
                let factors = |s: usize, r: usize| vreinterpretq_f32_u8(load(group, 128 + 32 * s + 16 * r));
                let scale = [factors(sub, 0), factors(sub, 1)];
                for (p, acc) in acc.iter_mut().enumerate() {
                    let act = twice_f32(pair(&inputs.scales[g], p));
                    for r in 0..2 {
                        acc[r] = vfmaq_f32(acc[r], vmulq_f32(scale[r], act), vcvtq_f32_s32(dots[p][r]));
                    }
                }
                if MIN {
                    let min = [factors(S + sub, 0), factors(S + sub, 1)];
                    for (p, acc) in acc.iter_mut().enumerate() {
                        let sums = twice_f32(pair(&inputs.sums[g][sub], p));
                        for r in 0..2 {
                            acc[r] = vfmaq_f32(acc[r], min[r], sums);
                        }
                    }
                }
            }
        }
        for (acc, columns) in acc.into_iter().zip(out[..C].chunks_mut(2)) {
            let of_columns = [vuzp1q_f32(acc[0], acc[1]), vuzp2q_f32(acc[0], acc[1])];
            for (column, acc) in columns.iter_mut().zip(of_columns) {
                store_quarter(&mut column.as_chunks_mut().0[q], acc);
            }
        }
    }
}

/// Eight columns of both tokens of pair `p`, from the `k`th eight.
#[target_feature(enable = "neon")]
#[inline]
fn eight<const C: usize>(quants: &[[i32; 8]; C], p: usize, k: usize) -> int8x16_t {
    if 2 * p + 1 < C {
        let four: &[i32; 4] = &quants[2 * p + k / 2].as_chunks().0[k % 2];
        // SAFETY: the reference is to as many bytes as are read, and the load has no alignment.
        vreinterpretq_s8_s32(unsafe { vld1q_s32(four.as_ptr()) })
    } else {
        vreinterpretq_s8_s32(twice(quants[2 * p].as_chunks().0[k]))
    }
}

/// What both tokens of pair `p` have.
#[inline]
fn pair<T: Copy, const C: usize>(columns: &[T; C], p: usize) -> [T; 2] {
    [columns[2 * p], columns[(2 * p + 1).min(C - 1)]]
}

/// Numbers of two tokens, for two rows.
#[target_feature(enable = "neon")]
#[inline]
fn twice([a, b]: [i32; 2]) -> int32x4_t {
    vreinterpretq_s32_u64(vdupq_n_u64(u64::from(a as u32) | u64::from(b as u32) << 32))
}

#[target_feature(enable = "neon")]
#[inline]
fn twice_f32(floats: [f32; 2]) -> float32x4_t {
    vreinterpretq_f32_s32(twice(floats.map(|x| x.to_bits() as i32)))
}
