//! Hand-written CPU kernels for `llama-core`.

mod arch;
pub mod isa;
pub mod ops;
pub mod quant;
pub mod threads;
pub mod weight;

pub use arch::linear::LinearKernels;
