//! Weights that are floats, on AVX-512: a register is sixteen of a panel's 32 rows.

use std::arch::x86_64::*;

use super::AHEAD;
use super::linear_bits::store;
use super::linear_blocks::*;
use super::vector::load;
use crate::arch::avx2::ask_ahead;
use crate::arch::avx2::linear_floats::{expand, few};
use crate::arch::coded::Coded;
use crate::arch::linear::{Acts, Kernel, MAX_COLUMNS, Tile};
use crate::weight::pack::{MAX_PANEL_ROWS, Pack};

/// Kernels for tiles of one column and more.
pub(super) fn float_row<W: Floats<BYTES>, const BYTES: usize>() -> [Kernel; MAX_COLUMNS] {
    [
        floats::<W, BYTES, 1>,
        floats::<W, BYTES, 2>,
        floats::<W, BYTES, 3>,
        floats::<W, BYTES, 4>,
        floats::<W, BYTES, 5>,
        floats::<W, BYTES, 6>,
        floats::<W, BYTES, 7>,
        floats::<W, BYTES, 8>,
        floats::<W, BYTES, 9>,
        floats::<W, BYTES, 10>,
        floats::<W, BYTES, 11>,
        floats::<W, BYTES, 12>,
    ]
}

/// BF16 whose exponents are codes. They are looked up as the tier below does it, which memory does not outrun.
pub(super) fn coded() -> Coded {
    Coded {
        few: [Some(few::<1>), Some(few::<2>)],
        expand,
        add: [
            add_floats::<Bf16, 64, 1, false>,
            add_floats::<Bf16, 64, 2, false>,
            add_floats::<Bf16, 64, 3, false>,
            add_floats::<Bf16, 64, 4, false>,
            add_floats::<Bf16, 64, 5, false>,
            add_floats::<Bf16, 64, 6, false>,
            add_floats::<Bf16, 64, 7, false>,
            add_floats::<Bf16, 64, 8, false>,
            add_floats::<Bf16, 64, 9, false>,
            add_floats::<Bf16, 64, 10, false>,
            add_floats::<Bf16, 64, 11, false>,
            add_floats::<Bf16, 64, 12, false>,
        ],
    }
}

/// One panel of 32 rows of floats.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn floats<W: Floats<BYTES>, const BYTES: usize, const C: usize>(
    _: Pack,
    panel: &[u8],
    acts: Acts<'_>,
    tile: &mut Tile,
) {
    tile[..C].fill([0.0; MAX_PANEL_ROWS]);
    add_floats::<W, BYTES, C, true>(panel.as_chunks().0, acts.floats, tile);
}

/// Adds so many columns of a panel of floats; where they are `FAR`, memory is asked ahead.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
fn add_floats<W: Floats<BYTES>, const BYTES: usize, const C: usize, const FAR: bool>(
    columns: &[[u8; BYTES]],
    x: &[f32],
    tile: &mut Tile,
) {
    let mut acc = [[_mm512_setzero_ps(); 2]; C];
    for c in 0..C {
        let sums = tile[c].as_chunks().0;
        acc[c] = [load(&sums[0]), load(&sums[1])];
    }
    for (raw, x) in columns.iter().zip(x.as_chunks::<C>().0) {
        if FAR {
            ask_ahead::<AHEAD>(raw, 0, BYTES);
        }
        // SAFETY: `load` needs the CPU features that this function has.
        let w = unsafe { W::load(raw) };
        for c in 0..C {
            let x = _mm512_set1_ps(x[c]);
            acc[c][0] = _mm512_fmadd_ps(w[0], x, acc[c][0]);
            acc[c][1] = _mm512_fmadd_ps(w[1], x, acc[c][1]);
        }
    }
    for (acc, column) in acc.into_iter().zip(tile) {
        let (low, high) = column.as_chunks_mut::<16>().0.split_at_mut(1);
        store(acc[0], &mut low[0]);
        store(acc[1], &mut high[0]);
    }
}
