//! Responses are chats in other words: the same prompts, the same texts, and the same told whole or as it comes.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use llama_core::engine::EngineOptions;
use llama_serve::{Bounds, Options, Server};
use serde_json::{Value, json};

use crate::client::{Client, Reply, post};
use crate::subject::{engine, engine_options, hooked, serve, serve_template, server};
use crate::tools::{MISTRAL, SHORT, Script, TEMPLATE};

const PATH: &str = "/v1/responses";

pub fn with(mut body: Value, more: &Value) -> Value {
    more.as_object().unwrap().iter().for_each(|(key, value)| body[key] = value.clone());
    body
}

fn ask(address: SocketAddr, body: &Value) -> Value {
    let reply = post(address, PATH, body);
    assert_eq!(reply.status, 200, "{body}: {}", reply.text());
    reply.json()
}

/// The events of a stream, and the response that they come to, checked as a reader who trusts nothing would.
pub fn stream(address: SocketAddr, body: &Value) -> (Vec<Value>, Value) {
    let reply = post(address, PATH, &with(body.clone(), &json!({"stream": true})));
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("text/event-stream")), "{}", reply.text());
    let events = reply.numbered_events();
    let [created, in_progress, rest @ .., last] = &events[..] else { panic!("{events:?}") };
    for (event, kind) in [(created, "response.created"), (in_progress, "response.in_progress")] {
        let response = &event["response"];
        assert_eq!((&event["type"], &response["status"]), (&json!(kind), &json!("in_progress")), "{event}");
        assert_eq!((&response["output"], &response["usage"]), (&json!([]), &Value::Null), "{event}");
    }
    let response = &last["response"];
    assert_eq!(last["type"], format!("response.{}", response["status"].as_str().unwrap()), "{last}");
    assert_eq!(Value::from(replayed(rest)), response["output"], "{events:?}");
    (events.clone(), response.clone())
}

/// The items that events add up to.
fn replayed(events: &[Value]) -> Vec<Value> {
    let mut items: Vec<Value> = Vec::new();
    let mut open = false;
    for event in events {
        let kind = event["type"].as_str().unwrap();
        if kind == "response.output_item.added" {
            assert!(!open && event["output_index"] == items.len(), "{event}");
            assert_eq!(event["item"]["status"], "in_progress", "{event}");
            items.push(event["item"].clone());
            open = true;
            continue;
        }
        assert!(open && event["output_index"] == items.len() - 1, "{event}");
        let item = items.last_mut().unwrap();
        if kind == "response.output_item.done" {
            // Only a status was not told before.
            item["status"] = event["item"]["status"].clone();
            assert_eq!(*item, event["item"], "{event}");
            open = false;
            continue;
        }
        assert_eq!(event["item_id"], item["id"], "{event}");
        apply(item, kind, event);
    }
    assert!(!open, "an item was not done");
    items
}

fn apply(item: &mut Value, kind: &str, event: &Value) {
    let joined = |text: &Value, more: &Value| json!(format!("{}{}", text.as_str().unwrap(), more.as_str().unwrap()));
    match kind {
        "response.content_part.added" => {
            assert_eq!((&item["content"], &event["content_index"]), (&json!([]), &json!(0)), "{event}");
            item["content"] = json!([event["part"]]);
        }
        "response.output_text.delta" => {
            let part = &mut item["content"][0];
            part["text"] = joined(&part["text"], &event["delta"]);
            part["logprobs"].as_array_mut().unwrap().extend(event["logprobs"].as_array().unwrap().clone());
        }
        "response.output_text.done" => {
            let part = &item["content"][0];
            assert_eq!((&event["text"], &event["logprobs"]), (&part["text"], &part["logprobs"]), "{event}");
        }
        "response.reasoning_text.delta" => {
            let part = &mut item["content"][0];
            part["text"] = joined(&part["text"], &event["delta"]);
        }
        "response.reasoning_text.done" => assert_eq!(event["text"], item["content"][0]["text"], "{event}"),
        "response.content_part.done" => assert_eq!(event["part"], item["content"][0], "{event}"),
        "response.function_call_arguments.delta" => item["arguments"] = joined(&item["arguments"], &event["delta"]),
        "response.function_call_arguments.done" => assert_eq!(event["arguments"], item["arguments"], "{event}"),
        other => panic!("{other}"),
    }
}

/// A response without what differs from one answer to the same request to the next.
fn nameless(mut response: Value) -> Value {
    let prefixed = |value: &mut Value, prefix: &str| {
        assert!(value.take().as_str().is_some_and(|id| id.starts_with(prefix) && id.len() > 32), "{prefix}");
    };
    prefixed(&mut response["id"], "resp_");
    response["created_at"].take();
    for item in response["output"].as_array_mut().unwrap() {
        let called = item["type"] == "function_call";
        prefixed(&mut item["id"], if called { "fc_" } else { "msg_" });
        if called {
            prefixed(&mut item["call_id"], "call_");
        }
    }
    response
}

fn text(response: &Value) -> &str {
    let items = response["output"].as_array().unwrap();
    assert_eq!((items.len(), &items[0]["type"]), (1, &json!("message")), "{response}");
    items[0]["content"][0]["text"].as_str().unwrap()
}

#[test]
fn a_response_says_what_a_chat_does() {
    let server = server();
    let address = server.address();
    let same = json!({"temperature": 0, "stop": "!", "frequency_penalty": 0.25});
    let tools = json!([{"type": "function", "name": "f", "parameters": null, "strict": null}]);
    let asked = with(
        json!({
            "model": "stories", "instructions": "Tell stories.", "input": "Once </s>upon<s>", "max_output_tokens": 30,
            "metadata": {"a": "b"}, "tools": tools, "tool_choice": "none", "top_p": 1,
        }),
        &same,
    );
    let messages =
        json!([{"role": "system", "content": "Tell stories."}, {"role": "user", "content": "Once </s>upon<s>"}]);
    let chat = with(json!({"messages": messages, "max_tokens": 30}), &same);
    let chat = post(address, "/v1/chat/completions", &chat).json();
    let (prompt, generated) = (&chat["usage"]["prompt_tokens"], &chat["usage"]["completion_tokens"]);
    let response = ask(address, &asked);
    let cached = prompt.as_u64().unwrap() - 1;
    let cached = cached - cached % 16;
    let content = json!([{
        "type": "output_text", "text": chat["choices"][0]["message"]["content"], "annotations": [], "logprobs": [],
    }]);
    let expected = json!({
        "id": null, "object": "response", "created_at": null, "status": "incomplete", "error": null,
        "incomplete_details": {"reason": "max_output_tokens"}, "model": "stories",
        "output": [
            {"id": null, "type": "message", "status": "incomplete", "role": "assistant", "content": content},
        ],
        "usage": {
            "input_tokens": prompt, "input_tokens_details": {"cached_tokens": cached},
            "output_tokens": generated, "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": chat["usage"]["total_tokens"],
        },
        "instructions": "Tell stories.", "max_output_tokens": 30, "max_tool_calls": null, "metadata": {"a": "b"},
        "parallel_tool_calls": true, "previous_response_id": null, "reasoning": null, "temperature": 0,
        "text": {"format": {"type": "text"}}, "tool_choice": "none", "tools": tools, "top_logprobs": 0, "top_p": 1,
        "truncation": "disabled", "service_tier": "default", "store": false, "background": false,
    });
    assert_eq!(nameless(response), expected);
    let defaults = ask(address, &json!({"input": "Once", "max_output_tokens": 1}));
    for (name, value) in [
        ("instructions", Value::Null),
        ("metadata", json!({})),
        ("temperature", json!(1.0)),
        ("tool_choice", json!("auto")),
        ("tools", json!([])),
    ] {
        assert_eq!(defaults[name], value, "{name}");
    }
    assert!(server.stop());
}

#[test]
fn a_streams_events_come_to_the_whole_response() {
    let server = server();
    for more in [
        json!({}),
        json!({"temperature": 1.3, "seed": 5, "max_output_tokens": 90, "stop": ["the", " a "]}),
        json!({"temperature": 1, "seed": 6, "input": "🦙🦙"}),
        json!({"max_output_tokens": 1}),
        json!({"stop": "e"}),
        json!({"include": ["message.output_text.logprobs"], "top_logprobs": 2, "stop": ["was", "."]}),
        json!({"include": ["message.output_text.logprobs"], "temperature": 2, "seed": 1, "input": "é🦙"}),
        json!({"text": {"format": {"type": "json_object"}}, "seed": 3}),
        json!({"structured_outputs": {"choice": ["yes", "no"]}}),
        json!({"input": [{"role": "assistant", "content": "Once"}], "instructions": "Go on."}),
    ] {
        let body = with(json!({"input": "Once upon a time", "max_output_tokens": 40, "temperature": 0}), &more);
        let whole = ask(server.address(), &body);
        let (events, mut told) = stream(server.address(), &body);
        // It finds the first one's prompt.
        told["usage"]["input_tokens_details"] = whole["usage"]["input_tokens_details"].clone();
        assert_ne!(told["id"], whole["id"]);
        assert!(events.iter().all(|event| event["response"].is_null() || event["response"]["id"] == told["id"]));
        let cut = whole["usage"]["output_tokens"] == body["max_output_tokens"];
        assert_eq!(whole["status"], if cut { "incomplete" } else { "completed" }, "{more}");
        let scored = whole["output"][0]["content"][0]["logprobs"].as_array().unwrap().len();
        assert_eq!(scored > 0, body.get("include").is_some(), "{more}");
        assert_eq!(nameless(told), nameless(whole), "{more}");
    }
    assert!(server.stop());
}

#[test]
fn scores_are_a_chats() {
    let server = server();
    let messages = json!([{"role": "user", "content": "Once"}]);
    let chat = json!({"messages": messages, "max_tokens": 12, "temperature": 0, "logprobs": true, "top_logprobs": 3});
    let chat = post(server.address(), "/v1/chat/completions", &chat).json();
    let include = json!(["message.output_text.logprobs"]);
    let body =
        json!({"input": "Once", "max_output_tokens": 12, "temperature": 0, "top_logprobs": 3, "include": include});
    let response = ask(server.address(), &body);
    let scores = &response["output"][0]["content"][0]["logprobs"];
    assert_eq!((scores, scores.as_array().unwrap().len()), (&chat["choices"][0]["logprobs"]["content"], 12));
    let tools = json!({"tools": [{"type": "function", "name": "f"}]});
    let (status, _, param) = post(server.address(), PATH, &with(body, &tools)).error();
    assert_eq!((status, param.as_deref()), (400, Some("include")));
    assert!(server.stop());
}

/// A server whose logits are not finite any more once its answer to `body`, which comes back, has said `once`.
pub fn breaking(path: &str, body: &Value, once: &str) -> (Server, Reply) {
    let broken = Arc::new(AtomicBool::new(false));
    let hook = broken.clone();
    let failing = hooked(
        engine_options(),
        Box::new(move |_, logits| {
            std::thread::sleep(Duration::from_millis(5));
            if hook.load(Ordering::Relaxed) {
                logits.fill(f32::NAN);
            }
            Ok(())
        }),
    );
    let server = serve(failing, Bounds::default());
    let mut client = Client::connect(server.address());
    client.post(path, &body.to_string());
    let mut reply = client.head().unwrap();
    while let Some(chunk) = client.chunk().filter(|chunk| !chunk.is_empty()) {
        reply.body.extend(chunk);
        // An error that comes before a stream has begun is its status.
        broken.fetch_or(reply.text().contains(once), Ordering::Relaxed);
    }
    (server, reply)
}

/// A server, and the tokens of all its prompts so far.
pub fn listening(template: &str) -> (Server, Arc<Mutex<Vec<u32>>>) {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hook = heard.clone();
    let options = EngineOptions { prefix_cache: false, ..engine_options() };
    let engine = hooked(
        options,
        Box::new(move |batch, _| {
            hook.lock().unwrap().extend_from_slice(&batch.tokens);
            Ok(())
        }),
    );
    (serve_template(engine, template, Options::default()), heard)
}

fn item_call(id: &str) -> Value {
    json!({"type": "function_call", "call_id": id, "name": "get_time", "arguments": "{\"zone\": \"<s>\"}", "id": "fc_1"})
}

fn item_answer(id: &str, output: Value) -> Value {
    json!({"type": "function_call_output", "call_id": id, "output": output, "status": "completed"})
}

pub fn chat_call(id: &str) -> Value {
    json!({"id": id, "type": "function", "function": {"name": "get_time", "arguments": "{\"zone\": \"<s>\"}"}})
}

pub fn chat_answer(id: &str, content: &str) -> Value {
    json!({"role": "tool", "tool_call_id": id, "content": content})
}

/// Conversations as items, and as messages.
fn conversations() -> Vec<(Value, Value)> {
    let user = json!({"role": "user", "content": "Time?"});
    let noon = json!({"role": "assistant", "content": "Noon."});
    let told = json!({
        "type": "message", "role": "assistant", "id": "msg_1", "status": "completed", "phase": null,
        "content": [{"type": "output_text", "text": "No", "annotations": [], "logprobs": []}, {"type": "output_text", "text": "on."}],
    });
    let parts = json!([{"type": "input_text", "text": "1"}, {"type": "input_text", "text": "3"}]);
    let calls = |content: &str, ids: &[&str]| {
        let calls: Vec<_> = ids.iter().map(|id| chat_call(id)).collect();
        json!({"role": "assistant", "content": content, "tool_calls": calls})
    };
    let answers = [item_answer("a", json!("</s>12")), item_answer("b", parts)];
    let [first, second] = [chat_answer("a", "</s>12"), chat_answer("b", "13")];
    let [called, also] = [item_call("a"), item_call("b")];
    vec![
        (json!("Time?"), json!([user])),
        (
            json!([{"type": "message", "role": "developer", "content": "Be short."}, user]),
            json!([{"role": "system", "content": "Be short."}, user]),
        ),
        (json!([user, told, user]), json!([user, noon, user])),
        (json!([user, noon, told]), json!([user, noon, noon])),
        (json!([user, called, also, answers[0], answers[1]]), json!([user, calls("", &["a", "b"]), first, second])),
        (
            json!([user, called, answers[0], also, answers[1], noon]),
            json!([user, calls("", &["a"]), first, calls("", &["b"]), second, noon]),
        ),
        (json!([user, told, called, also, answers[1]]), json!([user, calls("Noon.", &["a", "b"]), second])),
        // As an answer of this server has it: the text comes after the calls.
        (json!([user, called, also, told, answers[0]]), json!([user, calls("Noon.", &["a", "b"]), first])),
        (json!([called, noon, noon, also]), json!([calls("Noon.", &["a"]), calls("Noon.", &["b"])])),
    ]
}

#[test]
fn items_are_the_messages_of_a_chat() {
    let (server, heard) = listening(TEMPLATE);
    let prompt = || std::mem::take(&mut *heard.lock().unwrap());
    for (items, messages) in conversations() {
        let response = ask(server.address(), &json!({"input": items, "max_output_tokens": 1}));
        let tokens = prompt();
        assert_eq!(response["usage"]["input_tokens"], tokens.len(), "{items}");
        let chat = json!({"messages": messages, "max_tokens": 1});
        let reply = post(server.address(), "/v1/chat/completions", &chat);
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(tokens, prompt(), "{items}");
    }
    let schema = json!({"type": "object", "properties": {"a": {"enum": ["<s>"]}}});
    let function = json!({"name": "f", "description": "F", "parameters": schema});
    let flat = with(json!({"type": "function", "strict": true}), &function);
    let nested = json!({"type": "function", "function": function});
    ask(server.address(), &json!({"input": "Time?", "tools": [flat], "max_output_tokens": 1}));
    let tokens = prompt();
    let messages = json!([{"role": "user", "content": "Time?"}]);
    post(server.address(), "/v1/chat/completions", &json!({"messages": messages, "tools": [nested], "max_tokens": 1}));
    assert_eq!(tokens, prompt());
    assert!(server.stop());
}

#[test]
fn a_conversation_that_the_template_refuses_is_a_400_about_the_input() {
    let template = "{% if messages[0].role == 'system' %}{{ raise_exception('no instructions') }}{% endif %}a";
    let server = serve_template(engine(engine_options()), template, Options::default());
    let refused = |body: Value| post(server.address(), PATH, &body).error();
    let error = refused(json!({"input": "a", "instructions": "b"}));
    assert_eq!(error, (400, "invalid_value".into(), Some("input".into())));
    // Neither has it a place for tools.
    let error = refused(json!({"input": [item_call("a")]}));
    assert_eq!(error, (400, "unsupported_parameter".into(), Some("input".into())));
    let error = refused(json!({"input": "a", "tools": [{"type": "function", "name": "f"}]}));
    assert_eq!(error, (400, "unsupported_parameter".into(), Some("tools".into())));
    assert!(server.stop());
}

fn with_tools(more: Value) -> Value {
    let tool = |name: &str| json!({"type": "function", "name": name});
    let body = json!({"input": "Time?", "tools": [tool("get_time"), tool("get_date")], "temperature": 0});
    with(body, &more)
}

/// Name and arguments of the calls, and the text after them.
fn said(response: &Value) -> (Vec<[&str; 2]>, Option<&str>) {
    let items = response["output"].as_array().unwrap();
    let calls = items
        .iter()
        .filter(|item| item["type"] == "function_call")
        .inspect(|call| assert_eq!(call["status"], "completed"));
    let calls = calls.map(|call| ["name", "arguments"].map(|field| call[field].as_str().unwrap()));
    let message = items.last().filter(|last| last["type"] == "message");
    let calls: Vec<_> = calls.collect();
    assert_eq!(items.len(), calls.len() + usize::from(message.is_some()), "{response}");
    (calls, message.map(|message| message["content"][0]["text"].as_str().unwrap()))
}

#[test]
fn calls_are_items() {
    let script = Script::default();
    let server = script.server_of(SHORT);
    let time = r#"{"name": "get_time", "arguments": {"zone": "é"}}"#;
    let date = r#"{"name": "get_date", "parameters": {}}"#;
    let (time_call, date_call) = (["get_time", r#"{"zone": "é"}"#], ["get_date", "{}"]);
    for (words, calls, message, more) in [
        (time.to_owned(), &[time_call][..], None, json!({})),
        (format!("{time}; {date}\n"), &[time_call, date_call], None, json!({})),
        (format!("{date} I call"), &[date_call], Some(" I call"), json!({})),
        (format!("{date};{date}"), &[date_call], Some(&*format!(";{date}")), json!({"parallel_tool_calls": false})),
        ("Sunny {".into(), &[], Some(" Sunny {"), json!({})),
        (String::new(), &[], Some(""), json!({})),
        (time.into(), &[], Some(&*format!(" {time}")), json!({"tool_choice": "none"})),
        (time.into(), &[], Some(" {\"name\": \"get_time\","), json!({"stop": " \"arg"})),
    ] {
        script.tell(&words);
        let body = with_tools(more);
        let whole = ask(server.address(), &body);
        assert_eq!((said(&whole), &whole["status"]), ((calls.to_vec(), message), &json!("completed")), "{words}");
        script.tell(&words);
        let (_, told) = stream(server.address(), &body);
        assert_eq!(nameless(told), nameless(whole), "{words}");
    }
    script.tell(time);
    let cut = ask(server.address(), &with_tools(json!({"max_output_tokens": 12})));
    assert_eq!((&cut["status"], &cut["output"][0]["status"]), (&json!("incomplete"), &json!("incomplete")), "{cut}");
    let (calls, text) = said(&cut);
    assert!(calls.is_empty() && time.starts_with(text.unwrap().trim()), "{cut}");
    assert!(server.stop());
}

/// What was answered is taken back as it is, with the calls' outputs.
#[test]
fn items_go_to_and_fro() {
    for (template, words) in [
        (TEMPLATE, r#"{"name": "get_time", "arguments": {}}; {"name": "get_date", "arguments": {}} And wait."#),
        (MISTRAL, r#"[{"name": "get_time", "arguments": {}}, {"name": "get_date", "arguments": {}}]"#),
    ] {
        let script = Script::default();
        let server = script.server_of(template);
        let tools = json!({"tool_choice": null});
        script.tell(words);
        let mut input = vec![json!({"role": "user", "content": "Time?"})];
        let response = ask(server.address(), &with_tools(with(tools, &json!({"input": input}))));
        let items = response["output"].as_array().unwrap();
        let ids: Vec<_> = items.iter().filter_map(|item| item["call_id"].as_str()).collect();
        assert_eq!(ids.len(), 2, "{response}");
        input.extend(items.iter().cloned());
        input.extend(ids.iter().map(|id| item_answer(id, json!("12"))));
        script.tell("Noon.");
        let response = ask(server.address(), &with_tools(json!({"input": input})));
        assert_eq!(text(&response).trim(), "Noon.", "{response}");
        assert!(server.stop());
    }
}

#[test]
fn a_call_that_is_demanded_comes() {
    let server = serve_template(engine(engine_options()), SHORT, Options::default());
    for seed in 0..4 {
        for choice in [json!("required"), json!({"type": "function", "name": "get_date"})] {
            let body =
                with_tools(json!({"tool_choice": choice, "seed": seed, "temperature": 1.5, "max_output_tokens": 200}));
            let whole = ask(server.address(), &body);
            let (calls, message) = said(&whole);
            assert_eq!((calls.len(), message, calls[0][1]), (1, None, "{}"), "{whole}");
            assert!(choice == "required" || calls[0][0] == "get_date", "{whole}");
            assert_eq!(nameless(stream(server.address(), &body).1), nameless(whole));
        }
    }
    for (param, more) in [
        ("tool_choice.name", json!({"tool_choice": {"type": "function", "name": "launch"}})),
        ("tool_choice.name", json!({"tool_choice": {"type": "function"}})),
        ("tool_choice.function", json!({"tool_choice": {"type": "function", "name": "get_time", "function": {}}})),
        ("text.format", json!({"tool_choice": "required", "text": {"format": {"type": "json_object"}}})),
        ("structured_outputs", json!({"tool_choice": "required", "structured_outputs": {"regex": "a"}})),
        (
            "tools[0].parameters",
            json!({"tool_choice": "required", "tools": [{"type": "function", "name": "f", "parameters": {"$ref": "#/nowhere"}}]}),
        ),
    ] {
        let (status, _, named) = post(server.address(), PATH, &with_tools(more)).error();
        assert_eq!((status, named.as_deref()), (400, Some(param)));
    }
    assert!(server.stop());
}

#[test]
fn an_answer_keeps_to_its_schema() {
    let server = server();
    let schema = json!({
        "type": "object", "properties": {"age": {"type": "integer", "minimum": 1, "maximum": 9}}, "required": ["age"],
        "additionalProperties": false,
    });
    let format = json!({"type": "json_schema", "name": "person", "strict": true, "schema": schema});
    let body = json!({"input": "A person, as JSON", "text": {"format": format}, "temperature": 1.5, "seed": 2});
    let response = ask(server.address(), &body);
    let person: Value = serde_json::from_str(text(&response)).unwrap();
    assert!((1..=9).contains(&person["age"].as_i64().unwrap()), "{response}");
    assert_eq!((&response["text"]["format"], &response["status"]), (&format, &json!("completed")));
    let both = json!({"structured_outputs": {"regex": "a"}});
    let (status, _, named) = post(server.address(), PATH, &with(body, &both)).error();
    assert_eq!((status, named.as_deref()), (400, Some("structured_outputs")));
    assert!(server.stop());
}

#[test]
fn a_stream_that_fails_ends_with_a_response_that_says_so() {
    let body = json!({"input": "Once", "temperature": 0, "stream": true, "ignore_eos": true, "max_output_tokens": 450});
    let (server, reply) = breaking(PATH, &body, "output_text.delta");
    let events = reply.numbered_events();
    let response = &events.last().unwrap()["response"];
    assert_eq!(events.last().unwrap()["type"], "response.failed");
    assert_eq!((&response["status"], &response["error"]["code"]), (&json!("failed"), &json!("server_error")));
    assert!(response["error"]["message"].as_str().unwrap().contains("NaN"), "{response}");
    let deltas = events.iter().filter_map(|event| event["delta"].as_str()).collect::<String>();
    assert_eq!((text(response), &response["output"][0]["status"]), (&*deltas, &json!("incomplete")));
    assert_eq!((&response["usage"], deltas.is_empty()), (&Value::Null, false));
    let error = post(server.address(), PATH, &with(body, &json!({"stream": false}))).error();
    assert_eq!(error, (500, "internal_error".into(), None), "a whole answer is an error as any");
    assert!(server.stop());
}
