//! PTX text to a [`Module`]: tokens, directives, kernel bodies, opcodes.
//!
//! Strict on purpose: a directive, opcode or modifier the executor does not model is an error with its place in the text,
//! never skipped, because a test that ignores half an instruction proves nothing.

mod body;
mod cursor;
mod hopper;
mod lex;
mod module;
mod opcode;
mod operand;
mod sync;
mod transfer;

pub use opcode::MNEMONICS;
use thiserror::Error;

use crate::ir::Module;

/// What is wrong with a text, and where.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("line {line}, column {column}: {problem}: `{text}`")]
pub struct ParseError {
    /// From 1.
    pub line: usize,
    /// From 1, in bytes.
    pub column: usize,
    /// The token, or the opcode, that does not fit.
    pub text: String,
    /// Why it does not fit.
    pub problem: Problem,
}

/// Why a text is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Problem {
    /// A character that PTX does not have.
    #[error("unexpected character")]
    UnexpectedCharacter,
    /// A token in the wrong place.
    #[error("expected {0}")]
    Expected(&'static str),
    /// A number that does not parse or does not fit.
    #[error("bad number")]
    BadNumber,
    /// A register, variable or label that was not declared.
    #[error("not declared")]
    Unknown,
    /// A name declared twice in one scope.
    #[error("declared twice")]
    Duplicate,
    /// A directive the simulator does not know.
    #[error("unsupported directive")]
    Directive,
    /// An opcode, modifier or combination of them the simulator does not know.
    #[error("unsupported instruction")]
    Opcode,
    /// Too few or too many operands, or of the wrong kind.
    #[error("wrong operands for this instruction")]
    Operands,
    /// More registers, bytes or nesting than any device has.
    #[error("too large")]
    TooLarge,
}

impl Module {
    /// Parses a PTX text as NVRTC writes it.
    pub fn parse(source: &str) -> Result<Module, ParseError> {
        module::parse(source)
    }
}
