//! AVX-512 F, BW, VL, DQ and VNNI.

pub mod attention;
pub(super) mod linear;
mod linear_blocks;
pub mod vector;
