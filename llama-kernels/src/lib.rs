//! Hand-written CPU kernels for `llama-core`.

pub mod isa;
mod threads;
