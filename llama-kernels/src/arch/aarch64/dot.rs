//! Four int8 products a row, added: the one thing in which the tiers of aarch64 differ.
//!
//! A register of codes is four rows by four columns, row by row, and the quants of those columns are one i32.

use std::arch::aarch64::*;
use std::arch::asm;

use super::linear_bits::load;

/// A way of multiplying codes with quants.
pub(super) trait Dot {
    /// Whether it takes unsigned codes. Otherwise those that have eight bits come without their zero point of 128.
    const UNSIGNED: bool = false;

    /// Adds to `dots`, one lane a row, the products of as many registers of codes as there are `quants`, four or eight.
    ///
    /// Codes are so small that `step` of their products with quants, which are at least -127, fit into 16 bits.
    ///
    /// # Safety
    /// The CPU has the instructions.
    unsafe fn add(dots: int32x4_t, codes: &[int8x16_t], quants: &[i32], step: usize) -> int32x4_t;
}

/// A way of multiplying codes with the quants of several columns, row by row.
pub(super) trait DotColumns {
    /// Dot products of sub-block `sub` of `S` for `C` columns. `codes` begin with eight code vectors, signed, of which `STEP`
    /// are so small as `step` is for [`Dot::add`]. A code vector meets all columns before the next: sums that do not wait for
    /// each other, in loops so short that they are unrolled.
    ///
    /// # Safety
    /// The CPU has the instructions.
    unsafe fn columns<const S: usize, const STEP: usize, const C: usize>(
        codes: &[u8],
        quants: &[[i32; 8]; C],
        sub: usize,
    ) -> [int32x4_t; C];
}

/// SMLAL into 16 bits, SADALP into 32: any aarch64.
pub(super) struct Widening;

/// SDOT: the dotprod extension.
pub(super) struct Dotprod;

/// USDOT: the i8mm extension.
pub(super) struct I8mm;

impl Dot for Widening {
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn add(dots: int32x4_t, codes: &[int8x16_t], quants: &[i32], step: usize) -> int32x4_t {
        // Two rows each, two sums a row.
        let (mut low, mut high) = (vdupq_n_s32(0), vdupq_n_s32(0));
        for (codes, quants) in codes.chunks(step).zip(quants.chunks(step)) {
            let (mut low16, mut high16) = (vdupq_n_s16(0), vdupq_n_s16(0));
            for (&codes, &quants) in codes.iter().zip(quants) {
                let quants = vreinterpretq_s8_s32(vdupq_n_s32(quants));
                low16 = vmlal_s8(low16, vget_low_s8(codes), vget_low_s8(quants));
                high16 = vmlal_high_s8(high16, codes, quants);
            }
            low = vpadalq_s16(low, low16);
            high = vpadalq_s16(high, high16);
        }
        vaddq_s32(dots, vpaddq_s32(low, high))
    }
}

impl DotColumns for Widening {
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn columns<const S: usize, const STEP: usize, const C: usize>(
        codes: &[u8],
        quants: &[[i32; 8]; C],
        sub: usize,
    ) -> [int32x4_t; C] {
        // As in `add`.
        let mut sums = [[vdupq_n_s32(0); 2]; C];
        let step = STEP.min(8 / S);
        for j in (sub * 8 / S..(sub + 1) * 8 / S).step_by(step) {
            let mut sums16 = [[vdupq_n_s16(0); 2]; C];
            for j in j..j + step {
                let codes = vreinterpretq_s8_u8(load(codes, 16 * j));
                for (sums, quants) in sums16.iter_mut().zip(quants) {
                    let quants = vreinterpretq_s8_s32(vdupq_n_s32(quants[j]));
                    sums[0] = vmlal_s8(sums[0], vget_low_s8(codes), vget_low_s8(quants));
                    sums[1] = vmlal_high_s8(sums[1], codes, quants);
                }
            }
            for (sums, sums16) in sums.iter_mut().zip(sums16) {
                *sums = [vpadalq_s16(sums[0], sums16[0]), vpadalq_s16(sums[1], sums16[1])];
            }
        }
        let mut dots = [vdupq_n_s32(0); C];
        for (dots, [low, high]) in dots.iter_mut().zip(sums) {
            *dots = vpaddq_s32(low, high);
        }
        dots
    }
}

impl Dot for Dotprod {
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn add(mut dots: int32x4_t, codes: &[int8x16_t], quants: &[i32], _: usize) -> int32x4_t {
        for (codes, quants) in codes.as_chunks::<4>().0.iter().zip(quants.as_chunks::<4>().0) {
            let quants = load_quants(quants);
            // SAFETY: the caller promises the instruction.
            unsafe {
                dots = sdot::<0>(dots, codes[0], quants);
                dots = sdot::<1>(dots, codes[1], quants);
                dots = sdot::<2>(dots, codes[2], quants);
                dots = sdot::<3>(dots, codes[3], quants);
            }
        }
        dots
    }
}

impl DotColumns for Dotprod {
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn columns<const S: usize, const STEP: usize, const C: usize>(
        codes: &[u8],
        quants: &[[i32; 8]; C],
        sub: usize,
    ) -> [int32x4_t; C] {
        let mut dots = [vdupq_n_s32(0); C];
        for half in sub * 2 / S..(sub + 1) * 2 / S {
            let mut fours = [vdupq_n_s8(0); C];
            for (four, quants) in fours.iter_mut().zip(quants) {
                *four = load_quants(&quants.as_chunks().0[half]);
            }
            let code = |j| vreinterpretq_s8_u8(load(codes, 16 * (4 * half + j)));
            // SAFETY: the caller promises the instruction.
            unsafe {
                sdots::<0, C>(&mut dots, code(0), &fours);
                sdots::<1, C>(&mut dots, code(1), &fours);
                sdots::<2, C>(&mut dots, code(2), &fours);
                sdots::<3, C>(&mut dots, code(3), &fours);
            }
        }
        dots
    }
}

impl Dot for I8mm {
    const UNSIGNED: bool = true;

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn add(mut dots: int32x4_t, codes: &[int8x16_t], quants: &[i32], _: usize) -> int32x4_t {
        for (codes, quants) in codes.as_chunks::<4>().0.iter().zip(quants.as_chunks::<4>().0) {
            let quants = load_quants(quants);
            // SAFETY: the caller promises the instruction.
            unsafe {
                dots = usdot::<0>(dots, codes[0], quants);
                dots = usdot::<1>(dots, codes[1], quants);
                dots = usdot::<2>(dots, codes[2], quants);
                dots = usdot::<3>(dots, codes[3], quants);
            }
        }
        dots
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn load_quants(quants: &[i32; 4]) -> int8x16_t {
    // SAFETY: the reference is to as many bytes as are read, and the load has no alignment.
    vreinterpretq_s8_s32(unsafe { vld1q_s32(quants.as_ptr()) })
}

/// [`sdot`] of one code vector for all columns.
///
/// # Safety
/// As there.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn sdots<const I: usize, const C: usize>(dots: &mut [int32x4_t; C], codes: int8x16_t, quants: &[int8x16_t; C]) {
    for (dots, quants) in dots.iter_mut().zip(quants) {
        // SAFETY: the caller promises the instruction.
        *dots = unsafe { sdot::<I>(*dots, codes, *quants) };
    }
}

/// SDOT with the `I`th four quants, which no stable intrinsic gives.
///
/// The extension is switched on for the assembler alone: a function with the feature would not be inlined into kernels
/// that are written once for all tiers.
///
/// # Safety
/// The CPU has dotprod.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn sdot<const I: usize>(mut dots: int32x4_t, codes: int8x16_t, quants: int8x16_t) -> int32x4_t {
    // SAFETY: the caller promises the instruction, which touches nothing but these registers.
    unsafe {
        asm!(
            ".arch_extension dotprod",
            "sdot {dots:v}.4s, {codes:v}.16b, {quants:v}.4b[{i}]",
            dots = inout(vreg) dots,
            codes = in(vreg) codes,
            quants = in(vreg) quants,
            i = const I,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    dots
}

/// USDOT of unsigned codes with the `I`th four quants.
///
/// # Safety
/// The CPU has i8mm.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn usdot<const I: usize>(mut dots: int32x4_t, codes: int8x16_t, quants: int8x16_t) -> int32x4_t {
    // SAFETY: the caller promises the instruction, which touches nothing but these registers.
    unsafe {
        asm!(
            ".arch_extension i8mm",
            "usdot {dots:v}.4s, {codes:v}.16b, {quants:v}.4b[{i}]",
            dots = inout(vreg) dots,
            codes = in(vreg) codes,
            quants = in(vreg) quants,
            i = const I,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    dots
}

/// SMMLA: adds the products of two rows of eight codes with two columns of eight quants, to
/// `[row 0 by column 0, row 0 by column 1, row 1 by column 0, row 1 by column 1]`.
///
/// # Safety
/// The CPU has i8mm.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn smmla(mut dots: int32x4_t, codes: int8x16_t, quants: int8x16_t) -> int32x4_t {
    // SAFETY: the caller promises the instruction, which touches nothing but these registers.
    unsafe {
        asm!(
            ".arch_extension i8mm",
            "smmla {dots:v}.4s, {codes:v}.16b, {quants:v}.16b",
            dots = inout(vreg) dots,
            codes = in(vreg) codes,
            quants = in(vreg) quants,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    dots
}
