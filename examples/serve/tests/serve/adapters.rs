//! Adapters: a request that names one is answered by it, beside requests that name others or the model itself.

use std::path::Path;
use std::thread;

use llama_core::Loader;
use llama_core::adapter::Adapter;
use llama_core::engine::{Embed, Engine, Request};
use llama_core::text::{ChatTemplate, Specials};
use llama_serve::{Bounds, Model, Options, Server};
use serde_json::{Value, json};

use crate::client::{get, post};
use crate::subject::{TEMPLATE, engine_options, serve, shipped};

pub const PROMPT: &str = "Once upon a time";
/// What requests call the model, and what the engine calls the same.
const NAMES: [(&str, Option<&str>); 3] = [("stories", None), ("loud", Some("loud")), ("odd", Some("odd"))];

/// The folder of an adapter of the shipped model's last down projection, of rank 1.
fn write(folder: &Path, seed: usize) {
    write_ranks(folder, seed, 1);
}

/// The same of so many ranks.
pub fn write_ranks(folder: &Path, seed: usize, rank: usize) {
    let (hidden, ffn) = (64, 172);
    let (a, all) = (4 * rank * ffn, 4 * rank * (ffn + hidden));
    let numbers = (0..rank * (ffn + hidden)).map(|i| ((i * i + i * seed) % 61) as f32 / 30.0 - 1.0);
    let name = "base_model.model.model.layers.4.mlp.down_proj.lora_";
    let header = json!({
        format!("{name}A.weight"): {"dtype": "F32", "shape": [rank, ffn], "data_offsets": [0, a]},
        format!("{name}B.weight"): {"dtype": "F32", "shape": [hidden, rank], "data_offsets": [a, all]},
    });
    let header = header.to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.bytes());
    file.extend(numbers.flat_map(f32::to_le_bytes));
    std::fs::write(folder.join("adapter_model.safetensors"), file).unwrap();
    let config = json!({"peft_type": "LORA", "r": rank, "lora_alpha": 0.6, "target_modules": ["down_proj"]});
    std::fs::write(folder.join("adapter_config.json"), config.to_string()).unwrap();
}

fn engine() -> Engine {
    engine_with(["loud", "odd"])
}

fn engine_with(names: [&str; 2]) -> Engine {
    let mut loader = Loader::open(shipped()).unwrap().options(engine_options());
    for (name, seed) in names.into_iter().zip(1..) {
        let place = tempfile::tempdir().unwrap();
        write(place.path(), seed);
        loader = loader.adapter(name, Adapter::open(place.path()).unwrap(), 1.0).unwrap();
    }
    loader.load(llama_kernels::Cpu::new(llama_kernels::CpuOptions::default()).unwrap()).unwrap()
}

#[test]
fn a_request_chooses_its_adapter() {
    let mut alone = engine();
    let prompt = alone.encode(PROMPT, Specials::AsText).unwrap();
    let expected = NAMES.map(|(_, adapter)| {
        let adapter = adapter.map(str::to_owned);
        let request = Request { max_tokens: Some(30), adapter: adapter.clone(), ..Request::new(prompt.clone()) };
        let text = alone.complete(request).unwrap().text;
        (text, alone.embed(Embed { adapter, ..Embed::new(prompt.clone()) }).unwrap())
    });
    assert!(expected[0].0 != expected[1].0 && expected[1].0 != expected[2].0 && expected[0].0 != expected[2].0);
    let server = serve(engine(), Bounds::default());
    let address = server.address();
    let ask = |name: &str, (text, vector): &(String, Vec<f32>)| {
        let body = json!({"model": name, "prompt": PROMPT, "max_tokens": 30, "temperature": 0});
        let reply = post(address, "/v1/completions", &body).json();
        assert_eq!((&reply["choices"][0]["text"], &reply["model"]), (&json!(text), &json!(name)));
        let mut body = body;
        body["stream"] = true.into();
        let events = post(address, "/v1/completions", &body).events();
        assert!(!events.is_empty() && events.iter().all(|event| event["model"] == name));
        let told: String = events.iter().filter_map(|event| event["choices"][0]["text"].as_str()).collect();
        assert_eq!(&told, text);
        let reply = post(address, "/v1/embeddings", &json!({"model": name, "input": PROMPT})).json();
        let got: Vec<f32> = serde_json::from_value(reply["data"][0]["embedding"].clone()).unwrap();
        assert_eq!((&got, &reply["model"]), (vector, &json!(name)));
    };
    thread::scope(|scope| {
        for i in 0..9 {
            let (ask, (name, _), expected) = (&ask, NAMES[i % 3], &expected[i % 3]);
            scope.spawn(move || ask(name, expected));
        }
    });
    let message = json!([{"role": "user", "content": "Hello"}]);
    let reply = post(address, "/v1/chat/completions", &json!({"model": "odd", "messages": message, "max_tokens": 3}));
    assert_eq!(reply.json()["model"], "odd");
    let body = json!({"model": "odd", "input": "Hello", "max_output_tokens": 3, "stream": true});
    let events = post(address, "/v1/responses", &body).numbered_events();
    assert!([0, events.len() - 1].iter().all(|&at| events[at]["response"]["model"] == "odd"), "{events:?}");
    let body = json!({"model": "odd", "messages": message, "max_tokens": 3, "stream": true});
    let events = post(address, "/v1/messages", &body).named_events();
    assert_eq!(events[0]["message"]["model"], "odd");
    assert!(server.stop());
}

#[test]
fn adapters_are_models_of_the_list() {
    let server = serve(engine(), Bounds::default());
    let address = server.address();
    let models = get(address, "/v1/models").json();
    let names: Vec<_> = models["data"].as_array().unwrap().iter().map(|model| &model["id"]).collect();
    assert_eq!(names, ["stories", "loud", "odd"]);
    assert_eq!((&models["data"][0]["parent"], &models["data"][1]["parent"]), (&Value::Null, &json!("stories")));
    assert_eq!(get(address, "/v1/models/odd").json(), models["data"][2]);
    let refused = post(address, "/v1/completions", &json!({"model": "quiet", "prompt": PROMPT}));
    assert_eq!(refused.error(), (404, "model_not_found".into(), Some("model".into())));
    assert!(refused.text().contains("this server has stories, loud, odd"));
    assert!(server.stop());
}

/// As clients write a path: whatever may stand for itself in a name need not.
#[test]
fn names_are_spelled_as_paths_spell_them() {
    let server = serve(engine_with(["poets/Emily D.", "50%"]), Bounds::default());
    let found = |path: &str| {
        let reply = get(server.address(), &format!("/v1/models/{path}"));
        (reply.status == 200).then(|| reply.json()["id"].as_str().unwrap().to_owned())
    };
    for path in ["poets/Emily%20D.", "poets%2FEmily%20D.", "p%6fets%2fEmily%20D%2E"] {
        assert_eq!(found(path).as_deref(), Some("poets/Emily D."), "{path}");
    }
    assert_eq!((found("50%25").as_deref(), found("50%").as_deref()), (Some("50%"), Some("50%")));
    for path in ["50%2", "50%2g", "50%+5", "%ff", "poets%252FEmily%20D."] {
        assert_eq!(found(path), None, "{path}");
    }
    assert!(server.stop());
}

#[test]
fn an_adapter_with_the_models_name_is_refused() {
    let template = Some(ChatTemplate::new(TEMPLATE).unwrap());
    let mut options = Options::default();
    options.address.set_port(0);
    let error = Server::start(Model { engine: engine(), template, name: "odd".into() }, options).err().unwrap();
    assert_eq!(error.to_string(), "parameter adapter = odd: is the model's name, too: give one of them another");
}
