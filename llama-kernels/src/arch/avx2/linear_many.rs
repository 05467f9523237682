//! A panel for several columns on AVX2: its codes are unpacked once, into the first-level cache, for all column tiles.
//!
//! The panel is taken in runs of groups that fit there with the quants they meet. Sums continue from run to run, so that
//! every chain keeps its order. A tile is sixteen rows (two registers) by up to four columns, and every broadcast of four
//! quants serves both registers. The first tile multiplies each group as soon as it is unpacked, or, where codes are nothing
//! but nibbles, while it is.
//!
//! What is left is bound by the four vector pipes of the CPUs that have this tier: eight VPMADDUBSW, eight additions and
//! four more operations for eight rows, 32 columns and one token. Zero points cost nothing there: sums start at minus their
//! share, in 16 bits. Sums in between may wrap; the last one cannot be out of range, for 2 * 127 * 16 * 8 and
//! 2 * 127 * 32 * 4 are both 32512.

use std::arch::x86_64::*;
use std::ops::Range;

use super::linear_bits::{load, put, store};
use super::linear_blocks::*;
use super::linear_tile::{FullTile, Sums, add_codes, add_nibbles};
use super::{AHEAD, ask_ahead, fetch_near, hold};
use crate::arch::linear::{Acts, Columns, ROOM, Room, Tile};
use crate::weight::pack::Pack;

/// Groups of the longest block.
pub(super) const MOST_GROUPS: usize = 8;
/// Groups of a run: code vectors of 512 bytes each, and scales and minima.
const RUN: usize = 24;

const _: () = assert!(RUN * expanded_bytes(2) <= ROOM);

/// Bytes of an expanded group with `subs` sub-blocks: codes, scales, minima.
pub(super) const fn expanded_bytes(subs: usize) -> usize {
    512 + 128 * subs
}

/// What one column tile brings to some groups.
struct Inputs<'a, const S: usize, const C: usize> {
    quants: &'a [[[i32; 8]; C]],
    /// How many groups on the same group of the next tile is.
    next: usize,
    scales: &'a [[f32; C]],
    /// Of forms that have a zero point.
    zeros: &'a [[[i32; C]; S]],
    /// Of forms that have minima.
    sums: &'a [[[f32; C]; S]],
}

impl<'a, const S: usize, const C: usize> Inputs<'a, S, C> {
    /// Those of groups `own`.
    fn of<W: Block<BYTES, S>, const BYTES: usize>(acts: &Acts<'a>, own: Range<usize>) -> Self {
        let part = |read: bool| if read { own.clone() } else { 0..0 };
        let quants = acts.quants.as_chunks().0;
        Inputs {
            quants: &quants[own.clone()],
            next: quants.len(),
            scales: &acts.scales.as_chunks().0[own.clone()],
            zeros: &acts.zeros.as_chunks().0.as_chunks().0[part(W::ZERO)],
            sums: &acts.sums.as_chunks().0.as_chunks().0[part(W::MIN)],
        }
    }

    /// What a full tile brings to sub-block `sub` of group `g`, whose `scales` and minima lie as [`expand`] leaves them.
    fn full<W: Block<BYTES, S>, const BYTES: usize>(
        &self,
        g: usize,
        sub: usize,
        scales: &'a [u8],
    ) -> Option<FullTile<'a>> {
        Some(FullTile {
            quants: self.quants[g].first_chunk()?,
            first: sub * 8 / S,
            scale: scales[64 * sub..].first_chunk()?,
            min: scales[64 * (S + sub)..].first_chunk()?,
            scales: self.scales[g].first_chunk()?,
            zeros: if W::ZERO { self.zeros[g][sub].first_chunk()? } else { &[0; 4] },
            sums: if W::MIN { self.sums[g][sub].first_chunk()? } else { &[0.0; 4] },
        })
    }
}

/// One panel for any number of column tiles. `OUT` is [`expanded_bytes`] of `S`.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn many<W: Block<BYTES, S>, const BYTES: usize, const S: usize, const OUT: usize>(
    panel: &[u8],
    acts: &[Acts<'_>],
    columns: &mut Columns,
    room: &mut Room,
) {
    columns[..acts.iter().map(|acts| acts.columns).sum()].fill([0.0; 32]);
    let room = room.codes.as_chunks_mut::<OUT>().0;
    let mut first = 0;
    for blocks in panel.as_chunks::<BYTES>().0.chunks(RUN / W::GROUPS) {
        let run = &mut room[..blocks.len() * W::GROUPS];
        let mut at = 0;
        for (i, acts) in acts.iter().enumerate() {
            let (out, own) = (&mut columns[at..], first..first + run.len());
            let blocks = if i == 0 { blocks } else { &[] };
            match acts.columns {
                1 => part::<W, BYTES, S, OUT, 1>(blocks, run, Inputs::of::<W, BYTES>(acts, own), out),
                2 => part::<W, BYTES, S, OUT, 2>(blocks, run, Inputs::of::<W, BYTES>(acts, own), out),
                3 => part::<W, BYTES, S, OUT, 3>(blocks, run, Inputs::of::<W, BYTES>(acts, own), out),
                _ => part::<W, BYTES, S, OUT, 4>(blocks, run, Inputs::of::<W, BYTES>(acts, own), out),
            }
            at += acts.columns;
        }
        first += run.len();
    }
}

/// One panel for one column tile: each group is used as soon as it is unpacked, so that memory is read without a pause.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn few<W: Block<BYTES, S>, const BYTES: usize, const S: usize, const OUT: usize, const C: usize>(
    _: Pack,
    panel: &[u8],
    acts: Acts<'_>,
    out: &mut Tile,
) {
    let blocks = panel.as_chunks::<BYTES>().0;
    let inputs = Inputs::of::<W, BYTES>(&acts, 0..blocks.len() * W::GROUPS);
    let mut acc = [[_mm256_setzero_ps(); 2]; C];
    if let (Some(at), Some(acc)) = (W::NIBBLES, acc.first_chunk_mut()) {
        add_nibble_blocks::<W, BYTES, S, OUT, C, false>(blocks, at, &mut [], &inputs, acc);
    } else {
        let mut group = Line([0; OUT]);
        for (b, raw) in blocks.iter().enumerate() {
            for i in 0..W::GROUPS {
                unpack_group::<W, BYTES, S, OUT, C>(raw, i, &mut group.0, &inputs, b * W::GROUPS + i, &mut acc);
            }
        }
    }
    pause(acc, out);
}

/// At the start of a cache line.
#[repr(C, align(64))]
pub(super) struct Line<T>(pub T);

/// Unpacks group `i` of a block and adds its products, whose inputs are at `g`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn unpack_group<W: Block<BYTES, S>, const BYTES: usize, const S: usize, const OUT: usize, const C: usize>(
    raw: &[u8; BYTES],
    i: usize,
    out: &mut [u8; OUT],
    inputs: &Inputs<'_, S, C>,
    g: usize,
    acc: &mut Sums<C>,
) {
    ask_ahead::<AHEAD>(raw, i * BYTES / W::GROUPS, BYTES / W::GROUPS);
    expand::<W, BYTES, S, OUT>(raw, i, out);
    add_group::<W, BYTES, S, OUT, C>(out, inputs, g, acc);
}

/// Adds the products of blocks of nibbles, which begin `at` so many bytes, for a full tile. With `KEEP` groups are left in
/// `run`.
///
/// The loop goes over groups, not over blocks and their groups: that the compiler would unroll, to more code than the CPU's
/// cache of decoded instructions has room for.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn add_nibble_blocks<
    W: Block<BYTES, S>,
    const BYTES: usize,
    const S: usize,
    const OUT: usize,
    const C: usize,
    const KEEP: bool,
>(
    blocks: &[[u8; BYTES]],
    at: usize,
    run: &mut [[u8; OUT]],
    inputs: &Inputs<'_, S, C>,
    acc: &mut Sums<4>,
) {
    let mut room = Line([[0; 128]; MOST_GROUPS]);
    for g in 0..blocks.len() * W::GROUPS {
        let (raw, i) = (&blocks[g / W::GROUPS], g % W::GROUPS);
        ask_ahead::<AHEAD>(raw, i * BYTES / W::GROUPS, BYTES / W::GROUPS);
        if i == 0 {
            // SAFETY: `all_scales` needs the CPU features that this function has.
            unsafe {
                if KEEP {
                    W::all_scales(raw, &mut run[g..g + W::GROUPS]);
                } else {
                    W::all_scales(raw, &mut room.0[..W::GROUPS]);
                }
            }
        }
        let nibbles = raw[at + 256 * i..].first_chunk().expect("nibbles");
        let (codes, scales) = if KEEP {
            let (codes, scales) = run[g].split_first_chunk_mut().expect("code vectors");
            (Some(codes), &*scales)
        } else {
            (None, &room.0[i][..])
        };
        let tile = inputs.full::<W, BYTES>(g, 0, scales).expect("four columns");
        add_nibbles::<W, BYTES, S>(nibbles, codes, &tile, acc);
    }
}

/// Unpacks group `i`: code vectors of both halves side by side, then scales, then minima.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn expand<W: Block<BYTES, S>, const BYTES: usize, const S: usize, const OUT: usize>(
    raw: &[u8; BYTES],
    i: usize,
    out: &mut [u8; OUT],
) {
    for half in 0..2 {
        // SAFETY: both need the CPU features that this function has.
        let (codes, scales) = unsafe { (W::codes(raw, i, half), W::scales(raw, i, half)) };
        for (j, codes) in codes.into_iter().enumerate() {
            put(codes, out, 64 * j + 32 * half);
        }
        scales.put(out, half, W::MIN);
    }
}

/// A run of groups for one tile: the first tile unpacks `blocks`, later ones have none and find the run unpacked.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn part<W: Block<BYTES, S>, const BYTES: usize, const S: usize, const OUT: usize, const C: usize>(
    blocks: &[[u8; BYTES]],
    run: &mut [[u8; OUT]],
    inputs: Inputs<'_, S, C>,
    out: &mut [[f32; 32]],
) {
    if blocks.is_empty() {
        tile::<W, BYTES, S, OUT, C>(run, inputs, out);
    } else {
        unpack_tile::<W, BYTES, S, OUT, C>(blocks, run, inputs, out);
    }
}

/// Adds a run of groups to the sums of one tile, and asks for the quants of the next, which are in the second-level cache.
/// (Not inlined, so that the registers are its own.)
#[target_feature(enable = "avx2,fma,f16c")]
#[inline(never)]
fn tile<W: Block<BYTES, S>, const BYTES: usize, const S: usize, const OUT: usize, const C: usize>(
    run: &[[u8; OUT]],
    inputs: Inputs<'_, S, C>,
    out: &mut [[f32; 32]],
) {
    let mut acc = resume::<C>(out);
    for (g, group) in run.iter().enumerate() {
        fetch_near(inputs.quants, g + inputs.next);
        add_group::<W, BYTES, S, OUT, C>(group, &inputs, g, &mut acc);
    }
    pause(acc, out);
}

/// As [`tile`], of groups that are unpacked one by one: into `run`, for the tiles that follow. Unpacking is bound by stores
/// and multiplying is not, so that most of it is hidden.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline(never)]
fn unpack_tile<W: Block<BYTES, S>, const BYTES: usize, const S: usize, const OUT: usize, const C: usize>(
    blocks: &[[u8; BYTES]],
    run: &mut [[u8; OUT]],
    inputs: Inputs<'_, S, C>,
    out: &mut [[f32; 32]],
) {
    let mut acc = resume::<C>(out);
    if let (Some(at), Some(acc)) = (W::NIBBLES, acc.first_chunk_mut()) {
        add_nibble_blocks::<W, BYTES, S, OUT, C, true>(blocks, at, run, &inputs, acc);
    } else {
        for (b, (raw, out)) in blocks.iter().zip(run.chunks_exact_mut(W::GROUPS)).enumerate() {
            for (i, out) in out.iter_mut().enumerate() {
                unpack_group::<W, BYTES, S, OUT, C>(raw, i, out, &inputs, b * W::GROUPS + i, &mut acc);
            }
        }
    }
    pause(acc, out);
}

/// Adds the products of a group, whose inputs are at `g`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn add_group<W: Block<BYTES, S>, const BYTES: usize, const S: usize, const OUT: usize, const C: usize>(
    group: &[u8; OUT],
    inputs: &Inputs<'_, S, C>,
    g: usize,
    acc: &mut Sums<C>,
) {
    let (codes, scales) = group.split_first_chunk().expect("code vectors");
    for sub in 0..S {
        if let (Some(tile), Some(acc)) = (inputs.full::<W, BYTES>(g, sub, scales), acc.first_chunk_mut()) {
            add_codes::<W, BYTES, S>(codes, &tile, acc);
            continue;
        }
        let zeros = if W::ZERO { inputs.zeros[g][sub] } else { [0; C] };
        let dots = dots::<W, BYTES, S, C>(codes, &inputs.quants[g], zeros, sub);
        for c in 0..C {
            let of = _mm256_set1_ps(inputs.scales[g][c]);
            for h in 0..2 {
                let scale = _mm256_mul_ps(_mm256_castsi256_ps(load(scales, 64 * sub + 32 * h)), of);
                acc[c][h] = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(dots[c][h]), acc[c][h]);
                if W::MIN {
                    let min = _mm256_castsi256_ps(load(scales, 64 * (S + sub) + 32 * h));
                    acc[c][h] = _mm256_fmadd_ps(min, _mm256_set1_ps(inputs.sums[g][sub][c]), acc[c][h]);
                }
            }
        }
    }
}

/// Dot products of sub-block `sub`, `W::STEP` code vectors added in 16 bits at a time, from `zeros` (two of 16 bits each).
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn dots<W: Block<BYTES, S>, const BYTES: usize, const S: usize, const C: usize>(
    mut codes: &[u8; 512],
    mut quants: &[[i32; 8]; C],
    zeros: [i32; C],
    sub: usize,
) -> [[__m256i; 2]; C] {
    let mut dots = [[_mm256_setzero_si256(); 2]; C];
    for j in (sub * 8 / S..(sub + 1) * 8 / S).step_by(W::STEP) {
        let mut pairs = zeros.map(|zero| [_mm256_set1_epi32(zero); 2]);
        for j in j..j + W::STEP {
            let vectors = [load(codes, 64 * j), load(codes, 64 * j + 32)];
            for c in 0..C {
                for h in 0..2 {
                    pairs[c][h] = _mm256_add_epi16(pairs[c][h], products::<W, BYTES, S>(vectors[h], quants[c][j]));
                }
            }
            for pairs in pairs.as_flattened_mut() {
                (codes, quants) = hold(codes, quants, pairs);
            }
        }
        for (dots, pairs) in dots.as_flattened_mut().iter_mut().zip(pairs.as_flattened()) {
            *dots = _mm256_add_epi32(*dots, _mm256_madd_epi16(*pairs, _mm256_set1_epi16(1)));
        }
    }
    dots
}

/// The sums so far.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn resume<const C: usize>(columns: &[[f32; 32]]) -> Sums<C> {
    let mut acc = [[_mm256_setzero_ps(); 2]; C];
    for (acc, column) in acc.iter_mut().zip(columns) {
        let bytes: &[u8] = bytemuck::cast_slice(column);
        *acc = [_mm256_castsi256_ps(load(bytes, 0)), _mm256_castsi256_ps(load(bytes, 32))];
    }
    acc
}

/// Keeps sums for the next run.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn pause<const C: usize>(acc: Sums<C>, columns: &mut [[f32; 32]]) {
    for (acc, column) in acc.into_iter().zip(columns) {
        let halves = column.as_chunks_mut().0;
        store(acc[0], &mut halves[0]);
        store(acc[1], &mut halves[1]);
    }
}
