//! AVX2, FMA and F16C.

pub mod attention;
pub(super) mod linear;
mod linear_blocks;
pub(super) mod linear_quantise;
pub mod vector;
