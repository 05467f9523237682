//! The sampler against exact probabilities, against a plain implementation of its definition, and at its limits.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;

fn sample(logits: &[f32], sampling: &Sampling, position: u64) -> u32 {
    sampling.validate(logits.len()).expect("valid");
    Sampler::new(logits.len()).sample(logits, sampling, History::default(), position).expect("a token").token
}

/// Exact probabilities of every token, in f64 and by sorting everything: those with the top choices excluded as often as that
/// happens.
fn probabilities(logits: &[f32], sampling: &Sampling) -> Vec<f64> {
    let often = f64::from(sampling.xtc_probability);
    let [with, without] = [true, false].map(|excludes| probabilities_if(excludes, logits, sampling));
    with.iter().zip(&without).map(|(with, without)| often * with + (1.0 - often) * without).collect()
}

fn probabilities_if(excludes: bool, logits: &[f32], sampling: &Sampling) -> Vec<f64> {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].partial_cmp(&logits[a]).expect("no NaN").then(a.cmp(&b)));
    if sampling.top_k > 0 {
        order.truncate(sampling.top_k);
    }
    let max = f64::from(logits[order[0]]);
    let weight = |i: usize| ((f64::from(logits[i]) - max) / f64::from(sampling.temperature)).exp();
    keep_typical(&mut order, weight, sampling.typical_p.into());
    let total: f64 = order.iter().map(|&i| weight(i)).sum();
    let (mut sum, most) = (0.0, weight(order[0]));
    order.retain(|&i| {
        let kept = sum < f64::from(sampling.top_p) * total;
        sum += weight(i);
        kept && weight(i) >= f64::from(sampling.min_p) * most
    });
    let mut left: f64 = order.iter().map(|&i| weight(i)).sum();
    let top = order.iter().take_while(|&&i| weight(i) >= f64::from(sampling.xtc_threshold) * left).count();
    if excludes && top > 1 {
        order.drain(..top - 1);
        left = order.iter().map(|&i| weight(i)).sum();
    }
    let mut p = vec![0.0; logits.len()];
    for i in order {
        p[i] = weight(i) / left;
    }
    p
}

/// Keeps those whose surprise is nearest the entropy, in their order.
fn keep_typical(order: &mut Vec<usize>, weight: impl Fn(usize) -> f64, p: f64) {
    let total: f64 = order.iter().map(|&i| weight(i)).sum();
    let surprise = |i: usize| -(weight(i) / total).ln();
    let entropy: f64 = order.iter().map(|&i| weight(i) / total * surprise(i)).sum();
    let distance = |i: usize| (surprise(i) - entropy).abs();
    let mut nearest = order.clone();
    nearest.sort_by(|&a, &b| distance(a).total_cmp(&distance(b)).then(a.cmp(&b)));
    let mut sum = 0.0;
    nearest.retain(|&i| {
        let kept = p == 1.0 || sum < p * total;
        sum += weight(i);
        kept
    });
    order.retain(|i| nearest.contains(i));
}

fn some_logits(vocab: usize) -> Vec<f32> {
    (0..vocab).map(|i| 4.0 * philox::uniform(99, i as u64, Stream::Draw) as f32).collect()
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
    draws_follow(&logits, &Sampling { typical_p: 0.4, ..plain.clone() });
    // The most probable token is not among the most typical, and the others are measured by those that are.
    draws_follow(&logits, &Sampling { typical_p: 0.1, min_p: 0.9, ..plain.clone() });
    draws_follow(&logits, &Sampling { typical_p: 0.8, top_p: 0.7, top_k: 30, temperature: 0.7, ..plain.clone() });
    for (xtc_probability, xtc_threshold) in [(1.0, 0.05), (0.3, 0.04), (0.5, 0.0), (1.0, 0.5), (1.0, 0.51)] {
        draws_follow(&logits, &Sampling { xtc_probability, xtc_threshold, ..plain.clone() });
        draws_follow(
            &logits,
            &Sampling { xtc_probability, xtc_threshold, min_p: 0.4, temperature: 0.5, ..plain.clone() },
        );
    }
    draws_follow(&logits, &Sampling { temperature: 1.7, top_k: 20, top_p: 0.8, min_p: 0.3, seed: 1 << 40, ..plain });
}

/// Off, whatever the other parameters of a sampler that is off say; and on, with limits that change nothing.
#[test]
fn what_is_off_changes_no_token() {
    let logits = some_logits(300);
    let tokens: Vec<u32> = (0..400).map(|i| i % 7).collect();
    let history = History { tokens: &tokens, prompt: 10 };
    let plain = Sampling { temperature: 0.8, top_p: 0.95, seed: 9, ..Sampling::greedy() };
    let dry = Sampling { dry_multiplier: 9.0, ..plain.clone() };
    let mut sampler = Sampler::new(300);
    for sampling in [
        Sampling { xtc_threshold: 0.0, dry_base: 9.0, dry_allowed_length: 0, ..plain.clone() },
        Sampling { xtc_probability: 1.0, xtc_threshold: 0.51, ..plain.clone() },
        Sampling { dry_window: 0, dry_allowed_length: 0, ..dry.clone() },
        Sampling { dry_window: 1, ..dry.clone() },
        Sampling { dry_allowed_length: 400, ..dry.clone() },
        Sampling { dry_breakers: (0..7).collect(), ..dry.clone() },
    ] {
        for position in 0..200 {
            let drawn = [&sampling, &plain].map(|sampling| sampler.pick(&logits, sampling, history, position));
            assert_eq!(drawn[0], drawn[1], "{sampling:?}");
        }
    }
    // Whether top choices are excluded does not move the number that is drawn with: who is excluded nowhere draws the same.
    let rare = Sampling { xtc_probability: 0.5, xtc_threshold: 0.0, top_k: 1, ..plain };
    assert!((0..50).all(|p| sampler.pick(&logits, &rare, history, p) == Ok(greatest(&logits).expect("one"))));
}

/// A repetition ends where its continuation costs more than another token, drawn or not; and what only DRY forbids may come if
/// nothing else may.
#[test]
fn dry_ends_a_repetition() {
    let mut logits = vec![0.0; 10];
    logits[3] = 5.0;
    let tokens = [1, 2, 3, 1, 2, 3, 1, 2];
    let pick = |sampling: &Sampling, prompt| {
        Sampler::new(10).pick(&logits, sampling, History { tokens: &tokens, prompt }, 7).expect("a token")
    };
    for temperature in [0.0, 1e-3] {
        let dry = Sampling { temperature, dry_multiplier: 0.8, ..Sampling::greedy() };
        for prompt in [0, 8] {
            assert_eq!(pick(&Sampling { dry_multiplier: 0.1, ..dry.clone() }, prompt), 3, "0.1 * 1.75^3 is little");
            assert_eq!(pick(&Sampling { dry_breakers: Arc::from([2]), ..dry.clone() }, prompt), 3);
        }
        let strong = Sampling { dry_multiplier: f32::MAX, dry_base: f32::MAX, ..dry.clone() };
        assert_ne!(pick(&strong, 0), 3);
        let logit_bias = (0..10).filter(|&token| token != 3).map(|token| (token, f32::NEG_INFINITY)).collect();
        assert_eq!(pick(&Sampling { logit_bias, ..strong }, 0), 3);
    }
}

/// Of the allowed tokens only: what is not allowed is no top choice, and something is left.
#[test]
fn top_choices_and_typical_tokens_are_those_allowed() {
    let logits = some_logits(64);
    let mut sampler = Sampler::new(64);
    let sampling = Sampling {
        temperature: 1.0,
        typical_p: 0.5,
        xtc_probability: 1.0,
        xtc_threshold: 0.0,
        dry_multiplier: f32::MAX,
        dry_allowed_length: 0,
        ..Sampling::greedy()
    };
    let tokens: Vec<u32> = (0..64).collect();
    let history = History { tokens: &tokens, prompt: 0 };
    for lone in 0..64 {
        let mut allowed = Allowed::none(64);
        allowed.allow(lone);
        let sampled = sampler.sample_allowed(&logits, &sampling, history, u64::from(lone), &allowed).expect("a token");
        assert_eq!(sampled.token, lone);
        allowed.allow(63 - lone);
        let sampled = sampler.sample_allowed(&logits, &sampling, history, u64::from(lone), &allowed).expect("a token");
        assert!(allowed.allows(sampled.token));
    }
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
    let drawn = |sampling: &Sampling| (0..12).map(|p| sample(&logits, sampling, p)).collect::<Vec<u32>>();
    assert_eq!(drawn(&sampling), [476, 987, 716, 742, 670, 325, 994, 810, 670, 849, 343, 519]);
    let typical = Sampling { typical_p: 0.6, ..sampling.clone() };
    assert_eq!(drawn(&typical), [415, 982, 679, 702, 618, 306, 982, 785, 628, 823, 321, 498]);
    let excluding = Sampling { xtc_probability: 0.5, xtc_threshold: 0.003, ..sampling };
    assert_eq!(drawn(&excluding), [476, 987, 689, 718, 635, 267, 994, 810, 670, 848, 277, 481]);
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
        fails("typical_p", s, Sampling { typical_p: v, ..good() });
        fails("xtc_probability", s, Sampling { xtc_probability: v, ..good() });
        fails("xtc_threshold", s, Sampling { xtc_threshold: v, ..good() });
        fails("dry_multiplier", s, Sampling { dry_multiplier: v, ..good() });
        fails("dry_base", s, Sampling { dry_base: v, ..good() });
        let v = if v == -0.5 { -2.5 } else { v };
        let s = if v == -2.5 { "-2.5" } else { s };
        fails("presence_penalty", s, Sampling { presence_penalty: v, ..good() });
        fails("frequency_penalty", s, Sampling { frequency_penalty: v, ..good() });
    }
    fails("top_p", "0", Sampling { top_p: 0.0, ..good() });
    fails("top_p", "1.5", Sampling { top_p: 1.5, ..good() });
    fails("min_p", "1.5", Sampling { min_p: 1.5, ..good() });
    fails("repetition_penalty", "0", Sampling { repetition_penalty: 0.0, ..good() });
    fails("typical_p", "0", Sampling { typical_p: 0.0, ..good() });
    fails("typical_p", "1.5", Sampling { typical_p: 1.5, ..good() });
    fails("xtc_probability", "1.5", Sampling { xtc_probability: 1.5, ..good() });
    fails("xtc_threshold", "1.5", Sampling { xtc_threshold: 1.5, ..good() });
    fails("dry_base", "0.9", Sampling { dry_base: 0.9, ..good() });
    fails("dry_breakers", "10", Sampling { dry_breakers: Arc::from([3, 10]), ..good() });
    fails("dry_breakers", "[.., 4, 3, ..]", Sampling { dry_breakers: Arc::from([1, 4, 3]), ..good() });
    fails("dry_breakers", "[.., 3, 3, ..]", Sampling { dry_breakers: Arc::from([3, 3]), ..good() });
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

    /// Whatever the parameters: a token comes, and one that is allowed.
    #[test]
    fn a_token_always_comes(
        logits in prop_oneof![
            prop::collection::vec(-3.0f32..3.0, 30),
            prop::collection::vec(prop_oneof![-1e3f32..1e3, f32::MIN..=f32::MAX], 30),
        ],
        tokens in prop::collection::vec(0u32..30, 0..60),
        sampling in any_sampling(),
        (typical_p, xtc_threshold) in (prop_oneof![Just(f32::from_bits(1)), 0.01f32..=1.0], 0.0f32..=0.6),
        (dry_multiplier, dry_base) in (prop_oneof![0.0f32..5.0, 0.0f32..=f32::MAX], prop_oneof![1.0f32..3.0, 1.0f32..=f32::MAX]),
        (dry_allowed_length, dry_window, lone) in (0usize..4, 0usize..80, 0u32..30),
    ) {
        let dry = Sampling { dry_multiplier, dry_base, dry_allowed_length, dry_window, ..sampling };
        let sampling = Sampling { typical_p, xtc_probability: 1.0, xtc_threshold, ..dry };
        sampling.validate(30).expect("valid");
        let history = History { tokens: &tokens, prompt: tokens.len() / 2 };
        let mut sampler = Sampler::new(30);
        prop_assert!(sampler.pick(&logits, &sampling, history, 0).is_ok());
        let mut allowed = Allowed::none(30);
        allowed.allow(lone);
        let sampled = sampler.sample_allowed(&logits, &sampling, history, 0, &allowed).map(|sampled| sampled.token);
        prop_assert_eq!(sampled, Ok(lone));
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
