//! Opcodes that move data: `mov`, `ld`, `st`, `cvta`, `atom`, `red` (PTX ISA 9.7.9 and 9.7.13).

use super::Problem;
use super::opcode::{Decoded, Opcode};
use super::operand::Arguments;
use crate::alu;
use crate::float::{Arith, Format, Mode, Round};
use crate::ir::{Class, Compute, Op, Operand, Transfer};
use crate::order::{Order, Scope};
use crate::types::{Space, Type};

/// Cache hints, which change nothing here.
const HINTS: [&str; 20] = [
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
pub(super) fn space(opcode: &mut Opcode<'_>, a: &Arguments, address: usize) -> Space {
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

/// What an access moves and orders, and where it does so; `order` if nothing is said.
fn transfer(opcode: &mut Opcode<'_>, a: &Arguments, address: usize, order: Order) -> Result<Transfer, Problem> {
    let ty = opcode.ty()?;
    let space = space(opcode, a, address);
    let order = match opcode.take_as(ordering) {
        Some(order) => order,
        // Volatile accesses are relaxed ones at the widest scope; `.mmio` accesses likewise.
        None if opcode.take("volatile") || opcode.take("mmio") => Order::Relaxed,
        None => order,
    };
    let scope = opcode.take_as(scope).unwrap_or(Scope::Device);
    opcode.ignore(&HINTS);
    Ok(Transfer { space, ty, order, scope })
}

fn ordering(name: &str) -> Option<Order> {
    Some(match name {
        "weak" => Order::Weak,
        "relaxed" => Order::Relaxed,
        "acquire" => Order::Acquire,
        "release" => Order::Release,
        "acq_rel" => Order::Both,
        _ => return None,
    })
}

/// How far an ordered access or a fence reaches. A cluster is one block here.
pub(super) fn scope(name: &str) -> Option<Scope> {
    match name {
        "cta" | "cluster" => Some(Scope::Block),
        "gpu" | "gl" | "sys" => Some(Scope::Device),
        _ => None,
    }
}

fn load(opcode: &mut Opcode<'_>, a: &Arguments) -> Decoded {
    let how = transfer(opcode, a, 1, Order::Weak)?;
    let lanes = vector(opcode, how.ty)?;
    a.exactly(2 + policy(opcode))?;
    let d = a.destination_list(0)?;
    if d.len() != lanes {
        return Err(Problem::Operands);
    }
    if how.order.releases() {
        return Err(Problem::Opcode);
    }
    Ok((Op::Load { how, d, at: a.address(1)? }, Class::Memory))
}

fn store(opcode: &mut Opcode<'_>, a: &Arguments) -> Decoded {
    let how = transfer(opcode, a, 0, Order::Weak)?;
    let lanes = vector(opcode, how.ty)?;
    a.exactly(2 + policy(opcode))?;
    let s = a.source_list(1)?;
    if s.len() != lanes || matches!(how.space, Space::Param | Space::Const) {
        return Err(Problem::Operands);
    }
    if how.order.acquires() {
        return Err(Problem::Opcode);
    }
    Ok((Op::Store { how, s, at: a.address(0)? }, Class::Memory))
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
        (Space::Shared, false) => &|s: [u64; 4]| s[0].wrapping_add(crate::memory::SHARED_WINDOW),
        (Space::Shared, true) => &|s: [u64; 4]| s[0].wrapping_sub(crate::memory::SHARED_WINDOW),
        (Space::Local, false) => &|s: [u64; 4]| s[0].wrapping_add(crate::memory::LOCAL_WINDOW),
        (Space::Local, true) => &|s: [u64; 4]| s[0].wrapping_sub(crate::memory::LOCAL_WINDOW),
        (Space::Param, false) => &|s: [u64; 4]| s[0].wrapping_add(crate::memory::PARAM_WINDOW),
        (Space::Param, true) => &|s: [u64; 4]| s[0].wrapping_sub(crate::memory::PARAM_WINDOW),
        (Space::Global | Space::Const, _) => &|s: [u64; 4]| s[0],
        _ => return Err(Problem::Opcode),
    };
    Ok((Op::Compute { f, d: a.register(0)?, s: a.sources(1, 1)? }, Class::Integer))
}

fn atomic(opcode: &mut Opcode<'_>, a: &Arguments) -> Decoded {
    let returns = opcode.name == "atom";
    let first = usize::from(returns);
    let how = transfer(opcode, a, first, Order::Relaxed)?;
    let name = opcode.modifiers.pop().ok_or(Problem::Opcode)?;
    let f = update(name, how.ty, how.space).ok_or(Problem::Opcode)?;
    let operands = if name == "cas" { 2 } else { 1 };
    a.exactly(first + 1 + operands + policy(opcode))?;
    if matches!(how.space, Space::Param | Space::Const | Space::Local) {
        return Err(Problem::Opcode);
    }
    let d = if returns { a.register_or_sink(0)? } else { None };
    let mut s = [Operand::Immediate(0); 2];
    for (i, slot) in s.iter_mut().enumerate().take(operands) {
        *slot = a.source(first + 1 + i)?;
    }
    Ok((Op::Atomic { f, how, d, at: a.address(first)?, s }, Class::Memory))
}

/// The function (old, operand, second operand) -> new. Single-precision sums take subnormal numbers for zero except in
/// shared memory (PTX ISA 9.7.13, atom).
fn update(name: &str, ty: Type, space: Space) -> Option<Compute> {
    match (name, ty) {
        ("add", Type::F32) if space != Space::Shared => Some(&|s: [u64; 4]| {
            let mode = Mode { round: Round::Nearest, ftz: true, sat: false };
            Arith::Add.apply(Format::F32, false, mode, [s[0], s[1], 0])
        }),
        ("add", Type::F32) => Some(&|s: [u64; 4]| add(Format::F32, false, s)),
        ("add", Type::F64) => Some(&|s: [u64; 4]| add(Format::F64, false, s)),
        ("add", Type::F16) => Some(&|s: [u64; 4]| add(Format::F16, false, s)),
        ("add", Type::Bf16) => Some(&|s: [u64; 4]| add(Format::Bf16, false, s)),
        ("add", Type::F16x2) => Some(&|s: [u64; 4]| add(Format::F16, true, s)),
        ("add", Type::Bf16x2) => Some(&|s: [u64; 4]| add(Format::Bf16, true, s)),
        (_, Type::F16 | Type::Bf16 | Type::F32 | Type::F64 | Type::F16x2 | Type::Bf16x2) => None,
        ("add" | "min" | "max" | "and" | "or" | "xor" | "inc" | "dec" | "exch" | "cas", _) => alu::integer(name, ty),
        _ => None,
    }
}

fn add(format: Format, packed: bool, s: [u64; 4]) -> u64 {
    let mode = Mode { round: Round::Nearest, ftz: false, sat: false };
    Arith::Add.apply(format, packed, mode, [s[0], s[1], 0])
}
