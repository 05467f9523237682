//! The innermost step of a full tile on AVX2, sixteen rows by four columns, in assembly.
//!
//! It has a use for every one of the sixteen registers: eight for sums, the others for codes, products on their way and a
//! broadcast of four quants. From intrinsics the compiler makes loops that keep some of them in memory.

use std::arch::asm;
use std::arch::x86_64::*;

/// Integer sums of a tile: of rows 0 to 7 and of rows 8 to 15, for each column.
pub(super) type Dots<const C: usize> = [[__m256i; 2]; C];

/// Dot products of the `N` (4 or 8) code vectors from the `first`, `step` of them added in 16 bits at a time, from `zeros`
/// (two of 16 bits each). Codes are unsigned; where `step` is 1 signed, or unsigned of seven bits, which is the same.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn full_dots<const N: usize>(
    codes: &[u8; 512],
    quants: &[[i32; 8]; 4],
    zeros: [i32; 4],
    first: usize,
    step: usize,
) -> Dots<4> {
    let none = [[_mm256_setzero_si256(); 2]; 4];
    let start = zeros.map(|zero| [_mm256_set1_epi32(zero); 2]);
    match (N, step) {
        (8, 4) => {
            let half = widened(add_products::<4, false>(codes, quants, first, start), none);
            widened(add_products::<4, false>(codes, quants, first + 4, start), half)
        }
        (_, 1) => add_products::<N, true>(codes, quants, first, none),
        _ => {
            assert_eq!(N, step, "code vectors added in 16 bits");
            widened(add_products::<N, false>(codes, quants, first, start), none)
        }
    }
}

/// `dots` and both halves of every 32 bits of `pairs`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn widened<const C: usize>(pairs: Dots<C>, mut dots: Dots<C>) -> Dots<C> {
    for (dots, pairs) in dots.as_flattened_mut().iter_mut().zip(pairs.as_flattened()) {
        *dots = _mm256_add_epi32(*dots, _mm256_madd_epi16(*pairs, _mm256_set1_epi16(1)));
    }
    dots
}

/// Steps of code vectors `j`, each of sixteen rows.
macro_rules! steps {
    ($step:ident: $($j:literal)*) => {
        concat!($(
            "vmovdqu ymm8, [{codes} + 64*", $j, "]\n",
            "vmovdqu ymm9, [{codes} + 64*", $j, " + 32]\n",
            $step!($j),
        )*)
    };
}

/// Unsigned codes, whose products with four quants are added in 16 bits: of one column when the next one's are under way.
#[rustfmt::skip]
macro_rules! unsigned_step {
    ($j:literal) => {
        concat!(
            unsigned_step!($j, 0, 10, 11),
            unsigned_step!($j, 32, 12, 13),
            "vpaddw ymm0, ymm0, ymm10\n",
            "vpaddw ymm1, ymm1, ymm11\n",
            unsigned_step!($j, 64, 10, 11),
            "vpaddw ymm2, ymm2, ymm12\n",
            "vpaddw ymm3, ymm3, ymm13\n",
            unsigned_step!($j, 96, 12, 13),
            "vpaddw ymm4, ymm4, ymm10\n",
            "vpaddw ymm5, ymm5, ymm11\n",
            "vpaddw ymm6, ymm6, ymm12\n",
            "vpaddw ymm7, ymm7, ymm13\n",
        )
    };
    ($j:literal, $column:literal, $low:literal, $high:literal) => {
        concat!(
            "vpbroadcastd ymm14, [{quants} + 4*", $j, " + ", $column, "]\n",
            "vpmaddubsw ymm", $low, ", ymm8, ymm14\n",
            "vpmaddubsw ymm", $high, ", ymm9, ymm14\n",
        )
    };
}

/// Signed codes: their sign is moved to the quants, and products are widened before they are added.
#[rustfmt::skip]
macro_rules! signed_step {
    ($j:literal) => {
        concat!(
            "vpabsb ymm10, ymm8\n",
            "vpabsb ymm11, ymm9\n",
            signed_step!($j, 0, 0, 1),
            signed_step!($j, 32, 2, 3),
            signed_step!($j, 64, 4, 5),
            signed_step!($j, 96, 6, 7),
        )
    };
    ($j:literal, $column:literal, $low:literal, $high:literal) => {
        concat!(
            "vpbroadcastd ymm14, [{quants} + 4*", $j, " + ", $column, "]\n",
            "vpsignb ymm12, ymm14, ymm8\n",
            "vpsignb ymm13, ymm14, ymm9\n",
            "vpmaddubsw ymm12, ymm10, ymm12\n",
            "vpmaddubsw ymm13, ymm11, ymm13\n",
            "vpmaddwd ymm12, ymm12, ymm15\n",
            "vpmaddwd ymm13, ymm13, ymm15\n",
            "vpaddd ymm", $low, ", ymm", $low, ", ymm12\n",
            "vpaddd ymm", $high, ", ymm", $high, ", ymm13\n",
        )
    };
}

/// Runs steps on all registers: sums in the first eight, `ones` in the last.
macro_rules! run {
    ($steps:expr, $codes:ident, $quants:ident, $sums:ident, $ones:expr) => {
        asm!(
            $steps,
            codes = in(reg) $codes,
            quants = in(reg) $quants,
            inout("ymm0") $sums[0][0], inout("ymm1") $sums[0][1],
            inout("ymm2") $sums[1][0], inout("ymm3") $sums[1][1],
            inout("ymm4") $sums[2][0], inout("ymm5") $sums[2][1],
            inout("ymm6") $sums[3][0], inout("ymm7") $sums[3][1],
            out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _, out("ymm12") _, out("ymm13") _, out("ymm14") _,
            in("ymm15") $ones,
            options(pure, readonly, nostack, preserves_flags),
        )
    };
}

/// Adds products of the `N` (4 or 8) code vectors from the `first`: in 16 bits if the codes are unsigned, in 32 if signed.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn add_products<const N: usize, const SIGNED: bool>(
    codes: &[u8; 512],
    quants: &[[i32; 8]; 4],
    first: usize,
    mut sums: Dots<4>,
) -> Dots<4> {
    let (codes, quants) = addresses::<N>(codes, quants, first);
    let ones = _mm256_set1_epi16(1);
    // SAFETY: `addresses` has made sure that what the steps read is there.
    unsafe {
        match (N, SIGNED) {
            (8, false) => run!(steps!(unsigned_step: 0 1 2 3 4 5 6 7), codes, quants, sums, ones),
            (_, false) => run!(steps!(unsigned_step: 0 1 2 3), codes, quants, sums, ones),
            (8, true) => run!(steps!(signed_step: 0 1 2 3 4 5 6 7), codes, quants, sums, ones),
            (_, true) => run!(steps!(signed_step: 0 1 2 3), codes, quants, sums, ones),
        }
    }
    sums
}

/// Where `N` steps from the `first` read: `64 * N` bytes of codes, `4 * N` bytes of each column, which are 32 bytes apart.
#[inline(always)]
fn addresses<const N: usize>(codes: &[u8; 512], quants: &[[i32; 8]; 4], first: usize) -> (*const u8, *const i32) {
    assert!((N == 4 || N == 8) && first + N <= 8);
    (codes[64 * first..].as_ptr(), quants.as_flattened()[first..].as_ptr())
}
