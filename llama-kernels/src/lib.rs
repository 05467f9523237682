//! Hand-written CPU kernels for `llama-core`: one backend, [`Cpu`], in several instruction-set tiers that agree bit for
//! bit and are chosen at run time.
//!
//! A verb of the contract goes `cpu` (the door: shapes are checked) -> `ops` (the algorithm over slices: how work is cut
//! into tasks) -> `kernels` (one table of inner loops per tier: the only dispatch) -> `arch` (the inner loops).
//!
//! The inner loops need an optimising compiler: without `--release`, or `opt-level = 3` under `[profile.dev.package."*"]`,
//! they are a hundred times slower.

mod arch;
mod buffer;
mod cpu;
pub mod isa;
pub mod kernels;
pub mod kv;
pub mod ops;
mod plan;
pub mod quant;
mod tensor;
pub mod threads;
pub mod weight;

pub use arch::linear::LinearKernels;
pub use cpu::{Cpu, CpuOptions};
pub use isa::Tier;
pub use kv::KvCache;
pub use plan::Plan;
pub use tensor::Tensor;
