//! Typical, XTC and DRY in an engine: drawn on the host, and continued as they would have been after drafts and preemption.

use std::sync::Arc;

use llama_core::engine::{Engine, EngineOptions, Request, SequenceId};
use llama_core::sample::Sampling;

use super::toy::{self, Expected, Toy, expected};

/// Each of them, and all.
fn samplings() -> [Sampling; 4] {
    let warm = Sampling { temperature: 1.0, seed: 11, ..Sampling::greedy() };
    let dry = Sampling { dry_multiplier: 2.0, dry_allowed_length: 1, ..warm.clone() };
    let xtc = Sampling { xtc_probability: 0.5, xtc_threshold: 0.05, ..warm.clone() };
    let all = Sampling { xtc_probability: 0.5, xtc_threshold: 0.05, typical_p: 0.9, ..dry.clone() };
    [dry, xtc, Sampling { typical_p: 0.5, ..warm }, all]
}

fn request(sampling: Sampling, seed: u64) -> Request {
    Request { max_tokens: Some(60), sampling, ..Request::new(toy::prompt(seed, 20)) }
}

/// The texts of `requests` side by side.
fn texts(engine: &mut Engine, requests: &[Request]) -> Vec<Vec<u32>> {
    let ids: Vec<SequenceId> = requests.iter().map(|request| engine.submit(request.clone()).unwrap()).collect();
    let mut texts = vec![Vec::new(); ids.len()];
    engine.run(|event| texts[ids.iter().position(|&id| id == event.id).unwrap()].extend(event.token)).expect("steps");
    texts
}

#[test]
fn only_what_others_know_is_drawn_where_the_logits_are() {
    let (model, knobs) = Toy::new(toy::limits(64, 8, 32, 64));
    let mut engine = Engine::new(model, None, &EngineOptions::default()).unwrap();
    let greedy = Sampling { temperature: 0.0, dry_multiplier: 0.0, ..samplings()[3].clone() };
    let plain = request(greedy, 9);
    let requests: Vec<Request> = samplings().into_iter().zip(0..).map(|(s, seed)| request(s, seed)).collect();
    let requests = [requests, vec![plain]].concat();
    let wanted: Vec<_> = requests.iter().map(|request| expected(request, &[]).tokens).collect();
    assert_eq!(texts(&mut engine, &requests), wanted);
    let knobs = knobs.lock().unwrap();
    assert_eq!((knobs.draws, knobs.host_draws), (60, 0), "at temperature 0 there is nothing to cut");
}

#[test]
fn preemption_and_drafts_change_nothing() {
    let requests: Vec<Request> = samplings().into_iter().zip(0..).map(|(s, seed)| request(s, seed)).collect();
    let wanted: Vec<_> = requests.iter().map(|request| expected(request, &[]).tokens).collect();
    for drafts in [0, 4] {
        let options = EngineOptions { drafts, prefix_cache: false, ..EngineOptions::default() };
        let mut engine = toy::engine(toy::limits(32, 4, 32, 12), &options);
        assert_eq!(texts(&mut engine, &requests), wanted, "{drafts} drafts");
        assert!(engine.stats().preemptions > 0, "{:?}", engine.stats());
    }
}

/// One token is likelier than all others by far: without DRY nothing else comes.
#[test]
fn a_text_that_goes_round_in_circles_is_let_out() {
    let circle = Sampling { logit_bias: vec![(5, 20.0)], ..Sampling::greedy() };
    let dry = Sampling { dry_multiplier: 0.8, ..circle.clone() };
    let broken = Sampling { dry_breakers: Arc::from([5]), ..dry.clone() };
    for drafts in [0, 4] {
        let options = EngineOptions { drafts, ..EngineOptions::default() };
        let mut engine = toy::engine(toy::limits(32, 4, 32, 64), &options);
        let [circle, dry, broken] = [&circle, &dry, &broken].map(|sampling| request(sampling.clone(), 3));
        let wanted = expected(&dry, &[]);
        // 0.8 * 1.75^6 is above 20.
        let others = wanted.tokens.iter().filter(|&&token| token != 5).count();
        assert!((5..12).contains(&others), "{:?}", wanted.tokens);
        assert_eq!(Expected::from(engine.complete(dry).unwrap()), wanted);
        for request in [circle, broken] {
            assert_eq!(engine.complete(request).unwrap().tokens, [5; 60]);
        }
    }
}
