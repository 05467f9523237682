//! Pieces of packed forms in NEON registers: loads, and what bits of codes and factors become.

use std::arch::aarch64::*;

use super::vector::widen;

/// Eight code vectors: a quarter of a group.
pub(super) type Codes = [int8x16_t; 8];

/// Four f16 as f32.
#[target_feature(enable = "neon")]
#[inline]
pub(super) fn halves(raw: &[u8], at: usize) -> float32x4_t {
    widen(vreinterpret_u16_u8(load64(raw, at)))
}

#[target_feature(enable = "neon")]
#[inline]
pub(super) fn bytes(raw: &[u8], at: usize, q: usize) -> [uint8x16_t; 8] {
    let mut codes = [vdupq_n_u8(0); 8];
    for (j, code) in codes.iter_mut().enumerate() {
        *code = load(raw, at + 64 * j + 16 * q);
    }
    codes
}

#[target_feature(enable = "neon")]
#[inline]
pub(super) fn nibbles(raw: &[u8], at: usize, q: usize) -> [uint8x16_t; 8] {
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
pub(super) fn signed(codes: [uint8x16_t; 8]) -> Codes {
    let mut signed = [vdupq_n_s8(0); 8];
    for (signed, code) in signed.iter_mut().zip(codes) {
        *signed = vreinterpretq_s8_u8(code);
    }
    signed
}

/// Takes off a zero point of 128.
#[target_feature(enable = "neon")]
#[inline]
pub(super) fn without_128(mut codes: [uint8x16_t; 8]) -> Codes {
    for code in &mut codes {
        *code = veorq_u8(*code, vdupq_n_u8(128));
    }
    signed(codes)
}

/// `code | (bits shifted left & mask)`, where a negative shift is one to the right.
#[target_feature(enable = "neon")]
#[inline]
pub(super) fn or_shifted(code: uint8x16_t, bits: uint8x16_t, shift: i8, mask: u8) -> uint8x16_t {
    vorrq_u8(code, vandq_u8(vshlq_u8(bits, vdupq_n_s8(shift)), vdupq_n_u8(mask)))
}

/// Bit `j` of `bits` becomes bit 4 of code vector `j`.
#[target_feature(enable = "neon")]
#[inline]
pub(super) fn with_bits(mut codes: [uint8x16_t; 8], bits: uint8x16_t) -> Codes {
    for (j, code) in codes.iter_mut().enumerate() {
        *code = or_shifted(*code, bits, 4 - j as i8, 16);
    }
    signed(codes)
}

/// Bits `2 i` and `2 i + 1` of `pairs[h]` become bits 4 and 5 of code vector `4 h + i`.
#[target_feature(enable = "neon")]
#[inline]
pub(super) fn with_pairs(mut codes: [uint8x16_t; 8], pairs: [uint8x16_t; 2]) -> Codes {
    for (j, code) in codes.iter_mut().enumerate() {
        *code = or_shifted(*code, pairs[j / 4], 4 - 2 * (j % 4) as i8, 0x30);
    }
    signed(codes)
}

/// Bits `2 i` and `2 i + 1` of `pairs[h]` are code vector `4 h + i`.
#[target_feature(enable = "neon")]
#[inline]
pub(super) fn low_pairs(pairs: [uint8x16_t; 2]) -> [uint8x16_t; 8] {
    let mut codes = [vdupq_n_u8(0); 8];
    for (j, code) in codes.iter_mut().enumerate() {
        *code = or_shifted(*code, pairs[j / 4], -2 * (j % 4) as i8, 3);
    }
    codes
}

/// The values of a table of sixteen bytes.
#[target_feature(enable = "neon")]
#[inline]
pub(super) fn look_up(table: &[u8; 16], mut codes: [uint8x16_t; 8]) -> [uint8x16_t; 8] {
    let table = load(table, 0);
    for code in &mut codes {
        *code = vqtbl1q_u8(table, *code);
    }
    codes
}

/// Both 6-bit numbers of group `i` for four rows, from the low nibbles at `at` and the high bits behind them.
#[target_feature(enable = "neon")]
#[inline]
pub(super) fn six_bits(raw: &[u8], at: usize, i: usize, q: usize) -> [uint32x4_t; 2] {
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
pub(super) fn times(d: float32x4_t, factors: uint32x4_t) -> float32x4_t {
    vmulq_f32(d, vcvtq_f32_u32(factors))
}

#[target_feature(enable = "neon")]
#[inline]
pub(super) fn shift_right(x: uint32x4_t, bits: usize) -> uint32x4_t {
    vshlq_u32(x, vdupq_n_s32(-(bits as i32)))
}

/// Four bytes, widened.
#[target_feature(enable = "neon")]
#[inline]
pub(super) fn four(raw: &[u8], at: usize) -> uint32x4_t {
    vmovl_u16(vget_low_u16(vmovl_u8(load32(raw, at))))
}

/// The 16 bytes from `at`.
#[target_feature(enable = "neon")]
#[inline]
pub(super) fn load(raw: &[u8], at: usize) -> uint8x16_t {
    let bytes: &[u8; 16] = raw[at..].first_chunk().expect("16 bytes");
    // SAFETY: the reference is to as many bytes as are read, and the load has no alignment.
    unsafe { vld1q_u8(bytes.as_ptr()) }
}

/// Stores the 16 bytes from `at`.
#[target_feature(enable = "neon")]
#[inline]
pub(super) fn store(x: uint8x16_t, out: &mut [u8], at: usize) {
    let bytes: &mut [u8; 16] = out[at..].first_chunk_mut().expect("16 bytes");
    // SAFETY: the reference is to as many bytes as are written, and the store has no alignment.
    unsafe { vst1q_u8(bytes.as_mut_ptr(), x) }
}

/// The 8 bytes from `at`.
#[target_feature(enable = "neon")]
#[inline]
pub(super) fn load64(raw: &[u8], at: usize) -> uint8x8_t {
    let bytes: &[u8; 8] = raw[at..].first_chunk().expect("8 bytes");
    // SAFETY: the reference is to as many bytes as are read, and the load has no alignment.
    unsafe { vld1_u8(bytes.as_ptr()) }
}

/// The 4 bytes from `at`, then zeros.
#[target_feature(enable = "neon")]
#[inline]
pub(super) fn load32(raw: &[u8], at: usize) -> uint8x8_t {
    let bytes: &[u8; 4] = raw[at..].first_chunk().expect("4 bytes");
    vcreate_u8(u32::from_le_bytes(*bytes).into())
}
