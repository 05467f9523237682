//! Calls and texts, whole and in pieces, against a parser of JSON.

use proptest::prelude::*;
use serde_json::json;

use super::*;

const NAMES: [&str; 3] = ["get_weather", "f", "f-2"];

fn parser(most: usize, spelling: Spelling) -> Parser {
    Parser::new(Arc::new(NAMES.map(String::from).into()), most, spelling)
}

/// What pieces come to: calls, and the text after them.
fn read<'a>(most: usize, pieces: impl IntoIterator<Item = &'a str>) -> (Vec<(String, String)>, String) {
    read_by(parser(most, Spelling::Objects), pieces)
}

/// The same of a Mistral.
fn read_mistral<'a>(most: usize, pieces: impl IntoIterator<Item = &'a str>) -> (Vec<(String, String)>, String) {
    read_by(parser(most, Spelling::Mistral), pieces)
}

fn read_by<'a>(mut parser: Parser, pieces: impl IntoIterator<Item = &'a str>) -> (Vec<(String, String)>, String) {
    let mut said: Vec<Said> = pieces.into_iter().flat_map(|piece| parser.push(piece)).collect();
    said.extend(parser.end());
    let (mut calls, mut text) = (Vec::new(), String::new());
    for said in said {
        match said {
            Said::Thought(thought) => panic!("{thought:?}"),
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
        (r#"{"id": "\"1", "name": "f", "arguments": {}}"#, &[("f", "{}")]),
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
        "f{}",
        r#"{"name": "f", "parameters": {}, "id": 1}"#,
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

/// With what Mistral's models say after `[TOOL_CALLS]`, which has no text, nor has `[ARGS]`.
#[test]
fn calls_of_a_mistral() {
    let two: &[_] = &[("f", r#"{"a": "]"}"#), ("f-2", "{}")];
    for (text, calls) in [
        (r#"[{"name": "f", "arguments": {"a": "]"}}, {"name": "f-2", "arguments": {}}]"#, two),
        (
            "[{\"name\": \"f\", \"arguments\": {\"a\": \"]\"}, \"id\": \"a1B2c3D4e\"},\n{\"name\":\"f-2\",\"arguments\":{}}] \n",
            two,
        ),
        (r#" [ {"name": "f", "arguments": {"a": "]"}} , {"name": "f-2", "arguments": {}}"#, two),
        (r#"f{"a": "]"}f-2{}"#, two),
        (" get_weather{} ", &[("get_weather", "{}")]),
        (r#"{"name": "f", "parameters": {}}"#, &[("f", "{}")]),
        (r#"<tool_call>{"name": "f", "arguments": {}}</tool_call>"#, &[("f", "{}")]),
    ] {
        assert_eq!(read_mistral(usize::MAX, [text]), (pairs(calls), String::new()), "{text}");
        let characters: Vec<_> = text.split_inclusive(|_| true).collect();
        assert_eq!(read_mistral(usize::MAX, characters), (pairs(calls), String::new()), "{text} by characters");
    }
}

#[test]
fn what_is_no_call_of_a_mistral_is_text() {
    let object = r#"{"name": "f", "arguments": {}}"#;
    for text in [
        "",
        "[",
        "[]",
        "[,",
        "[1]",
        "[[",
        "]",
        "f",
        "f {}",
        "f[]",
        "f{",
        "f-3{}",
        "for{}",
        r#"f{"a": 01}"#,
        r#"f{"a": 1e999}"#,
        r#"[{"name": "g", "arguments": {}}]"#,
        "[f{}]",
    ] {
        assert_eq!(read_mistral(usize::MAX, [text]), (Vec::new(), text.into()), "{text}");
    }
    let first = pairs(&[("f", "{}")]);
    for (call, rest) in [("f{}", " and so on"), ("f{}", ", f{}"), ("f{}", "[]"), ("f{}", "f"), ("f{}", ";")] {
        assert_eq!(read_mistral(usize::MAX, [call, rest]), (first.clone(), rest.into()), "{rest}");
    }
    for rest in [", [", ", f{}", "] and so on", "]]", "];", " x"] {
        let list = format!("[{object}");
        assert_eq!(read_mistral(usize::MAX, [&*list, rest]), (first.clone(), rest.into()), "{rest}");
    }
    assert_eq!(read_mistral(1, ["f{}f{}"]), (first, "f{}".into()), "one was allowed");
}

#[test]
fn a_mistrals_calls_have_the_names_that_its_template_takes() {
    let mut parser = parser(usize::MAX, Spelling::Mistral);
    let said = parser.push("f{}f{}");
    let ids: BTreeSet<_> = said
        .iter()
        .filter_map(|said| match said {
            Said::Call(call) => Some(call.id.as_str()),
            _ => None,
        })
        .collect();
    assert!(ids.len() == 2 && ids.iter().all(|id| id.len() == 9 && id.chars().all(|c| c.is_ascii_alphanumeric())));
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
        let mut parser = parser(usize::MAX, Spelling::Objects);
        assert_eq!(parser.push(held), [], "{held}");
        assert_eq!(parser.push(next), [Said::Text(format!("{held}{next}"))], "{held}{next}");
        assert_eq!(parser.push("{"), [Said::Text("{".into())], "all is text from then on");
        assert_eq!(parser.end(), []);
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
    (prop::sample::select(&NAMES[..]), arguments(), 0..4_u8, any::<bool>()).prop_map(|(name, arguments, form, tag)| {
        let call = match form {
            0 => json!({"name": name, "parameters": arguments}),
            1 => json!({"name": name, "arguments": arguments}),
            2 => json!({"parameters": arguments, "name": name}),
            _ => json!({"type": "function", "name": name, "parameters": arguments}),
        };
        if tag { format!("<tool_call>\n{call}\n</tool_call>") } else { call.to_string() }
    })
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
        prop_assert_eq!(&read(usize::MAX, [&*text]).1, &text);
        prop_assert_eq!(read_mistral(usize::MAX, [&*text]).1, text);
    }

    /// Of a Mistral, in both of its forms: calls, whole and cut, and what may follow them.
    #[test]
    fn a_mistrals_calls_come_back(calls in prop::collection::vec((prop::sample::select(&NAMES[..]), arguments()), 1..5), listed: bool, cut: prop::sample::Index, rest in "[a-z\\[\\]{},; ]{0,6}") {
        let spelled: Vec<_> = calls.iter().map(|(name, arguments)| match listed {
            true => json!({"name": name, "arguments": arguments}).to_string(),
            false => format!("{name}{arguments}"),
        }).collect();
        let text = if listed { format!("[{}]", spelled.join(", ")) } else { spelled.concat() };
        let (found, after) = read_mistral(usize::MAX, [&*text]);
        let want: Vec<_> = calls.iter().map(|(name, arguments)| ((*name).to_owned(), arguments.to_string())).collect();
        prop_assert_eq!((&found, after.as_str()), (&want, ""));

        let ends: Vec<_> = text.char_indices().map(|(at, _)| at).collect();
        let cut = &text[..ends[cut.index(ends.len())]];
        let whole = format!("{cut}{rest}");
        let (found, after) = read_mistral(usize::MAX, [cut, &*rest]);
        prop_assert_eq!(&(found.clone(), after.clone()), &read_mistral(usize::MAX, [&*whole]));
        let complete = read_mistral(usize::MAX, [cut]).0;
        prop_assert!(whole.ends_with(&after) && want.starts_with(&complete) && found.starts_with(&complete));
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
