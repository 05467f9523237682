//! The linear's kernels on AVX-512 with VNNI: a register is sixteen rows, and VPDPBUSD adds four columns of each.
//!
//! Codes are used straight from their packed bytes: a group is unpacked into eight registers, which every column of the
//! tile then multiplies with a broadcast of four of its quants. Twelve columns are enough to hide VPDPBUSD's latency of
//! five cycles on two ports, and their sums and dot products still leave registers for the codes. Sums stay in
//! registers for the whole panel. The integer sum starts at minus the zero point's share, which costs a load and no
//! arithmetic. A group of a column is then eleven operations for the two ports that 512 bits have, eight of them
//! VPDPBUSD: no arrangement within the fixed arithmetic reaches more than 73 % of that instruction's peak.
//!
//! Where the scales of activations are powers of two (`Numerics::Fast`), the product of a weight's scale with one is an
//! addition to its exponent. That should help CPUs that have fewer ports for multiplications than for additions of integers
//! (Zen 4 and 5, Intel's with one unit for fused multiply-adds of 512 bits); it has not been timed on any.

use std::arch::asm;
use std::arch::x86_64::*;

use super::AHEAD;
use super::linear_bits::store;
use super::linear_blocks::*;
use super::linear_floats::floats;
use crate::arch::avx2::ask_ahead;
use crate::arch::linear::{Acts, Kernel, LinearKernels, MAX_COLUMNS, Tile};
use crate::quant::QuantTile;
use crate::weight::pack::{PACKS, Pack};

/// Columns from which on arithmetic may bind, and not memory: fewer have no kernel of their own for powers of two.
const MANY: usize = 7;

/// The table of this tier, for a CPU that has it.
pub(in crate::arch) fn kernels() -> LinearKernels {
    let mut kernels = [row::<WideBlock<1, false>, 576, 1>(); PACKS];
    let mut set = |pack: Pack, row| kernels[pack as usize] = row;
    set(Pack::Q8_0, row::<Q8_0, 544, 1>());
    set(Pack::Q4_0, row::<Q4_0, 288, 1>());
    set(Pack::Q4_1, row::<Q4_1, 320, 1>());
    set(Pack::Q5_0, row::<Q5_0, 352, 1>());
    set(Pack::Q5_1, row::<Q5_1, 384, 1>());
    set(Pack::Q2_K, row::<Q2K, 1344, 2>());
    set(Pack::Q3_K, row::<Q3K, 1760, 2>());
    set(Pack::Q4_K, row::<Q4K, 2304, 1>());
    set(Pack::Q5_K, row::<Q5K, 2816, 1>());
    set(Pack::Q6_K, row::<Q6K, 3360, 2>());
    set(Pack::IQ4_NL, row::<Iq4Nl, 288, 1>());
    set(Pack::IQ4_XS, row::<Iq4Xs, 2176, 1>());
    set(Pack::MXFP4, row::<Mxfp4, 272, 1>());
    set(Pack::Wide32, row::<WideBlock<1, false>, 576, 1>());
    set(Pack::Wide32Min, row::<WideBlock<1, true>, 640, 1>());
    set(Pack::Wide16, row::<WideBlock<2, false>, 640, 2>());
    set(Pack::Wide16Min, row::<WideBlock<2, true>, 768, 2>());
    LinearKernels { columns: MAX_COLUMNS, kernels, many: None, zero_pairs: false, quantise, floats: floats() }
}

fn row<W: Block<BYTES, S>, const BYTES: usize, const S: usize>() -> [Kernel; MAX_COLUMNS] {
    [
        quantised::<W, BYTES, S, 1>,
        quantised::<W, BYTES, S, 2>,
        quantised::<W, BYTES, S, 3>,
        quantised::<W, BYTES, S, 4>,
        quantised::<W, BYTES, S, 5>,
        quantised::<W, BYTES, S, 6>,
        quantised::<W, BYTES, S, 7>,
        quantised::<W, BYTES, S, 8>,
        quantised::<W, BYTES, S, 9>,
        quantised::<W, BYTES, S, 10>,
        quantised::<W, BYTES, S, 11>,
        quantised::<W, BYTES, S, 12>,
    ]
}

/// The tier below does this as well: it is bound by what is done once a group, not by the width of a register.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn quantise(x: &[f32], out: QuantTile<'_>) {
    crate::arch::avx2::linear_quantise::quantise(x, out);
}

/// One panel of a quantised form.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn quantised<W: Block<BYTES, S>, const BYTES: usize, const S: usize, const C: usize>(
    _: Pack,
    panel: &[u8],
    acts: Acts<'_>,
    tile: &mut Tile,
) {
    if const { W::HALVES && C >= MANY } && acts.powers {
        multiply::<W, BYTES, S, C, true>(panel, acts, tile);
    } else {
        multiply::<W, BYTES, S, C, false>(panel, acts, tile);
    }
}

/// One panel; with `POWERS` all scales of activations are [powers of two](Acts::powers) and those of weights f16 or nearly.
///
/// One function, because what a function of its own did would not always be inlined (`inline(always)` and
/// `target_feature` exclude each other), and then sums would go through memory. Vectors that were nibbles of the same
/// bytes follow each other: integers add in any order, and so fewer registers wait.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline(never)]
fn multiply<W: Block<BYTES, S>, const BYTES: usize, const S: usize, const C: usize, const POWERS: bool>(
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
    assert!((!W::ZERO || zeros.len() == groups) && (!W::MIN || sums.len() == groups));
    let mut acc = [_mm512_setzero_ps(); C];
    for (b, raw) in blocks.iter().enumerate() {
        for i in 0..W::GROUPS {
            let g = b * W::GROUPS + i;
            ask_ahead::<AHEAD>(raw, i * BYTES / W::GROUPS, BYTES / W::GROUPS);
            // SAFETY: both need the CPU features that this function has.
            let (codes, factors) = unsafe { (W::codes(raw, i), W::scales(raw, i)) };
            for sub in 0..S {
                let mut dots = [_mm512_setzero_si512(); C];
                if W::ZERO {
                    for (dots, zero) in dots.iter_mut().zip(zeros[g][sub]) {
                        *dots = _mm512_set1_epi32(zero);
                    }
                }
                for i in 0..8 / S {
                    let j = if S == 1 { i / 2 + i % 2 * 4 } else { sub * 4 + i };
                    for (dots, quants) in dots.iter_mut().zip(&quants[g]) {
                        *dots = _mm512_dpbusd_epi32(*dots, codes[j], _mm512_set1_epi32(quants[j]));
                    }
                }
                let (exponents, nonzero) = exponents(factors.scale[sub]);
                for c in 0..C {
                    let scale = if POWERS {
                        let power = _mm512_set1_epi32(scales[g][c].to_bits() as i32);
                        _mm512_castsi512_ps(hide(_mm512_maskz_add_epi32(nonzero, exponents, power)))
                    } else {
                        _mm512_mul_ps(factors.scale[sub], _mm512_set1_ps(scales[g][c]))
                    };
                    acc[c] = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(dots[c]), acc[c]);
                    if W::MIN {
                        acc[c] = _mm512_fmadd_ps(factors.min[sub], _mm512_set1_ps(sums[g][sub][c]), acc[c]);
                    }
                }
            }
        }
    }
    for (acc, column) in acc.into_iter().zip(tile) {
        store(acc, column.first_chunk_mut().expect("16 of 32"));
    }
}

/// What becomes a product of scales when the bits of a power of two are added: the bits less those of 1. And where a scale is
/// not 0, whose product has no such sum.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
fn exponents(scale: __m512) -> (__m512i, __mmask16) {
    let nonzero = _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(scale, _mm512_setzero_ps());
    (hide(_mm512_sub_epi32(_mm512_castps_si512(scale), _mm512_castps_si512(_mm512_set1_ps(1.0)))), nonzero)
}

/// Integers of which the compiler does not see where they come from; no instruction comes of it. Otherwise it takes 1 off
/// every power by itself, before it is broadcast, and masks sums as floats, in an instruction of its own.
#[target_feature(enable = "avx512f")]
#[inline]
fn hide(mut bits: __m512i) -> __m512i {
    // SAFETY: no instruction is executed, so the register is what it was.
    unsafe { asm!("/* {0} */", inout(zmm_reg) bits, options(pure, nomem, nostack, preserves_flags)) };
    bits
}
