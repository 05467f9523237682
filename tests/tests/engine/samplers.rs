//! Typical, XTC and DRY in an engine: drawn on the host, and continued as they would have been after drafts and preemption.

use std::sync::Arc;

use llama_core::engine::{Engine, EngineOptions, Request, SequenceId};
use llama_core::sample::{Allowed, Sampling};

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

/// What is left of a text whose words are forbidden, whatever steps it takes: the same, without any of them, also where the prompt ends
/// with the beginning of one.
#[test]
fn bad_words_never_come() {
    let plain = request(Sampling { temperature: 1.0, seed: 4, ..Sampling::greedy() }, 2);
    let told = expected(&plain, &[]).tokens;
    let word = |at: usize, tokens: usize| Box::from(&told[at..at + tokens]);
    let across = Box::from([*plain.prompt.last().unwrap(), told[0]]);
    let bad_words: Arc<[Box<[u32]>]> = Arc::from([word(9, 1), word(20, 2), word(30, 3), across]);
    let sampling = Sampling { bad_words: bad_words.clone(), ..plain.sampling.clone() };
    let wanted = expected(&Request { sampling: sampling.clone(), ..plain.clone() }, &[]);
    assert_eq!(wanted.tokens[0], told[0], "a prompt begins no word");
    assert_ne!(wanted.tokens, told);
    for drafts in [0, 4] {
        let options = EngineOptions { drafts, prefix_cache: false, ..EngineOptions::default() };
        let mut engine = toy::engine(toy::limits(32, 4, 32, 12), &options);
        let requests = [2, 3, 5, 7].map(|seed| request(sampling.clone(), seed));
        let texts = texts(&mut engine, &requests);
        assert_eq!(texts[0], wanted.tokens, "{drafts} drafts");
        for (text, word) in texts.iter().flat_map(|text| bad_words.iter().map(move |word| (text, word))) {
            assert!(!text.windows(word.len()).any(|part| part == &word[..]), "{word:?} in {text:?}");
        }
        assert!(engine.stats().preemptions > 0, "{:?}", engine.stats());
    }
}

/// Nothing else comes, an end neither; and where that leaves nothing, the error says whose fault it is.
#[test]
fn only_allowed_tokens_come() {
    let only = |tokens: &[u32]| Some(Arc::new(Allowed::only(toy::VOCAB, tokens).unwrap()));
    let warm = Sampling { temperature: 1.0, allowed_tokens: only(&[5, 60, 7]), ..Sampling::greedy() };
    let options = EngineOptions { drafts: 3, end_tokens: Some(vec![2]), ..EngineOptions::default() };
    let mut engine = toy::engine(toy::limits(32, 4, 32, 64), &options);
    let wanted = request(warm.clone(), 1);
    let got = engine.complete(wanted.clone()).unwrap();
    assert!(got.tokens.len() == 60 && got.tokens.iter().all(|token| [5, 60, 7].contains(token)), "{:?}", got.tokens);
    assert_eq!(Expected::from(got), expected(&wanted, &[2]));
    let none = Sampling { bad_words: [5, 60, 7].map(|token| Box::from([token])).into(), ..warm.clone() };
    let words = Sampling { bad_words: (0..97).map(|token| Box::from([token])).collect(), ..Sampling::greedy() };
    for (sampling, name) in [(none, "allowed_tokens"), (words, "bad_words")] {
        let finish = engine.complete(request(sampling, 1)).unwrap_err().to_string();
        assert!(finish.contains(name) && !finish.contains("logit_bias"), "{finish}");
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
