//! Weights that are floats, on AVX2: a register is eight of a panel's 32 rows.

use std::arch::x86_64::*;

use super::linear_bits::{load, load_floats, lookup_table, put, store};
use super::linear_blocks::*;
use super::{AHEAD, ask_ahead};
use crate::arch::floats::{Add, Coded, Floating};
use crate::arch::linear::{MAX_COLUMNS, Tile};
use crate::weight::coded::{Column, Exceptions, Pair, Panel};

/// What this tier, and those above it that have no more than 256 bits, has for floats.
pub(in crate::arch) fn floats() -> Floating {
    // A form of four bytes leaves so little to do between two lines that the hardware's own prefetcher keeps up.
    let plain = [adds::<F32, 128, false>(), adds::<F16, 64, true>(), adds::<Bf16, 64, true>()];
    let coded = Coded { few: [Some(few::<1>), Some(few::<2>)], expand, add: adds::<Bf16, 64, false>() };
    Floating { plain, coded }
}

/// For tiles of one column and more.
fn adds<W: Floats<BYTES>, const BYTES: usize, const FAR: bool>() -> [Add; MAX_COLUMNS] {
    let mut adds: [Add; MAX_COLUMNS] = [add::<W, BYTES, 2, 4, FAR>; MAX_COLUMNS];
    adds[0] = add::<W, BYTES, 4, 1, FAR>;
    adds[1] = add::<W, BYTES, 4, 2, FAR>;
    adds[2] = add::<W, BYTES, 2, 3, FAR>;
    adds
}

/// `R` registers of eight rows at a time; where columns are `FAR`, memory is asked ahead.
#[target_feature(enable = "avx2,fma,f16c")]
fn add<W: Floats<BYTES>, const BYTES: usize, const R: usize, const C: usize, const FAR: bool>(
    columns: &[u8],
    x: &[f32],
    tile: &mut Tile,
) {
    for first in (0..4).step_by(R) {
        let mut acc = [[_mm256_setzero_ps(); R]; C];
        for c in 0..C {
            for (r, acc) in acc[c].iter_mut().enumerate() {
                *acc = load_floats(&tile[c].as_chunks().0[first + r]);
            }
        }
        for (raw, x) in columns.as_chunks::<BYTES>().0.iter().zip(x.as_chunks::<C>().0) {
            if FAR && first == 0 {
                ask_ahead::<AHEAD>(raw, 0, BYTES);
            }
            let mut w = [_mm256_setzero_ps(); R];
            for (r, w) in w.iter_mut().enumerate() {
                // SAFETY: `load` needs the CPU features that this function has.
                *w = unsafe { W::load(raw, first + r) };
            }
            for c in 0..C {
                let x = _mm256_set1_ps(x[c]);
                for r in 0..R {
                    acc[c][r] = _mm256_fmadd_ps(w[r], x, acc[c][r]);
                }
            }
        }
        for (acc, column) in acc.into_iter().zip(&mut *tile) {
            for (acc, out) in acc.into_iter().zip(&mut column.as_chunks_mut().0[first..]) {
                store(acc, out);
            }
        }
    }
}

/// One panel for a tile of one or two columns, straight from codes, so that memory is asked all the time.
///
/// Of a vector of sixteen bfloat16, even and odd rows become vectors of f32 by one instruction each; sums are put in order
/// at the end.
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::arch) fn few<const C: usize>(panel: &Panel<'_>, x: &[f32], tile: &mut Tile) {
    let tables = Tables::of(panel.exponents);
    let odd = _mm256_set1_epi32(-0x1_0000);
    let mut acc = [[_mm256_setzero_ps(); 4]; C];
    let mut exceptions = panel.exceptions();
    let mut next = exceptions.next();
    for (i, (pair, x)) in panel.pairs.iter().zip(x.chunks(2 * C)).enumerate() {
        ask_ahead::<AHEAD>(pair, 0, size_of::<Pair>());
        let mut columns = tables.columns(pair);
        if next == i {
            columns = mended(columns, i, &mut exceptions);
            next = exceptions.next();
        }
        for (column, x) in columns.into_iter().zip(x.as_chunks::<C>().0) {
            for (half, rows) in column.into_iter().enumerate() {
                let even = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(rows));
                let odd = _mm256_castsi256_ps(_mm256_and_si256(rows, odd));
                for c in 0..C {
                    let x = _mm256_set1_ps(x[c]);
                    acc[c][2 * half] = _mm256_fmadd_ps(even, x, acc[c][2 * half]);
                    acc[c][2 * half + 1] = _mm256_fmadd_ps(odd, x, acc[c][2 * half + 1]);
                }
            }
        }
    }
    for (acc, column) in acc.into_iter().zip(tile) {
        for (acc, out) in acc.as_chunks::<2>().0.iter().zip(column.as_chunks_mut::<16>().0) {
            let quarters = [_mm256_unpacklo_ps(acc[0], acc[1]), _mm256_unpackhi_ps(acc[0], acc[1])];
            let [first, second] = out.as_chunks_mut::<8>().0 else { unreachable!("two times eight rows") };
            store(_mm256_permute2f128_ps::<0x20>(quarters[0], quarters[1]), first);
            store(_mm256_permute2f128_ps::<0x31>(quarters[0], quarters[1]), second);
        }
    }
}

/// Both columns of pair `i`, a weight of which has no code.
#[target_feature(enable = "avx2,fma,f16c")]
#[cold]
fn mended(columns: [[__m256i; 2]; 2], i: usize, exceptions: &mut Exceptions<'_>) -> [[__m256i; 2]; 2] {
    let mut room = [[0; 64]; 2];
    for (rows, out) in columns.into_iter().zip(&mut room) {
        put(rows[0], out, 0);
        put(rows[1], out, 32);
    }
    exceptions.mend(2 * i, &mut room);
    let [first, second] = &room;
    [[load(first, 0), load(first, 32)], [load(second, 0), load(second, 32)]]
}

/// What codes stand for.
struct Tables {
    /// Exponents without their last bit.
    high: __m256i,
    /// Their last bits, as the highest ones.
    low: __m256i,
}

impl Tables {
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    fn of(exponents: &[u8; 16]) -> Tables {
        let (exponents, sign) = (lookup_table(exponents), _mm256_set1_epi8(-128));
        Tables {
            high: _mm256_andnot_si256(sign, _mm256_srli_epi16::<1>(exponents)),
            low: _mm256_and_si256(sign, _mm256_slli_epi16::<7>(exponents)),
        }
    }

    /// Rows 0 to 15 and 16 to 31 of both columns as BF16: exponents over signs and mantissas, each in a byte of its own, then
    /// interleaved.
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    fn columns(&self, pair: &Pair) -> [[__m256i; 2]; 2] {
        let (nibble, both) = (_mm256_set1_epi8(15), load(pair, 0));
        [
            self.column(_mm256_and_si256(both, nibble), load(pair, 32)),
            self.column(_mm256_and_si256(_mm256_srli_epi16::<4>(both), nibble), load(pair, 64)),
        ]
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    fn column(&self, codes: __m256i, rest: __m256i) -> [__m256i; 2] {
        let sign = _mm256_set1_epi8(-128);
        let high = _mm256_or_si256(_mm256_shuffle_epi8(self.high, codes), _mm256_and_si256(sign, rest));
        let low = _mm256_or_si256(_mm256_shuffle_epi8(self.low, codes), _mm256_andnot_si256(sign, rest));
        [_mm256_unpacklo_epi8(low, high), _mm256_unpackhi_epi8(low, high)]
    }
}

/// Pairs as columns of BF16.
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::arch) fn expand(pairs: &[Pair], exponents: &[u8; 16], out: &mut [Column]) {
    let tables = Tables::of(exponents);
    for (pair, out) in pairs.iter().zip(out.as_chunks_mut::<2>().0) {
        ask_ahead::<AHEAD>(pair, 0, size_of::<Pair>());
        for (rows, out) in tables.columns(pair).into_iter().zip(out) {
            put(rows[0], out, 0);
            put(rows[1], out, 32);
        }
    }
}
