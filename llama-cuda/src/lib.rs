//! The CUDA backend of `llama-core`: hand-written kernels, embedded as PTX, loaded by the driver.
//!
//! No CUDA toolkit is needed to build or to run, and none is linked: libcuda is opened when a [`Cuda`] is made. Where there
//! is no driver, [`Cuda::devices`] is an empty list and [`Cuda::new`] an error that says so.
//!
//! ```no_run
//! use llama_core::Loader;
//! use llama_cuda::Cuda;
//!
//! # fn main() -> llama_core::Result<()> {
//! let engine = Loader::open("model.gguf")?.load(Cuda::new(Default::default())?)?;
//! # Ok(())
//! # }
//! ```
//!
//! # From a verb to the device
//!
//! `cuda` writes the verbs of a step down, `fuse` makes operations of them, `lower` launches, `replay` sends these one by
//! one or as a recorded graph. `device`, `kernels` and `launch` are the only places that call the driver.

mod adapted;
mod adapter;
mod arena;
mod attention;
mod cuda;
mod device;
mod error;
mod fuse;
mod gemm;
mod grouped;
mod kernels;
mod kv;
mod launch;
mod lower;
mod params;
mod persistent;
mod plan;
mod ptx;
mod replay;
mod sample;
mod tensor;
mod tiles;
mod upload;
mod verb;
mod weight;
mod wgmma;

pub use adapter::Adapter;
pub use cuda::{Cuda, CudaOptions, Gemm};
pub use device::{DeviceInfo, OLDEST_DRIVER};
pub use kv::KvCache;
pub use plan::Plan;
pub use tensor::Tensor;
pub use weight::Weight;
