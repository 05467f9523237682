//! One group for a full tile on AVX2, sixteen rows by four columns, in assembly: products, their scales, and the sums.
//!
//! It has a use for every one of the sixteen registers: eight for dot products, the others for codes, products on their way
//! and a broadcast of four quants. Sums stay in memory, where an operand costs nothing. From intrinsics the compiler makes
//! loops that keep dot products there, and begins them with additions to zero.

use std::arch::asm;
use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use super::linear_blocks::Block;

/// Sums of a tile: of rows 0 to 7 and of rows 8 to 15, for each column.
pub(super) type Sums<const C: usize> = [[__m256; 2]; C];

/// What scales the codes of a sub-block of a group, and what four columns bring to them. What a form does not have is not read.
pub(super) struct FullTile<'a> {
    /// `[column][code vector]`.
    pub quants: &'a [[i32; 8]; 4],
    /// The first code vector of the sub-block.
    pub first: usize,
    /// Of sixteen rows, f32.
    pub scale: &'a [u8; 64],
    /// Of sixteen rows, f32.
    pub min: &'a [u8; 64],
    /// Of columns.
    pub scales: &'a [f32; 4],
    /// Two of 16 bits for each column: where dot products start.
    pub zeros: &'a [i32; 4],
    /// Of columns.
    pub sums: &'a [f32; 4],
}

/// A step's code vector, sixteen rows of it: unpacked, or the low or high nibbles of what is not, which may be kept.
#[rustfmt::skip]
macro_rules! load {
    (codes $j:literal) => {
        concat!("vmovdqu ymm8, [{codes} + 64*", $j, "]\n", "vmovdqu ymm9, [{codes} + 64*", $j, " + 32]\n")
    };
    (low $j:literal) => {
        concat!("vpand ymm8, ymm15, [{codes} + 64*", $j, "]\n", "vpand ymm9, ymm15, [{codes} + 64*", $j, " + 32]\n")
    };
    (high $j:literal) => {
        concat!(
            "vmovdqu ymm8, [{codes} + 64*", $j, " - 256]\n",
            "vmovdqu ymm9, [{codes} + 64*", $j, " - 224]\n",
            "vpsrlw ymm8, ymm8, 4\n",
            "vpsrlw ymm9, ymm9, 4\n",
            "vpand ymm8, ymm8, ymm15\n",
            "vpand ymm9, ymm9, ymm15\n",
        )
    };
    (kept_low $j:literal) => { concat!(load!(low $j), load!(keep $j)) };
    (kept_high $j:literal) => { concat!(load!(high $j), load!(keep $j)) };
    (keep $j:literal) => {
        concat!("vmovdqu [{kept} + 64*", $j, "], ymm8\n", "vmovdqu [{kept} + 64*", $j, " + 32], ymm9\n")
    };
}

/// Multiplies a step's codes, unsigned, with four quants of a column, and adds neighbours in 16 bits.
#[rustfmt::skip]
macro_rules! multiply {
    ($j:literal, $column:literal => $low:literal $high:literal) => {
        concat!(
            "vpbroadcastd ymm14, [{quants} + 4*", $j, " + 32*", $column, "]\n",
            "vpmaddubsw ymm", $low, ", ymm8, ymm14\n",
            "vpmaddubsw ymm", $high, ", ymm9, ymm14\n",
        )
    };
}

/// Adds products to the dot products of a column; the first ones to its zero point's share.
#[rustfmt::skip]
macro_rules! add {
    (zeros, $column:literal, $low:literal $high:literal => $dot_low:literal $dot_high:literal) => {
        concat!(
            "vpbroadcastd ymm", $dot_high, ", [{zeros} + 4*", $column, "]\n",
            "vpaddw ymm", $dot_low, ", ymm", $dot_high, ", ymm", $low, "\n",
            "vpaddw ymm", $dot_high, ", ymm", $dot_high, ", ymm", $high, "\n",
        )
    };
    (products, $column:literal, $low:literal $high:literal => $dot_low:literal $dot_high:literal) => {
        concat!(
            "vpaddw ymm", $dot_low, ", ymm", $dot_low, ", ymm", $low, "\n",
            "vpaddw ymm", $dot_high, ", ymm", $dot_high, ", ymm", $high, "\n",
        )
    };
}

/// A step of unsigned codes. Products of one column are added when the next one's are under way.
#[rustfmt::skip]
macro_rules! unsigned_step {
    (first, $from:ident $j:literal) => {
        concat!(
            load!($from $j),
            multiply!($j, 0 => 0 1), multiply!($j, 1 => 2 3), multiply!($j, 2 => 4 5), multiply!($j, 3 => 6 7),
        )
    };
    ($start:ident, $from:ident $j:literal) => {
        concat!(
            load!($from $j),
            multiply!($j, 0 => 10 11), multiply!($j, 1 => 12 13), add!($start, 0, 10 11 => 0 1),
            multiply!($j, 2 => 10 11), add!($start, 1, 12 13 => 2 3),
            multiply!($j, 3 => 12 13), add!($start, 2, 10 11 => 4 5), add!($start, 3, 12 13 => 6 7),
        )
    };
}

/// A step of signed codes: their sign is moved to the quants, and products are widened before they are added.
#[rustfmt::skip]
macro_rules! signed_step {
    ($first:ident, $from:ident $j:literal) => {
        concat!(
            load!($from $j),
            "vpabsb ymm10, ymm8\n",
            "vpabsb ymm11, ymm9\n",
            signed_step!($first, $j, 0 => 0 1), signed_step!($first, $j, 1 => 2 3),
            signed_step!($first, $j, 2 => 4 5), signed_step!($first, $j, 3 => 6 7),
        )
    };
    (first, $j:literal, $column:literal => $low:literal $high:literal) => {
        concat!(
            signed_step!($j, $column),
            "vpmaddwd ymm", $low, ", ymm12, ymm15\n",
            "vpmaddwd ymm", $high, ", ymm13, ymm15\n",
        )
    };
    (products, $j:literal, $column:literal => $low:literal $high:literal) => {
        concat!(
            signed_step!($j, $column),
            "vpmaddwd ymm12, ymm12, ymm15\n",
            "vpmaddwd ymm13, ymm13, ymm15\n",
            "vpaddd ymm", $low, ", ymm", $low, ", ymm12\n",
            "vpaddd ymm", $high, ", ymm", $high, ", ymm13\n",
        )
    };
    ($j:literal, $column:literal) => {
        concat!(
            "vpbroadcastd ymm14, [{quants} + 4*", $j, " + 32*", $column, "]\n",
            "vpsignb ymm12, ymm14, ymm8\n",
            "vpsignb ymm13, ymm14, ymm9\n",
            "vpmaddubsw ymm12, ymm10, ymm12\n",
            "vpmaddubsw ymm13, ymm11, ymm13\n",
        )
    };
}

/// A step that begins dot products, and those that go on.
macro_rules! steps {
    ($step:ident: $start:ident $from:ident $first:literal, $($next:ident $j:literal)*) => {
        concat!($step!($start, $from $first), $($step!(products, $next $j)),*)
    };
}

/// Something with all eight dot products: their column, and the registers of the low and the high rows.
macro_rules! each {
    ($what:ident) => {
        concat!($what!(0, 0 1), $what!(1, 2 3), $what!(2, 4 5), $what!(3, 6 7))
    };
}

/// From 16 to 32 bits, on the way to memory or alone; then what is in memory may be added.
#[rustfmt::skip]
macro_rules! widen {
    ($column:literal, $low:literal $high:literal) => {
        concat!(
            "vpmaddwd ymm", $low, ", ymm", $low, ", [{ones}]\n",
            "vpmaddwd ymm", $high, ", ymm", $high, ", [{ones}]\n",
        )
    };
}
#[rustfmt::skip]
macro_rules! keep {
    ($column:literal, $low:literal $high:literal) => {
        concat!(
            "vmovdqu [{kept} + 64*", $column, "], ymm", $low, "\n",
            "vmovdqu [{kept} + 64*", $column, " + 32], ymm", $high, "\n",
        )
    };
}
#[rustfmt::skip]
macro_rules! add_kept {
    ($column:literal, $low:literal $high:literal) => {
        concat!(
            "vpaddd ymm", $low, ", ymm", $low, ", [{kept} + 64*", $column, "]\n",
            "vpaddd ymm", $high, ", ymm", $high, ", [{kept} + 64*", $column, " + 32]\n",
        )
    };
}

/// `sum = fma(scale * scale of the column, dot product, sum)`, left in the dot product's register.
#[rustfmt::skip]
macro_rules! scale {
    ($column:literal, $low:literal $high:literal) => {
        concat!(
            "vbroadcastss ymm10, [{scales} + 4*", $column, "]\n",
            "vmulps ymm11, ymm10, [{scale}]\n",
            "vmulps ymm12, ymm10, [{scale} + 32]\n",
            "vcvtdq2ps ymm", $low, ", ymm", $low, "\n",
            "vcvtdq2ps ymm", $high, ", ymm", $high, "\n",
            "vfmadd213ps ymm", $low, ", ymm11, [{acc} + 64*", $column, "]\n",
            "vfmadd213ps ymm", $high, ", ymm12, [{acc} + 64*", $column, " + 32]\n",
        )
    };
}
#[rustfmt::skip]
macro_rules! store {
    ($column:literal, $low:literal $high:literal) => {
        concat!(
            "vmovups [{acc} + 64*", $column, "], ymm", $low, "\n",
            "vmovups [{acc} + 64*", $column, " + 32], ymm", $high, "\n",
        )
    };
}
macro_rules! without_min {
    ($column:literal, $low:literal $high:literal) => {
        concat!(scale!($column, $low $high), store!($column, $low $high))
    };
}
/// `sum = fma(min, sum of the column, sum)` too.
#[rustfmt::skip]
macro_rules! with_min {
    ($column:literal, $low:literal $high:literal) => {
        concat!(
            scale!($column, $low $high),
            "vbroadcastss ymm13, [{sums} + 4*", $column, "]\n",
            "vfmadd231ps ymm", $low, ", ymm13, [{min}]\n",
            "vfmadd231ps ymm", $high, ", ymm13, [{min} + 32]\n",
            store!($column, $low $high),
        )
    };
}

/// Runs pieces of assembly. `constant` is in the last register: ones of 16 bits, or a mask of nibbles.
macro_rules! run {
    ($tile:ident, $acc:ident, $codes:expr, $kept:expr, $constant:expr, $($piece:expr),*) => {
        asm!(
            $($piece),*,
            "/* not of every form: {zeros} {sums} {min} {kept} {ones} */",
            codes = in(reg) $codes,
            kept = in(reg) $kept,
            quants = in(reg) $tile.quants.as_flattened()[$tile.first..].as_ptr(),
            scale = in(reg) $tile.scale.as_ptr(),
            min = in(reg) $tile.min.as_ptr(),
            scales = in(reg) $tile.scales.as_ptr(),
            zeros = in(reg) $tile.zeros.as_ptr(),
            sums = in(reg) $tile.sums.as_ptr(),
            acc = in(reg) $acc.as_mut_ptr(),
            ones = in(reg) ONES.as_ptr(),
            out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _, out("ymm4") _, out("ymm5") _, out("ymm6") _,
            out("ymm7") _, out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _, out("ymm12") _,
            out("ymm13") _, out("ymm14") _,
            in("ymm15") $constant,
            options(nostack, preserves_flags),
        )
    };
}

static ONES: [i16; 16] = [1; 16];

/// Adds the products of a sub-block. Bits are those of `linear_many::add_group`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn add_codes<W: Block<BYTES, S>, const BYTES: usize, const S: usize>(
    codes: &[u8; 512],
    tile: &FullTile<'_>,
    acc: &mut Sums<4>,
) {
    let vectors = 8 / S;
    assert!(tile.first + vectors <= 8);
    // Written before it is read, by the one form that has a use for it: zeros would be stored for every group.
    let mut kept = MaybeUninit::<[__m256i; 8]>::uninit();
    macro_rules! run_codes {
        ($($piece:expr),*) => {
            run!(tile, acc, codes[64 * tile.first..].as_ptr(), kept.as_mut_ptr(), _mm256_set1_epi16(1), $($piece),*)
        };
    }
    // SAFETY: as `first` was checked, every address is that of `codes`, of a field of `tile`, of `acc` or `kept`, which are
    // written, or of `ONES`, and offsets stay within them: 64 bytes of codes and 4 of each column's quants, which are 32
    // apart, for each of `vectors` steps. The CPU has the features of this function.
    unsafe {
        match (vectors, W::STEP, W::ZERO, W::MIN) {
            (8, 8, true, false) => run_codes!(
                steps!(unsigned_step: zeros codes 0, codes 1 codes 2 codes 3 codes 4 codes 5 codes 6 codes 7),
                each!(widen),
                each!(without_min)
            ),
            (8, 8, false, true) => run_codes!(
                steps!(unsigned_step: first codes 0, codes 1 codes 2 codes 3 codes 4 codes 5 codes 6 codes 7),
                each!(widen),
                each!(with_min)
            ),
            (8, 4, false, true) => run_codes!(
                steps!(unsigned_step: first codes 0, codes 1 codes 2 codes 3),
                each!(widen),
                each!(keep),
                steps!(unsigned_step: first codes 4, codes 5 codes 6 codes 7),
                each!(widen),
                each!(add_kept),
                each!(with_min)
            ),
            (8, 1, false, false) => run_codes!(
                steps!(signed_step: first codes 0, codes 1 codes 2 codes 3 codes 4 codes 5 codes 6 codes 7),
                each!(without_min)
            ),
            (8, 1, false, true) => run_codes!(
                steps!(signed_step: first codes 0, codes 1 codes 2 codes 3 codes 4 codes 5 codes 6 codes 7),
                each!(with_min)
            ),
            (4, 4, true, false) => run_codes!(
                steps!(unsigned_step: zeros codes 0, codes 1 codes 2 codes 3),
                each!(widen),
                each!(without_min)
            ),
            (4, 4, false, true) => {
                run_codes!(steps!(unsigned_step: first codes 0, codes 1 codes 2 codes 3), each!(widen), each!(with_min))
            }
            (4, 1, false, false) => {
                run_codes!(steps!(signed_step: first codes 0, codes 1 codes 2 codes 3), each!(without_min))
            }
            (4, 1, false, true) => {
                run_codes!(steps!(signed_step: first codes 0, codes 1 codes 2 codes 3), each!(with_min))
            }
            form => unreachable!("no packed form has {form:?}"),
        }
    }
}

/// As [`add_codes`], of a group that is nothing but nibbles. Its code vectors are left in `codes` where that is wanted.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn add_nibbles<W: Block<BYTES, S>, const BYTES: usize, const S: usize>(
    nibbles: &[u8; 256],
    codes: Option<&mut [u8; 512]>,
    tile: &FullTile<'_>,
    acc: &mut Sums<4>,
) {
    assert!(S == 1 && W::STEP == 8 && tile.first == 0);
    let kept = codes.map_or(std::ptr::null_mut(), |codes| codes.as_mut_ptr());
    macro_rules! run_nibbles {
        ($($piece:expr),*) => {
            run!(tile, acc, nibbles.as_ptr(), kept, _mm256_set1_epi8(15), $($piece),*)
        };
    }
    // SAFETY: every address is that of `nibbles`, of a field of `tile`, of `acc` or, unless `kept` is null, of `codes`, which
    // are written, or of `ONES`, and offsets stay within them: 64 bytes of nibbles for each of four steps and again for the
    // other four, 64 of codes and 4 of each column's quants, which are 32 apart, for each of all eight. The CPU has the
    // features of this function.
    unsafe {
        match (W::ZERO, kept.is_null()) {
            (true, true) => run_nibbles!(
                steps!(unsigned_step: zeros low 0, low 1 low 2 low 3 high 4 high 5 high 6 high 7),
                each!(widen),
                each!(without_min)
            ),
            (true, false) => run_nibbles!(
                steps!(unsigned_step: zeros kept_low 0, kept_low 1 kept_low 2 kept_low 3
                    kept_high 4 kept_high 5 kept_high 6 kept_high 7),
                each!(widen),
                each!(without_min)
            ),
            (false, true) => run_nibbles!(
                steps!(unsigned_step: first low 0, low 1 low 2 low 3 high 4 high 5 high 6 high 7),
                each!(widen),
                each!(with_min)
            ),
            (false, false) => run_nibbles!(
                steps!(unsigned_step: first kept_low 0, kept_low 1 kept_low 2 kept_low 3
                    kept_high 4 kept_high 5 kept_high 6 kept_high 7),
                each!(widen),
                each!(with_min)
            ),
        }
    }
}
