//! `structured_outputs`: answers are of the form that they were asked for, and what is no form, or too much of one, is refused
//! in time by name.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::client::{Reply, post};
use crate::subject::server;

fn chat(outputs: Value) -> Value {
    json!({
        "messages": [{"role": "user", "content": "Tell me of a dog"}], "structured_outputs": outputs, "max_tokens": 60,
        "temperature": 1.5,
    })
}

fn completion(outputs: Value) -> Value {
    json!({"prompt": "Once upon a time", "structured_outputs": outputs, "max_tokens": 60, "temperature": 1.5})
}

/// The texts that both endpoints answer with, for several seeds.
fn texts(address: SocketAddr, outputs: &Value) -> Vec<String> {
    let mut texts = Vec::new();
    for seed in 0..4 {
        for (path, mut body) in
            [("/v1/chat/completions", chat(outputs.clone())), ("/v1/completions", completion(outputs.clone()))]
        {
            body["seed"] = seed.into();
            let reply = post(address, path, &body);
            assert_eq!(reply.status, 200, "{outputs}: {}", reply.text());
            let choice = &reply.json()["choices"][0];
            assert_eq!(choice["finish_reason"], "stop", "{outputs}: {choice}");
            let text = choice["message"]["content"].as_str().or(choice["text"].as_str());
            texts.push(text.unwrap().to_owned());
        }
    }
    texts
}

fn refusal(reply: &Reply) -> Option<String> {
    let (status, _, param) = reply.error();
    assert_eq!(status, 400, "{}", reply.text());
    assert!(reply.body.len() < 1000, "{}", reply.text());
    param
}

#[test]
fn answers_are_of_the_form_that_was_asked_for() {
    let server = server();
    let schema = json!({
        "type": "object", "properties": {"age": {"type": "integer", "minimum": 1, "maximum": 9}}, "required": ["age"],
        "additionalProperties": false,
    });
    let regex = json!({"regex": "[0-9]{3}/(cat|dog)s?"});
    for text in texts(server.address(), &regex) {
        let (number, animal) = text.split_once('/').unwrap();
        assert!(number.len() == 3 && ["cat", "cats", "dog", "dogs"].contains(&animal), "{text}");
    }
    let choice = ["yes", "yes, \"sir\"\n\u{7f}\\", "n\u{e9}"];
    for text in texts(server.address(), &json!({"choice": choice, "regex": null, "disable_any_whitespace": true})) {
        assert!(choice.contains(&&*text), "{text:?}");
    }
    for json in [schema.clone(), schema.to_string().into()] {
        for text in texts(server.address(), &json!({"json": json})) {
            let value: Value = serde_json::from_str(&text).unwrap();
            assert!((1..=9).contains(&value["age"].as_i64().unwrap()), "{text}");
        }
    }
    for text in texts(server.address(), &json!({"grammar": "start: \"(\" start? \")\" | X\nX: /x{3}/"})) {
        assert!(text.trim_start_matches('(').trim_end_matches(')').trim_matches('x').is_empty(), "{text}");
    }
    let object =
        post(server.address(), "/v1/chat/completions", &chat(json!({"json_object": true, "json": null}))).json();
    assert!(object["choices"][0]["message"]["content"].as_str().unwrap().starts_with('{'), "{object}");
    assert!(server.stop());
}

#[test]
fn what_is_no_form_is_refused_by_name() {
    let server = server();
    let many: Vec<String> = (0..1025).map(|number| number.to_string()).collect();
    for (param, outputs) in [
        ("", json!({})),
        ("", json!("json")),
        ("", json!({"json_object": false})),
        ("", json!({"regex": "a", "choice": ["a"]})),
        ("", json!({"disable_any_whitespace": true})),
        (".json", json!({"json": 1})),
        (".json", json!({"json": "{"})),
        (".json", json!({"json": "[]"})),
        (".json", json!({"json": {"type": "colour"}})),
        (".json", json!({"json": {"enum": ["x".repeat(300_000)]}})),
        (".json_object", json!({"json_object": 1})),
        (".regex", json!({"regex": 1})),
        (".regex", json!({"regex": "("})),
        (".regex", json!({"regex": "a(?=b)"})),
        (".regex", json!({"regex": "a".repeat(100_000)})),
        (".choice", json!({"choice": "yes"})),
        (".choice", json!({"choice": []})),
        (".choice", json!({"choice": ["a", 1]})),
        (".choice", json!({"choice": many})),
        (".choice", json!({"choice": ["a".repeat(70_000)]})),
        (".grammar", json!({"grammar": ["a"]})),
        (".grammar", json!({"grammar": "root ::= \"a\""})),
        (".grammar", json!({"grammar": ""})),
        (".grammar", json!({"grammar": "start: \"a\"\n".repeat(10_000)})),
        (".whitespace_pattern", json!({"regex": "a", "whitespace_pattern": " "})),
        (".structural_tag", json!({"structural_tag": "{}"})),
        (".disable_additional_properties", json!({"json": {}, "disable_additional_properties": true})),
        (".secret", json!({"regex": "a", "secret": 1})),
    ] {
        for (path, body) in
            [("/v1/chat/completions", chat(outputs.clone())), ("/v1/completions", completion(outputs.clone()))]
        {
            let found = refusal(&post(server.address(), path, &body));
            assert_eq!(found, Some(format!("structured_outputs{param}")), "{outputs}");
        }
    }
    assert!(server.stop());
}

#[test]
fn forms_that_contradict_each_other_are_refused() {
    let server = server();
    let mut body = chat(json!({"regex": "a"}));
    body["response_format"] = json!({"type": "json_object"});
    assert_eq!(refusal(&post(server.address(), "/v1/chat/completions", &body)).as_deref(), Some("structured_outputs"));
    let mut body = chat(json!({"regex": "a"}));
    body["tools"] = json!([{"type": "function", "function": {"name": "f"}}]);
    body["tool_choice"] = "required".into();
    assert_eq!(refusal(&post(server.address(), "/v1/chat/completions", &body)).as_deref(), Some("structured_outputs"));
    let mut body = chat(json!({"regex": "abc"}));
    body["response_format"] = json!({"type": "text"});
    let reply = post(server.address(), "/v1/chat/completions", &body).json();
    assert_eq!(reply["choices"][0]["message"]["content"], "abc");
    assert!(server.stop());
}

/// Definitions, each of which is the next; the last is `end`.
fn chain(count: usize, define: impl Fn(usize) -> String, end: &str) -> String {
    (0..count).map(define).collect::<String>() + end
}

/// They are refused or followed: what counts is that the server answers, before the client's patience ends.
#[test]
fn bombs_do_no_harm() {
    let server = server();
    let links = 9_000;
    let definitions =
        chain(links, |i| format!("\"{i}\":{{\"$ref\":\"#/$defs/{}\"}},", i + 1), &format!("\"{links}\":{{}}"));
    for outputs in [
        json!({"regex": "((((a{1000}){1000}){1000}){1000}){1000}"}),
        json!({"regex": "([ab]*a[ab]{200})"}),
        json!({"regex": "(".repeat(2_000)}),
        json!({"regex": "a?".repeat(500)}),
        json!({"grammar": chain(1_200, |i| format!("T{i}:T{}\n", i + 1), "T1200: \"a\"\nstart: T0")}),
        json!({"grammar": chain(1_200, |i| format!("r{i}:r{}\n", i + 1), "r1200: \"a\"\nstart: r0")}),
        json!({"grammar": format!("start: {}\"a\"", "(".repeat(5_000))}),
        json!({"grammar": "start: start start | \"a\""}),
        json!({"grammar": "start: x{1000,2000000000}\nx: \"a\" | \"b\""}),
        json!({"json": format!("{{\"$ref\":\"#/$defs/0\",\"$defs\":{{{definitions}}}}}")}),
    ] {
        let mut body = completion(outputs.clone());
        body["max_tokens"] = 4.into();
        let reply = post(server.address(), "/v1/completions", &body);
        assert!([200, 400].contains(&reply.status), "{}", reply.text());
    }
    assert_eq!(post(server.address(), "/v1/completions", &json!({"prompt": "a"})).status, 200);
    assert!(server.stop());
}

#[test]
fn nothing_ends_before_min_tokens_but_what_must() {
    let server = server();
    let end = crate::subject::engine(crate::subject::engine_options()).end_tokens()[0].to_string();
    let mut body = json!({"prompt": "Once", "max_tokens": 40, "min_tokens": 7, "logit_bias": {end: 100}, "seed": 1});
    let reply = post(server.address(), "/v1/completions", &body).json();
    assert_eq!(
        (&reply["usage"]["completion_tokens"], &reply["choices"][0]["finish_reason"]),
        (&json!(8), &json!("stop"))
    );
    body["structured_outputs"] = json!({"choice": ["a"]});
    let reply = post(server.address(), "/v1/completions", &body).json();
    assert_eq!(reply["choices"][0]["text"], "a", "{reply}");
    assert!(server.stop());
}
