//! What codes, scales and minima are made of: bits of packed forms in AVX2 registers, for eight rows where nothing
//! else is said.

use std::arch::x86_64::*;

/// Eight code vectors: half a group.
pub(in crate::arch) type Codes = [__m256i; 8];

/// Eight f16 as f32.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn halves(raw: &[u8], at: usize) -> __m256 {
    _mm256_cvtph_ps(load128(raw, at))
}

/// Eight f16 as f32, negated: factors of minima, which are taken off.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn minus_halves(raw: &[u8], at: usize) -> __m256 {
    _mm256_xor_ps(halves(raw, at), _mm256_set1_ps(-0.0))
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn bytes(raw: &[u8], at: usize, half: usize) -> Codes {
    let mut codes = [_mm256_setzero_si256(); 8];
    for (j, code) in codes.iter_mut().enumerate() {
        *code = load(raw, at + 64 * j + 32 * half);
    }
    codes
}

/// Takes off a zero point of 128.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn signed(mut codes: Codes) -> Codes {
    for code in &mut codes {
        *code = _mm256_xor_si256(*code, _mm256_set1_epi8(-128));
    }
    codes
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn nibbles(raw: &[u8], at: usize, half: usize) -> Codes {
    let mask = _mm256_set1_epi8(15);
    let mut codes = [_mm256_setzero_si256(); 8];
    for j in 0..4 {
        let both = load(raw, at + 64 * j + 32 * half);
        codes[j] = _mm256_and_si256(both, mask);
        codes[j + 4] = _mm256_and_si256(_mm256_srli_epi16::<4>(both), mask);
    }
    codes
}

/// `a | (b & mask)`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn or_masked(a: __m256i, b: __m256i, mask: i8) -> __m256i {
    _mm256_or_si256(a, _mm256_and_si256(b, _mm256_set1_epi8(mask)))
}

/// Bit `j` of `bits` becomes bit 4 of code vector `j`. (Bits that a 16-bit shift carries into the neighbouring byte are
/// masked off.)
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn with_bits(mut codes: Codes, bits: __m256i) -> Codes {
    let shifted = [
        _mm256_slli_epi16::<4>(bits),
        _mm256_slli_epi16::<3>(bits),
        _mm256_slli_epi16::<2>(bits),
        _mm256_slli_epi16::<1>(bits),
        bits,
        _mm256_srli_epi16::<1>(bits),
        _mm256_srli_epi16::<2>(bits),
        _mm256_srli_epi16::<3>(bits),
    ];
    for j in 0..8 {
        codes[j] = or_masked(codes[j], shifted[j], 16);
    }
    codes
}

/// Bits `2 i` and `2 i + 1` of `pairs[h]` become bits 4 and 5 of code vector `4 h + i`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn with_pairs(mut codes: Codes, pairs: [__m256i; 2]) -> Codes {
    for (h, pairs) in pairs.into_iter().enumerate() {
        let shifted =
            [_mm256_slli_epi16::<4>(pairs), _mm256_slli_epi16::<2>(pairs), pairs, _mm256_srli_epi16::<2>(pairs)];
        for i in 0..4 {
            codes[4 * h + i] = or_masked(codes[4 * h + i], shifted[i], 0x30);
        }
    }
    codes
}

/// Bits `2 i` and `2 i + 1` of `pairs[h]` are code vector `4 h + i`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn low_pairs(pairs: [__m256i; 2]) -> Codes {
    let mask = _mm256_set1_epi8(3);
    let mut codes = [_mm256_setzero_si256(); 8];
    for (h, pairs) in pairs.into_iter().enumerate() {
        codes[4 * h] = _mm256_and_si256(pairs, mask);
        codes[4 * h + 1] = _mm256_and_si256(_mm256_srli_epi16::<2>(pairs), mask);
        codes[4 * h + 2] = _mm256_and_si256(_mm256_srli_epi16::<4>(pairs), mask);
        codes[4 * h + 3] = _mm256_and_si256(_mm256_srli_epi16::<6>(pairs), mask);
    }
    codes
}

/// Bit `j` of `bits` becomes bit 2 of code vector `j`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn with_third_bits(mut codes: Codes, bits: __m256i) -> Codes {
    let shifted = [
        _mm256_slli_epi16::<2>(bits),
        _mm256_slli_epi16::<1>(bits),
        bits,
        _mm256_srli_epi16::<1>(bits),
        _mm256_srli_epi16::<2>(bits),
        _mm256_srli_epi16::<3>(bits),
        _mm256_srli_epi16::<4>(bits),
        _mm256_srli_epi16::<5>(bits),
    ];
    for j in 0..8 {
        codes[j] = or_masked(codes[j], shifted[j], 4);
    }
    codes
}

/// The values of a table of sixteen bytes.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn look_up(table: &[u8; 16], mut codes: Codes) -> Codes {
    let table = lookup_table(table);
    for code in &mut codes {
        *code = _mm256_shuffle_epi8(table, *code);
    }
    codes
}

/// A table of sixteen bytes, as a shuffle takes it.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn lookup_table(bytes: &[u8; 16]) -> __m256i {
    _mm256_broadcastsi128_si256(load128(bytes, 0))
}

/// `2^(e - 128)` of eight bytes. Moved to the exponent of a float they are `2^(e - 127)`, except that 0 would give 0
/// where half of the subnormal `2^-127` is wanted.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn half_powers(raw: &[u8], at: usize) -> __m256 {
    let powers = _mm256_slli_epi32::<23>(_mm256_cvtepu8_epi32(load64(raw, at)));
    let powers = _mm256_max_epu32(powers, _mm256_set1_epi32(0x0040_0000));
    _mm256_mul_ps(_mm256_castsi256_ps(powers), _mm256_set1_ps(0.5))
}

/// `d * scale` and `-dmin * min` of group `i` of Q4_K and Q5_K.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn k_scales(raw: &[u8], i: usize, half: usize) -> (__m256, __m256) {
    let [scale, min] = six_bits(raw, 64, i, half);
    (times(halves(raw, 16 * half), scale), times(minus_halves(raw, 32 + 16 * half), min))
}

/// [`k_scales`] of all groups and rows, stored at the end of each group.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn k_scales_of_all<const OUT: usize>(raw: &[u8], out: &mut [[u8; OUT]]) {
    let by = [[halves(raw, 0), halves(raw, 16)], [minus_halves(raw, 32), minus_halves(raw, 48)]];
    for (pair, out) in out.as_chunks_mut::<2>().0.iter_mut().enumerate() {
        for (by, (what, factors)) in by.iter().zip(six_bits_of_two(raw, 64, 2 * pair).into_iter().enumerate()) {
            let groups = [_mm256_castsi256_si128(factors), _mm256_extracti128_si256::<1>(factors)];
            for (out, factors) in out.iter_mut().zip(groups) {
                for (half, factors) in [factors, _mm_srli_si128::<8>(factors)].into_iter().enumerate() {
                    put(_mm256_castps_si256(times(by[half], factors)), out, OUT - 128 + 64 * what + 32 * half);
                }
            }
        }
    }
}

/// Both 6-bit numbers of group `i` for eight rows, from the low nibbles at `at` and the high bits behind them.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn six_bits(raw: &[u8], at: usize, i: usize, half: usize) -> [__m128i; 2] {
    let low = load64(raw, at + 16 * i + 8 * half);
    let high = shift_right(load64(raw, at + 128 + 16 * (i / 2) + 8 * half), 4 * (i % 2));
    [
        _mm_or_si128(_mm_and_si128(low, _mm_set1_epi8(15)), _mm_slli_epi16::<4>(_mm_and_si128(high, _mm_set1_epi8(3)))),
        _mm_or_si128(
            _mm_and_si128(_mm_srli_epi16::<4>(low), _mm_set1_epi8(15)),
            _mm_slli_epi16::<2>(_mm_and_si128(high, _mm_set1_epi8(12))),
        ),
    ]
}

/// [`six_bits`] of groups `i` and `i + 1` (`i` is even) for all sixteen rows, the second group's in the high halves.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn six_bits_of_two(raw: &[u8], at: usize, i: usize) -> [__m256i; 2] {
    let low = load(raw, at + 16 * i);
    let high = load128(raw, at + 128 + 8 * i);
    let high = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(high), _mm_srli_epi16::<4>(high));
    let nibble = _mm256_set1_epi8(15);
    [
        or_masked(_mm256_and_si256(low, nibble), _mm256_slli_epi16::<4>(high), 0x30),
        or_masked(_mm256_and_si256(_mm256_srli_epi16::<4>(low), nibble), _mm256_slli_epi16::<2>(high), 0x30),
    ]
}

/// `d` by eight unsigned bytes.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn times(d: __m256, factors: __m128i) -> __m256 {
    _mm256_mul_ps(d, _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(factors)))
}

/// Every 16 bits shifted; callers mask off what crosses bytes.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn shift_right(x: __m128i, bits: usize) -> __m128i {
    _mm_srl_epi16(x, _mm_cvtsi32_si128(bits as i32))
}

/// The 32 bytes from `at`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn load(raw: &[u8], at: usize) -> __m256i {
    let bytes: &[u8; 32] = raw[at..].first_chunk().expect("32 bytes");
    // SAFETY: the reference is to as many bytes as are read, and the load has no alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

/// The 16 bytes from `at`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn load128(raw: &[u8], at: usize) -> __m128i {
    let bytes: &[u8; 16] = raw[at..].first_chunk().expect("16 bytes");
    // SAFETY: the reference is to as many bytes as are read, and the load has no alignment.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

/// The 8 bytes from `at`, then zeros.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn load64(raw: &[u8], at: usize) -> __m128i {
    let bytes: &[u8; 8] = raw[at..].first_chunk().expect("8 bytes");
    _mm_cvtsi64_si128(i64::from_le_bytes(*bytes))
}

/// Eight floats.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn load_floats(x: &[f32; 8]) -> __m256 {
    // SAFETY: the reference is to as many floats as are read, and the load has no alignment.
    unsafe { _mm256_loadu_ps(x.as_ptr()) }
}

/// Stores eight rows.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn store(x: __m256, out: &mut [f32; 8]) {
    // SAFETY: the reference is to as many floats as are written, and the store has no alignment.
    unsafe { _mm256_storeu_ps(out.as_mut_ptr(), x) }
}

/// Stores 32 bytes at `at`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn put(x: __m256i, out: &mut [u8], at: usize) {
    let bytes: &mut [u8; 32] = out[at..].first_chunk_mut().expect("32 bytes");
    // SAFETY: the reference is to as many bytes as are written, and the store has no alignment.
    unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), x) }
}
