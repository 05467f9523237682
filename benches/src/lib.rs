//! What the benchmarks share: the machine's ceilings, a model under measurement, how a program reports.

pub mod ceiling;
pub mod gpu;
pub mod process;
pub mod random;
pub mod report;
pub mod subject;
pub mod verbs;
pub mod whole;
