//! AVX2 with VPDPBUSD on 256 bits: a linear of its own, the rest from AVX2.

pub(super) mod linear;
