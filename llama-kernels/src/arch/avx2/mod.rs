//! AVX2, FMA and F16C.

pub mod attention;
pub(super) mod linear;
mod linear_bits;
pub(super) mod linear_blocks;
pub(super) mod linear_floats;
mod linear_many;
pub(super) mod linear_quantise;
mod linear_tile;
pub mod vector;

use std::arch::asm;
use std::arch::x86_64::{__m256i, _MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};

/// Bytes from what is being unpacked to what memory is asked for.
const AHEAD: usize = 3 << 10;

/// Asks memory for the line that holds element `at` of a block, or lies as far behind its start.
#[inline(always)]
pub(in crate::arch) fn fetch<E>(block: &[E], at: usize) {
    prefetch::<_MM_HINT_T1, E>(block.as_ptr().wrapping_add(at));
}

/// Asks the second-level cache for element `at` of `x`, or for what lies as far behind its start.
#[inline(always)]
fn fetch_near<E>(x: &[E], at: usize) {
    for line in 0..size_of::<E>().div_ceil(64) {
        prefetch::<_MM_HINT_T0, E>(x.as_ptr().wrapping_add(at).wrapping_byte_add(64 * line));
    }
}

#[inline(always)]
fn prefetch<const HINT: i32, E>(at: *const E) {
    // SAFETY: a prefetch reads nothing that the program sees and cannot fault, whatever the address; every x86-64 has it.
    unsafe { _mm_prefetch::<HINT>(at.cast()) }
}

/// Asks memory for what lies so far ahead of `bytes` at `at`: the hardware sees the stream, but with so much to be done for a
/// line it does not keep enough of them under way.
#[inline(always)]
pub(in crate::arch) fn ask_ahead<const AHEAD: usize>(raw: &[u8], at: usize, bytes: usize) {
    for line in 0..bytes.div_ceil(64) {
        fetch(raw, AHEAD + at + 64 * line);
    }
}

/// Makes what is read through `x` and `y` from here on wait for `sum`, for the compiler only: no instruction comes of it.
/// Left free, it computes the products of many steps before it adds any, and has too few registers to keep them.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn hold<'a, 'b, X, Y>(x: &'a X, y: &'b Y, sum: &mut __m256i) -> (&'a X, &'b Y) {
    let (mut x, mut y): (*const X, *const Y) = (x, y);
    #[allow(clippy::pointers_in_nomem_asm_block, reason = "nothing is read through them here")]
    // SAFETY: no instruction is executed, so pointers and register are what they were: references to live values.
    unsafe {
        asm!(
            "/* {0} {1} {2} */",
            inout(reg) x,
            inout(reg) y,
            inout(ymm_reg) *sum,
            options(pure, nomem, nostack, preserves_flags)
        );
        (&*x, &*y)
    }
}
