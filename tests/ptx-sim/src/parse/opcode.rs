//! Opcodes to operations: dispatch and arithmetic (PTX ISA 9.7.1 to 9.7.9). Transfers and synchronisation have files of
//! their own.
//!
//! A decoder takes the modifiers it understands; one left over is an error, so nothing is silently ignored.

use super::lex::Token;
use super::operand::Arguments;
use super::{ParseError, Problem, sync, transfer};
use crate::alu;
use crate::convert::Conversion;
use crate::float::{Arith, Mode, Round};
use crate::ir::{Bool, Class, Op};
use crate::types::Type;

pub(super) type Decoded = Result<(Op, Class), Problem>;

/// A mnemonic and the modifiers not yet understood, in order.
pub(super) struct Opcode<'a> {
    pub name: &'a str,
    pub modifiers: Vec<&'a str>,
}

impl<'a> Opcode<'a> {
    fn new(text: &'a str) -> Self {
        let mut parts = text.split('.');
        Opcode { name: parts.next().unwrap_or(""), modifiers: parts.collect() }
    }

    /// Takes a modifier if it is there.
    pub fn take(&mut self, modifier: &str) -> bool {
        self.take_where(|m| m == modifier).is_some()
    }

    /// Takes the first modifier that satisfies a condition.
    pub fn take_where(&mut self, accept: impl Fn(&str) -> bool) -> Option<&'a str> {
        let at = self.modifiers.iter().position(|m| accept(m))?;
        Some(self.modifiers.remove(at))
    }

    /// Takes the first modifier that means something to `read`.
    pub fn take_as<T>(&mut self, read: impl Fn(&str) -> Option<T>) -> Option<T> {
        self.take_where(|m| read(m).is_some()).and_then(read)
    }

    /// Takes the last modifier, which must be a type.
    pub fn ty(&mut self) -> Result<Type, Problem> {
        self.modifiers.pop().and_then(Type::named).ok_or(Problem::Opcode)
    }

    /// Takes modifiers that do not change what the simulator does.
    pub fn ignore(&mut self, harmless: &[&str]) {
        self.modifiers.retain(|m| !harmless.contains(m));
    }
}

/// Every mnemonic that is understood in some form; no other is decoded. Who checks the simulator against something
/// else can tell from this what to check.
#[rustfmt::skip]
pub const MNEMONICS: &[&str] = &[
    "add", "sub", "mul", "mad", "fma", "div", "rem", "min", "max", "neg", "abs",
    "rcp", "sqrt", "rsqrt", "ex2", "lg2", "sin", "cos", "tanh",
    "and", "or", "xor", "not", "shl", "shr", "selp", "setp", "cvt",
    "popc", "clz", "brev", "bfind", "bfe", "bfi", "prmt", "lop3", "shf", "dp4a", "fns",
    "mov", "ld", "ldu", "st", "atom", "red", "cvta",
    "ret", "exit", "trap", "bra", "membar", "fence", "nanosleep", "prefetch", "prefetchu", "discard", "applypriority",
    "createpolicy", "griddepcontrol", "setmaxnreg", "elect", "bar", "barrier", "shfl", "vote", "redux", "activemask",
    "ldmatrix", "mma", "cp", "mbarrier", "wgmma",
];

pub(super) fn decode(token: Token<'_>, arguments: &Arguments) -> Result<(Op, Class), ParseError> {
    let mut opcode = Opcode::new(token.text);
    if !MNEMONICS.contains(&opcode.name) {
        return Err(token.problem(Problem::Opcode));
    }
    let decoded = dispatch(&mut opcode, arguments).map_err(|problem| token.problem(problem))?;
    if opcode.modifiers.is_empty() { Ok(decoded) } else { Err(token.problem(Problem::Opcode)) }
}

fn dispatch(opcode: &mut Opcode<'_>, a: &Arguments) -> Decoded {
    match opcode.name {
        "add" | "sub" | "mul" | "mad" | "fma" | "div" | "rem" | "min" | "max" | "neg" | "abs" => arithmetic(opcode, a),
        "rcp" | "sqrt" | "rsqrt" | "ex2" | "lg2" | "sin" | "cos" | "tanh" => float(opcode, a),
        "and" | "or" | "xor" | "not" | "shl" | "shr" => integer(opcode, a),
        "popc" | "clz" | "brev" | "bfind" | "bfe" | "bfi" | "prmt" | "lop3" | "shf" | "dp4a" | "fns" => bits(opcode, a),
        "selp" => integer(opcode, a),
        "setp" => compare(opcode, a),
        "cvt" => convert(opcode, a),
        "mov" | "ld" | "ldu" | "st" | "atom" | "red" | "cvta" => transfer::decode(opcode, a),
        _ => sync::decode(opcode, a),
    }
}

fn arithmetic(opcode: &mut Opcode<'_>, a: &Arguments) -> Decoded {
    let is_float = opcode.modifiers.last().and_then(|m| Type::named(m)).is_some_and(|ty| ty.float().is_some());
    if is_float { float(opcode, a) } else { integer(opcode, a) }
}

/// Sources of an operation.
fn arity(name: &str) -> usize {
    match name {
        "not" | "neg" | "abs" | "popc" | "clz" | "brev" | "bfind" => 1,
        "rcp" | "sqrt" | "rsqrt" | "ex2" | "lg2" | "sin" | "cos" | "tanh" => 1,
        "mad" | "fma" | "selp" | "bfe" | "prmt" | "shf" | "dp4a" | "fns" => 3,
        "bfi" | "lop3" => 4,
        _ => 2,
    }
}

fn integer(opcode: &mut Opcode<'_>, a: &Arguments) -> Decoded {
    let ty = opcode.ty()?;
    let half = opcode.take_where(|m| matches!(m, "lo" | "hi" | "wide"));
    let name = half.map_or(opcode.name.to_owned(), |half| format!("{}.{half}", opcode.name));
    let f = alu::integer(&name, ty).ok_or(Problem::Opcode)?;
    let s = a.sources(1, arity(opcode.name))?;
    Ok((Op::Compute { f, d: a.register(0)?, s }, Class::Integer))
}

fn bits(opcode: &mut Opcode<'_>, a: &Arguments) -> Decoded {
    let name = format!("{}.{}", opcode.name, opcode.modifiers.join("."));
    opcode.modifiers.clear();
    let f = alu::bits(&name).ok_or(Problem::Opcode)?;
    let s = a.sources(1, arity(opcode.name))?;
    Ok((Op::Compute { f, d: a.register(0)?, s }, Class::Integer))
}

fn float(opcode: &mut Opcode<'_>, a: &Arguments) -> Decoded {
    let ty = opcode.ty()?;
    let (format, packed) = ty.float().ok_or(Problem::Opcode)?;
    // `div.full` is approximate too, but over the full range.
    if opcode.name == "div" {
        opcode.take("full");
    }
    let approximate = opcode.take("approx");
    let nan = opcode.take("NaN");
    let op = match (opcode.name, approximate, nan) {
        ("add", false, false) => Arith::Add,
        ("sub", false, false) => Arith::Sub,
        ("mul", false, false) => Arith::Mul,
        ("fma", false, false) => Arith::Fma,
        ("min", false, false) => Arith::Min,
        ("max", false, false) => Arith::Max,
        ("min", false, true) => Arith::MinNan,
        ("max", false, true) => Arith::MaxNan,
        ("neg", false, false) => Arith::Neg,
        ("abs", false, false) => Arith::Abs,
        ("div", false, false) => Arith::Div,
        ("div", true, false) => Arith::DivApprox,
        ("rcp", _, false) => Arith::Rcp,
        ("sqrt", _, false) => Arith::Sqrt,
        ("rsqrt", true, false) => Arith::Rsqrt,
        ("ex2", true, false) => Arith::Ex2,
        ("lg2", true, false) => Arith::Lg2,
        ("sin", true, false) => Arith::Sin,
        ("cos", true, false) => Arith::Cos,
        ("tanh", true, false) => Arith::Tanh,
        _ => return Err(Problem::Opcode),
    };
    let round = opcode.take_as(Round::named).unwrap_or(Round::Nearest);
    let mode = Mode { round, ftz: opcode.take("ftz"), sat: opcode.take("sat") };
    if ty == Type::F64 && (round != Round::Nearest || mode.ftz || mode.sat) {
        return Err(Problem::Opcode);
    }
    let native = if ty == Type::F32 { crate::float::in_f32(op, mode) } else { None };
    if let Some(f) = native {
        let s = a.sources(1, arity(opcode.name))?;
        return Ok((Op::Compute { f, d: a.register(0)?, s }, Class::Float));
    }
    let s = a.sources(1, arity(opcode.name))?;
    Ok((Op::Arith { op, format, packed, mode, d: a.register(0)?, s }, Class::Float))
}

fn compare(opcode: &mut Opcode<'_>, a: &Arguments) -> Decoded {
    let ty = opcode.ty()?;
    let flush = opcode.take("ftz");
    if flush && ty != Type::F32 {
        return Err(Problem::Opcode);
    }
    let with = opcode.take_as(|m| match m {
        "and" => Some(Bool::And),
        "or" => Some(Bool::Or),
        "xor" => Some(Bool::Xor),
        _ => None,
    });
    let named = |m: &str| if flush { alu::flushing_comparison(m) } else { alu::comparison(m, ty) };
    let f = opcode.take_as(named).ok_or(Problem::Opcode)?;
    a.exactly(if with.is_some() { 4 } else { 3 })?;
    let with = with.map(|bool| a.flag(3).map(|flag| (bool, flag))).transpose()?;
    let (d, inverse) = a.pair(0)?;
    Ok((Op::Compare { f, d, inverse, s: [a.source(1)?, a.source(2)?], with }, Class::Integer))
}

fn convert(opcode: &mut Opcode<'_>, a: &Arguments) -> Decoded {
    let (from, to) = (opcode.ty()?, opcode.ty()?);
    let integral = opcode.take_as(|m| m.strip_suffix('i').and_then(Round::named));
    let float = opcode.take_as(Round::named);
    let round = integral.or(float).unwrap_or(Round::Nearest);
    let integral = integral.is_some();
    let mut how = Conversion { to, from, round, integral, ftz: opcode.take("ftz"), sat: opcode.take("sat") };
    if to == Type::F64 && !integral && round != Round::Nearest {
        return Err(Problem::Opcode);
    }
    let d = a.register(0)?;
    if !matches!(to, Type::F16x2 | Type::Bf16x2) {
        let [s] = a.sources(1, 1)?;
        return Ok((Op::Convert { how, d, s }, Class::Convert));
    }
    if from != Type::F32 || how.sat {
        return Err(Problem::Opcode);
    }
    how.to = if to == Type::F16x2 { Type::F16 } else { Type::Bf16 };
    let [high, low] = a.sources(1, 2)?;
    Ok((Op::ConvertPair { how, d, high, low }, Class::Convert))
}
