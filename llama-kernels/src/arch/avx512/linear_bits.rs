//! Pieces of packed forms in AVX-512 registers: loads, and what bits of codes and factors become.

use std::arch::x86_64::*;

/// The eight code vectors of a group.
pub(super) type Codes = [__m512i; 8];

/// Sixteen f16 as f32.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn halves(raw: &[u8], at: usize) -> __m512 {
    _mm512_cvtph_ps(load256(raw, at))
}

#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn bytes(raw: &[u8], at: usize) -> Codes {
    let mut codes = [_mm512_setzero_si512(); 8];
    for (j, code) in codes.iter_mut().enumerate() {
        *code = load(raw, at + 64 * j);
    }
    codes
}

#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
pub(super) fn nibbles(raw: &[u8], at: usize) -> Codes {
    let mask = _mm512_set1_epi8(15);
    let mut codes = [_mm512_setzero_si512(); 8];
    for j in 0..4 {
        let both = load(raw, at + 64 * j);
        codes[j] = _mm512_and_si512(both, mask);
        codes[j + 4] = _mm512_and_si512(_mm512_srli_epi16::<4>(both), mask);
    }
    codes
}

/// `a | (b & mask)`.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn or_masked(a: __m512i, b: __m512i, mask: __m512i) -> __m512i {
    _mm512_ternarylogic_epi32::<0xF8>(a, b, mask)
}

/// Bit `j` of `bits` becomes bit 4 of code vector `j`. (Bits that a 16-bit shift carries into the neighbouring byte are
/// masked off.)
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
pub(super) fn with_bits(mut codes: Codes, bits: __m512i) -> Codes {
    let shifted = [
        _mm512_slli_epi16::<4>(bits),
        _mm512_slli_epi16::<3>(bits),
        _mm512_slli_epi16::<2>(bits),
        _mm512_slli_epi16::<1>(bits),
        bits,
        _mm512_srli_epi16::<1>(bits),
        _mm512_srli_epi16::<2>(bits),
        _mm512_srli_epi16::<3>(bits),
    ];
    for j in 0..8 {
        codes[j] = or_masked(codes[j], shifted[j], _mm512_set1_epi8(16));
    }
    codes
}

/// Bits `2 i` and `2 i + 1` of `pairs[h]` become bits 4 and 5 of code vector `4 h + i`.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
pub(super) fn with_pairs(mut codes: Codes, pairs: [__m512i; 2]) -> Codes {
    for (h, pairs) in pairs.into_iter().enumerate() {
        let shifted =
            [_mm512_slli_epi16::<4>(pairs), _mm512_slli_epi16::<2>(pairs), pairs, _mm512_srli_epi16::<2>(pairs)];
        for i in 0..4 {
            codes[4 * h + i] = or_masked(codes[4 * h + i], shifted[i], _mm512_set1_epi8(0x30));
        }
    }
    codes
}

/// Bits `2 i` and `2 i + 1` of `pairs[h]` are code vector `4 h + i`.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
pub(super) fn low_pairs(pairs: [__m512i; 2]) -> Codes {
    let mask = _mm512_set1_epi8(3);
    let mut codes = [_mm512_setzero_si512(); 8];
    for (h, pairs) in pairs.into_iter().enumerate() {
        codes[4 * h] = _mm512_and_si512(pairs, mask);
        codes[4 * h + 1] = _mm512_and_si512(_mm512_srli_epi16::<2>(pairs), mask);
        codes[4 * h + 2] = _mm512_and_si512(_mm512_srli_epi16::<4>(pairs), mask);
        codes[4 * h + 3] = _mm512_and_si512(_mm512_srli_epi16::<6>(pairs), mask);
    }
    codes
}

/// Bit `j` of `bits` becomes bit 2 of code vector `j`.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
pub(super) fn with_third_bits(mut codes: Codes, bits: __m512i) -> Codes {
    let shifted = [
        _mm512_slli_epi16::<2>(bits),
        _mm512_slli_epi16::<1>(bits),
        bits,
        _mm512_srli_epi16::<1>(bits),
        _mm512_srli_epi16::<2>(bits),
        _mm512_srli_epi16::<3>(bits),
        _mm512_srli_epi16::<4>(bits),
        _mm512_srli_epi16::<5>(bits),
    ];
    for j in 0..8 {
        codes[j] = or_masked(codes[j], shifted[j], _mm512_set1_epi8(4));
    }
    codes
}

/// The values of a table of sixteen bytes.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
pub(super) fn look_up(table: &[u8; 16], mut codes: Codes) -> Codes {
    let table = _mm512_broadcast_i32x4(load128(table, 0));
    for code in &mut codes {
        *code = _mm512_shuffle_epi8(table, *code);
    }
    codes
}

/// `2^(e - 128)` of sixteen bytes. Moved to the exponent of a float they are `2^(e - 127)`, except that 0 would give 0
/// where half of the subnormal `2^-127` is wanted.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn half_powers(raw: &[u8], at: usize) -> __m512 {
    let powers = _mm512_slli_epi32::<23>(_mm512_cvtepu8_epi32(load128(raw, at)));
    let powers = _mm512_max_epu32(powers, _mm512_set1_epi32(0x0040_0000));
    _mm512_mul_ps(_mm512_castsi512_ps(powers), _mm512_set1_ps(0.5))
}

/// Both 6-bit numbers of group `i` for sixteen rows, from the low nibbles at `at` and the high bits behind them.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn six_bits(raw: &[u8], at: usize, i: usize) -> [__m128i; 2] {
    let low = load128(raw, at + 16 * i);
    let high = shift_right(load128(raw, at + 128 + 16 * (i / 2)), 4 * (i % 2));
    [
        _mm_or_si128(_mm_and_si128(low, _mm_set1_epi8(15)), _mm_slli_epi16::<4>(_mm_and_si128(high, _mm_set1_epi8(3)))),
        _mm_or_si128(
            _mm_and_si128(_mm_srli_epi16::<4>(low), _mm_set1_epi8(15)),
            _mm_slli_epi16::<2>(_mm_and_si128(high, _mm_set1_epi8(12))),
        ),
    ]
}

/// `d` by sixteen unsigned bytes.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn times(d: __m512, factors: __m128i) -> __m512 {
    _mm512_mul_ps(d, _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(factors)))
}

/// Every 16 bits shifted; callers mask off what crosses bytes.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn shift_right(x: __m128i, bits: usize) -> __m128i {
    _mm_srl_epi16(x, _mm_cvtsi32_si128(bits as i32))
}

/// The 64 bytes from `at`.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn load(raw: &[u8], at: usize) -> __m512i {
    let bytes: &[u8; 64] = raw[at..].first_chunk().expect("64 bytes");
    // SAFETY: the reference is to as many bytes as are read, and the load has no alignment.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

/// The 32 bytes from `at`.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn load256(raw: &[u8], at: usize) -> __m256i {
    let bytes: &[u8; 32] = raw[at..].first_chunk().expect("32 bytes");
    // SAFETY: the reference is to as many bytes as are read, and the load has no alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

/// The 16 bytes from `at`.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn load128(raw: &[u8], at: usize) -> __m128i {
    let bytes: &[u8; 16] = raw[at..].first_chunk().expect("16 bytes");
    // SAFETY: the reference is to as many bytes as are read, and the load has no alignment.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

/// Stores sixteen rows.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn store(x: __m512, out: &mut [f32; 16]) {
    // SAFETY: the reference is to as many floats as are written, and the store has no alignment.
    unsafe { _mm512_storeu_ps(out.as_mut_ptr(), x) }
}
