//! Drafts change nothing that a sequence is told, be they right, wrong or nonsense; they only save steps.

use std::sync::Arc;

use llama_core::Error;
use llama_core::backend::Limits;
use llama_core::engine::draft::{Draft, DraftModel, Drafter, Lookup};
use llama_core::engine::{Constraint, Engine, EngineOptions, Finish, Grammar, Request, SequenceId};
use llama_core::sample::{Allowed, Sampler, Sampling};
use proptest::prelude::*;

use super::schedule::{Arrival, arrival, check_engine, sizes};
use super::toy::{self, Expected, Toy, expected};

const VOCAB: u32 = toy::VOCAB as u32;

/// Knows what comes, and lies about every `lies`-th token; 0: never.
struct Oracle {
    lies: usize,
    asked: usize,
    /// Sequences that have ended.
    forgotten: Vec<SequenceId>,
}

impl Oracle {
    fn new(lies: usize) -> Self {
        Oracle { lies, asked: 0, forgotten: Vec::new() }
    }
}

impl Drafter for Oracle {
    fn draft(&mut self, drafts: &mut [Draft<'_>]) -> llama_core::Result<()> {
        let mut sampler = Sampler::new(VOCAB as usize);
        for draft in drafts {
            assert!(!self.forgotten.contains(&draft.id), "sequence {} has ended", draft.id);
            while draft.room() > 0 {
                let draw = draft.draw(0);
                let token = sampler.pick(&toy::logits(draft.tokens()), draw.sampling, draw.history, draw.position);
                self.asked += 1;
                let lie = self.lies > 0 && self.asked.is_multiple_of(self.lies);
                assert!(draft.push((token.unwrap() + u32::from(lie)) % VOCAB));
            }
            assert!(!draft.push(0), "there is no room");
        }
        Ok(())
    }

    fn forget(&mut self, id: SequenceId) {
        self.forgotten.push(id);
    }
}

#[derive(Debug, Clone, Copy)]
enum Who {
    Lookup,
    Oracle {
        lies: usize,
    },
    /// With so many rows a step and so many blocks.
    Model {
        tokens: usize,
        blocks: usize,
    },
}

fn who() -> impl Strategy<Value = Who> {
    prop_oneof![
        Just(Who::Lookup),
        (0usize..5).prop_map(|lies| Who::Oracle { lies }),
        (1usize..40, 1usize..40).prop_map(|(tokens, blocks)| Who::Model { tokens, blocks }),
    ]
}

fn engine(limits: Limits, options: &EngineOptions, who: Who) -> Engine {
    let engine = toy::engine(limits, options);
    let drafting = match who {
        Who::Lookup => engine.with_drafter(Lookup),
        Who::Oracle { lies } => engine.with_drafter(Oracle::new(lies)),
        Who::Model { tokens, blocks } => {
            let limits = toy::limits(tokens, limits.sequences, limits.sequences, blocks);
            engine.with_drafter(DraftModel::new(Toy::new(limits).0).unwrap())
        }
    };
    drafting.unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_sequence_gets_what_it_would_get_without_drafts(
        limits in sizes(),
        prefix_cache in any::<bool>(),
        drafts in 1usize..20,
        who in who(),
        end_tokens in prop::collection::vec(0u32..VOCAB, 0..3),
        arrivals in prop::collection::vec(arrival(), 1..16),
    ) {
        let (chosen, none) = (Some(end_tokens.clone()), EngineOptions::default());
        let options = EngineOptions { prefix_cache, drafts, end_tokens: chosen, ..none };
        let stats = check_engine(engine(limits, &options, who), &end_tokens, &arrivals).stats();
        prop_assert!(stats.accepted <= stats.drafted);
        if matches!(who, Who::Model { .. } | Who::Oracle { lies: 0 }) && end_tokens.is_empty() {
            prop_assert!(arrivals.iter().any(Arrival::surprises) || stats.accepted == stats.drafted, "{stats:?}");
        }
    }
}

fn limits() -> Limits {
    toy::limits(64, 4, 32, 64)
}

fn options(drafts: usize) -> EngineOptions {
    EngineOptions { drafts, ..EngineOptions::default() }
}

fn sampled(seed: u64, max_tokens: usize) -> Request {
    let sampling = Sampling { temperature: 1.0, seed, logprobs: None, ..Sampling::greedy() };
    Request { max_tokens: Some(max_tokens), sampling, ..Request::new(toy::prompt(seed, 20)) }
}

#[test]
fn right_drafts_save_their_steps() {
    let steps = |drafts, who| {
        let mut engine = engine(limits(), &options(drafts), who);
        let request = sampled(1, 100);
        let want = expected(&request, &[]);
        assert_eq!(Expected::from(engine.complete(request).unwrap()), want);
        (engine.stats().steps, engine.stats().accepted)
    };
    assert_eq!(steps(0, Who::Oracle { lies: 0 }), (100, 0));
    for who in [Who::Oracle { lies: 0 }, Who::Model { tokens: 64, blocks: 64 }] {
        let (steps, accepted) = steps(7, who);
        assert_eq!(steps + accepted, 100, "every token takes a step or is a draft");
        // Eight tokens a step, and a few shorter steps where a block ends.
        assert!(steps < 100 / 5, "{steps} steps");
    }
}

/// Any token, but every third must be below ten: what nobody who drafts knows.
#[derive(Debug)]
struct Thirds(usize);

impl Grammar for Thirds {
    fn begin(&self) -> llama_core::Result<Box<dyn Constraint>> {
        Ok(Box::new(Thirds(0)))
    }
}

impl Constraint for Thirds {
    fn allow(&mut self, allowed: &mut Allowed) -> llama_core::Result<()> {
        let below = if self.0 % 3 == 2 { 10 } else { VOCAB };
        (0..below).for_each(|token| allowed.allow(token));
        Ok(())
    }

    fn advance(&mut self, _token: u32) -> llama_core::Result<()> {
        self.0 += 1;
        Ok(())
    }
}

#[test]
fn a_model_forgets_what_it_guessed_wrong() {
    let stats = |who| {
        let mut engine = engine(limits(), &options(3), who);
        let request = Request { grammar: Some(Arc::new(Thirds(0))), ..sampled(8, 120) };
        let want = expected(&request, &[]);
        assert_eq!(Expected::from(engine.complete(request).unwrap()), want);
        (engine.stats().drafted, engine.stats().accepted)
    };
    let (drafted, accepted) = stats(Who::Oracle { lies: 0 });
    assert!(accepted > 20 && drafted > accepted + 20, "{accepted} of {drafted} accepted");
    assert_eq!(stats(Who::Model { tokens: 64, blocks: 64 }), (drafted, accepted));
}

#[test]
fn a_text_that_goes_round_in_circles_is_looked_up() {
    let mut biased = sampled(3, 60);
    biased.sampling = Sampling { logit_bias: vec![(5, 100.0)], ..Sampling::greedy() };
    let mut engine = engine(limits(), &options(4), Who::Lookup);
    let completion = engine.complete(biased).unwrap();
    assert_eq!(completion.tokens, vec![5; 60]);
    let stats = engine.stats();
    assert!(stats.steps < 30 && stats.accepted > 30, "{stats:?}");
}

#[test]
fn a_token_that_ends_a_sequence_ends_it_among_drafts() {
    let request = sampled(4, 50);
    let tokens = expected(&request, &[]).tokens;
    for at in 0..12 {
        let first = tokens.iter().position(|&token| token == tokens[at]).unwrap();
        let mut engine = engine(limits(), &options(9), Who::Oracle { lies: 0 });
        let completion = engine.complete(Request { stop_tokens: vec![tokens[at]], ..request.clone() }).unwrap();
        assert_eq!(completion.tokens, tokens[..=first]);
        assert!(matches!(completion.finish, Finish::StopToken(token) if token == tokens[at]));
        assert_eq!(engine.stats().blocks_used, 0);
    }
}

#[test]
fn drafts_are_shared_out_and_make_nobody_wait() {
    let mut engine = engine(limits(), &options(6), Who::Oracle { lies: 0 });
    for seed in 0..4 {
        engine.submit(sampled(seed, 40)).unwrap();
    }
    while engine.stats().running < 4 {
        engine.step().unwrap();
    }
    let ids: Vec<_> = engine.step().unwrap().map(|event| event.id).collect();
    for seed in 1..=4 {
        let told = ids.iter().filter(|id| id.number() == seed).count();
        assert!((1..=3).contains(&told), "sequence {seed} was told {told} tokens of {ids:?}");
    }
    assert!(ids.len() > 4, "no draft was accepted: {ids:?}");
    engine.run(|_| ()).unwrap();
}

/// Says that it cannot.
struct Broken;

impl Drafter for Broken {
    fn draft(&mut self, drafts: &mut [Draft<'_>]) -> llama_core::Result<()> {
        drafts[0].push(1);
        Err(Error::parameter("drafter", "broken", "must work"))
    }
}

#[test]
fn a_drafter_s_error_ends_the_step_and_harms_nobody() {
    let mut engine = toy::engine(limits(), &options(3)).with_drafter(Broken).unwrap();
    let request = sampled(5, 10);
    let id = engine.submit(request.clone()).unwrap();
    let first: Vec<_> = engine.step().unwrap().collect();
    assert_eq!(first[0].token, Some(expected(&request, &[]).tokens[0]));
    for _ in 0..3 {
        assert!(matches!(engine.step(), Err(Error::Parameter { name: "drafter", .. })));
    }
    let mut engine = engine.with_drafter(Oracle::new(2)).unwrap();
    let mut tokens = vec![first[0].token.unwrap()];
    engine.run(|event| tokens.extend(event.token.filter(|_| event.id == id))).unwrap();
    assert_eq!(tokens, expected(&request, &[]).tokens);
}

#[test]
fn a_model_that_knows_other_tokens_is_no_drafter() {
    struct Other;
    impl Drafter for Other {
        fn draft(&mut self, _drafts: &mut [Draft<'_>]) -> llama_core::Result<()> {
            Ok(())
        }
        fn vocab(&self) -> Option<usize> {
            Some(96)
        }
    }
    let error = toy::engine(limits(), &options(3)).with_drafter(Other).err().expect("it knows a token less");
    assert!(error.to_string().contains("96") && error.to_string().contains("97"), "{error}");
}

#[test]
fn tokens_outside_the_vocabulary_are_not_taken() {
    struct Wild;
    impl Drafter for Wild {
        fn draft(&mut self, drafts: &mut [Draft<'_>]) -> llama_core::Result<()> {
            for draft in drafts {
                assert!(!draft.push(VOCAB) && !draft.push(u32::MAX));
            }
            Ok(())
        }
    }
    let mut engine = toy::engine(limits(), &options(3)).with_drafter(Wild).unwrap();
    let request = sampled(6, 10);
    let want = expected(&request, &[]);
    assert_eq!(Expected::from(engine.complete(request).unwrap()), want);
    assert_eq!(engine.stats().drafted, 0);
}

#[test]
fn a_logit_that_is_not_finite_behind_a_wrong_draft_harms_nobody() {
    let (model, knobs) = Toy::new(limits());
    let request = sampled(7, 30);
    let want = expected(&request, &[]);
    let poison = (0..VOCAB).find(|token| !request.prompt.contains(token) && !want.tokens.contains(token)).unwrap();
    knobs.lock().unwrap().poison = Some(poison);
    struct Poisoner(u32);
    impl Drafter for Poisoner {
        fn draft(&mut self, drafts: &mut [Draft<'_>]) -> llama_core::Result<()> {
            drafts.iter_mut().for_each(|draft| assert!(draft.push(self.0)));
            Ok(())
        }
    }
    let mut engine = Engine::new(model, None, &options(2)).unwrap().with_drafter(Poisoner(poison)).unwrap();
    assert_eq!(Expected::from(engine.complete(request).unwrap()), want);
    assert!(engine.stats().drafted > 0 && engine.stats().accepted == 0);
}
