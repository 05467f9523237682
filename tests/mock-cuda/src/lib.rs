//! A `libcuda` over the PTX simulator: programs written for NVIDIA's driver run unmodified, on a CPU, under the
//! simulator's checks.
//!
//! ```
//! use cudarc::driver::{CudaContext, LaunchConfig, PushKernelArg, sys};
//!
//! let mock = mock_cuda::install(&mock_cuda::Config::default())?;
//! let ptx = ".version 7.0
//! .target sm_80
//! .address_size 64
//! .visible .entry twice(.param .u64 x) {
//!     .reg .b32 %r<3>;
//!     .reg .b64 %rd<4>;
//!     ld.param.u64 %rd1, [x];
//!     mov.u32 %r1, %tid.x;
//!     mul.wide.u32 %rd2, %r1, 4;
//!     add.s64 %rd3, %rd1, %rd2;
//!     ld.global.u32 %r1, [%rd3];
//!     add.s32 %r2, %r1, %r1;
//!     st.global.u32 [%rd3], %r2;
//!     ret;
//! }";
//! let context = CudaContext::new(0)?;
//! let stream = context.default_stream();
//! let twice = context.load_module(ptx.into())?.load_function("twice")?;
//! let mut x = stream.clone_htod(&[1u32, 2, 3])?;
//! let shape = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (3, 1, 1), shared_mem_bytes: 0 };
//! // SAFETY: three threads, three elements.
//! unsafe { stream.launch_builder(&twice).arg(&mut x).launch(shape) }?;
//! assert_eq!(stream.clone_dtoh(&x)?, [2, 4, 6]);
//! assert_eq!(mock.launches()["twice"], 1);
//!
//! // What a GPU might let pass ends the context, and the simulator says why.
//! let shape = LaunchConfig { block_dim: (4, 1, 1), ..shape };
//! // SAFETY: the mock checks every access.
//! unsafe { stream.launch_builder(&twice).arg(&mut x).launch(shape) }?;
//! assert_eq!(stream.synchronize().unwrap_err().0, sys::CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
//! assert!(mock.last_finding().is_some_and(|finding| finding.contains("thread [3, 0, 0]")));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Two copies
//!
//! This package is built twice over. The shared library is the driver: it holds all state, and the program under test finds it by
//! its name ([`install`] loads it first, and the loader hands it to whoever asks for `libcuda.so` later). The Rust
//! library, linked into the test, holds none: [`Mock`] asks the driver through exported functions whose names begin
//! with `mock_cuda_` (`control`).
//!
//! # The driver
//!
//! A call passes the door (`call`), which counts it and may make it fail on request; finds its device through the
//! current context or a handle (`driver`, `handle`); and works on that device's state under its lock (`device`). Work for
//! a stream is queued there (`stream`) and executed in order (`work`), at once or, if [`Config::deferred`] is set, only
//! when something waits for it. A capture collects work instead (`capture`); a graph is that list, executed from the arguments
//! copied then and the buffers' contents at launch.
//!
//! # What differs from a GPU
//!
//! One piece of work runs at a time. Device memory cannot be touched by the host, nor pinned host memory by kernels.
//! Where the real driver is lenient the mock is strict: during a capture in global or thread-local mode every call that
//! allocates, frees or waits is refused; handles are checked; a graph may not outlive the module of its kernels; launch
//! attributes of Hopper are refused below compute capability 9.0. Not there, so that asking panics or fails rather than
//! pretends: contexts other than primary ones, managed and mapped memory, memory pools but the default one, peer
//! access, textures, linking, graphs built node by node.

#![allow(non_snake_case, reason = "the driver's functions have the driver's names")]

mod api;
mod arguments;
mod call;
mod capture;
mod config;
mod control;
mod device;
mod driver;
mod event;
mod handle;
mod install;
mod launch;
mod limits;
mod memory;
mod module;
mod pinned;
mod status;
mod stream;
mod work;

pub use config::{Capability, Config};
pub use install::{InstallError, Mock, install};
