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
//! Text becomes a [`Module`] (`parse`), a module runs on [`Memory`] by [`launch`] (`exec`). Blocks run one after the other,
//! or all at once in a [cooperative](Launch::cooperative) launch. Warps take turns, which end when they wait, when a poll
//! fails or after some thousand instructions; within a warp, the threads with the lowest program counter go first, which
//! rejoins diverged threads at the end of a branch. Warp-wide operations wait until every thread they name has arrived.
//! Memory is sequentially consistent: reordering is not simulated, because the race check refuses every program in which it
//! could be seen.
//!
//! # What is checked
//!
//! See [`Fault`]: bounds, alignment, uninitialised memory and registers, data races in shared and global memory,
//! asynchronous copies read too early or never waited for, divergent barriers, warp operations that miss a thread,
//! deadlock. The first finding ends the launch.
//!
//! Races are judged by the memory model (`order`, `race`): barriers of any part of a block, `bar.warp.sync` of any part of
//! a warp, and releases and acquires by fences, atomics and ordered loads and stores, with their scopes, order what is done
//! before and after them; nothing else does. An atomic without an ordering publishes only what a fence came before it for,
//! and what it observed counts only after another fence: `__threadfence()` on both sides of a block counter, or
//! `atom.acq_rel`. A fence may be executed by another thread, if a barrier lies between.
//!
//! [`Checks::Addresses`] drops races and uninitialised memory, for long computations whose kernels are tested elsewhere.
//!
//! # Asynchronous operations
//!
//! `cp.async`, bulk copies (plain and of tensors in tiles), and `wgmma` are actors of their own to the race check. What they
//! write is nobody's until somebody who waited for the group or the mbarrier's phase has told; what they read may not be
//! overwritten before that. Bytes arrive as late as they can, so a wait that does not wait is found. Bulk copies and `wgmma`
//! go through the asynchronous proxy: what ordinary stores wrote (`cp.async` included) needs `fence.proxy.async` before, by
//! the writer or by anyone between; an mbarrier needs `fence.mbarrier_init`. Mbarriers count arrivals and bytes. Registers
//! of `wgmma` are watched: no use before `wgmma.wait_group`, no product without `wgmma.fence` after they were written. Each
//! warp of a warpgroup is modelled by itself, from its own rows of A and all of B.
//!
//! [`TensorMap`] is what `cuTensorMapEncodeTiled` makes, in the simulator's own encoding.
//!
//! # What is not modelled
//!
//! Surfaces and textures, function calls, im2col and multicast copies, reductions by bulk copies, `wgmma` for other types
//! than bf16 and f16 with f32 sums, relaxed mbarrier operations: refused by the parser. A cluster is one block. Approximate
//! functions return correctly rounded results, and `mma` and `wgmma` sum exactly before rounding: both inside what the ISA
//! allows, neither the bits of a GPU. Time does not pass: `nanosleep` does nothing, clocks count instructions, and threads
//! that spin for a time-out while nobody else changes anything are a deadlock.

#![forbid(unsafe_code)]

mod alu;
mod convert;
mod counters;
mod exec;
mod finding;
mod float;
mod ir;
mod memory;
mod op;
mod order;
mod parse;
mod race;
mod region;
mod tensor_map;
mod types;

pub use convert::Conversion;
pub use counters::{Counters, Coverage, Report};
pub use exec::{Arg, Checks, Launch, launch};
pub use finding::{Fault, Finding, LaunchProblem, Place};
pub use float::{Arith, Format, Mode, Round, add_to_odd};
pub use ir::{Class, Module};
pub use memory::{Buffer, Memory, Scalar};
pub use parse::{MNEMONICS, ParseError, Problem};
pub use tensor_map::{Swizzle, TensorMap, TensorMapProblem};
pub use types::{Space, Type};
