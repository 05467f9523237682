//! Operands: registers, constants, addresses, vectors (PTX ISA 6).

use super::body::Names;
use super::cursor::Cursor;
use super::lex::{Kind, Token};
use super::{ParseError, Problem};
use crate::ir::{Address, Flag, Operand, Register, Special};
use crate::types::Space;

/// One operand as written.
#[derive(Debug, Clone)]
enum Argument {
    Value(Flag),
    /// `d|p`
    Pair(Register, Register),
    /// `{a, b}`; `_` is `None`.
    Vector(Vec<Option<Operand>>),
    Address(Address, Option<Space>),
    /// `[map, {x, y}]`
    Tensor(Address, Vec<Operand>),
    /// `_`
    Sink,
    /// `_|p`
    SinkPair(Register),
}

/// The operands of one instruction, asked for by position.
pub(super) struct Arguments {
    all: Vec<Argument>,
}

impl Arguments {
    /// Parses up to the semicolon.
    pub fn parse(cursor: &mut Cursor<'_>, names: &Names<'_>) -> Result<Self, ParseError> {
        let mut all = Vec::new();
        while cursor.peek().text != ";" {
            all.push(argument(cursor, names)?);
            if !cursor.accept(",") {
                break;
            }
        }
        Ok(Arguments { all })
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    fn get(&self, i: usize) -> Result<&Argument, Problem> {
        self.all.get(i).ok_or(Problem::Operands)
    }

    /// Exactly this many operands.
    pub fn exactly(&self, count: usize) -> Result<(), Problem> {
        if self.len() == count { Ok(()) } else { Err(Problem::Operands) }
    }

    pub fn source(&self, i: usize) -> Result<Operand, Problem> {
        match self.get(i)? {
            Argument::Value(Flag { operand, negated: false }) => Ok(*operand),
            _ => Err(Problem::Operands),
        }
    }

    /// Sources from position `from`, the missing ones zero.
    pub fn sources<const N: usize>(&self, from: usize, count: usize) -> Result<[Operand; N], Problem> {
        self.exactly(from + count)?;
        let mut all = [Operand::Immediate(0); N];
        for (i, slot) in all.iter_mut().enumerate().take(count) {
            *slot = self.source(from + i)?;
        }
        Ok(all)
    }

    /// A predicate that may be negated.
    pub fn flag(&self, i: usize) -> Result<Flag, Problem> {
        match self.get(i)? {
            Argument::Value(flag) => Ok(*flag),
            _ => Err(Problem::Operands),
        }
    }

    pub fn register(&self, i: usize) -> Result<Register, Problem> {
        match self.source(i)? {
            Operand::Register(register) => Ok(register),
            _ => Err(Problem::Operands),
        }
    }

    /// A destination that may be written `_`.
    pub fn register_or_sink(&self, i: usize) -> Result<Option<Register>, Problem> {
        match self.get(i)? {
            Argument::Sink => Ok(None),
            _ => self.register(i).map(Some),
        }
    }

    /// `d` or `d|p`.
    pub fn pair(&self, i: usize) -> Result<(Register, Option<Register>), Problem> {
        match self.get(i)? {
            Argument::Pair(d, p) => Ok((*d, Some(*p))),
            _ => self.register(i).map(|d| (d, None)),
        }
    }

    /// `d|p` or `_|p`.
    pub fn elected(&self, i: usize) -> Result<(Option<Register>, Register), Problem> {
        match self.get(i)? {
            Argument::Pair(d, p) => Ok((Some(*d), *p)),
            Argument::SinkPair(p) => Ok((None, *p)),
            _ => Err(Problem::Operands),
        }
    }

    pub fn address(&self, i: usize) -> Result<Address, Problem> {
        match self.get(i)? {
            Argument::Address(address, _) => Ok(*address),
            _ => Err(Problem::Operands),
        }
    }

    /// A tensor map and coordinates.
    pub fn tensor(&self, i: usize) -> Result<(Address, Vec<Operand>), Problem> {
        match self.get(i)? {
            Argument::Tensor(map, at) => Ok((*map, at.clone())),
            _ => Err(Problem::Operands),
        }
    }

    /// The space of the variable an address names, if it names one.
    pub fn space(&self, i: usize) -> Option<Space> {
        match self.all.get(i) {
            Some(Argument::Address(_, space)) => *space,
            _ => None,
        }
    }

    pub fn is_vector(&self, i: usize) -> bool {
        matches!(self.all.get(i), Some(Argument::Vector(_)))
    }

    /// A vector of sources, or one source.
    pub fn source_list(&self, i: usize) -> Result<Vec<Operand>, Problem> {
        match self.get(i)? {
            Argument::Vector(all) => all.iter().map(|s| s.ok_or(Problem::Operands)).collect(),
            _ => Ok(vec![self.source(i)?]),
        }
    }

    /// A vector of destinations, or one destination.
    pub fn destination_list(&self, i: usize) -> Result<Vec<Option<Register>>, Problem> {
        let Argument::Vector(all) = self.get(i)? else {
            return Ok(vec![self.register_or_sink(i)?]);
        };
        all.iter().map(|slot| slot.map(destination).transpose()).collect()
    }

    /// A vector of registers, none of them `_`.
    pub fn registers(&self, i: usize) -> Result<Vec<Register>, Problem> {
        self.destination_list(i)?.into_iter().map(|d| d.ok_or(Problem::Operands)).collect()
    }
}

fn sink(cursor: &mut Cursor<'_>, names: &Names<'_>) -> Result<Argument, ParseError> {
    if !cursor.accept("|") {
        return Ok(Argument::Sink);
    }
    let token = cursor.word("a predicate")?;
    names.register(token.text).map(Argument::SinkPair).ok_or_else(|| token.problem(Problem::Unknown))
}

fn destination(operand: Operand) -> Result<Register, Problem> {
    match operand {
        Operand::Register(register) => Ok(register),
        _ => Err(Problem::Operands),
    }
}

fn argument(cursor: &mut Cursor<'_>, names: &Names<'_>) -> Result<Argument, ParseError> {
    if cursor.accept("[") {
        return address(cursor, names);
    }
    if cursor.accept("{") {
        return vector(cursor, names);
    }
    if cursor.accept("_") {
        return sink(cursor, names);
    }
    let negated = cursor.accept("!");
    let token = cursor.peek();
    let operand = value(cursor, names)?;
    if !cursor.accept("|") {
        return Ok(Argument::Value(Flag { operand, negated }));
    }
    let second = cursor.word("a predicate")?;
    match (operand, names.register(second.text)) {
        (Operand::Register(first), Some(second)) => Ok(Argument::Pair(first, second)),
        _ => Err(token.problem(Problem::Operands)),
    }
}

fn vector(cursor: &mut Cursor<'_>, names: &Names<'_>) -> Result<Argument, ParseError> {
    let mut all = Vec::new();
    loop {
        all.push(if cursor.accept("_") { None } else { Some(value(cursor, names)?) });
        if !cursor.accept(",") {
            cursor.expect("}")?;
            return Ok(Argument::Vector(all));
        }
    }
}

fn address(cursor: &mut Cursor<'_>, names: &Names<'_>) -> Result<Argument, ParseError> {
    let space = names.variable(cursor.peek().text).map(|variable| variable.space);
    let base = value(cursor, names)?;
    let has_offset = cursor.accept("+") || cursor.peek().text == "-";
    let offset = if has_offset { cursor.signed_number()? as i64 } else { 0 };
    if cursor.accept(",") {
        cursor.expect("{")?;
        let Argument::Vector(at) = vector(cursor, names)? else { return Err(cursor.peek().problem(Problem::Operands)) };
        cursor.expect("]")?;
        return Ok(Argument::Tensor(Address { base, offset }, at.into_iter().flatten().collect()));
    }
    cursor.expect("]")?;
    Ok(Argument::Address(Address { base, offset }, space))
}

fn value(cursor: &mut Cursor<'_>, names: &Names<'_>) -> Result<Operand, ParseError> {
    let token = cursor.peek();
    if token.kind == Kind::Number || token.text == "-" {
        return Ok(Operand::Immediate(cursor.signed_number()?));
    }
    let token = cursor.word("an operand")?;
    named(token, names).ok_or_else(|| token.problem(Problem::Unknown))
}

fn named(token: Token<'_>, names: &Names<'_>) -> Option<Operand> {
    if let Some(register) = names.register(token.text) {
        return Some(Operand::Register(register));
    }
    if let Some(variable) = names.variable(token.text) {
        return Some(variable.at);
    }
    special(token.text).map(Operand::Special)
}

/// The predefined registers (PTX ISA 10).
fn special(name: &str) -> Option<Special> {
    let axis = |suffix: &str| ["x", "y", "z"].iter().position(|axis| *axis == suffix);
    Some(match name.split_once('.') {
        Some(("%tid", suffix)) => Special::Thread(axis(suffix)?),
        Some(("%ntid", suffix)) => Special::BlockSize(axis(suffix)?),
        Some(("%ctaid", suffix)) => Special::Block(axis(suffix)?),
        Some(("%nctaid", suffix)) => Special::GridSize(axis(suffix)?),
        // Clusters are not modelled: each block is one.
        Some(("%clusterid", suffix)) => Special::Block(axis(suffix)?),
        Some(("%nclusterid", suffix)) => Special::GridSize(axis(suffix)?),
        Some(("%cluster_ctaid", suffix)) => axis(suffix).map(|_| Special::ClusterIndex)?,
        Some(("%cluster_nctaid", suffix)) => axis(suffix).map(|_| Special::ClusterSize)?,
        Some(_) => return None,
        None => match name {
            "%laneid" => Special::Lane,
            "%warpid" => Special::Warp,
            "WARP_SZ" => Special::WarpSize,
            "%lanemask_lt" => Special::LanesBelow,
            "%lanemask_le" => Special::LanesBelowOrEqual,
            "%lanemask_gt" => Special::LanesAbove,
            "%lanemask_ge" => Special::LanesAboveOrEqual,
            "%lanemask_eq" => Special::LaneBit,
            "%nwarpid" => Special::WarpCount,
            "%dynamic_smem_size" => Special::DynamicSharedSize,
            "%total_smem_size" => Special::TotalSharedSize,
            "%smid" => Special::Processor,
            "%nsmid" => Special::ProcessorCount,
            "%gridid" => Special::GridId,
            "%clock" | "%clock64" | "%globaltimer" | "%globaltimer_lo" => Special::Clock,
            "%cluster_ctarank" => Special::ClusterIndex,
            "%cluster_nctarank" => Special::ClusterSize,
            _ => return None,
        },
    })
}
