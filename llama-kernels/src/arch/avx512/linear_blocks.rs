//! Packed forms in AVX-512 registers: what `weight::unpack` says, sixteen rows at a time.

use std::arch::x86_64::*;

use crate::weight::pack::{E2M1, IQ4};

/// A group: eight code vectors, and scale and minimum of sixteen rows for each of `S` sub-blocks.
pub(super) struct Unpacked<const S: usize> {
    pub codes: [__m512i; 8],
    pub scale: [__m512; S],
    pub min: [__m512; S],
}

/// A packed form of `BYTES` a block and `S` sub-blocks a group.
pub(super) trait Block<const BYTES: usize, const S: usize> {
    /// Groups of a block.
    const GROUPS: usize;
    /// Whether it has a zero point.
    const ZERO: bool;
    /// Whether it has minima.
    const MIN: bool;
    /// Whether its scales are f16, or small multiples of one.
    const HALVES: bool = true;

    /// Unpacks group `i`.
    ///
    /// # Safety
    /// The CPU has the features of this tier.
    unsafe fn unpack(raw: &[u8; BYTES], i: usize) -> Unpacked<S>;
}

/// A float form of `BYTES` for 32 rows.
pub(super) trait Floats<const BYTES: usize> {
    /// Widens 32 rows of one column.
    ///
    /// # Safety
    /// The CPU has the features of this tier.
    unsafe fn load(raw: &[u8; BYTES]) -> [__m512; 2];
}

pub(super) struct Q8_0;
pub(super) struct Q4_0;
pub(super) struct Q4_1;
pub(super) struct Q5_0;
pub(super) struct Q5_1;
pub(super) struct Q2K;
pub(super) struct Q3K;
pub(super) struct Q4K;
pub(super) struct Q5K;
pub(super) struct Q6K;
pub(super) struct Iq4Nl;
pub(super) struct Iq4Xs;
pub(super) struct Mxfp4;
pub(super) struct WideBlock<const S: usize, const MIN: bool>;
pub(super) struct F32;
pub(super) struct F16;
pub(super) struct Bf16;

impl Block<544, 1> for Q8_0 {
    const GROUPS: usize = 1;
    const ZERO: bool = true;
    const MIN: bool = false;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    unsafe fn unpack(raw: &[u8; 544], _: usize) -> Unpacked<1> {
        scaled(bytes(raw, 32), halves(raw, 0))
    }
}

impl Block<288, 1> for Q4_0 {
    const GROUPS: usize = 1;
    const ZERO: bool = true;
    const MIN: bool = false;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    unsafe fn unpack(raw: &[u8; 288], _: usize) -> Unpacked<1> {
        scaled(nibbles(raw, 32), halves(raw, 0))
    }
}

impl Block<320, 1> for Q4_1 {
    const GROUPS: usize = 1;
    const ZERO: bool = false;
    const MIN: bool = true;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    unsafe fn unpack(raw: &[u8; 320], _: usize) -> Unpacked<1> {
        Unpacked { codes: nibbles(raw, 64), scale: [halves(raw, 0)], min: [halves(raw, 32)] }
    }
}

impl Block<352, 1> for Q5_0 {
    const GROUPS: usize = 1;
    const ZERO: bool = true;
    const MIN: bool = false;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    unsafe fn unpack(raw: &[u8; 352], _: usize) -> Unpacked<1> {
        scaled(with_bits(nibbles(raw, 96), load(raw, 32)), halves(raw, 0))
    }
}

impl Block<384, 1> for Q5_1 {
    const GROUPS: usize = 1;
    const ZERO: bool = false;
    const MIN: bool = true;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    unsafe fn unpack(raw: &[u8; 384], _: usize) -> Unpacked<1> {
        let codes = with_bits(nibbles(raw, 128), load(raw, 64));
        Unpacked { codes, scale: [halves(raw, 0)], min: [halves(raw, 32)] }
    }
}

impl Block<1344, 2> for Q2K {
    const GROUPS: usize = 8;
    const ZERO: bool = false;
    const MIN: bool = true;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    unsafe fn unpack(raw: &[u8; 1344], i: usize) -> Unpacked<2> {
        let (d, dmin) = (halves(raw, 0), _mm512_xor_ps(halves(raw, 32), _mm512_set1_ps(-0.0)));
        let factors = |s: usize| load128(raw, 64 + 16 * (2 * i + s));
        let scale = |s: usize| times(d, _mm_and_si128(factors(s), _mm_set1_epi8(15)));
        let min = |s: usize| times(dmin, _mm_and_si128(_mm_srli_epi16::<4>(factors(s)), _mm_set1_epi8(15)));
        let at = 320 + 128 * i;
        let codes = low_pairs([load(raw, at), load(raw, at + 64)]);
        Unpacked { codes, scale: [scale(0), scale(1)], min: [min(0), min(1)] }
    }
}

impl Block<1760, 2> for Q3K {
    const GROUPS: usize = 8;
    const ZERO: bool = true;
    const MIN: bool = false;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    unsafe fn unpack(raw: &[u8; 1760], i: usize) -> Unpacked<2> {
        let d = halves(raw, 0);
        let factors = six_bits(raw, 32, i);
        let scale = |s: usize| {
            let factors = _mm_sub_epi8(factors[s], _mm_set1_epi8(32));
            _mm512_mul_ps(d, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(factors)))
        };
        let at = 224 + 192 * i;
        let codes = with_third_bits(low_pairs([load(raw, at + 64), load(raw, at + 128)]), load(raw, at));
        Unpacked { codes, scale: [scale(0), scale(1)], min: [_mm512_setzero_ps(); 2] }
    }
}

impl Block<2304, 1> for Q4K {
    const GROUPS: usize = 8;
    const ZERO: bool = false;
    const MIN: bool = true;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    unsafe fn unpack(raw: &[u8; 2304], i: usize) -> Unpacked<1> {
        let (scale, min) = k_scales(raw, i);
        Unpacked { codes: nibbles(raw, 256 + 256 * i), scale: [scale], min: [min] }
    }
}

impl Block<2816, 1> for Q5K {
    const GROUPS: usize = 8;
    const ZERO: bool = false;
    const MIN: bool = true;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    unsafe fn unpack(raw: &[u8; 2816], i: usize) -> Unpacked<1> {
        let (scale, min) = k_scales(raw, i);
        let at = 256 + 320 * i;
        Unpacked { codes: with_bits(nibbles(raw, at + 64), load(raw, at)), scale: [scale], min: [min] }
    }
}

impl Block<3360, 2> for Q6K {
    const GROUPS: usize = 8;
    const ZERO: bool = true;
    const MIN: bool = false;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    unsafe fn unpack(raw: &[u8; 3360], i: usize) -> Unpacked<2> {
        let d = halves(raw, 0);
        let scale = |s: usize| {
            let factors = _mm512_cvtepi8_epi32(load128(raw, 32 + 16 * (2 * i + s)));
            _mm512_mul_ps(d, _mm512_cvtepi32_ps(factors))
        };
        let at = 288 + 384 * i;
        let codes = with_pairs(nibbles(raw, at + 128), [load(raw, at), load(raw, at + 64)]);
        Unpacked { codes, scale: [scale(0), scale(1)], min: [_mm512_setzero_ps(); 2] }
    }
}

impl Block<288, 1> for Iq4Nl {
    const GROUPS: usize = 1;
    const ZERO: bool = true;
    const MIN: bool = false;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    unsafe fn unpack(raw: &[u8; 288], _: usize) -> Unpacked<1> {
        scaled(look_up(&IQ4, nibbles(raw, 32)), halves(raw, 0))
    }
}

impl Block<2176, 1> for Iq4Xs {
    const GROUPS: usize = 8;
    const ZERO: bool = true;
    const MIN: bool = false;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    unsafe fn unpack(raw: &[u8; 2176], i: usize) -> Unpacked<1> {
        let low = shift_right(load128(raw, 32 + 16 * (i / 2)), 4 * (i % 2));
        let high = shift_right(load128(raw, 96 + 16 * (i / 4)), 2 * (i % 4));
        let high = _mm_slli_epi16::<4>(_mm_and_si128(high, _mm_set1_epi8(3)));
        let factors = _mm_or_si128(_mm_and_si128(low, _mm_set1_epi8(15)), high);
        let factors = _mm_sub_epi8(factors, _mm_set1_epi8(32));
        let scale = _mm512_mul_ps(halves(raw, 0), _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(factors)));
        scaled(look_up(&IQ4, nibbles(raw, 128 + 256 * i)), scale)
    }
}

impl Block<272, 1> for Mxfp4 {
    const GROUPS: usize = 1;
    const ZERO: bool = true;
    const MIN: bool = false;
    const HALVES: bool = false;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    unsafe fn unpack(raw: &[u8; 272], _: usize) -> Unpacked<1> {
        scaled(look_up(&E2M1, nibbles(raw, 16)), half_powers(raw, 0))
    }
}

impl<const BYTES: usize, const S: usize, const MIN: bool> Block<BYTES, S> for WideBlock<S, MIN> {
    const GROUPS: usize = 1;
    const ZERO: bool = !MIN;
    const MIN: bool = MIN;
    const HALVES: bool = false;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    unsafe fn unpack(raw: &[u8; BYTES], _: usize) -> Unpacked<S> {
        let mut scale = [_mm512_setzero_ps(); S];
        let mut min = scale;
        for s in 0..S {
            scale[s] = _mm512_castsi512_ps(load(raw, 64 * s));
            if MIN {
                min[s] = _mm512_castsi512_ps(load(raw, 64 * (S + s)));
            }
        }
        Unpacked { codes: bytes(raw, BYTES - 512), scale, min }
    }
}

impl Floats<128> for F32 {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    unsafe fn load(raw: &[u8; 128]) -> [__m512; 2] {
        [_mm512_castsi512_ps(load(raw, 0)), _mm512_castsi512_ps(load(raw, 64))]
    }
}

impl Floats<64> for F16 {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    unsafe fn load(raw: &[u8; 64]) -> [__m512; 2] {
        [halves(raw, 0), halves(raw, 32)]
    }
}

impl Floats<64> for Bf16 {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    unsafe fn load(raw: &[u8; 64]) -> [__m512; 2] {
        let widen = |at| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(load256(raw, at))));
        [widen(0), widen(32)]
    }
}

/// A group without minima.
#[target_feature(enable = "avx512f")]
#[inline]
fn scaled(codes: [__m512i; 8], scale: __m512) -> Unpacked<1> {
    Unpacked { codes, scale: [scale], min: [_mm512_setzero_ps()] }
}

/// Sixteen f16 as f32.
#[target_feature(enable = "avx512f")]
#[inline]
fn halves(raw: &[u8], at: usize) -> __m512 {
    _mm512_cvtph_ps(load256(raw, at))
}

#[target_feature(enable = "avx512f")]
#[inline]
fn bytes(raw: &[u8], at: usize) -> [__m512i; 8] {
    let mut codes = [_mm512_setzero_si512(); 8];
    for (j, code) in codes.iter_mut().enumerate() {
        *code = load(raw, at + 64 * j);
    }
    codes
}

#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn nibbles(raw: &[u8], at: usize) -> [__m512i; 8] {
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
fn or_masked(a: __m512i, b: __m512i, mask: __m512i) -> __m512i {
    _mm512_ternarylogic_epi32::<0xF8>(a, b, mask)
}

/// Bit `j` of `bits` becomes bit 4 of code vector `j`. (Bits that a 16-bit shift carries into the neighbouring byte are
/// masked off.)
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn with_bits(mut codes: [__m512i; 8], bits: __m512i) -> [__m512i; 8] {
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
fn with_pairs(mut codes: [__m512i; 8], pairs: [__m512i; 2]) -> [__m512i; 8] {
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
fn low_pairs(pairs: [__m512i; 2]) -> [__m512i; 8] {
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
fn with_third_bits(mut codes: [__m512i; 8], bits: __m512i) -> [__m512i; 8] {
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
fn look_up(table: &[u8; 16], mut codes: [__m512i; 8]) -> [__m512i; 8] {
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
fn half_powers(raw: &[u8], at: usize) -> __m512 {
    let powers = _mm512_slli_epi32::<23>(_mm512_cvtepu8_epi32(load128(raw, at)));
    let powers = _mm512_max_epu32(powers, _mm512_set1_epi32(0x0040_0000));
    _mm512_mul_ps(_mm512_castsi512_ps(powers), _mm512_set1_ps(0.5))
}

/// `d * scale` and `-dmin * min` of group `i` of Q4_K and Q5_K.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
#[inline]
fn k_scales(raw: &[u8], i: usize) -> (__m512, __m512) {
    let [scale, min] = six_bits(raw, 64, i);
    let dmin = _mm512_xor_ps(halves(raw, 32), _mm512_set1_ps(-0.0));
    (times(halves(raw, 0), scale), times(dmin, min))
}

/// Both 6-bit numbers of group `i` for sixteen rows, from the low nibbles at `at` and the high bits behind them.
#[target_feature(enable = "avx512f")]
#[inline]
fn six_bits(raw: &[u8], at: usize, i: usize) -> [__m128i; 2] {
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
fn times(d: __m512, factors: __m128i) -> __m512 {
    _mm512_mul_ps(d, _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(factors)))
}

/// Every 16 bits shifted; callers mask off what crosses bytes.
#[target_feature(enable = "avx512f")]
#[inline]
fn shift_right(x: __m128i, bits: usize) -> __m128i {
    _mm_srl_epi16(x, _mm_cvtsi32_si128(bits as i32))
}

/// The 64 bytes from `at`.
#[target_feature(enable = "avx512f")]
#[inline]
fn load(raw: &[u8], at: usize) -> __m512i {
    let bytes: &[u8; 64] = raw[at..].first_chunk().expect("64 bytes");
    // SAFETY: the reference is to as many bytes as are read, and the load has no alignment.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

/// The 32 bytes from `at`.
#[target_feature(enable = "avx512f")]
#[inline]
fn load256(raw: &[u8], at: usize) -> __m256i {
    let bytes: &[u8; 32] = raw[at..].first_chunk().expect("32 bytes");
    // SAFETY: the reference is to as many bytes as are read, and the load has no alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

/// The 16 bytes from `at`.
#[target_feature(enable = "avx512f")]
#[inline]
fn load128(raw: &[u8], at: usize) -> __m128i {
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
