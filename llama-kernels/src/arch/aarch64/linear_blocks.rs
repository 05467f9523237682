//! Packed forms in NEON registers: what `weight::unpack` says, four rows at a time; `q` says which quarter of sixteen.
//!
//! Codes are signed: where the zero point is 128 it is taken off, elsewhere they are less than 128 anyway.

use std::arch::aarch64::*;

use super::linear_bits::*;
use crate::weight::pack::{E2M1, IQ4};

/// Scale and minimum of four rows for each of `S` sub-blocks.
pub(super) struct Scales<const S: usize> {
    pub scale: [float32x4_t; S],
    pub min: [float32x4_t; S],
}

/// A packed form of `BYTES` a block and `S` sub-blocks a group.
pub(super) trait Block<const BYTES: usize, const S: usize> {
    /// Groups of a block.
    const GROUPS: usize;
    /// The zero point that its codes still have.
    const POINT: i8 = 0;
    /// Whether there is one.
    const ZERO: bool = Self::POINT != 0;
    /// Whether it has minima.
    const MIN: bool;
    /// Products of a code and a quant that can be added in 16 bits, at most eight.
    const STEP: usize;
    /// Whether a zero point of 128 has been taken off its codes.
    const HIGH: bool = false;

    /// Unpacks a quarter of the codes of group `i`. (Apart from scales, because a function that does both is too long for the
    /// compiler to inline everywhere, and a call costs whatever is in registers.)
    ///
    /// # Safety
    /// The CPU has NEON.
    unsafe fn codes(raw: &[u8; BYTES], i: usize, q: usize) -> Codes;

    /// Unpacks a quarter of the scales and minima of group `i`.
    ///
    /// # Safety
    /// The CPU has NEON.
    unsafe fn scales(raw: &[u8; BYTES], i: usize, q: usize) -> Scales<S>;
}

/// A float form of `BYTES` for 32 rows.
pub(super) trait Floats<const BYTES: usize> {
    /// Widens rows `4 r ..` of one column.
    ///
    /// # Safety
    /// The CPU has NEON.
    unsafe fn load(raw: &[u8; BYTES], r: usize) -> float32x4_t;
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

/// [`Block::STEP`] by the codes' size. Quants reach 127: 8 * 31 * 127 = 31496, 4 * 63 * 127 = 32004, 2 * 128 * 127 = 32512.
pub(super) const FIVE_BITS: usize = 8;
pub(super) const SIX_BITS: usize = 4;
pub(super) const EIGHT_BITS: usize = 2;

impl Block<544, 1> for Q8_0 {
    const GROUPS: usize = 1;
    const MIN: bool = false;
    const STEP: usize = EIGHT_BITS;
    const HIGH: bool = true;

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn codes(raw: &[u8; 544], _: usize, q: usize) -> Codes {
        without_128(bytes(raw, 32, q))
    }

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn scales(raw: &[u8; 544], _: usize, q: usize) -> Scales<1> {
        scaled(halves(raw, 8 * q))
    }
}

impl Block<288, 1> for Q4_0 {
    const GROUPS: usize = 1;
    const POINT: i8 = 8;
    const MIN: bool = false;
    const STEP: usize = FIVE_BITS;

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn codes(raw: &[u8; 288], _: usize, q: usize) -> Codes {
        signed(nibbles(raw, 32, q))
    }

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn scales(raw: &[u8; 288], _: usize, q: usize) -> Scales<1> {
        scaled(halves(raw, 8 * q))
    }
}

impl Block<320, 1> for Q4_1 {
    const GROUPS: usize = 1;
    const MIN: bool = true;
    const STEP: usize = FIVE_BITS;

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn codes(raw: &[u8; 320], _: usize, q: usize) -> Codes {
        signed(nibbles(raw, 64, q))
    }

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn scales(raw: &[u8; 320], _: usize, q: usize) -> Scales<1> {
        Scales { scale: [halves(raw, 8 * q)], min: [halves(raw, 32 + 8 * q)] }
    }
}

impl Block<352, 1> for Q5_0 {
    const GROUPS: usize = 1;
    const POINT: i8 = 16;
    const MIN: bool = false;
    const STEP: usize = FIVE_BITS;

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn codes(raw: &[u8; 352], _: usize, q: usize) -> Codes {
        with_bits(nibbles(raw, 96, q), load(raw, 32 + 16 * q))
    }

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn scales(raw: &[u8; 352], _: usize, q: usize) -> Scales<1> {
        scaled(halves(raw, 8 * q))
    }
}

impl Block<384, 1> for Q5_1 {
    const GROUPS: usize = 1;
    const MIN: bool = true;
    const STEP: usize = FIVE_BITS;

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn codes(raw: &[u8; 384], _: usize, q: usize) -> Codes {
        with_bits(nibbles(raw, 128, q), load(raw, 64 + 16 * q))
    }

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn scales(raw: &[u8; 384], _: usize, q: usize) -> Scales<1> {
        Scales { scale: [halves(raw, 8 * q)], min: [halves(raw, 32 + 8 * q)] }
    }
}

impl Block<1344, 2> for Q2K {
    const GROUPS: usize = 8;
    const MIN: bool = true;
    const STEP: usize = SIX_BITS;

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn codes(raw: &[u8; 1344], i: usize, q: usize) -> Codes {
        let at = 320 + 128 * i;
        signed(low_pairs([load(raw, at + 16 * q), load(raw, at + 64 + 16 * q)]))
    }

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn scales(raw: &[u8; 1344], i: usize, q: usize) -> Scales<2> {
        let (d, dmin) = (halves(raw, 8 * q), halves(raw, 32 + 8 * q));
        let factors = |s: usize| four(raw, 64 + 16 * (2 * i + s) + 4 * q);
        let scale = |s: usize| times(d, vandq_u32(factors(s), vdupq_n_u32(15)));
        let min = |s: usize| vnegq_f32(times(dmin, vshrq_n_u32::<4>(factors(s))));
        Scales { scale: [scale(0), scale(1)], min: [min(0), min(1)] }
    }
}

impl Block<1760, 2> for Q3K {
    const GROUPS: usize = 8;
    const POINT: i8 = 4;
    const MIN: bool = false;
    const STEP: usize = SIX_BITS;

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn codes(raw: &[u8; 1760], i: usize, q: usize) -> Codes {
        let at = 224 + 192 * i;
        let mut codes = low_pairs([load(raw, at + 64 + 16 * q), load(raw, at + 128 + 16 * q)]);
        let bits = load(raw, at + 16 * q);
        for (j, code) in codes.iter_mut().enumerate() {
            *code = or_shifted(*code, bits, 2 - j as i8, 4);
        }
        signed(codes)
    }

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn scales(raw: &[u8; 1760], i: usize, q: usize) -> Scales<2> {
        let d = halves(raw, 8 * q);
        let factors = six_bits(raw, 32, i, q);
        let scale = |s: usize| {
            let factors = vsubq_s32(vreinterpretq_s32_u32(factors[s]), vdupq_n_s32(32));
            vmulq_f32(d, vcvtq_f32_s32(factors))
        };
        Scales { scale: [scale(0), scale(1)], min: [vdupq_n_f32(0.0); 2] }
    }
}

impl Block<2304, 1> for Q4K {
    const GROUPS: usize = 8;
    const MIN: bool = true;
    const STEP: usize = FIVE_BITS;

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn codes(raw: &[u8; 2304], i: usize, q: usize) -> Codes {
        signed(nibbles(raw, 256 + 256 * i, q))
    }

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn scales(raw: &[u8; 2304], i: usize, q: usize) -> Scales<1> {
        k_scales(raw, i, q)
    }
}

impl Block<2816, 1> for Q5K {
    const GROUPS: usize = 8;
    const MIN: bool = true;
    const STEP: usize = FIVE_BITS;

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn codes(raw: &[u8; 2816], i: usize, q: usize) -> Codes {
        let at = 256 + 320 * i;
        with_bits(nibbles(raw, at + 64, q), load(raw, at + 16 * q))
    }

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn scales(raw: &[u8; 2816], i: usize, q: usize) -> Scales<1> {
        k_scales(raw, i, q)
    }
}

impl Block<3360, 2> for Q6K {
    const GROUPS: usize = 8;
    const POINT: i8 = 32;
    const MIN: bool = false;
    const STEP: usize = SIX_BITS;

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn codes(raw: &[u8; 3360], i: usize, q: usize) -> Codes {
        let at = 288 + 384 * i;
        let pairs = [load(raw, at + 16 * q), load(raw, at + 64 + 16 * q)];
        with_pairs(nibbles(raw, at + 128, q), pairs)
    }

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn scales(raw: &[u8; 3360], i: usize, q: usize) -> Scales<2> {
        let d = halves(raw, 8 * q);
        let scale = |s: usize| {
            let factors = vmovl_s8(vreinterpret_s8_u8(load32(raw, 32 + 16 * (2 * i + s) + 4 * q)));
            vmulq_f32(d, vcvtq_f32_s32(vmovl_s16(vget_low_s16(factors))))
        };
        Scales { scale: [scale(0), scale(1)], min: [vdupq_n_f32(0.0); 2] }
    }
}

impl Block<288, 1> for Iq4Nl {
    const GROUPS: usize = 1;
    const MIN: bool = false;
    const STEP: usize = EIGHT_BITS;
    const HIGH: bool = true;

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn codes(raw: &[u8; 288], _: usize, q: usize) -> Codes {
        without_128(look_up(&IQ4, nibbles(raw, 32, q)))
    }

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn scales(raw: &[u8; 288], _: usize, q: usize) -> Scales<1> {
        scaled(halves(raw, 8 * q))
    }
}

impl Block<2176, 1> for Iq4Xs {
    const GROUPS: usize = 8;
    const MIN: bool = false;
    const STEP: usize = EIGHT_BITS;
    const HIGH: bool = true;

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn codes(raw: &[u8; 2176], i: usize, q: usize) -> Codes {
        without_128(look_up(&IQ4, nibbles(raw, 128 + 256 * i, q)))
    }

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn scales(raw: &[u8; 2176], i: usize, q: usize) -> Scales<1> {
        let low = shift_right(four(raw, 32 + 16 * (i / 2) + 4 * q), 4 * (i % 2));
        let high = shift_right(four(raw, 96 + 16 * (i / 4) + 4 * q), 2 * (i % 4));
        let high = vshlq_n_u32::<4>(vandq_u32(high, vdupq_n_u32(3)));
        let factors = vreinterpretq_s32_u32(vorrq_u32(vandq_u32(low, vdupq_n_u32(15)), high));
        let factors = vcvtq_f32_s32(vsubq_s32(factors, vdupq_n_s32(32)));
        scaled(vmulq_f32(halves(raw, 8 * q), factors))
    }
}

impl Block<272, 1> for Mxfp4 {
    const GROUPS: usize = 1;
    const POINT: i8 = 16;
    const MIN: bool = false;
    const STEP: usize = FIVE_BITS;

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn codes(raw: &[u8; 272], _: usize, q: usize) -> Codes {
        signed(look_up(&E2M1, nibbles(raw, 16, q)))
    }

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn scales(raw: &[u8; 272], _: usize, q: usize) -> Scales<1> {
        // `2^(e - 128)`: in the exponent of a float e is `2^(e - 127)`, except that 0 would give 0 where half of the
        // subnormal `2^-127` is wanted.
        let powers = vmaxq_u32(vshlq_n_u32::<23>(four(raw, 4 * q)), vdupq_n_u32(0x0040_0000));
        scaled(vmulq_n_f32(vreinterpretq_f32_u32(powers), 0.5))
    }
}

impl<const BYTES: usize, const S: usize, const MIN: bool> Block<BYTES, S> for WideBlock<S, MIN> {
    const GROUPS: usize = 1;
    const MIN: bool = MIN;
    const STEP: usize = EIGHT_BITS;
    const HIGH: bool = !MIN;

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn codes(raw: &[u8; BYTES], _: usize, q: usize) -> Codes {
        let codes = bytes(raw, BYTES - 512, q);
        // Codes next to a minimum are not negative, so they have at most seven bits.
        if MIN { signed(codes) } else { without_128(codes) }
    }

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn scales(raw: &[u8; BYTES], _: usize, q: usize) -> Scales<S> {
        let mut scales = Scales { scale: [vdupq_n_f32(0.0); S], min: [vdupq_n_f32(0.0); S] };
        for s in 0..S {
            scales.scale[s] = vreinterpretq_f32_u8(load(raw, 64 * s + 16 * q));
            if MIN {
                scales.min[s] = vreinterpretq_f32_u8(load(raw, 64 * (S + s) + 16 * q));
            }
        }
        scales
    }
}

impl Floats<128> for F32 {
    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn load(raw: &[u8; 128], r: usize) -> float32x4_t {
        vreinterpretq_f32_u8(load(raw, 16 * r))
    }
}

impl Floats<64> for F16 {
    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn load(raw: &[u8; 64], r: usize) -> float32x4_t {
        halves(raw, 8 * r)
    }
}

impl Floats<64> for Bf16 {
    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn load(raw: &[u8; 64], r: usize) -> float32x4_t {
        vreinterpretq_f32_u32(vshll_n_u16::<16>(vreinterpret_u16_u8(load64(raw, 8 * r))))
    }
}

/// Without minima.
#[target_feature(enable = "neon")]
#[inline]
fn scaled(scale: float32x4_t) -> Scales<1> {
    Scales { scale: [scale], min: [vdupq_n_f32(0.0)] }
}

/// `d * scale` and `-(dmin * min)` of group `i` of Q4_K and Q5_K.
#[target_feature(enable = "neon")]
#[inline]
fn k_scales(raw: &[u8], i: usize, q: usize) -> Scales<1> {
    let [scale, min] = six_bits(raw, 64, i, q);
    let min = vnegq_f32(times(halves(raw, 32 + 8 * q), min));
    Scales { scale: [times(halves(raw, 8 * q), scale)], min: [min] }
}
