//! A panel for many columns on NEON: its codes are unpacked once, into the first-level cache, for all column tiles.
//!
//! The panel is taken in runs of groups that fit there with the quants they meet, and sums continue from run to run, so that
//! every chain keeps its order. A register is four rows, so a run lies there quarter by quarter: a tile goes through one with
//! its sums in registers, and finds each group as signed codes (what was left of a zero point is off), scales and minima.
//! How those are laid out and multiplied is a tier's [`Tiles`]; that of tiers which multiply lane by lane is [`Lanes`].

use std::arch::aarch64::*;
use std::marker::PhantomData;
use std::ops::Range;

use super::dot::DotColumns;
use super::linear_bits::{Codes, load, store};
use super::linear_blocks::{Block, Scales};
use super::vector::{load_quarter, store_quarter};
use crate::arch::linear::{Acts, Columns, ROOM, Room};

/// Columns of the widest tile: eight sums, eight dot products and eight quants leave registers for codes and scales. Pairs
/// would have room for twelve, but beyond eight the compiler begins to keep sums in memory.
pub(super) const WIDEST: usize = 8;

/// Bytes of a quarter of an expanded group with `subs` sub-blocks: codes, and scales and minima, each for four rows twice at
/// most.
pub(super) const fn quarter_bytes(subs: usize) -> usize {
    128 + 64 * subs
}

/// Groups of a run: as many as there is room for, in blocks of eight.
const fn run(subs: usize) -> usize {
    ROOM / (4 * quarter_bytes(subs)) / 8 * 8
}

/// Rows of a panel, for one column of activations.
pub(super) type Column = [f32; 32];

/// What one column tile brings to a run of groups.
pub(super) struct Inputs<'a, const C: usize, const S: usize> {
    pub quants: &'a [[[i32; 8]; C]],
    pub scales: &'a [[f32; C]],
    /// Of forms that have minima.
    pub sums: &'a [[[f32; C]; S]],
}

impl<'a, const C: usize, const S: usize> Inputs<'a, C, S> {
    /// Those of groups `own`.
    pub(super) fn of(acts: &Acts<'a>, own: Range<usize>, min: bool) -> Self {
        Inputs {
            quants: &acts.quants.as_chunks().0[own.clone()],
            scales: &acts.scales.as_chunks().0[own.clone()],
            sums: &acts.sums.as_chunks().0.as_chunks().0[if min { own } else { 0..0 }],
        }
    }
}

/// How a tier lays out a quarter of a group, and multiplies a run of them with a column tile.
pub(super) trait Tiles {
    /// Writes a quarter of a group.
    ///
    /// # Safety
    /// The CPU has the tier's instructions.
    unsafe fn put<const S: usize, const OUT: usize>(codes: Codes, scales: Scales<S>, out: &mut [u8; OUT]);

    /// Adds the products of groups `own`, whose four quarters are `run`, to the sums of one tile. `STEP` is [`Block::STEP`].
    ///
    /// # Safety
    /// The CPU has the tier's instructions.
    unsafe fn tile<const S: usize, const MIN: bool, const STEP: usize, const OUT: usize>(
        run: [&[[u8; OUT]]; 4],
        acts: &Acts<'_>,
        own: Range<usize>,
        out: &mut [Column],
    );
}

/// One panel for any number of column tiles. `OUT` is [`quarter_bytes`] of `S`, and `MIN` and `STEP` are the form's.
#[target_feature(enable = "neon")]
pub(super) fn many<
    T: Tiles,
    W: Block<BYTES, S>,
    const BYTES: usize,
    const S: usize,
    const OUT: usize,
    const MIN: bool,
    const STEP: usize,
>(
    panel: &[u8],
    acts: &[Acts<'_>],
    columns: &mut Columns,
    room: &mut Room,
) {
    const { assert!(OUT == quarter_bytes(S) && MIN == W::MIN && STEP == W::STEP) };
    columns[..acts.iter().map(|acts| acts.columns).sum()].fill([0.0; 32]);
    let mut quarters = room.codes.as_chunks_mut::<OUT>().0.chunks_exact_mut(run(S));
    let mut quarters = [(); 4].map(|()| quarters.next().expect("room for four quarters"));
    let mut first = 0;
    for blocks in panel.as_chunks::<BYTES>().0.chunks(run(S) / W::GROUPS) {
        let groups = blocks.len() * W::GROUPS;
        for (q, quarter) in quarters.iter_mut().enumerate() {
            for (b, raw) in blocks.iter().enumerate() {
                for i in 0..W::GROUPS {
                    expand::<T, W, BYTES, S, OUT>(raw, i, q, &mut quarter[b * W::GROUPS + i]);
                }
            }
        }
        let run = quarters.each_ref().map(|quarter| &quarter[..groups]);
        let mut at = 0;
        for acts in acts {
            // SAFETY: only the table of its tier has the kernels of `T`.
            unsafe { T::tile::<S, MIN, STEP, OUT>(run, acts, first..first + groups, &mut columns[at..]) };
            at += acts.columns;
        }
        first += groups;
    }
}

/// Unpacks quarter `q` of group `i`. (Not inlined: it is nothing to the columns that follow, and long.)
#[target_feature(enable = "neon")]
#[inline(never)]
fn expand<T: Tiles, W: Block<BYTES, S>, const BYTES: usize, const S: usize, const OUT: usize>(
    raw: &[u8; BYTES],
    i: usize,
    q: usize,
    out: &mut [u8; OUT],
) {
    // SAFETY: both need NEON, which this function has.
    let (mut codes, scales) = unsafe { (W::codes(raw, i, q), W::scales(raw, i, q)) };
    for code in &mut codes {
        *code = vsubq_s8(*code, vdupq_n_s8(W::POINT));
    }
    // SAFETY: only the table of its tier has the kernels of `T`.
    unsafe { T::put(codes, scales, out) };
}

/// Code vectors as they are: a lane is a row.
pub(super) struct Lanes<D>(PhantomData<D>);

impl<D: DotColumns> Tiles for Lanes<D> {
    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn put<const S: usize, const OUT: usize>(codes: Codes, scales: Scales<S>, out: &mut [u8; OUT]) {
        for (j, codes) in codes.into_iter().enumerate() {
            store(vreinterpretq_u8_s8(codes), out, 16 * j);
        }
        for (s, (scale, min)) in scales.scale.into_iter().zip(scales.min).enumerate() {
            store(vreinterpretq_u8_f32(scale), out, 128 + 16 * s);
            store(vreinterpretq_u8_f32(min), out, 128 + 16 * (S + s));
        }
    }

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn tile<const S: usize, const MIN: bool, const STEP: usize, const OUT: usize>(
        run: [&[[u8; OUT]]; 4],
        acts: &Acts<'_>,
        own: Range<usize>,
        out: &mut [Column],
    ) {
        match acts.columns {
            1 => lanes::<D, S, MIN, STEP, OUT, 1>(run, Inputs::of(acts, own, MIN), out),
            2 => lanes::<D, S, MIN, STEP, OUT, 2>(run, Inputs::of(acts, own, MIN), out),
            3 => lanes::<D, S, MIN, STEP, OUT, 3>(run, Inputs::of(acts, own, MIN), out),
            4 => lanes::<D, S, MIN, STEP, OUT, 4>(run, Inputs::of(acts, own, MIN), out),
            5 => lanes::<D, S, MIN, STEP, OUT, 5>(run, Inputs::of(acts, own, MIN), out),
            6 => lanes::<D, S, MIN, STEP, OUT, 6>(run, Inputs::of(acts, own, MIN), out),
            7 => lanes::<D, S, MIN, STEP, OUT, 7>(run, Inputs::of(acts, own, MIN), out),
            _ => lanes::<D, S, MIN, STEP, OUT, WIDEST>(run, Inputs::of(acts, own, MIN), out),
        }
    }
}

/// [`Tiles::tile`] of `C` columns. (Not inlined, so that the registers are its own.)
#[target_feature(enable = "neon")]
#[inline(never)]
fn lanes<D: DotColumns, const S: usize, const MIN: bool, const STEP: usize, const OUT: usize, const C: usize>(
    run: [&[[u8; OUT]]; 4],
    inputs: Inputs<'_, C, S>,
    out: &mut [Column],
) {
    for (q, run) in run.into_iter().enumerate() {
        let mut acc = [vdupq_n_f32(0.0); C];
        for (acc, column) in acc.iter_mut().zip(&*out) {
            *acc = load_quarter(&column.as_chunks().0[q]);
        }
        for (g, group) in run.iter().enumerate() {
            for sub in 0..S {
                // SAFETY: only the table of its tier has the kernels of `D`.
                let dots = unsafe { D::columns::<S, STEP, C>(group, &inputs.quants[g], sub) };
                let scale = vreinterpretq_f32_u8(load(group, 128 + 16 * sub));
                for c in 0..C {
                    let scale = vmulq_n_f32(scale, inputs.scales[g][c]);
                    acc[c] = vfmaq_f32(acc[c], scale, vcvtq_f32_s32(dots[c]));
                }
                if MIN {
                    let min = vreinterpretq_f32_u8(load(group, 128 + 16 * (S + sub)));
                    for (acc, &sum) in acc.iter_mut().zip(&inputs.sums[g][sub]) {
                        *acc = vfmaq_n_f32(*acc, min, sum);
                    }
                }
            }
        }
        for (acc, column) in acc.into_iter().zip(&mut *out) {
            store_quarter(&mut column.as_chunks_mut().0[q], acc);
        }
    }
}
