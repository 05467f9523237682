//! NEON, which every aarch64 CPU has, and the dot products of ARMv8.2 where they are.
//!
//! A register is a quarter of the sixteen rows or lanes that the other tiers take at a time. The tiers here differ in
//! nothing but how int8 products are added: four at a time in [`dot`], which has something for each of them, and eight in
//! [`linear_i8mm`], for many columns on ARMv8.6.

pub mod attention;
mod dot;
pub(super) mod linear;
mod linear_bits;
mod linear_blocks;
mod linear_floats;
mod linear_i8mm;
mod linear_many;
pub mod vector;
