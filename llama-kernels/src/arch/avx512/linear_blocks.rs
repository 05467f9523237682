//! Packed forms in AVX-512 registers: what `weight::unpack` says, sixteen rows at a time.

use std::arch::x86_64::*;

use super::linear_bits::*;
use crate::weight::pack::{E2M1, IQ4};

/// Scale and minimum of sixteen rows for each of `S` sub-blocks.
pub(super) struct Scales<const S: usize> {
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

    /// Unpacks the codes of group `i`. (Apart from scales, because a function that does both is too long for the compiler to
    /// inline everywhere, and a call costs whatever is in registers.)
    ///
    /// # Safety
    /// The CPU has the features of this tier.
    unsafe fn codes(raw: &[u8; BYTES], i: usize) -> Codes;

    /// Unpacks the scales and minima of group `i`.
    ///
    /// # Safety
    /// The CPU has the features of this tier.
    unsafe fn scales(raw: &[u8; BYTES], i: usize) -> Scales<S>;
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
    unsafe fn codes(raw: &[u8; 544], _: usize) -> Codes {
        bytes(raw, 32)
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    unsafe fn scales(raw: &[u8; 544], _: usize) -> Scales<1> {
        scaled(halves(raw, 0))
    }
}

impl Block<288, 1> for Q4_0 {
    const GROUPS: usize = 1;
    const ZERO: bool = true;
    const MIN: bool = false;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    unsafe fn codes(raw: &[u8; 288], _: usize) -> Codes {
        nibbles(raw, 32)
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    unsafe fn scales(raw: &[u8; 288], _: usize) -> Scales<1> {
        scaled(halves(raw, 0))
    }
}

impl Block<320, 1> for Q4_1 {
    const GROUPS: usize = 1;
    const ZERO: bool = false;
    const MIN: bool = true;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    unsafe fn codes(raw: &[u8; 320], _: usize) -> Codes {
        nibbles(raw, 64)
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    unsafe fn scales(raw: &[u8; 320], _: usize) -> Scales<1> {
        Scales { scale: [halves(raw, 0)], min: [halves(raw, 32)] }
    }
}

impl Block<352, 1> for Q5_0 {
    const GROUPS: usize = 1;
    const ZERO: bool = true;
    const MIN: bool = false;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    unsafe fn codes(raw: &[u8; 352], _: usize) -> Codes {
        with_bits(nibbles(raw, 96), load(raw, 32))
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    unsafe fn scales(raw: &[u8; 352], _: usize) -> Scales<1> {
        scaled(halves(raw, 0))
    }
}

impl Block<384, 1> for Q5_1 {
    const GROUPS: usize = 1;
    const ZERO: bool = false;
    const MIN: bool = true;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    unsafe fn codes(raw: &[u8; 384], _: usize) -> Codes {
        with_bits(nibbles(raw, 128), load(raw, 64))
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    unsafe fn scales(raw: &[u8; 384], _: usize) -> Scales<1> {
        Scales { scale: [halves(raw, 0)], min: [halves(raw, 32)] }
    }
}

impl Block<1344, 2> for Q2K {
    const GROUPS: usize = 8;
    const ZERO: bool = false;
    const MIN: bool = true;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    unsafe fn codes(raw: &[u8; 1344], i: usize) -> Codes {
        let at = 320 + 128 * i;
        low_pairs([load(raw, at), load(raw, at + 64)])
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    unsafe fn scales(raw: &[u8; 1344], i: usize) -> Scales<2> {
        let (d, dmin) = (halves(raw, 0), _mm512_xor_ps(halves(raw, 32), _mm512_set1_ps(-0.0)));
        let factors = |s: usize| load128(raw, 64 + 16 * (2 * i + s));
        let scale = |s: usize| times(d, _mm_and_si128(factors(s), _mm_set1_epi8(15)));
        let min = |s: usize| times(dmin, _mm_and_si128(_mm_srli_epi16::<4>(factors(s)), _mm_set1_epi8(15)));
        Scales { scale: [scale(0), scale(1)], min: [min(0), min(1)] }
    }
}

impl Block<1760, 2> for Q3K {
    const GROUPS: usize = 8;
    const ZERO: bool = true;
    const MIN: bool = false;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    unsafe fn codes(raw: &[u8; 1760], i: usize) -> Codes {
        let at = 224 + 192 * i;
        with_third_bits(low_pairs([load(raw, at + 64), load(raw, at + 128)]), load(raw, at))
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    unsafe fn scales(raw: &[u8; 1760], i: usize) -> Scales<2> {
        let d = halves(raw, 0);
        let factors = six_bits(raw, 32, i);
        let scale = |s: usize| {
            let factors = _mm_sub_epi8(factors[s], _mm_set1_epi8(32));
            _mm512_mul_ps(d, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(factors)))
        };
        Scales { scale: [scale(0), scale(1)], min: [_mm512_setzero_ps(); 2] }
    }
}

impl Block<2304, 1> for Q4K {
    const GROUPS: usize = 8;
    const ZERO: bool = false;
    const MIN: bool = true;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    unsafe fn codes(raw: &[u8; 2304], i: usize) -> Codes {
        nibbles(raw, 256 + 256 * i)
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    unsafe fn scales(raw: &[u8; 2304], i: usize) -> Scales<1> {
        k_scales(raw, i)
    }
}

impl Block<2816, 1> for Q5K {
    const GROUPS: usize = 8;
    const ZERO: bool = false;
    const MIN: bool = true;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    unsafe fn codes(raw: &[u8; 2816], i: usize) -> Codes {
        let at = 256 + 320 * i;
        with_bits(nibbles(raw, at + 64), load(raw, at))
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    unsafe fn scales(raw: &[u8; 2816], i: usize) -> Scales<1> {
        k_scales(raw, i)
    }
}

impl Block<3360, 2> for Q6K {
    const GROUPS: usize = 8;
    const ZERO: bool = true;
    const MIN: bool = false;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    unsafe fn codes(raw: &[u8; 3360], i: usize) -> Codes {
        let at = 288 + 384 * i;
        with_pairs(nibbles(raw, at + 128), [load(raw, at), load(raw, at + 64)])
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    unsafe fn scales(raw: &[u8; 3360], i: usize) -> Scales<2> {
        let d = halves(raw, 0);
        let scale = |s: usize| {
            let factors = _mm512_cvtepi8_epi32(load128(raw, 32 + 16 * (2 * i + s)));
            _mm512_mul_ps(d, _mm512_cvtepi32_ps(factors))
        };
        Scales { scale: [scale(0), scale(1)], min: [_mm512_setzero_ps(); 2] }
    }
}

impl Block<288, 1> for Iq4Nl {
    const GROUPS: usize = 1;
    const ZERO: bool = true;
    const MIN: bool = false;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    unsafe fn codes(raw: &[u8; 288], _: usize) -> Codes {
        look_up(&IQ4, nibbles(raw, 32))
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    unsafe fn scales(raw: &[u8; 288], _: usize) -> Scales<1> {
        scaled(halves(raw, 0))
    }
}

impl Block<2176, 1> for Iq4Xs {
    const GROUPS: usize = 8;
    const ZERO: bool = true;
    const MIN: bool = false;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    unsafe fn codes(raw: &[u8; 2176], i: usize) -> Codes {
        look_up(&IQ4, nibbles(raw, 128 + 256 * i))
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    unsafe fn scales(raw: &[u8; 2176], i: usize) -> Scales<1> {
        let low = shift_right(load128(raw, 32 + 16 * (i / 2)), 4 * (i % 2));
        let high = shift_right(load128(raw, 96 + 16 * (i / 4)), 2 * (i % 4));
        let high = _mm_slli_epi16::<4>(_mm_and_si128(high, _mm_set1_epi8(3)));
        let factors = _mm_or_si128(_mm_and_si128(low, _mm_set1_epi8(15)), high);
        let factors = _mm_sub_epi8(factors, _mm_set1_epi8(32));
        let scale = _mm512_mul_ps(halves(raw, 0), _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(factors)));
        scaled(scale)
    }
}

impl Block<272, 1> for Mxfp4 {
    const GROUPS: usize = 1;
    const ZERO: bool = true;
    const MIN: bool = false;
    const HALVES: bool = false;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    unsafe fn codes(raw: &[u8; 272], _: usize) -> Codes {
        look_up(&E2M1, nibbles(raw, 16))
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    unsafe fn scales(raw: &[u8; 272], _: usize) -> Scales<1> {
        scaled(half_powers(raw, 0))
    }
}

impl<const BYTES: usize, const S: usize, const MIN: bool> Block<BYTES, S> for WideBlock<S, MIN> {
    const GROUPS: usize = 1;
    const ZERO: bool = !MIN;
    const MIN: bool = MIN;
    const HALVES: bool = false;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    unsafe fn codes(raw: &[u8; BYTES], _: usize) -> Codes {
        bytes(raw, BYTES - 512)
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    unsafe fn scales(raw: &[u8; BYTES], _: usize) -> Scales<S> {
        let mut scale = [_mm512_setzero_ps(); S];
        let mut min = scale;
        for s in 0..S {
            scale[s] = _mm512_castsi512_ps(load(raw, 64 * s));
            if MIN {
                min[s] = _mm512_castsi512_ps(load(raw, 64 * (S + s)));
            }
        }
        Scales { scale, min }
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

/// Without minima.
#[target_feature(enable = "avx512f")]
#[inline]
fn scaled(scale: __m512) -> Scales<1> {
    Scales { scale: [scale], min: [_mm512_setzero_ps()] }
}

/// `d * scale` and `-dmin * min` of group `i` of Q4_K and Q5_K.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
#[inline]
fn k_scales(raw: &[u8], i: usize) -> Scales<1> {
    let [scale, min] = six_bits(raw, 64, i);
    let dmin = _mm512_xor_ps(halves(raw, 32), _mm512_set1_ps(-0.0));
    Scales { scale: [times(halves(raw, 0), scale)], min: [times(dmin, min)] }
}
