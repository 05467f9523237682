//! What the benchmarks share: the machine's ceilings, and a model under measurement.

pub mod ceiling;
pub mod gpu;
pub mod process;
pub mod random;
pub mod subject;
pub mod verbs;
pub mod whole;
