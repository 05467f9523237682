//! The linear's kernels on AVX2: a register is eight rows, so a panel is gone through in halves.
//!
//! Without VNNI, VPMADDUBSW multiplies unsigned codes with signed quants and adds pairs in 16 bits. Codes of four bits
//! leave room to add a whole group there (8 * 2 * 15 * 127 = 30480), those of five bits half of one, those of six bits
//! two vectors; then VPMADDWD widens. Codes of eight bits would overflow as unsigned, so they are made signed and their
//! sign is moved to the quants: 2 * 128 * 127 = 32512 fits.

use std::arch::x86_64::*;

use super::linear_blocks::*;
use super::linear_quantise::quantise;
use crate::arch::linear::{Acts, Kernel, LinearKernels, MAX_COLUMNS, Tile};
use crate::weight::pack::{PACKS, Pack};

/// Columns of the widest tile: four sums and four dot products leave half of the sixteen registers for codes.
const COLUMNS: usize = 4;

/// The table of this tier, for a CPU that has it.
pub(in crate::arch) fn kernels() -> LinearKernels {
    let mut kernels = [row::<WideBlock<1, false>, 576, 1>(); PACKS];
    let mut set = |pack: Pack, row| kernels[pack as usize] = row;
    set(Pack::F32, float_row::<F32, 128>());
    set(Pack::F16, float_row::<F16, 64>());
    set(Pack::BF16, float_row::<Bf16, 64>());
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
    set(Pack::Wide32Min, row::<WideBlock<1, true>, 640, 1>());
    set(Pack::Wide16, row::<WideBlock<2, false>, 640, 2>());
    set(Pack::Wide16Min, row::<WideBlock<2, true>, 768, 2>());
    LinearKernels { columns: COLUMNS, kernels, quantise }
}

/// Kernels of tiles up to [`COLUMNS`] wide; the table's further places are never asked for, and hold the last of them.
fn row<W: Block<BYTES, S>, const BYTES: usize, const S: usize>() -> [Kernel; MAX_COLUMNS] {
    let mut kernels: [Kernel; MAX_COLUMNS] = [quantised::<W, BYTES, S, 4>; MAX_COLUMNS];
    kernels[0] = quantised::<W, BYTES, S, 1>;
    kernels[1] = quantised::<W, BYTES, S, 2>;
    kernels[2] = quantised::<W, BYTES, S, 3>;
    kernels
}

fn float_row<W: Floats<BYTES>, const BYTES: usize>() -> [Kernel; MAX_COLUMNS] {
    let mut kernels: [Kernel; MAX_COLUMNS] = [floats::<W, BYTES, 2, 4>; MAX_COLUMNS];
    kernels[0] = floats::<W, BYTES, 4, 1>;
    kernels[1] = floats::<W, BYTES, 4, 2>;
    kernels[2] = floats::<W, BYTES, 2, 3>;
    kernels
}

/// One panel of a quantised form, its first eight rows and then the others.
#[target_feature(enable = "avx2,fma,f16c")]
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
    assert!(quants.len() == groups && scales.len() == groups);
    assert!((!W::ZERO || zeros.len() == groups) && (!W::MIN || sums.len() == groups));
    for half in 0..2 {
        let mut acc = [_mm256_setzero_ps(); C];
        for (b, raw) in blocks.iter().enumerate() {
            for i in 0..W::GROUPS {
                let g = b * W::GROUPS + i;
                // SAFETY: `unpack` needs the CPU features that this function has.
                let group = unsafe { W::unpack(raw, i, half) };
                for sub in 0..S {
                    for c in 0..C {
                        let mut dots = _mm256_setzero_si256();
                        if W::ZERO {
                            dots = _mm256_set1_epi32(zeros[g][sub][c]);
                        }
                        for j in (sub * 8 / S..(sub + 1) * 8 / S).step_by(W::STEP) {
                            let mut pairs = _mm256_setzero_si256();
                            for (codes, quants) in group.codes[j..j + W::STEP].iter().zip(&quants[g][c][j..]) {
                                pairs = _mm256_add_epi16(pairs, products::<W, BYTES, S>(*codes, *quants));
                            }
                            dots = _mm256_add_epi32(dots, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
                        }
                        let scale = _mm256_mul_ps(group.scale[sub], _mm256_set1_ps(scales[g][c]));
                        acc[c] = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(dots), acc[c]);
                        if W::MIN {
                            acc[c] = _mm256_fmadd_ps(group.min[sub], _mm256_set1_ps(sums[g][sub][c]), acc[c]);
                        }
                    }
                }
            }
        }
        for (acc, column) in acc.into_iter().zip(&mut *tile) {
            store(acc, &mut column.as_chunks_mut().0[half]);
        }
    }
}

/// Products of a code vector with four quants, added in pairs.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn products<W: Block<BYTES, S>, const BYTES: usize, const S: usize>(codes: __m256i, quants: i32) -> __m256i {
    let quants = _mm256_set1_epi32(quants);
    if W::SIGNED {
        _mm256_maddubs_epi16(_mm256_abs_epi8(codes), _mm256_sign_epi8(quants, codes))
    } else {
        _mm256_maddubs_epi16(codes, quants)
    }
}

/// One panel of 32 rows of floats, `R` registers of eight rows at a time.
#[target_feature(enable = "avx2,fma,f16c")]
fn floats<W: Floats<BYTES>, const BYTES: usize, const R: usize, const C: usize>(
    _: Pack,
    panel: &[u8],
    acts: Acts<'_>,
    tile: &mut Tile,
) {
    for first in (0..4).step_by(R) {
        let mut acc = [[_mm256_setzero_ps(); R]; C];
        for (raw, x) in panel.as_chunks::<BYTES>().0.iter().zip(acts.floats.as_chunks::<C>().0) {
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
