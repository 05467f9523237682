//! The sampler against exact probabilities, against a plain implementation of its definition, and at its limits.

use proptest::prelude::*;

use super::*;

fn sample(logits: &[f32], sampling: &Sampling, position: u64) -> u32 {
    sampling.validate(logits.len()).expect("valid");
    Sampler::new(logits.len()).sample(logits, sampling, History::default(), position).expect("a token").token
}

/// Exact probabilities of every token, in f64 and by sorting everything.
fn probabilities(logits: &[f32], sampling: &Sampling) -> Vec<f64> {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].partial_cmp(&logits[a]).expect("no NaN").then(a.cmp(&b)));
    if sampling.top_k > 0 {
        order.truncate(sampling.top_k);
    }
    let max = f64::from(logits[order[0]]);
    let weight = |i: usize| ((f64::from(logits[i]) - max) / f64::from(sampling.temperature)).exp();
    let total: f64 = order.iter().map(|&i| weight(i)).sum();
    let mut sum = 0.0;
    order.retain(|&i| {
        let kept = sum < f64::from(sampling.top_p) * total;
        sum += weight(i);
        kept && weight(i) >= f64::from(sampling.min_p)
    });
    let left: f64 = order.iter().map(|&i| weight(i)).sum();
    let mut p = vec![0.0; logits.len()];
    for i in order {
        p[i] = weight(i) / left;
    }
    p
}

fn some_logits(vocab: usize) -> Vec<f32> {
    (0..vocab).map(|i| 4.0 * philox::uniform(99, i as u64) as f32).collect()
}

/// Pearson's statistic of 100,000 draws stays within five standard deviations of its mean, the degrees of freedom.
fn draws_follow(logits: &[f32], sampling: &Sampling) {
    const DRAWS: u64 = 100_000;
    let expected = probabilities(logits, sampling);
    let mut counts = vec![0u32; logits.len()];
    let mut sampler = Sampler::new(logits.len());
    for position in 0..DRAWS {
        let sampled = sampler.sample(logits, sampling, History::default(), position).expect("a token");
        counts[sampled.token as usize] += 1;
    }
    let (mut statistic, mut freedom) = (0.0, -1.0);
    for (&count, &p) in counts.iter().zip(&expected) {
        if p == 0.0 {
            assert_eq!(count, 0, "{sampling:?} drew what it may not");
        } else {
            let mean = p * DRAWS as f64;
            statistic += (f64::from(count) - mean).powi(2) / mean;
            freedom += 1.0;
        }
    }
    let limit = freedom + 5.0 * (2.0 * f64::max(freedom, 1.0)).sqrt();
    assert!(statistic < limit, "{sampling:?}: {statistic} of {limit}");
}

#[test]
fn draws_have_the_exact_probabilities() {
    let logits = some_logits(40);
    let plain = Sampling { temperature: 1.0, seed: 5, ..Sampling::greedy() };
    draws_follow(&logits, &plain);
    draws_follow(&logits, &Sampling { temperature: 0.5, ..plain.clone() });
    draws_follow(&logits, &Sampling { temperature: 1e6, ..plain.clone() });
    draws_follow(&logits, &Sampling { top_k: 7, ..plain.clone() });
    draws_follow(&logits, &Sampling { top_p: 0.6, ..plain.clone() });
    draws_follow(&logits, &Sampling { min_p: 0.2, ..plain.clone() });
    draws_follow(&logits, &Sampling { temperature: 1.7, top_k: 20, top_p: 0.8, min_p: 0.3, seed: 1 << 40, ..plain });
}

#[test]
fn seeds_are_independent_of_each_other() {
    let logits = [0.0f32; 2];
    let agree = (0..10_000).filter(|&p| {
        let draw = |seed| sample(&logits, &Sampling { temperature: 1.0, seed, ..Sampling::greedy() }, p);
        draw(1) == draw(2)
    });
    assert!((agree.count() as i32 - 5_000).abs() < 250);
}

#[test]
fn extremes_leave_the_most_probable_token() {
    let mut logits = some_logits(300);
    logits[123] = 5.0;
    let base = Sampling { temperature: 1.0, ..Sampling::greedy() };
    for sampling in [
        Sampling::greedy(),
        Sampling { temperature: 1e-6, ..base.clone() },
        Sampling { temperature: f32::from_bits(1), ..base.clone() },
        Sampling { top_p: 1e-9, ..base.clone() },
        Sampling { top_k: 1, temperature: 1e6, ..base.clone() },
        Sampling { min_p: 1.0, temperature: 1e3, ..base.clone() },
        Sampling { top_p: f32::from_bits(1), temperature: f32::MAX, ..base },
    ] {
        for position in 0..50 {
            assert_eq!(sample(&logits, &sampling, position), 123, "{sampling:?}");
        }
    }
}

#[test]
fn a_lone_allowed_token_is_taken_and_none_is_an_error() {
    let forbid = |tokens: std::ops::Range<u32>| tokens.map(|t| (t, f32::NEG_INFINITY)).collect::<Vec<_>>();
    let logits = some_logits(64);
    for temperature in [0.0, 1.0, 1e6] {
        let mut sampling = Sampling { temperature, logit_bias: forbid(0..63), ..Sampling::greedy() };
        assert_eq!(sample(&logits, &sampling, 3), 63);
        sampling.logit_bias = forbid(0..64);
        let refusal = Sampler::new(64).sample(&logits, &sampling, History::default(), 0).expect_err("no token");
        assert_eq!(refusal, Refusal::NothingAllowed);
        assert!(refusal.into_error(1, 2).to_string().contains("logit_bias"));
    }
}

#[test]
fn logits_of_any_finite_size_are_sampled() {
    for logits in [[f32::MAX, f32::MIN], [f32::MIN; 2], [1e-45, -1e-45], [f32::MAX; 2]] {
        for temperature in [0.0, f32::from_bits(1), 1.0, f32::MAX] {
            let sampling = Sampling { temperature, top_p: 0.9, min_p: 0.1, logprobs: Some(2), ..Sampling::greedy() };
            let mut sampler = Sampler::new(2);
            let sampled = sampler.sample(&logits, &sampling, History::default(), 0).expect("a token");
            assert!(sampled.logprob.is_some_and(|l| l <= 0.0));
            assert_eq!(sampled.top.len(), 2);
        }
    }
}

#[test]
fn ties_go_to_the_lower_id() {
    let logits = [1.0, 2.0, -0.0, 2.0, 0.0, 2.0];
    assert_eq!(sample(&logits, &Sampling::greedy(), 0), 1);
    let two = Sampling { temperature: 1.0, top_k: 2, ..Sampling::greedy() };
    assert!((0..200).map(|p| sample(&logits, &two, p)).all(|t| t == 1 || t == 3));
    let zeros = Sampling { temperature: 1.0, top_k: 1, ..Sampling::greedy() };
    assert_eq!(sample(&[-1.0, -0.0, 0.0], &zeros, 0), 1);
}

#[test]
fn a_logit_that_is_not_finite_is_named() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut logits = some_logits(10);
        logits[7] = bad;
        let refusal =
            Sampler::new(10).sample(&logits, &Sampling::greedy(), History::default(), 0).expect_err("refused");
        assert!(matches!(refusal, Refusal::NotFinite { token: 7, .. }));
        let error = refusal.into_error(5, 9);
        assert!(matches!(error, Error::NotFinite { sequence: 5, token: 7, position: 9, .. }), "{error}");
    }
}

#[test]
fn logprobs_are_the_model_s_whatever_the_sampling() {
    let logits = some_logits(50);
    let exact = probabilities(&logits, &Sampling { temperature: 1.0, ..Sampling::greedy() });
    let sampling = Sampling {
        temperature: 0.3,
        top_k: 4,
        repetition_penalty: 1.5,
        logit_bias: vec![(3, 2.0)],
        logprobs: Some(20),
        ..Sampling::greedy()
    };
    let mut sampler = Sampler::new(50);
    let history = History { tokens: &[1, 2, 3], prompt: 1 };
    let sampled = sampler.sample(&logits, &sampling, history, 11).expect("a token");
    let near = |token: u32, logprob: f32| (f64::from(logprob) - exact[token as usize].ln()).abs() < 2e-6;
    assert!(near(sampled.token, sampled.logprob.expect("asked for")));
    assert_eq!(sampled.top.len(), 20);
    assert!(sampled.top.iter().all(|t| near(t.token, t.logprob)));
    assert!(sampled.top.is_sorted_by(|a, b| a.logprob >= b.logprob));
    let none = sampler.sample(&logits, &Sampling::greedy(), history, 11).expect("a token");
    assert!(none.logprob.is_none() && none.top.is_empty());
}

#[test]
fn a_draw_depends_on_nothing_that_ran_before() {
    let logits = some_logits(500);
    let sampling = Sampling { temperature: 1.0, top_p: 0.95, seed: 42, ..Sampling::greedy() };
    let fresh: Vec<u32> = (0..100).map(|p| sample(&logits, &sampling, p)).collect();
    let mut sampler = Sampler::new(500);
    let disturbing = Sampling { presence_penalty: 2.0, top_k: 3, temperature: 2.0, ..Sampling::greedy() };
    for position in (0..100).rev() {
        let history = History { tokens: &[4, 8, 15, 16, 23, 42], prompt: 2 };
        sampler.sample(&some_logits(500), &disturbing, history, position).expect("a token");
        let again = sampler.sample(&logits, &sampling, History::default(), position).expect("a token");
        assert_eq!(again.token, fresh[position as usize]);
    }
}

/// Tokens of one configuration, written down once: a machine, tier or compiler that differs fails here.
#[test]
fn draws_are_the_same_on_every_machine() {
    let logits = some_logits(1000);
    let sampling =
        Sampling { temperature: 0.9, top_k: 400, top_p: 0.97, min_p: 0.01, seed: 2026, ..Sampling::greedy() };
    let tokens: Vec<u32> = (0..12).map(|p| sample(&logits, &sampling, p)).collect();
    assert_eq!(tokens, [476, 987, 716, 742, 670, 325, 994, 810, 670, 849, 343, 519]);
}

#[test]
fn bad_parameters_are_named_with_value_and_range() {
    let good = Sampling::greedy;
    good().validate(10).expect("valid");
    let fails = |name: &str, value: &str, sampling: Sampling| {
        let text = sampling.validate(10).expect_err(name).to_string();
        assert!(text.starts_with(&format!("parameter {name} = {value}: ")) && text.contains("must be"), "{text}");
    };
    for (v, s) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf"), (-0.5, "-0.5")] {
        fails("temperature", s, Sampling { temperature: v, ..good() });
        fails("top_p", s, Sampling { top_p: v, ..good() });
        fails("min_p", s, Sampling { min_p: v, ..good() });
        fails("repetition_penalty", s, Sampling { repetition_penalty: v, ..good() });
        let v = if v == -0.5 { -2.5 } else { v };
        let s = if v == -2.5 { "-2.5" } else { s };
        fails("presence_penalty", s, Sampling { presence_penalty: v, ..good() });
        fails("frequency_penalty", s, Sampling { frequency_penalty: v, ..good() });
    }
    fails("top_p", "0", Sampling { top_p: 0.0, ..good() });
    fails("top_p", "1.5", Sampling { top_p: 1.5, ..good() });
    fails("min_p", "1.5", Sampling { min_p: 1.5, ..good() });
    fails("repetition_penalty", "0", Sampling { repetition_penalty: 0.0, ..good() });
    fails("logprobs", "21", Sampling { logprobs: Some(21), ..good() });
    fails("logit_bias", "(10, 1)", Sampling { logit_bias: vec![(0, 1.0), (10, 1.0)], ..good() });
    for (v, s) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (101.0, "101")] {
        fails("logit_bias", &format!("(1, {s})"), Sampling { logit_bias: vec![(1, v)], ..good() });
    }
}

fn any_sampling() -> impl Strategy<Value = Sampling> {
    let temperature = prop_oneof![Just(0.0f32), 1e-6f32..1e-3, 0.1f32..3.0, 1e3f32..1e6];
    let top_k = prop_oneof![Just(0usize), 1usize..10, 1usize..400];
    let top_p = prop_oneof![Just(1.0f32), 1e-9f32..1e-3, 0.01f32..1.0];
    let min_p = prop_oneof![Just(0.0f32), 0.0f32..=1.0];
    (temperature, top_k, top_p, min_p, any::<u64>()).prop_map(|(temperature, top_k, top_p, min_p, seed)| Sampling {
        temperature,
        top_k,
        top_p,
        min_p,
        seed,
        ..Sampling::greedy()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// The cuts are compared with a margin: a token at the very edge of top-p or min-p may fall on either side of it in
    /// single precision.
    #[test]
    fn a_drawn_token_is_in_the_allowed_set(
        logits in prop::collection::vec(-20.0f32..20.0, 1..400),
        sampling in any_sampling(),
        position in any::<u64>(),
    ) {
        let token = sample(&logits, &sampling, position) as usize;
        if sampling.temperature == 0.0 {
            prop_assert!(logits.iter().enumerate().all(|(i, &l)| l < logits[token] || l == logits[token] && i >= token));
        } else {
            let wider = Sampling {
                top_p: (sampling.top_p * 1.000_01 + 1e-12).min(1.0),
                min_p: sampling.min_p * 0.999_9,
                ..sampling.clone()
            };
            prop_assert!(probabilities(&logits, &wider)[token] > 0.0, "{sampling:?} drew {token}");
        }
    }

    #[test]
    fn penalties_never_fail(
        logits in prop::collection::vec(prop_oneof![-1e3f32..1e3, f32::MIN..=f32::MAX], 30),
        tokens in prop::collection::vec(0u32..30, 0..60),
        (repetition_penalty, presence_penalty, frequency_penalty) in (1e-3f32..10.0, -2.0f32..=2.0, -2.0f32..=2.0),
        (temperature, penalty_window) in (0.0f32..2.0, 0usize..80),
    ) {
        let sampling = Sampling {
            temperature, repetition_penalty, presence_penalty, frequency_penalty, penalty_window, ..Sampling::greedy()
        };
        sampling.validate(30).expect("valid");
        let history = History { tokens: &tokens, prompt: tokens.len() / 2 };
        prop_assert!(Sampler::new(30).sample(&logits, &sampling, history, 0).is_ok());
    }
}
