//! The linear's kernels on AVX2: a register is eight rows, half a panel.
//!
//! Without VNNI, VPMADDUBSW multiplies unsigned codes with signed quants and adds pairs in 16 bits. Codes of four bits
//! leave room to add a whole group there (8 * 2 * 15 * 127 = 30480), those of five bits half of one; then VPMADDWD widens.
//! With a zero point to take off there is room for more: see [`Block::ZERO`]. Codes of eight bits would overflow as
//! unsigned, so they are made signed and their sign is moved to the quants: 2 * 128 * 127 = 32512 fits.
//!
//! Here are the kernels for one column, straight from packed codes, which wait for nothing but memory. More columns have
//! theirs in `linear_many`.

use std::arch::x86_64::*;
use std::marker::PhantomData;

use super::linear_bits::store;
use super::linear_blocks::*;
use super::linear_floats::floats;
use super::linear_many::{Line, MOST_GROUPS, expanded_bytes, few, many};
use super::linear_quantise::quantise;
use super::{AHEAD, ask_ahead, hold};
use crate::arch::linear::{Acts, Kernel, LinearKernels, MAX_COLUMNS, Many, ManyKernel, Tile};
use crate::weight::pack::{PACKS, Pack};

/// Columns of the widest tile: sixteen rows of four take eight registers for dot products.
pub(in crate::arch) const COLUMNS: usize = 4;

/// How codes are multiplied with quants: the one thing in which tiers of 256 bits differ.
pub(in crate::arch) trait Dot {
    /// Whether codes are multiplied as unsigned, whatever their form: all that have no minimum have a zero point then.
    const UNSIGNED: bool;

    /// Dot products of sub-block `sub`, from `zero` as `Acts::zeros` has it.
    ///
    /// # Safety
    /// The CPU has the instructions.
    unsafe fn dots<W: Block<BYTES, S>, const BYTES: usize, const S: usize>(
        codes: &[__m256i; 8],
        quants: &[i32; 8],
        zero: i32,
        sub: usize,
    ) -> __m256i;

    /// Kernels for tiles of one to [`COLUMNS`] columns.
    fn tiles<W: Block<BYTES, S>, const BYTES: usize, const S: usize, const OUT: usize>() -> [Kernel; COLUMNS];
}

/// VPMADDUBSW and VPMADDWD: any CPU of this tier.
struct Maddubs;

/// The table of this tier, for a CPU that has it.
pub(in crate::arch) fn kernels() -> LinearKernels {
    let Table { tiles, many, .. } = table::<Maddubs>();
    let many = Some(Many { from: COLUMNS + 1, kernels: many });
    LinearKernels { columns: COLUMNS, kernels: tiles, many, zero_pairs: true, quantise, floats: floats() }
}

/// The kernels of every form that has codes, those of one tile by `D`.
pub(in crate::arch) fn table<D: Dot>() -> Table<D> {
    let tiles = [[D::tiles::<Q8_0, 544, 1, { expanded_bytes(1) }>()[0]; MAX_COLUMNS]; PACKS];
    let mut table = Table { tiles, many: [None; PACKS], dot: PhantomData };
    table.set::<Q8_0, 544, 1, { expanded_bytes(1) }>(Pack::Q8_0);
    table.set::<Q4_0, 288, 1, { expanded_bytes(1) }>(Pack::Q4_0);
    table.set::<Q4_1, 320, 1, { expanded_bytes(1) }>(Pack::Q4_1);
    table.set::<Q5_0, 352, 1, { expanded_bytes(1) }>(Pack::Q5_0);
    table.set::<Q5_1, 384, 1, { expanded_bytes(1) }>(Pack::Q5_1);
    table.set::<Q2K, 1344, 2, { expanded_bytes(2) }>(Pack::Q2_K);
    table.set::<Q3K, 1760, 2, { expanded_bytes(2) }>(Pack::Q3_K);
    table.set::<Q4K, 2304, 1, { expanded_bytes(1) }>(Pack::Q4_K);
    table.set::<Q5K, 2816, 1, { expanded_bytes(1) }>(Pack::Q5_K);
    table.set::<Q6K, 3360, 2, { expanded_bytes(2) }>(Pack::Q6_K);
    table.set::<Iq4Nl, 288, 1, { expanded_bytes(1) }>(Pack::IQ4_NL);
    table.set::<Iq4Xs, 2176, 1, { expanded_bytes(1) }>(Pack::IQ4_XS);
    table.set::<Mxfp4, 272, 1, { expanded_bytes(1) }>(Pack::MXFP4);
    table.set::<WideBlock<1, false>, 576, 1, { expanded_bytes(1) }>(Pack::Wide32);
    table.set::<WideBlock<1, true>, 640, 1, { expanded_bytes(1) }>(Pack::Wide32Min);
    table.set::<WideBlock<2, false>, 640, 2, { expanded_bytes(2) }>(Pack::Wide16);
    table.set::<WideBlock<2, true>, 768, 2, { expanded_bytes(2) }>(Pack::Wide16Min);
    table
}

/// Kernels by form.
pub(in crate::arch) struct Table<D> {
    /// For batches of one tile.
    pub tiles: [[Kernel; MAX_COLUMNS]; PACKS],
    /// For larger ones.
    many: [Option<ManyKernel>; PACKS],
    dot: PhantomData<D>,
}

impl<D: Dot> Table<D> {
    fn set<W: Block<BYTES, S>, const BYTES: usize, const S: usize, const OUT: usize>(&mut self, pack: Pack) {
        self.tiles[pack as usize][..COLUMNS].copy_from_slice(&D::tiles::<W, BYTES, S, OUT>());
        self.many[pack as usize] = Some(many::<W, BYTES, S, OUT>);
    }
}

/// One panel of a quantised form for one tile of columns, best for a single one: group by group, of each the first eight
/// rows and then the others, so that memory is read in its order.
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::arch) fn quantised<D: Dot, W: Block<BYTES, S>, const BYTES: usize, const S: usize, const C: usize>(
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
    let zero = if D::UNSIGNED { !W::MIN } else { W::ZERO };
    assert!((!zero || zeros.len() == groups) && (!W::MIN || sums.len() == groups));
    let mut acc = [[_mm256_setzero_ps(); C]; 2];
    let mut room = Line([[0; 128]; MOST_GROUPS]);
    for (b, raw) in blocks.iter().enumerate() {
        let mut raw = raw;
        if W::TOGETHER {
            // SAFETY: `all_scales` needs the CPU features that this function has.
            unsafe { W::all_scales(raw, &mut room.0) };
        }
        for i in 0..W::GROUPS {
            let g = b * W::GROUPS + i;
            let mut quants = &quants[g];
            ask_ahead::<AHEAD>(raw, i * BYTES / W::GROUPS, BYTES / W::GROUPS);
            for (half, acc) in acc.iter_mut().enumerate() {
                // SAFETY: both need the CPU features that this function has.
                let (codes, factors) = unsafe {
                    let factors = if W::TOGETHER { Scales::get(&room.0[i], half) } else { W::scales(raw, i, half) };
                    (W::codes(raw, i, half), factors)
                };
                for sub in 0..S {
                    for c in 0..C {
                        let start = if zero { zeros[g][sub][c] } else { 0 };
                        // SAFETY: only the table of its tier has the kernels of `D`.
                        let mut dots = unsafe { D::dots::<W, BYTES, S>(&codes, &quants[c], start, sub) };
                        (raw, quants) = hold(raw, quants, &mut dots);
                        let scale = _mm256_mul_ps(factors.scale[sub], _mm256_set1_ps(scales[g][c]));
                        acc[c] = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(dots), acc[c]);
                        if W::MIN {
                            let sum = _mm256_set1_ps(sums[g][sub][c]);
                            acc[c] = _mm256_fmadd_ps(factors.min[sub], sum, acc[c]);
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

impl Dot for Maddubs {
    const UNSIGNED: bool = false;

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn dots<W: Block<BYTES, S>, const BYTES: usize, const S: usize>(
        codes: &[__m256i; 8],
        quants: &[i32; 8],
        zero: i32,
        sub: usize,
    ) -> __m256i {
        let mut dots = _mm256_setzero_si256();
        for j in (sub * 8 / S..(sub + 1) * 8 / S).step_by(W::STEP) {
            let mut pairs = _mm256_set1_epi32(zero);
            for j in j..j + W::STEP {
                pairs = _mm256_add_epi16(pairs, products::<W, BYTES, S>(codes[j], quants[j]));
            }
            dots = _mm256_add_epi32(dots, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
        }
        dots
    }

    fn tiles<W: Block<BYTES, S>, const BYTES: usize, const S: usize, const OUT: usize>() -> [Kernel; COLUMNS] {
        let one: Kernel = quantised::<Self, W, BYTES, S, 1>;
        [one, few::<W, BYTES, S, OUT, 2>, few::<W, BYTES, S, OUT, 3>, few::<W, BYTES, S, OUT, 4>]
    }
}
