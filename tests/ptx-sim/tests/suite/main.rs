//! The simulator by itself, and the kernels that ship in it: one program, because each would link and compile `common` anew.

mod asynchronous;
mod budgets;
mod ceiling;
mod checks;
mod common;
mod hopper;
mod kernels;
mod matrix;
mod memory;
mod opcodes;
mod ordering;
mod parser;
mod persistent;
mod planted;
mod sampling;
