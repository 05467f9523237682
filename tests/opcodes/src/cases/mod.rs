//! The list of cases, by chapters of the PTX ISA.

mod asynchronous;
mod atomics;
mod bits;
mod compare;
mod control;
mod convert;
mod copies;
mod float;
mod half;
mod integer;
mod matrix;
mod memory;
mod warp;

pub use matrix::{mma, wgmma};

use crate::case::Case;
use crate::values::Domain;

/// Every case.
pub fn all() -> Vec<Case> {
    let chapters: [fn() -> Vec<Case>; 13] = [
        integer::cases,
        bits::cases,
        compare::cases,
        float::cases,
        half::cases,
        convert::cases,
        memory::cases,
        atomics::cases,
        warp::cases,
        matrix::cases,
        copies::cases,
        asynchronous::cases,
        control::cases,
    ];
    chapters.iter().flat_map(|chapter| chapter()).collect()
}

/// Mnemonics without a case, and why.
pub const WITHOUT: [(&str, &str); 2] = [
    ("trap", "it ends the context, and with it the program"),
    ("setmaxnreg", "it moves registers between warps and has no result"),
];

/// Registers wide enough for a type, holding anything.
fn any(bits: u32) -> (u32, Domain) {
    (bits, Domain::Bits(bits))
}

/// Bits of a type's name: `s32` has 32.
fn width(ty: &str) -> u32 {
    ty.trim_start_matches(|c: char| c.is_ascii_alphabetic()).parse().unwrap_or(32)
}
