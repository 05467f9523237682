//! Wraps the containers of a template, in its source.
//!
//! A call of [`super::meter`]'s function is put around every list, map and tuple, around what `set` and `with` assign, and
//! around the parameters of macros, so that no variable and no item ever holds a container that is not counted. This
//! needs only Jinja's tokens: a bracket opens a literal unless it follows an operand.

use super::meter::{COUNTED, MEMBER};

/// `source` with its containers wrapped.
pub(super) fn wrap(source: &str) -> String {
    let mut pass = Pass { source, at: 0, inserts: Vec::new() };
    while let Some(start) = source[pass.at..].find('{').map(|i| pass.at + i) {
        pass.at = (start + 2).min(source.len());
        match source.as_bytes().get(start + 1) {
            Some(b'#') => pass.skip_past("#}"),
            Some(b'{') => pass.tag("}}"),
            Some(b'%') => pass.tag("%}"),
            _ => pass.at = start + 1,
        }
    }
    pass.finish()
}

/// Keywords that an operand may follow; any other word is one.
const KEYWORDS: [&str; 14] =
    ["and", "do", "elif", "else", "filter", "for", "if", "in", "is", "not", "or", "return", "set", "with"];

/// A bracket that is open.
struct Open {
    at: usize,
    /// It begins a list, a map or, if there is a comma, a tuple.
    literal: bool,
    comma: bool,
}

struct Pass<'a> {
    source: &'a str,
    at: usize,
    /// What to put where.
    inserts: Vec<(usize, String)>,
}

impl<'a> Pass<'a> {
    fn skip_past(&mut self, end: &str) {
        let rest = &self.source[self.at..];
        self.at += rest.find(end).map_or(rest.len(), |i| i + end.len());
    }

    /// The next token: a word or number, a string, or one character.
    fn token(&mut self) -> Option<(usize, &'a str)> {
        let rest = &self.source[self.at..];
        let skipped = rest.len() - rest.trim_start().len();
        let rest = &rest[skipped..];
        let first = rest.chars().next()?;
        let word = |c: char| c.is_alphanumeric() || c == '_';
        let length = match first {
            '"' | '\'' => string_length(rest, first),
            c if word(c) => rest.find(|c| !word(c)).unwrap_or(rest.len()),
            c => c.len_utf8(),
        };
        let start = self.at + skipped;
        self.at = start + length;
        Some((start, &rest[..length]))
    }

    /// Reads a tag up to its `end` and notes what to wrap.
    fn tag(&mut self, end: &str) {
        if self.source[self.at..].starts_with(['-', '+']) {
            self.at += 1;
        }
        let inside = self.at;
        let name = if end == "%}" { self.token().map_or("", |(_, name)| name) } else { "" };
        self.at = inside;
        let (mut open, mut operand) = (Vec::<Open>::new(), false);
        let (mut targets, mut assigned, mut before) = (matches!(name, "for" | "set"), false, "");
        let (mut parameters, mut declares, mut function) = (Vec::new(), matches!(name, "macro" | "call"), COUNTED);
        while let Some((start, token)) = self.token() {
            let ended = open.is_empty() && self.source[start..].trim_start_matches(['-', '+']).starts_with(end);
            let ended = ended && (token == "-" || token == "+" || self.source[start..].starts_with(end));
            if ended {
                self.end_value(start, assigned);
                self.at = start;
                break;
            }
            if declares && open.len() == 1 && matches!(before, "(" | ",") && token != ")" {
                parameters.push(token);
            }
            declares &= !(open.len() == 1 && token == ")" || name == "call" && before == "call" && token != "(");
            if targets && token == "." {
                function = MEMBER;
            }
            match token {
                "(" | "[" | "{" => open.push(Open { at: start, literal: !operand && !targets, comma: token != "(" }),
                ")" | "]" | "}" => self.close(open.pop(), start + 1),
                "," if !open.is_empty() => open.iter_mut().next_back().into_iter().for_each(|o| o.comma = true),
                "," if name == "with" => assigned = self.end_value(start, assigned),
                "=" if open.is_empty() && matches!(name, "set" | "with") && !assigned && before != "=" => {
                    self.inserts.push((start + 1, format!(" {function}((")));
                    (assigned, targets) = (true, false);
                }
                "in" if open.is_empty() => targets = false,
                _ => {}
            }
            operand = match token.chars().next() {
                Some('"' | '\'' | ')' | ']' | '}') => true,
                Some(c) if c.is_alphanumeric() || c == '_' => before == "." || !KEYWORDS.contains(&token),
                _ => false,
            };
            before = token;
        }
        let trims = self.source[self.at..].starts_with('-');
        self.skip_past(end);
        if name == "raw" {
            self.skip_raw();
        }
        let trim = if trims { "-" } else { "" };
        for parameter in parameters {
            let set = format!("{{% set {parameter} = {COUNTED}({parameter}) {trim}%}}");
            self.inserts.push((self.at, set));
        }
    }

    /// Goes to the tag that ends a raw block; the bare word in its text does not.
    fn skip_raw(&mut self) {
        loop {
            self.skip_past("{%");
            let tag = self.source[self.at..].trim_start_matches(['-', '+']).trim_start();
            if tag.is_empty() || tag.strip_prefix("endraw").is_some_and(ends_tag) {
                return self.skip_past("%}");
            }
        }
    }

    /// Closes what `=` has opened, if it has.
    fn end_value(&mut self, at: usize, assigned: bool) -> bool {
        if assigned {
            self.inserts.push((at, ")) ".into()));
        }
        false
    }

    /// Wraps the bracket that ends before `end`, if it was a literal.
    fn close(&mut self, open: Option<Open>, end: usize) {
        if let Some(open) = open.filter(|o| o.literal && o.comma) {
            self.inserts.push((open.at, format!("{COUNTED}(")));
            self.inserts.push((end, ")".into()));
        }
    }

    fn finish(mut self) -> String {
        self.inserts.sort_by_key(|(at, _)| *at);
        let (mut out, mut done) = (String::with_capacity(self.source.len() * 2), 0);
        for (at, text) in self.inserts {
            out.push_str(&self.source[done..at]);
            out.push_str(&text);
            done = at;
        }
        out + &self.source[done..]
    }
}

fn ends_tag(rest: &str) -> bool {
    rest.trim_start().trim_start_matches(['-', '+']).starts_with("%}")
}

/// Bytes of a string literal with its quotes.
fn string_length(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (i, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return i + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::wrap;

    #[test]
    fn wraps_containers_and_assignments() {
        for (source, expected) in [
            ("[1] {{ a[0] }}{{ f(a, b) }}{{ (a) }}", "[1] {{ a[0] }}{{ f(a, b) }}{{ (a) }}"),
            ("{{ [{}] }}", "{{ counted_value([counted_value({})]) }}"),
            ("{{ x in (1, '}}') -}}", "{{ x in counted_value((1, '}}')) -}}"),
            ("{% set x = 1, 2 %}", "{% set x = counted_value(( 1, 2 )) %}"),
            ("{%- set n.x=[] -%}", "{%- set n.x= counted_value_member((counted_value([]) )) -%}"),
            ("{% with a=b,c=d %}", "{% with a= counted_value((b)) ,c= counted_value((d )) %}"),
            ("{% for (a, b) in [c] %}", "{% for (a, b) in counted_value([c]) %}"),
            ("{% macro f(a) -%}", "{% macro f(a) -%}{% set a = counted_value(a) -%}"),
            ("{% raw %}endraw {{ [{% endraw %}{{ [] }}", "{% raw %}endraw {{ [{% endraw %}{{ counted_value([]) }}"),
            ("{# {{ [] #}{{ [] }}", "{# {{ [] #}{{ counted_value([]) }}"),
        ] {
            assert_eq!(wrap(source), expected);
        }
    }
}
