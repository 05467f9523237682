//! What the benchmarks share: the machine's ceilings, and a model under measurement.

pub mod ceiling;
pub mod subject;
