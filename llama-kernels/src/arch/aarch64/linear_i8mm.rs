//! The linear's kernels on NEON with i8mm, for many columns: USMMLA multiplies eight columns of two rows with those of two
//! tokens, 32 products where SDOT adds 16.
//!
//! Two code vectors are zipped into the rows of two operands, once for all tokens of a tile, and [`quantise`] leaves the
//! quants of every two tokens in the order of one. For a quarter of a group of 32 columns and `c` tokens, vector
//! instructions are, next to those that unpack and those that scale, which are the same for both:
//!
//! | | SDOT or USDOT | zips and USMMLA |
//! |---|---|---|
//! | `c` even | `8 c` | `8 + 4 c` |
//! | `c` = 1, 3 | 8, 24 | 16, 24 |
//!
//! So one to three tokens, as when decoding, take USDOT, four and more take USMMLA; up to twelve of them, since a sum is a
//! register for two rows and two tokens, share the zips. Codes stay unsigned as they are stored, and their zero point is
//! where the sums start: with SMMLA, those of eight bits would have to be made signed, eight instructions more.

use std::arch::aarch64::*;

use super::dot::usmmla;
use super::linear::with_128;
use super::linear_blocks::Block;
use super::vector::store_quarter;
use crate::arch::linear::{Acts, Kernel, MAX_COLUMNS, Tile};
use crate::quant::QuantTile;
use crate::weight::pack::Pack;

/// Columns from which USMMLA saves instructions.
const FROM: usize = 4;

/// Puts the kernels of [`FROM`] and more columns in their places.
pub(super) fn put<W: Block<BYTES, S>, const BYTES: usize, const S: usize>(kernels: &mut [Kernel; MAX_COLUMNS]) {
    kernels[3] = paired::<W, BYTES, S, 4, 2>;
    kernels[4] = paired::<W, BYTES, S, 5, 3>;
    kernels[5] = paired::<W, BYTES, S, 6, 3>;
    kernels[6] = paired::<W, BYTES, S, 7, 4>;
    kernels[7] = paired::<W, BYTES, S, 8, 4>;
    kernels[8] = paired::<W, BYTES, S, 9, 5>;
    kernels[9] = paired::<W, BYTES, S, 10, 5>;
    kernels[10] = paired::<W, BYTES, S, 11, 6>;
    kernels[11] = paired::<W, BYTES, S, 12, 6>;
}

#[target_feature(enable = "neon")]
pub(super) fn quantise(x: &[f32], mut out: QuantTile<'_>) {
    out.fill(x);
    if out.columns() >= FROM {
        out.pair();
    }
}

/// One panel of a quantised form, a quarter of its rows at a time, with `P` pairs of columns, of which the last may be one
/// column twice.
#[target_feature(enable = "neon")]
fn paired<W: Block<BYTES, S>, const BYTES: usize, const S: usize, const C: usize, const P: usize>(
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
    let zero = W::ZERO || W::HIGH;
    assert!(quants.len() == groups && scales.len() == groups);
    assert!((!zero || zeros.len() == groups) && (!W::MIN || sums.len() == groups));
    for q in 0..4 {
        let mut acc = [[vdupq_n_f32(0.0); 2]; P];
        for (b, raw) in blocks.iter().enumerate() {
            for i in 0..W::GROUPS {
                let g = b * W::GROUPS + i;
                // SAFETY: `unpack` needs NEON, which this function has.
                let group = unsafe { W::unpack(raw, i, q) };
                let codes = zipped(if W::HIGH { with_128(group.codes) } else { group.codes });
                for sub in 0..S {
                    let (scale, min) = (doubled(group.scale[sub]), doubled(group.min[sub]));
                    for (p, acc) in acc.iter_mut().enumerate() {
                        let start = if zero { twice(pair(&zeros[g][sub], p)) } else { vdupq_n_s32(0) };
                        let mut dots = [start; 2];
                        for (k, codes) in codes.iter().enumerate().skip(sub * 4 / S).take(4 / S) {
                            let quants = eight(&quants[g], p, k);
                            // SAFETY: only the table of its tier has these kernels.
                            dots = unsafe { [usmmla(dots[0], codes[0], quants), usmmla(dots[1], codes[1], quants)] };
                        }
                        let act = twice_f32(pair(&scales[g], p));
                        for r in 0..2 {
                            acc[r] = vfmaq_f32(acc[r], vmulq_f32(scale[r], act), vcvtq_f32_s32(dots[r]));
                        }
                        if W::MIN {
                            let sums = twice_f32(pair(&sums[g][sub], p));
                            for r in 0..2 {
                                acc[r] = vfmaq_f32(acc[r], min[r], sums);
                            }
                        }
                    }
                }
            }
        }
        for (acc, columns) in acc.into_iter().zip(tile[..C].chunks_mut(2)) {
            let of_columns = [vuzp1q_f32(acc[0], acc[1]), vuzp2q_f32(acc[0], acc[1])];
            for (column, acc) in columns.iter_mut().zip(of_columns) {
                store_quarter(&mut column.as_chunks_mut().0[q], acc);
            }
        }
    }
}

/// Eight columns of rows 0 and 1, and of rows 2 and 3, from every two vectors of four columns of four rows.
#[target_feature(enable = "neon")]
#[inline]
fn zipped(codes: [int8x16_t; 8]) -> [[uint8x16_t; 2]; 4] {
    let mut zipped = [[vdupq_n_u8(0); 2]; 4];
    for (zipped, codes) in zipped.iter_mut().zip(codes.as_chunks::<2>().0) {
        let [a, b] = codes.map(|codes| vreinterpretq_u32_s8(codes));
        *zipped = [vreinterpretq_u8_u32(vzip1q_u32(a, b)), vreinterpretq_u8_u32(vzip2q_u32(a, b))];
    }
    zipped
}

/// Factors of rows 0 and 1, and of rows 2 and 3, each for two columns.
#[target_feature(enable = "neon")]
#[inline]
fn doubled(factors: float32x4_t) -> [float32x4_t; 2] {
    [vzip1q_f32(factors, factors), vzip2q_f32(factors, factors)]
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
