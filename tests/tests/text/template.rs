//! Chat templates against jinja2 set up as transformers does, and against templates that were written to do harm.

use std::path::{Path, PathBuf};

use llama_core::Error;
use llama_core::text::{ChatTemplate, Date, Message, RenderOptions, Tokenizer, Trust};
use llama_tests::text::{from_environment, gguf, ids, json};
use serde_json::{Value, json as literal};

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/chat-templates")
}

fn template(name: &str) -> ChatTemplate {
    let source = std::fs::read_to_string(data().join(name)).expect(name);
    ChatTemplate::new(&source).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn messages(json: &Value) -> Vec<Message> {
    json.as_array().expect("messages").iter().map(|m| Message::from_json(m.clone()).expect("a message")).collect()
}

fn date(text: &str) -> Date {
    let numbers: Vec<u16> = text.split('-').map(|n| n.parse().expect("a number")).collect();
    Date::new(numbers[0], numbers[1] as u8, numbers[2] as u8).expect("a day")
}

fn options(case: &Value) -> RenderOptions {
    RenderOptions {
        tools: case["tools"].as_array().cloned(),
        add_generation_prompt: case["add_generation_prompt"].as_bool().expect("a bool"),
        bos_token: case["bos_token"].as_str().map(str::to_owned),
        eos_token: case["eos_token"].as_str().map(str::to_owned),
        ..RenderOptions::new(date(case["date"].as_str().expect("a date")))
    }
}

fn some_date() -> Date {
    date("2024-07-26")
}

/// Every recorded case, byte for byte, including what the template says when it raises an exception.
#[test]
fn renders_as_transformers_does() {
    let cases = json(data().join("cases.json"));
    let cases = cases.as_array().unwrap();
    assert_eq!(cases.len(), 100);
    for case in cases {
        let name = case["template"].as_str().unwrap();
        let rendered = template(name).render(&messages(&case["messages"]), &options(case));
        let what = format!("{name}, {}", case["name"]);
        match (case["rendered"].as_str(), case["error"].as_str()) {
            (Some(expected), _) => assert_eq!(rendered.unwrap_or_else(|e| panic!("{what}: {e}")), expected, "{what}"),
            (None, Some(expected)) => match rendered {
                Err(Error::Template { problem, .. }) => assert_eq!(problem, expected, "{what}"),
                other => panic!("{what}: {other:?}"),
            },
            (None, None) => panic!("{what} says nothing"),
        }
    }
}

/// transformers 5.24's `render_jinja_template` with `continue_final_message`, on the templates of `cases.json` but Hermes', which
/// it fails on without tools. `date_string` is given, which most of them print.
#[test]
fn a_last_message_goes_on_as_in_transformers() {
    let cases = json(data().join("continued.json"));
    let cases = cases.as_array().unwrap();
    assert_eq!(cases.len(), 72);
    for case in cases {
        let mut options = RenderOptions {
            add_generation_prompt: false,
            continue_final_message: true,
            bos_token: case["bos_token"].as_str().map(str::to_owned),
            eos_token: case["eos_token"].as_str().map(str::to_owned),
            ..RenderOptions::new(some_date())
        };
        options.extra.insert("date_string".into(), "26 Jul 2024".into());
        let (name, messages) = (case["template"].as_str().unwrap(), messages(&case["messages"]));
        let rendered = template(name).render(&messages, &options);
        let what = format!("{name}, {}", case["name"]);
        assert_eq!(rendered.unwrap_or_else(|e| panic!("{what}: {e}")), case["rendered"].as_str().unwrap(), "{what}");
    }
}

#[test]
fn a_last_message_that_cannot_go_on_is_refused() {
    let open =
        RenderOptions { add_generation_prompt: false, continue_final_message: true, ..RenderOptions::new(some_date()) };
    let said = |template: &str, messages: Value| {
        ChatTemplate::new(template).unwrap().render(&self::messages(&messages), &open)
    };
    let echo = "{% for message in messages %}[{{ message.content }}]{% endfor %}";
    let one = |content: Value| literal!([{"role": "assistant", "content": content}]);
    assert_eq!(said(echo, one(literal!("a "))).unwrap(), "[a ");
    // What is said twice ends where it is said last, and a mark that somebody wrote is none.
    assert_eq!(said("{{ messages[-1].content }}|{{ messages[-1].content }}!", one(literal!("a"))).unwrap(), "a|a");
    assert_eq!(said(echo, one(literal!("a\u{10ffff} b"))).unwrap(), "[a\u{10ffff} b");
    let parts = literal!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}, {"type": "image"}]);
    let last = "{% for part in messages[-1].content %}<{{ part.text }}>{% endfor %}";
    assert_eq!(said(last, one(parts)).unwrap(), "<a><b");
    for (template, messages) in [
        (echo, literal!([])),
        (echo, literal!([{"role": "assistant"}])),
        (echo, one(Value::Null)),
        (echo, one(literal!([]))),
        (echo, one(literal!([{"type": "image"}]))),
        // Templates write calls behind what was said, if they write both.
        (echo, literal!([{"role": "assistant", "content": "a", "tool_calls": [{"function": {"name": "f"}}]}])),
    ] {
        let refused = said(template, messages).unwrap_err();
        assert!(matches!(refused, Error::Parameter { name: "continue_final_message", .. }), "{refused}");
    }
    for template in ["nothing", "{{ messages[-1].content | replace('b', '') }}", "{{ messages[-1].content[:1] }}"] {
        let refused = said(template, one(literal!("abc"))).unwrap_err();
        assert!(matches!(refused, Error::Template { .. }), "{refused}");
    }
    let both = RenderOptions { add_generation_prompt: true, ..open.clone() };
    let refused = ChatTemplate::new(echo).unwrap().render(&messages(&one(literal!("a"))), &both).unwrap_err();
    assert!(matches!(refused, Error::Parameter { name: "continue_final_message", .. }), "{refused}");
}

/// The six conversations of the reference, with the template in the model's own file: text and ids.
#[test]
fn smollm2_prompts() {
    let (Some(folder), Some(model)) = (from_environment("LLAMA_REFERENCE"), from_environment("LLAMA_SMOLLM2")) else {
        return;
    };
    let file = gguf(model);
    let tokenizer = Tokenizer::from_gguf(file.metadata()).unwrap();
    let template = ChatTemplate::from_gguf(file.metadata()).unwrap().expect("a template");
    let options = RenderOptions::for_tokenizer(some_date(), &tokenizer);
    let chats = json(folder.join("smollm2-135m/chat.json"));
    assert_eq!(chats.as_array().unwrap().len(), 6);
    for chat in chats.as_array().unwrap() {
        let messages = messages(&chat["messages"]);
        assert_eq!(template.render(&messages, &options).unwrap(), chat["prompt"].as_str().unwrap());
        for trust in [Trust::Template, Trust::Everyone] {
            let got = template.encode(&tokenizer, &messages, &options, trust).unwrap();
            assert_eq!(got, ids(&chat["prompt_ids"]), "{trust:?}");
        }
    }
}

fn render(source: &str) -> Result<String, Error> {
    ChatTemplate::new(source)?.render(&[Message::new("user", " Hi\u{1f} ")], &RenderOptions::new(some_date()))
}

/// Expressions and what Python's jinja2 makes of them.
#[test]
fn python_semantics() {
    for (source, expected) in [
        ("{{ messages[0].content | trim }}|{{ messages[0]['content'].strip() }}", "Hi|Hi"),
        ("{{ 'a b  c'.split() | tojson }}", r#"["a", "b", "c"]"#),
        ("{{ 'a,b,c'.split(',', 1) | tojson }}{{ 'a,b,c'.rsplit(',', 1) | tojson }}", r#"["a", "b,c"]["a,b", "c"]"#),
        ("{{ ' a b c '.rsplit(none, 1) | tojson }}", r#"["a b", "c"]"#),
        ("{{ 'x</t>y</t>z'.split('</t>')[-1] }}", "z"),
        ("{{ 'aXbX'.replace('X', '-', 1) }}", "a-bX"),
        ("{{ 'ab'.startswith(('x', 'a')) }}{{ 'ab'.endswith('b') }}", "TrueTrue"),
        ("{{ 'éab'.find('b') }}{{ 'a'.find('z') }}", "2-1"),
        ("{{ {'b': 1, 'a': [1.0, none, true]} | tojson }}", r#"{"b": 1, "a": [1.0, null, true]}"#),
        ("{{ {'b': {}, 'a': []} | tojson(indent=2) }}", "{\n  \"b\": {},\n  \"a\": []\n}"),
        ("{{ {'b': 1, 'a': 2} | tojson(sort_keys=true, separators=(',', ':')) }}", r#"{"a":2,"b":1}"#),
        (
            "{{ 'é<\"\\n\\u0001' | tojson }}{{ 'é🦙' | tojson(ensure_ascii=true) }}",
            "\"é<\\\"\\n\\u0001\"\"\\u00e9\\ud83e\\udd99\"",
        ),
        ("{% for k, v in {'x': 1}.items() %}{{ k }}={{ v }}{% endfor %}", "x=1"),
        ("{{ {'x': 1}.get('y', 2) }}{{ {'x': 1}.get('y') }}", "2None"),
        ("{{ strftime_now('%d %b %Y') }}", "26 Jul 2024"),
        (
            "{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 4 %}{% break %}{% endif %}{{ i }}{% endfor %}",
            "013",
        ),
        ("a{% raw %}\n{{ x }}{% endraw %}\nb", "a\n{{ x }}b"),
        ("{% generation %}\nx{% endgeneration %}", "x"),
        ("{{ undefined_thing }}{{ ''.__class__ }}", ""),
        ("{{ tools is none }}{{ documents is none }}{{ bos_token is defined }}", "TrueTrueFalse"),
        ("{{ 'title case'.title() }}{{ 'aBC'.capitalize() }}", "Title CaseAbc"),
    ] {
        assert_eq!(render(source).unwrap_or_else(|e| panic!("{source}: {e}")), expected, "{source}");
    }
}

/// Templates that would take the host's time or memory, or reach out of the sandbox. Each is refused, within a second
/// and 64 MiB by the budget of fuel.
#[test]
fn bombs_are_refused() {
    let deep = |open: &str, close: &str, n: usize| format!("{{{{ {}1{} }}}}", open.repeat(n), close.repeat(n));
    let bombs: Vec<(&str, String)> = vec![
        ("range of a billion", "{% for i in range(10**9) %}x{% endfor %}".into()),
        ("nested ranges", "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}".into()),
        ("three nested ranges", "{% for a in range(999) %}{% for b in range(999) %}{% for c in range(999) %}{% endfor %}{% endfor %}{% endfor %}".into()),
        ("string times a billion", "{{ 'x' * 10**9 }}".into()),
        ("string times and length", "{{ ('x' * 99999999) | length }}".into()),
        ("list times a billion", "{{ ([1] * 10**9) | list | length }}".into()),
        ("doubling by ~", "{% set n = namespace(x='xx') %}{% for i in range(40) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x | length }}".into()),
        ("doubling by +", "{% set n = namespace(x='xx') %}{% for i in range(40) %}{% set n.x = n.x + n.x %}{% endfor %}".into()),
        ("doubling a list", "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = (n.x + n.x) | list %}{% endfor %}{{ n.x | length }}".into()),
        ("doubling by replace", "{% set n = namespace(x='xx') %}{% for i in range(40) %}{% set n.x = n.x.replace('x', 'xx') %}{% endfor %}".into()),
        ("doubling by the replace filter", "{% set n = namespace(x='xx') %}{% for i in range(40) %}{% set n.x = n.x | replace('x', 'xx') %}{% endfor %}".into()),
        ("doubling by join", "{% set n = namespace(x='xx') %}{% for i in range(40) %}{% set n.x = n.x.join([n.x, n.x]) %}{% endfor %}".into()),
        ("doubling by the join filter", "{% set n = namespace(x='xx') %}{% for i in range(40) %}{% set n.x = [n.x, n.x] | join(n.x) %}{% endfor %}".into()),
        ("doubling by capture", "{% set n = namespace(x='xx') %}{% for i in range(40) %}{% set y %}{{ n.x }}{{ n.x }}{% endset %}{% set n.x = y %}{% endfor %}".into()),
        ("doubling by tojson", "{% set n = namespace(x='\"') %}{% for i in range(40) %}{% set n.x = n.x | tojson %}{% endfor %}".into()),
        ("shared structure as JSON", "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x | tojson }}".into()),
        ("shared structure as text", "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}".into()),
        ("recursive macro", "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}".into()),
        ("branching macro", "{% macro f(x) %}{% if x > 0 %}{{ f(x - 1) }}{{ f(x - 1) }}{% endif %}{% endmacro %}{{ f(60) }}".into()),
        ("recursive loop", "{% for x in [[1]] recursive %}{{ loop([x]) }}{% endfor %}".into()),
        ("indent of tojson", "{{ [1] | tojson(indent=9223372036854775807) }}".into()),
        ("indent of tojson, 2**63", "{{ [1] | tojson(indent=2**63) }}".into()),
        ("indent filter", "{{ 'a\nb' | indent(10**9) }}".into()),
        ("format width", "{{ '%999999999d' | format(1) }}".into()),
        ("format method", "{{ '{:>999999999}'.format(1) }}".into()),
        ("center", "{{ 'a' | center(10**9) }}".into()),
        ("batch", "{{ [1] | batch(10**9, 0) | list | length }}".into()),
        ("slice", "{{ [1] | slice(10**9, 0) | list | length }}".into()),
        ("ljust", "{{ 'a'.ljust(10**9) }}".into()),
        ("parentheses", deep("(", ")", 30_000)),
        ("lists", deep("[", "]", 30_000)),
        ("nested ifs", format!("{}{}", "{% if true %}".repeat(2_000), "{% endif %}".repeat(2_000))),
        ("power", "{{ 10 ** 10 ** 10 }}".into()),
        ("division by zero", "{{ 1 // 0 }}".into()),
        ("include", "{% include '/etc/passwd' %}".into()),
        ("import", "{% from '/etc/passwd' import x %}".into()),
        ("extends", "{% extends 'chat_template' %}".into()),
        ("include of itself", "{% include 'chat_template' %}".into()),
        ("class walk", "{{ ''.__class__.__mro__[1].__subclasses__() }}".into()),
        ("function globals", "{{ raise_exception.__globals__['os'].system('true') }}".into()),
        ("list append", "{% set x = [] %}{{ x.append(1) }}".into()),
        ("unknown filter", "{{ 1 | nothing }}".into()),
        ("unknown function", "{{ nothing() }}".into()),
        ("open block", "{% for x in y %}".into()),
        ("too long", "x".repeat((64 << 10) + 1)),
    ];
    assert!(bombs.len() >= 25);
    for (name, source) in bombs {
        match render(&source) {
            Err(Error::Template { problem, .. }) => assert!(!problem.is_empty(), "{name}"),
            other => panic!("{name}: {other:?}"),
        }
    }
}

/// Sixty lists that share everything: cheap to make, and without end to walk, by whatever operator or filter.
#[test]
fn shared_structure_is_not_walked() {
    let builders = [
        "{% set n = namespace(x=[1], y=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% set n.y = [n.y, n.y] %}{% endfor %}",
        "{% set n = namespace(x=[], y=[]) %}{% for i in range(60) %}{% set n.x = (n.x, n.x) %}{% set n.y = (n.y, n.y) %}{% endfor %}",
        "{% set n = namespace(x=1, y=1) %}{% for i in range(60) %}{% set n.x = {'a': n.x, 'b': n.x} %}{% set n.y = {'a': n.y, 'b': n.y} %}{% endfor %}",
        "{% set n = namespace(x=1, y=1) %}{% for i in range(60) %}{% set n.x = dict(a=n.x, b=n.x) %}{% set n.y = dict(a=n.y, b=n.y) %}{% endfor %}",
        "{% set n = namespace(x=[1], y=[1]) %}{% for i in range(60) %}{% set n.x = n.x | zip(n.x) | list %}{% set n.y = n.y | zip(n.y) | list %}{% endfor %}",
        "{% set n = namespace(x=[1], y=[1]) %}{% for i in range(60) %}{% set n.x = n.x | batch(2, n.x) | list %}{% set n.y = n.y | batch(2, n.y) | list %}{% endfor %}",
        "{% set n = namespace(x=[1], y=[1]) %}{% for i in range(60) %}{% set n.x = [u, u] | map('default', n.x) | list %}{% set n.y = [u, u] | map('default', n.y) | list %}{% endfor %}",
        "{% set n = namespace(x=[1], y=[1]) %}{% for i in range(60) %}{% set n.x = n.x, n.x %}{% set n.y = n.y, n.y %}{% endfor %}",
    ];
    let walks = [
        "n.x == n.y",
        "n.x != n.y",
        "n.x < n.y",
        "n.x >= n.y",
        "n.x in [n.y]",
        "n.x not in [n.y]",
        "n.x ~ ''",
        "'' ~ n.x",
        "n.x in 'a'",
        "[n.x] | join",
        "[[n.x], [n.x]] | join(',')",
        "n.x | pprint",
        "'%s' | format(n.x)",
        "[n.x, n.y] | unique",
        "[n.x, n.y] | sort",
        "[n.x, n.y] | min",
        "[n.x, n.y] | max",
        "{n.x: 1, n.y: 2}",
        "{n.x: 1}[n.y]",
        "[n.x] | select('equalto', n.y) | list",
        "[n.x] | select('in', [n.y]) | list",
        "[n.x] | reject('ne', n.y) | list",
        "n.x is eq n.y",
        "n.x is lt(n.y)",
        "[n.x].index(n.y)",
        "[n.x].count(n.y)",
        "n.x | tojson",
        "n.x | string",
        "n.x | trim",
        "n.x | upper",
        "n.x | replace('a', 'b')",
        "n.x",
        "[n.x] | map('string') | list",
        "{'a': n.x, 'b': n.y} | dictsort(by='value')",
        "[{'a': n.x}, {'a': n.y}] | groupby('a')",
        "[{'a': n.x}] | selectattr('a', 'eq', n.y) | list",
        "'' | default(n.x ~ '')",
        "n.x | indent",
        "n.x | escape",
        "n.x | title",
    ];
    for builder in builders {
        for walk in walks {
            let source = format!("{builder}{{{{ {walk} }}}}");
            match render(&source) {
                Err(Error::Template { problem, .. }) => assert!(!problem.is_empty()),
                Ok(text) => assert!(text.len() < 1000, "{source}: {}", text.len()),
                Err(other) => panic!("{source}: {other}"),
            }
        }
    }
    let lazy =
        "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}{{ n.x ~ '' }}";
    let macros = "{% macro f(x, y, i) %}{% if i %}{{ f([x, x], [y, y], i - 1) }}{% else %}{{ x == y }}{% endif %}{% endmacro %}{{ f(1, 1, 60) }}";
    let adding = "{% macro f(x, i) %}{% if i %}{{ f(x + x, i - 1) }}{% else %}{{ x ~ '' }}{% endif %}{% endmacro %}{{ f([1], 60) }}";
    let with = format!("{}{{{{ x ~ '' }}}}{}", "{% with x = x + x %}".repeat(60), "{% endwith %}".repeat(60));
    let changed = format!("{}{{% for i in [n.x, n.y] %}}{{{{ loop.changed(i) }}}}{{% endfor %}}", builders[0]);
    let cycle = "{% set n = namespace() %}{% set n.x = n %}{{ n }}";
    let long_cycle = "{% set n = namespace() %}{% set n.x = [n] %}{{ n }}";
    for source in [lazy, macros, adding, &format!("{{% set x = [1] %}}{with}"), &changed, cycle, long_cycle] {
        match render(source) {
            Err(Error::Template { problem, .. }) => assert!(!problem.is_empty()),
            other => panic!("{source}: {other:?}"),
        }
    }
}

/// Values nested as deep as the budget allows are neither printed nor dropped by way of the stack.
#[test]
fn deep_values_do_not_overflow_the_stack() {
    for wrap in ["[n.x]", "{'a': n.x}", "(n.x,)", "namespace(a=n.x)", "[n.x] | list", "[n.x] | map('string')"] {
        for end in ["", "{{ n.x }}", "{{ n.x | tojson }}", "{{ n.x == n.x }}", "{{ n.x | string | length }}"] {
            let source = format!(
                "{{% set n = namespace(x=1) %}}{{% for i in range(99999) %}}{{% set n.x = {wrap} %}}{{% endfor %}}{end}"
            );
            let _ = render(&source);
            let fewer = source.replace("99999", "9999");
            let _ = render(&fewer);
        }
    }
}

/// Nor does a chain of operators overflow it when it is compiled.
#[test]
fn long_chains_do_not_overflow_the_stack() {
    for (before, link, after) in [
        ("{{ ", "not ", "1 }}"),
        ("{{ ", "-", "1 }}"),
        ("{{ ", "1+", "1 }}"),
        ("{{ ", "1**", "1 }}"),
        ("{{ ", "1 if 1 else ", "1 }}"),
        ("{{ ", "x and ", "x }}"),
        ("{{ x", "|d", " }}"),
        ("{{ x", ".x", " }}"),
        ("{{ x", "()", " }}"),
        ("{% if x %}", "{% elif x %}", "{% endif %}"),
    ] {
        let _ = render(&format!("{before}{}{after}", link.repeat(60_000 / link.len())));
    }
}

/// A long conversation is not a bomb.
#[test]
fn long_prompts_fit_the_budget() {
    let long = "All work and no play makes Jack a dull boy.\n".repeat(25_000);
    let turns: Vec<Message> =
        (0..400).map(|i| Message::new(if i % 2 == 0 { "user" } else { "assistant" }, &format!("turn {i}"))).collect();
    for entry in std::fs::read_dir(data()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if !name.ends_with(".jinja") || name.starts_with("NousResearch") {
            continue;
        }
        let options = RenderOptions {
            bos_token: Some("<s>".into()),
            eos_token: Some("</s>".into()),
            ..RenderOptions::new(some_date())
        };
        let rendered = template(&name).render(&[Message::new("user", &long)], &options);
        assert!(rendered.unwrap_or_else(|e| panic!("{name}: {e}")).len() >= long.len() - 1, "{name}");
        template(&name).render(&turns, &options).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}

#[test]
fn bad_arguments_are_refused() {
    for bad in [literal!([]), literal!("x"), literal!({"content": "x"}), literal!({"role": 1})] {
        assert!(matches!(Message::from_json(bad), Err(Error::Parameter { .. })));
    }
    let functions = ["raise_exception", "strftime_now", "namespace", "range", "dict", "counted_value"];
    for name in ["messages", "tools", "bos_token", "add_generation_prompt"].into_iter().chain(functions) {
        let mut options = RenderOptions { bos_token: Some("<s>".into()), ..RenderOptions::new(some_date()) };
        options.extra.insert(name.into(), literal!("x"));
        let rendered = template("chatml.jinja").render(&[], &options);
        assert!(matches!(rendered, Err(Error::Parameter { .. })), "{name}");
    }
}
