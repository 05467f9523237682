//! `suffix` of completions: what belongs between two texts.

use std::sync::Arc;

use llama_core::checkpoint::Checkpoint;
use llama_core::engine::{Engine, Request};
use llama_core::model::Llama;
use llama_core::sample::Sampling;
use llama_core::text::{Order, Scheme, SpacePrefix, TokenKind, Tokenizer, Vocab};
use llama_serve::Bounds;
use serde_json::json;

use super::client::post;
use super::subject::{cpu, engine_options, serve, server, shipped};

const MARKS: [&str; 4] = ["<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<fim_pad>"];

/// As many tokens as the model has rows: bytes, those for infilling, and words.
fn tokenizer() -> Tokenizer {
    let mut tokens = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
    tokens.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
    tokens.extend(MARKS.map(String::from));
    tokens.extend((tokens.len()..512).map(|id| format!("w{id}")));
    let kind = |token: &String| match token.as_str() {
        "<unk>" => TokenKind::Unknown,
        token if token.starts_with("<0x") => TokenKind::Byte,
        token if token.starts_with('<') => TokenKind::Control,
        _ => TokenKind::Normal,
    };
    let vocab = Vocab {
        kinds: tokens.iter().map(kind).collect(),
        scheme: Scheme::SentencePiece { order: Order::Scores(vec![0.0; 512]), space_prefix: SpacePrefix::Every },
        tokens,
        bos: Some(1),
        eos: Some(2),
        unk: Some(0),
        end_tokens: Vec::new(),
        add_bos: true,
        add_eos: false,
        strips: Vec::new(),
        infill: None,
    };
    Tokenizer::new(vocab).unwrap()
}

fn infilling() -> Engine {
    let checkpoint = Checkpoint::open(shipped()).unwrap();
    let limits = engine_options().limits(checkpoint.config()).unwrap();
    let model = Llama::load(cpu(), &checkpoint, limits, None, &mut |_| {}).unwrap();
    Engine::new(Box::new(model), Some(Arc::new(tokenizer())), &engine_options()).unwrap()
}

#[test]
fn a_suffix_asks_for_what_belongs_before_it() {
    let server = serve(infilling(), Bounds::default());
    let mut alone = infilling();
    let mut ask = |prompt: &str, suffix: &str, sampling: Sampling, more: serde_json::Value| {
        let request = Request { max_tokens: Some(30), sampling, ..alone.infill(prompt, suffix).unwrap() };
        let tokens = request.prompt.len();
        let expected = alone.complete(request).unwrap();
        let mut body = json!({"prompt": [prompt, "other"], "suffix": suffix, "max_tokens": 30, "temperature": 0});
        more.as_object().unwrap().iter().for_each(|(key, value)| body[key] = value.clone());
        let reply = post(server.address(), "/v1/completions", &body).json();
        assert_eq!(reply["choices"][0]["text"], expected.text, "{reply}");
        let other = alone.infill("other", suffix).unwrap().prompt.len();
        assert_eq!(reply["usage"]["prompt_tokens"], tokens + other);
        (expected, reply)
    };
    ask("é ", "</s>x", Sampling::greedy(), json!({}));
    ask("", "x", Sampling::greedy(), json!({"stream": false}));
    // What ends a middle ends the text, and is none of it.
    let pad = 3 + 256 + 3;
    let sampling = Sampling { logit_bias: vec![(pad, 100.0)], ..Sampling::greedy() };
    let (expected, reply) = ask("a", "b", sampling, json!({"logit_bias": {pad.to_string(): 100}}));
    assert_eq!((expected.tokens, expected.text.as_str()), (vec![pad], ""));
    assert_eq!(reply["choices"][0]["finish_reason"], "stop", "{reply}");
    let body = json!({"prompt": "a", "suffix": "b", "max_tokens": 3, "ignore_eos": true, "logit_bias": {pad.to_string(): 100}});
    assert_eq!(post(server.address(), "/v1/completions", &body).json()["usage"]["completion_tokens"], 3);
    assert!(server.stop());
}

#[test]
fn an_infilling_that_cannot_be_is_refused() {
    let refused = |server: &llama_serve::Server, body: &serde_json::Value| {
        let reply = post(server.address(), "/v1/completions", body);
        assert_eq!(reply.status, 400, "{}", reply.text());
        reply.json()["error"]["param"].as_str().unwrap().to_owned()
    };
    let server = server();
    assert_eq!(refused(&server, &json!({"prompt": "a", "suffix": "b"})), "suffix");
    assert_eq!(post(server.address(), "/v1/completions", &json!({"prompt": "a", "suffix": ""})).status, 200);
    assert!(server.stop());
    let server = serve(infilling(), Bounds::default());
    for (body, param) in [
        (json!({"prompt": "a", "suffix": "b", "echo": true}), "suffix"),
        (json!({"prompt": [3, 4], "suffix": "b"}), "prompt"),
        (json!({"prompt": ["a", [3]], "suffix": "b"}), "prompt"),
        (json!({"suffix": "b"}), "prompt"),
        (json!({"prompt": "a", "suffix": ["b"]}), "suffix"),
    ] {
        assert_eq!(refused(&server, &body), param, "{body}");
    }
    assert!(server.stop());
}
