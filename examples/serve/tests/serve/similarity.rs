//! Similarities over HTTP are those of the engine's vectors.

use llama_core::engine::Embed;
use llama_core::text::Specials;
use serde_json::{Value, json};

use crate::client::post;
use crate::subject::{engine, engine_options, server};

const TEXTS: [&str; 4] = ["Once upon a time", "There was a big dog.", "Once upon a time there", "</s>"];

/// The cosine of each text's angle to the first.
fn expected() -> Vec<f32> {
    let mut alone = engine(engine_options());
    let vectors = TEXTS.map(|text| {
        let prompt = alone.encode(text, Specials::AsText).unwrap();
        alone.embed(Embed::new(prompt)).unwrap()
    });
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    vectors.iter().map(|vector| dot(&vectors[0], vector) as f32).collect()
}

/// The same as who reads it has it: a float may lose its last bit on the way.
fn read(value: Value) -> Value {
    serde_json::from_str(&value.to_string()).unwrap()
}

fn tokens(texts: &[&str]) -> usize {
    let alone = engine(engine_options());
    texts.iter().map(|text| alone.encode(text, Specials::AsText).unwrap().len()).sum()
}

#[test]
fn documents_come_by_their_likeness_to_the_query() {
    let (server, scores) = (server(), expected());
    let mut order: Vec<usize> = (1..4).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    let documents = json!([TEXTS[1], {"text": TEXTS[2]}, TEXTS[3]]);
    for (path, more, count, told) in [
        ("/v1/rerank", json!({}), 3, true),
        ("/rerank", json!({"top_n": 2, "return_documents": true}), 2, true),
        ("/v2/rerank", json!({"top_n": 0, "return_documents": false, "model": "stories"}), 3, false),
    ] {
        let mut body = json!({"query": TEXTS[0], "documents": documents});
        more.as_object().unwrap().iter().for_each(|(key, value)| body[key] = value.clone());
        let reply = post(server.address(), path, &body).json();
        let result = |&at: &usize| {
            let mut result = json!({"index": at - 1, "relevance_score": scores[at]});
            if told {
                result["document"] = json!({"text": TEXTS[at]});
            }
            result
        };
        assert_eq!(reply["results"], read(order.iter().take(count).map(result).collect()), "{path}");
        let tokens = tokens(&TEXTS);
        assert_eq!(reply["usage"], json!({"prompt_tokens": tokens, "total_tokens": tokens}));
        assert_eq!(reply["model"], "stories");
    }
    // More than there are places for sequences.
    let body = json!({"query": TEXTS[0], "documents": vec![TEXTS[1]; 2047], "return_documents": false});
    let many = post(server.address(), "/v1/rerank", &body).json();
    let result = |index: usize| json!({"index": index, "relevance_score": scores[1]});
    assert_eq!(many["results"], read((0..2047).map(result).collect()));
    // Of equals the one that was given first.
    let body = json!({"query": "a", "documents": ["b", "b", "b"]});
    let reply = post(server.address(), "/v1/rerank", &body).json();
    let order = reply["results"].as_array().unwrap().iter().map(|result| &result["index"]).collect::<Vec<_>>();
    assert_eq!(order, [0, 1, 2]);
    assert!(server.stop());
}

#[test]
fn pairs_are_scored_in_their_order() {
    let (server, scores) = (server(), expected());
    let data = |scores: &[f32]| {
        let score = |(index, score): (usize, &f32)| json!({"index": index, "object": "score", "score": score});
        read(scores.iter().enumerate().map(score).collect())
    };
    let ask = |first: Value, second: Value| {
        let body = json!({"text_1": first, "text_2": second});
        let [reply, same] = ["/v1/score", "/score"].map(|path| post(server.address(), path, &body).json());
        assert_eq!(reply["data"], same["data"]);
        assert_eq!(reply["object"], "list");
        reply["data"].clone()
    };
    assert_eq!(ask(json!(TEXTS[0]), json!(TEXTS)), data(&scores));
    assert_eq!(ask(json!([TEXTS[0], TEXTS[0]]), json!([TEXTS[2], TEXTS[1]])), data(&[scores[2], scores[1]]));
    assert_eq!(ask(json!([TEXTS[0]]), json!(TEXTS[3])), data(&scores[3..]));
    assert!(server.stop());
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let server = server();
    for (path, body, param) in [
        ("/v1/rerank", json!({"documents": ["a"]}), "query"),
        ("/v1/rerank", json!({"query": ["a"], "documents": ["a"]}), "query"),
        ("/v1/rerank", json!({"query": "a"}), "documents"),
        ("/v1/rerank", json!({"query": "a", "documents": []}), "documents"),
        ("/v1/rerank", json!({"query": "a", "documents": {}}), "documents"),
        ("/v1/rerank", json!({"query": "a", "documents": ["a", 1]}), "documents[1]"),
        ("/v1/rerank", json!({"query": "a", "documents": [{"txt": "a"}]}), "documents[0].text"),
        ("/v1/rerank", json!({"query": "a", "documents": [{"text": "a", "id": 1}]}), "documents[0].id"),
        ("/v1/rerank", json!({"query": "a", "documents": ["a"], "top_n": -1}), "top_n"),
        ("/v1/rerank", json!({"query": "a", "documents": ["a"], "return_documents": 1}), "return_documents"),
        (
            "/v1/rerank",
            json!({"query": "a", "documents": ["a"], "truncate_prompt_tokens": 5}),
            "truncate_prompt_tokens",
        ),
        ("/v1/rerank", json!({"query": "a", "documents": vec!["a"; 2048]}), "documents"),
        ("/v1/score", json!({"text_2": "a"}), "text_1"),
        ("/v1/score", json!({"text_1": "a"}), "text_2"),
        ("/v1/score", json!({"text_1": ["a", "b"], "text_2": ["a", "b", "c"]}), "text_1"),
        ("/v1/score", json!({"text_1": ["a", "b"], "text_2": "a"}), "text_1"),
        ("/v1/score", json!({"text_1": 1, "text_2": "a"}), "text_1"),
        ("/v1/score", json!({"text_1": "a", "text_2": vec!["a"; 2048]}), "text_2"),
    ] {
        let (status, _, named) = post(server.address(), path, &body).error();
        assert_eq!((status, named), (400, Some(param.into())), "{path} {body}");
    }
    let long = json!({"query": "a", "documents": ["a ".repeat(2000)]});
    let (status, code, _) = post(server.address(), "/v1/rerank", &long).error();
    assert_eq!((status, &code[..]), (400, "context_length_exceeded"));
    assert!(server.stop());
}
