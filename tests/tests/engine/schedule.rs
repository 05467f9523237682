//! Company, chunks, small pools, prefix hits, preemption and cancelling change nothing that a sequence is told; the toy
//! checks on every step that the batch is within its limits and that no block is written that another may read.

use std::collections::HashMap;
use std::sync::Arc;

use llama_core::backend::Limits;
use llama_core::engine::{Completion, Engine, EngineOptions, Event, Finish, Grammar, Request, SequenceId};
use llama_core::sample::Sampling;
use proptest::prelude::*;

use super::grammar::Classes;
use super::toy::{self, Expected, expected};

/// One thing a user does, and after how many steps.
#[derive(Debug, Clone)]
pub struct Arrival {
    pause: usize,
    request: Request,
    /// Cancel after so many further steps.
    cancel: Option<usize>,
}

impl Arrival {
    /// Whether its sequence may be told other tokens than the model would say next, or end among them, other than by a cancel.
    pub fn surprises(&self) -> bool {
        !self.request.stop_tokens.is_empty() || self.request.grammar.is_some()
    }
}

/// Greedy or not, with and without penalties and DRY, which depend on the whole history, and XTC, which has a random number of
/// its own.
fn sampling() -> impl Strategy<Value = Sampling> {
    let plain = (prop_oneof![Just(0.0f32), Just(1.0)], any::<u64>(), any::<bool>(), prop::option::of(0usize..4));
    (plain, prop_oneof![Just(0.0f32), Just(3.0)], prop_oneof![Just(0.0f32), Just(0.5)]).prop_map(
        |((temperature, seed, penalties, logprobs), dry_multiplier, xtc_probability)| Sampling {
            temperature,
            seed,
            top_k: 40,
            repetition_penalty: if penalties { 1.5 } else { 1.0 },
            frequency_penalty: if penalties { 0.5 } else { 0.0 },
            // The toy's texts repeat little more than single tokens.
            dry_multiplier,
            dry_allowed_length: 1,
            dry_window: 50,
            dry_breakers: Arc::from([3, 14]),
            xtc_probability,
            xtc_threshold: 0.05,
            typical_p: if penalties { 1.0 } else { 0.9 },
            logprobs,
            ..Sampling::greedy()
        },
    )
}

/// Prompts are cut from a few long lists, so that prefixes coincide often and for any length.
fn request() -> impl Strategy<Value = Request> {
    let shape = (0u64..3, 1usize..90, 1usize..60, prop_oneof![Just(0), 1usize..60]);
    let grammar = prop::option::weighted(0.3, Classes::strategy());
    (shape, sampling(), prop::collection::vec(0u32..97, 0..2), any::<bool>(), 0u8..6, grammar).prop_map(
        |((list, length, max_tokens, min_tokens), sampling, stop_tokens, ignore_end, scoring, grammar)| Request {
            prompt: toy::prompt(list, length),
            max_tokens: Some(if scoring == 0 { 0 } else { max_tokens }),
            min_tokens: if scoring == 0 { 0 } else { min_tokens.min(max_tokens) },
            sampling,
            stop_tokens,
            ignore_end,
            prompt_logprobs: scoring < 2,
            grammar: grammar.map(|grammar| Arc::new(grammar) as Arc<dyn Grammar>),
            ..Request::default()
        },
    )
}

pub fn arrival() -> impl Strategy<Value = Arrival> {
    (0usize..6, request(), prop::option::weighted(0.2, 0usize..30)).prop_map(|(pause, request, cancel)| Arrival {
        pause,
        request,
        cancel,
    })
}

/// From one row a step and a pool that fits one sequence to room for all.
pub fn sizes() -> impl Strategy<Value = Limits> {
    (1usize..80, 1usize..9, 1usize..12, 10usize..60)
        .prop_map(|(tokens, sequences, outputs, blocks)| toy::limits(tokens, sequences, outputs, blocks))
}

#[derive(Default)]
struct Watch {
    completions: HashMap<SequenceId, Vec<Event>>,
    cancels: Vec<(usize, SequenceId)>,
    steps: usize,
}

impl Watch {
    /// One step and what belongs to its moment. The number of steps is bounded: no livelock.
    fn step(&mut self, engine: &mut Engine) {
        for event in engine.step().unwrap() {
            self.completions.entry(event.id).or_default().push(event);
        }
        self.steps += 1;
        assert!(self.steps < 50_000, "no progress: {:?}", engine.stats());
        let due: Vec<_> = self.cancels.extract_if(.., |(at, _)| *at <= self.steps).collect();
        for (_, id) in due {
            let over = self.completions.get(&id).is_some_and(|events| events.iter().any(|e| e.finish.is_some()));
            assert_eq!(engine.cancel(id), !over);
        }
    }

    fn completion(&mut self, id: SequenceId) -> Completion {
        let events = self.completions.remove(&id).expect("no event at all");
        let finishes = events.iter().filter(|event| event.finish.is_some()).count();
        assert_eq!(finishes, 1, "sequence {id}");
        assert!(events.last().unwrap().finish.is_some(), "an event after the last");
        let mut completion = Completion::new(id);
        events.into_iter().for_each(|event| completion.absorb(event));
        completion
    }
}

fn check(limits: Limits, prefix_cache: bool, end_tokens: Vec<u32>, arrivals: &[Arrival]) {
    let options = EngineOptions { prefix_cache, end_tokens: Some(end_tokens.clone()), ..EngineOptions::default() };
    check_engine(toy::engine(limits, &options), &end_tokens, arrivals);
}

/// Checks everything that the engine says. Returns it as it is then.
pub fn check_engine(mut engine: Engine, end_tokens: &[u32], arrivals: &[Arrival]) -> Engine {
    let mut watch = Watch::default();
    let mut submitted = Vec::new();
    for arrival in arrivals {
        for _ in 0..arrival.pause {
            watch.step(&mut engine);
        }
        let id = engine.submit(arrival.request.clone()).unwrap();
        watch.cancels.extend(arrival.cancel.map(|after| (watch.steps + after, id)));
        submitted.push((id, arrival));
    }
    while !engine.is_idle() {
        watch.step(&mut engine);
    }
    assert_eq!(engine.stats().blocks_used, 0, "blocks leaked");
    for (id, arrival) in submitted {
        let want = expected(&arrival.request, end_tokens);
        let got = watch.completion(id);
        if matches!(got.finish, Finish::Cancelled) {
            assert!(arrival.cancel.is_some() && want.tokens.starts_with(&got.tokens));
            assert!(want.prompt.starts_with(&got.prompt) && want.scores.starts_with(&got.scores));
        } else {
            assert_eq!(Expected::from(got), want, "sequence {id}");
        }
    }
    engine
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_sequence_gets_what_it_would_get_alone(
        limits in sizes(),
        prefix_cache in any::<bool>(),
        end_tokens in prop::collection::vec(0u32..97, 0..3),
        arrivals in prop::collection::vec(arrival(), 1..24),
    ) {
        check(limits, prefix_cache, end_tokens, &arrivals);
    }

    #[test]
    fn a_storm_of_cancels_gives_every_block_back(
        limits in sizes(),
        arrivals in prop::collection::vec((request(), 0usize..12), 1..40),
    ) {
        let arrivals: Vec<_> = arrivals
            .into_iter()
            .map(|(request, cancel)| Arrival { pause: cancel % 3, request, cancel: Some(cancel) })
            .collect();
        check(limits, true, vec![], &arrivals);
    }
}

fn greedy(prompt: Vec<u32>, max_tokens: usize) -> Request {
    Request { max_tokens: Some(max_tokens), ..Request::new(prompt) }
}

/// Submits everything at once and checks everything. Returns how many tokens of each prompt the cache held.
fn crowd(engine: &mut Engine, requests: &[Request]) -> Vec<usize> {
    let ids: Vec<_> = requests.iter().map(|request| engine.submit(request.clone()).unwrap()).collect();
    let mut watch = Watch::default();
    while !engine.is_idle() {
        watch.step(engine);
    }
    let told = ids.into_iter().zip(requests).map(|(id, request)| {
        let completion = watch.completion(id);
        let cached = completion.cached_tokens;
        assert_eq!(Expected::from(completion), expected(request, &[]), "sequence {id}");
        cached
    });
    told.collect()
}

#[test]
fn a_quarter_of_the_blocks_needed_is_enough() {
    let requests: Vec<_> = (0..12).map(|i| greedy(toy::prompt(100 + i, 20), 100)).collect();
    // Each grows to 8 blocks; twelve of them want 96.
    let mut engine = toy::engine(toy::limits(64, 12, 12, 24), &EngineOptions::default());
    // What a sequence finds again of its own is not what it was spared.
    assert_eq!(crowd(&mut engine, &requests), [0; 12]);
    let stats = engine.stats();
    assert!(stats.preemptions > 0 && stats.cached_tokens > 0, "{stats:?}");
    assert_eq!((stats.blocks_used, stats.running, stats.waiting), (0, 0, 0));
}

#[test]
fn sixty_four_sequences_keep_their_canaries_to_themselves() {
    // All share a system prompt; each then holds a token that no other has, and answers depend on it.
    let system = toy::prompt(7, 40);
    let requests: Vec<_> = (0..64u32)
        .map(|canary| {
            let mut prompt = system.clone();
            prompt.extend([canary; 5]);
            prompt.extend(toy::prompt(u64::from(canary), canary as usize % 20));
            greedy(prompt, 30)
        })
        .collect();
    for blocks in [16, 64, 400] {
        let mut engine = toy::engine(toy::limits(100, 64, 64, blocks), &EngineOptions::default());
        crowd(&mut engine, &requests);
        let again = engine.stats().cached_tokens;
        crowd(&mut engine, &requests);
        assert!(engine.stats().cached_tokens > again, "the second round found nothing");
    }
}

#[test]
fn a_prefix_is_computed_once_and_the_last_token_always() {
    let (model, knobs) = toy::Toy::new(toy::limits(512, 4, 4, 64));
    let mut engine = Engine::new(model, None, &EngineOptions::default()).unwrap();
    let request = greedy(toy::prompt(3, 64), 1);
    assert_eq!(crowd(&mut engine, std::slice::from_ref(&request)), [0]);
    assert_eq!(std::mem::take(&mut knobs.lock().unwrap().rows), 64);
    // The prompt fills four blocks exactly; the last one is computed again for its logits.
    assert_eq!(crowd(&mut engine, std::slice::from_ref(&request)), [48]);
    assert_eq!(std::mem::take(&mut knobs.lock().unwrap().rows), 16);
    assert_eq!(engine.stats().cached_tokens, 48);
    // A conversation that goes on finds what was generated too.
    let turn = engine.complete(greedy(toy::prompt(3, 64), 40)).unwrap();
    let mut longer = request.prompt.clone();
    longer.extend(turn.tokens);
    longer.extend([1, 2, 3]);
    knobs.lock().unwrap().rows = 0;
    crowd(&mut engine, &[greedy(longer, 1)]);
    // 103 of 107 tokens had their KV, 96 of them in full blocks.
    assert_eq!(knobs.lock().unwrap().rows, 11);
}

#[test]
fn scoring_a_prompt_passes_the_cache_by() {
    let mut engine = toy::engine(toy::limits(64, 4, 4, 64), &EngineOptions::default());
    let request = greedy(toy::prompt(5, 80), 2);
    crowd(&mut engine, std::slice::from_ref(&request));
    crowd(&mut engine, &[Request { prompt_logprobs: true, max_tokens: Some(0), ..request.clone() }]);
    crowd(&mut engine, &[Request { prompt_logprobs: true, ..request }]);
}

#[test]
fn decoding_goes_on_beside_a_long_prompt() {
    let mut engine = toy::engine(toy::limits(16, 2, 2, 64), &EngineOptions::default());
    let short = engine.submit(greedy(vec![1, 2], 40)).unwrap();
    engine.step().unwrap().count();
    let long = engine.submit(greedy(toy::prompt(1, 150), 1)).unwrap();
    for _ in 0..9 {
        let ids: Vec<_> = engine.step().unwrap().map(|event| event.id).collect();
        assert_eq!(ids, [short], "the prompt takes fifteen of sixteen rows, the other sequence its one");
    }
    let ids: Vec<_> = engine.step().unwrap().map(|event| event.id).collect();
    assert_eq!(ids, [short, long]);
}

#[test]
fn first_come_first_served() {
    let mut engine = toy::engine(toy::limits(8, 1, 1, 16), &EngineOptions::default());
    let ids: Vec<_> = (0..5).map(|i| engine.submit(greedy(toy::prompt(i, 20), 3)).unwrap()).collect();
    let mut ended = Vec::new();
    engine.run(|event| ended.extend(event.finish.map(|_| event.id))).unwrap();
    assert_eq!(ended, ids);
}

/// Who loses its blocks in mid-prompt has scored some of it; the chunk that goes on may begin before that.
#[test]
fn who_is_preempted_in_mid_prompt_scores_the_rest() {
    let shared = [7, 54, 55, 9, 1, 37, 32, 85, 1, 79, 16, 27, 96, 39, 47, 16, 84, 72, 86, 20, 44, 94, 47, 41, 61, 79];
    let rest = [68, 91, 65, 16, 34, 16, 40, 32, 0];
    let scored = [
        2, 22, 34, 80, 58, 33, 34, 47, 86, 88, 85, 51, 15, 67, 81, 10, 65, 71, 10, 45, 5, 81, 71, 44, 77, 61, 9, 31,
        64, 44, 19, 30, 42, 96, 44, 92, 62, 20, 19, 26, 66, 13, 16, 6, 37, 25, 17, 80,
    ];
    let arrival = |prompt: &[u32], max_tokens, prompt_logprobs| Arrival {
        pause: 0,
        request: Request { max_tokens: Some(max_tokens), prompt_logprobs, ..Request::new(prompt) },
        cancel: None,
    };
    let arrivals = [
        arrival(&[2], 23, true),
        arrival(&[&shared[..], &rest[..6]].concat(), 22, false),
        arrival(&shared[..3], 47, true),
        arrival(&[&shared[..], &rest[..]].concat(), 17, true),
        arrival(&scored, 0, true),
    ];
    check(toy::limits(6, 3, 5, 10), true, Vec::new(), &arrivals);
}

#[test]
fn who_is_preempted_keeps_its_place() {
    let mut engine = toy::engine(toy::limits(64, 4, 4, 10), &EngineOptions::default());
    let ids: Vec<_> = (0..8).map(|i| engine.submit(greedy(toy::prompt(i, 20), 60)).unwrap()).collect();
    let mut ended = Vec::new();
    engine.run(|event| ended.extend(event.finish.map(|_| event.id))).unwrap();
    assert!(engine.stats().preemptions > 0);
    assert_eq!(ended, ids);
}

#[test]
fn cancelling_in_mid_prompt_frees_blocks_at_once() {
    let mut engine = toy::engine(toy::limits(32, 4, 4, 16), &EngineOptions::default());
    let id = engine.submit(greedy(toy::prompt(1, 120), 4)).unwrap();
    let queued = engine.submit(greedy(toy::prompt(2, 120), 4)).unwrap();
    assert_eq!(engine.step().unwrap().count(), 0);
    assert_eq!(engine.stats().blocks_used, 2);
    assert!(engine.cancel(queued) && engine.cancel(id));
    assert_eq!(engine.stats().blocks_used, 0);
    assert!(!engine.cancel(id), "a second time there is nothing to cancel");
    assert!(!engine.is_idle(), "two reports are due");
    let ended: Vec<_> = engine.step().unwrap().map(|event| (event.id, format!("{:?}", event.finish))).collect();
    assert_eq!(ended, [(queued, "Some(Cancelled)".into()), (id, "Some(Cancelled)".into())]);
    assert!(engine.is_idle());
}
