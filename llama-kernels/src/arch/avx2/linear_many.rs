//! A panel for many columns on AVX2: its codes are unpacked once, into the first-level cache, for all column tiles.
//!
//! The panel is taken in runs of groups that fit there with the quants they meet. Sums continue from run to run, so that
//! every chain keeps its order. A tile is sixteen rows (two registers) by up to four columns, and every broadcast of four
//! quants serves both registers.
//!
//! What is left is bound by the four vector pipes of the CPUs that have this tier: eight VPMADDUBSW, eight additions and
//! four more operations for eight rows, 32 columns and one token. Zero points cost nothing there: sums start at minus their
//! share, in 16 bits. Sums in between may wrap; the last one cannot be out of range, for 2 * 127 * 16 * 8 and
//! 2 * 127 * 32 * 4 are both 32512.
//!
//! Codes of eight bits would overflow VPMADDUBSW's 16 bits, and are widened to 16 bits for VPMADDWD together with the
//! quants: even and odd bytes apart, which is an order like any other.

use std::arch::x86_64::*;

use super::linear::{COLUMNS, hold};
use super::linear_blocks::*;
use crate::arch::linear::{Acts, Columns, ROOM, ROOM_QUANTS, Room};

/// Groups of a run of bytes: 8 code vectors of 64 bytes, and as much for scales and minima.
const RUN: usize = 24;
/// Groups of a run of 16-bit codes: twice the code vectors, and quants of twice the bytes.
const WIDE_RUN: usize = 16;

const _: () =
    assert!(RUN * narrow_bytes(2) <= ROOM && WIDE_RUN * wide_bytes(2) <= ROOM && COLUMNS * WIDE_RUN <= ROOM_QUANTS);

/// Bytes of an expanded group with `subs` sub-blocks: codes, scales, minima.
pub(super) const fn narrow_bytes(subs: usize) -> usize {
    512 + 128 * subs
}

/// As [`narrow_bytes`], of codes of 16 bits.
pub(super) const fn wide_bytes(subs: usize) -> usize {
    1024 + 128 * subs
}

/// Whether this is [`wide_bytes`] of anything.
const fn is_wide(bytes: usize) -> bool {
    bytes >= wide_bytes(1)
}

/// Sums of a tile: sixteen rows of each column.
type Sums<const C: usize> = [[__m256; 2]; C];
/// Their dot products of one sub-block.
type Dots<const C: usize> = [[__m256i; 2]; C];

/// One panel for any number of column tiles. `OUT` is [`narrow_bytes`] or [`wide_bytes`] of `S`, and says which it is.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn many<W: Block<BYTES, S>, const BYTES: usize, const S: usize, const OUT: usize>(
    panel: &[u8],
    acts: &[Acts<'_>],
    columns: &mut Columns,
    room: &mut Room,
) {
    columns[..acts.iter().map(|acts| acts.columns).sum()].fill([0.0; 32]);
    let Room { codes, quants } = room;
    let codes = codes.as_chunks_mut::<OUT>().0;
    let mut first = 0;
    for blocks in panel.as_chunks::<BYTES>().0.chunks(if is_wide(OUT) { WIDE_RUN } else { RUN } / W::GROUPS) {
        let run = &mut codes[..blocks.len() * W::GROUPS];
        expand::<W, BYTES, S, OUT>(blocks, run);
        let mut at = 0;
        for acts in acts {
            let out = &mut columns[at..];
            match acts.columns {
                1 => tile::<W, BYTES, S, OUT, 1>(run, first, acts, quants, out),
                2 => tile::<W, BYTES, S, OUT, 2>(run, first, acts, quants, out),
                3 => tile::<W, BYTES, S, OUT, 3>(run, first, acts, quants, out),
                _ => tile::<W, BYTES, S, OUT, 4>(run, first, acts, quants, out),
            }
            at += acts.columns;
        }
        first += run.len();
    }
}

/// Unpacks groups: code vectors of both halves side by side, then scales, then minima.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn expand<W: Block<BYTES, S>, const BYTES: usize, const S: usize, const OUT: usize>(
    blocks: &[[u8; BYTES]],
    out: &mut [[u8; OUT]],
) {
    for (raw, out) in blocks.iter().zip(out.chunks_exact_mut(W::GROUPS)) {
        for (i, out) in out.iter_mut().enumerate() {
            for half in 0..2 {
                // SAFETY: `unpack` needs the CPU features that this function has.
                let group = unsafe { W::unpack(raw, i, half) };
                for (j, codes) in group.codes.into_iter().enumerate() {
                    if !is_wide(OUT) {
                        put(codes, out, 64 * j + 32 * half);
                    } else {
                        let [even, odd] = widen(codes);
                        put(even, out, 64 * j + 32 * half);
                        put(odd, out, 512 + 64 * j + 32 * half);
                    }
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
    }
}

/// The signed bytes at even and at odd places, as 16 bits.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn widen(bytes: __m256i) -> [__m256i; 2] {
    [_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(bytes)), _mm256_srai_epi16::<8>(bytes)]
}

/// Adds a run of groups, the panel's from `first`, to the sums of one tile.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn tile<W: Block<BYTES, S>, const BYTES: usize, const S: usize, const OUT: usize, const C: usize>(
    run: &[[u8; OUT]],
    first: usize,
    acts: &Acts<'_>,
    quants: &mut [[i32; 16]; ROOM_QUANTS],
    out: &mut [[f32; 32]],
) {
    let own = first..first + run.len();
    let narrow = &acts.quants.as_chunks::<C>().0[own.clone()];
    let scales = &acts.scales.as_chunks::<C>().0[own.clone()];
    let zeros = acts.zeros.as_chunks::<C>().0.as_chunks::<S>().0;
    let zeros = if W::ZERO { &zeros[own.clone()] } else { zeros };
    let sums = acts.sums.as_chunks::<C>().0.as_chunks::<S>().0;
    let sums = if W::MIN { &sums[own] } else { sums };
    if is_wide(OUT) {
        widen_quants(narrow.as_flattened(), quants);
    }
    let wide = quants.as_chunks::<C>().0;
    let mut acc = resume::<C>(out);
    for (g, group) in run.iter().enumerate() {
        for sub in 0..S {
            let dots = if is_wide(OUT) {
                wide_dots::<S, OUT, C>(group, &wide[g], sub)
            } else {
                let zeros = if W::ZERO { zeros[g][sub] } else { [0; C] };
                narrow_dots::<S, OUT, C>(group, &narrow[g], zeros, sub, W::STEP)
            };
            let at = OUT - 128 * S + 64 * sub;
            for c in 0..C {
                let (of, sum) = (_mm256_set1_ps(scales[g][c]), if W::MIN { sums[g][sub][c] } else { 0.0 });
                for h in 0..2 {
                    let scale = _mm256_mul_ps(_mm256_castsi256_ps(load(group, at + 32 * h)), of);
                    acc[c][h] = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(dots[c][h]), acc[c][h]);
                    if W::MIN {
                        let min = _mm256_castsi256_ps(load(group, at + 64 * S + 32 * h));
                        acc[c][h] = _mm256_fmadd_ps(min, _mm256_set1_ps(sum), acc[c][h]);
                    }
                }
            }
        }
    }
    pause(acc, out);
}

/// Dot products of sub-block `sub`, `step` code vectors added in 16 bits at a time, from `zeros` (two of 16 bits each).
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn narrow_dots<const S: usize, const OUT: usize, const C: usize>(
    mut group: &[u8; OUT],
    mut quants: &[[i32; 8]; C],
    zeros: [i32; C],
    sub: usize,
    step: usize,
) -> Dots<C> {
    let mut dots = [[_mm256_setzero_si256(); 2]; C];
    for j in (sub * 8 / S..(sub + 1) * 8 / S).step_by(step) {
        let mut pairs = [[_mm256_setzero_si256(); 2]; C];
        if step == 8 / S {
            pairs = zeros.map(|zero| [_mm256_set1_epi32(zero); 2]);
        }
        for j in j..j + step {
            let codes = [load(group, 64 * j), load(group, 64 * j + 32)];
            for c in 0..C {
                let q = _mm256_set1_epi32(quants[c][j]);
                for h in 0..2 {
                    pairs[c][h] = _mm256_add_epi16(pairs[c][h], _mm256_maddubs_epi16(codes[h], q));
                }
            }
            for pairs in pairs.as_flattened_mut() {
                (group, quants) = hold(group, quants, pairs);
            }
        }
        for c in 0..C {
            for h in 0..2 {
                let pairs = _mm256_madd_epi16(pairs[c][h], _mm256_set1_epi16(1));
                dots[c][h] = _mm256_add_epi32(dots[c][h], pairs);
            }
        }
    }
    dots
}

/// Dot products of sub-block `sub`, of 16-bit codes and quants.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn wide_dots<const S: usize, const OUT: usize, const C: usize>(
    mut group: &[u8; OUT],
    mut quants: &[[i32; 16]; C],
    sub: usize,
) -> Dots<C> {
    let mut dots = [[_mm256_setzero_si256(); 2]; C];
    for j in 0..16 / S {
        let j = sub * 8 / S + j % (8 / S) + j / (8 / S) * 8;
        let codes = [load(group, 64 * j), load(group, 64 * j + 32)];
        for c in 0..C {
            let q = _mm256_set1_epi32(quants[c][j]);
            for h in 0..2 {
                dots[c][h] = _mm256_add_epi32(dots[c][h], _mm256_madd_epi16(codes[h], q));
            }
        }
        for dots in dots.as_flattened_mut() {
            (group, quants) = hold(group, quants, dots);
        }
    }
    dots
}

/// Quants as 16 bits, in the order of [`widen`].
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn widen_quants(quants: &[[i32; 8]], out: &mut [[i32; 16]]) {
    for (quants, out) in quants.iter().zip(out) {
        let out: &mut [u8; 64] = bytemuck::cast_mut(out);
        let [even, odd] = widen(load(bytemuck::cast_ref::<_, [u8; 32]>(quants), 0));
        put(even, out, 0);
        put(odd, out, 32);
    }
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
