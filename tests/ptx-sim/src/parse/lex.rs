//! Text to tokens (PTX ISA 4). Comments and white space go; every token knows its line and column.

use super::{ParseError, Problem};

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Identifier, register, directive or opcode: dots and `::` belong to it.
    Word,
    /// Starts with a digit; its value is read later.
    Number,
    /// In double quotes.
    Text,
    /// One character.
    Mark,
    End,
}

/// A piece of the source.
#[derive(Debug, Clone, Copy)]
pub(super) struct Token<'a> {
    pub kind: Kind,
    pub text: &'a str,
    pub line: usize,
    pub column: usize,
}

struct Lexer<'a> {
    rest: &'a str,
    line: usize,
    column: usize,
}

/// All tokens, the last of them of kind `End`.
pub(super) fn tokens(source: &str) -> Result<Vec<Token<'_>>, ParseError> {
    let mut lexer = Lexer { rest: source, line: 1, column: 1 };
    let mut all = Vec::new();
    loop {
        lexer.skip_blanks();
        let token = lexer.next()?;
        all.push(token);
        if token.kind == Kind::End {
            return Ok(all);
        }
    }
}

impl<'a> Lexer<'a> {
    fn skip_blanks(&mut self) {
        loop {
            let blank = self.rest.len() - self.rest.trim_start().len();
            let skipped = match self.rest.as_bytes() {
                _ if blank > 0 => blank,
                [b'/', b'/', ..] => self.rest.find('\n').unwrap_or(self.rest.len()),
                [b'/', b'*', ..] => self.rest.find("*/").map_or(self.rest.len(), |end| end + 2),
                _ => return,
            };
            self.take(skipped);
        }
    }

    fn take(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(bytes);
        self.rest = rest;
        match taken.rfind('\n') {
            Some(last) => {
                self.line += taken.matches('\n').count();
                self.column = taken.len() - last;
            }
            None => self.column += taken.len(),
        }
        taken
    }

    fn next(&mut self) -> Result<Token<'a>, ParseError> {
        let (line, column) = (self.line, self.column);
        let (kind, length) = match self.rest.chars().next() {
            None => (Kind::End, 0),
            Some('"') => (Kind::Text, self.quoted()),
            Some(c) if c.is_ascii_digit() => (Kind::Number, self.run(|c| c.is_ascii_alphanumeric() || c == '.')),
            Some(c) if in_word(c) => (Kind::Word, self.word()),
            Some(c) if c.is_ascii_graphic() => (Kind::Mark, 1),
            Some(c) => {
                return Err(ParseError { line, column, text: c.to_string(), problem: Problem::UnexpectedCharacter });
            }
        };
        Ok(Token { kind, text: self.take(length), line, column })
    }

    fn quoted(&self) -> usize {
        self.rest[1..].find('"').map_or(self.rest.len(), |end| end + 2)
    }

    fn run(&self, accept: fn(char) -> bool) -> usize {
        self.rest.find(|c| !accept(c)).unwrap_or(self.rest.len())
    }

    /// A word goes on over `::` if a word follows: `shared::cta`, but not the colon of a label.
    fn word(&self) -> usize {
        let mut length = self.run(in_word);
        while let Some(after) = self.rest[length..].strip_prefix("::") {
            let more = after.find(|c| !in_word(c)).unwrap_or(after.len());
            if more == 0 {
                break;
            }
            length += 2 + more;
        }
        length
    }
}

fn in_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '%' | '.')
}

/// The value of an integer literal, or the bits of a floating-point one (`0f3F800000`, `0d...`); PTX ISA 4.5.
pub(super) fn number(text: &str) -> Option<u64> {
    let digits = text.strip_suffix('U').unwrap_or(text);
    match digits.as_bytes() {
        [b'0', b'f' | b'F', ..] if digits.len() == 10 => u64::from_str_radix(&digits[2..], 16).ok(),
        [b'0', b'd' | b'D', ..] if digits.len() == 18 => u64::from_str_radix(&digits[2..], 16).ok(),
        [b'0', b'x' | b'X', ..] => u64::from_str_radix(&digits[2..], 16).ok(),
        [b'0', b'b' | b'B', ..] => u64::from_str_radix(&digits[2..], 2).ok(),
        [b'0', _, ..] => u64::from_str_radix(digits, 8).ok(),
        _ => digits.parse().ok(),
    }
}
