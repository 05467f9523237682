//! The linear's kernels on NEON: a register is four rows, so a panel of sixteen is gone through by quarters.
//!
//! With few columns a tile takes all quarters of a group in turn, so that the panel is one stream; with many it keeps to
//! one quarter, whose unpacked codes then serve them all. Either way sums stay in registers for the whole panel. Codes
//! are signed in registers: those of less than eight bits as they are, the others by flipping their highest bit, which
//! takes off their zero point of 128.

use std::arch::aarch64::*;

use super::dot::{Dot, Dotprod, I8mm, Widening};
use super::linear_blocks::*;
use super::linear_i8mm;
use super::vector::store_quarter;
use crate::arch::linear::{Acts, Kernel, LinearKernels, MAX_COLUMNS, Tile};
use crate::quant::QuantTile;
use crate::weight::pack::{PACKS, Pack};

/// Columns of the widest tile: eight sums, eight codes and eight dot products leave registers for quants and scales.
const COLUMNS: usize = 8;

/// The table for any aarch64.
pub(in crate::arch) fn neon() -> LinearKernels {
    kernels::<Widening>()
}

/// The table for a CPU that has dotprod.
pub(in crate::arch) fn dotprod() -> LinearKernels {
    kernels::<Dotprod>()
}

/// The table for a CPU that has dotprod and i8mm.
pub(in crate::arch) fn i8mm() -> LinearKernels {
    LinearKernels { columns: MAX_COLUMNS, quantise: linear_i8mm::quantise, ..kernels::<I8mm>() }
}

fn kernels<D: Dot>() -> LinearKernels {
    let mut kernels = [row::<D, WideBlock<1, false>, 576, 1>(); PACKS];
    let mut set = |pack: Pack, row| kernels[pack as usize] = row;
    set(Pack::F32, float_row::<F32, 128>());
    set(Pack::F16, float_row::<F16, 64>());
    set(Pack::BF16, float_row::<Bf16, 64>());
    set(Pack::Q8_0, row::<D, Q8_0, 544, 1>());
    set(Pack::Q4_0, row::<D, Q4_0, 288, 1>());
    set(Pack::Q4_1, row::<D, Q4_1, 320, 1>());
    set(Pack::Q5_0, row::<D, Q5_0, 352, 1>());
    set(Pack::Q5_1, row::<D, Q5_1, 384, 1>());
    set(Pack::Q2_K, row::<D, Q2K, 1344, 2>());
    set(Pack::Q3_K, row::<D, Q3K, 1760, 2>());
    set(Pack::Q4_K, row::<D, Q4K, 2304, 1>());
    set(Pack::Q5_K, row::<D, Q5K, 2816, 1>());
    set(Pack::Q6_K, row::<D, Q6K, 3360, 2>());
    set(Pack::IQ4_NL, row::<D, Iq4Nl, 288, 1>());
    set(Pack::IQ4_XS, row::<D, Iq4Xs, 2176, 1>());
    set(Pack::MXFP4, row::<D, Mxfp4, 272, 1>());
    set(Pack::Wide32Min, row::<D, WideBlock<1, true>, 640, 1>());
    set(Pack::Wide16, row::<D, WideBlock<2, false>, 640, 2>());
    set(Pack::Wide16Min, row::<D, WideBlock<2, true>, 768, 2>());
    LinearKernels { columns: COLUMNS, kernels, many: None, zero_pairs: false, quantise }
}

/// Kernels of tiles up to [`COLUMNS`] wide; the table's further places are never asked for, and hold the last of them
/// unless a tile of pairs may be wider.
fn row<D: Dot, W: Block<BYTES, S>, const BYTES: usize, const S: usize>() -> [Kernel; MAX_COLUMNS] {
    let mut kernels: [Kernel; MAX_COLUMNS] = [quantised::<D, W, BYTES, S, 1, 8>; MAX_COLUMNS];
    kernels[0] = quantised::<D, W, BYTES, S, 4, 1>;
    kernels[1] = quantised::<D, W, BYTES, S, 4, 2>;
    kernels[2] = quantised::<D, W, BYTES, S, 4, 3>;
    kernels[3] = quantised::<D, W, BYTES, S, 2, 4>;
    kernels[4] = quantised::<D, W, BYTES, S, 2, 5>;
    kernels[5] = quantised::<D, W, BYTES, S, 2, 6>;
    kernels[6] = quantised::<D, W, BYTES, S, 1, 7>;
    if D::PAIRS {
        linear_i8mm::put::<W, BYTES, S>(&mut kernels);
    }
    kernels
}

fn float_row<W: Floats<BYTES>, const BYTES: usize>() -> [Kernel; MAX_COLUMNS] {
    let mut kernels: [Kernel; MAX_COLUMNS] = [floats::<W, BYTES, 2, 8>; MAX_COLUMNS];
    kernels[0] = floats::<W, BYTES, 8, 1>;
    kernels[1] = floats::<W, BYTES, 8, 2>;
    kernels[2] = floats::<W, BYTES, 4, 3>;
    kernels[3] = floats::<W, BYTES, 4, 4>;
    kernels[4] = floats::<W, BYTES, 4, 5>;
    kernels[5] = floats::<W, BYTES, 4, 6>;
    kernels[6] = floats::<W, BYTES, 2, 7>;
    kernels[8] = floats::<W, BYTES, 2, 9>;
    kernels[9] = floats::<W, BYTES, 2, 10>;
    kernels[10] = floats::<W, BYTES, 2, 11>;
    kernels[11] = floats::<W, BYTES, 2, 12>;
    kernels
}

#[target_feature(enable = "neon")]
fn quantise(x: &[f32], mut out: QuantTile<'_>) {
    out.fill(x);
}

/// One panel of a quantised form, `Q` quarters of its rows at a time.
#[target_feature(enable = "neon")]
fn quantised<D: Dot, W: Block<BYTES, S>, const BYTES: usize, const S: usize, const Q: usize, const C: usize>(
    _: Pack,
    panel: &[u8],
    acts: Acts<'_>,
    tile: &mut Tile,
) {
    let blocks = panel.as_chunks::<BYTES>().0;
    let quants = acts.quants.as_chunks::<C>().0;
    let scales = acts.scales.as_chunks::<C>().0;
    let zeros = acts.zeros.as_chunks::<C>().0.as_chunks::<S>().0;
    let sums = acts.sums.as_chunks::<C>().0.as_chunks::<S>().0;
    let groups = blocks.len() * W::GROUPS;
    assert!(quants.len() == groups && scales.len() == groups);
    let zero = W::ZERO || D::UNSIGNED && W::HIGH;
    assert!((!zero || zeros.len() == groups) && (!W::MIN || sums.len() == groups));
    for first in (0..4).step_by(Q) {
        let mut acc = [[vdupq_n_f32(0.0); C]; Q];
        for (b, raw) in blocks.iter().enumerate() {
            for i in 0..W::GROUPS {
                let g = b * W::GROUPS + i;
                for (q, acc) in acc.iter_mut().enumerate() {
                    // SAFETY: `unpack` needs NEON, which this function has.
                    let mut group = unsafe { W::unpack(raw, i, first + q) };
                    if D::UNSIGNED && W::HIGH {
                        group.codes = with_128(group.codes);
                    }
                    for sub in 0..S {
                        let own = sub * 8 / S..(sub + 1) * 8 / S;
                        for c in 0..C {
                            let start = vdupq_n_s32(if zero { zeros[g][sub][c] } else { 0 });
                            let (codes, quants) = (&group.codes[own.clone()], &quants[g][c][own.clone()]);
                            // SAFETY: only the table of its tier has the kernels of `D`.
                            let dots = unsafe { D::add(start, codes, quants, W::STEP) };
                            let scale = vmulq_n_f32(group.scale[sub], scales[g][c]);
                            acc[c] = vfmaq_f32(acc[c], scale, vcvtq_f32_s32(dots));
                            if W::MIN {
                                acc[c] = vfmaq_n_f32(acc[c], group.min[sub], sums[g][sub][c]);
                            }
                        }
                    }
                }
            }
        }
        for (q, acc) in acc.into_iter().enumerate() {
            for (acc, column) in acc.into_iter().zip(&mut *tile) {
                store_quarter(&mut column.as_chunks_mut().0[first + q], acc);
            }
        }
    }
}

/// Puts a zero point of 128 back. Compilers see that it was never taken off.
#[target_feature(enable = "neon")]
#[inline]
pub(super) fn with_128(mut codes: [int8x16_t; 8]) -> [int8x16_t; 8] {
    for code in &mut codes {
        *code = veorq_s8(*code, vdupq_n_s8(-128));
    }
    codes
}

/// One panel of 32 rows of floats, `R` registers of four rows at a time.
#[target_feature(enable = "neon")]
fn floats<W: Floats<BYTES>, const BYTES: usize, const R: usize, const C: usize>(
    _: Pack,
    panel: &[u8],
    acts: Acts<'_>,
    tile: &mut Tile,
) {
    for first in (0..8).step_by(R) {
        let mut acc = [[vdupq_n_f32(0.0); R]; C];
        for (raw, x) in panel.as_chunks::<BYTES>().0.iter().zip(acts.floats.as_chunks::<C>().0) {
            let mut w = [vdupq_n_f32(0.0); R];
            for (r, w) in w.iter_mut().enumerate() {
                // SAFETY: `load` needs NEON, which this function has.
                *w = unsafe { W::load(raw, first + r) };
            }
            for (acc, &x) in acc.iter_mut().zip(x) {
                for (acc, w) in acc.iter_mut().zip(w) {
                    *acc = vfmaq_n_f32(*acc, w, x);
                }
            }
        }
        for (acc, column) in acc.into_iter().zip(&mut *tile) {
            for (acc, out) in acc.into_iter().zip(&mut column.as_chunks_mut().0[first..]) {
                store_quarter(out, acc);
            }
        }
    }
}
