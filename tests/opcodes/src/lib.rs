//! Does a GPU do what the simulator does? For every opcode the simulator knows, one small kernel with random and awkward
//! operands runs on both, and the results are compared bit for bit; approximations within what the ISA promises.
//!
//! ```text
//! cargo run --release -p opcodes            # every case; the last line is the verdict
//! cargo run --release -p opcodes -- cvt     # the cases whose form contains `cvt`
//! cargo run --release -p opcodes -- --write folder     # the kernels as files, for ptxas
//! ```
//!
//! A [`Case`] is a form of an opcode (`add.rn.f32`), the instructions that use it, the operands, and how results are judged
//! ([`Judge`]). [`cases::all`] lists them by the chapters of the ISA. Tests hold the list to the simulator: every mnemonic
//! its parser knows must be there, and every form that the shipped kernels use. Where there is no GPU the tests run the program
//! against the mock driver, which shows that kernels load, operands arrive and differences are seen, and nothing about a GPU.
//!
//! # NaN
//!
//! The ISA leaves a NaN's payload open (for `f32` it names 0x7fffffff, for the others nothing). Where an instruction computes
//! a number, any NaN equals any other; how many differed in their bits is reported. Where an instruction moves
//! bits, `mov` as well as `neg` and `abs`, nothing is forgiven but that.
//!
//! # Matrices
//!
//! The ISA says of `mma` only that products are exact and sums at least as good as single precision, in no stated order. The bound here
//! ([`judge`]) is what follows from aligning all terms to the largest and cutting below its 23rd bit. What the backend
//! promises rests on more than this bound, so [`study`] asks the GPU directly: whether an element of the result depends on anything
//! but its own row and column, and whether `mma.sync` and `wgmma` give the same bits.

#![warn(missing_docs)]

pub mod case;
pub mod cases;
pub mod judge;
pub mod machine;
pub mod study;
pub mod values;

pub use case::{Case, Needs};
pub use judge::{Judge, Verdict};
pub use machine::{Gpu, Machine, Simulator};
