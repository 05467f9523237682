//! Labels over HTTP are the engine's.

use llama_core::Loader;
use llama_core::engine::Engine;
use llama_kernels::{Cpu, CpuOptions};
use llama_serve::Bounds;
use llama_tests::heads::Case;
use llama_tests::text::tiny_sentencepiece;
use serde_json::{Value, json};

use crate::client::{get, post};
use crate::subject::{engine_options, serve, server};

const LABELS: &str = r#""id2label": {"0": "safe", "1": "odd", "2": "unsafe"},"#;

fn classifier() -> Engine {
    classifier_with("")
}

fn classifier_with(keys: &str) -> Engine {
    let place = tempfile::tempdir().unwrap();
    Case::open("llama3-gqa").write_classifier(place.path(), &format!("{LABELS}{keys}"));
    std::fs::write(place.path().join("tokenizer.json"), tiny_sentencepiece().to_string()).unwrap();
    let loader = Loader::open(place.path()).unwrap().options(engine_options());
    loader.load(Cpu::new(CpuOptions { threads: Some(1), ..CpuOptions::default() }).unwrap()).unwrap()
}

#[test]
fn texts_get_the_engines_labels() {
    let prompts: [&[u32]; 3] = [&[1, 5, 9, 80, 33], &[1, 2, 3], &[77; 40]];
    let mut alone = classifier();
    let expected = prompts.map(|prompt| alone.classify(prompt).unwrap());
    let server = serve(classifier(), Bounds::default());
    for path in ["/v1/classify", "/classify"] {
        let reply = post(server.address(), path, &json!({"input": prompts, "model": "stories"})).json();
        assert_eq!((&reply["object"], &reply["model"]), (&json!("list"), &json!("stories")));
        assert_eq!(reply["usage"], json!({"prompt_tokens": 48, "completion_tokens": 0, "total_tokens": 48}));
        for (index, (data, expected)) in reply["data"].as_array().unwrap().iter().zip(&expected).enumerate() {
            let scores: Vec<f32> = serde_json::from_value(data["scores"].clone()).unwrap();
            let probs: Vec<f64> = serde_json::from_value(data["probs"].clone()).unwrap();
            let best = (0..3).max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap();
            assert_eq!((&data["index"], &scores), (&json!(index), expected));
            assert_eq!((&data["label"], &data["num_classes"]), (&json!(["safe", "odd", "unsafe"][best]), &json!(3)));
            assert!((probs.iter().sum::<f64>() - 1.0).abs() < 1e-9 && probs.iter().all(|p| *p <= probs[best]));
        }
    }
    let text = post(server.address(), "/v1/classify", &json!({"input": "hello"})).json();
    assert_eq!(text["data"].as_array().unwrap().len(), 1);
    // What has labels has no head: it says nothing else.
    assert_eq!(post(server.address(), "/v1/completions", &json!({"prompt": "hello"})).status, 400);
    assert!(server.stop());
}

#[test]
fn probabilities_are_what_the_problem_makes_of_scores() {
    let logistic = |score: f64| 1.0 / (1.0 + (-score).exp());
    let probs: [(&str, &dyn Fn(f64) -> f64); 2] =
        [("multi_label_classification", &logistic), ("regression", &|score| score)];
    for (problem, expected) in probs {
        let server = serve(classifier_with(&format!("\"problem_type\": \"{problem}\",")), Bounds::default());
        let reply = post(server.address(), "/classify", &json!({"input": [1, 5, 9, 80, 33]})).json();
        let numbers = |field: &str| -> Vec<f64> { serde_json::from_value(reply["data"][0][field].clone()).unwrap() };
        for (score, prob) in numbers("scores").into_iter().zip(numbers("probs")) {
            assert!((prob - expected(score)).abs() < 1e-6, "{problem}: {prob} of {score}");
        }
        assert!(server.stop());
    }
}

#[test]
fn what_cannot_be_classified_is_refused() {
    let plain = server();
    let refused = post(plain.address(), "/v1/classify", &json!({"input": "hello"}));
    assert_eq!(refused.error(), (400, "unsupported".into(), Some("model".into())));
    assert_eq!(get(plain.address(), "/v1/classify").status, 405);
    assert!(plain.stop());
    let server = serve(classifier(), Bounds::default());
    for (body, field) in [
        (json!({}), "input"),
        (json!({"input": []}), "input"),
        (json!({"input": vec![1; 5000]}), "input"),
        (json!({"input": "a", "softmax": false}), "softmax"),
    ] {
        let (status, _, param) = post(server.address(), "/v1/classify", &body).error();
        let of_a_length = body["input"].as_array().is_some_and(|input| input.len() > 1000);
        assert!(status == 400 && (of_a_length || param == Some(field.into())), "{body}: {param:?}");
    }
    assert_eq!(post(server.address(), "/v1/models", &Value::Null).status, 405);
    assert!(server.stop());
}
