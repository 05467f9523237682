//! Opcodes of compute capability 9.0: `mbarrier`, bulk copies, `wgmma` (PTX ISA 9.7.9.25, 9.7.13.15 and 9.7.15).

use super::Problem;
use super::opcode::{Decoded, Opcode};
use super::operand::Arguments;
use super::sync::{count, require};
use super::transfer::policy;
use crate::float::Format;
use crate::ir::{Class, MatrixA, Op, Operand, Phase, Wgmma};

const NONE: Operand = Operand::Immediate(0);
const ONE: Operand = Operand::Immediate(1);

/// Orderings and scopes that barriers have anyway: they release on arrival and acquire on completion, within the block.
const USUAL: [&str; 10] = [
    "release",
    "acquire",
    "cta",
    "cluster",
    "shared",
    "shared::cta",
    "shared::cluster",
    "b64",
    "relaxed",
    "noComplete",
];

pub(super) fn mbarrier(opcode: &mut Opcode<'_>, a: &Arguments) -> Decoded {
    let relaxed = opcode.modifiers.contains(&"relaxed");
    require(opcode, &["b64"])?;
    let what = match opcode.modifiers.is_empty() {
        true => return Err(Problem::Opcode),
        false => opcode.modifiers.remove(0),
    };
    // Relaxed arrivals and waits order nothing: not modelled. Counting bytes is relaxed by its nature.
    if relaxed && !matches!(what, "expect_tx" | "complete_tx") {
        return Err(Problem::Opcode);
    }
    let op = match what {
        "init" => {
            a.exactly(2)?;
            Op::MbarrierInit { at: a.address(0)?, count: a.source(1)? }
        }
        "inval" => {
            a.exactly(1)?;
            Op::MbarrierInvalidate { at: a.address(0)? }
        }
        "arrive" => arrive(opcode, a)?,
        "expect_tx" | "complete_tx" => {
            a.exactly(2)?;
            Op::MbarrierCount { at: a.address(0)?, bytes: a.source(1)?, sign: if what == "expect_tx" { 1 } else { -1 } }
        }
        "test_wait" | "try_wait" => {
            let hint = usize::from(what == "try_wait" && a.len() == 4);
            a.exactly(3 + hint)?;
            let number = a.source(2)?;
            let phase = if opcode.take("parity") { Phase::Parity(number) } else { Phase::State(number) };
            Op::MbarrierTest { d: a.register(0)?, at: a.address(1)?, phase }
        }
        _ => return Err(Problem::Opcode),
    };
    opcode.ignore(&USUAL);
    Ok((op, Class::Barrier))
}

/// `arrive state, [a]{, count}`, `arrive.expect_tx state, [a], bytes`.
fn arrive(opcode: &mut Opcode<'_>, a: &Arguments) -> Result<Op, Problem> {
    let (d, at) = (a.register_or_sink(0)?, a.address(1)?);
    let third = if a.len() == 3 { Some(a.source(2)?) } else { None };
    a.exactly(2 + usize::from(third.is_some()))?;
    Ok(match (opcode.take("expect_tx"), third) {
        (true, Some(bytes)) => Op::MbarrierArrive { d, at, count: ONE, bytes },
        (true, None) => return Err(Problem::Operands),
        (false, count) => Op::MbarrierArrive { d, at, count: count.unwrap_or(ONE), bytes: NONE },
    })
}

/// `cp.async.mbarrier.arrive{.noinc}`; `cp.async` is taken already.
pub(super) fn copies_arrive(opcode: &mut Opcode<'_>, a: &Arguments) -> Decoded {
    require(opcode, &["arrive", "b64"])?;
    let counted = opcode.take("noinc");
    opcode.ignore(&["shared", "shared::cta"]);
    a.exactly(1)?;
    Ok((Op::CopiesArrive { at: a.address(0)?, counted }, Class::Copy))
}

/// `cp.async.bulk...`; `cp.async.bulk` is taken already.
pub(super) fn bulk(opcode: &mut Opcode<'_>, a: &Arguments) -> Decoded {
    let op = if opcode.take("commit_group") {
        a.exactly(0)?;
        Op::BulkCommit
    } else if opcode.take("wait_group") {
        a.exactly(1)?;
        Op::BulkWait { pending: count(a.source(0)?)? as u32, reads_only: opcode.take("read") }
    } else if opcode.take("prefetch") {
        opcode.modifiers.clear();
        Op::Nothing
    } else if opcode.take("tensor") {
        tensor(opcode, a)?
    } else {
        plain(opcode, a)?
    };
    Ok((op, Class::Copy))
}

/// Whether the copy goes into shared memory; the spaces are named destination first.
fn direction(opcode: &mut Opcode<'_>) -> Result<bool, Problem> {
    match opcode.modifiers.as_slice() {
        ["shared::cluster" | "shared::cta", "global", ..] => Ok(true),
        ["global", "shared::cta", ..] => Ok(false),
        _ => Err(Problem::Opcode),
    }
    .inspect(|_| drop(opcode.modifiers.drain(..2)))
}

fn plain(opcode: &mut Opcode<'_>, a: &Arguments) -> Result<Op, Problem> {
    let (into_shared, policy) = (direction(opcode)?, policy(opcode));
    if into_shared {
        require(opcode, &["mbarrier::complete_tx::bytes"])?;
        a.exactly(4 + policy)?;
        return Ok(Op::BulkLoad {
            to: a.address(0)?,
            from: a.address(1)?,
            bytes: a.source(2)?,
            barrier: a.address(3)?,
        });
    }
    require(opcode, &["bulk_group"])?;
    a.exactly(3 + policy)?;
    Ok(Op::BulkStore { to: a.address(0)?, from: a.address(1)?, bytes: a.source(2)? })
}

fn tensor(opcode: &mut Opcode<'_>, a: &Arguments) -> Result<Op, Problem> {
    let rank = opcode.take_as(|m| m.strip_suffix('d').and_then(|n| n.parse::<usize>().ok())).ok_or(Problem::Opcode)?;
    let (into_shared, policy) = (direction(opcode)?, policy(opcode));
    opcode.ignore(&["tile"]);
    let (map, at) = a.tensor(usize::from(into_shared))?;
    if at.len() != rank || !(1..=5).contains(&rank) {
        return Err(Problem::Operands);
    }
    if into_shared {
        require(opcode, &["mbarrier::complete_tx::bytes"])?;
        a.exactly(3 + policy)?;
        return Ok(Op::TensorLoad { to: a.address(0)?, map, at, barrier: a.address(2)? });
    }
    require(opcode, &["bulk_group"])?;
    a.exactly(2 + policy)?;
    Ok(Op::TensorStore { map, at, from: a.address(1)? })
}

pub(super) fn wgmma(opcode: &mut Opcode<'_>, a: &Arguments) -> Decoded {
    let op = if opcode.take("fence") {
        a.exactly(0)?;
        Op::WgmmaFence
    } else if opcode.take("commit_group") {
        a.exactly(0)?;
        Op::WgmmaCommit
    } else if opcode.take("wait_group") {
        a.exactly(1)?;
        Op::WgmmaWait { pending: count(a.source(0)?)? as u32 }
    } else {
        require(opcode, &["mma_async"])?;
        Op::Wgmma(Box::new(product(opcode, a)?))
    };
    require(opcode, &["sync", "aligned"])?;
    Ok((op, Class::Matrix))
}

/// m64nNk16 with bf16 or f16 operands and f32 accumulators.
fn product(opcode: &mut Opcode<'_>, a: &Arguments) -> Result<Wgmma, Problem> {
    let n = opcode.take_as(|m| m.strip_prefix("m64n")?.strip_suffix("k16")?.parse::<usize>().ok());
    let n = n.filter(|n| n % 8 == 0 && (8..=256).contains(n)).ok_or(Problem::Opcode)?;
    let format = match opcode.modifiers.as_slice() {
        [.., "f32", "bf16", "bf16"] => Format::Bf16,
        [.., "f32", "f16", "f16"] => Format::F16,
        _ => return Err(Problem::Opcode),
    };
    opcode.modifiers.truncate(opcode.modifiers.len() - 3);
    let d = a.registers(0)?;
    let from_registers = a.is_vector(1);
    // d, a, b, scale-d, scale-a, scale-b, then trans-a (if a is in shared memory) and trans-b.
    a.exactly(if from_registers { 7 } else { 8 })?;
    let sign = |i| match a.source(i)? {
        Operand::Immediate(1) => Ok(false),
        Operand::Immediate(u64::MAX) => Ok(true),
        _ => Err(Problem::Operands),
    };
    let transposed = |i| match count(a.source(i)?)? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Problem::Operands),
    };
    let matrix = if from_registers {
        MatrixA::Registers(a.source_list(1)?)
    } else {
        MatrixA::Shared { descriptor: a.source(1)?, transposed: transposed(6)? }
    };
    if d.len() != n / 2 || matches!(&matrix, MatrixA::Registers(all) if all.len() != 4) {
        return Err(Problem::Operands);
    }
    let (scale_d, negated) = (a.flag(3)?, sign(4)? != sign(5)?);
    let b_transposed = transposed(a.len() - 1)?;
    Ok(Wgmma { format, d, a: matrix, b: a.source(2)?, b_transposed, scale_d, negated })
}
