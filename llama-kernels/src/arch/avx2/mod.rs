//! AVX2, FMA and F16C.

pub mod attention;
pub(super) mod linear;
pub(super) mod linear_blocks;
mod linear_many;
pub(super) mod linear_quantise;
pub mod vector;
