//! Innermost loops, one folder per tier (or architecture), and the tables the linear ones are called through.

#[cfg(target_arch = "aarch64")]
pub mod aarch64;
#[cfg(target_arch = "x86_64")]
pub mod avx2;
#[cfg(target_arch = "x86_64")]
pub mod avx512;
#[cfg(target_arch = "x86_64")]
mod avxvnni;
mod floats;
pub mod linear;
pub mod portable;
