//! What no request and no option may do: each is refused with an error that names the parameter, and the engine goes on.

use std::sync::Arc;

use llama_core::Error;
use llama_core::backend::{KvFormat, Limits};
use llama_core::engine::{Engine, EngineOptions, Request};
use llama_core::sample::{Allowed, Sampling};

use super::toy::{self, Expected, Toy, expected};

fn good() -> Request {
    Request { max_tokens: Some(4), ..Request::new(vec![1, 2, 3]) }
}

/// Name of the parameter that must be named, and the request.
fn requests() -> Vec<(&'static str, Request)> {
    let mut cases = vec![
        ("prompt", Request { prompt: vec![], ..good() }),
        ("prompt", Request { prompt: vec![97], ..good() }),
        ("prompt", Request { prompt: vec![1, 2, u32::MAX], ..good() }),
        ("prompt", Request { prompt: vec![u32::MAX; 300], ..good() }),
        ("max_tokens", Request { max_tokens: Some(0), ..good() }),
        ("min_tokens", Request { min_tokens: 5, ..good() }),
        ("min_tokens", Request { min_tokens: usize::MAX, ..good() }),
        ("min_tokens", Request { min_tokens: 1, max_tokens: Some(0), prompt_logprobs: true, ..good() }),
        ("min_tokens", Request { min_tokens: 190, max_tokens: None, ..good() }),
        ("context", Request { max_tokens: Some(254), ..good() }),
        ("context", Request { max_tokens: Some(usize::MAX), ..good() }),
        ("context", Request { max_tokens: Some(usize::MAX - 2), ..good() }),
        ("context", Request { prompt: vec![1; 256], ..good() }),
        ("context", Request { prompt: vec![1; 256], max_tokens: None, ..good() }),
        ("context", Request { prompt: vec![1; 257], max_tokens: Some(0), prompt_logprobs: true, ..good() }),
        ("context", Request { prompt: vec![1; 100_000], max_tokens: None, ..good() }),
        ("cache_blocks", Request { max_tokens: Some(190), ..good() }),
        ("cache_blocks", Request { prompt: vec![1; 200], ..good() }),
        ("stop_strings", Request { stop_strings: vec!["x".into()], ..good() }),
        ("stop_tokens", Request { stop_tokens: vec![97], ..good() }),
        ("stop_tokens", Request { stop_tokens: vec![1, u32::MAX], ..good() }),
        ("stop_tokens", Request { stop_tokens: vec![1; 257], ..good() }),
        ("spelled_tokens", Request { spelled_tokens: vec![97], ..good() }),
        ("spelled_tokens", Request { spelled_tokens: vec![1; 17], ..good() }),
    ];
    cases.extend(samplings().into_iter().map(|(name, sampling)| (name, Request { sampling, ..good() })));
    cases
}

fn samplings() -> Vec<(&'static str, Sampling)> {
    let base = Sampling::greedy;
    let bias = |token, bias| Sampling { logit_bias: vec![(1, 0.5), (token, bias)], ..base() };
    let bad = |word: &[u32]| Sampling { bad_words: Arc::from([Box::from([1]), Box::from(word)]), ..base() };
    let allowed = |vocab| Sampling { allowed_tokens: Some(Arc::new(Allowed::only(vocab, &[1]).unwrap())), ..base() };
    let mut cases = vec![
        ("temperature", Sampling { temperature: -0.1, ..base() }),
        ("top_p", Sampling { top_p: 0.0, ..base() }),
        ("top_p", Sampling { top_p: 1.01, ..base() }),
        ("top_p", Sampling { top_p: -1.0, ..base() }),
        ("min_p", Sampling { min_p: -0.1, ..base() }),
        ("min_p", Sampling { min_p: 1.1, ..base() }),
        ("repetition_penalty", Sampling { repetition_penalty: 0.0, ..base() }),
        ("repetition_penalty", Sampling { repetition_penalty: -1.0, ..base() }),
        ("presence_penalty", Sampling { presence_penalty: 2.1, ..base() }),
        ("presence_penalty", Sampling { presence_penalty: -2.1, ..base() }),
        ("frequency_penalty", Sampling { frequency_penalty: 2.1, ..base() }),
        ("frequency_penalty", Sampling { frequency_penalty: -1e39f64 as f32, ..base() }),
        ("typical_p", Sampling { typical_p: 0.0, ..base() }),
        ("typical_p", Sampling { typical_p: 1.01, ..base() }),
        ("xtc_probability", Sampling { xtc_probability: -0.1, ..base() }),
        ("xtc_probability", Sampling { xtc_probability: 1.1, ..base() }),
        ("xtc_threshold", Sampling { xtc_threshold: -0.1, ..base() }),
        ("xtc_threshold", Sampling { xtc_threshold: 1.1, ..base() }),
        ("dry_multiplier", Sampling { dry_multiplier: -0.1, ..base() }),
        ("dry_base", Sampling { dry_base: 0.99, ..base() }),
        ("dry_base", Sampling { dry_base: -2.0, ..base() }),
        ("dry_breakers", Sampling { dry_breakers: Arc::from([97]), ..base() }),
        ("dry_breakers", Sampling { dry_breakers: Arc::from([5, u32::MAX]), ..base() }),
        ("dry_breakers", Sampling { dry_breakers: Arc::from([5, 4]), ..base() }),
        ("dry_breakers", Sampling { dry_breakers: Arc::from([5, 5]), ..base() }),
        ("allowed_tokens", allowed(96)),
        ("allowed_tokens", Sampling { allowed_tokens: Some(Arc::new(Allowed::none(97))), ..base() }),
        ("bad_words", bad(&[])),
        ("bad_words", bad(&[97])),
        ("bad_words", bad(&[1, u32::MAX, 1])),
        ("logit_bias", bias(97, 1.0)),
        ("logit_bias", bias(u32::MAX, 1.0)),
        ("logit_bias", bias(5, 100.5)),
        ("logit_bias", bias(5, -101.0)),
        ("logit_bias", bias(5, f32::NAN)),
        ("logit_bias", bias(5, f32::INFINITY)),
        ("logprobs", Sampling { logprobs: Some(21), ..base() }),
        ("logprobs", Sampling { logprobs: Some(usize::MAX), ..base() }),
    ];
    for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        cases.extend([
            ("temperature", Sampling { temperature: odd, ..base() }),
            ("top_p", Sampling { top_p: odd, ..base() }),
            ("min_p", Sampling { min_p: odd, ..base() }),
            ("repetition_penalty", Sampling { repetition_penalty: odd, ..base() }),
            ("presence_penalty", Sampling { presence_penalty: odd, ..base() }),
            ("frequency_penalty", Sampling { frequency_penalty: odd, ..base() }),
            ("typical_p", Sampling { typical_p: odd, ..base() }),
            ("xtc_probability", Sampling { xtc_probability: odd, ..base() }),
            ("xtc_threshold", Sampling { xtc_threshold: odd, ..base() }),
            ("dry_multiplier", Sampling { dry_multiplier: odd, ..base() }),
            ("dry_base", Sampling { dry_base: odd, ..base() }),
        ]);
    }
    cases
}

fn name(error: &Error) -> &'static str {
    match error {
        Error::Parameter { name, value, problem } => {
            assert!(!value.is_empty() && !problem.is_empty());
            name
        }
        Error::ContextOverflow { needed, limit } => {
            assert!(needed > limit);
            "context"
        }
        other => panic!("{other}"),
    }
}

#[test]
fn hostile_requests_are_refused_by_name_and_the_engine_goes_on() {
    let (model, _) = Toy::new(toy::limits(32, 4, 4, 12));
    let mut engine = Engine::new(model, None, &EngineOptions::default()).unwrap();
    assert!(requests().len() >= 55);
    for (i, (parameter, request)) in requests().into_iter().enumerate() {
        let error = engine.submit(request).expect_err(parameter);
        assert_eq!(name(&error), parameter, "case {i}: {error}");
        assert!(engine.is_idle());
        let next = engine.complete(good()).unwrap();
        assert_eq!(Expected::from(next), expected(&good(), &[]), "after case {i}");
    }
    assert_eq!(engine.stats().blocks_used, 0);
}

#[test]
fn both_numbers_of_an_overflow_are_given() {
    let mut engine = toy::engine(toy::limits(32, 4, 4, 64), &EngineOptions::default());
    let error = engine.submit(Request { max_tokens: Some(200), ..Request::new(vec![5; 100]) }).unwrap_err();
    assert!(matches!(error, Error::ContextOverflow { needed: 300, limit: 256 }), "{error}");
    assert!(engine.submit(Request { max_tokens: Some(156), ..Request::new(vec![5; 100]) }).is_ok());
}

#[test]
fn end_tokens_outside_the_vocabulary_are_refused() {
    let options = EngineOptions { end_tokens: Some(vec![2, 97]), ..EngineOptions::default() };
    let error = Engine::new(Toy::new(toy::limits(32, 4, 4, 12)).0, None, &options).err().unwrap();
    assert_eq!(name(&error), "end_tokens");
}

#[test]
fn a_model_without_room_for_anything_is_refused() {
    let good = toy::limits(8, 4, 4, 12);
    let cases = [
        ("tokens", Limits { tokens: 0, ..good }),
        ("sequences", Limits { sequences: 0, ..good }),
        ("outputs", Limits { outputs: 0, ..good }),
        ("context", Limits { context: 0, ..good }),
        ("cache_blocks", Limits { blocks: 0, ..good }),
    ];
    for (parameter, limits) in cases {
        let error = Engine::new(Toy::new(limits).0, None, &EngineOptions::default()).err().unwrap();
        assert_eq!(name(&error), parameter);
    }
}

#[test]
fn options_out_of_range_are_refused_by_name() {
    let base = EngineOptions::default;
    let cases = [
        ("context", EngineOptions { context: Some(0), ..base() }),
        ("context", EngineOptions { context: Some(usize::MAX), ..base() }),
        ("sequences", EngineOptions { sequences: 0, ..base() }),
        ("sequences", EngineOptions { sequences: usize::MAX, ..base() }),
        ("chunk", EngineOptions { chunk: 0, ..base() }),
        ("chunk", EngineOptions { chunk: usize::MAX, ..base() }),
        ("cache_blocks", EngineOptions { cache_blocks: Some(0), ..base() }),
        ("cache_blocks", EngineOptions { cache_blocks: Some(usize::MAX), ..base() }),
    ];
    for (parameter, options) in cases {
        assert_eq!(name(&options.limits(&toy::config()).unwrap_err()), parameter);
    }
}

#[test]
fn limits_follow_the_options() {
    let config = toy::config();
    let limits = EngineOptions::default().limits(&config).unwrap();
    // 8 sequences of 256 positions: 16 blocks each.
    assert_eq!((limits.tokens, limits.sequences, limits.context, limits.blocks), (512, 8, 256, 128));
    let many = EngineOptions { sequences: 700, chunk: 10, ..EngineOptions::default() };
    let limits = many.limits(&config).unwrap();
    assert_eq!((limits.tokens, limits.outputs), (700, 700), "every sequence may decode in one step");
    let few =
        EngineOptions { context: Some(100), cache_blocks: Some(3), kv: KvFormat::F32, ..EngineOptions::default() };
    let limits = few.limits(&config).unwrap();
    assert_eq!((limits.context, limits.blocks, limits.kv), (100, 3, KvFormat::F32));
}

#[test]
fn a_memory_limit_shrinks_the_pool_down_to_one_context() {
    let config = toy::config();
    // 2 layers, 1 head of 4 columns, K and V, 16 tokens, 2 bytes: 512 bytes a block.
    let options = |limit| EngineOptions { memory_limit: Some(limit), ..EngineOptions::default() };
    assert_eq!(options(512 * 50 + 511).limits(&config).unwrap().blocks, 50);
    assert_eq!(options(512 * 16).limits(&config).unwrap().blocks, 16);
    let error = options(512 * 16 - 1).limits(&config).unwrap_err();
    assert!(matches!(error, Error::Memory { needed: 8192, limit: 8191, advice: "context", .. }), "{error}");
    let fixed = EngineOptions { cache_blocks: Some(20), ..options(8192) };
    let error = fixed.limits(&config).unwrap_err();
    assert!(matches!(error, Error::Memory { needed: 10240, limit: 8192, advice: "cache_blocks", .. }), "{error}");
}
