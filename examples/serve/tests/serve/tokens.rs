//! Tokens over HTTP are the tokenizer's.

use llama_core::text::{ChatTemplate, Date, Message, RenderOptions, Specials, Trust};
use llama_serve::Options;
use serde_json::{Value, json};

use crate::client::post;
use crate::subject::{TEMPLATE, engine, engine_options, serve_template, server};

#[test]
fn texts_become_tokens_and_come_back() {
    let (server, engine) = (server(), engine(engine_options()));
    let tokenizer = engine.tokenizer().unwrap();
    let text = "Once upon a time </s> é🦙";
    let want = tokenizer.encode_prompt(text, Specials::AsText).unwrap();
    let body = json!({"prompt": text, "return_token_strs": true, "model": "stories"});
    let reply = post(server.address(), "/tokenize", &body).json();
    assert_eq!((&reply["tokens"], &reply["count"]), (&json!(want), &json!(want.len())));
    assert_eq!(reply["max_model_len"], engine.model().limits().context);
    assert_eq!(reply["token_strs"].as_array().unwrap().len(), want.len());
    let bare = post(server.address(), "/tokenize", &json!({"prompt": text, "add_special_tokens": false})).json();
    let tokens = tokenizer.encode(text, Specials::AsText).unwrap();
    assert_eq!((&bare["tokens"], &bare["token_strs"]), (&json!(tokens), &json!(null)));
    let back = post(server.address(), "/detokenize", &json!({"tokens": tokens})).json();
    assert_eq!(back["prompt"], tokenizer.decode_with_specials(&tokens).unwrap());
    assert!(server.stop());
}

#[test]
fn conversations_do_too() {
    let (server, engine) = (server(), engine(engine_options()));
    let tokenizer = engine.tokenizer().unwrap();
    let template = ChatTemplate::new(TEMPLATE).unwrap();
    for opened in [true, false] {
        let options =
            RenderOptions { add_generation_prompt: opened, ..RenderOptions::for_tokenizer(Date::today(), tokenizer) };
        let messages = [Message::new("user", "Hello")];
        let want = template.encode(tokenizer, &messages, &options, Trust::Template).unwrap();
        let mut body = json!({"messages": [{"role": "user", "content": "Hello"}], "add_generation_prompt": opened});
        assert_eq!(post(server.address(), "/tokenize", &body).json()["tokens"], json!(want));
        // What vLLM's clients may say is off.
        (body["add_special_tokens"], body["continue_final_message"]) = (false.into(), false.into());
        assert_eq!(post(server.address(), "/tokenize", &body).json()["tokens"], json!(want));
    }
    assert!(server.stop());
}

#[test]
fn a_last_message_goes_on() {
    let template = "{% for m in messages %}{{ m.role }}: {{ m.content | trim }}{{ mark }}\n{% endfor %}\
                    {% if add_generation_prompt %}{{ who | default('assistant') }}:{% endif %}";
    let server = serve_template(engine(engine_options()), template, Options::default());
    let messages = json!([{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Once </s>upon "}]);
    let ask = |path: &str, more: Value| {
        let mut body = json!({"messages": messages});
        more.as_object().unwrap().iter().for_each(|(key, value)| body[key] = value.clone());
        post(server.address(), path, &body)
    };
    let tokens = |prompt: &str| post(server.address(), "/tokenize", &json!({"prompt": prompt})).json()["tokens"].take();
    for (more, prompt) in [
        (
            json!({"add_generation_prompt": false, "continue_final_message": true, "chat_template_kwargs": {"mark": "!"}}),
            "user: Hello!\nassistant: Once </s>upon",
        ),
        (
            json!({"chat_template_kwargs": {"who": "bob", "mark": "</s>"}}),
            "user: Hello</s>\nassistant: Once </s>upon</s>\nbob:",
        ),
        (json!({"add_generation_prompt": false}), "user: Hello\nassistant: Once </s>upon\n"),
    ] {
        // The template has no begin of sequence.
        let expected = tokens(prompt);
        let expected = &expected.as_array().unwrap()[1..];
        assert_eq!(ask("/tokenize", more.clone()).json()["tokens"], json!(expected), "{more}");
        let mut asked = more.clone();
        (asked["temperature"], asked["max_tokens"]) = (0.into(), 20.into());
        let said = ask("/v1/chat/completions", asked).json();
        let body = json!({"prompt": expected, "temperature": 0, "max_tokens": 20});
        let continued = post(server.address(), "/v1/completions", &body).json();
        assert_eq!(said["choices"][0]["message"]["content"], continued["choices"][0]["text"], "{more}");
    }
    assert!(server.stop());
}

#[test]
fn what_cannot_be_is_a_400_that_names_the_field() {
    let (server, message) = (server(), json!([{"role": "user", "content": "Hello"}]));
    for (path, body, field) in [
        ("/tokenize", json!({}), "prompt"),
        ("/tokenize", json!({"text": "a"}), "prompt"),
        ("/tokenize", json!({"messages": []}), "messages"),
        ("/tokenize", json!({"prompt": 5}), "prompt"),
        ("/tokenize", json!({"prompt": "a", "add_special_tokens": "no"}), "add_special_tokens"),
        ("/tokenize", json!({"prompt": "a", "messages": []}), "messages"),
        ("/tokenize", json!({"messages": message, "add_special_tokens": true}), "add_special_tokens"),
        ("/tokenize", json!({"messages": message, "continue_final_message": true}), "continue_final_message"),
        ("/detokenize", json!({}), "tokens"),
        ("/detokenize", json!({"tokens": null}), "tokens"),
        ("/detokenize", json!({"tokens": [512]}), "tokens"),
        ("/detokenize", json!({"tokens": [-1]}), "tokens"),
        ("/detokenize", json!({"tokens": [1], "text": "a"}), "text"),
    ] {
        let (status, _, param) = post(server.address(), path, &body).error();
        assert_eq!((status, param), (400, Some(field.into())), "{path} {body}");
    }
    let (status, code, _) = post(server.address(), "/tokenize", &json!({"prompt": "a", "model": "other"})).error();
    assert_eq!((status, &code[..]), (404, "model_not_found"));
    assert!(server.stop());
}
