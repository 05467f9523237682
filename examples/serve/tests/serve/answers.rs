//! What is answered is what the engine says, whatever the company, and a stream says the same piece by piece.

use std::net::SocketAddr;
use std::sync::Arc;

use llama_core::engine::{Completion, Embed, Engine, EngineOptions, Finish, Request};
use llama_core::sample::{Allowed, Sampling};
use llama_core::text::{ChatTemplate, Date, Message, RenderOptions, Specials, Trust};
use llama_serve::Bounds;
use serde_json::{Value, json};

use crate::client::{Client, get, metric, post};
use crate::subject::{TEMPLATE, engine, engine_options, serve, server};

const PROMPTS: [&str; 4] = ["Once upon a time", "Lily and Ben went to the park", "The big dog", "é🦙"];

const BAD_WORDS: [&str; 2] = ["the", "was"];

/// A request by its number, as the server is asked and as the engine is.
fn case(engine: &Engine, number: usize) -> (Value, Request) {
    let text = PROMPTS[number % PROMPTS.len()];
    let tokenizer = engine.tokenizer().unwrap();
    let sampling = Sampling {
        typical_p: [1.0, 0.9][number / 3 % 2],
        xtc_probability: [0.0, 0.5][number / 2 % 2],
        dry_multiplier: [0.0, 0.8][number / 5 % 2],
        dry_window: [usize::MAX, 20][number / 10 % 2],
        dry_breakers: match (number / 5 % 2, number % 2) {
            (0, _) => Vec::new(),
            (_, 0) => tokenizer.dry_breakers(),
            _ => tokenizer.containing(&["."]).unwrap(),
        }
        .into(),
        temperature: [1.0, 0.0, 0.7][number % 3],
        top_k: [0, 40][number % 2],
        top_p: [1.0, 0.9][number / 2 % 2],
        frequency_penalty: [0.0, 0.5][number / 4 % 2],
        seed: number as u64,
        logprobs: [None, Some(2)][number / 8 % 2],
        bad_words: tokenizer.bad_words(&BAD_WORDS[..number / 7 % 3]).unwrap().into(),
        allowed_tokens: number
            .is_multiple_of(11)
            .then(|| Arc::new(Allowed::only(512, &(100..512).collect::<Vec<_>>()).unwrap())),
        ..Sampling::greedy()
    };
    let stops = [vec![], vec!["the ".to_owned(), ".".to_owned()]][number / 3 % 2].clone();
    let max_tokens = 5 + number % 90;
    let body = json!({
        "model": "stories", "prompt": text, "max_tokens": max_tokens, "temperature": sampling.temperature,
        "top_k": sampling.top_k, "top_p": sampling.top_p, "frequency_penalty": sampling.frequency_penalty,
        "seed": number, "logprobs": sampling.logprobs, "stop": stops,
        "typical_p": sampling.typical_p, "xtc_probability": sampling.xtc_probability,
        "dry_multiplier": sampling.dry_multiplier, "dry_penalty_last_n": ([-1, 20][number / 10 % 2]),
        "bad_words": BAD_WORDS[..number / 7 % 3], "include_stop_str_in_output": number / 6 % 2 == 1,
        "allowed_token_ids": if number.is_multiple_of(11) { (100..512).collect() } else { Value::Null },
        "dry_sequence_breakers": ([Value::Null, json!(["."])][number % 2]),
    });
    let prompt = engine.encode(text, Specials::AsText).unwrap();
    let include_stop = number / 6 % 2 == 1;
    (
        body,
        Request { max_tokens: Some(max_tokens), sampling, stop_strings: stops, include_stop, ..Request::new(prompt) },
    )
}

fn finish_reason(finish: &Finish) -> &'static str {
    if matches!(finish, Finish::Length) { "length" } else { "stop" }
}

fn check(reply: &Value, prompt: usize, expected: &Completion, engine: &Engine) {
    let choice = &reply["choices"][0];
    assert_eq!(choice["text"], expected.text, "{reply}");
    assert_eq!(choice["finish_reason"], finish_reason(&expected.finish), "{reply}");
    let generated = expected.tokens.len();
    let cached = &reply["usage"]["prompt_tokens_details"];
    let usage = json!({
        "prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated,
        "prompt_tokens_details": cached,
    });
    assert_eq!(reply["usage"], usage);
    assert!(cached["cached_tokens"].as_u64().unwrap() < prompt as u64, "{reply}");
    let lists = &choice["logprobs"];
    for (at, score) in expected.scores.iter().enumerate() {
        if lists["tokens"].get(at).is_none() {
            assert!(at + 1 == expected.scores.len() && matches!(expected.finish, Finish::End(_)), "{reply}");
            continue;
        }
        let piece = engine.tokenizer().unwrap().piece(score.token).unwrap();
        if let Ok(piece) = str::from_utf8(piece) {
            assert_eq!(lists["tokens"][at], piece);
        }
        assert_eq!(lists["token_logprobs"][at].as_f64().unwrap() as f32, score.logprob);
        assert_eq!(lists["top_logprobs"][at].as_object().unwrap().len(), score.top.len());
    }
    assert_eq!(lists.is_null(), expected.scores.is_empty());
}

/// The same texts as from an engine alone, of 64 clients at once.
fn in_company(options: EngineOptions) -> u64 {
    let mut alone = engine(engine_options());
    let cases: Vec<_> = (0..64).map(|number| case(&alone, number)).collect();
    let server = serve(engine(options), Bounds::default());
    let address = server.address();
    let replies = std::thread::scope(|scope| {
        let clients = cases.iter().map(|(body, _)| scope.spawn(move || post(address, "/v1/completions", body)));
        let clients = clients.collect::<Vec<_>>();
        clients.into_iter().map(|client| client.join().unwrap()).collect::<Vec<_>>()
    });
    for (reply, (_, request)) in replies.iter().zip(cases) {
        assert_eq!(reply.status, 200, "{}", reply.text());
        let prompt = request.prompt.len();
        check(&reply.json(), prompt, &alone.complete(request).unwrap(), &alone);
    }
    let preemptions = metric(address, "llama_preemptions_total");
    assert_eq!(server.stats().blocks_used, 0);
    assert!(server.stop());
    preemptions
}

#[test]
fn answers_are_the_engines_in_any_company() {
    in_company(engine_options());
}

#[test]
fn and_where_blocks_are_so_few_that_sequences_give_theirs_up() {
    let options = EngineOptions { context: Some(128), cache_blocks: Some(10), ..engine_options() };
    assert!(in_company(options) > 0, "nobody was preempted");
}

#[test]
fn a_chat_is_what_the_template_makes_of_it() {
    let server = server();
    let mut alone = engine(engine_options());
    let messages = json!([
        {"role": "developer", "content": "Tell stories."},
        {"role": "user", "content": [{"type": "text", "text": "Once "}, {"type": "text", "text": "</s>upon<s>"}]},
    ]);
    let body = json!({"messages": messages, "temperature": 0, "max_completion_tokens": 30, "logprobs": true, "top_logprobs": 1});
    let reply = post(server.address(), "/v1/chat/completions", &body).json();

    let template = ChatTemplate::new(TEMPLATE).unwrap();
    let messages = [Message::new("system", "Tell stories."), Message::new("user", "Once </s>upon<s>")];
    let tokenizer = alone.tokenizer().unwrap().clone();
    let options = RenderOptions::for_tokenizer(Date::today(), &tokenizer);
    let prompt = template.encode(&tokenizer, &messages, &options, Trust::Template).unwrap();
    assert_eq!(prompt.iter().filter(|&&token| tokenizer.is_control(token)).count(), 1, "content made control tokens");
    let sampling = Sampling { logprobs: Some(1), ..Sampling::greedy() };
    let expected = alone.complete(Request { max_tokens: Some(30), sampling, ..Request::new(prompt.clone()) }).unwrap();
    let choice = &reply["choices"][0];
    assert_eq!(choice["message"], json!({"role": "assistant", "content": expected.text, "refusal": null}));
    assert_eq!(reply["usage"]["prompt_tokens"], prompt.len());
    assert_eq!(reply["object"], "chat.completion");
    let content = choice["logprobs"]["content"].as_array().unwrap();
    assert_eq!(content.len(), expected.scores.len());
    let bytes: Vec<u8> = serde_json::from_value(content[0]["bytes"].clone()).unwrap();
    assert_eq!(bytes, tokenizer.piece(expected.tokens[0]).unwrap());
    assert_eq!(content[0]["top_logprobs"][0]["token"], content[0]["token"], "the likeliest token was taken");
    assert!(server.stop());
}

#[test]
fn usage_says_what_the_cache_held_of_a_prompt() {
    let server = server();
    let address = server.address();
    let cached = |path: &str, body: &Value| {
        let usage = post(address, path, body).json()["usage"].take();
        let details = ["prompt_tokens_details", "input_tokens_details"].map(|name| &usage[name]["cached_tokens"]);
        details.into_iter().find_map(Value::as_u64).unwrap_or_else(|| panic!("{usage}"))
    };
    let prompt = |from: u32, tokens: u32| (from..from + tokens).collect::<Vec<_>>();
    // Choices find what the first of them computed; a prompt's tokens count once all the same.
    let body = json!({"prompt": [prompt(100, 40), prompt(200, 40)], "n": 3, "max_tokens": 4});
    assert_eq!(cached("/v1/completions", &body), 0);
    // Two whole blocks of each.
    assert_eq!(cached("/v1/completions", &body), 64);
    let (_, events) = both(address, "/v1/completions", json!({"prompt": prompt(300, 33), "max_tokens": 4}));
    assert_eq!(events.last().unwrap()["usage"]["prompt_tokens_details"], json!({"cached_tokens": 32}));
    let content = "Once upon a time there was a little girl who liked to play. ".repeat(2);
    let chat = json!({"messages": [{"role": "user", "content": content}], "max_tokens": 2});
    assert_eq!(cached("/v1/chat/completions", &chat), 0);
    let again = cached("/v1/chat/completions", &chat);
    assert!(again >= 16, "{again}");
    assert_eq!(cached("/v1/responses", &json!({"input": content, "max_output_tokens": 2})), again);
    assert!(server.stop());
}

/// What the pieces of a stream come to, choice by choice, and what ended each.
fn joined(events: &[Value], field: impl Fn(&Value) -> &Value) -> Vec<(String, String)> {
    let mut choices = Vec::new();
    for choice in events.iter().flat_map(|event| event["choices"].as_array().unwrap()) {
        let index = choice["index"].as_u64().unwrap() as usize;
        choices.resize(choices.len().max(index + 1), (String::new(), String::new()));
        assert!(choices[index].1.is_empty(), "something after the end: {choice}");
        choices[index].0.push_str(field(choice).as_str().unwrap_or_default());
        choices[index].1.push_str(choice["finish_reason"].as_str().unwrap_or_default());
    }
    choices
}

fn whole(reply: &Value, field: impl Fn(&Value) -> &Value) -> Vec<(String, String)> {
    let choices = reply["choices"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    choices.map(|choice| (text(field(choice)), text(&choice["finish_reason"]))).collect()
}

/// Both forms of an answer.
fn both(address: SocketAddr, path: &str, mut body: Value) -> (Value, Vec<Value>) {
    let reply = post(address, path, &body);
    assert_eq!(reply.status, 200, "{}", reply.text());
    body["stream"] = true.into();
    body["stream_options"] = json!({"include_usage": true});
    let stream = post(address, path, &body);
    assert_eq!((stream.status, stream.header("content-type")), (200, Some("text/event-stream")), "{}", stream.text());
    (reply.json(), stream.events())
}

#[test]
fn a_streams_pieces_are_the_whole_answer() {
    let server = server();
    let address = server.address();
    for (number, more) in [
        json!({}),
        json!({"n": 3}),
        json!({"stop": ["the", " a "], "n": 2, "max_tokens": 200}),
        json!({"logprobs": 2}),
        json!({"prompt": ["Once", "Twice", [1, 403, 407]], "n": 2}),
        json!({"echo": true, "prompt": ["Once", "Twice"]}),
        json!({"max_tokens": 1, "prompt": "🦙🦙", "n": 8, "temperature": 2}),
    ]
    .into_iter()
    .enumerate()
    {
        let mut body = json!({"prompt": "Once upon a time", "max_tokens": 40, "seed": number});
        more.as_object().unwrap().iter().for_each(|(key, value)| body[key] = value.clone());
        let (reply, events) = both(address, "/v1/completions", body);
        assert_eq!(joined(&events, |choice| &choice["text"]), whole(&reply, |choice| &choice["text"]), "{more}");
        let (last, others) = events.split_last().unwrap();
        assert_eq!(last["usage"], reply["usage"]);
        assert_eq!(last["choices"], json!([]));
        assert!(others.iter().all(|event| event["usage"].is_null() && event["id"] == last["id"]), "{more}");
        assert_ne!(last["id"], reply["id"]);
    }
    assert!(server.stop());
}

#[test]
fn so_are_a_chats() {
    let server = server();
    for more in [json!({}), json!({"n": 3, "stop": "."}), json!({"logprobs": true, "max_tokens": 12})] {
        let mut body = json!({"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 60, "seed": 3});
        more.as_object().unwrap().iter().for_each(|(key, value)| body[key] = value.clone());
        let (reply, events) = both(server.address(), "/v1/chat/completions", body);
        let text = |choice: &Value| -> Value { choice["delta"]["content"].clone() };
        assert_eq!(text(&events[0]["choices"][0]), "", "the role comes first");
        assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
        assert_eq!(events[0]["object"], "chat.completion.chunk");
        let pieces = joined(&events, |choice| &choice["delta"]["content"]);
        assert_eq!(pieces, whole(&reply, |choice| &choice["message"]["content"]), "{more}");
        let scored = |events: &[Value]| -> usize {
            let lists = events.iter().filter_map(|event| event["choices"][0]["logprobs"]["content"].as_array());
            lists.map(Vec::len).sum()
        };
        assert_eq!(scored(&events), scored(std::slice::from_ref(&reply)));
    }
    assert!(server.stop());
}

#[test]
fn choices_have_seeds_of_their_own_and_the_first_the_requests() {
    let server = server();
    let ask = |n: usize, seed: i64| {
        let body = json!({"prompt": "Once", "max_tokens": 30, "n": n, "seed": seed});
        whole(&post(server.address(), "/v1/completions", &body).json(), |choice| &choice["text"])
    };
    let three = ask(3, -1);
    assert_eq!(three[..1], ask(1, -1));
    assert_eq!(three[1..2], ask(1, 0));
    assert!(three[0] != three[1] && three[1] != three[2]);
    let unseeded = || {
        whole(
            &post(server.address(), "/v1/completions", &json!({"prompt": "Once", "max_tokens": 30})).json(),
            |choice| &choice["text"],
        )
    };
    assert_ne!(unseeded(), unseeded(), "without a seed texts differ");
    assert!(server.stop());
}

#[test]
fn a_prompt_can_be_scored() {
    let server = server();
    let mut alone = engine(engine_options());
    let prompt = alone.encode("Once upon a time, there was", Specials::AsText).unwrap();
    let body = json!({"prompt": prompt, "max_tokens": 0, "echo": true, "logprobs": 1});
    let reply = post(server.address(), "/v1/completions", &body).json();
    let sampling = Sampling { logprobs: Some(1), ..Sampling::greedy() };
    let request = Request { max_tokens: Some(0), sampling, prompt_logprobs: true, ..Request::new(prompt.clone()) };
    let expected = alone.complete(request).unwrap();
    let lists = &reply["choices"][0]["logprobs"];
    let scores: Vec<Option<f32>> = serde_json::from_value(lists["token_logprobs"].clone()).unwrap();
    assert_eq!(scores[0], None);
    assert_eq!(scores[1..], expected.prompt.iter().map(|score| Some(score.logprob)).collect::<Vec<_>>());
    assert_eq!(lists["tokens"].as_array().unwrap().len(), prompt.len());
    assert_eq!(reply["choices"][0]["text"], "Once upon a time, there was");
    assert_eq!(reply["usage"]["completion_tokens"], 0);
    assert!(server.stop());
}

#[test]
fn embeddings_are_the_engines() {
    let server = server();
    let mut alone = engine(engine_options());
    let texts = ["Once upon a time", "é", &"The dog ran. ".repeat(20)];
    let prompts = texts.map(|text| alone.encode(text, Specials::AsText).unwrap());
    let expected = alone.embed_all(prompts.map(Embed::new)).unwrap();
    let reply = post(server.address(), "/v1/embeddings", &json!({"input": texts, "model": "stories"})).json();
    for (data, expected) in reply["data"].as_array().unwrap().iter().zip(&expected) {
        let vector: Vec<f32> = serde_json::from_value(data["embedding"].clone()).unwrap();
        assert_eq!(&vector, expected);
    }
    let body = json!({"input": texts[1], "encoding_format": "base64"});
    let reply = post(server.address(), "/v1/embeddings", &body).json();
    let encoded = reply["data"][0]["embedding"].as_str().unwrap();
    assert_eq!(decoded(encoded), expected[1].iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>());
    assert!(server.stop());
}

/// Base64, bit by bit.
fn decoded(text: &str) -> Vec<u8> {
    const DIGITS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = text.trim_end_matches('=').chars().map(|digit| DIGITS.find(digit).unwrap());
    let bits: Vec<bool> = digits.flat_map(|digit| (0..6).rev().map(move |bit| digit >> bit & 1 == 1)).collect();
    bits.chunks_exact(8).map(|bits| bits.iter().fold(0, |byte, &bit| byte << 1 | u8::from(bit))).collect()
}

#[test]
fn paths_that_need_no_engine() {
    let server = server();
    let address = server.address();
    assert_eq!(get(address, "/health").json(), json!({"status": "ok"}));
    let models = get(address, "/v1/models").json();
    assert_eq!((&models["object"], &models["data"][0]["id"]), (&json!("list"), &json!("stories")));
    assert_eq!(get(address, "/v1/models/stories").json(), models["data"][0]);
    assert_eq!(get(address, "/v1/models/other").error(), (404, "model_not_found".into(), Some("model".into())));
    assert_eq!(get(address, "/").error().0, 404);
    let wrong = get(address, "/v1/chat/completions");
    assert_eq!((wrong.status, wrong.header("allow")), (405, Some("POST")));
    let wrong = post(address, "/v1/models", &json!({}));
    assert_eq!((wrong.status, wrong.header("allow")), (405, Some("GET")));
    post(address, "/v1/completions", &json!({"prompt": [1, 2, 3], "max_tokens": 5, "ignore_eos": true}));
    assert_eq!(metric(address, "llama_prompt_tokens_total"), 3);
    assert_eq!(metric(address, "llama_generated_tokens_total"), 5);
    assert_eq!(metric(address, "llama_healthy"), 1);
    assert!(server.stop());
}

#[test]
fn one_connection_asks_again_and_again() {
    let server = server();
    let mut client = Client::connect(server.address());
    for stream in [false, true, false] {
        client.post("/v1/completions", &json!({"prompt": "Once", "max_tokens": 3, "stream": stream}).to_string());
        assert_eq!(client.reply().status, 200);
    }
    assert_eq!(metric(server.address(), "llama_connections_total"), 2);
    assert!(server.stop());
}

#[test]
fn json_is_as_its_format_wants_it() {
    let server = server();
    let ask = |format: Value, seed: usize| {
        let messages = json!([{"role": "user", "content": "A person, as JSON"}]);
        let body = json!({"messages": messages, "response_format": format, "max_tokens": 200, "seed": seed});
        post(server.address(), "/v1/chat/completions", &body).json()["choices"][0].clone()
    };
    let schema = json!({
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer", "minimum": 1, "maximum": 99}},
        "required": ["name", "age"],
        "additionalProperties": false,
    });
    for seed in 0..8 {
        let format =
            json!({"type": "json_schema", "json_schema": {"name": "person", "strict": true, "schema": schema}});
        let choice = ask(format, seed);
        assert_eq!(choice["finish_reason"], "stop", "{choice}");
        let person: Value = serde_json::from_str(choice["message"]["content"].as_str().unwrap()).unwrap();
        assert!(person["name"].is_string() && (1..=99).contains(&person["age"].as_i64().unwrap()), "{choice}");
    }
    let text = ask(json!({"type": "json_object"}), 1)["message"]["content"].as_str().unwrap().to_owned();
    assert!(text.starts_with('{'), "{text:?}");
}
