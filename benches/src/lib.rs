//! What the benchmarks share: the machine's ceilings.

pub mod ceiling;
