//! What is refused of messages, and what is passed over, in the words of Anthropic's API.

use std::net::SocketAddr;

use llama_serve::{Bounds, Options};
use serde_json::{Value, json};

use crate::anthropic::{COUNT, PATH, user};
use crate::client::{Client, Reply, post};
use crate::responses::with;
use crate::subject::{Gate, engine, engine_options, serve, serve_with, server};

fn sent(address: SocketAddr, head: &str, body: &str) -> Reply {
    let mut client = Client::connect(address);
    client.send(format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
    client.reply()
}

/// Those that come before an endpoint has seen the request are in its words all the same.
#[test]
fn every_error_at_these_paths_is_in_anthropics_words() {
    const JSON: &str = "Host: localhost\r\nContent-Type: application/json";
    let bounds = Bounds { body: 1000, ..Bounds::default() };
    let server = serve(engine(engine_options()), bounds);
    let long = "a".repeat(1001);
    for (head, body, status, kind) in [
        (format!("POST {PATH} HTTP/1.1\r\n{JSON}"), &*long, 413, "request_too_large"),
        (format!("POST {PATH} HTTP/1.1\r\n{JSON}"), "{", 400, "invalid_request_error"),
        (format!("POST {PATH} HTTP/1.1\r\n{JSON}"), "[]", 400, "invalid_request_error"),
        (format!("POST {COUNT}?beta=true HTTP/1.1\r\n{JSON}"), "{}", 400, "invalid_request_error"),
        (
            format!("POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain"),
            "{}",
            415,
            "invalid_request_error",
        ),
        (
            format!("POST {PATH} HTTP/1.1\r\nHost: example.com\r\nContent-Type: application/json"),
            "{}",
            403,
            "permission_error",
        ),
        (format!("GET {PATH} HTTP/1.1\r\n{JSON}"), "", 405, "invalid_request_error"),
        (format!("POST {PATH}/batches HTTP/1.1\r\n{JSON}"), "{}", 404, "not_found_error"),
        (format!("POST {PATH} HTTP/1.1\r\n{JSON}"), "{\"model\": \"other\"}", 404, "not_found_error"),
    ] {
        let reply = sent(server.address(), &head, body);
        let (found, found_kind, message) = reply.anthropic_error();
        assert_eq!((found, &found_kind[..]), (status, kind), "{head} {message}");
        assert_eq!(reply.header("allow"), (status == 405).then_some("POST"));
    }
    assert!(post(server.address(), "/v1/messagesX", &json!({})).json()["error"]["code"].is_string());
    assert!(server.stop());
}

#[test]
fn keys_are_taken_as_anthropics_clients_bring_them() {
    let options = Options { api_keys: vec!["first".into(), "second".into()], ..Options::default() };
    let server = serve_with(engine(engine_options()), options);
    let body = json!({"messages": [user(json!("Once"))], "max_tokens": 2}).to_string();
    let ask = |key: &str| {
        let head = format!(
            "POST {PATH}?beta=true HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             anthropic-version: 2023-06-01\r\nanthropic-beta: a,b{key}"
        );
        sent(server.address(), &head, &body)
    };
    for right in
        ["\r\nx-api-key: second", "\r\nAuthorization: Bearer first", "\r\nX-Api-Key: first\r\nAuthorization: Bearer x"]
    {
        assert_eq!(ask(right).status, 200, "{right}");
    }
    for wrong in ["", "\r\nx-api-key: third", "\r\nx-api-key: Bearer first", "\r\nx-api-key:"] {
        let (status, kind, message) = ask(wrong).anthropic_error();
        assert_eq!((status, &kind[..]), (401, "authentication_error"), "{wrong}");
        assert!(message.contains("x-api-key"), "{message}");
    }
    assert!(server.stop());
}

#[test]
fn too_many_at_once_are_a_rate_limit() {
    let gate = Gate::default();
    let server = serve(gate.engine(engine_options()), Bounds { sequences: 1, ..Bounds::default() });
    let body = json!({"messages": [user(json!("Once"))], "max_tokens": 1});
    let mut first = Client::connect(server.address());
    first.post(PATH, &with(body.clone(), &json!({"stream": true})).to_string());
    assert_eq!(first.head().unwrap().status, 200);
    let reply = post(server.address(), PATH, &body);
    let (status, kind, _) = reply.anthropic_error();
    assert_eq!((status, &kind[..], reply.header("retry-after")), (429, "rate_limit_error", Some("1")));
    gate.open();
    while first.chunk().is_some_and(|chunk| !chunk.is_empty()) {}
    assert!(server.stop());
}

/// Fields, what an error's message begins with, and values that no server should take.
const BAD: [(&str, &str, &str); 50] = [
    ("messages", "messages", "null 1 \"hi\" {} []"),
    ("messages", "messages[0]", "[1] [null] [[]] [\"hi\"]"),
    (
        "messages",
        "messages[0].role",
        r#"[{}] [{"role":1,"content":"a"}] [{"role":"tool","content":"a"}] [{"role":"developer","content":"a"}]"#,
    ),
    (
        "messages",
        "messages[0].content",
        r#"[{"role":"user"}] [{"role":"user","content":1}] [{"role":"user","content":{}}] [{"role":"user","content":[1]}] [{"role":"assistant","content":null}] [{"role":"user","content":[]}] [{"role":"system"}]"#,
    ),
    (
        "messages",
        "messages[0].content[0].type",
        r#"[{"role":"user","content":[{}]}] [{"role":"user","content":[{"type":"image","source":{}}]}] [{"role":"user","content":[{"type":"document"}]}] [{"role":"user","content":[{"type":"tool_use","id":"a","name":"f","input":{}}]}] [{"role":"user","content":[{"type":"thinking"}]}] [{"role":"assistant","content":[{"type":"tool_result","tool_use_id":"a"}]}] [{"role":"assistant","content":[{"type":"server_tool_use"}]}] [{"role":"system","content":[{"type":"image"}]}] [{"role":"user","content":[{"type":1}]}]"#,
    ),
    (
        "messages",
        "messages[0].content[0].text",
        r#"[{"role":"user","content":[{"type":"text"}]}] [{"role":"user","content":[{"type":"text","text":1}]}]"#,
    ),
    (
        "messages",
        "messages[0].content[0].secret",
        r#"[{"role":"user","content":[{"type":"text","text":"a","secret":1}]}]"#,
    ),
    ("messages", "messages[0].secret", r#"[{"role":"user","content":"a","secret":1}]"#),
    ("messages", "messages[0].name", r#"[{"role":"user","content":"a","name":"b"}]"#),
    (
        "messages",
        "messages[0].content[0].tool_use_id",
        r#"[{"role":"user","content":[{"type":"tool_result"}]}] [{"role":"user","content":[{"type":"tool_result","tool_use_id":"a"}]}]"#,
    ),
    ("messages", "messages[0].content[0].id", r#"[{"role":"assistant","content":[{"type":"tool_use"}]}]"#),
    ("messages", "messages[0].content[0].name", r#"[{"role":"assistant","content":[{"type":"tool_use","id":"a"}]}]"#),
    (
        "messages",
        "messages[0].content[0].input",
        r#"[{"role":"assistant","content":[{"type":"tool_use","id":"a","name":"f"}]}] [{"role":"assistant","content":[{"type":"tool_use","id":"a","name":"f","input":"{}"}]}] [{"role":"assistant","content":[{"type":"tool_use","id":"a","name":"f","input":[]}]}]"#,
    ),
    (
        "messages",
        "messages[1].content[0].content[0].type",
        r#"[{"role":"assistant","content":[{"type":"tool_use","id":"a","name":"f","input":{}}]},{"role":"user","content":[{"type":"tool_result","tool_use_id":"a","content":[{"type":"image"}]}]}]"#,
    ),
    (
        "messages",
        "messages[1].content[0].is_error",
        r#"[{"role":"assistant","content":[{"type":"tool_use","id":"a","name":"f","input":{}}]},{"role":"user","content":[{"type":"tool_result","tool_use_id":"a","is_error":1}]}]"#,
    ),
    ("system", "system", "1 {} true [1]"),
    ("system", "system[0].type", r#"[{}] [{"type":"image"}]"#),
    ("max_tokens", "max_tokens", "null 0 -1 1.5 18446744073709551616 \"5\""),
    ("max_completion_tokens", "max_completion_tokens", "5"),
    ("min_tokens", "min_tokens", "5 -1"),
    ("n", "n", "0 2 \"1\""),
    ("temperature", "temperature", "-0.1 2.5 1e39 \"1\""),
    ("top_p", "top_p", "1.1 \"1\""),
    ("top_k", "top_k", "-2 1.5"),
    ("stop", "stop", "\"a\" [\"a\"] 1"),
    (
        "stop_sequences",
        "stop_sequences",
        "\"a\" 1 [1] [null] {} [\"\"] [\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\"]",
    ),
    ("stream", "stream", "1 \"true\""),
    ("logprobs", "logprobs", "true"),
    ("response_format", "response_format", "{\"type\":\"text\"}"),
    ("continue_final_message", "continue_final_message", "true false"),
    ("chat_template_kwargs", "chat_template_kwargs", "1 [] {\"messages\":[]}"),
    ("tools", "tools", "1 {} \"f\" [{\"name\":\"f\",\"input_schema\":{}}]"),
    ("tools", "tools[0]", "[1] [null] [[]]"),
    (
        "tools",
        "tools[0].type",
        r#"[{"type":"web_search_20250305","name":"web_search"}] [{"type":"bash_20250124","name":"bash"}] [{"type":"function","function":{"name":"f"}}]"#,
    ),
    (
        "tools",
        "tools[0].name",
        r#"[{"input_schema":{}}] [{"name":"","input_schema":{}}] [{"name":"a\"b","input_schema":{}}] [{"name":1,"input_schema":{}}]"#,
    ),
    ("tools", "tools[1].name", r#"[{"name":"f","input_schema":{}},{"name":"f","input_schema":{}}]"#),
    (
        "tools",
        "tools[0].input_schema",
        r#"[{"name":"f"}] [{"name":"f","input_schema":1}] [{"name":"f","input_schema":{"type":"string"}}]"#,
    ),
    ("tools", "tools[0].defer_loading", r#"[{"name":"f","input_schema":{},"defer_loading":true}]"#),
    ("tools", "tools[0].parameters", r#"[{"name":"f","input_schema":{},"parameters":{}}]"#),
    ("tool_choice", "tool_choice", "\"auto\" 1 []"),
    ("tool_choice", "tool_choice.type", r#"{} {"type":"required"} {"type":"function","name":"f"}"#),
    ("tool_choice", "tool_choice.disable_parallel_tool_use", r#"{"type":"auto","disable_parallel_tool_use":1}"#),
    (
        "thinking",
        "thinking.type",
        r#"{} {"type":"enabled","budget_tokens":1024} {"type":"between_tools"} {"type":true}"#,
    ),
    ("thinking", "thinking", r#"1 true {"type":"disabled","budget_tokens":0} {"type":"disabled","secret":1}"#),
    ("output_config", "output_config.effort", r#"{"effort":"low"}"#),
    (
        "output_config",
        "output_config.format",
        r#"{"format":1} {"format":{}} {"format":{"type":"json_schema"}} {"format":{"type":"json_schema","schema":{"type":"colour"}}}"#,
    ),
    ("output_format", "output_format", r#"1 {"type":"json_schema"}"#),
    ("service_tier", "service_tier", "\"priority\" 1"),
    ("context_management", "context_management", r#"1 {"edits":[{"type":"clear_tool_uses_20250919"}]} {"edits":1}"#),
    ("container", "container", "\"a\""),
];

#[test]
fn bad_values_are_named() {
    let server = server();
    let base = json!({"messages": [user(json!("Hello"))], "max_tokens": 4});
    let mut client = Client::connect(server.address());
    for (field, names, values) in BAD {
        for value in values.split(' ') {
            let mut fields = base.as_object().unwrap().clone();
            fields.shift_remove(field);
            let rest = Value::from(fields).to_string();
            client.post(PATH, &rest.replacen('{', &format!("{{\"{field}\":{value},"), 1));
            let reply = client.reply();
            assert_eq!(reply.status, 400, "{field} = {value}: {}", reply.text());
            let (_, kind, message) = reply.anthropic_error();
            assert_eq!(kind, "invalid_request_error", "{field} = {value}: {message}");
            assert!(message.starts_with(names) && message.len() < 1000, "{field} = {value}: {message}");
        }
    }
    for unknown in [json!({"max_tokens": 1}), json!({"stream": true}), json!({"metadatas": 1})] {
        let body = with(json!({"messages": [user(json!("Hello"))]}), &unknown);
        let (status, kind, _) = post(server.address(), COUNT, &body).anthropic_error();
        assert_eq!((status, &kind[..]), (400, "invalid_request_error"), "{unknown}");
    }
    let named = |longest: usize| json!({"tools": [{"name": "f".repeat(longest), "input_schema": {}}]});
    for (longest, names) in [(128, "tools: "), (129, "tools[0].name is ")] {
        let (_, _, message) = post(server.address(), PATH, &with(base.clone(), &named(longest))).anthropic_error();
        // The template of this server has no place for any.
        assert!(message.starts_with(names), "{message}");
    }
    let thread = post(server.address(), PATH, &with(base.clone(), &json!({"thread": {"type": "create"}})));
    // Clients that know this code send the whole conversation.
    assert_eq!(thread.json()["error"]["details"], json!({"error_code": "thread_unsupported_request"}));
    let both = json!({"output_format": {"type": "text"}, "output_config": {"format": {"type": "text"}}});
    assert!(post(server.address(), PATH, &with(base.clone(), &both)).anthropic_error().2.starts_with("output_format"));
    assert_eq!(post(server.address(), PATH, &base).status, 200);
    assert_eq!(server.stats().blocks_used, 0);
    assert!(server.stop());
}

#[test]
fn what_changes_no_answer_is_taken() {
    let server = server();
    let edits = json!({"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]});
    let same = json!({
        "model": "stories", "messages": [user(json!("a"))], "tools": [], "tool_choice": {"type": "auto"}, "speed": "standard",
        "cache_control": {"type": "ephemeral"}, "thinking": {"type": "disabled"}, "output_config": {"effort": null},
        "context_management": edits, "mcp_servers": [], "metadata": {"user_id": "me"}, "service_tier": "standard_only",
        "container": null, "diagnostics": {"previous_message_id": null}, "system": [],
    });
    let more = json!({"max_tokens": 2, "stop_sequences": [], "temperature": null, "top_k": 0, "n": 1, "stop": null});
    let reply = post(server.address(), PATH, &with(same.clone(), &more));
    assert_eq!(reply.status, 200, "{}", reply.text());
    let count = |body: &Value| post(server.address(), COUNT, body).json()["input_tokens"].as_u64().unwrap();
    assert_eq!(count(&same), count(&json!({"messages": same["messages"]})));
    assert!(server.stop());
}
