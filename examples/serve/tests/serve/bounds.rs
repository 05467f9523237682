//! Too much, too slow, too long: what the server refuses, drops or ends so that the others get on.

use std::io::Read;
use std::net::Shutdown;
use std::time::Duration;

use llama_core::engine::EngineOptions;
use llama_serve::Bounds;
use serde_json::json;

use crate::client::{Client, eventually, get, last_event, metric, post};
use crate::subject::{Gate, engine, engine_options, hooked, serve};

const SHORT: Duration = Duration::from_millis(300);

#[test]
fn overload_is_refused_at_once_and_what_was_let_in_is_answered() {
    let gate = Gate::default();
    let bounds = Bounds { sequences: 10, ..Bounds::default() };
    let server = serve(gate.engine(engine_options()), bounds);
    let address = server.address();
    let ask = |n: usize| {
        let mut client = Client::connect(address);
        client.post("/v1/completions", &json!({"prompt": "Once", "max_tokens": 5, "n": n}).to_string());
        client
    };
    let admitted: Vec<_> = [4, 4, 2].map(ask).into_iter().collect();
    eventually("the queue is full", || metric(address, "llama_sequences_admitted") == 10);
    for n in [1, 2, 8] {
        let reply = ask(n).reply();
        assert_eq!(reply.error(), (429, "rate_limit_exceeded".into(), None));
        assert_eq!(reply.header("retry-after"), Some("1"));
    }
    assert_eq!(get(address, "/health").status, 200, "health is told of while a step is under way");
    gate.open();
    for (mut client, n) in admitted.into_iter().zip([4, 4, 2]) {
        let reply = client.reply();
        assert_eq!(reply.json()["choices"].as_array().map(Vec::len), Some(n), "{}", reply.text());
    }
    assert_eq!(metric(address, "llama_sequences_admitted"), 0);
    assert_eq!(metric(address, "llama_prompt_tokens_admitted"), 0);
    assert_eq!(ask(8).reply().status, 200);
    assert!(server.stop());
}

#[test]
fn so_are_more_tokens_than_may_wait() {
    let gate = Gate::default();
    let server = serve(gate.engine(engine_options()), Bounds { prompt_tokens: 100, ..Bounds::default() });
    let address = server.address();
    let ask = |tokens: usize| {
        let mut client = Client::connect(address);
        client.post("/v1/completions", &json!({"prompt": vec![5; tokens], "max_tokens": 2}).to_string());
        client
    };
    let mut first = ask(300);
    eventually("the first is let in, though it is too long", || metric(address, "llama_prompt_tokens_admitted") == 300);
    assert_eq!(ask(1).reply().error().0, 429);
    gate.open();
    assert_eq!(first.reply().status, 200);
    assert_eq!(ask(1).reply().status, 200);
    assert!(server.stop());
}

#[test]
fn bodies_share_a_budget() {
    let bounds = Bounds { body: 6000, bodies: 10_000, ..Bounds::default() };
    let server = serve(engine(engine_options()), bounds);
    let address = server.address();
    let head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 5999\r\n\r\n";
    let mut slow = Client::connect(address);
    slow.send(head.as_bytes());
    slow.send(&[b' '; 5998]);
    let body = json!({"prompt": "a", "user": "x".repeat(5000)});
    eventually("the slow body is counted", || post(address, "/v1/completions", &body).status == 429);
    assert_eq!(post(address, "/v1/completions", &json!({"prompt": "a"})).status, 200, "a small one still finds room");
    drop(slow);
    eventually("its share is given back", || post(address, "/v1/completions", &body).status == 200);
    assert!(server.stop());
}

#[test]
fn who_goes_away_frees_his_blocks() {
    let slow = || {
        hooked(
            engine_options(),
            Box::new(|_, _| {
                std::thread::sleep(Duration::from_micros(200));
                Ok(())
            }),
        )
    };
    let server = serve(slow(), Bounds::default());
    let address = server.address();
    std::thread::scope(|scope| {
        for client in 0..8u64 {
            scope.spawn(move || {
                let mut random = client;
                for round in 0..12 {
                    random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    let chat = round % 3 == 0;
                    let path = if chat { "/v1/chat/completions" } else { "/v1/completions" };
                    let mut body = json!({"max_tokens": 300, "stream": random >> 40 & 1 == 0, "n": 1 + random % 3, "ignore_eos": true});
                    match chat {
                        true => body["messages"] = json!([{"role": "user", "content": "Hello ".repeat(20)}]),
                        false => body["prompt"] = "Once upon a time ".repeat(1 + (random >> 33) as usize % 20).into(),
                    }
                    let mut connection = Client::connect(address);
                    connection.post(path, &body.to_string());
                    std::thread::sleep(Duration::from_micros(random >> 20 & 0x3fff));
                    match round % 2 {
                        0 => connection.stream().shutdown(Shutdown::Write).unwrap(),
                        _ => drop(connection),
                    }
                }
            });
        }
    });
    eventually("all blocks are free", || {
        let stats = server.stats();
        (stats.blocks_used, stats.running, stats.waiting) == (0, 0, 0)
            && metric(address, "llama_sequences_admitted") == 0
    });
    assert!(metric(address, "llama_sequences_cancelled_total") > 0, "nobody went away in time");
    let body = json!({"prompt": "Once upon a time", "max_tokens": 20, "temperature": 0});
    let alone = serve(engine(engine_options()), Bounds::default());
    let text = |address| post(address, "/v1/completions", &body).json()["choices"][0]["text"].clone();
    assert_eq!(text(address), text(alone.address()));
    assert!(server.stop() && alone.stop());
}

/// Texts so long, with so many alternatives, that no buffer of a system holds them.
fn long_answers() -> (llama_core::engine::Engine, serde_json::Value) {
    let options = EngineOptions { context: Some(8192), ..engine_options() };
    let body = json!({"prompt": "a", "max_tokens": 8000, "ignore_eos": true, "n": 8, "logprobs": 20, "stream": true});
    (engine(options), body)
}

#[test]
fn a_reader_who_stops_is_dropped() {
    let (engine, body) = long_answers();
    let server = serve(engine, Bounds::default());
    let address = server.address();
    let mut reader = Client::connect(address);
    reader.post("/v1/completions", &body.to_string());
    assert_eq!(reader.head().unwrap().status, 200);
    eventually("the stream is ended", || metric(address, "llama_streams_overrun_total") == 1);
    eventually("its blocks are free", || metric(address, "llama_sequences_admitted") == 0);
    let mut last = String::new();
    while let Some(chunk) = reader.chunk().filter(|chunk| !chunk.is_empty()) {
        last = String::from_utf8(chunk).unwrap();
    }
    assert_eq!(last_event(&last)["error"]["code"], "unavailable", "who reads on learns of it");
    assert!(server.stop());
}

#[test]
fn so_is_one_of_a_response() {
    let (engine, _) = long_answers();
    let server = serve(engine, Bounds::default());
    let address = server.address();
    let mut reader = Client::connect(address);
    let body = json!({
        "input": "a", "max_output_tokens": 8000, "ignore_eos": true, "stream": true, "top_logprobs": 20,
        "include": ["message.output_text.logprobs"],
    });
    reader.post("/v1/responses", &body.to_string());
    assert_eq!(reader.head().unwrap().status, 200);
    eventually("the stream is ended", || metric(address, "llama_streams_overrun_total") == 1);
    eventually("its blocks are free", || metric(address, "llama_sequences_admitted") == 0);
    let chunks = std::iter::from_fn(|| reader.chunk()).take_while(|chunk| !chunk.is_empty());
    let told = String::from_utf8(chunks.flatten().collect()).unwrap();
    let (_, last) = told.rsplit_once("event: response.failed\ndata: ").expect("who reads on learns of it");
    let last: serde_json::Value = serde_json::from_str(last).unwrap();
    assert_eq!(
        (&last["response"]["status"], &last["response"]["error"]["code"]),
        (&json!("failed"), &json!("server_error"))
    );
    assert!(server.stop());
}

#[test]
fn so_is_a_connection_that_takes_nothing() {
    let (engine, mut body) = long_answers();
    body["stream"] = false.into();
    body["max_tokens"] = 1000.into();
    let server = serve(engine, Bounds { stall_time: SHORT, ..Bounds::default() });
    let mut reader = Client::connect(server.address());
    reader.post("/v1/completions", &body.to_string());
    let length: usize = reader.head().unwrap().header("content-length").unwrap().parse().unwrap();
    assert!(length > 2_000_000, "{length} bytes may fit into the system's buffers");
    std::thread::sleep(4 * SHORT);
    // `metric` has a connection of its own.
    eventually("nobody else is connected", || metric(server.address(), "llama_connections_open") == 1);
    let mut rest = Vec::new();
    let _ = reader.stream().read_to_end(&mut rest);
    assert!(rest.len() < length, "{} of {length} bytes came", rest.len());
    assert!(server.stop());
}

#[test]
fn heads_and_bodies_have_their_time() {
    let bounds = Bounds { head_time: SHORT, body_time: SHORT, ..Bounds::default() };
    let server = serve(engine(engine_options()), bounds);
    let mut silent = Client::connect(server.address());
    let mut slow: Vec<_> = (0..50).map(|_| Client::connect(server.address())).collect();
    slow.iter_mut().for_each(|client| client.send(b"POST /v1/completions HTTP/1.1\r\nHost: loc"));
    let mut body = Client::connect(server.address());
    body.send(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{");
    assert_eq!(body.reply().error().0, 408);
    let mut idle = Client::connect(server.address());
    idle.post("/v1/completions", &json!({"prompt": "a"}).to_string());
    assert_eq!(idle.reply().status, 200);
    assert!(idle.try_reply().is_none(), "an idle connection is closed");
    assert!(silent.try_reply().is_none());
    slow.iter_mut().for_each(|client| assert!(client.try_reply().is_none_or(|reply| reply.status == 408)));
    assert_eq!(get(server.address(), "/health").status, 200);
    assert!(server.stop());
}

#[test]
fn connections_have_a_number() {
    let server = serve(engine(engine_options()), Bounds { connections: 3, ..Bounds::default() });
    let mut clients: Vec<_> = (0..3).map(|_| Client::connect(server.address())).collect();
    let one_more = || {
        let mut client = Client::connect(server.address());
        client.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
        client.try_reply().map(|reply| reply.status)
    };
    eventually("the fourth is refused", || one_more() != Some(200));
    clients.pop();
    eventually("and let in when one has gone", || one_more() == Some(200));
    drop(clients);
    assert!(server.stop());
}

#[test]
fn the_end_waits_for_answers() {
    let gate = Gate::default();
    let server = serve(gate.engine(engine_options()), Bounds::default());
    let address = server.address();
    let mut idle = Client::connect(address);
    let mut clients = [false, true].map(|stream| {
        let mut client = Client::connect(address);
        client.post("/v1/completions", &json!({"prompt": "a", "max_tokens": 20, "stream": stream}).to_string());
        client
    });
    eventually("both are let in", || metric(address, "llama_sequences_admitted") == 2);
    let stopping = std::thread::spawn(|| server.stop());
    assert!(idle.try_reply().is_none(), "an idle connection is closed at once");
    gate.open();
    assert_eq!(clients[0].reply().json()["usage"]["completion_tokens"], 20);
    assert!(!clients[1].reply().events().is_empty());
    assert!(stopping.join().unwrap(), "all were answered");
    assert!(std::net::TcpStream::connect(address).is_err());
}

#[test]
fn but_not_for_ever() {
    let slow = hooked(
        engine_options(),
        Box::new(|_, _| {
            std::thread::sleep(Duration::from_millis(20));
            Ok(())
        }),
    );
    let server = serve(slow, Bounds { drain_time: SHORT, ..Bounds::default() });
    let mut clients = [false, true].map(|stream| {
        let mut client = Client::connect(server.address());
        let body = json!({"prompt": "a", "max_tokens": 500, "stream": stream, "ignore_eos": true});
        client.post("/v1/completions", &body.to_string());
        client
    });
    eventually("both are let in", || metric(server.address(), "llama_sequences_running") == 2);
    assert!(!server.stop(), "not all could be answered");
    assert_eq!(clients[0].reply().error().0, 503);
    assert_eq!(last_event(&clients[1].reply().text())["error"]["code"], "unavailable");
}
