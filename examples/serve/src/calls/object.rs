//! The object of a call, read character by character.

use std::collections::BTreeSet;
use std::ops::Range;

/// An object that may be a call. Positions are bytes of what the parser holds.
pub(super) struct Object {
    pub(super) start: usize,
    depth: usize,
    expected: Expected,
    /// Where the string began that the last character is in.
    string: Option<usize>,
    /// After a backslash.
    escaped: bool,
    /// The arguments are all there is: the name came before.
    bare: bool,
    pub(super) name: Option<Range<usize>>,
    pub(super) arguments: Option<Range<usize>>,
}

/// What comes next in the outer object.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expected {
    Key,
    Name,
    Kind,
    /// The model's own name of the call, which nobody asks for.
    Id,
    Arguments,
    Comma,
}

pub(super) enum Reading {
    GoesOn,
    Complete,
    NoCall,
}

impl Object {
    /// One whose brace is the character at `start`.
    pub(super) fn new(start: usize) -> Self {
        let expected = Expected::Key;
        Object { start, depth: 1, expected, string: None, escaped: false, bare: false, name: None, arguments: None }
    }

    /// The arguments of the function that is called `name`, whose brace comes right after it.
    pub(super) fn after(name: Range<usize>) -> Self {
        let brace = name.end;
        Object { depth: 2, bare: true, name: Some(name), arguments: Some(brace..brace + 1), ..Object::new(brace) }
    }

    /// Goes on by `next`, the last character of `held`.
    pub(super) fn read(&mut self, next: char, held: &str, functions: &BTreeSet<String>) -> Reading {
        match self.string {
            Some(start) => self.read_string(start, next, held, functions),
            None if self.depth == 1 => self.read_outside(next, held.len()),
            None => self.read_arguments(next, held.len()),
        }
    }

    fn read_string(&mut self, start: usize, next: char, held: &str, functions: &BTreeSet<String>) -> Reading {
        match next {
            _ if self.escaped => self.escaped = false,
            '\\' => self.escaped = true,
            '"' => {
                self.string = None;
                if self.depth == 1 && !self.takes(start..held.len() - 1, held, functions) {
                    return Reading::NoCall;
                }
            }
            _ => {}
        }
        Reading::GoesOn
    }

    /// Whether the outer object of a call may have the string `at`.
    fn takes(&mut self, at: Range<usize>, held: &str, functions: &BTreeSet<String>) -> bool {
        let text = &held[at.clone()];
        let expected = std::mem::replace(&mut self.expected, Expected::Comma);
        match (expected, text) {
            (Expected::Key, "name") if self.name.is_none() => self.expected = Expected::Name,
            (Expected::Key, "type") => self.expected = Expected::Kind,
            (Expected::Key, "id") => self.expected = Expected::Id,
            (Expected::Key, "parameters" | "arguments") if self.arguments.is_none() => {
                self.expected = Expected::Arguments;
            }
            (Expected::Name, name) if functions.contains(name) => self.name = Some(at),
            (Expected::Kind, "function") | (Expected::Id, _) => {}
            _ => return false,
        }
        true
    }

    /// A character of the outer object that is in no string; `end` is where it ends.
    fn read_outside(&mut self, next: char, end: usize) -> Reading {
        match (self.expected, next) {
            (_, ' ' | '\t' | '\r' | '\n') => {}
            (Expected::Key | Expected::Name | Expected::Kind | Expected::Id, '"') => self.string = Some(end),
            (Expected::Name | Expected::Kind | Expected::Id | Expected::Arguments, ':') => {}
            (Expected::Arguments, '{') => {
                self.depth += 1;
                self.arguments = Some(end - 1..end);
            }
            (Expected::Comma, ',') => self.expected = Expected::Key,
            (Expected::Comma, '}') if self.name.is_some() && self.arguments.is_some() => return Reading::Complete,
            _ => return Reading::NoCall,
        }
        Reading::GoesOn
    }

    /// The same in the arguments, of which only the end matters here.
    fn read_arguments(&mut self, next: char, end: usize) -> Reading {
        match next {
            '"' => self.string = Some(end),
            '{' | '[' => self.depth += 1,
            '}' | ']' => self.depth -= 1,
            _ => {}
        }
        if let (1, Some(arguments)) = (self.depth, &mut self.arguments) {
            arguments.end = end;
            self.expected = Expected::Comma;
            if self.bare {
                return Reading::Complete;
            }
        }
        Reading::GoesOn
    }
}
