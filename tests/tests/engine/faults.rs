//! Errors stay where they belong: one sequence's with that sequence, the model's with the step.

use llama_core::Error;
use llama_core::engine::{Engine, EngineOptions, Finish, Request};

use super::toy::{self, Expected, Toy, expected};

fn requests() -> Vec<Request> {
    (0..6).map(|i| Request { max_tokens: Some(25), ..Request::new(toy::prompt(i, 10 + 9 * i as usize)) }).collect()
}

#[test]
fn a_logit_that_is_not_finite_ends_its_sequence_only() {
    let (model, knobs) = Toy::new(toy::limits(32, 8, 8, 64));
    let mut engine = Engine::new(model, None, &EngineOptions::default()).unwrap();
    let want = expected(&requests()[2], &[]);
    let mut bad = requests()[2].clone();
    bad.prompt[20] = 96;
    let poisoned: Vec<bool> = requests()
        .iter()
        .map(|request| expected(request, &[]).tokens.contains(&96) || request.prompt.contains(&96))
        .collect();
    knobs.lock().unwrap().poison = Some(96);
    let failing = engine.submit(bad.clone()).unwrap();
    let ids: Vec<_> = requests().into_iter().map(|request| engine.submit(request).unwrap()).collect();
    let mut finishes = std::collections::HashMap::new();
    engine.run(|event| finishes.extend(event.finish.map(|finish| (event.id, finish)))).unwrap();
    let Finish::Failed(Error::NotFinite { sequence, position, value, .. }) = finishes[&failing] else {
        panic!("{:?}", finishes[&failing])
    };
    assert_eq!((sequence, position as usize), (failing.number(), bad.prompt.len() - 1));
    assert!(value.is_nan());
    assert!(poisoned.contains(&false), "the others must be able to end well");
    for (id, poisoned) in ids.iter().zip(poisoned) {
        assert_eq!(matches!(finishes[id], Finish::Failed(_)), poisoned, "sequence {id}: {:?}", finishes[id]);
    }
    assert_eq!(engine.stats().blocks_used, 0);
    // Nothing of the failure is found again once its cause is gone.
    knobs.lock().unwrap().poison = None;
    assert_eq!(Expected::from(engine.complete(bad.clone()).unwrap()), expected(&bad, &[]));
    assert_eq!(Expected::from(engine.complete(requests()[2].clone()).unwrap()), want);
}

#[test]
fn a_failed_sequence_leaves_nothing_in_the_prefix_cache() {
    let (model, knobs) = Toy::new(toy::limits(32, 8, 8, 64));
    let mut engine = Engine::new(model, None, &EngineOptions::default()).unwrap();
    let mut request = requests()[5].clone();
    request.prompt[0] = 96;
    knobs.lock().unwrap().poison = Some(96);
    assert!(matches!(engine.complete(request), Err(Error::NotFinite { .. })));
    assert_eq!(engine.stats().blocks_published, 0);
}

#[test]
fn what_fails_after_some_tokens_is_an_iterator_s_last_item() {
    let (model, knobs) = Toy::new(toy::limits(32, 8, 8, 64));
    let mut engine = Engine::new(model, None, &EngineOptions::default()).unwrap();
    let request = requests()[2].clone();
    let tokens = expected(&request, &[]).tokens;
    let fatal = *tokens[5..].iter().find(|token| !request.prompt.contains(token)).unwrap();
    let good = tokens.iter().position(|&token| token == fatal).unwrap() + 1;
    knobs.lock().unwrap().poison = Some(fatal);
    let mut items: Vec<_> = engine.generate(request).unwrap().collect();
    assert!(matches!(items.pop(), Some(Err(Error::NotFinite { .. }))));
    let seen: Vec<_> = items.into_iter().filter_map(|event| event.unwrap().token).collect();
    assert_eq!(seen, tokens[..good]);
    assert!(engine.is_idle());
}

#[test]
fn a_failed_step_can_be_tried_again() {
    for blocks in [8, 64] {
        let (model, knobs) = Toy::new(toy::limits(24, 8, 8, blocks));
        let mut engine = Engine::new(model, None, &EngineOptions::default()).unwrap();
        let ids: Vec<_> = requests().into_iter().map(|request| engine.submit(request).unwrap()).collect();
        let mut completions: Vec<_> = ids.iter().map(|&id| llama_core::engine::Completion::new(id)).collect();
        let mut errors = 0;
        for step in 0.. {
            if engine.is_idle() {
                break;
            }
            knobs.lock().unwrap().failures = usize::from(step % 3 == 0);
            let before = engine.stats();
            match engine.step() {
                Ok(events) => {
                    events.for_each(|event| completions[event.id.number() as usize - 1].absorb(event));
                    continue;
                }
                Err(Error::Backend { .. }) => errors += 1,
                Err(other) => panic!("{other}"),
            }
            let after = engine.stats();
            assert!(blocks < 64 || after.blocks_used == before.blocks_used, "{before:?} {after:?}");
            assert_eq!((after.steps, after.rows), (before.steps, before.rows));
        }
        assert!(errors > 10);
        assert_eq!(engine.stats().blocks_used, 0);
        for (completion, request) in completions.into_iter().zip(requests()) {
            assert_eq!(Expected::from(completion), expected(&request, &[]));
        }
    }
}

#[test]
fn a_model_that_fails_for_good_does_not_hold_on_to_a_caller_s_request() {
    let (model, knobs) = Toy::new(toy::limits(24, 8, 8, 64));
    let mut engine = Engine::new(model, None, &EngineOptions::default()).unwrap();
    knobs.lock().unwrap().failures = 2;
    assert!(matches!(engine.complete(requests()[0].clone()), Err(Error::Backend { .. })));
    assert!(matches!(engine.generate(requests()[1].clone()).unwrap().next(), Some(Err(Error::Backend { .. }))));
    assert!(engine.is_idle());
    assert_eq!(engine.stats().blocks_used, 0);
    assert_eq!(Expected::from(engine.complete(requests()[0].clone()).unwrap()), expected(&requests()[0], &[]));
}
