//! AVX2, FMA and F16C.

pub(super) mod linear;
mod linear_blocks;
