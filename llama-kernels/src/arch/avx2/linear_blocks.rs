//! Packed forms in AVX2 registers: what `weight::unpack` says, eight rows at a time; `half` says which eight.

use std::arch::x86_64::*;

use super::linear_bits::*;
use crate::weight::pack::{E2M1, IQ4};

/// Scale and minimum of eight rows for each of `S` sub-blocks.
pub(in crate::arch) struct Scales<const S: usize> {
    pub scale: [__m256; S],
    pub min: [__m256; S],
}

/// A packed form of `BYTES` a block and `S` sub-blocks a group.
pub(in crate::arch) trait Block<const BYTES: usize, const S: usize> {
    /// Groups of a block.
    const GROUPS: usize;
    /// Whether its codes have a zero point left: of at most 16 for `S` = 1, of at most 32 for 2, and no weight further from
    /// zero. Then all products of a sub-block are added in 16 bits, from minus the zero point's share: sums in between may
    /// wrap, the last one is in range (2 * 127 * 16 * 8 = 2 * 127 * 32 * 4 = 32512). So `STEP` is the whole sub-block.
    const ZERO: bool;
    /// Whether it has minima.
    const MIN: bool;
    /// Whether its codes are made signed: those of eight bits, which have no zero point left.
    const SIGNED: bool;
    /// Code vectors whose products are added in 16 bits.
    const STEP: usize;
    /// Where the nibbles of the first group are, in forms whose codes are nothing else and have 256 bytes of them a group.
    const NIBBLES: Option<usize> = None;
    /// Whether scales of a whole block take much less to unpack together, sub-blocks being groups.
    const TOGETHER: bool = false;

    /// Unpacks half of the codes of group `i`. (Apart from scales, because a function that does both is too long for the
    /// compiler to inline everywhere, and a call costs whatever is in registers.)
    ///
    /// # Safety
    /// The CPU has the features of this tier.
    unsafe fn codes(raw: &[u8; BYTES], i: usize, half: usize) -> Codes;

    /// Unpacks half of the scales and minima of group `i`.
    ///
    /// # Safety
    /// The CPU has the features of this tier.
    unsafe fn scales(raw: &[u8; BYTES], i: usize, half: usize) -> Scales<S>;

    /// Scales and minima of all groups, as [`Scales::put`] leaves them.
    ///
    /// # Safety
    /// The CPU has the features of this tier.
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn all_scales<const OUT: usize>(raw: &[u8; BYTES], out: &mut [[u8; OUT]]) {
        for (i, out) in out.iter_mut().enumerate() {
            for half in 0..2 {
                // SAFETY: as this function.
                unsafe { Self::scales(raw, i, half) }.put(out, half, Self::MIN);
            }
        }
    }
}

impl<const S: usize> Scales<S> {
    /// Stores scales and then minima of sixteen rows, sub-block by sub-block, at the end of `out`.
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    pub fn put<const OUT: usize>(&self, out: &mut [u8; OUT], half: usize, min: bool) {
        for s in 0..S {
            let at = OUT - 128 * S + 64 * s + 32 * half;
            put(_mm256_castps_si256(self.scale[s]), out, at);
            if min {
                put(_mm256_castps_si256(self.min[s]), out, at + 64 * S);
            }
        }
    }

    /// What [`Scales::put`] stored, with minima.
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    pub fn get<const OUT: usize>(raw: &[u8; OUT], half: usize) -> Self {
        let (mut scale, mut min) = ([_mm256_setzero_ps(); S], [_mm256_setzero_ps(); S]);
        for s in 0..S {
            let at = OUT - 128 * S + 64 * s + 32 * half;
            scale[s] = _mm256_castsi256_ps(load(raw, at));
            min[s] = _mm256_castsi256_ps(load(raw, at + 64 * S));
        }
        Scales { scale, min }
    }
}

/// A float form of `BYTES` for 32 rows.
pub(in crate::arch) trait Floats<const BYTES: usize> {
    /// Widens rows `8 r ..` of one column.
    ///
    /// # Safety
    /// The CPU has the features of this tier.
    unsafe fn load(raw: &[u8; BYTES], r: usize) -> __m256;
}

pub(in crate::arch) struct Q8_0;
pub(in crate::arch) struct Q4_0;
pub(in crate::arch) struct Q4_1;
pub(in crate::arch) struct Q5_0;
pub(in crate::arch) struct Q5_1;
pub(in crate::arch) struct Q2K;
pub(in crate::arch) struct Q3K;
pub(in crate::arch) struct Q4K;
pub(in crate::arch) struct Q5K;
pub(in crate::arch) struct Q6K;
pub(in crate::arch) struct Iq4Nl;
pub(in crate::arch) struct Iq4Xs;
pub(in crate::arch) struct Mxfp4;
pub(in crate::arch) struct WideBlock<const S: usize, const MIN: bool>;
pub(in crate::arch) struct F32;
pub(in crate::arch) struct F16;
pub(in crate::arch) struct Bf16;

/// Products of a code vector with four quants, added in pairs.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn products<W: Block<BYTES, S>, const BYTES: usize, const S: usize>(codes: __m256i, quants: i32) -> __m256i {
    let quants = _mm256_set1_epi32(quants);
    if W::SIGNED {
        _mm256_maddubs_epi16(_mm256_abs_epi8(codes), _mm256_sign_epi8(quants, codes))
    } else {
        _mm256_maddubs_epi16(codes, quants)
    }
}

impl Block<544, 1> for Q8_0 {
    const GROUPS: usize = 1;
    const ZERO: bool = false;
    const MIN: bool = false;
    const SIGNED: bool = true;
    const STEP: usize = 1;

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn codes(raw: &[u8; 544], _: usize, half: usize) -> Codes {
        signed(bytes(raw, 32, half))
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn scales(raw: &[u8; 544], _: usize, half: usize) -> Scales<1> {
        scaled(halves(raw, 16 * half))
    }
}

impl Block<288, 1> for Q4_0 {
    const GROUPS: usize = 1;
    const ZERO: bool = true;
    const MIN: bool = false;
    const SIGNED: bool = false;
    const STEP: usize = 8;
    const NIBBLES: Option<usize> = Some(32);

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn codes(raw: &[u8; 288], _: usize, half: usize) -> Codes {
        nibbles(raw, 32, half)
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn scales(raw: &[u8; 288], _: usize, half: usize) -> Scales<1> {
        scaled(halves(raw, 16 * half))
    }
}

impl Block<320, 1> for Q4_1 {
    const GROUPS: usize = 1;
    const ZERO: bool = false;
    const MIN: bool = true;
    const SIGNED: bool = false;
    const STEP: usize = 8;
    const NIBBLES: Option<usize> = Some(64);

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn codes(raw: &[u8; 320], _: usize, half: usize) -> Codes {
        nibbles(raw, 64, half)
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn scales(raw: &[u8; 320], _: usize, half: usize) -> Scales<1> {
        let (scale, min) = (halves(raw, 16 * half), halves(raw, 32 + 16 * half));
        Scales { scale: [scale], min: [min] }
    }
}

impl Block<352, 1> for Q5_0 {
    const GROUPS: usize = 1;
    const ZERO: bool = true;
    const MIN: bool = false;
    const SIGNED: bool = false;
    const STEP: usize = 8;

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn codes(raw: &[u8; 352], _: usize, half: usize) -> Codes {
        with_bits(nibbles(raw, 96, half), load(raw, 32 + 32 * half))
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn scales(raw: &[u8; 352], _: usize, half: usize) -> Scales<1> {
        scaled(halves(raw, 16 * half))
    }
}

impl Block<384, 1> for Q5_1 {
    const GROUPS: usize = 1;
    const ZERO: bool = false;
    const MIN: bool = true;
    const SIGNED: bool = false;
    const STEP: usize = 4;

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn codes(raw: &[u8; 384], _: usize, half: usize) -> Codes {
        with_bits(nibbles(raw, 128, half), load(raw, 64 + 32 * half))
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn scales(raw: &[u8; 384], _: usize, half: usize) -> Scales<1> {
        Scales { scale: [halves(raw, 16 * half)], min: [halves(raw, 32 + 16 * half)] }
    }
}

impl Block<1344, 2> for Q2K {
    const GROUPS: usize = 8;
    const ZERO: bool = false;
    const MIN: bool = true;
    const SIGNED: bool = false;
    const STEP: usize = 4;

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn codes(raw: &[u8; 1344], i: usize, half: usize) -> Codes {
        let at = 320 + 128 * i;
        low_pairs([load(raw, at + 32 * half), load(raw, at + 64 + 32 * half)])
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn scales(raw: &[u8; 1344], i: usize, half: usize) -> Scales<2> {
        let (d, dmin) = (halves(raw, 16 * half), minus_halves(raw, 32 + 16 * half));
        let factors = |s: usize| load64(raw, 64 + 16 * (2 * i + s) + 8 * half);
        let scale = |s: usize| times(d, _mm_and_si128(factors(s), _mm_set1_epi8(15)));
        let min = |s: usize| times(dmin, _mm_and_si128(_mm_srli_epi16::<4>(factors(s)), _mm_set1_epi8(15)));
        Scales { scale: [scale(0), scale(1)], min: [min(0), min(1)] }
    }
}

impl Block<1760, 2> for Q3K {
    const GROUPS: usize = 8;
    const ZERO: bool = true;
    const MIN: bool = false;
    const SIGNED: bool = false;
    const STEP: usize = 4;

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn codes(raw: &[u8; 1760], i: usize, half: usize) -> Codes {
        let at = 224 + 192 * i;
        let codes = low_pairs([load(raw, at + 64 + 32 * half), load(raw, at + 128 + 32 * half)]);
        with_third_bits(codes, load(raw, at + 32 * half))
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn scales(raw: &[u8; 1760], i: usize, half: usize) -> Scales<2> {
        let d = halves(raw, 16 * half);
        let factors = six_bits(raw, 32, i, half);
        let scale = |s: usize| {
            let factors = _mm_sub_epi8(factors[s], _mm_set1_epi8(32));
            _mm256_mul_ps(d, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(factors)))
        };
        Scales { scale: [scale(0), scale(1)], min: [_mm256_setzero_ps(); 2] }
    }
}

impl Block<2304, 1> for Q4K {
    const GROUPS: usize = 8;
    const ZERO: bool = false;
    const MIN: bool = true;
    const SIGNED: bool = false;
    const STEP: usize = 8;
    const NIBBLES: Option<usize> = Some(256);
    const TOGETHER: bool = true;

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn codes(raw: &[u8; 2304], i: usize, half: usize) -> Codes {
        nibbles(raw, 256 + 256 * i, half)
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn scales(raw: &[u8; 2304], i: usize, half: usize) -> Scales<1> {
        let (scale, min) = k_scales(raw, i, half);
        Scales { scale: [scale], min: [min] }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn all_scales<const OUT: usize>(raw: &[u8; 2304], out: &mut [[u8; OUT]]) {
        k_scales_of_all(raw, out);
    }
}

impl Block<2816, 1> for Q5K {
    const GROUPS: usize = 8;
    const ZERO: bool = false;
    const MIN: bool = true;
    const SIGNED: bool = false;
    const STEP: usize = 4;
    const TOGETHER: bool = true;

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn codes(raw: &[u8; 2816], i: usize, half: usize) -> Codes {
        let at = 256 + 320 * i;
        with_bits(nibbles(raw, at + 64, half), load(raw, at + 32 * half))
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn scales(raw: &[u8; 2816], i: usize, half: usize) -> Scales<1> {
        let (scale, min) = k_scales(raw, i, half);
        Scales { scale: [scale], min: [min] }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn all_scales<const OUT: usize>(raw: &[u8; 2816], out: &mut [[u8; OUT]]) {
        k_scales_of_all(raw, out);
    }
}

impl Block<3360, 2> for Q6K {
    const GROUPS: usize = 8;
    const ZERO: bool = true;
    const MIN: bool = false;
    const SIGNED: bool = false;
    const STEP: usize = 4;

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn codes(raw: &[u8; 3360], i: usize, half: usize) -> Codes {
        let at = 288 + 384 * i;
        let pairs = [load(raw, at + 32 * half), load(raw, at + 64 + 32 * half)];
        with_pairs(nibbles(raw, at + 128, half), pairs)
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn scales(raw: &[u8; 3360], i: usize, half: usize) -> Scales<2> {
        let d = halves(raw, 16 * half);
        let scale = |s: usize| {
            let factors = _mm256_cvtepi8_epi32(load64(raw, 32 + 16 * (2 * i + s) + 8 * half));
            _mm256_mul_ps(d, _mm256_cvtepi32_ps(factors))
        };
        Scales { scale: [scale(0), scale(1)], min: [_mm256_setzero_ps(); 2] }
    }
}

impl Block<288, 1> for Iq4Nl {
    const GROUPS: usize = 1;
    const ZERO: bool = false;
    const MIN: bool = false;
    const SIGNED: bool = true;
    const STEP: usize = 1;

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn codes(raw: &[u8; 288], _: usize, half: usize) -> Codes {
        signed(look_up(&IQ4, nibbles(raw, 32, half)))
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn scales(raw: &[u8; 288], _: usize, half: usize) -> Scales<1> {
        scaled(halves(raw, 16 * half))
    }
}

impl Block<2176, 1> for Iq4Xs {
    const GROUPS: usize = 8;
    const ZERO: bool = false;
    const MIN: bool = false;
    const SIGNED: bool = true;
    const STEP: usize = 1;

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn codes(raw: &[u8; 2176], i: usize, half: usize) -> Codes {
        signed(look_up(&IQ4, nibbles(raw, 128 + 256 * i, half)))
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn scales(raw: &[u8; 2176], i: usize, half: usize) -> Scales<1> {
        let low = shift_right(load64(raw, 32 + 16 * (i / 2) + 8 * half), 4 * (i % 2));
        let high = shift_right(load64(raw, 96 + 16 * (i / 4) + 8 * half), 2 * (i % 4));
        let high = _mm_slli_epi16::<4>(_mm_and_si128(high, _mm_set1_epi8(3)));
        let factors = _mm_or_si128(_mm_and_si128(low, _mm_set1_epi8(15)), high);
        let factors = _mm_sub_epi8(factors, _mm_set1_epi8(32));
        let factors = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(factors));
        scaled(_mm256_mul_ps(halves(raw, 16 * half), factors))
    }
}

impl Block<272, 1> for Mxfp4 {
    const GROUPS: usize = 1;
    const ZERO: bool = true;
    const MIN: bool = false;
    const SIGNED: bool = false;
    const STEP: usize = 8;

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn codes(raw: &[u8; 272], _: usize, half: usize) -> Codes {
        look_up(&E2M1, nibbles(raw, 16, half))
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn scales(raw: &[u8; 272], _: usize, half: usize) -> Scales<1> {
        scaled(half_powers(raw, 8 * half))
    }
}

impl<const BYTES: usize, const S: usize, const MIN: bool> Block<BYTES, S> for WideBlock<S, MIN> {
    const GROUPS: usize = 1;
    const ZERO: bool = false;
    const MIN: bool = MIN;
    const SIGNED: bool = !MIN;
    // Codes next to a minimum are not negative, so they have at most seven bits.
    const STEP: usize = 1;

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn codes(raw: &[u8; BYTES], _: usize, half: usize) -> Codes {
        let codes = bytes(raw, BYTES - 512, half);
        if MIN { codes } else { signed(codes) }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn scales(raw: &[u8; BYTES], _: usize, half: usize) -> Scales<S> {
        let mut scale = [_mm256_setzero_ps(); S];
        let mut min = scale;
        for s in 0..S {
            scale[s] = _mm256_castsi256_ps(load(raw, 64 * s + 32 * half));
            if MIN {
                min[s] = _mm256_castsi256_ps(load(raw, 64 * (S + s) + 32 * half));
            }
        }
        Scales { scale, min }
    }
}

impl Floats<128> for F32 {
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn load(raw: &[u8; 128], r: usize) -> __m256 {
        _mm256_castsi256_ps(load(raw, 32 * r))
    }
}

impl Floats<64> for F16 {
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn load(raw: &[u8; 64], r: usize) -> __m256 {
        halves(raw, 16 * r)
    }
}

impl Floats<64> for Bf16 {
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn load(raw: &[u8; 64], r: usize) -> __m256 {
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(load128(raw, 16 * r))))
    }
}

/// Without minima.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn scaled(scale: __m256) -> Scales<1> {
    Scales { scale: [scale], min: [_mm256_setzero_ps()] }
}
