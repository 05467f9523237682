//! Innermost loops, tier by tier.

#[cfg(target_arch = "x86_64")]
pub mod avx2;
#[cfg(target_arch = "x86_64")]
pub mod avx512;
pub mod linear;
pub mod portable;
