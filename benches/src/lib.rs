//! What the benchmarks share.

pub mod ceiling;
