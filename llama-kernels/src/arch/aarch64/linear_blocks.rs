//! Packed forms in NEON registers: what `weight::unpack` says, four rows at a time; `q` says which quarter of sixteen.
//!
//! Codes are signed: where the zero point is 128 it is taken off, elsewhere they are less than 128 anyway.

use std::arch::aarch64::*;

use super::vector::widen;
use crate::weight::pack::{E2M1, IQ4};

/// A quarter of a group: eight code vectors, and scale and minimum of four rows for each of `S` sub-blocks.
pub(super) struct Unpacked<const S: usize> {
    pub codes: [int8x16_t; 8],
    pub scale: [float32x4_t; S],
    pub min: [float32x4_t; S],
}

/// A packed form of `BYTES` a block and `S` sub-blocks a group.
pub(super) trait Block<const BYTES: usize, const S: usize> {
    /// Groups of a block.
    const GROUPS: usize;
    /// Whether its codes have a zero point left.
    const ZERO: bool;
    /// Whether it has minima.
    const MIN: bool;
    /// Products of a code and a quant that can be added in 16 bits, at most eight.
    const STEP: usize;
    /// Whether a zero point of 128 has been taken off its codes.
    const HIGH: bool = false;

    /// Unpacks a quarter of group `i`.
    ///
    /// # Safety
    /// The CPU has NEON.
    unsafe fn unpack(raw: &[u8; BYTES], i: usize, q: usize) -> Unpacked<S>;
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
const FIVE_BITS: usize = 8;
const SIX_BITS: usize = 4;
const EIGHT_BITS: usize = 2;

impl Block<544, 1> for Q8_0 {
    const GROUPS: usize = 1;
    const ZERO: bool = false;
    const MIN: bool = false;
    const STEP: usize = EIGHT_BITS;
    const HIGH: bool = true;

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn unpack(raw: &[u8; 544], _: usize, q: usize) -> Unpacked<1> {
        scaled(without_128(bytes(raw, 32, q)), halves(raw, 8 * q))
    }
}

impl Block<288, 1> for Q4_0 {
    const GROUPS: usize = 1;
    const ZERO: bool = true;
    const MIN: bool = false;
    const STEP: usize = FIVE_BITS;

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn unpack(raw: &[u8; 288], _: usize, q: usize) -> Unpacked<1> {
        scaled(signed(nibbles(raw, 32, q)), halves(raw, 8 * q))
    }
}

impl Block<320, 1> for Q4_1 {
    const GROUPS: usize = 1;
    const ZERO: bool = false;
    const MIN: bool = true;
    const STEP: usize = FIVE_BITS;

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn unpack(raw: &[u8; 320], _: usize, q: usize) -> Unpacked<1> {
        let (scale, min) = (halves(raw, 8 * q), halves(raw, 32 + 8 * q));
        Unpacked { codes: signed(nibbles(raw, 64, q)), scale: [scale], min: [min] }
    }
}

impl Block<352, 1> for Q5_0 {
    const GROUPS: usize = 1;
    const ZERO: bool = true;
    const MIN: bool = false;
    const STEP: usize = FIVE_BITS;

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn unpack(raw: &[u8; 352], _: usize, q: usize) -> Unpacked<1> {
        scaled(with_bits(nibbles(raw, 96, q), load(raw, 32 + 16 * q)), halves(raw, 8 * q))
    }
}

impl Block<384, 1> for Q5_1 {
    const GROUPS: usize = 1;
    const ZERO: bool = false;
    const MIN: bool = true;
    const STEP: usize = FIVE_BITS;

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn unpack(raw: &[u8; 384], _: usize, q: usize) -> Unpacked<1> {
        let codes = with_bits(nibbles(raw, 128, q), load(raw, 64 + 16 * q));
        Unpacked { codes, scale: [halves(raw, 8 * q)], min: [halves(raw, 32 + 8 * q)] }
    }
}

impl Block<1344, 2> for Q2K {
    const GROUPS: usize = 8;
    const ZERO: bool = false;
    const MIN: bool = true;
    const STEP: usize = SIX_BITS;

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn unpack(raw: &[u8; 1344], i: usize, q: usize) -> Unpacked<2> {
        let (d, dmin) = (halves(raw, 8 * q), halves(raw, 32 + 8 * q));
        let factors = |s: usize| four(raw, 64 + 16 * (2 * i + s) + 4 * q);
        let scale = |s: usize| times(d, vandq_u32(factors(s), vdupq_n_u32(15)));
        let min = |s: usize| vnegq_f32(times(dmin, vshrq_n_u32::<4>(factors(s))));
        let at = 320 + 128 * i;
        let codes = signed(low_pairs([load(raw, at + 16 * q), load(raw, at + 64 + 16 * q)]));
        Unpacked { codes, scale: [scale(0), scale(1)], min: [min(0), min(1)] }
    }
}

impl Block<1760, 2> for Q3K {
    const GROUPS: usize = 8;
    const ZERO: bool = true;
    const MIN: bool = false;
    const STEP: usize = SIX_BITS;

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn unpack(raw: &[u8; 1760], i: usize, q: usize) -> Unpacked<2> {
        let d = halves(raw, 8 * q);
        let factors = six_bits(raw, 32, i, q);
        let scale = |s: usize| {
            let factors = vsubq_s32(vreinterpretq_s32_u32(factors[s]), vdupq_n_s32(32));
            vmulq_f32(d, vcvtq_f32_s32(factors))
        };
        let at = 224 + 192 * i;
        let mut codes = low_pairs([load(raw, at + 64 + 16 * q), load(raw, at + 128 + 16 * q)]);
        let bits = load(raw, at + 16 * q);
        for (j, code) in codes.iter_mut().enumerate() {
            *code = or_shifted(*code, bits, 2 - j as i8, 4);
        }
        Unpacked { codes: signed(codes), scale: [scale(0), scale(1)], min: [vdupq_n_f32(0.0); 2] }
    }
}

impl Block<2304, 1> for Q4K {
    const GROUPS: usize = 8;
    const ZERO: bool = false;
    const MIN: bool = true;
    const STEP: usize = FIVE_BITS;

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn unpack(raw: &[u8; 2304], i: usize, q: usize) -> Unpacked<1> {
        let (scale, min) = k_scales(raw, i, q);
        Unpacked { codes: signed(nibbles(raw, 256 + 256 * i, q)), scale: [scale], min: [min] }
    }
}

impl Block<2816, 1> for Q5K {
    const GROUPS: usize = 8;
    const ZERO: bool = false;
    const MIN: bool = true;
    const STEP: usize = FIVE_BITS;

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn unpack(raw: &[u8; 2816], i: usize, q: usize) -> Unpacked<1> {
        let (scale, min) = k_scales(raw, i, q);
        let at = 256 + 320 * i;
        let codes = with_bits(nibbles(raw, at + 64, q), load(raw, at + 16 * q));
        Unpacked { codes, scale: [scale], min: [min] }
    }
}

impl Block<3360, 2> for Q6K {
    const GROUPS: usize = 8;
    const ZERO: bool = true;
    const MIN: bool = false;
    const STEP: usize = SIX_BITS;

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn unpack(raw: &[u8; 3360], i: usize, q: usize) -> Unpacked<2> {
        let d = halves(raw, 8 * q);
        let scale = |s: usize| {
            let factors = vmovl_s8(vreinterpret_s8_u8(load32(raw, 32 + 16 * (2 * i + s) + 4 * q)));
            vmulq_f32(d, vcvtq_f32_s32(vmovl_s16(vget_low_s16(factors))))
        };
        let at = 288 + 384 * i;
        let pairs = [load(raw, at + 16 * q), load(raw, at + 64 + 16 * q)];
        let codes = with_pairs(nibbles(raw, at + 128, q), pairs);
        Unpacked { codes, scale: [scale(0), scale(1)], min: [vdupq_n_f32(0.0); 2] }
    }
}

impl Block<288, 1> for Iq4Nl {
    const GROUPS: usize = 1;
    const ZERO: bool = false;
    const MIN: bool = false;
    const STEP: usize = EIGHT_BITS;
    const HIGH: bool = true;

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn unpack(raw: &[u8; 288], _: usize, q: usize) -> Unpacked<1> {
        scaled(without_128(look_up(&IQ4, nibbles(raw, 32, q))), halves(raw, 8 * q))
    }
}

impl Block<2176, 1> for Iq4Xs {
    const GROUPS: usize = 8;
    const ZERO: bool = false;
    const MIN: bool = false;
    const STEP: usize = EIGHT_BITS;
    const HIGH: bool = true;

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn unpack(raw: &[u8; 2176], i: usize, q: usize) -> Unpacked<1> {
        let low = shift_right(four(raw, 32 + 16 * (i / 2) + 4 * q), 4 * (i % 2));
        let high = shift_right(four(raw, 96 + 16 * (i / 4) + 4 * q), 2 * (i % 4));
        let high = vshlq_n_u32::<4>(vandq_u32(high, vdupq_n_u32(3)));
        let factors = vreinterpretq_s32_u32(vorrq_u32(vandq_u32(low, vdupq_n_u32(15)), high));
        let factors = vcvtq_f32_s32(vsubq_s32(factors, vdupq_n_s32(32)));
        scaled(without_128(look_up(&IQ4, nibbles(raw, 128 + 256 * i, q))), vmulq_f32(halves(raw, 8 * q), factors))
    }
}

impl Block<272, 1> for Mxfp4 {
    const GROUPS: usize = 1;
    const ZERO: bool = true;
    const MIN: bool = false;
    const STEP: usize = FIVE_BITS;

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn unpack(raw: &[u8; 272], _: usize, q: usize) -> Unpacked<1> {
        // `2^(e - 128)`: in the exponent of a float e is `2^(e - 127)`, except that 0 would give 0 where half of the
        // subnormal `2^-127` is wanted.
        let powers = vmaxq_u32(vshlq_n_u32::<23>(four(raw, 4 * q)), vdupq_n_u32(0x0040_0000));
        let scale = vmulq_n_f32(vreinterpretq_f32_u32(powers), 0.5);
        scaled(signed(look_up(&E2M1, nibbles(raw, 16, q))), scale)
    }
}

impl<const BYTES: usize, const S: usize, const MIN: bool> Block<BYTES, S> for WideBlock<S, MIN> {
    const GROUPS: usize = 1;
    const ZERO: bool = false;
    const MIN: bool = MIN;
    const STEP: usize = EIGHT_BITS;
    const HIGH: bool = !MIN;

    #[target_feature(enable = "neon")]
    #[inline]
    unsafe fn unpack(raw: &[u8; BYTES], _: usize, q: usize) -> Unpacked<S> {
        let mut scale = [vdupq_n_f32(0.0); S];
        let mut min = scale;
        for s in 0..S {
            scale[s] = vreinterpretq_f32_u8(load(raw, 64 * s + 16 * q));
            if MIN {
                min[s] = vreinterpretq_f32_u8(load(raw, 64 * (S + s) + 16 * q));
            }
        }
        let codes = bytes(raw, BYTES - 512, q);
        // Codes next to a minimum are not negative, so they have at most seven bits.
        Unpacked { codes: if MIN { signed(codes) } else { without_128(codes) }, scale, min }
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

/// A group without minima.
#[target_feature(enable = "neon")]
#[inline]
fn scaled(codes: [int8x16_t; 8], scale: float32x4_t) -> Unpacked<1> {
    Unpacked { codes, scale: [scale], min: [vdupq_n_f32(0.0)] }
}

/// Four f16 as f32.
#[target_feature(enable = "neon")]
#[inline]
fn halves(raw: &[u8], at: usize) -> float32x4_t {
    widen(vreinterpret_u16_u8(load64(raw, at)))
}

#[target_feature(enable = "neon")]
#[inline]
fn bytes(raw: &[u8], at: usize, q: usize) -> [uint8x16_t; 8] {
    let mut codes = [vdupq_n_u8(0); 8];
    for (j, code) in codes.iter_mut().enumerate() {
        *code = load(raw, at + 64 * j + 16 * q);
    }
    codes
}

#[target_feature(enable = "neon")]
#[inline]
fn nibbles(raw: &[u8], at: usize, q: usize) -> [uint8x16_t; 8] {
    let mut codes = [vdupq_n_u8(0); 8];
    for j in 0..4 {
        let both = load(raw, at + 64 * j + 16 * q);
        codes[j] = vandq_u8(both, vdupq_n_u8(15));
        codes[j + 4] = vshrq_n_u8::<4>(both);
    }
    codes
}

/// Codes of less than eight bits, as they are.
#[target_feature(enable = "neon")]
#[inline]
fn signed(codes: [uint8x16_t; 8]) -> [int8x16_t; 8] {
    let mut signed = [vdupq_n_s8(0); 8];
    for (signed, code) in signed.iter_mut().zip(codes) {
        *signed = vreinterpretq_s8_u8(code);
    }
    signed
}

/// Takes off a zero point of 128.
#[target_feature(enable = "neon")]
#[inline]
fn without_128(mut codes: [uint8x16_t; 8]) -> [int8x16_t; 8] {
    for code in &mut codes {
        *code = veorq_u8(*code, vdupq_n_u8(128));
    }
    signed(codes)
}

/// `code | (bits shifted left & mask)`, where a negative shift is one to the right.
#[target_feature(enable = "neon")]
#[inline]
fn or_shifted(code: uint8x16_t, bits: uint8x16_t, shift: i8, mask: u8) -> uint8x16_t {
    vorrq_u8(code, vandq_u8(vshlq_u8(bits, vdupq_n_s8(shift)), vdupq_n_u8(mask)))
}

/// Bit `j` of `bits` becomes bit 4 of code vector `j`.
#[target_feature(enable = "neon")]
#[inline]
fn with_bits(mut codes: [uint8x16_t; 8], bits: uint8x16_t) -> [int8x16_t; 8] {
    for (j, code) in codes.iter_mut().enumerate() {
        *code = or_shifted(*code, bits, 4 - j as i8, 16);
    }
    signed(codes)
}

/// Bits `2 i` and `2 i + 1` of `pairs[h]` become bits 4 and 5 of code vector `4 h + i`.
#[target_feature(enable = "neon")]
#[inline]
fn with_pairs(mut codes: [uint8x16_t; 8], pairs: [uint8x16_t; 2]) -> [int8x16_t; 8] {
    for (j, code) in codes.iter_mut().enumerate() {
        *code = or_shifted(*code, pairs[j / 4], 4 - 2 * (j % 4) as i8, 0x30);
    }
    signed(codes)
}

/// Bits `2 i` and `2 i + 1` of `pairs[h]` are code vector `4 h + i`.
#[target_feature(enable = "neon")]
#[inline]
fn low_pairs(pairs: [uint8x16_t; 2]) -> [uint8x16_t; 8] {
    let mut codes = [vdupq_n_u8(0); 8];
    for (j, code) in codes.iter_mut().enumerate() {
        *code = or_shifted(*code, pairs[j / 4], -2 * (j % 4) as i8, 3);
    }
    codes
}

/// The values of a table of sixteen bytes.
#[target_feature(enable = "neon")]
#[inline]
fn look_up(table: &[u8; 16], mut codes: [uint8x16_t; 8]) -> [uint8x16_t; 8] {
    let table = load(table, 0);
    for code in &mut codes {
        *code = vqtbl1q_u8(table, *code);
    }
    codes
}

/// `d * scale` and `-(dmin * min)` of group `i` of Q4_K and Q5_K.
#[target_feature(enable = "neon")]
#[inline]
fn k_scales(raw: &[u8], i: usize, q: usize) -> (float32x4_t, float32x4_t) {
    let [scale, min] = six_bits(raw, 64, i, q);
    (times(halves(raw, 8 * q), scale), vnegq_f32(times(halves(raw, 32 + 8 * q), min)))
}

/// Both 6-bit numbers of group `i` for four rows, from the low nibbles at `at` and the high bits behind them.
#[target_feature(enable = "neon")]
#[inline]
fn six_bits(raw: &[u8], at: usize, i: usize, q: usize) -> [uint32x4_t; 2] {
    let low = four(raw, at + 16 * i + 4 * q);
    let high = shift_right(four(raw, at + 128 + 16 * (i / 2) + 4 * q), 4 * (i % 2));
    [
        vorrq_u32(vandq_u32(low, vdupq_n_u32(15)), vshlq_n_u32::<4>(vandq_u32(high, vdupq_n_u32(3)))),
        vorrq_u32(vshrq_n_u32::<4>(low), vshlq_n_u32::<2>(vandq_u32(high, vdupq_n_u32(12)))),
    ]
}

/// `d` by four unsigned numbers.
#[target_feature(enable = "neon")]
#[inline]
fn times(d: float32x4_t, factors: uint32x4_t) -> float32x4_t {
    vmulq_f32(d, vcvtq_f32_u32(factors))
}

#[target_feature(enable = "neon")]
#[inline]
fn shift_right(x: uint32x4_t, bits: usize) -> uint32x4_t {
    vshlq_u32(x, vdupq_n_s32(-(bits as i32)))
}

/// Four bytes, widened.
#[target_feature(enable = "neon")]
#[inline]
fn four(raw: &[u8], at: usize) -> uint32x4_t {
    vmovl_u16(vget_low_u16(vmovl_u8(load32(raw, at))))
}

/// The 16 bytes from `at`.
#[target_feature(enable = "neon")]
#[inline]
fn load(raw: &[u8], at: usize) -> uint8x16_t {
    let bytes: &[u8; 16] = raw[at..].first_chunk().expect("16 bytes");
    // SAFETY: the reference is to as many bytes as are read, and the load has no alignment.
    unsafe { vld1q_u8(bytes.as_ptr()) }
}

/// The 8 bytes from `at`.
#[target_feature(enable = "neon")]
#[inline]
fn load64(raw: &[u8], at: usize) -> uint8x8_t {
    let bytes: &[u8; 8] = raw[at..].first_chunk().expect("8 bytes");
    // SAFETY: the reference is to as many bytes as are read, and the load has no alignment.
    unsafe { vld1_u8(bytes.as_ptr()) }
}

/// The 4 bytes from `at`, then zeros.
#[target_feature(enable = "neon")]
#[inline]
fn load32(raw: &[u8], at: usize) -> uint8x8_t {
    let bytes: &[u8; 4] = raw[at..].first_chunk().expect("4 bytes");
    vcreate_u8(u32::from_le_bytes(*bytes).into())
}
