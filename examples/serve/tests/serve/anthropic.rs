//! Messages, as Anthropic's API has them, are chats in other words: the same prompts, the same texts, told whole or as they come.

use std::net::SocketAddr;

use llama_serve::Options;
use serde_json::{Value, json};

use crate::client::post;
use crate::responses::{breaking, chat_answer, chat_call, listening, with};
use crate::subject::{engine, engine_options, serve_template, server};
use crate::tools::{MISTRAL, SHORT, Script, TEMPLATE};

pub const PATH: &str = "/v1/messages";
pub const COUNT: &str = "/v1/messages/count_tokens";
const CHAT: &str = "/v1/chat/completions";

fn ask(address: SocketAddr, body: &Value) -> Value {
    let reply = post(address, PATH, body);
    assert_eq!(reply.status, 200, "{body}: {}", reply.text());
    reply.json()
}

/// The message that a stream's events come to, checked as a reader who trusts nothing would.
pub fn stream(address: SocketAddr, body: &Value) -> Value {
    let reply = post(address, PATH, &with(body.clone(), &json!({"stream": true})));
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("text/event-stream")), "{}", reply.text());
    let events = reply.named_events();
    let [start, rest @ .., delta, stop] = &events[..] else { panic!("{events:?}") };
    assert_eq!((&start["type"], stop), (&json!("message_start"), &json!({"type": "message_stop"})));
    let mut message = start["message"].clone();
    let usage = &message["usage"];
    assert_eq!((&message["content"], &message["stop_reason"]), (&json!([]), &Value::Null));
    assert_eq!((&usage["output_tokens"], &usage["cache_read_input_tokens"]), (&json!(0), &json!(0)));
    assert_eq!((&delta["type"], &delta["usage"]["input_tokens"].is_u64()), (&json!("message_delta"), &true));
    message["content"] = replayed(rest).into();
    for name in ["stop_reason", "stop_sequence"] {
        message[name] = delta["delta"][name].clone();
    }
    message["usage"] = delta["usage"].clone();
    message
}

/// The blocks that events add up to.
fn replayed(events: &[Value]) -> Vec<Value> {
    let mut blocks: Vec<Value> = Vec::new();
    let mut input: Option<String> = None;
    let mut open = false;
    for event in events {
        let begins = event["type"] == "content_block_start";
        assert!(open != begins && event["index"] == blocks.len() - usize::from(open), "{event}");
        match event["type"].as_str().unwrap() {
            "content_block_start" => {
                blocks.push(event["content_block"].clone());
                open = true;
            }
            "content_block_delta" if event["delta"]["type"] == "text_delta" => {
                let text = &mut blocks.last_mut().unwrap()["text"];
                *text = json!(format!("{}{}", text.as_str().unwrap(), event["delta"]["text"].as_str().unwrap()));
            }
            "content_block_delta" if event["delta"]["type"] == "thinking_delta" => {
                let text = &mut blocks.last_mut().unwrap()["thinking"];
                *text = json!(format!("{}{}", text.as_str().unwrap(), event["delta"]["thinking"].as_str().unwrap()));
            }
            "content_block_delta" => {
                assert_eq!(event["delta"]["type"], "input_json_delta");
                input.get_or_insert_default().push_str(event["delta"]["partial_json"].as_str().unwrap());
            }
            kind => {
                assert_eq!(kind, "content_block_stop");
                if let Some(input) = input.take() {
                    blocks.last_mut().unwrap()["input"] = serde_json::from_str(&input).unwrap();
                }
                open = false;
            }
        }
    }
    assert!(!open, "a block was not ended");
    blocks
}

/// A message without what differs from one answer to the same request to the next.
fn nameless(mut message: Value) -> Value {
    let id = message["id"].take();
    assert!(id.as_str().is_some_and(|id| id.starts_with("msg_") && id.len() > 32), "{id}");
    for block in message["content"].as_array_mut().unwrap() {
        if block["type"] == "tool_use" {
            assert!(block["id"].take().as_str().is_some_and(|id| id.len() > 8), "{block}");
        }
    }
    message
}

fn text(message: &Value) -> &str {
    let blocks = message["content"].as_array().unwrap();
    assert_eq!((blocks.len(), &blocks[0]["type"]), (1, &json!("text")), "{message}");
    blocks[0]["text"].as_str().unwrap()
}

pub fn user(content: Value) -> Value {
    json!({"role": "user", "content": content})
}

fn assistant(content: Value) -> Value {
    json!({"role": "assistant", "content": content})
}

fn words(text: &str) -> Value {
    json!({"type": "text", "text": text})
}

#[test]
fn a_message_says_what_a_chat_does() {
    let server = server();
    let address = server.address();
    let same = json!({"temperature": 0, "frequency_penalty": 0.25, "max_tokens": 30});
    let messages =
        json!([{"role": "system", "content": "Tell stories."}, {"role": "user", "content": "Once </s>upon<s>"}]);
    let chat = post(address, CHAT, &with(json!({"messages": messages}), &same)).json();
    let prompt = chat["usage"]["prompt_tokens"].as_u64().unwrap();
    let asked = with(
        json!({"model": "stories", "system": "Tell stories.", "messages": [user(json!("Once </s>upon<s>"))]}),
        &same,
    );
    let message = ask(address, &asked);
    let cached = (prompt - 1) - (prompt - 1) % 16;
    assert!(cached > 0);
    let expected = json!({
        "id": null, "type": "message", "role": "assistant", "model": "stories",
        "content": [{"type": "text", "text": chat["choices"][0]["message"]["content"]}],
        "stop_reason": "max_tokens", "stop_sequence": null,
        "usage": {
            "input_tokens": prompt - cached, "cache_creation_input_tokens": 0, "cache_read_input_tokens": cached,
            "output_tokens": 30,
        },
    });
    assert_eq!(nameless(message), expected);
    assert!(server.stop());
}

#[test]
fn a_streams_events_come_to_the_whole_message() {
    let server = server();
    for (more, reason) in [
        (json!({}), "max_tokens"),
        (json!({"temperature": 1.3, "seed": 5, "max_tokens": 90, "stop_sequences": ["the", " a "]}), "stop_sequence"),
        (json!({"temperature": 1, "seed": 6, "messages": [user(json!("🦙🦙"))]}), "max_tokens"),
        (json!({"stop_sequences": ["xyz", "e"]}), "stop_sequence"),
        (json!({"output_config": {"format": {"type": "json_schema", "schema": {"enum": ["a"]}}}}), "end_turn"),
        (json!({"structured_outputs": {"choice": ["yes", "no"]}}), "end_turn"),
        (json!({"stop_token_ids": [0, 1, 2, 3, 432, 440], "max_tokens": 100}), "end_turn"),
        (json!({"max_tokens": 100_000, "ignore_eos": true}), "model_context_window_exceeded"),
    ] {
        let body =
            with(json!({"messages": [user(json!("Once upon a time"))], "max_tokens": 40, "temperature": 0}), &more);
        let whole = ask(server.address(), &body);
        let mut told = stream(server.address(), &body);
        assert_ne!(told["id"], whole["id"]);
        assert_eq!(whole["stop_reason"], reason, "{more} {whole}");
        assert_eq!(whole["stop_sequence"].is_string(), reason == "stop_sequence", "{whole}");
        if let Some(sequence) = whole["stop_sequence"].as_str() {
            assert!(!text(&whole).contains(sequence), "{whole}");
        }
        // It finds the first one's prompt.
        told["usage"] = whole["usage"].clone();
        assert_eq!(nameless(told), nameless(whole), "{more}");
    }
    assert!(server.stop());
}

/// What the context has no room for is not asked for; a prompt without any room is refused.
#[test]
fn max_tokens_may_be_more_than_there_is_room_for() {
    let server = server();
    let body = |text: String| json!({"messages": [user(json!(text))], "max_tokens": 32_000, "ignore_eos": true});
    let message = ask(server.address(), &body("a b ".repeat(100)));
    let count = |name: &str| message["usage"][name].as_u64().unwrap();
    let all = count("input_tokens") + count("cache_read_input_tokens") + count("output_tokens");
    assert_eq!((all, &message["stop_reason"]), (512, &json!("model_context_window_exceeded")), "{message}");
    let (status, kind, said) = post(server.address(), PATH, &body("a b ".repeat(400))).anthropic_error();
    assert_eq!((status, &kind[..]), (400, "invalid_request_error"));
    assert!(said.contains("512"), "{said}");
    assert!(server.stop());
}

fn tool_use(id: &str) -> Value {
    json!({"type": "tool_use", "id": id, "name": "get_time", "input": {"zone": "<s>"}, "cache_control": {"type": "ephemeral"}})
}

fn result(id: &str, content: Value) -> Value {
    json!({"type": "tool_result", "tool_use_id": id, "content": content, "is_error": true})
}

/// Conversations in blocks, and as the messages of a chat.
fn conversations() -> Vec<(Value, Value)> {
    let said = |text: &str| json!({"role": "user", "content": text});
    let noon = json!({"role": "assistant", "content": "Noon."});
    let calls = |content: &str, ids: &[&str]| {
        let calls: Vec<_> = ids.iter().map(|id| chat_call(id)).collect();
        json!({"role": "assistant", "content": content, "tool_calls": calls})
    };
    let [first, second] = [chat_answer("a", "</s>12"), chat_answer("b", "13")];
    let results = [result("a", json!("</s>12")), result("b", json!([words("1"), words("3")]))];
    let cited = json!({"type": "text", "text": "Ti", "cache_control": {"type": "ephemeral"}, "citations": []});
    let thought = json!({"type": "thinking", "thinking": "Hm.", "signature": "a"});
    let redacted = json!({"type": "redacted_thinking", "data": "a"});
    vec![
        (json!([user(json!("Time?"))]), json!([said("Time?")])),
        (json!([user(json!([cited, words("me?")]))]), json!([said("Time?")])),
        // One turn, as it is or with a line break.
        (
            json!([user(json!("Time?")), user(json!([words("Please."), words(" Now.")]))]),
            json!([said("Time?\nPlease. Now.")]),
        ),
        (
            json!([
                user(json!("a")),
                assistant(json!("No")),
                assistant(json!([words("on"), words(".")])),
                user(json!("b"))
            ]),
            json!([said("a"), noon, said("b")]),
        ),
        (
            json!([user(json!("a")), assistant(json!([thought, redacted, words("Noon.")])), user(json!("b"))]),
            json!([said("a"), noon, said("b")]),
        ),
        // What an answer that says nothing has.
        (
            json!([user(json!("a")), assistant(json!([])), user(json!("b"))]),
            json!([said("a"), {"role": "assistant", "content": ""}, said("b")]),
        ),
        (
            json!([{"role": "system", "content": [words("Be "), words("short.")]}, user(json!("a"))]),
            json!([{"role": "system", "content": "Be short."}, said("a")]),
        ),
        (
            json!([user(json!("a")), assistant(json!([tool_use("a"), tool_use("b")])), user(json!(results))]),
            json!([said("a"), calls("", &["a", "b"]), first, second]),
        ),
        (
            json!([
                user(json!("a")),
                assistant(json!([words("Noon."), tool_use("a")])),
                assistant(json!([tool_use("b")])),
                user(json!([results[0], results[1], words("And?")])),
                user(json!("Well?")),
            ]),
            json!([said("a"), calls("Noon.", &["a", "b"]), first, second, said("And?\nWell?")]),
        ),
        // As an answer of this server has it: the text comes after the calls.
        (
            json!([
                user(json!("a")),
                assistant(json!([tool_use("a"), words("Noon.")])),
                user(json!([words("!"), results[0]]))
            ]),
            json!([said("a"), calls("Noon.", &["a"]), said("!"), first]),
        ),
        (
            json!([
                user(json!("a")),
                assistant(json!([tool_use("a")])),
                user(json!([{"type": "tool_result", "tool_use_id": "a"}]))
            ]),
            json!([said("a"), calls("", &["a"]), chat_answer("a", "")]),
        ),
    ]
}

#[test]
fn blocks_are_the_messages_of_a_chat() {
    let (server, heard) = listening(TEMPLATE);
    let prompt = || std::mem::take(&mut *heard.lock().unwrap());
    let address = server.address();
    for (blocks, messages) in conversations() {
        let body = json!({"messages": blocks});
        let counted = post(address, COUNT, &body).json();
        let message = ask(address, &with(body, &json!({"max_tokens": 1})));
        let tokens = prompt();
        assert_eq!(message["usage"]["input_tokens"], tokens.len(), "{blocks}");
        assert_eq!(counted, json!({"input_tokens": tokens.len()}), "{blocks}");
        let reply = post(address, CHAT, &json!({"messages": messages, "max_tokens": 1}));
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(tokens, prompt(), "{blocks}");
    }
    let schema = json!({"type": "object", "properties": {"a": {"enum": ["<s>"]}}});
    let tool = json!({"name": "f", "description": "F", "input_schema": schema, "cache_control": {"type": "ephemeral"}});
    let nested = json!({"type": "function", "function": {"name": "f", "description": "F", "parameters": schema}});
    let system = json!([{"type": "text", "text": "Be short.", "cache_control": {"type": "ephemeral"}}]);
    let body = json!({"messages": [user(json!("Time?"))], "system": system, "tools": [tool]});
    let counted = post(address, COUNT, &body).json();
    ask(address, &with(body.clone(), &json!({"max_tokens": 1})));
    let tokens = prompt();
    assert_eq!(counted["input_tokens"], tokens.len());
    let messages = json!([{"role": "system", "content": "Be short."}, {"role": "user", "content": "Time?"}]);
    post(address, CHAT, &json!({"messages": messages, "tools": [nested], "max_tokens": 1}));
    assert_eq!(tokens, prompt());
    let hidden = post(address, COUNT, &with(body, &json!({"tool_choice": {"type": "none"}}))).json();
    assert!(hidden["input_tokens"].as_u64() < counted["input_tokens"].as_u64());
    assert!(server.stop());
}

/// That a tool has failed is told to a template that asks.
#[test]
fn a_template_learns_of_failures() {
    let template =
        "{% if tools %}{% endif %}{% for message in messages %}{% if message.is_error %}failed{% endif %}a{% endfor %}";
    let server = serve_template(engine(engine_options()), template, Options::default());
    let count = |failed: bool| {
        let result = json!({"type": "tool_result", "tool_use_id": "a", "is_error": failed});
        let messages = json!([assistant(json!([tool_use("a")])), user(json!([result]))]);
        post(server.address(), COUNT, &json!({"messages": messages})).json()["input_tokens"].as_u64().unwrap()
    };
    assert!(count(true) > count(false));
    assert!(server.stop());
}

#[test]
fn a_last_message_of_the_assistant_goes_on() {
    let (server, heard) = listening(TEMPLATE);
    let prompt = || std::mem::take(&mut *heard.lock().unwrap());
    let (question, begun) = (user(json!("Who?")), "Once </s>upon ");
    let chat = json!({
        "messages": [question, assistant(json!(begun))], "max_tokens": 20, "temperature": 0,
        "continue_final_message": true, "add_generation_prompt": false,
    });
    let chat = post(server.address(), CHAT, &chat).json();
    let prompt_of_chat = prompt();
    for messages in [
        json!([question, assistant(json!(begun))]),
        json!([question, assistant(json!([words("Once "), words("</s>upon ")]))]),
        json!([question, assistant(json!("Once ")), assistant(json!("</s>upon "))]),
    ] {
        let message = ask(server.address(), &json!({"messages": messages, "max_tokens": 20, "temperature": 0}));
        assert_eq!(prompt(), prompt_of_chat, "{messages}");
        assert_eq!(text(&message), chat["choices"][0]["message"]["content"], "{messages}");
    }
    assert!(server.stop());
}

fn with_tools(more: Value) -> Value {
    let tool = |name: &str| json!({"name": name, "input_schema": {"type": "object", "additionalProperties": false}});
    let tools = [with(tool("get_time"), &json!({"type": "custom"})), tool("get_date")];
    with(json!({"messages": [user(json!("Time?"))], "tools": tools, "temperature": 0, "max_tokens": 200}), &more)
}

fn called(name: &str, input: Value) -> Value {
    json!({"type": "tool_use", "id": null, "name": name, "input": input})
}

#[test]
fn calls_are_blocks() {
    let script = Script::default();
    let server = script.server_of(SHORT);
    let time = r#"{"name": "get_time", "arguments": {"zone": "é", "n": [1.0, 2]}}"#;
    let date = r#"{"name": "get_date", "parameters": {}}"#;
    let time_call = called("get_time", json!({"zone": "é", "n": [1.0, 2]}));
    let date_call = called("get_date", json!({}));
    let single = json!({"tool_choice": {"type": "auto", "disable_parallel_tool_use": true}});
    for (says, blocks, reason, more) in [
        (time.to_owned(), json!([time_call]), "tool_use", json!({})),
        (
            format!("{time}; {date}\n"),
            json!([time_call, date_call]),
            "tool_use",
            json!({"tool_choice": {"type": "auto"}}),
        ),
        (format!("{date} I call"), json!([date_call, words(" I call")]), "tool_use", json!({})),
        (format!("{date};{date}"), json!([date_call, words(&format!(";{date}"))]), "tool_use", single),
        ("Sunny {".into(), json!([words(" Sunny {")]), "end_turn", json!({})),
        (String::new(), json!([]), "end_turn", json!({})),
        (time.into(), json!([words(&format!(" {time}"))]), "end_turn", json!({"tool_choice": {"type": "none"}})),
        (
            time.into(),
            json!([words(" {\"name\": \"get_time\",")]),
            "stop_sequence",
            json!({"stop_sequences": [" \"arg"]}),
        ),
        (format!("{date} I call"), json!([date_call]), "tool_use", json!({"stop_sequences": [" I"]})),
        (time.into(), json!([words(" {\"name\":")]), "max_tokens", json!({"max_tokens": 9})),
    ] {
        let body = with_tools(more);
        script.tell(&says);
        let whole = nameless(ask(server.address(), &body));
        assert_eq!((&whole["content"], &whole["stop_reason"]), (&blocks, &json!(reason)), "{says}");
        script.tell(&says);
        assert_eq!(nameless(stream(server.address(), &body)), whole, "{says}");
    }
    assert!(server.stop());
}

/// What was answered is taken back as it is, with the results of its calls.
#[test]
fn blocks_go_to_and_fro() {
    for (template, says) in [
        (TEMPLATE, r#"{"name": "get_time", "arguments": {}}; {"name": "get_date", "arguments": {}} And wait."#),
        (MISTRAL, r#"[{"name": "get_time", "arguments": {}}, {"name": "get_date", "arguments": {}}]"#),
    ] {
        let script = Script::default();
        let server = script.server_of(template);
        script.tell(says);
        let message = ask(server.address(), &with_tools(json!({})));
        let blocks = message["content"].as_array().unwrap();
        let results: Vec<_> = blocks.iter().filter(|block| block["type"] == "tool_use").collect();
        let results: Vec<_> = results.iter().map(|call| result(call["id"].as_str().unwrap(), json!("12"))).collect();
        assert_eq!(results.len(), 2, "{message}");
        let messages = json!([user(json!("Time?")), assistant(json!(blocks)), user(json!(results))]);
        script.tell("Noon.");
        let message = ask(server.address(), &with_tools(json!({"messages": messages})));
        assert_eq!(text(&message).trim(), "Noon.", "{message}");
        assert!(server.stop());
    }
}

#[test]
fn a_call_that_is_demanded_comes() {
    let server = serve_template(engine(engine_options()), SHORT, Options::default());
    for seed in 0..4 {
        for choice in
            [json!({"type": "any"}), json!({"type": "tool", "name": "get_date", "disable_parallel_tool_use": true})]
        {
            let body = with_tools(json!({"tool_choice": choice, "seed": seed, "temperature": 1.5}));
            let whole = nameless(ask(server.address(), &body));
            let blocks = whole["content"].as_array().unwrap();
            assert_eq!((blocks.len(), &blocks[0]["input"], &whole["stop_reason"]), (1, &json!({}), &json!("tool_use")));
            assert!(choice["type"] == "any" || blocks[0]["name"] == "get_date", "{whole}");
            let told = with(nameless(stream(server.address(), &body)), &json!({"usage": whole["usage"]}));
            assert_eq!(told, whole);
        }
    }
    let looped = json!([{"name": "f", "input_schema": {"$ref": "#/nowhere"}}]);
    let format = json!({"format": {"type": "json_schema", "schema": {}}});
    for (names, more) in [
        ("tool_choice.name", json!({"tool_choice": {"type": "tool", "name": "launch"}})),
        ("tool_choice.name", json!({"tool_choice": {"type": "tool"}})),
        ("tool_choice.name", json!({"tool_choice": {"type": "any", "name": "get_time"}})),
        ("tool_choice", json!({"tool_choice": {"type": "any"}, "tools": []})),
        ("output_config.format", json!({"tool_choice": {"type": "any"}, "output_config": format})),
        ("structured_outputs", json!({"tool_choice": {"type": "any"}, "structured_outputs": {"regex": "a"}})),
        ("tools[0].input_schema", json!({"tool_choice": {"type": "any"}, "tools": looped})),
    ] {
        let reply = post(server.address(), PATH, &with_tools(more));
        let (status, kind, message) = reply.anthropic_error();
        assert_eq!((status, &kind[..]), (400, "invalid_request_error"));
        assert!(message.starts_with(names), "{names}: {message}");
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
    let format = json!({"type": "json_schema", "schema": schema});
    let body = json!({"messages": [user(json!("A person, as JSON"))], "max_tokens": 50, "temperature": 1.5, "seed": 2});
    for form in [json!({"output_config": {"format": format, "effort": "high"}}), json!({"output_format": format})] {
        let message = ask(server.address(), &with(body.clone(), &form));
        let person: Value = serde_json::from_str(text(&message)).unwrap();
        assert!((1..=9).contains(&person["age"].as_i64().unwrap()), "{message}");
        assert_eq!(message["stop_reason"], "end_turn");
    }
    assert!(server.stop());
}

#[test]
fn thinking_turns_the_templates_switch() {
    let template = "{{ bos_token }}{{ messages[0].content }}{% if enable_thinking is defined %}\
                    {{ ' think' if enable_thinking else ' do not think' }}{% endif %}";
    let server = serve_template(engine(engine_options()), template, Options::default());
    let count = |more: Value| {
        let reply = post(server.address(), COUNT, &with(json!({"messages": [user(json!("a"))]}), &more));
        reply.json()["input_tokens"].as_u64().unwrap_or_else(|| panic!("{}", reply.text()))
    };
    let switched = |on: bool| count(json!({"chat_template_kwargs": {"enable_thinking": on}}));
    let thinking = |kind: &str| json!({"thinking": {"type": kind, "budget_tokens": 2048, "display": "omitted"}});
    assert!(switched(true) < switched(false) && count(json!({})) < switched(true));
    assert_eq!(count(thinking("enabled")), switched(true));
    assert_eq!(count(thinking("disabled")), switched(false));
    assert_eq!(count(thinking("adaptive")), count(json!({})));
    let both = with(thinking("enabled"), &json!({"chat_template_kwargs": {"enable_thinking": false}}));
    assert_eq!(count(both), switched(false));
    assert!(server.stop());
}

#[test]
fn a_stream_that_fails_ends_with_an_error() {
    let body = json!({"messages": [user(json!("Once"))], "stream": true, "ignore_eos": true, "max_tokens": 450});
    let (server, reply) = breaking(PATH, &body, "text_delta");
    let last = reply.named_events().pop().unwrap();
    assert_eq!((&last["type"], &last["error"]["type"]), (&json!("error"), &json!("api_error")));
    assert!(last["error"]["message"].as_str().unwrap().contains("NaN"), "{last}");
    let (status, kind, _) = post(server.address(), PATH, &with(body, &json!({"stream": false}))).anthropic_error();
    assert_eq!((status, &kind[..]), (500, "api_error"), "a whole answer is an error as any");
    assert!(server.stop());
}
