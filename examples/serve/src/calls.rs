//! Calls of tools in what a model says, told from text while it comes.
//!
//! The language is what Llama 3.1 and its successors were taught: `{"name": "f", "parameters": {...}}`, several of them with
//! white space or semicolons in between. `arguments` may stand in place of `parameters`, `"type": "function"` beside them, and
//! each call in `<tool_call>` and `</tool_call>`, as the Hermes models have it. (`<|python_tag|>` is a control token, which has no
//! text.) Calls come first: from the first character on that is part of none, all is text.
//!
//! What may still become a call is held back. The parser reads each character once and lets go of what it holds as soon as the
//! names and the order of the outer object's fields, or the name of the function, rule a call out; whether the arguments can be read
//! it asks when they are complete. A text that is no call is passed on to the last character. Of calls, only the space,
//! semicolons and tags around them are dropped.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use serde::de::IgnoredAny;
use serde_json::{Map, Value};

const OPENING: &str = "<tool_call>";
const CLOSING: &str = "</tool_call>";

/// A part of what a model said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// Words for the reader.
    Text(String),
    /// A call.
    Call(Call),
}

/// A call of a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// How many calls came before it in the same text.
    pub index: usize,
    /// One of the names that the parser was given.
    pub name: String,
    /// A JSON object, in the model's own spelling.
    pub arguments: String,
}

/// Arguments of a call as templates read them: what a model says and what a client sends back is read alike, so that all that was
/// handed out is taken back.
///
/// # Errors
/// What is no JSON object, and what JSON allows and nobody can keep: numbers beyond f64, halves of surrogate pairs, more than 128
/// levels.
pub fn arguments(text: &str) -> serde_json::Result<Map<String, Value>> {
    serde_json::from_str(text)
}

/// Reads one text.
pub struct Parser {
    /// Names of functions that may be called.
    functions: Arc<BTreeSet<String>>,
    /// Calls that may still come.
    left: usize,
    /// Calls that have come.
    calls: usize,
    /// The tag that may come next.
    tag: Option<&'static str>,
    /// What is not decided yet.
    held: String,
    place: Place,
}

/// Where in a text the parser is.
enum Place {
    /// Before a call.
    Between,
    /// In a tag, which began at this byte of what is held.
    Tag(usize),
    /// In an object.
    Object(Object),
    /// After all calls, for good.
    Text,
}

impl Parser {
    /// At the beginning of a text with at most `most` calls of `functions`.
    pub fn new(functions: Arc<BTreeSet<String>>, most: usize) -> Self {
        Parser { functions, left: most, calls: 0, tag: Some(OPENING), held: String::new(), place: Place::Between }
    }

    /// Whether there was a call.
    pub fn called(&self) -> bool {
        self.calls > 0
    }

    /// What is certain once `text` has come.
    pub fn push(&mut self, text: &str) -> Vec<Said> {
        let mut said = Vec::new();
        let mut rest = text.chars();
        while !matches!(self.place, Place::Text) {
            let Some(next) = rest.next() else { return said };
            self.held.push(next);
            if let Some(call) = self.read(next) {
                said.push(Said::Call(call));
            }
        }
        self.held.push_str(rest.as_str());
        said.extend(self.text());
        said
    }

    /// What was held back: nothing more will come.
    pub fn end(&mut self) -> Option<Said> {
        if self.called() && matches!(self.place, Place::Between) && self.held.chars().all(separates) {
            self.held.clear();
        }
        self.place = Place::Text;
        self.text()
    }

    fn text(&mut self) -> Option<Said> {
        (!self.held.is_empty()).then(|| Said::Text(std::mem::take(&mut self.held)))
    }

    /// Goes on by the last character held, and returns the call that it completes.
    fn read(&mut self, next: char) -> Option<Call> {
        let start = self.held.len() - next.len_utf8();
        let is_space = next.is_whitespace() || self.called() && separates(next);
        match &mut self.place {
            Place::Between if next == '{' && self.left > 0 => self.place = Place::Object(Object::new(start)),
            Place::Between if next == '<' => self.read_tag(start),
            Place::Between if is_space => {}
            &mut Place::Tag(start) => self.read_tag(start),
            Place::Object(object) => match object.read(next, &self.held, &self.functions) {
                Reading::GoesOn => {}
                Reading::Complete => return self.call(),
                Reading::NoCall => self.place = Place::Text,
            },
            Place::Between | Place::Text => self.place = Place::Text,
        }
        None
    }

    /// An opening tag stays held until its call has come, a closing one goes with the call before it.
    fn read_tag(&mut self, start: usize) {
        let read = &self.held[start..];
        let tag = self.tag.filter(|&tag| tag.starts_with(read) && (tag == CLOSING || self.left > 0));
        self.place = match tag {
            None => Place::Text,
            Some(tag) if tag.len() > read.len() => Place::Tag(start),
            Some(tag) => {
                self.tag = (tag == CLOSING).then_some(OPENING);
                if tag == CLOSING {
                    self.held.clear();
                }
                Place::Between
            }
        };
    }

    /// The call that the object is, unless it is not JSON, or its arguments cannot be read.
    fn call(&mut self) -> Option<Call> {
        let Place::Object(object) = std::mem::replace(&mut self.place, Place::Text) else { return None };
        let (name, text) = (self.held.get(object.name?)?, self.held.get(object.arguments?)?);
        serde_json::from_str::<IgnoredAny>(self.held.get(object.start..)?).ok()?;
        arguments(text).ok()?;
        let call = Call { index: self.calls, name: name.into(), arguments: text.into() };
        self.calls += 1;
        self.left -= 1;
        self.tag = Some(if self.tag == Some(OPENING) { OPENING } else { CLOSING });
        self.held.clear();
        self.place = Place::Between;
        Some(call)
    }
}

/// What may stand between two calls.
fn separates(c: char) -> bool {
    c.is_whitespace() || c == ';'
}

/// An object that may be a call. Positions are bytes of what the parser holds.
struct Object {
    start: usize,
    depth: usize,
    expected: Expected,
    /// Where the string began that the last character is in.
    string: Option<usize>,
    /// After a backslash.
    escaped: bool,
    name: Option<Range<usize>>,
    arguments: Option<Range<usize>>,
}

/// What comes next in the outer object.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expected {
    Key,
    Name,
    Kind,
    Arguments,
    Comma,
}

enum Reading {
    GoesOn,
    Complete,
    NoCall,
}

impl Object {
    /// One whose brace is the character at `start`.
    fn new(start: usize) -> Self {
        let expected = Expected::Key;
        Object { start, depth: 1, expected, string: None, escaped: false, name: None, arguments: None }
    }

    /// Goes on by `next`, the last character of `held`.
    fn read(&mut self, next: char, held: &str, functions: &BTreeSet<String>) -> Reading {
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
            (Expected::Key, "parameters" | "arguments") if self.arguments.is_none() => {
                self.expected = Expected::Arguments;
            }
            (Expected::Name, name) if functions.contains(name) => self.name = Some(at),
            (Expected::Kind, "function") => {}
            _ => return false,
        }
        true
    }

    /// A character of the outer object that is in no string; `end` is where it ends.
    fn read_outside(&mut self, next: char, end: usize) -> Reading {
        match (self.expected, next) {
            (_, ' ' | '\t' | '\r' | '\n') => {}
            (Expected::Key | Expected::Name | Expected::Kind, '"') => self.string = Some(end),
            (Expected::Name | Expected::Kind | Expected::Arguments, ':') => {}
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
        }
        Reading::GoesOn
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const NAMES: [&str; 3] = ["get_weather", "f", "f-2"];

    fn parser(most: usize) -> Parser {
        Parser::new(Arc::new(NAMES.map(String::from).into()), most)
    }

    /// What pieces come to: calls, and the text after them.
    fn read<'a>(most: usize, pieces: impl IntoIterator<Item = &'a str>) -> (Vec<(String, String)>, String) {
        let mut parser = parser(most);
        let mut said: Vec<Said> = pieces.into_iter().flat_map(|piece| parser.push(piece)).collect();
        said.extend(parser.end());
        let (mut calls, mut text) = (Vec::new(), String::new());
        for said in said {
            match said {
                Said::Text(piece) => text.push_str(&piece),
                Said::Call(call) => {
                    assert!(text.is_empty(), "a call after text");
                    assert_eq!(call.index, calls.len());
                    calls.push((call.name, call.arguments));
                }
            }
        }
        assert_eq!(parser.called(), !calls.is_empty());
        (calls, text)
    }

    fn pairs(calls: &[(&str, &str)]) -> Vec<(String, String)> {
        calls.iter().map(|&(name, arguments)| (name.into(), arguments.into())).collect()
    }

    #[test]
    fn calls() {
        for (text, calls) in [
            (r#"{"name": "f", "parameters": {"a": 1}}"#, &[("f", r#"{"a": 1}"#)][..]),
            (r#" {"arguments":{},"type":"function","name":"f-2"} "#, &[("f-2", "{}")]),
            (r#"{"name": "f", "parameters": {"s": "}\"{", "n": 1e99}}"#, &[("f", r#"{"s": "}\"{", "n": 1e99}"#)]),
            (r#"{"name": "f", "parameters": {"s": "\ud83d\ude00"}}"#, &[("f", r#"{"s": "\ud83d\ude00"}"#)]),
            (
                r#"{"name":"f","parameters":{}}; {"name":"f-2","parameters":{"é":[]}}"#,
                &[("f", "{}"), ("f-2", r#"{"é":[]}"#)],
            ),
            ("{\"name\":\"f\",\"arguments\":{}}\n{\"name\":\"f\",\"arguments\":{}};\n", &[("f", "{}"), ("f", "{}")]),
            ("<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>\n", &[("f", "{}")]),
            (
                r#"<tool_call>{"name":"f","arguments":{}}</tool_call><tool_call>{"name":"f","arguments":{"a":{}}}"#,
                &[("f", "{}"), ("f", r#"{"a":{}}"#)],
            ),
        ] {
            assert_eq!(read(usize::MAX, [text]), (pairs(calls), String::new()), "{text}");
        }
    }

    #[test]
    fn what_is_no_call_is_text() {
        for text in [
            "",
            " \n",
            ";",
            "Hello {",
            "{}",
            "{",
            r#"{"name": "f"}"#,
            r#"{"name": "f", "parameters": {}"#,
            r#"{"name": "f", "parameters": {"a": 01}}"#,
            r#"{"name": "f", "parameters": {]}"#,
            r#"{"name": "f", "parameters": {"n": 1e999}}"#,
            r#"{"name": "f", "parameters": {"s": "\ud800"}}"#,
            r#"{"name": "f", "parameters": "{}"}"#,
            r#"{"name": "f", "parameters": {}, "arguments": {}}"#,
            r#"{"name": "f", "name": "f", "parameters": {}}"#,
            r#"{"name": "f", "parameters": {},}"#,
            r#"{"name": "f", "parameters": {}, "more": 1}"#,
            r#"{"name" "f", "parameters": {}}"#,
            r#"{"name": "g", "parameters": {}}"#,
            r#"{"type": "object", "name": "f", "parameters": {}}"#,
            r#"[{"name": "f", "parameters": {}}]"#,
            r#"<tool_call>{"name": "g", "arguments": {}}</tool_call>"#,
            r#"<tool_call><tool_call>{"name": "f", "arguments": {}}"#,
            "<tool_call></tool_call>",
            "<tool_call>",
            "</tool_call>",
            "<b>",
        ] {
            assert_eq!(read(usize::MAX, [text]), (Vec::new(), text.into()), "{text}");
        }
        let call = r#"{"name":"f","parameters":{}}"#;
        for rest in [" and so on", ";\n{", "</tool_call>", "<tool_call>", " {\"name\":\"g\",\"parameters\":{}}"] {
            assert_eq!(read(usize::MAX, [call, rest]), (pairs(&[("f", "{}")]), rest.into()), "{rest}");
        }
        let tagged = format!("<tool_call>{call}</tool_call>");
        assert_eq!(read(1, [&*tagged, &tagged]), (pairs(&[("f", "{}")]), tagged.clone()), "one was allowed");
    }

    #[test]
    fn arguments_too_deep_to_be_read_back_are_text() {
        let call = |depth: usize| {
            let (open, close) = ("[".repeat(depth - 1), "]".repeat(depth - 1));
            format!(r#"{{"name": "f", "parameters": {{"a": {open}{close}}}}}"#)
        };
        assert_eq!(read(usize::MAX, [&*call(120)]).0.len(), 1);
        assert_eq!(read(usize::MAX, [&*call(130)]), (Vec::new(), call(130)));
    }

    #[test]
    fn text_is_held_no_longer_than_it_may_be_a_call() {
        for (held, next) in [
            ("", "H"),
            (" \n", "x"),
            ("<tool_ca", "b"),
            ("<tool_call> ", "H"),
            ("{ ", "x"),
            ("{", "}"),
            (r#"{"answer"#, "\""),
            (r#"{"name": "get_weathe"#, "\""),
            (r#"{"name": "#, "1"),
            (r#"{"name": "f" "#, "x"),
            (r#"{"type": "functio"#, "\""),
            (r#"{"name": "f", "parameters": "#, "["),
            (r#"{"name": "f", "parameters": {"a": }"#, "}"),
            (r#"{"parameters": {}, "arguments"#, "\""),
        ] {
            let mut parser = parser(usize::MAX);
            assert_eq!(parser.push(held), [], "{held}");
            assert_eq!(parser.push(next), [Said::Text(format!("{held}{next}"))], "{held}{next}");
            assert_eq!(parser.push("{"), [Said::Text("{".into())], "all is text from then on");
            assert_eq!(parser.end(), None);
        }
    }

    fn separator() -> impl Strategy<Value = String> {
        prop_oneof![Just(";".to_owned()), Just("; ".to_owned()), "[ \n]{1,3}"]
    }

    fn arguments() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![Just(Value::Null), any::<i64>().prop_map(Value::from), ".{0,6}".prop_map(Value::from)];
        let value = leaf.prop_recursive(3, 12, 3, |inner| {
            let object = prop::collection::btree_map("[a-c\"{}]{1,3}", inner.clone(), 0..3);
            prop_oneof![
                prop::collection::vec(inner, 0..3).prop_map(Value::from),
                object.prop_map(|fields| fields.into_iter().collect())
            ]
        });
        prop::collection::btree_map("[a-z]{1,4}", value, 0..3).prop_map(|fields| fields.into_iter().collect())
    }

    /// A call as a model may write it.
    fn spelled() -> impl Strategy<Value = String> {
        (prop::sample::select(&NAMES[..]), arguments(), 0..4_u8, any::<bool>()).prop_map(
            |(name, arguments, form, tag)| {
                let call = match form {
                    0 => json!({"name": name, "parameters": arguments}),
                    1 => json!({"name": name, "arguments": arguments}),
                    2 => json!({"parameters": arguments, "name": name}),
                    _ => json!({"type": "function", "name": name, "parameters": arguments}),
                };
                if tag { format!("<tool_call>\n{call}\n</tool_call>") } else { call.to_string() }
            },
        )
    }

    /// Calls with what JSON may hold and no message can bring back, and what only looks like it.
    fn odd() -> impl Strategy<Value = String> {
        let number = (any::<i16>(), 0..400_i16).prop_map(|(digits, power)| format!("{digits}e{power}"));
        let text = prop::collection::vec(prop_oneof![Just("\\ud8"), Just("\\udc"), Just("00"), Just("\\n")], 0..5);
        let value = prop_oneof![number, text.prop_map(|parts| format!("\"{}\"", parts.concat()))];
        value.prop_map(|value| format!(r#"{{"name": "f", "parameters": {{"a": {value}}}}}"#))
    }

    /// Calls, whole and cut, with what may be between them, and what may not.
    fn text() -> impl Strategy<Value = String> {
        let cut = (spelled(), any::<prop::sample::Index>())
            .prop_map(|(call, at)| call.chars().take(at.index(call.chars().count() + 1)).collect::<String>());
        let tag = prop::sample::select(&[OPENING, CLOSING, "<tool", "</", "<"][..]).prop_map(String::from);
        let part = prop_oneof![6 => spelled(), 2 => odd(), 6 => separator(), 1 => cut, 1 => tag, 1 => ".{0,5}"];
        prop::collection::vec(part, 0..8).prop_map(|parts| parts.concat())
    }

    /// The same as the parser finds, out of a whole text and by a parser of JSON.
    fn expected(text: &str, most: usize) -> (Vec<(String, Value)>, String) {
        let (mut rest, mut calls, mut inside) = (text, Vec::new(), false);
        loop {
            let called = !calls.is_empty();
            let trim = |text: &'_ str| {
                text.len() - text.trim_start_matches(|c| c == ';' && called || char::is_whitespace(c)).len()
            };
            let mut start = &rest[trim(rest)..];
            if let Some(after) = start.strip_prefix(CLOSING).filter(|_| inside) {
                (rest, inside) = (after, false);
                continue;
            }
            if start.is_empty() && called {
                return (calls, String::new());
            }
            let tagged = start.strip_prefix(OPENING).filter(|_| !inside);
            if let Some(after) = tagged {
                start = &after[trim(after)..];
            }
            match expected_call(start).filter(|_| calls.len() < most) {
                Some((call, after)) => {
                    calls.push(call);
                    (rest, inside) = (after, inside || tagged.is_some());
                }
                None => return (calls, rest.into()),
            }
        }
    }

    fn expected_call(text: &str) -> Option<((String, Value), &str)> {
        let mut values = serde_json::Deserializer::from_str(text).into_iter::<Map<String, Value>>();
        let mut fields = values.next()?.ok()?;
        let rest = &text[values.byte_offset()..];
        let name = fields.remove("name")?.as_str()?.to_owned();
        let arguments = fields.remove("parameters").or_else(|| fields.remove("arguments"))?;
        let kind = fields.remove("type").is_none_or(|kind| kind == "function");
        let is_call = kind && fields.is_empty() && arguments.is_object() && NAMES.contains(&&*name);
        is_call.then_some(((name, arguments), rest))
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn pieces_come_to_the_whole_and_nothing_is_lost(text in text(), most in 1..4_usize, sizes in prop::collection::vec(1..9_usize, 1..9)) {
            let whole = read(most, [&*text]);
            let (calls, rest) = expected(&text, most);
            let found: Vec<_> = whole.0.iter().map(|(name, arguments)| (name.clone(), serde_json::from_str(arguments).unwrap())).collect();
            prop_assert_eq!((found, &whole.1), (calls, &rest));
            let ends: Vec<_> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
            let (mut pieces, mut from) = (Vec::new(), 0);
            for size in sizes.iter().cycle() {
                let to = (from + size).min(ends.len() - 1);
                pieces.push(&text[ends[from]..ends[to]]);
                from = to;
                if to == ends.len() - 1 {
                    break;
                }
            }
            prop_assert_eq!(read(most, pieces), whole);
        }

        #[test]
        fn any_text_at_all(text in ".{0,40}") {
            prop_assert_eq!(read(usize::MAX, [&*text]).1, text);
        }

        #[test]
        fn calls_come_back(calls in prop::collection::vec((spelled(), separator()), 1..5)) {
            let text: String = calls.iter().flat_map(|(call, after)| [&**call, after]).collect();
            let (found, rest) = read(usize::MAX, [&*text]);
            prop_assert_eq!((found.len(), rest.as_str()), (calls.len(), ""));
            for ((name, arguments), (call, _)) in found.iter().zip(&calls) {
                let quoted = format!("\"{name}\"");
                prop_assert!(call.contains(&quoted) && call.contains(arguments.as_str()));
            }
        }
    }
}
