//! A model that fails: one sequence's logits, a step, and everything.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use llama_core::Error;
use llama_core::batch::Batch;
use llama_serve::Bounds;
use serde_json::{Value, json};

use crate::client::{eventually, get, last_event, metric, post};
use crate::subject::{engine, engine_options, hooked, hooked_ranks, serve};

/// A token that no text of the tests has.
const CANARY: u32 = 499;

fn ask(prompt: Value) -> Value {
    json!({"prompt": prompt, "max_tokens": 8, "temperature": 0})
}

#[test]
fn logits_that_are_not_finite_fail_one_request_only() {
    let engine_with_a_fault = hooked(
        engine_options(),
        Box::new(|batch, logits| {
            let vocab = logits.len() / batch.outputs.len();
            for (row, logits) in batch.outputs.iter().zip(logits.chunks_mut(vocab)) {
                if batch.tokens[*row as usize] == CANARY {
                    logits[7] = f32::NAN;
                }
            }
            Ok(())
        }),
    );
    let server = serve(engine_with_a_fault, Bounds::default());
    let address = server.address();
    let expected = engine(engine_options())
        .complete(llama_core::engine::Request { max_tokens: Some(8), ..llama_core::engine::Request::new([1, 5, 6]) });
    let expected = expected.unwrap().text;
    std::thread::scope(|scope| {
        for client in 0..12 {
            let expected = &expected;
            scope.spawn(move || {
                if client % 3 == 0 {
                    let reply = post(address, "/v1/completions", &ask(json!([1, CANARY])));
                    assert_eq!(reply.error(), (500, "internal_error".into(), None));
                } else {
                    let reply = post(address, "/v1/completions", &ask(json!([1, 5, 6])));
                    assert_eq!(reply.json()["choices"][0]["text"], **expected, "{}", reply.text());
                }
            });
        }
    });
    // Of several prompts one fails: the answer cannot be whole, so it is an error, and the others end with it.
    let mut both = ask(json!([[1, 5, 6], [1, CANARY]]));
    assert_eq!(post(address, "/v1/completions", &both).error().0, 500);
    both["stream"] = true.into();
    let reply = post(address, "/v1/completions", &both);
    // A stream that has not begun can still say so with its status.
    let error = if reply.status == 200 { last_event(&reply.text()) } else { reply.json() };
    assert_eq!(error["error"]["type"], "server_error", "{error}");
    assert_eq!(get(address, "/health").status, 200);
    eventually("all is free", || metric(address, "llama_sequences_admitted") == 0 && server.stats().blocks_used == 0);
    assert!(server.stop());
}

#[test]
fn a_step_that_fails_ends_what_was_running_and_the_next_succeeds() {
    let broken = Arc::new(AtomicBool::new(true));
    let hook = broken.clone();
    let server = serve(
        hooked(
            engine_options(),
            Box::new(move |_, _| match hook.load(Ordering::Relaxed) {
                true => {
                    Err(Error::Backend { backend: "test", verb: "linear", problem: "the card fell off the bus".into() })
                }
                false => Ok(()),
            }),
        ),
        Bounds::default(),
    );
    let address = server.address();
    for _ in 0..3 {
        let reply = post(address, "/v1/completions", &ask(json!("Once")));
        assert_eq!(reply.error().0, 500);
        assert!(reply.text().contains("fell off the bus"), "{}", reply.text());
        let health = get(address, "/health");
        assert_eq!(health.error().0, 503);
        assert!(health.text().contains("fell off the bus"));
    }
    assert_eq!((server.stats().blocks_used, metric(address, "llama_steps_failed_total")), (0, 3));
    broken.store(false, Ordering::Relaxed);
    assert_eq!(post(address, "/v1/completions", &ask(json!("Once"))).status, 200);
    assert_eq!(get(address, "/health").status, 200);
    assert!(server.stop());
}

#[test]
fn an_engine_that_panics_is_not_used_again_and_the_server_says_so() {
    let server = serve(
        hooked(
            engine_options(),
            Box::new(|batch, _| {
                assert!(!batch.tokens.contains(&CANARY), "a planted fault");
                Ok(())
            }),
        ),
        Bounds::default(),
    );
    let address = server.address();
    assert_eq!(post(address, "/v1/completions", &ask(json!("Once"))).status, 200);
    assert_eq!(post(address, "/v1/completions", &ask(json!([1, CANARY]))).error().0, 500);
    for _ in 0..3 {
        assert_eq!(post(address, "/v1/completions", &ask(json!("Once"))).error().0, 503);
    }
    let health = get(address, "/health");
    assert_eq!(health.error().0, 503);
    assert!(health.text().contains("a planted fault"), "{}", health.text());
    eventually("places are given back", || metric(address, "llama_sequences_admitted") == 0);
    assert!(server.stop());
}

#[test]
fn an_engine_that_panics_lets_its_ranks_go() {
    let hook = |batch: &Batch, _: &mut Vec<f32>| {
        assert!(!batch.tokens.contains(&CANARY), "a planted fault");
        Ok(())
    };
    let (engine, other) = hooked_ranks(engine_options(), Box::new(hook));
    let server = serve(engine, Bounds::default());
    let address = server.address();
    assert_eq!(post(address, "/v1/completions", &ask(json!("Once"))).status, 200);
    assert_eq!(post(address, "/v1/completions", &ask(json!([1, CANARY]))).error().0, 500);
    let end = other.recv_timeout(Duration::from_secs(20)).expect("the other rank ends");
    assert!(matches!(end, Ok(()) | Err(Error::Peer { .. })), "{end:?}");
    assert_eq!(post(address, "/v1/completions", &ask(json!("Once"))).error().0, 503);
    assert!(server.stop());
}
