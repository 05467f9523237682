//! Innermost loops, one folder per tier, and the linear's table that they are called through.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
pub mod linear;
pub(crate) mod portable;
