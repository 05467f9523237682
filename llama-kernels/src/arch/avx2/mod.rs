//! AVX2, FMA and F16C.

pub mod attention;
pub mod vector;
