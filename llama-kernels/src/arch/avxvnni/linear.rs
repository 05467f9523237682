//! The linear's kernels on CPUs that have VPDPBUSD, but for registers of 256 bits only.
//!
//! Panels, packed forms and kernels are AVX2's, but for the dot products: VPDPBUSD takes unsigned codes of any width and
//! adds in 32 bits, so no form needs more than the plain loop, and unpacking for four columns keeps the third vector port
//! busy while the other two multiply. A group of a column is eleven operations for those two, eight of them VPDPBUSD: no
//! arrangement within the fixed arithmetic reaches more than 73 % of that instruction's peak.

use std::arch::asm;
use std::arch::x86_64::*;

use crate::arch::avx2::linear::{COLUMNS, Dot, quantised, table};
use crate::arch::avx2::linear_blocks::Block;
use crate::arch::avx2::linear_floats::floats;
use crate::arch::avx2::linear_quantise::quantise;
use crate::arch::linear::{Kernel, LinearKernels};

/// The table of this tier, for a CPU that has it.
pub(in crate::arch) fn kernels() -> LinearKernels {
    let kernels = table::<Vnni>().tiles;
    LinearKernels { columns: COLUMNS, kernels, many: None, zero_pairs: false, quantise, floats: floats() }
}

/// VPDPBUSD.
struct Vnni;

impl Dot for Vnni {
    const UNSIGNED: bool = true;

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn dots<W: Block<BYTES, S>, const BYTES: usize, const S: usize>(
        codes: &[__m256i; 8],
        quants: &[i32; 8],
        zero: i32,
        sub: usize,
    ) -> __m256i {
        let mut dots = _mm256_set1_epi32(zero);
        for j in sub * 8 / S..(sub + 1) * 8 / S {
            let unsigned = if W::SIGNED { _mm256_xor_si256(codes[j], _mm256_set1_epi8(-128)) } else { codes[j] };
            // SAFETY: the caller promises the instruction.
            dots = unsafe { dpbusd(dots, unsigned, _mm256_set1_epi32(quants[j])) };
        }
        dots
    }

    fn tiles<W: Block<BYTES, S>, const BYTES: usize, const S: usize, const OUT: usize>() -> [Kernel; COLUMNS] {
        let one: Kernel = quantised::<Self, W, BYTES, S, 1>;
        [one, quantised::<Self, W, BYTES, S, 2>, quantised::<Self, W, BYTES, S, 3>, quantised::<Self, W, BYTES, S, 4>]
    }
}

/// VPDPBUSD as VEX encodes it. Its intrinsic is for functions with the feature, which would not be inlined into kernels that
/// are written once for both tiers.
///
/// # Safety
/// The CPU has AVX-VNNI.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn dpbusd(mut dots: __m256i, codes: __m256i, quants: __m256i) -> __m256i {
    // SAFETY: the caller promises the instruction, which touches nothing but these registers.
    unsafe {
        asm!(
            "{{vex}} vpdpbusd {dots}, {codes}, {quants}",
            dots = inout(ymm_reg) dots,
            codes = in(ymm_reg) codes,
            quants = in(ymm_reg) quants,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    dots
}
