//! Executes PTX on a CPU, so that kernels are tested where there is no GPU.
//!
//! ```
//! use ptx_sim::{Arg, Launch, Memory, Module, launch};
//!
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
//! let module = Module::parse(ptx)?;
//! let mut memory = Memory::new();
//! let x = memory.upload(&[1u32, 2, 3]);
//! launch(&module, "twice", &mut memory, Launch::new(1, 3), &[Arg::Buffer(x)])?;
//! assert_eq!(memory.read::<u32>(x), Ok(vec![2, 4, 6]));
//!
//! // One thread too many is not a crash but a finding that names it.
//! let finding = launch(&module, "twice", &mut memory, Launch::new(1, 4), &[Arg::Buffer(x)]).unwrap_err();
//! assert_eq!(finding.place.map(|place| (place.thread, place.line)), Some(([3, 0, 0], 11)));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The machine
//!
//! Text becomes a [`Module`] (`parse`), a module runs on [`Memory`] by [`launch`] (`exec`). Blocks run one after the other.
//! Within a block, warps run in turn until every thread waits or has exited; within a warp, the threads with the lowest
//! program counter go first, which rejoins diverged threads at the end of a branch. Warp-wide operations wait until every
//! thread they name has arrived. Memory is sequentially consistent: reordering is not simulated, because the race check
//! refuses every program in which it could be seen.
//!
//! # What is checked
//!
//! See [`Fault`]: bounds, alignment, uninitialised memory and registers, data races in shared and global memory,
//! asynchronous copies read too early or never waited for, divergent barriers, warp operations that miss a thread,
//! deadlock. The first finding ends the launch.
//!
//! # What is not modelled
//!
//! Barriers over a part of a block, `mbarrier`, bulk copies (TMA), `wgmma`, clusters, surfaces and textures, function
//! calls: refused by the parser. Blocks that wait for each other run out of steps. Approximate functions return correctly
//! rounded results, and `mma` sums exactly before rounding: both inside what the ISA allows, neither the bits of a GPU.

#![forbid(unsafe_code)]

mod alu;
mod convert;
mod counters;
mod exec;
mod finding;
mod float;
mod ir;
mod memory;
mod parse;
mod race;
mod types;

pub use convert::Conversion;
pub use counters::{Counters, Coverage, Report};
pub use exec::{Arg, Launch, launch};
pub use finding::{Fault, Finding, LaunchProblem, Place};
pub use float::{Arith, Format, Mode, Round, add_to_odd};
pub use ir::{Class, Module};
pub use memory::{Buffer, Memory, Scalar};
pub use parse::{ParseError, Problem};
pub use types::{Space, Type};
