//! The linear's kernels on CPUs that have VPDPBUSD, but for registers of 256 bits only.
//!
//! Panels, packed forms and float kernels are AVX2's: a register is eight rows, half a panel. VPDPBUSD takes unsigned codes
//! of any width and adds in 32 bits, so no form needs more than the plain loop, and unpacking for four columns keeps the
//! third vector port busy while the other two multiply. A group of a column is eleven operations for those two, eight of
//! them VPDPBUSD: no arrangement within the fixed arithmetic reaches more than 73 % of that instruction's peak.

use std::arch::x86_64::*;

use crate::arch::avx2;
use crate::arch::avx2::linear::{COLUMNS, hold};
use crate::arch::avx2::linear_blocks::*;
use crate::arch::linear::{Acts, Kernel, LinearKernels, MAX_COLUMNS, Tile};
use crate::weight::pack::Pack;

/// The table of this tier, for a CPU that has it.
pub(in crate::arch) fn kernels() -> LinearKernels {
    let LinearKernels { mut kernels, quantise, .. } = avx2::linear::kernels();
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
    LinearKernels { columns: COLUMNS, kernels, many: None, zero_pairs: false, quantise }
}

/// Kernels of tiles up to [`COLUMNS`] wide; the table's further places are never asked for, and hold the last of them.
fn row<W: Block<BYTES, S>, const BYTES: usize, const S: usize>() -> [Kernel; MAX_COLUMNS] {
    let mut kernels: [Kernel; MAX_COLUMNS] = [quantised::<W, BYTES, S, COLUMNS>; MAX_COLUMNS];
    kernels[0] = quantised::<W, BYTES, S, 1>;
    kernels[1] = quantised::<W, BYTES, S, 2>;
    kernels[2] = quantised::<W, BYTES, S, 3>;
    kernels
}

/// One panel of a quantised form for one tile of columns: group by group, of each the first eight rows and then the others.
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
fn quantised<W: Block<BYTES, S>, const BYTES: usize, const S: usize, const C: usize>(
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
    assert!(acts.columns == C && quants.len() == groups && scales.len() == groups);
    assert!((W::MIN || zeros.len() == groups) && (!W::MIN || sums.len() == groups));
    let mut acc = [[_mm256_setzero_ps(); C]; 2];
    for (b, raw) in blocks.iter().enumerate() {
        let mut raw = raw;
        for i in 0..W::GROUPS {
            let g = b * W::GROUPS + i;
            let mut quants = &quants[g];
            for (half, acc) in acc.iter_mut().enumerate() {
                // SAFETY: `unpack` needs the CPU features that this function has.
                let group = unsafe { W::unpack(raw, i, half) };
                for sub in 0..S {
                    for c in 0..C {
                        let zero = if W::MIN { 0 } else { zeros[g][sub][c] };
                        let mut dots = dots::<W, BYTES, S>(&group.codes, &quants[c], zero, sub);
                        (raw, quants) = hold(raw, quants, &mut dots);
                        let scale = _mm256_mul_ps(group.scale[sub], _mm256_set1_ps(scales[g][c]));
                        acc[c] = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(dots), acc[c]);
                        if W::MIN {
                            acc[c] = _mm256_fmadd_ps(group.min[sub], _mm256_set1_ps(sums[g][sub][c]), acc[c]);
                        }
                    }
                }
            }
        }
    }
    for (half, acc) in acc.into_iter().enumerate() {
        for (acc, column) in acc.into_iter().zip(&mut *tile) {
            store(acc, &mut column.as_chunks_mut().0[half]);
        }
    }
}

/// Dot products of sub-block `sub`, from `zero`: minus the share of the zero point, which signed codes get back here.
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
#[inline]
fn dots<W: Block<BYTES, S>, const BYTES: usize, const S: usize>(
    codes: &[__m256i; 8],
    quants: &[i32; 8],
    zero: i32,
    sub: usize,
) -> __m256i {
    let mut dots = _mm256_set1_epi32(zero);
    for j in sub * 8 / S..(sub + 1) * 8 / S {
        let unsigned = if W::SIGNED { _mm256_xor_si256(codes[j], _mm256_set1_epi8(-128)) } else { codes[j] };
        dots = _mm256_dpbusd_avx_epi32(dots, unsigned, _mm256_set1_epi32(quants[j]));
    }
    dots
}
