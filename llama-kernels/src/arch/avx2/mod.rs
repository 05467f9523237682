//! AVX2, FMA and F16C.

pub mod attention;
pub(super) mod linear;
mod linear_bits;
pub(super) mod linear_blocks;
mod linear_many;
pub(super) mod linear_quantise;
mod linear_tile;
pub mod vector;

use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};

/// Asks memory for the line that holds element `at` of a block, or lies as far behind its start.
#[inline(always)]
pub(in crate::arch) fn fetch<E>(block: &[E], at: usize) {
    // SAFETY: a prefetch reads nothing that the program sees and cannot fault, whatever the address; every x86-64 has it.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(block.as_ptr().wrapping_add(at).cast()) }
}
