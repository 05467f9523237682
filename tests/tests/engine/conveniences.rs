//! Iterators and callbacks beside other sequences.

use std::collections::HashMap;

use llama_core::engine::{Completion, Engine, EngineOptions, Finish, Request};
use llama_core::sample::Sampling;

use super::toy::{self, Expected, expected};

fn engine() -> Engine {
    toy::engine(toy::limits(16, 4, 4, 64), &EngineOptions::default())
}

fn request(seed: u64, max_tokens: usize) -> Request {
    Request { max_tokens: Some(max_tokens), ..Request::new(toy::prompt(seed, 30)) }
}

#[test]
fn the_engine_may_move_to_another_thread() {
    fn send<T: Send>(value: T) -> T {
        value
    }
    let mut engine = send(engine());
    let completion = std::thread::spawn(move || engine.complete(request(1, 5)).unwrap()).join().unwrap();
    assert_eq!(Expected::from(completion), expected(&request(1, 5), &[]));
}

#[test]
fn others_get_on_during_a_generation_and_their_events_are_kept() {
    let mut engine = engine();
    let others: Vec<_> = (2..8).map(|seed| (engine.submit(request(seed, 12)).unwrap(), seed)).collect();
    assert_eq!(Expected::from(engine.complete(request(1, 40)).unwrap()), expected(&request(1, 40), &[]));
    let kept = engine.stats();
    assert!(kept.running + kept.waiting < others.len(), "the others stood still");
    let mut completions: HashMap<_, _> = others.iter().map(|&(id, _)| (id, Completion::new(id))).collect();
    engine.run(|event| completions.get_mut(&event.id).unwrap().absorb(event)).unwrap();
    for (id, seed) in others {
        assert_eq!(Expected::from(completions.remove(&id).unwrap()), expected(&request(seed, 12), &[]));
    }
}

#[test]
fn an_iterator_dropped_early_cancels() {
    let mut engine = engine();
    let other = engine.submit(request(2, 50)).unwrap();
    let first: Vec<_> = engine.generate(request(1, 50)).unwrap().take(3).map(|event| event.unwrap().token).collect();
    assert_eq!(first, expected(&request(1, 3), &[]).tokens.into_iter().map(Some).collect::<Vec<_>>());
    assert_eq!((engine.stats().running, engine.stats().waiting), (1, 0));
    let mut completion = Completion::new(other);
    engine.run(|event| completion.absorb(event)).unwrap();
    assert_eq!(Expected::from(completion), expected(&request(2, 50), &[]));
}

#[test]
fn an_iterator_ends_after_its_finish() {
    let mut engine = engine();
    let mut events = engine.generate(request(1, 2)).unwrap();
    assert!(events.next().unwrap().unwrap().finish.is_none());
    assert!(matches!(events.next().unwrap().unwrap().finish, Some(Finish::Length)));
    assert!(events.next().is_none() && events.next().is_none());
}

#[test]
fn a_callback_sees_every_event() {
    let mut seen = Vec::new();
    let completion = engine().complete_with(request(1, 9), |event| seen.extend(event.token)).unwrap();
    assert_eq!(seen, completion.tokens);
}

#[test]
fn an_idle_engine_does_nothing() {
    let mut engine = engine();
    assert_eq!(engine.step().unwrap().count(), 0);
    assert_eq!(engine.stats().steps, 0);
    engine.run(|event| panic!("{event:?}")).unwrap();
}

#[test]
fn without_max_tokens_a_sequence_runs_to_the_end_of_its_context() {
    let mut engine = toy::engine(toy::limits(64, 4, 4, 64), &EngineOptions::default());
    let completion = engine.complete(Request::new(toy::prompt(1, 200))).unwrap();
    assert_eq!(completion.tokens.len(), 56);
    // A pool smaller than the context is the limit then.
    let mut engine = toy::engine(toy::limits(64, 4, 4, 5), &EngineOptions::default());
    let completion = engine.complete(Request::new(toy::prompt(1, 70))).unwrap();
    assert_eq!(completion.tokens.len(), 10);
}

#[test]
fn log_probabilities_come_with_the_tokens_and_the_prompt() {
    let sampling = Sampling { logprobs: Some(3), ..Sampling::default() };
    let request = Request { sampling, prompt_logprobs: true, ..request(4, 6) };
    let completion = engine().complete(request.clone()).unwrap();
    assert_eq!((completion.scores.len(), completion.prompt.len()), (6, 29));
    for (i, score) in completion.prompt.iter().enumerate() {
        assert_eq!(score.token, request.prompt[i + 1]);
        let logits = toy::logits(&request.prompt[..=i]);
        let max = logits.iter().copied().fold(f32::MIN, f32::max);
        let sum: f64 = logits.iter().map(|&v| f64::from(v - max).exp()).sum();
        let want = f64::from(logits[score.token as usize] - max) - sum.ln();
        assert!((f64::from(score.logprob) - want).abs() < 1e-5, "token {i}: {} not {want}", score.logprob);
        assert!(score.top.len() == 3 && score.top.is_sorted_by(|a, b| a.logprob >= b.logprob));
        assert!(score.top[0].logprob >= score.logprob);
    }
    assert_eq!(Expected::from(completion), expected(&request, &[]));
}

#[test]
fn end_tokens_and_stop_tokens_end_and_are_reported() {
    let free = expected(&request(1, 30), &[]).tokens;
    let options = EngineOptions { end_tokens: vec![free[10]], ..EngineOptions::default() };
    let mut engine = toy::engine(toy::limits(64, 4, 4, 64), &options);
    let at = free.iter().position(|&token| token == free[10]).unwrap();
    let got = engine.complete(request(1, 30)).unwrap();
    assert_eq!(got.tokens, free[..=at]);
    assert!(matches!(got.finish, Finish::End(token) if token == free[10]));
    let got = engine.complete(Request { ignore_end: true, ..request(1, 30) }).unwrap();
    assert_eq!(got.tokens, free);
    let got = engine.complete(Request { stop_tokens: vec![free[0]], ..request(1, 30) }).unwrap();
    assert!(got.tokens == free[..1] && matches!(got.finish, Finish::StopToken(token) if token == free[0]));
}
