//! How much a model is to think goes to its template, where that has a choice.

use serde_json::{Value, json};

use crate::client::post;
use crate::responses::{listening, with};
use crate::thoughts::{CHAT, RESPONSES, ask};

const BOTH: &str = "{{ bos_token }}{{ reasoning_effort }} {{ enable_thinking }}";
const GRADED: &str = "{{ bos_token }}{{ reasoning_effort }}.";
const SWITCHED: &str = "{{ bos_token }}{{ enable_thinking }}.";
const NEITHER: &str = "{{ bos_token }}{{ messages[0].content }}";

fn bodies(effort: &Value) -> [(&'static str, Value, &'static str); 2] {
    let chat = json!({"messages": [{"role": "user", "content": "u"}], "max_tokens": 1, "reasoning_effort": effort});
    let reasoning = json!({"effort": effort, "summary": "auto"});
    let response = json!({"input": "u", "max_output_tokens": 1, "reasoning": reasoning});
    [(CHAT, chat, "reasoning_effort"), (RESPONSES, response, "reasoning.effort")]
}

#[test]
fn efforts_go_to_the_template() {
    for (template, efforts) in [
        (BOTH, [("none", "none False"), ("minimal", "minimal "), ("xhigh", "xhigh ")]),
        (GRADED, [("none", "none."), ("low", "low."), ("medium", "medium.")]),
        (SWITCHED, [("none", "False."), ("low", "True."), ("high", "True.")]),
    ] {
        let (server, prompts) = listening(template);
        let address = server.address();
        let want = |text: &str| {
            let body = json!({"prompt": text, "max_tokens": 1});
            ask(address, "/v1/completions", &body);
            std::mem::take(&mut *prompts.lock().unwrap())
        };
        for (effort, text) in efforts {
            let text = want(text);
            for (path, body, _) in bodies(&effort.into()) {
                let answer = ask(address, path, &body);
                assert_eq!(std::mem::take(&mut *prompts.lock().unwrap()), text, "{template} {effort}");
                assert!(path == CHAT || answer["reasoning"] == body["reasoning"], "{answer}");
            }
        }
        for (path, body, _) in bodies(&Value::Null) {
            ask(address, path, &body);
        }
        for reasoning in [Value::Null, json!({}), json!({"effort": null}), json!({"effort": null, "summary": null})] {
            ask(address, RESPONSES, &json!({"input": "u", "max_output_tokens": 1, "reasoning": reasoning}));
        }
        assert!(server.stop());
    }
}

/// What a request tells its template itself is what holds.
#[test]
fn variables_have_their_way() {
    let (server, prompts) = listening(BOTH);
    let variables = json!({"chat_template_kwargs": {"reasoning_effort": "deep", "enable_thinking": true}});
    let [(_, body, _), _] = bodies(&"none".into());
    ask(server.address(), CHAT, &with(body, &variables));
    let said = std::mem::take(&mut *prompts.lock().unwrap());
    ask(server.address(), "/v1/completions", &json!({"prompt": "deep True", "max_tokens": 1}));
    assert_eq!(said, *prompts.lock().unwrap());
    assert!(server.stop());
}

#[test]
fn what_is_no_effort_is_refused_and_so_is_any_where_there_is_no_choice() {
    for (template, efforts) in [
        (BOTH, vec![json!("much"), json!(""), json!("None"), json!(1), json!(true), json!([]), json!({})]),
        (NEITHER, vec![json!("none"), json!("low"), json!("high")]),
    ] {
        let (server, _) = listening(template);
        for effort in efforts {
            for (path, body, field) in bodies(&effort) {
                let reply = post(server.address(), path, &body);
                let (status, _, param) = reply.error();
                assert_eq!((status, param.as_deref()), (400, Some(field)), "{effort}: {}", reply.text());
                assert!(template == BOTH || reply.text().contains("no choice of how much to think"));
            }
        }
        for reasoning in [json!({"summary": "concise"}), json!({"budget": 1}), json!("high")] {
            let body = json!({"input": "u", "reasoning": reasoning});
            let (status, _, param) = post(server.address(), RESPONSES, &body).error();
            assert!(status == 400 && param.is_some_and(|param| param.starts_with("reasoning")), "{reasoning}");
        }
        assert!(server.stop());
    }
}
