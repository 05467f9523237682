//! A linear in a 4-bit format with a zero point of 8 and a scale for 32 weights (Q4_0's arithmetic), eight rows by T tokens
//! in registers, over panels that fit the L2. One loop, four ends of a group:
//!
//! * ours: `acc = fma(w_scale * x_scale, dot, acc)`, one chain for each output;
//! * two chains for each output, even and odd groups, added at the end;
//! * one scale for 128 activations: `part = fma(w_scale, dot, part)`, and every fourth group `acc = fma(x_scale, part, acc)`;
//! * one scale for a token, multiplied at the very end.
//!
//! The last two also quantise worse (docs/numerics.md has the divergence that was measured): what they gain is no free lunch.

use std::arch::x86_64::*;
use std::hint::black_box;

use crate::beside;

const ROWS: usize = 8;
const GROUPS: usize = 64;
const PANELS: usize = 24;

/// How a group ends.
const OURS: usize = 0;
const TWO_CHAINS: usize = 1;
const WIDER_GROUPS: usize = 2;
const TOKEN_SCALES: usize = 3;

/// Eight rows of 32 weights: byte `[j][4 r + t]` has weight `4 j + t` of row r in its low half, `16 + 4 j + t` in its high.
#[derive(Clone, Copy)]
struct Weights {
    codes: [[u8; 32]; 4],
    scales: [f32; ROWS],
}

/// 32 activations, four to the i32, their scale, and `-8` times their sum.
#[derive(Clone, Copy, Default)]
struct Acts {
    quants: [i32; 8],
    scale: f32,
    zero: i32,
}

/// Times every way with one token and with four.
pub fn run() {
    let byte = |i: usize| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as u8;
    let weights: Vec<Weights> = (0..PANELS * GROUPS)
        .map(|g| Weights {
            codes: std::array::from_fn(|j| std::array::from_fn(|i| byte(g * 128 + j * 32 + i))),
            scales: std::array::from_fn(|r| f32::from(byte(g * 8 + r)) / 1000.0),
        })
        .collect();
    let acts = |tokens: usize| -> Vec<Acts> {
        let acts = |i: usize| {
            let bytes: [[u8; 4]; 8] = std::array::from_fn(|j| std::array::from_fn(|t| byte(7 + i * 32 + j * 4 + t)));
            let sum: i32 = bytes.as_flattened().iter().map(|&b| i32::from(b as i8)).sum();
            Acts { quants: bytes.map(i32::from_le_bytes), scale: 0.01 + 1e-4 * i as f32, zero: -8 * sum }
        };
        (0..GROUPS * tokens).map(acts).collect()
    };
    rows::<1>(&weights, &acts(1));
    rows::<4>(&weights, &acts(4));
}

/// Weights of a panel, activations of tokens; sums.
type Panel<const T: usize> = unsafe fn(&[Weights], &[[Acts; T]], &mut [[f32; ROWS]; T]);

fn rows<const T: usize>(weights: &[Weights], acts: &[Acts]) {
    let acts = acts.as_chunks::<T>().0;
    let mut outs = [[0.0; ROWS]; T];
    // SAFETY: `main` looked for AVX2; every CPU that has it has FMA.
    unsafe { panel::<T, OURS>(&weights[..GROUPS], acts, &mut outs) };
    assert_eq!(outs, plainly(&weights[..GROUPS], acts), "the loop is not the arithmetic that it stands for");
    let mut other = outs;
    let mut against = |what: &str, free: Panel<T>| {
        beside(
            &format!("linear, {T} tokens, {what}"),
            // SAFETY: as above.
            || weights.chunks(GROUPS).for_each(|w| unsafe { panel::<T, OURS>(w, black_box(acts), &mut outs) }),
            // SAFETY: as above.
            || weights.chunks(GROUPS).for_each(|w| unsafe { free(w, black_box(acts), &mut other) }),
        );
    };
    against("two chains for each output", panel::<T, TWO_CHAINS>);
    against("one scale for 128 activations", panel::<T, WIDER_GROUPS>);
    against("one scale for a token", panel::<T, TOKEN_SCALES>);
}

/// The promise's arithmetic, number by number.
fn plainly<const T: usize>(weights: &[Weights], acts: &[[Acts; T]]) -> [[f32; ROWS]; T] {
    let mut out = [[0.0f32; ROWS]; T];
    for (w, acts) in weights.iter().zip(acts) {
        for (x, out) in acts.iter().zip(&mut out) {
            for (r, out) in out.iter_mut().enumerate() {
                let quants = x.quants.map(i32::to_le_bytes);
                let code = |k: usize| i32::from(w.codes[k / 4 % 4][4 * r + k % 4] >> (4 * (k / 16)) & 15) - 8;
                let dot: i32 = (0..32).map(|k| code(k) * i32::from(quants[k / 4][k % 4] as i8)).sum();
                *out = (w.scales[r] * x.scale).mul_add(dot as f32, *out);
            }
        }
    }
    out
}

#[target_feature(enable = "avx2,fma")]
fn panel<const T: usize, const END: usize>(weights: &[Weights], acts: &[[Acts; T]], out: &mut [[f32; ROWS]; T]) {
    let (mut acc, mut odd) = ([_mm256_setzero_ps(); T], [_mm256_setzero_ps(); T]);
    for (g, (w, acts)) in weights.iter().zip(acts).enumerate() {
        let dots = dots(w, acts);
        let scales = get(&w.scales);
        for t in 0..T {
            let x_scale = _mm256_set1_ps(acts[t].scale);
            match END {
                OURS => acc[t] = _mm256_fmadd_ps(_mm256_mul_ps(scales, x_scale), dots[t], acc[t]),
                TWO_CHAINS if g % 2 == 0 => {
                    acc[t] = _mm256_fmadd_ps(_mm256_mul_ps(scales, x_scale), dots[t], acc[t]);
                }
                TWO_CHAINS => odd[t] = _mm256_fmadd_ps(_mm256_mul_ps(scales, x_scale), dots[t], odd[t]),
                WIDER_GROUPS => {
                    odd[t] = _mm256_fmadd_ps(scales, dots[t], odd[t]);
                    if g % 4 == 3 {
                        acc[t] = _mm256_fmadd_ps(x_scale, odd[t], acc[t]);
                        odd[t] = _mm256_setzero_ps();
                    }
                }
                _ => acc[t] = _mm256_fmadd_ps(scales, dots[t], acc[t]),
            }
        }
    }
    for t in 0..T {
        let sum = match END {
            TWO_CHAINS => _mm256_add_ps(acc[t], odd[t]),
            TOKEN_SCALES => _mm256_mul_ps(acc[t], _mm256_set1_ps(acts[0][t].scale)),
            _ => acc[t],
        };
        // SAFETY: an unaligned store of exactly the array's bytes.
        unsafe { _mm256_storeu_ps(out[t].as_mut_ptr(), sum) }
    }
}

/// Exact dots of eight rows with each token. Sixteen bits hold eight pairs: 8 x 2 x 15 x 127 is 30,480.
#[inline]
#[target_feature(enable = "avx2")]
fn dots<const T: usize>(w: &Weights, acts: &[Acts; T]) -> [__m256; T] {
    let mut pairs = [_mm256_setzero_si256(); T];
    let nibble = _mm256_set1_epi8(15);
    for j in 0..4 {
        // SAFETY: an unaligned load of exactly the array's bytes.
        let codes = unsafe { _mm256_loadu_si256(w.codes[j].as_ptr().cast()) };
        let (low, high) = (_mm256_and_si256(codes, nibble), _mm256_and_si256(_mm256_srli_epi16::<4>(codes), nibble));
        for t in 0..T {
            let x = [acts[t].quants[j], acts[t].quants[4 + j]].map(|x| _mm256_set1_epi32(x));
            pairs[t] = _mm256_add_epi16(pairs[t], _mm256_maddubs_epi16(low, x[0]));
            pairs[t] = _mm256_add_epi16(pairs[t], _mm256_maddubs_epi16(high, x[1]));
        }
    }
    let mut dots = [_mm256_setzero_ps(); T];
    for t in 0..T {
        let dot = _mm256_madd_epi16(pairs[t], _mm256_set1_epi16(1));
        dots[t] = _mm256_cvtepi32_ps(_mm256_add_epi32(dot, _mm256_set1_epi32(acts[t].zero)));
    }
    dots
}

#[inline]
#[target_feature(enable = "avx2")]
fn get(x: &[f32; 8]) -> __m256 {
    // SAFETY: an unaligned load of exactly the array's bytes.
    unsafe { _mm256_loadu_ps(x.as_ptr()) }
}
