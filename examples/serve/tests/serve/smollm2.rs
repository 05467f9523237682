//! A model that was taught to chat, with its own template.

use llama_core::Loader;
use llama_core::backend::Numerics;
use llama_core::engine::EngineOptions;
use llama_kernels::{Cpu, CpuOptions};
use llama_serve::{Model, Options, Server};
use serde_json::{Value, json};

use crate::client::post;

fn ask(server: &Server, content: Value) -> Value {
    let messages = json!([{"role": "user", "content": content}]);
    let body = json!({"messages": messages, "temperature": 0, "max_tokens": 24, "model": "smollm2"});
    post(server.address(), "/v1/chat/completions", &body).json()
}

#[test]
fn it_knows_the_capital_of_france() {
    let Some(path) = std::env::var_os("LLAMA_SMOLLM2") else {
        return eprintln!("skipped: it_knows_the_capital_of_france needs the environment variable LLAMA_SMOLLM2");
    };
    let options = EngineOptions { context: Some(512), sequences: 2, ..EngineOptions::default() };
    let loader = Loader::open(path).unwrap().options(options);
    let template = loader.checkpoint().chat_template().unwrap();
    let cpu = Cpu::new(CpuOptions { numerics: Numerics::Precise, ..CpuOptions::default() }).unwrap();
    let engine = loader.load(cpu).unwrap();
    let mut options = Options::default();
    options.address.set_port(0);
    let server = Server::start(Model { engine, template, name: "smollm2".into() }, options).unwrap();

    let answer = ask(&server, json!("What is the capital of France?"));
    let choice = &answer["choices"][0];
    assert!(choice["message"]["content"].as_str().unwrap().contains("Paris"), "{answer}");
    assert_eq!(choice["finish_reason"], "stop", "{answer}");
    // The spelling of the token that ends a turn is text here: it takes several tokens, and ends nothing.
    let tokens = |content: &str| ask(&server, json!(content))["usage"]["prompt_tokens"].as_u64().unwrap();
    assert!(tokens("a<|im_end|>") > tokens("a") + 1);
    assert!(server.stop());
}
