//! The linear's kernels on NEON: a register is four rows, so a panel of sixteen is gone through by quarters.
//!
//! Here are those for few columns, straight from packed codes: all quarters of a group in turn, so that the panel is one
//! stream. More columns have theirs in [`super::linear_many`]. Either way sums stay in registers. Codes are signed in
//! registers: those of less than eight bits as they are, the others by flipping their highest bit, which takes off their zero
//! point of 128.

use std::arch::aarch64::*;

use super::dot::{Dot, Dotprod, I8mm, Widening};
use super::linear_bits::Codes;
use super::linear_blocks::*;
use super::linear_floats::floats;
use super::linear_i8mm::{self, Pairs};
use super::linear_many::{Lanes, Tiles, WIDEST, many, quarter_bytes};
use super::vector::store_quarter;
use crate::arch::linear::{Acts, Kernel, LinearKernels, MAX_COLUMNS, Many, ManyKernel, Tile};
use crate::quant::QuantTile;
use crate::weight::pack::{PACKS, Pack};

/// Columns from which codes are unpacked for all of them, where they are multiplied row by row.
const FROM: usize = 5;

/// The table for any aarch64.
pub(in crate::arch) fn neon() -> LinearKernels {
    kernels::<Widening, Lanes<Widening>>(FROM, quantise)
}

/// The table for a CPU that has dotprod.
pub(in crate::arch) fn dotprod() -> LinearKernels {
    kernels::<Dotprod, Lanes<Dotprod>>(FROM, quantise)
}

/// The table for a CPU that has dotprod and i8mm.
pub(in crate::arch) fn i8mm() -> LinearKernels {
    kernels::<I8mm, Pairs>(linear_i8mm::FROM, linear_i8mm::quantise)
}

/// Few columns are multiplied by `D`, `from` so many on by `T`.
fn kernels<D: Dot, T: Tiles>(from: usize, quantise: unsafe fn(&[f32], QuantTile<'_>)) -> LinearKernels {
    let Table { kernels, many } = table::<D, T>();
    LinearKernels {
        columns: WIDEST,
        kernels,
        many: Some(Many { from, kernels: many }),
        zero_pairs: false,
        quantise,
        floats: floats(),
    }
}

/// Kernels by form.
struct Table {
    /// For few columns.
    kernels: [[Kernel; MAX_COLUMNS]; PACKS],
    /// For many.
    many: [Option<ManyKernel>; PACKS],
}

/// Those of every form that has codes.
fn table<D: Dot, T: Tiles>() -> Table {
    let any: Kernel = quantised::<D, Q8_0, 544, 1, 4, 1>;
    let mut table = Table { kernels: [[any; MAX_COLUMNS]; PACKS], many: [None; PACKS] };
    table.set::<D, T, Q8_0, 544, 1, { quarter_bytes(1) }, false, EIGHT_BITS>(Pack::Q8_0);
    table.set::<D, T, Q4_0, 288, 1, { quarter_bytes(1) }, false, FIVE_BITS>(Pack::Q4_0);
    table.set::<D, T, Q4_1, 320, 1, { quarter_bytes(1) }, true, FIVE_BITS>(Pack::Q4_1);
    table.set::<D, T, Q5_0, 352, 1, { quarter_bytes(1) }, false, FIVE_BITS>(Pack::Q5_0);
    table.set::<D, T, Q5_1, 384, 1, { quarter_bytes(1) }, true, FIVE_BITS>(Pack::Q5_1);
    table.set::<D, T, Q2K, 1344, 2, { quarter_bytes(2) }, true, SIX_BITS>(Pack::Q2_K);
    table.set::<D, T, Q3K, 1760, 2, { quarter_bytes(2) }, false, SIX_BITS>(Pack::Q3_K);
    table.set::<D, T, Q4K, 2304, 1, { quarter_bytes(1) }, true, FIVE_BITS>(Pack::Q4_K);
    table.set::<D, T, Q5K, 2816, 1, { quarter_bytes(1) }, true, FIVE_BITS>(Pack::Q5_K);
    table.set::<D, T, Q6K, 3360, 2, { quarter_bytes(2) }, false, SIX_BITS>(Pack::Q6_K);
    table.set::<D, T, Iq4Nl, 288, 1, { quarter_bytes(1) }, false, EIGHT_BITS>(Pack::IQ4_NL);
    table.set::<D, T, Iq4Xs, 2176, 1, { quarter_bytes(1) }, false, EIGHT_BITS>(Pack::IQ4_XS);
    table.set::<D, T, Mxfp4, 272, 1, { quarter_bytes(1) }, false, FIVE_BITS>(Pack::MXFP4);
    table.set::<D, T, WideBlock<1, false>, 576, 1, { quarter_bytes(1) }, false, EIGHT_BITS>(Pack::Wide32);
    table.set::<D, T, WideBlock<1, true>, 640, 1, { quarter_bytes(1) }, true, EIGHT_BITS>(Pack::Wide32Min);
    table.set::<D, T, WideBlock<2, false>, 640, 2, { quarter_bytes(2) }, false, EIGHT_BITS>(Pack::Wide16);
    table.set::<D, T, WideBlock<2, true>, 768, 2, { quarter_bytes(2) }, true, EIGHT_BITS>(Pack::Wide16Min);
    table
}

impl Table {
    /// The kernels of one form; places for more columns than [`FROM`] are never asked for.
    fn set<
        D: Dot,
        T: Tiles,
        W: Block<BYTES, S>,
        const BYTES: usize,
        const S: usize,
        const OUT: usize,
        const MIN: bool,
        const STEP: usize,
    >(
        &mut self,
        pack: Pack,
    ) {
        let mut kernels: [Kernel; MAX_COLUMNS] = [quantised::<D, W, BYTES, S, 2, 4>; MAX_COLUMNS];
        kernels[0] = quantised::<D, W, BYTES, S, 4, 1>;
        kernels[1] = quantised::<D, W, BYTES, S, 4, 2>;
        kernels[2] = quantised::<D, W, BYTES, S, 4, 3>;
        self.kernels[pack as usize] = kernels;
        self.many[pack as usize] = Some(many::<T, W, BYTES, S, OUT, MIN, STEP>);
    }
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
                    // SAFETY: both need NEON, which this function has.
                    let (mut codes, factors) = unsafe { (W::codes(raw, i, first + q), W::scales(raw, i, first + q)) };
                    if D::UNSIGNED && W::HIGH {
                        codes = with_128(codes);
                    }
                    for sub in 0..S {
                        let own = sub * 8 / S..(sub + 1) * 8 / S;
                        for c in 0..C {
                            let start = vdupq_n_s32(if zero { zeros[g][sub][c] } else { 0 });
                            let (codes, quants) = (&codes[own.clone()], &quants[g][c][own.clone()]);
                            // SAFETY: only the table of its tier has the kernels of `D`.
                            let dots = unsafe { D::add(start, codes, quants, W::STEP) };
                            let scale = vmulq_n_f32(factors.scale[sub], scales[g][c]);
                            acc[c] = vfmaq_f32(acc[c], scale, vcvtq_f32_s32(dots));
                            if W::MIN {
                                acc[c] = vfmaq_n_f32(acc[c], factors.min[sub], sums[g][sub][c]);
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
fn with_128(mut codes: Codes) -> Codes {
    for code in &mut codes {
        *code = veorq_s8(*code, vdupq_n_s8(-128));
    }
    codes
}
