//! Weights that are floats, on NEON: a register is four of a panel's 32 rows.

use std::arch::aarch64::*;

use super::linear_bits::{load, store};
use super::linear_blocks::*;
use super::vector::{load_quarter, store_quarter};
use crate::arch::floats::{Add, Coded, Floating};
use crate::arch::linear::{MAX_COLUMNS, Tile};
use crate::weight::coded::{Column, Pair};

/// What every tier here has for floats.
pub(super) fn floats() -> Floating {
    let coded = Coded { few: [None; 2], expand, add: adds::<Bf16, 64>() };
    Floating { plain: [adds::<F32, 128>(), adds::<F16, 64>(), adds::<Bf16, 64>()], coded }
}

/// For tiles of one column and more.
fn adds<W: Floats<BYTES>, const BYTES: usize>() -> [Add; MAX_COLUMNS] {
    let mut adds: [Add; MAX_COLUMNS] = [add::<W, BYTES, 2, 8>; MAX_COLUMNS];
    adds[0] = add::<W, BYTES, 8, 1>;
    adds[1] = add::<W, BYTES, 8, 2>;
    adds[2] = add::<W, BYTES, 4, 3>;
    adds[3] = add::<W, BYTES, 4, 4>;
    adds[4] = add::<W, BYTES, 4, 5>;
    adds[5] = add::<W, BYTES, 4, 6>;
    adds[6] = add::<W, BYTES, 2, 7>;
    adds
}

/// `R` registers of four rows at a time.
#[target_feature(enable = "neon")]
fn add<W: Floats<BYTES>, const BYTES: usize, const R: usize, const C: usize>(
    columns: &[u8],
    x: &[f32],
    tile: &mut Tile,
) {
    for first in (0..8).step_by(R) {
        let mut acc = [[vdupq_n_f32(0.0); R]; C];
        for c in 0..C {
            for (r, acc) in acc[c].iter_mut().enumerate() {
                *acc = load_quarter(&tile[c].as_chunks().0[first + r]);
            }
        }
        for (raw, x) in columns.as_chunks::<BYTES>().0.iter().zip(x.as_chunks::<C>().0) {
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

/// Exponents over signs and mantissas, each in a byte of its own, and then interleaved.
#[target_feature(enable = "neon")]
fn expand(pairs: &[Pair], exponents: &[u8; 16], out: &mut [Column]) {
    let exponents = load(exponents, 0);
    let (high, low) = (vshrq_n_u8::<1>(exponents), vshlq_n_u8::<7>(exponents));
    let sign = vdupq_n_u8(0x80);
    for (pair, out) in pairs.iter().zip(out.as_chunks_mut::<2>().0) {
        for half in 0..2 {
            let both = load(pair, 16 * half);
            for (k, codes) in [vandq_u8(both, vdupq_n_u8(15)), vshrq_n_u8::<4>(both)].into_iter().enumerate() {
                let rest = load(pair, 32 + 32 * k + 16 * half);
                let high = vorrq_u8(vqtbl1q_u8(high, codes), vandq_u8(rest, sign));
                let low = vorrq_u8(vqtbl1q_u8(low, codes), vbicq_u8(rest, sign));
                store(vzip1q_u8(low, high), &mut out[k], 16 * half);
                store(vzip2q_u8(low, high), &mut out[k], 16 * half + 32);
            }
        }
    }
}
