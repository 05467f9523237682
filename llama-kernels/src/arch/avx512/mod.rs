//! AVX-512 F, BW, VL, DQ and VNNI.

pub mod attention;
pub mod vector;
