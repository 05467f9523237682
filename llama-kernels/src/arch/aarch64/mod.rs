//! NEON, which every aarch64 CPU has, and the dot products of ARMv8.2 where they are.
//!
//! A register is a quarter of the sixteen rows or lanes that the other tiers take at a time. The tiers here differ in
//! nothing but how four int8 products are added, so [`dot`] is the only file that has something for each of them.
//!
//! There is no tier for SMMLA: it multiplies pairs of rows with pairs of columns, and the shuffles that bring codes and
//! quants into that order cost as many vector instructions as it saves over SDOT.

pub mod attention;
mod dot;
pub(super) mod linear;
mod linear_blocks;
pub mod vector;
