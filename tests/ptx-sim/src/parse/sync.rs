//! Opcodes that involve other threads or the asynchronous copy unit: barriers, shuffles, votes, `ldmatrix`, `mma`,
//! `cp.async` (PTX ISA 9.7.9, 9.7.13 and 9.7.14), and control flow.

use super::opcode::{Decoded, Opcode};
use super::operand::Arguments;
use super::{Problem, hopper};
use crate::alu;
use crate::float::Format;
use crate::ir::{Class, Meeting, Op, Operand, Reduction, Role, Shuffle, Vote};
use crate::types::{Space, Type};

/// Every lane of a warp, for the instructions that have no membership operand.
const ALL: Operand = Operand::Immediate(0xffff_ffff);

pub(super) fn decode(opcode: &mut Opcode<'_>, a: &Arguments) -> Decoded {
    match opcode.name {
        "ret" | "exit" => plain(opcode, a, &["uni"], Op::Exit, Class::Control),
        "trap" => plain(opcode, a, &[], Op::Trap, Class::Control),
        "membar" | "fence" => fence(opcode, a),
        "nanosleep" => hint(opcode, a, &["u32"], 1),
        "prefetch" | "prefetchu" | "discard" | "applypriority" => prefetch(opcode, a),
        "createpolicy" => cache_policy(opcode, a),
        "griddepcontrol" => hint(opcode, a, &["wait", "launch_dependents"], 0),
        "setmaxnreg" => hint(opcode, a, &["inc", "dec", "sync", "aligned", "u32"], 1),
        "elect" => elect(opcode, a),
        "bar" | "barrier" => barrier(opcode, a),
        "shfl" => shuffle(opcode, a),
        "vote" => vote(opcode, a),
        "redux" => reduce(opcode, a),
        "activemask" => active_mask(opcode, a),
        "ldmatrix" => load_matrix(opcode, a),
        "mma" => mma(opcode, a),
        "cp" => copy(opcode, a),
        "mbarrier" => hopper::mbarrier(opcode, a),
        "wgmma" => hopper::wgmma(opcode, a),
        _ => Err(Problem::Opcode),
    }
}

fn plain(opcode: &mut Opcode<'_>, a: &Arguments, harmless: &[&str], op: Op, class: Class) -> Decoded {
    opcode.ignore(harmless);
    a.exactly(0)?;
    Ok((op, class))
}

/// An instruction that changes nothing the simulator models: time, registers a thread may have, the order of launches.
fn hint(opcode: &mut Opcode<'_>, a: &Arguments, known: &[&str], operands: usize) -> Decoded {
    opcode.ignore(known);
    a.exactly(operands)?;
    if operands == 1 {
        a.source(0)?;
    }
    Ok((Op::Nothing, Class::Control))
}

/// `prefetch`, `discard` and `applypriority` name an address and nothing happens there; what is prefetched must exist.
fn prefetch(opcode: &mut Opcode<'_>, a: &Arguments) -> Decoded {
    let descriptor = opcode.take("tensormap");
    let space = super::transfer::space(opcode, a, 0);
    opcode.ignore(&[
        "const",
        "param",
        "global",
        "local",
        "L1",
        "L2",
        "L2::evict_last",
        "L2::evict_normal",
        "L1::evict_normal",
    ]);
    let at = a.address(0)?;
    match opcode.name {
        "discard" | "applypriority" if a.source(1)? != Operand::Immediate(128) => Err(Problem::Operands),
        "discard" | "applypriority" => a.exactly(2),
        _ => a.exactly(1),
    }?;
    let nothing = descriptor || space != Space::Global || opcode.name != "prefetch";
    Ok((if nothing { Op::Nothing } else { Op::Prefetch { at } }, Class::Memory))
}

/// A policy is a number that `.L2::cache_hint` operands pass on and nobody looks at.
fn cache_policy(opcode: &mut Opcode<'_>, a: &Arguments) -> Decoded {
    require(opcode, &["fractional", "b64"])?;
    opcode.take_where(|m| m.starts_with("L2::evict_")).ok_or(Problem::Opcode)?;
    opcode.take_where(|m| m.starts_with("L2::evict_"));
    if !matches!(a.len(), 1 | 2) {
        return Err(Problem::Operands);
    }
    let f = alu::integer("mov", Type::U64).ok_or(Problem::Opcode)?;
    Ok((Op::Compute { f, d: a.register(0)?, s: [Operand::Immediate(0); 4] }, Class::Integer))
}

fn elect(opcode: &mut Opcode<'_>, a: &Arguments) -> Decoded {
    require(opcode, &["sync"])?;
    a.exactly(2)?;
    let (d, elected) = a.elected(0)?;
    Ok((Op::Elect { d, elected, members: a.source(1)? }, Class::Warp))
}

/// Takes modifiers that must all be there.
pub(super) fn require(opcode: &mut Opcode<'_>, modifiers: &[&str]) -> Result<(), Problem> {
    if modifiers.iter().all(|m| opcode.take(m)) { Ok(()) } else { Err(Problem::Opcode) }
}

/// `fence.{sc,acq_rel}.scope`, `membar.scope`, `fence.proxy.async`, `fence.mbarrier_init`.
fn fence(opcode: &mut Opcode<'_>, a: &Arguments) -> Decoded {
    a.exactly(0)?;
    if opcode.take("proxy") {
        require(opcode, &["async"])?;
        opcode.ignore(&["global", "shared::cta", "shared::cluster"]);
        return Ok((Op::ProxyFence, Class::Barrier));
    }
    if opcode.take("mbarrier_init") {
        require(opcode, &["release", "cluster"])?;
        return Ok((Op::MbarrierFence, Class::Barrier));
    }
    opcode.ignore(&["sc", "acq_rel", "acquire", "release"]);
    let scope = opcode.take_as(super::transfer::scope).ok_or(Problem::Opcode)?;
    Ok((Op::Fence { scope }, Class::Barrier))
}

/// `bar.sync id[, threads]`, `bar.arrive id, threads`, `bar.red.op d, id[, threads], p`, `bar.warp.sync mask`.
fn barrier(opcode: &mut Opcode<'_>, a: &Arguments) -> Decoded {
    if opcode.take("warp") {
        require(opcode, &["sync"])?;
        a.exactly(1)?;
        return Ok((Op::WarpBarrier { members: a.source(0)? }, Class::Barrier));
    }
    opcode.ignore(&["cta", "aligned"]);
    let (role, first) = if opcode.take("red") {
        let last = a.len().checked_sub(1).ok_or(Problem::Operands)?;
        (Role::Reduce(reduction(opcode)?, a.register(0)?, a.flag(last)?), 1)
    } else if opcode.take("arrive") {
        (Role::Arrive, 0)
    } else {
        require(opcode, &["sync"])?;
        (Role::Wait, 0)
    };
    let counts = a.len().saturating_sub(2 * first);
    let threads = match (counts, role) {
        (2, _) => Some(a.source(first + 1)?),
        (1, Role::Wait | Role::Reduce(..)) => None,
        _ => return Err(Problem::Operands),
    };
    Ok((Op::Barrier(Meeting { id: a.source(first)?, threads, role }), Class::Barrier))
}

fn reduction(opcode: &mut Opcode<'_>) -> Result<Reduction, Problem> {
    let (reduction, ty) = match () {
        () if opcode.take("popc") => (Reduction::Count, "u32"),
        () if opcode.take("and") => (Reduction::And, "pred"),
        () if opcode.take("or") => (Reduction::Or, "pred"),
        () => return Err(Problem::Opcode),
    };
    require(opcode, &[ty])?;
    Ok(reduction)
}

fn shuffle(opcode: &mut Opcode<'_>, a: &Arguments) -> Decoded {
    require(opcode, &["sync", "b32"])?;
    let mode = opcode.take_as(|m| match m {
        "up" => Some(Shuffle::Up),
        "down" => Some(Shuffle::Down),
        "bfly" => Some(Shuffle::Butterfly),
        "idx" => Some(Shuffle::Index),
        _ => None,
    });
    let mode = mode.ok_or(Problem::Opcode)?;
    let [value, lane, clamp, members] = a.sources(1, 4)?;
    let (d, valid) = a.pair(0)?;
    Ok((Op::Shuffle { mode, d, valid, s: [value, lane, clamp], members }, Class::Warp))
}

fn vote(opcode: &mut Opcode<'_>, a: &Arguments) -> Decoded {
    require(opcode, &["sync"])?;
    let mode = opcode.take_as(|m| match m {
        "all" => Some(Vote::All),
        "any" => Some(Vote::Any),
        "uni" => Some(Vote::Uniform),
        "ballot" => Some(Vote::Ballot),
        _ => None,
    });
    let mode = mode.ok_or(Problem::Opcode)?;
    require(opcode, &[if mode == Vote::Ballot { "b32" } else { "pred" }])?;
    a.exactly(3)?;
    Ok((Op::Vote { mode, d: a.register(0)?, s: a.flag(1)?, members: a.source(2)? }, Class::Warp))
}

fn reduce(opcode: &mut Opcode<'_>, a: &Arguments) -> Decoded {
    let ty = opcode.ty()?;
    require(opcode, &["sync"])?;
    let name =
        opcode.take_where(|m| matches!(m, "add" | "min" | "max" | "and" | "or" | "xor")).ok_or(Problem::Opcode)?;
    if !matches!(ty, Type::U32 | Type::S32 | Type::B32) {
        return Err(Problem::Opcode);
    }
    let f = alu::integer(name, ty).ok_or(Problem::Opcode)?;
    let [s, members] = a.sources(1, 2)?;
    Ok((Op::Reduce { f, d: a.register(0)?, s, members }, Class::Warp))
}

fn active_mask(opcode: &mut Opcode<'_>, a: &Arguments) -> Decoded {
    require(opcode, &["b32"])?;
    a.exactly(1)?;
    Ok((Op::ActiveMask { d: a.register(0)? }, Class::Warp))
}

fn load_matrix(opcode: &mut Opcode<'_>, a: &Arguments) -> Decoded {
    require(opcode, &["sync", "aligned", "m8n8", "b16"])?;
    if !opcode.take("shared") {
        require(opcode, &["shared::cta"])?;
    }
    let count = opcode.take_as(|m| m.strip_prefix('x').and_then(|n| n.parse::<usize>().ok())).unwrap_or(0);
    a.exactly(2)?;
    let d = a.registers(0)?;
    if d.len() != count || !matches!(count, 1 | 2 | 4) {
        return Err(Problem::Operands);
    }
    Ok((Op::LoadMatrix { transposed: opcode.take("trans"), d, at: a.address(1)? }, Class::Matrix))
}

/// m16n8k8 and m16n8k16 with bf16 or f16 operands and f32 accumulators.
fn mma(opcode: &mut Opcode<'_>, a: &Arguments) -> Decoded {
    require(opcode, &["sync", "aligned", "row", "col"])?;
    let k = opcode.take_as(|m| match m {
        "m16n8k8" => Some(8),
        "m16n8k16" => Some(16),
        _ => None,
    });
    let k = k.ok_or(Problem::Opcode)?;
    let format = match opcode.modifiers.as_slice() {
        ["f32", "bf16", "bf16", "f32"] => Format::Bf16,
        ["f32", "f16", "f16", "f32"] => Format::F16,
        _ => return Err(Problem::Opcode),
    };
    opcode.modifiers.clear();
    a.exactly(4)?;
    let (d, [x, y, c]) = (a.registers(0)?, [a.source_list(1)?, a.source_list(2)?, a.source_list(3)?]);
    if [d.len(), x.len(), y.len(), c.len()] != [4, k / 4, k / 8, 4] {
        return Err(Problem::Operands);
    }
    Ok((Op::Mma { format, k, d, a: x, b: y, c }, Class::Matrix))
}

fn copy(opcode: &mut Opcode<'_>, a: &Arguments) -> Decoded {
    require(opcode, &["async"])?;
    if opcode.take("bulk") {
        return hopper::bulk(opcode, a);
    }
    if opcode.take("mbarrier") {
        return hopper::copies_arrive(opcode, a);
    }
    let op = if opcode.take("commit_group") {
        a.exactly(0)?;
        Op::CopyCommit
    } else if opcode.take("wait_all") {
        a.exactly(0)?;
        Op::CopyWait { pending: None }
    } else if opcode.take("wait_group") {
        a.exactly(1)?;
        Op::CopyWait { pending: Some(count(a.source(0)?)? as usize) }
    } else {
        return copy_bytes(opcode, a);
    };
    Ok((op, Class::Copy))
}

/// `cp.async.cg` copies 16 bytes, `.ca` also 4 and 8; an optional last operand says how many of them are read, the rest
/// being zero.
fn copy_bytes(opcode: &mut Opcode<'_>, a: &Arguments) -> Decoded {
    let cached = opcode.take("ca");
    if !cached {
        require(opcode, &["cg"])?;
    }
    opcode.ignore(&["shared::cta", "L2::128B", "L2::256B", "L2::64B"]);
    opcode.ignore(&["shared"]);
    require(opcode, &["global"])?;
    let bytes = count(a.source(2)?)? as usize;
    if bytes != 16 && !(cached && matches!(bytes, 4 | 8)) {
        return Err(Problem::Operands);
    }
    let valid = if a.len() == 4 { a.source(3)? } else { ALL };
    a.exactly(a.len().clamp(3, 4))?;
    Ok((Op::CopyAsync { bytes, to: a.address(0)?, from: a.address(1)?, valid }, Class::Copy))
}

pub(super) fn count(operand: Operand) -> Result<u64, Problem> {
    match operand {
        Operand::Immediate(value) => Ok(value),
        _ => Err(Problem::Operands),
    }
}
