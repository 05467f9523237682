//! Weights that are floats, on AVX-512: a register is sixteen of a panel's 32 rows.

use std::arch::x86_64::*;

use super::AHEAD;
use super::linear_bits::store;
use super::linear_blocks::*;
use super::vector::load;
use crate::arch::avx2::ask_ahead;
use crate::arch::avx2::linear_floats::{expand, few};
use crate::arch::floats::{Add, Coded, Floating};
use crate::arch::linear::{MAX_COLUMNS, Tile};

/// What this tier has for floats. Codes are looked up as the tier below does it, which memory does not outrun.
pub(super) fn floats() -> Floating {
    let plain = [adds::<F32, 128, true>(), adds::<F16, 64, true>(), adds::<Bf16, 64, true>()];
    let coded = Coded { few: [Some(few::<1>), Some(few::<2>)], expand, add: adds::<Bf16, 64, false>() };
    Floating { plain, coded }
}

/// For tiles of one column and more.
fn adds<W: Floats<BYTES>, const BYTES: usize, const FAR: bool>() -> [Add; MAX_COLUMNS] {
    [
        add::<W, BYTES, 1, FAR>,
        add::<W, BYTES, 2, FAR>,
        add::<W, BYTES, 3, FAR>,
        add::<W, BYTES, 4, FAR>,
        add::<W, BYTES, 5, FAR>,
        add::<W, BYTES, 6, FAR>,
        add::<W, BYTES, 7, FAR>,
        add::<W, BYTES, 8, FAR>,
        add::<W, BYTES, 9, FAR>,
        add::<W, BYTES, 10, FAR>,
        add::<W, BYTES, 11, FAR>,
        add::<W, BYTES, 12, FAR>,
    ]
}

/// Two chains a column; where columns are `FAR`, memory is asked ahead.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn add<W: Floats<BYTES>, const BYTES: usize, const C: usize, const FAR: bool>(
    columns: &[u8],
    x: &[f32],
    tile: &mut Tile,
) {
    let mut acc = [[_mm512_setzero_ps(); 2]; C];
    for c in 0..C {
        let sums = tile[c].as_chunks().0;
        acc[c] = [load(&sums[0]), load(&sums[1])];
    }
    for (raw, x) in columns.as_chunks::<BYTES>().0.iter().zip(x.as_chunks::<C>().0) {
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
