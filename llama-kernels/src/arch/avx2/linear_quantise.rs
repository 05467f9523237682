//! Activations to int8 on AVX2, to the bits of `numerics::quantize_group`. The tier above uses it too.

use std::arch::x86_64::*;

use llama_core::numerics::{GROUP, QUANT_MIN, Scaling};

use super::linear_bits::load_floats;
use crate::quant::{QuantGroup, QuantTile};

/// Quantises a column tile.
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::arch) fn quantise(x: &[f32], mut out: QuantTile<'_>) {
    out.fill_with(x, |group, scaling| quantise_group(group, scaling));
}

/// The largest magnitude is found among the bits as integers, so that a NaN wins. Conversion rounds to even.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn quantise_group(x: &[f32; GROUP], scaling: Scaling) -> QuantGroup {
    let x: [__m256; 4] = [load(x, 0), load(x, 8), load(x, 16), load(x, 24)];
    let max = largest(x.map(|x| _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x7FFF_FFFF))));
    if max < QUANT_MIN.to_bits() {
        return QuantGroup::default();
    }
    let (scale, inverse) = scaling.factors(f32::from_bits(max));
    let quants = x.map(|x| to_int(_mm256_mul_ps(x, _mm256_set1_ps(inverse))));
    // Packing works within halves of a register: the last step puts the runs of four quants in order.
    let pairs = [_mm256_packs_epi32(quants[0], quants[1]), _mm256_packs_epi32(quants[2], quants[3])];
    let bytes = _mm256_packs_epi16(pairs[0], pairs[1]);
    let bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    let mut group = QuantGroup { scale, quants: [0; 8], pairs: pair_sums(bytes) };
    // SAFETY: the reference is to as many bytes as are written, and the store has no alignment.
    unsafe { _mm256_storeu_si256((&raw mut group.quants).cast(), bytes) };
    group
}

/// The largest of 32 numbers below 2^31.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn largest(x: [__m256i; 4]) -> u32 {
    let eight = _mm256_max_epi32(_mm256_max_epi32(x[0], x[1]), _mm256_max_epi32(x[2], x[3]));
    let four = _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256::<1>(eight));
    let two = _mm_max_epi32(four, _mm_shuffle_epi32::<0b_01_00_11_10>(four));
    _mm_cvtsi128_si32(_mm_max_epi32(two, _mm_shuffle_epi32::<0b_10_11_00_01>(two))) as u32
}

/// Rounded to even; 0 for NaN.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn to_int(x: __m256) -> __m256i {
    let is_number = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_ORD_Q>(x, x));
    _mm256_and_si256(_mm256_cvtps_epi32(x), is_number)
}

/// Sums of pairs over the first and the last sixteen bytes. VPMADDUBSW makes pairs, in 16 bits; four of them are added.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn pair_sums(bytes: __m256i) -> [[i16; 2]; 2] {
    let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes);
    let two = _mm256_add_epi16(pairs, _mm256_shuffle_epi32::<0b_01_00_11_10>(pairs));
    let one = _mm256_add_epi16(two, _mm256_shuffle_epi32::<0b_10_11_00_01>(two));
    [_mm256_extract_epi32::<0>(one), _mm256_extract_epi32::<4>(one)].map(|both| [both as i16, (both >> 16) as i16])
}

/// Eight of the group.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn load(x: &[f32; GROUP], at: usize) -> __m256 {
    load_floats(x[at..].first_chunk().expect("8 of 32"))
}
