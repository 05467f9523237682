//! A panel for several columns on AVX2: its codes are unpacked once, into the first-level cache, for all column tiles.
//!
//! The panel is taken in runs of groups that fit there with the quants they meet. Sums continue from run to run, so that
//! every chain keeps its order. A tile is sixteen rows (two registers) by up to four columns, and every broadcast of four
//! quants serves both registers. The first tile multiplies each group as soon as it is unpacked.
//!
//! What is left is bound by the four vector pipes of the CPUs that have this tier: eight VPMADDUBSW, eight additions and
//! four more operations for eight rows, 32 columns and one token. Zero points cost nothing there: sums start at minus their
//! share, in 16 bits. Sums in between may wrap; the last one cannot be out of range, for 2 * 127 * 16 * 8 and
//! 2 * 127 * 32 * 4 are both 32512.

use std::arch::x86_64::*;
use std::ops::Range;

use super::fetch;
use super::linear::{hold, products};
use super::linear_blocks::*;
use super::linear_tile::{FullTile, Sums, add_full_tile};
use crate::arch::linear::{Acts, Columns, ROOM, Room, Tile};
use crate::weight::pack::Pack;

/// Groups of a run: code vectors of 512 bytes each, and scales and minima.
const RUN: usize = 24;
/// Bytes from what is being unpacked to what memory is asked for.
pub(super) const AHEAD: usize = 3 << 10;

const _: () = assert!(RUN * expanded_bytes(2) <= ROOM);

/// Bytes of an expanded group with `subs` sub-blocks: codes, scales, minima.
pub(super) const fn expanded_bytes(subs: usize) -> usize {
    512 + 128 * subs
}

/// What one column tile brings to some groups.
struct Inputs<'a, const S: usize, const C: usize> {
    quants: &'a [[[i32; 8]; C]],
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
        Inputs {
            quants: &acts.quants.as_chunks().0[own.clone()],
            scales: &acts.scales.as_chunks().0[own.clone()],
            zeros: &acts.zeros.as_chunks().0.as_chunks().0[part(W::ZERO)],
            sums: &acts.sums.as_chunks().0.as_chunks().0[part(W::MIN)],
        }
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
    let (mut acc, mut group) = ([[_mm256_setzero_ps(); 2]; C], Line([0; OUT]));
    for (b, raw) in blocks.iter().enumerate() {
        for i in 0..W::GROUPS {
            ask_ahead(raw, i * BYTES / W::GROUPS, BYTES / W::GROUPS);
            expand::<W, BYTES, S, OUT>(raw, i, &mut group.0);
            add_group::<W, BYTES, S, OUT, C>(&group.0, &inputs, b * W::GROUPS + i, &mut acc);
        }
    }
    pause(acc, out);
}

/// At the start of a cache line.
#[repr(C, align(64))]
struct Line<T>(T);

/// Asks memory for what lies [`AHEAD`] of `bytes` at `at`: the hardware sees the stream, but with so much to be done for a
/// line it does not keep enough of them under way.
#[inline(always)]
pub(super) fn ask_ahead(raw: &[u8], at: usize, bytes: usize) {
    for line in 0..bytes.div_ceil(64) {
        fetch(raw, AHEAD + at + 64 * line);
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
        // SAFETY: `unpack` needs the CPU features that this function has.
        let group = unsafe { W::unpack(raw, i, half) };
        for (j, codes) in group.codes.into_iter().enumerate() {
            put(codes, out, 64 * j + 32 * half);
        }
        for s in 0..S {
            let at = OUT - 128 * S + 64 * s + 32 * half;
            put(_mm256_castps_si256(group.scale[s]), out, at);
            if W::MIN {
                put(_mm256_castps_si256(group.min[s]), out, at + 64 * S);
            }
        }
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

/// Adds a run of groups to the sums of one tile. (Not inlined, so that the registers are its own.)
#[target_feature(enable = "avx2,fma,f16c")]
#[inline(never)]
fn tile<W: Block<BYTES, S>, const BYTES: usize, const S: usize, const OUT: usize, const C: usize>(
    run: &[[u8; OUT]],
    inputs: Inputs<'_, S, C>,
    out: &mut [[f32; 32]],
) {
    let mut acc = resume::<C>(out);
    for (g, group) in run.iter().enumerate() {
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
    for (b, (raw, out)) in blocks.iter().zip(run.chunks_exact_mut(W::GROUPS)).enumerate() {
        for (i, out) in out.iter_mut().enumerate() {
            ask_ahead(raw, i * BYTES / W::GROUPS, BYTES / W::GROUPS);
            expand::<W, BYTES, S, OUT>(raw, i, out);
            add_group::<W, BYTES, S, OUT, C>(out, &inputs, b * W::GROUPS + i, &mut acc);
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
    for sub in 0..S {
        let zeros = if W::ZERO { &inputs.zeros[g][sub] } else { &[0; C] };
        let sums = if W::MIN { &inputs.sums[g][sub] } else { &[0.0; C] };
        let [scale, min] = [OUT - 128 * S + 64 * sub, if W::MIN { OUT - 64 * S + 64 * sub } else { 0 }];
        if let (Some(quants), Some(scales), Some(zeros), Some(sums), Some(acc)) = (
            inputs.quants[g].first_chunk(),
            inputs.scales[g].first_chunk(),
            zeros.first_chunk(),
            sums.first_chunk(),
            acc.first_chunk_mut(),
        ) {
            let tile = FullTile {
                codes: group.first_chunk().expect("code vectors"),
                quants,
                first: sub * 8 / S,
                scale: group[scale..].first_chunk().expect("scales"),
                min: group[min..].first_chunk().expect("minima"),
                scales,
                zeros,
                sums,
            };
            add_full_tile::<W, BYTES, S>(&tile, acc);
            continue;
        }
        let dots = dots::<W, BYTES, S, OUT, C>(group, &inputs.quants[g], zeros, sub);
        for c in 0..C {
            let of = _mm256_set1_ps(inputs.scales[g][c]);
            for h in 0..2 {
                let scale = _mm256_mul_ps(_mm256_castsi256_ps(load(group, scale + 32 * h)), of);
                acc[c][h] = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(dots[c][h]), acc[c][h]);
                if W::MIN {
                    let min = _mm256_castsi256_ps(load(group, min + 32 * h));
                    acc[c][h] = _mm256_fmadd_ps(min, _mm256_set1_ps(sums[c]), acc[c][h]);
                }
            }
        }
    }
}

/// Dot products of sub-block `sub`, `W::STEP` code vectors added in 16 bits at a time, from `zeros` (two of 16 bits each).
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn dots<W: Block<BYTES, S>, const BYTES: usize, const S: usize, const OUT: usize, const C: usize>(
    mut group: &[u8; OUT],
    mut quants: &[[i32; 8]; C],
    zeros: &[i32; C],
    sub: usize,
) -> [[__m256i; 2]; C] {
    let mut dots = [[_mm256_setzero_si256(); 2]; C];
    for j in (sub * 8 / S..(sub + 1) * 8 / S).step_by(W::STEP) {
        let mut pairs = zeros.map(|zero| [_mm256_set1_epi32(zero); 2]);
        for j in j..j + W::STEP {
            let codes = [load(group, 64 * j), load(group, 64 * j + 32)];
            for c in 0..C {
                for h in 0..2 {
                    pairs[c][h] = _mm256_add_epi16(pairs[c][h], products::<W, BYTES, S>(codes[h], quants[c][j]));
                }
            }
            for pairs in pairs.as_flattened_mut() {
                (group, quants) = hold(group, quants, pairs);
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

/// Stores 32 bytes at `at`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn put(x: __m256i, out: &mut [u8], at: usize) {
    let bytes: &mut [u8; 32] = out[at..].first_chunk_mut().expect("32 bytes");
    // SAFETY: the reference is to as many bytes as are written, and the store has no alignment.
    unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), x) }
}
