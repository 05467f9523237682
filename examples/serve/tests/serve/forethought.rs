//! Thoughts before an answer that has a form: at every endpoint, with forms of every kind, told apart and counted.

use std::net::SocketAddr;

use llama_serve::Options;
use serde_json::{Value, json};

use crate::anthropic;
use crate::client::post;
use crate::responses::{self, with};
use crate::subject::{engine, engine_options, serve_template};
use crate::thoughts::{BEGINS, CHAT, RESPONSES, TEMPLATE, ask, parts};
use crate::tools::Script;

/// A template that has the model think or not, as Qwen3's does.
const SWITCHED: &str = "{{ bos_token }}{% if tools %}{% endif %}{{ messages[0].content.split('</think>')[-1] }}{% if add_generation_prompt and enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}";

fn chat(more: &Value) -> Value {
    with(json!({"messages": [{"role": "user", "content": "When?"}], "temperature": 0}), more)
}

/// Tokens of a text that goes on, as the model that is told to says it.
fn tokens(text: &str) -> u64 {
    let engine = engine(engine_options());
    let count = |text: &str| engine.encode(text, llama_core::text::Specials::AsText).unwrap().len() as u64;
    count(&format!("\n{text}")) - count("\n")
}

/// Each form with an answer of it, and whether that is a call.
fn forms() -> Vec<(Value, &'static str, bool)> {
    let tools = json!([{"type": "function", "function": {"name": "get_time"}}]);
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]});
    let call = r#"{"name": "get_time", "parameters": {}}"#;
    vec![
        (json!({"structured_outputs": {"choice": ["Now", "Then"]}}), "Then", false),
        (json!({"structured_outputs": {"regex": "[0-9]+/[0-9]+"}}), "12/3", false),
        (json!({"structured_outputs": {"grammar": "start: \"<\" /[a-s]+/ \">\""}}), "<a>", false),
        (json!({"response_format": {"type": "json_object"}}), r#"{"a": 1}"#, false),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}}),
            r#"{"a": 2}"#,
            false,
        ),
        (json!({"tools": tools, "tool_choice": "required"}), call, true),
        (json!({"tools": tools, "tool_choice": {"type": "function", "function": {"name": "get_time"}}}), call, true),
    ]
}

/// What a chat's answer is, whole and as a stream; the same of both, and whether there was a call.
fn both(script: &Script, address: SocketAddr, text: &str, body: &Value) -> (String, String, bool, Value) {
    script.tell_at_once(text);
    let whole = ask(address, CHAT, body);
    let choice = &whole["choices"][0];
    script.tell_at_once(text);
    let usage = json!({"stream": true, "stream_options": {"include_usage": true}});
    let events = post(address, CHAT, &with(body.clone(), &usage)).events();
    let [thoughts, content, called] = parts([&choice["message"]].into_iter());
    let streamed = parts(events.iter().map(|event| &event["choices"][0]["delta"]));
    assert_eq!([&thoughts, &content, &called], streamed.each_ref(), "{text}");
    assert_eq!(
        events.last().unwrap()["usage"]["completion_tokens_details"],
        whole["usage"]["completion_tokens_details"]
    );
    assert_eq!(choice["finish_reason"] == "tool_calls", !called.is_empty());
    (thoughts, content, !called.is_empty(), whole)
}

#[test]
fn chats_think_before_a_form() {
    let script = Script::default();
    for (template, opening) in [(TEMPLATE, "<think>"), (BEGINS, "")] {
        let server = script.server_of(template);
        for (form, answer, calls) in forms() {
            let body = chat(&form);
            let content = if calls { "" } else { answer };
            let thought = format!("{opening}\nHm, {answer} \n</think>");
            let (thoughts, said, called, whole) =
                both(&script, server.address(), &format!("{thought}\n\n{answer}"), &body);
            assert_eq!((thoughts, &*said, called), (format!("Hm, {answer}"), content, calls), "{form}");
            let usage = &whole["usage"];
            assert_eq!(usage["completion_tokens_details"]["reasoning_tokens"], tokens(&thought), "{form}: {usage}");
            // What comes behind the tag is bound, whatever the model would rather say.
            script.tell_at_once(&format!("{thought}\n~~{answer}{}", "~".repeat(40)));
            let reply = ask(server.address(), CHAT, &with(body.clone(), &json!({"max_tokens": tokens(&thought) + 12})));
            let message = &reply["choices"][0]["message"];
            assert!(!message["content"].as_str().unwrap_or_default().contains('~'), "{message}");
            assert_eq!(message["reasoning_content"], format!("Hm, {answer}"));
        }
        assert!(server.stop());
    }
}

#[test]
fn who_does_not_think_begins_at_once() {
    let script = Script::default();
    let server = script.server_of(SWITCHED);
    for (form, answer, calls) in forms() {
        for off in [false, true] {
            let more = if off { json!({"chat_template_kwargs": {"enable_thinking": false}}) } else { json!({}) };
            let (thoughts, said, called, whole) = both(&script, server.address(), answer, &with(chat(&form), &more));
            assert_eq!((&*thoughts, &*said, called), ("", if calls { "" } else { answer }, calls), "{form}");
            assert_eq!(whole["usage"]["completion_tokens_details"], json!({"reasoning_tokens": 0}));
        }
        // With the tags closed in the prompt there is no room for thoughts, and without them for nothing but thoughts or the form.
        let off = json!({"chat_template_kwargs": {"enable_thinking": false}, "max_tokens": 5});
        for (text, more) in [("<think>Hm", off), ("Well, I think", json!({"max_tokens": 5}))] {
            script.tell_at_once(text);
            let reply = ask(server.address(), CHAT, &with(chat(&form), &more));
            let message = &reply["choices"][0]["message"];
            assert!(message.get("reasoning_content").is_none(), "{form}: {message}");
            assert!(!reply.to_string().contains("think"), "{form}: {message}");
        }
    }
    assert!(server.stop());
}

#[test]
fn what_is_cut_off_amid_thoughts_has_no_content() {
    let script = Script::default();
    let server = script.server_of(BEGINS);
    for (form, answer, _) in forms() {
        for (more, reason) in [(json!({"max_tokens": 4}), "length"), (json!({"stop": "wonder"}), "stop")] {
            let text = format!("Hm, I wonder. </think>{answer}");
            let (thoughts, said, called, whole) = both(&script, server.address(), &text, &with(chat(&form), &more));
            assert!("Hm, I ".starts_with(&thoughts) && thoughts.starts_with("Hm"), "{form}: {thoughts:?}");
            assert_eq!((&*said, called), ("", false), "{form}");
            let (choice, usage) = (&whole["choices"][0], &whole["usage"]);
            assert_eq!(choice["finish_reason"], reason);
            assert_eq!(usage["completion_tokens_details"]["reasoning_tokens"], usage["completion_tokens"], "{usage}");
        }
    }
    assert!(server.stop());
}

/// Without a form, thoughts are counted, too.
#[test]
fn thoughts_are_counted() {
    let script = Script::default();
    let server = script.server_of(TEMPLATE);
    for (text, thoughts) in [
        ("<think>Hm.</think>Now.", "<think>Hm.</think>"),
        ("<think>\n\n</think>\n\nNow.", "<think>\n\n</think>"),
        ("<think></think>", "<think></think>"),
        ("<thinner", ""),
        ("Now <think>Hm.</think>", ""),
    ] {
        let (.., whole) = both(&script, server.address(), text, &chat(&json!({})));
        let usage = &whole["usage"];
        assert_eq!(usage["completion_tokens_details"], json!({"reasoning_tokens": tokens(thoughts)}), "{text}");
        let body = json!({"input": "When?", "temperature": 0});
        script.tell_at_once(text);
        let whole = ask(server.address(), RESPONSES, &body);
        script.tell_at_once(text);
        let (_, streamed) = responses::stream(server.address(), &body);
        for response in [whole, streamed] {
            let details = &response["usage"]["output_tokens_details"];
            assert_eq!(details, &json!({"reasoning_tokens": tokens(thoughts)}), "{text}");
        }
    }
    script.tell("Now.");
    let usage = &ask(server.address(), "/v1/completions", &json!({"prompt": "When?"}))["usage"];
    assert!(usage.get("completion_tokens_details").is_none(), "no thoughts are told from a completion's text");
    assert!(server.stop());
}

#[test]
fn responses_and_messages_think_before_a_form() {
    let script = Script::default();
    let server = script.server_of(TEMPLATE);
    let address = server.address();
    let text = "<think>Hm, </think>\n\n{\"a\": 12}";
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": false});
    let format = json!({"type": "json_schema", "name": "s", "schema": schema});
    let body = json!({"input": "When?", "temperature": 0, "text": {"format": format}, "include": ["message.output_text.logprobs"]});
    script.tell_at_once(text);
    let whole = ask(address, RESPONSES, &body);
    script.tell_at_once(text);
    let (_, streamed) = responses::stream(address, &body);
    for response in [whole, streamed] {
        assert_eq!(response["output"][0]["content"], json!([{"type": "reasoning_text", "text": "Hm,"}]));
        let part = &response["output"][1]["content"][0];
        let spelled: String =
            part["logprobs"].as_array().unwrap().iter().map(|score| score["token"].as_str().unwrap()).collect();
        assert_eq!((&part["text"], &*spelled), (&json!("{\"a\": 12}"), "{\"a\": 12}"));
        assert_eq!(response["usage"]["output_tokens_details"]["reasoning_tokens"], tokens("<think>Hm, </think>"));
    }
    let format = json!({"type": "json_schema", "schema": schema});
    for (thinking, kinds) in [(json!({"type": "adaptive"}), vec!["thinking", "text"]), (Value::Null, vec!["text"])] {
        let body = json!({"messages": [{"role": "user", "content": "When?"}], "max_tokens": 99, "temperature": 0,
                          "output_config": {"format": format}, "thinking": thinking});
        script.tell_at_once(text);
        let whole = ask(address, anthropic::PATH, &body);
        script.tell_at_once(text);
        let streamed = anthropic::stream(address, &body);
        for message in [whole, streamed] {
            let blocks = message["content"].as_array().unwrap();
            assert_eq!(blocks.iter().map(|block| block["type"].as_str().unwrap()).collect::<Vec<_>>(), kinds);
            assert_eq!(blocks.last().unwrap()["text"], "{\"a\": 12}");
        }
    }
    assert!(server.stop());
}

/// White space that a form may begin with is the answer's, and what seems a tag in a form is text.
#[test]
fn answers_are_of_the_form_to_the_letter() {
    let script = Script::default();
    let server = script.server_of(TEMPLATE);
    for (regex, text, thoughts, content) in [
        ("[ \n]*Now", "<think>Hm.</think>\n\n Now", "Hm.", "\n\n Now"),
        ("[ \n]*Now", "\n Now", "", "\n Now"),
        ("(</think>)?Now", "<think>Hm.</think>\n</think>Now", "Hm.", "</think>Now"),
        ("<think>Hm.</think>Now", "<think>Hm.</think><think>Hm.</think>Now", "Hm.", "<think>Hm.</think>Now"),
        ("<thinner>", "<thinner>", "", "<thinner>"),
        ("[ \n]*<think>Now", "\n<think>Now", "", "\n<think>Now"),
        ("\u{3000}?Now", "<think>Hm.</think>\n\u{3000}Now", "Hm.", "\u{3000}Now"),
        ("(Now)?", "<think>Hm.</think>", "Hm.", ""),
        ("(Now)?", "", "", ""),
    ] {
        let body = chat(&json!({"structured_outputs": {"regex": regex}}));
        let (thought, said, ..) = both(&script, server.address(), text, &body);
        assert_eq!((&*thought, &*said), (thoughts, content), "{regex}");
    }
    assert!(server.stop());
}

/// The bounds of forms hold where thoughts come before them.
#[test]
fn bombs_do_no_harm_after_thoughts() {
    for template in [TEMPLATE, BEGINS] {
        let server = serve_template(engine(engine_options()), template, Options::default());
        for outputs in [
            json!({"regex": "((((a{1000}){1000}){1000}){1000}){1000}"}),
            json!({"regex": "([ab]*a[ab]{200})"}),
            json!({"regex": "(".repeat(2_000)}),
            json!({"regex": "a?".repeat(500)}),
            json!({"regex": "(a|aa|aaa|aaaa)*b(a*)*c"}),
            json!({"regex": "[^a]*"}),
            json!({"grammar": format!("start: {}\"a\"", "(".repeat(5_000))}),
            json!({"grammar": "start: start start | \"a\""}),
            json!({"grammar": "start: x{1000,2000000000}\nx: \"a\" | \"b\""}),
            json!({"grammar": "start: \"</think>\"* /(<think>)*/"}),
            json!({"grammar": "start: \"a\"\n".repeat(10_000)}),
            json!({"regex": 1}),
        ] {
            let more = json!({"structured_outputs": outputs, "max_tokens": 6});
            let reply = post(server.address(), CHAT, &chat(&more));
            assert!([200, 400].contains(&reply.status), "{}", reply.text());
            if reply.status == 400 {
                let (_, _, param) = reply.error();
                assert!(param.is_some_and(|param| param.starts_with("structured_outputs.")), "{}", reply.text());
            }
        }
        assert!(server.stop());
    }
}
