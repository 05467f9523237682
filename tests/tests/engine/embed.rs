//! Hidden states through the engine: what is pooled, by definition, whatever the schedule; and what is refused.

use llama_core::Error;
use llama_core::config::Pooling;
use llama_core::engine::{Embed, Engine, EngineOptions, Finish, Request};
use proptest::prelude::*;

use super::toy::{self, Expected, Toy, expected};

const HIDDEN: usize = 8;

fn options() -> EngineOptions {
    EngineOptions { embeddings: true, ..EngineOptions::default() }
}

fn engine() -> Engine {
    toy::engine(toy::limits(32, 4, 4, 64), &options())
}

/// The states of a prompt, by definition: the toy's are the first of its logits.
fn states(prompt: &[u32]) -> Vec<Vec<f32>> {
    (1..=prompt.len()).map(|end| toy::logits(&prompt[..end])[..HIDDEN].to_vec()).collect()
}

/// Their vector, added up as docs/numerics.md says.
fn vector(embed: &Embed) -> Vec<f32> {
    let states = states(&embed.prompt);
    match embed.pooling.unwrap_or_default() {
        Pooling::Last => states.last().unwrap().clone(),
        Pooling::Tokens => states.concat(),
        Pooling::Mean => {
            let sum = |c: usize| states.iter().fold(0.0f32, |sum, state| sum + state[c]);
            (0..HIDDEN).map(|c| sum(c) / states.len() as f32).collect()
        }
    }
}

/// Prompts are cut from two long lists, so that prefixes coincide often.
fn embed() -> impl Strategy<Value = Embed> {
    (0u64..2, 1usize..120, 0..3usize).prop_map(|(list, length, pooling)| Embed {
        prompt: toy::prompt(list, length),
        pooling: Some(Pooling::ALL[pooling]),
        adapter: None,
        normalise: false,
    })
}

/// A prompt to embed, or one of its beginnings to go on with.
fn work() -> impl Strategy<Value = (Embed, Option<usize>)> {
    (embed(), prop::option::weighted(0.4, 1usize..30))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_row_counts_once(
        work in prop::collection::vec((0usize..5, work()), 1..14),
        (tokens, sequences, outputs, blocks) in (1usize..70, 1usize..7, 1usize..5, 10usize..40),
        prefix_cache: bool,
    ) {
        let options = EngineOptions { prefix_cache, ..options() };
        let mut engine = toy::engine(toy::limits(tokens, sequences, outputs, blocks), &options);
        let mut vectors = std::collections::HashMap::<_, Vec<f32>>::new();
        let mut texts = std::collections::HashMap::<_, Vec<u32>>::new();
        let mut submitted = Vec::new();
        for (pause, (embed, tokens)) in work {
            for _ in 0..pause {
                for event in engine.step().unwrap() {
                    vectors.entry(event.id).or_default().extend(event.vector);
                    texts.entry(event.id).or_default().extend(event.token);
                }
            }
            let request = Request { max_tokens: tokens, ..Request::new(embed.prompt.clone()) };
            let id = match tokens {
                Some(_) => engine.submit(request.clone()).unwrap(),
                None => engine.submit_embed(embed.clone()).unwrap(),
            };
            submitted.push((id, embed, tokens.map(|_| request)));
        }
        engine.run(|event| {
            vectors.entry(event.id).or_default().extend(event.vector);
            texts.entry(event.id).or_default().extend(event.token);
        }).unwrap();
        for (id, embed, request) in submitted {
            match request {
                Some(request) => prop_assert_eq!(&texts[&id], &expected(&request, &[]).tokens),
                None => prop_assert_eq!(&vectors[&id], &vector(&embed), "{:?} of {}", embed.pooling, embed.prompt.len()),
            }
        }
        prop_assert_eq!(engine.stats().blocks_used, 0);
    }
}

#[test]
fn a_vector_has_length_one_unless_asked_otherwise() {
    let embed = Embed::new(toy::prompt(1, 50));
    let plain = Embed { normalise: false, ..embed.clone() };
    let (unit, plain) = (engine().embed(embed).unwrap(), engine().embed(plain).unwrap());
    let length = plain.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
    assert_eq!(unit, plain.iter().map(|&x| (f64::from(x) / length) as f32).collect::<Vec<_>>());
}

/// A prefix-cache hit spares what no vector needs, and no vector needs logits.
#[test]
fn the_last_state_needs_no_more_than_its_own_row() {
    let (model, knobs) = Toy::new(toy::limits(32, 4, 4, 64));
    let mut engine = Engine::new(model, None, &options()).unwrap();
    let embed = |pooling| Embed { prompt: toy::prompt(1, 49), pooling: Some(pooling), adapter: None, normalise: false };
    engine.embed(embed(Pooling::Mean)).unwrap();
    let rows = engine.stats().rows;
    engine.embed(embed(Pooling::Last)).unwrap();
    assert_eq!(engine.stats().rows - rows, 1);
    engine.embed(embed(Pooling::Mean)).unwrap();
    assert_eq!(engine.stats().rows - rows, 50, "a mean is of all rows");
    assert_eq!(knobs.lock().unwrap().outputs, 0);
}

#[test]
fn hostile_prompts_are_refused_by_name_and_the_engine_goes_on() {
    let mut engine = toy::engine(toy::limits(32, 4, 4, 12), &options());
    for (name, prompt) in [
        ("prompt = []", vec![]),
        ("prompt = 97", vec![1, 97]),
        ("prompt = 4294967295", vec![u32::MAX]),
        ("context overflow: 257", vec![1; 257]),
        ("cache_blocks = 12", vec![1; 193]),
    ] {
        let error = engine.submit_embed(Embed::new(prompt.clone())).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
        let all = engine.embed_all([Embed::new([1, 2]), Embed::new(prompt)]).unwrap_err().to_string();
        assert!(all == error && engine.is_idle(), "{all}");
    }
    let fits = Embed { normalise: false, ..Embed::new(toy::prompt(3, 192)) };
    assert_eq!(engine.embed(fits.clone()).unwrap(), vector(&fits));
    assert_eq!(engine.embed_all([]).unwrap(), Vec::<Vec<f32>>::new());
    assert!(matches!(engine.classify([1]).unwrap_err(), Error::Unsupported { .. }));
}

#[test]
fn an_engine_made_without_embeddings_says_so() {
    let mut engine = toy::engine(toy::limits(32, 4, 4, 12), &EngineOptions::default());
    let refusal = engine.embed(Embed::new([1, 2, 3])).unwrap_err();
    assert!(matches!(refusal, Error::Parameter { name: "embeddings", .. }), "{refusal}");
    assert!(engine.is_idle());
}

#[test]
fn a_state_that_is_not_finite_ends_its_sequence_only() {
    for (pooling, at) in [(Pooling::Last, 59), (Pooling::Mean, 20), (Pooling::Tokens, 20)] {
        let (model, knobs) = Toy::new(toy::limits(32, 8, 8, 64));
        let mut engine = Engine::new(model, None, &options()).unwrap();
        let good = Embed { prompt: vec![5; 40], pooling: Some(pooling), adapter: None, normalise: false };
        let mut bad = Embed { prompt: vec![7; 60], ..good.clone() };
        bad.prompt[20] = 96;
        knobs.lock().unwrap().poison = Some(96);
        let (failing, other) = (engine.submit_embed(bad.clone()).unwrap(), engine.submit_embed(good.clone()).unwrap());
        let (mut failure, mut got) = (None, Vec::new());
        engine
            .run(|event| match event.finish {
                Some(Finish::Failed(error)) if event.id == failing => failure = Some(error),
                _ if event.id == other => got.extend(event.vector),
                _ => {}
            })
            .unwrap();
        let Some(Error::StateNotFinite { sequence, column: 0, position, value }) = failure else {
            panic!("{pooling:?}: {failure:?}")
        };
        assert_eq!((sequence, position), (failing.number(), at), "{pooling:?}");
        assert!(value.is_nan());
        assert_eq!(got, vector(&good));
        assert_eq!(engine.stats().blocks_used, 0);
        // Two that fail and one that does not in one step, and one that would go on: nobody is left to read of them.
        let mut short = Embed { prompt: vec![96; 2], ..good.clone() };
        let long = Embed { prompt: vec![8; 200], ..good.clone() };
        let refusal = engine.embed_all([short.clone(), short.clone(), Embed { prompt: vec![9], ..good.clone() }, long]);
        assert!(
            matches!(refusal, Err(Error::StateNotFinite { position: 0 | 1, .. })) && engine.is_idle(),
            "{refusal:?}"
        );
        short.prompt[0] = 1;
        let refusal = engine.embed_all([good.clone(), bad.clone(), short]).unwrap_err();
        assert!(matches!(refusal, Error::StateNotFinite { .. }) && engine.is_idle(), "{refusal}");
        // Nothing of the failure is found again once its cause is gone.
        knobs.lock().unwrap().poison = None;
        assert_eq!(engine.embed(bad.clone()).unwrap(), vector(&bad));
    }
}

#[test]
fn a_failed_step_can_be_tried_again() {
    let (model, knobs) = Toy::new(toy::limits(24, 8, 8, 12));
    let mut engine = Engine::new(model, None, &options()).unwrap();
    let embeds: Vec<_> = (0..5)
        .map(|i| Embed {
            prompt: toy::prompt(i, 10 + 30 * i as usize),
            pooling: Some(Pooling::ALL[i as usize % 3]),
            adapter: None,
            normalise: false,
        })
        .collect();
    let ids: Vec<_> = embeds.iter().map(|embed| engine.submit_embed(embed.clone()).unwrap()).collect();
    let mut vectors = vec![Vec::new(); ids.len()];
    for step in 0.. {
        if engine.is_idle() {
            break;
        }
        knobs.lock().unwrap().failures = usize::from(step % 2 == 0);
        if let Ok(events) = engine.step() {
            events.for_each(|event| vectors[event.id.number() as usize - 1].extend(event.vector));
        }
    }
    assert_eq!(vectors, embeds.iter().map(vector).collect::<Vec<_>>());
}

#[test]
fn a_cancelled_prompt_has_no_vector() {
    let mut engine = engine();
    let request = Request { max_tokens: Some(12), ..Request::new(toy::prompt(3, 20)) };
    let other = engine.submit(request.clone()).unwrap();
    let id = engine.submit_embed(Embed::new(toy::prompt(1, 100))).unwrap();
    engine.step().unwrap().for_each(drop);
    assert!(engine.cancel(id) && !engine.cancel(id));
    let (mut finish, mut tokens) = (None, 1);
    engine
        .run(|event| {
            assert!(event.vector.is_empty());
            tokens += usize::from(event.id == other && event.token.is_some());
            if event.id == id {
                finish = event.finish;
            }
        })
        .unwrap();
    assert!(matches!(finish, Some(Finish::Cancelled)));
    assert_eq!((tokens, engine.stats().blocks_used), (12, 0));
    assert_eq!(Expected::from(engine.complete(request.clone()).unwrap()), expected(&request, &[]));
}

/// One-shot calls step the whole engine; what they bring others waits for the next step.
#[test]
fn others_events_wait() {
    let mut engine = engine();
    let request = Request { max_tokens: Some(3), ..Request::new(toy::prompt(3, 20)) };
    let id = engine.submit(request.clone()).unwrap();
    engine.embed_all([Embed::new(toy::prompt(1, 100)), Embed::new(toy::prompt(2, 60))]).unwrap();
    let mut tokens = Vec::new();
    engine
        .run(|event| {
            if event.id == id {
                tokens.extend(event.token)
            }
        })
        .unwrap();
    assert_eq!(tokens, expected(&request, &[]).tokens);
}
