//! Opcodes that move data: `mov`, `ld`, `st`, `cvta`, `atom`, `red` (PTX ISA 9.7.9 and 9.7.13).

use super::Problem;
use super::opcode::{Decoded, Opcode};
use super::operand::Arguments;
use crate::alu;
use crate::float::{Arith, Format, Mode, Round};
use crate::ir::{Class, Compute, Op, Operand};
use crate::types::{Space, Type};

/// Cache hints, and orderings and scopes weaker than the simulator's sequentially consistent memory.
const HINTS: [&str; 31] = [
    "weak",
    "relaxed",
    "acquire",
    "release",
    "acq_rel",
    "volatile",
    "cta",
    "cluster",
    "gpu",
    "sys",
    "nc",
    "ca",
    "cg",
    "cs",
    "lu",
    "cv",
    "wb",
    "wt",
    "L1::no_allocate",
    "L1::evict_first",
    "L1::evict_last",
    "L1::evict_normal",
    "L1::evict_unchanged",
    "L2::evict_first",
    "L2::evict_last",
    "L2::evict_normal",
    "L2::64B",
    "L2::128B",
    "L2::256B",
    "noftz",
    "mmio",
];

pub(super) fn decode(opcode: &mut Opcode<'_>, a: &Arguments) -> Decoded {
    match opcode.name {
        "mov" => mov(opcode, a),
        "ld" | "ldu" => load(opcode, a),
        "st" => store(opcode, a),
        "cvta" => address(opcode, a),
        _ => atomic(opcode, a),
    }
}

fn mov(opcode: &mut Opcode<'_>, a: &Arguments) -> Decoded {
    let ty = opcode.ty()?;
    a.exactly(2)?;
    let op = if a.is_vector(0) {
        let d = a.destination_list(0)?;
        Op::Unpack { bits: part_bits(ty, d.len())?, d, s: a.source(1)? }
    } else if a.is_vector(1) {
        let s = a.source_list(1)?;
        Op::Pack { d: a.register(0)?, bits: part_bits(ty, s.len())?, s }
    } else {
        let f = alu::integer("mov", ty).ok_or(Problem::Opcode)?;
        Op::Compute { f, d: a.register(0)?, s: a.sources(1, 1)? }
    };
    Ok((op, Class::Move))
}

fn part_bits(ty: Type, parts: usize) -> Result<u32, Problem> {
    let bits = 8 * ty.bytes();
    if matches!(parts, 2 | 4) && bits / parts >= 8 { Ok((bits / parts) as u32) } else { Err(Problem::Operands) }
}

/// The space the modifiers name; a parameter or shared variable may also be addressed by name alone.
fn space(opcode: &mut Opcode<'_>, a: &Arguments, address: usize) -> Space {
    let named = opcode.take_as(Space::named);
    named.or(a.space(address)).unwrap_or(Space::Generic)
}

fn vector(opcode: &mut Opcode<'_>, ty: Type) -> Result<usize, Problem> {
    let lanes = opcode.take_as(|m| match m {
        "v2" => Some(2),
        "v4" => Some(4),
        _ => None,
    });
    let lanes = lanes.unwrap_or(1);
    if lanes * ty.bytes() <= 16 && ty != Type::Pred { Ok(lanes) } else { Err(Problem::Opcode) }
}

/// Operands that a cache policy adds: one where `.L2::cache_hint` says so. Policies change nothing here.
pub(super) fn policy(opcode: &mut Opcode<'_>) -> usize {
    usize::from(opcode.take("L2::cache_hint"))
}

fn load(opcode: &mut Opcode<'_>, a: &Arguments) -> Decoded {
    let ty = opcode.ty()?;
    let space = space(opcode, a, 1);
    opcode.ignore(&HINTS);
    let lanes = vector(opcode, ty)?;
    a.exactly(2 + policy(opcode))?;
    let d = a.destination_list(0)?;
    if d.len() != lanes {
        return Err(Problem::Operands);
    }
    Ok((Op::Load { space, ty, d, at: a.address(1)? }, Class::Memory))
}

fn store(opcode: &mut Opcode<'_>, a: &Arguments) -> Decoded {
    let ty = opcode.ty()?;
    let space = space(opcode, a, 0);
    opcode.ignore(&HINTS);
    let lanes = vector(opcode, ty)?;
    a.exactly(2 + policy(opcode))?;
    let s = a.source_list(1)?;
    if s.len() != lanes || matches!(space, Space::Param | Space::Const) {
        return Err(Problem::Operands);
    }
    Ok((Op::Store { space, ty, s, at: a.address(0)? }, Class::Memory))
}

/// `cvta` adds a space's window to an address, `cvta.to` takes it off.
fn address(opcode: &mut Opcode<'_>, a: &Arguments) -> Decoded {
    let ty = opcode.ty()?;
    let to = opcode.take("to");
    let space = opcode.take_as(Space::named).ok_or(Problem::Opcode)?;
    if ty != Type::U64 {
        return Err(Problem::Opcode);
    }
    let f: Compute = match (space, to) {
        (Space::Shared, false) => |s| s[0].wrapping_add(crate::memory::SHARED_WINDOW),
        (Space::Shared, true) => |s| s[0].wrapping_sub(crate::memory::SHARED_WINDOW),
        (Space::Local, false) => |s| s[0].wrapping_add(crate::memory::LOCAL_WINDOW),
        (Space::Local, true) => |s| s[0].wrapping_sub(crate::memory::LOCAL_WINDOW),
        (Space::Param, false) => |s| s[0].wrapping_add(crate::memory::PARAM_WINDOW),
        (Space::Param, true) => |s| s[0].wrapping_sub(crate::memory::PARAM_WINDOW),
        (Space::Global | Space::Const, _) => |s| s[0],
        _ => return Err(Problem::Opcode),
    };
    Ok((Op::Compute { f, d: a.register(0)?, s: a.sources(1, 1)? }, Class::Integer))
}

fn atomic(opcode: &mut Opcode<'_>, a: &Arguments) -> Decoded {
    let ty = opcode.ty()?;
    let returns = opcode.name == "atom";
    let first = usize::from(returns);
    let space = space(opcode, a, first);
    opcode.ignore(&HINTS);
    let name = opcode.modifiers.pop().ok_or(Problem::Opcode)?;
    let f = update(name, ty).ok_or(Problem::Opcode)?;
    let operands = if name == "cas" { 2 } else { 1 };
    a.exactly(first + 1 + operands + policy(opcode))?;
    if matches!(space, Space::Param | Space::Const | Space::Local) {
        return Err(Problem::Opcode);
    }
    let d = if returns { a.register_or_sink(0)? } else { None };
    let mut s = [Operand::Immediate(0); 2];
    for (i, slot) in s.iter_mut().enumerate().take(operands) {
        *slot = a.source(first + 1 + i)?;
    }
    Ok((Op::Atomic { f, space, ty, d, at: a.address(first)?, s }, Class::Memory))
}

/// The function (old, operand, second operand) -> new.
fn update(name: &str, ty: Type) -> Option<Compute> {
    match (name, ty) {
        ("add", Type::F32) => Some(|s| add(Format::F32, false, s)),
        ("add", Type::F64) => Some(|s| add(Format::F64, false, s)),
        ("add", Type::F16) => Some(|s| add(Format::F16, false, s)),
        ("add", Type::Bf16) => Some(|s| add(Format::Bf16, false, s)),
        ("add", Type::F16x2) => Some(|s| add(Format::F16, true, s)),
        ("add", Type::Bf16x2) => Some(|s| add(Format::Bf16, true, s)),
        (_, Type::F16 | Type::Bf16 | Type::F32 | Type::F64 | Type::F16x2 | Type::Bf16x2) => None,
        ("add" | "min" | "max" | "and" | "or" | "xor" | "inc" | "dec" | "exch" | "cas", _) => alu::integer(name, ty),
        _ => None,
    }
}

fn add(format: Format, packed: bool, s: [u64; 4]) -> u64 {
    let mode = Mode { round: Round::Nearest, ftz: false, sat: false };
    Arith::Add.apply(format, packed, mode, [s[0], s[1], 0])
}
