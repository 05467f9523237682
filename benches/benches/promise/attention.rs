//! Attention of four query rows of one KV head over 1,024 positions in f16, head_dim 64. Ours: partitions of 256, each with
//! its own maximum and sum, merged; an exponential by powers of e to 2 ulp. Free: one running maximum, values summed where
//! they stand, and powers of 2 by a polynomial of degree 4 that clamps nothing above.
//!
//! Scores and sums of values themselves have no better order on this machine: the lanes are positions and columns, and
//! eight chains cover the latency.

use std::arch::x86_64::*;
use std::hint::black_box;

use half::f16;
use llama_kernels::Tier;
use llama_kernels::kernels::{AttentionKernels, BlockKernels, Reading, Softmax};
use llama_kernels::kv::Element;

use crate::beside;

const DIM: usize = 64;
const ROWS: usize = 4;
const PARTITION: usize = 256;
const PARTITIONS: usize = 4;
const BLOCKS: usize = PARTITION / 16;

/// Blocks of K or V, partition by partition.
type Cache<'a> = [[&'a [f16]; BLOCKS]; PARTITIONS];

/// What both are given, and the kernels that both use.
struct Task<'a> {
    q: [&'a [f32]; ROWS],
    k: Cache<'a>,
    v: Cache<'a>,
    kernels: AttentionKernels,
}

/// Results `[ROWS][DIM]` and scores `[ROWS][PARTITION]`.
struct Room {
    out: Vec<f32>,
    part: Vec<f32>,
    scores: Vec<f32>,
}

impl Room {
    fn new() -> Self {
        Room { out: vec![0.0; ROWS * DIM], part: vec![0.0; ROWS * DIM], scores: vec![0.0; ROWS * PARTITION] }
    }
}

fn numbers(len: usize, seed: u64) -> Vec<f32> {
    let number = |i: u64| ((i ^ seed).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
    (0..len as u64).map(number).collect()
}

/// Times both, after a look at how far apart their results are.
pub fn run() {
    let halves =
        |seed| -> Vec<f16> { numbers(PARTITIONS * PARTITION * DIM, seed).into_iter().map(f16::from_f32).collect() };
    let (q, k, v) = (numbers(ROWS * DIM, 1), halves(2), halves(3));
    fn cache(of: &[f16]) -> Cache<'_> {
        std::array::from_fn(|p| std::array::from_fn(|b| &of[(p * BLOCKS + b) * 16 * DIM..][..16 * DIM]))
    }
    let q = std::array::from_fn(|r| &q[r * DIM..][..DIM]);
    let kernels = AttentionKernels::new(Tier::Avx2).expect("a tier that is available");
    let task = Task { q, k: cache(&k), v: cache(&v), kernels };
    let (mut one, mut other) = (Room::new(), Room::new());
    ours(&task, &mut one);
    // SAFETY: the CPU has the tier, or there were no kernels.
    unsafe { free(&task, &mut other) };
    let apart = one.out.iter().zip(&other.out).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(apart > 0.0 && apart < 1e-4, "apart by {apart}");
    beside(
        "attention, 4 rows, 1,024 positions in f16",
        || ours(black_box(&task), &mut one),
        // SAFETY: as above.
        || unsafe { free(black_box(&task), &mut other) },
    );
}

fn blocks(task: &Task<'_>) -> BlockKernels<f16> {
    *f16::kernels(&task.kernels)
}

fn ours(task: &Task<'_>, room: &mut Room) {
    let mut all = [Softmax::default(); ROWS];
    for (p, (k, v)) in task.k.iter().zip(&task.v).enumerate() {
        blocks(task).scores(&task.q, Reading { now: k, ahead: k }, 0.125, &mut room.scores);
        let stats: [Softmax; ROWS] =
            std::array::from_fn(|r| task.kernels.softmax(&mut room.scores[r * PARTITION..][..PARTITION], 0..PARTITION));
        let weights: [&[f32]; ROWS] = std::array::from_fn(|r| &room.scores[r * PARTITION..][..PARTITION]);
        room.part.fill(0.0);
        blocks(task).values(&weights, Reading { now: v, ahead: v }, 0..PARTITION, &mut room.part);
        if p == 0 {
            all = stats;
            room.out.copy_from_slice(&room.part);
            continue;
        }
        for (r, all) in all.iter_mut().enumerate() {
            let row = r * DIM..(r + 1) * DIM;
            task.kernels.merge(all, &mut room.out[row.clone()], stats[r], &room.part[row]);
        }
    }
    divide(room, all.map(|all| all.sum));
}

#[target_feature(enable = "avx2,fma")]
fn free(task: &Task<'_>, room: &mut Room) {
    let (mut max, mut sums) = ([f32::NEG_INFINITY; ROWS], [_mm256_setzero_ps(); ROWS]);
    room.out.fill(0.0);
    for (k, v) in task.k.iter().zip(&task.v) {
        // Scores in powers of 2 from the start.
        let scale = 0.125 * std::f32::consts::LOG2_E;
        blocks(task).scores(&task.q, Reading { now: k, ahead: k }, scale, &mut room.scores);
        for r in 0..ROWS {
            let scores = room.scores[r * PARTITION..][..PARTITION].as_chunks_mut::<8>().0;
            let new = largest(scores).max(max[r]);
            if new > max[r] {
                let factor = (max[r] - new).exp2();
                room.out[r * DIM..][..DIM].iter_mut().for_each(|out| *out *= factor);
                sums[r] = _mm256_mul_ps(sums[r], _mm256_set1_ps(factor));
                max[r] = new;
            }
            for four in scores.as_chunks_mut::<4>().0 {
                sums[r] = _mm256_add_ps(sums[r], powers(four, max[r]));
            }
        }
        let weights: [&[f32]; ROWS] = std::array::from_fn(|r| &room.scores[r * PARTITION..][..PARTITION]);
        blocks(task).values(&weights, Reading { now: v, ahead: v }, 0..PARTITION, &mut room.out);
    }
    let sums = sums.map(|sum| {
        let mut lanes = [0.0f32; 8];
        put(&mut lanes, sum);
        lanes.iter().sum()
    });
    divide(room, sums);
}

fn divide(room: &mut Room, sums: [f32; ROWS]) {
    for (row, sum) in room.out.chunks_exact_mut(DIM).zip(sums) {
        row.iter_mut().for_each(|out| *out *= 1.0 / sum);
    }
}

#[target_feature(enable = "avx2")]
fn largest(scores: &[[f32; 8]]) -> f32 {
    let mut max = [_mm256_set1_ps(f32::NEG_INFINITY); 4];
    for four in scores.as_chunks::<4>().0 {
        for (max, eight) in max.iter_mut().zip(four) {
            *max = _mm256_max_ps(*max, get(eight));
        }
    }
    let mut lanes = [0.0; 8];
    put(&mut lanes, _mm256_max_ps(_mm256_max_ps(max[0], max[1]), _mm256_max_ps(max[2], max[3])));
    lanes.into_iter().fold(f32::NEG_INFINITY, f32::max)
}

/// `2^(x - max)` in place, and the sum of four vectors. Within 4e-6 of it where x is at most max.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn powers(x: &mut [[f32; 8]; 4], max: f32) -> __m256 {
    const POLY: [f32; 5] = [0.009_685_7, 0.055_922, 0.240_218_7, 0.693_121_1, 1.000_000_2];
    let (mut n, mut r) = ([_mm256_setzero_ps(); 4], [_mm256_setzero_ps(); 4]);
    let mut p = [_mm256_set1_ps(POLY[0]); 4];
    for i in 0..4 {
        r[i] = _mm256_max_ps(_mm256_sub_ps(get(&x[i]), _mm256_set1_ps(max)), _mm256_set1_ps(-126.0));
        n[i] = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(r[i]);
        r[i] = _mm256_sub_ps(r[i], n[i]);
    }
    for &c in &POLY[1..] {
        for i in 0..4 {
            p[i] = _mm256_fmadd_ps(p[i], r[i], _mm256_set1_ps(c));
        }
    }
    for i in 0..4 {
        let exponent = _mm256_slli_epi32::<23>(_mm256_cvtps_epi32(n[i]));
        p[i] = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p[i]), exponent));
        put(&mut x[i], p[i]);
    }
    _mm256_add_ps(_mm256_add_ps(p[0], p[1]), _mm256_add_ps(p[2], p[3]))
}

#[inline]
#[target_feature(enable = "avx2")]
fn get(x: &[f32; 8]) -> __m256 {
    // SAFETY: an unaligned load of exactly the array's bytes.
    unsafe { _mm256_loadu_ps(x.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn put(out: &mut [f32; 8], x: __m256) {
    // SAFETY: an unaligned store of exactly the array's bytes.
    unsafe { _mm256_storeu_ps(out.as_mut_ptr(), x) }
}
