//! What a model thinks is told apart from its answer, by every endpoint in its own words, and goes back to its template.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::client::post;
use crate::responses::{self, listening, with};
use crate::tools::Script;
use crate::{anthropic, responses as other};

pub const CHAT: &str = "/v1/chat/completions";
pub const RESPONSES: &str = "/v1/responses";
const TIME: &str = r#"{"name": "get_time", "arguments": {}}"#;

/// A template that takes thoughts out of what was said, and knows tools.
pub const TEMPLATE: &str = "{{ bos_token }}{% if tools %}{% endif %}{{ messages[0].content.split('</think>')[-1] }}";
/// One that begins the model's turn with thoughts.
pub const BEGINS: &str = "{{ bos_token }}{% if tools %}{% endif %}{{ messages[0].content.split('</think>')[-1] }}{% if add_generation_prompt %}<think>\n{% endif %}";
/// One that tells what was thought, as Qwen3's does.
const TELLS: &str = "{{ bos_token }}{% for message in messages %}{{ message.role }}{% if message.reasoning_content %}<think>{{ message.reasoning_content }}</think>{% endif %}{{ message.content }}{% for call in message.tool_calls %}{{ call.function.name }}{% endfor %}{% endfor %}{% if tools %}{% endif %}";

pub fn ask(address: SocketAddr, path: &str, body: &Value) -> Value {
    let reply = post(address, path, body);
    assert_eq!(reply.status, 200, "{body}: {}", reply.text());
    reply.json()
}

fn chat(more: Value) -> Value {
    let tools = json!([{"type": "function", "function": {"name": "get_time"}}]);
    with(json!({"messages": [{"role": "user", "content": "When?"}], "tools": tools, "temperature": 0}), &more)
}

/// Thoughts, content and calls of a message, or of all deltas of a stream.
pub fn parts<'a>(messages: impl Iterator<Item = &'a Value>) -> [String; 3] {
    let mut parts = [const { String::new() }; 3];
    for message in messages {
        let thoughts = message["reasoning_content"].as_str().unwrap_or_default();
        assert!(thoughts.is_empty() || parts[1..].iter().all(String::is_empty), "thoughts come first: {message}");
        parts[0].push_str(thoughts);
        parts[1].push_str(message["content"].as_str().unwrap_or_default());
        for call in message["tool_calls"].as_array().into_iter().flatten() {
            parts[2].push_str(call["function"]["name"].as_str().unwrap_or_default());
        }
    }
    parts
}

#[test]
fn chats_tell_thoughts_apart() {
    let script = Script::default();
    let server = script.server_of(TEMPLATE);
    let none = "";
    for (text, more, thoughts, content, calls) in [
        ("<think>\nHm, so.\n</think>\n\nNow.".to_owned(), json!({}), "Hm, so.", "Now.", none),
        (format!("<think>Tools!</think>\n\n{TIME}"), json!({}), "Tools!", none, "get_time"),
        (format!("<think>I could {TIME}</think>No."), json!({}), &*format!("I could {TIME}"), "No.", none),
        ("<think>cut off".to_owned(), json!({}), "cut off", none, none),
        ("<think></think>At once.".to_owned(), json!({}), none, "At once.", none),
        ("Now <think>or</think> then.".to_owned(), json!({}), none, " Now <think>or</think> then.", none),
        ("<think>Hm.</think>Now.".to_owned(), json!({"include_reasoning": false}), none, "Now.", none),
        ("<think>Hm.</think>Now.".to_owned(), json!({"tools": null, "logprobs": true}), "Hm.", "Now.", none),
    ] {
        let want = [thoughts, content, calls];
        script.tell(&text);
        let answer = ask(server.address(), CHAT, &chat(more.clone()));
        let choice = &answer["choices"][0];
        assert_eq!(parts([&choice["message"]].into_iter()), want, "{text}");
        assert_eq!(choice["message"].get("reasoning_content").is_some(), !thoughts.is_empty(), "{text}");
        assert_eq!(choice["finish_reason"], if calls.is_empty() { "stop" } else { "tool_calls" });
        script.tell(&text);
        let reply = post(server.address(), CHAT, &chat(with(more, &json!({"stream": true}))));
        let events = reply.events();
        assert_eq!(parts(events.iter().map(|event| &event["choices"][0]["delta"])), want, "{text}");
    }
    assert!(server.stop());
}

#[test]
fn a_turn_may_begin_amid_thoughts() {
    let script = Script::default();
    let server = script.server_of(BEGINS);
    let said = |text: &str, more: Value| {
        script.tell(text);
        let body = with(json!({"messages": [{"role": "user", "content": "When?"}]}), &more);
        parts([&ask(server.address(), CHAT, &body)["choices"][0]["message"]].into_iter())
    };
    assert_eq!(said("Hm.\n</think>\n\nNow.", json!({})), ["Hm.", "Now.", ""]);
    assert_eq!(said("Hm.", json!({})), ["Hm.", "", ""], "it never came to an answer");
    let open = json!({"add_generation_prompt": false});
    assert_eq!(said("Hm.</think>Now.", open), ["", " Hm.</think>Now.", ""], "no turn was begun");
    assert!(server.stop());
}

/// A template without the tags is of a model that was not taught them: what looks like one is text.
#[test]
fn others_do_not_think() {
    let script = Script::default();
    let server = script.server_of(crate::tools::SHORT);
    script.tell("<think>Hm.</think>Now.");
    let answer = ask(server.address(), CHAT, &chat(json!({})));
    let message = &answer["choices"][0]["message"];
    assert_eq!(parts([message].into_iter()), ["", " <think>Hm.</think>Now.", ""]);
    let thinking = json!({"type": "enabled", "budget_tokens": 1024});
    let body = json!({"messages": [{"role": "user", "content": "When?"}], "max_tokens": 9, "thinking": thinking});
    let (status, kind, _) = post(server.address(), anthropic::PATH, &body).anthropic_error();
    assert_eq!((status, &*kind), (400, "invalid_request_error"));
    assert!(server.stop());
}

#[test]
fn responses_have_items_of_thoughts() {
    let script = Script::default();
    let server = script.server_of(TEMPLATE);
    let tools = json!([{"type": "function", "name": "get_time", "parameters": null, "strict": null}]);
    let body = json!({"input": "When?", "temperature": 0, "tools": tools});
    for (text, thoughts, others) in [
        ("<think>\nHm.\n</think>\n\nNow.".to_owned(), Some("Hm."), vec!["message"]),
        (format!("<think>Tools!</think>{TIME}"), Some("Tools!"), vec!["function_call"]),
        ("<think></think>Now.".to_owned(), None, vec!["message"]),
        ("Now.".to_owned(), None, vec!["message"]),
    ] {
        script.tell(&text);
        let whole = ask(server.address(), RESPONSES, &body);
        script.tell(&text);
        let (_, streamed) = responses::stream(server.address(), &body);
        for response in [whole, streamed] {
            let items = response["output"].as_array().unwrap();
            let kinds: Vec<&str> = items.iter().map(|item| item["type"].as_str().unwrap()).collect();
            let first = thoughts.map(|_| "reasoning");
            assert_eq!(kinds, first.into_iter().chain(others.clone()).collect::<Vec<_>>(), "{text}");
            if let Some(thoughts) = thoughts {
                assert_eq!(items[0]["content"], json!([{"type": "reasoning_text", "text": thoughts}]));
                assert_eq!((&items[0]["status"], &items[0]["summary"]), (&json!("completed"), &json!([])));
            }
        }
    }
    script.tell("<think>Hm, that takes a while.");
    let (_, cut) = responses::stream(server.address(), &with(body.clone(), &json!({"max_output_tokens": 16})));
    let items = cut["output"].as_array().unwrap();
    assert_eq!((items.len(), &items[0]["type"], &items[0]["status"]), (1, &json!("reasoning"), &json!("incomplete")));
    // With scores, of the answer's tokens only, whatever comes at a time: thoughts have no place for them.
    let scored = with(body, &json!({"tools": null, "include": ["message.output_text.logprobs"]}));
    let text = "<think>Hm, so.</think>\nNow, or then.";
    script.tell(text);
    let whole = ask(server.address(), RESPONSES, &scored);
    script.tell(text);
    let (_, streamed) = responses::stream(server.address(), &scored);
    for response in [whole, streamed] {
        let part = &response["output"][1]["content"][0];
        let scores = part["logprobs"].as_array().unwrap().iter();
        let spelled: String = scores.map(|score| score["token"].as_str().unwrap()).collect();
        assert_eq!(part["text"], "Now, or then.");
        assert!(spelled.ends_with("Now, or then.") && !spelled.contains("so"), "{spelled}");
    }
    assert!(server.stop());
}

#[test]
fn messages_have_blocks_of_thoughts_for_who_asks() {
    let script = Script::default();
    let server = script.server_of(TEMPLATE);
    let tools = json!([{"name": "get_time", "input_schema": {"type": "object"}}]);
    let body = json!({"messages": [{"role": "user", "content": "When?"}], "max_tokens": 99, "tools": tools});
    for (thinking, told) in [
        (json!({"type": "enabled", "budget_tokens": 1024}), true),
        (json!({"type": "adaptive"}), true),
        (json!({"type": "adaptive", "display": "omitted"}), false),
        (json!({"type": "disabled"}), false),
        (Value::Null, false),
    ] {
        let body = with(body.clone(), &json!({"thinking": thinking}));
        for (text, kinds) in [("Now.", vec!["text"]), (TIME, vec!["tool_use"])] {
            let text = format!("<think>\nHm.\n</think>\n\n{text}");
            script.tell(&text);
            let whole = ask(server.address(), anthropic::PATH, &body);
            script.tell(&text);
            let streamed = anthropic::stream(server.address(), &body);
            for message in [whole, streamed] {
                let blocks = message["content"].as_array().unwrap();
                let found: Vec<&str> = blocks.iter().map(|block| block["type"].as_str().unwrap()).collect();
                let first = told.then_some("thinking");
                assert_eq!(found, first.into_iter().chain(kinds.clone()).collect::<Vec<_>>(), "{thinking}");
                if told {
                    assert_eq!(blocks[0], json!({"type": "thinking", "thinking": "Hm.", "signature": ""}));
                }
            }
        }
    }
    assert!(server.stop());
}

/// What was handed out comes back to the template as its own field, by way of each endpoint.
#[test]
fn thoughts_go_back_to_the_template() {
    let (server, prompts) = listening(TELLS);
    let address = server.address();
    let call = other::chat_call("call_1");
    let name = call["function"]["name"].as_str().unwrap().to_owned();
    let arguments = call["function"]["arguments"].clone();
    let assistant = json!({"role": "assistant", "content": "a", "reasoning_content": "hm", "tool_calls": [call]});
    let chat = json!([{"role": "user", "content": "u"}, assistant, other::chat_answer("call_1", "r")]);
    let asked = |path: &str, body: Value| {
        ask(address, path, &body);
        std::mem::take(&mut *prompts.lock().unwrap())
    };
    let want = asked(CHAT, json!({"messages": chat, "max_tokens": 1}));
    let reasoning = |text: &str| {
        json!({"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "s"}], "encrypted_content": null,
                           "content": [{"type": "reasoning_text", "text": text}]})
    };
    // Thoughts may be in several items.
    for thoughts in [vec![reasoning("hm")], vec![reasoning("h"), reasoning("m")]] {
        let rest = json!([{"type": "message", "role": "assistant", "content": "a"},
                          {"type": "function_call", "call_id": "call_1", "name": name, "arguments": arguments},
                          {"type": "function_call_output", "call_id": "call_1", "output": "r"}]);
        let input =
            [vec![json!({"role": "user", "content": "u"})], thoughts, rest.as_array().unwrap().clone()].concat();
        assert_eq!(asked(RESPONSES, json!({"input": input, "max_output_tokens": 1})), want);
    }
    let called: Value = serde_json::from_str(arguments.as_str().unwrap()).unwrap();
    let blocks = json!([{"type": "thinking", "thinking": "hm", "signature": "x"}, {"type": "redacted_thinking", "data": "y"},
                        {"type": "text", "text": "a"}, {"type": "tool_use", "id": "call_1", "name": name, "input": called}]);
    let messages = json!([{"role": "user", "content": "u"}, {"role": "assistant", "content": blocks},
                          {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "call_1", "content": "r"}]}]);
    assert_eq!(asked(anthropic::PATH, json!({"messages": messages, "max_tokens": 1})), want);
    assert!(!want.is_empty());
    let user = json!([{"role": "user", "content": "u", "reasoning_content": "hm"}]);
    let (status, _, param) = post(address, CHAT, &json!({"messages": user})).error();
    assert_eq!((status, param.as_deref()), (400, Some("messages[0].reasoning_content")));
    assert!(server.stop());
}
