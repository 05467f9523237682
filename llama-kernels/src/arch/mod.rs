//! Innermost loops, one folder per tier, and the tables they are called through.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub mod linear;
mod portable;
