//! AVX-512 F, BW, VL, DQ and VNNI.

pub(super) mod linear;
mod linear_blocks;
