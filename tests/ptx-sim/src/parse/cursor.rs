//! A place in the token list, and the small questions every parser asks there.

use super::lex::{self, Kind, Token};
use super::{ParseError, Problem};
use crate::types::Type;

pub(super) struct Cursor<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(source: &'a str) -> Result<Self, ParseError> {
        Ok(Cursor { tokens: lex::tokens(source)?, at: 0 })
    }

    /// The next token; the end stays the end.
    pub fn peek(&self) -> Token<'a> {
        self.tokens[self.at.min(self.tokens.len() - 1)]
    }

    pub fn next(&mut self) -> Token<'a> {
        let token = self.peek();
        self.at += 1;
        token
    }

    /// Takes the next token if it is this one.
    pub fn accept(&mut self, text: &str) -> bool {
        let token = self.peek();
        let found = token.kind != Kind::Text && token.text == text && token.kind != Kind::End;
        self.at += usize::from(found);
        found
    }

    pub fn expect(&mut self, text: &'static str) -> Result<Token<'a>, ParseError> {
        let token = self.peek();
        if self.accept(text) { Ok(token) } else { Err(token.problem(Problem::Expected(text))) }
    }

    pub fn word(&mut self, what: &'static str) -> Result<Token<'a>, ParseError> {
        let token = self.next();
        if token.kind == Kind::Word { Ok(token) } else { Err(token.problem(Problem::Expected(what))) }
    }

    /// An unsigned number.
    pub fn number(&mut self) -> Result<u64, ParseError> {
        let token = self.next();
        if token.kind != Kind::Number {
            return Err(token.problem(Problem::Expected("a number")));
        }
        lex::number(token.text).ok_or_else(|| token.problem(Problem::BadNumber))
    }

    /// A number with an optional minus sign, in two's complement.
    pub fn signed_number(&mut self) -> Result<u64, ParseError> {
        let negative = self.accept("-");
        let value = self.number()?;
        Ok(if negative { value.wrapping_neg() } else { value })
    }

    /// An unsigned number no larger than `most`.
    pub fn number_up_to(&mut self, most: u64) -> Result<usize, ParseError> {
        let token = self.peek();
        match self.number()? {
            value if value <= most => Ok(value as usize),
            _ => Err(token.problem(Problem::TooLarge)),
        }
    }

    /// A type directive such as `.u32`.
    pub fn type_name(&mut self) -> Result<Type, ParseError> {
        let token = self.word("a type")?;
        let named = token.text.strip_prefix('.').and_then(Type::named);
        named.ok_or_else(|| token.problem(Problem::Expected("a type")))
    }
}

impl Token<'_> {
    pub fn problem(&self, problem: Problem) -> ParseError {
        ParseError { line: self.line, column: self.column, text: self.text.to_owned(), problem }
    }
}
