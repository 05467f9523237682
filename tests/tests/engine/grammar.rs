//! What a grammar allows is what a sequence says, whatever its company; what goes wrong in one harms its own sequence.

use std::sync::Arc;

use llama_core::engine::{Constraint, Engine, EngineOptions, Finish, Grammar, Request};
use llama_core::sample::{Allowed, Sampling};
use llama_core::{Error, Result};
use proptest::prelude::*;

use super::toy::{self, Expected, expected};

const VOCAB: u32 = toy::VOCAB as u32;

/// The classes that tokens must be of, one after the other and from the first again; a token's is its remainder by seven.
#[derive(Debug, Clone)]
pub struct Classes(pub Vec<u32>);

impl Classes {
    pub fn strategy() -> impl Strategy<Value = Classes> {
        prop::collection::vec(0u32..7, 1..5).prop_map(Classes)
    }
}

impl Grammar for Classes {
    fn begin(&self) -> Result<Box<dyn Constraint>> {
        Ok(Box::new(Place { classes: self.0.clone(), next: 0 }))
    }
}

struct Place {
    classes: Vec<u32>,
    next: usize,
}

impl Constraint for Place {
    fn allow(&mut self, allowed: &mut Allowed) -> Result<()> {
        assert_eq!(*allowed, Allowed::none(toy::VOCAB), "something is allowed already");
        let class = self.classes[self.next % self.classes.len()];
        (0..VOCAB).filter(|token| token % 7 == class).for_each(|token| allowed.allow(token));
        Ok(())
    }

    fn advance(&mut self, token: u32) -> Result<()> {
        assert_eq!(token % 7, self.classes[self.next % self.classes.len()], "token {token} was not allowed");
        self.next += 1;
        Ok(())
    }
}

fn engine(drafts: usize) -> Engine {
    toy::engine(toy::limits(64, 4, 32, 64), &EngineOptions { drafts, ..EngineOptions::default() })
}

fn request(seed: u64, grammar: impl Grammar + 'static) -> Request {
    let sampling = Sampling { temperature: 1.0, seed, ..Sampling::greedy() };
    let grammar: Option<Arc<dyn Grammar>> = Some(Arc::new(grammar));
    Request { max_tokens: Some(20), sampling, grammar, ..Request::new(toy::prompt(seed, 12)) }
}

#[test]
fn every_token_is_one_that_is_allowed() {
    let classes = [3, 0, 6];
    let got = engine(0).complete(request(1, Classes(classes.to_vec()))).unwrap();
    for (i, token) in got.tokens.iter().enumerate() {
        assert_eq!(token % 7, classes[i % 3], "token {i} of {:?}", got.tokens);
    }
    assert_eq!(got.tokens.len(), 20);
}

#[test]
fn drafts_change_nothing_within_a_grammar_either() {
    // Two tokens in turn, so that they are soon looked up.
    #[derive(Debug)]
    struct Pair;
    impl Grammar for Pair {
        fn begin(&self) -> Result<Box<dyn Constraint>> {
            Ok(Box::new(Turns(0)))
        }
    }
    struct Turns(u32);
    impl Constraint for Turns {
        fn allow(&mut self, allowed: &mut Allowed) -> Result<()> {
            allowed.allow(40 + self.0 % 2);
            Ok(())
        }
        fn advance(&mut self, token: u32) -> Result<()> {
            assert_eq!(token, 40 + self.0 % 2);
            self.0 += 1;
            Ok(())
        }
    }
    let (request, mut engine) = (request(2, Pair), engine(4));
    let want = expected(&request, &[]);
    assert_eq!(Expected::from(engine.complete(request).unwrap()), want);
    assert!(engine.stats().accepted > 5, "{:?}", engine.stats());
}

/// Goes wrong at its third token, or before.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Broken {
    Begin,
    Allow,
    Nothing,
    Advance,
}

struct Breaks(Broken, usize);

impl Grammar for Broken {
    fn begin(&self) -> Result<Box<dyn Constraint>> {
        match self {
            Broken::Begin => Err(Error::parameter("grammar", "begin", "is broken")),
            _ => Ok(Box::new(Breaks(*self, 0))),
        }
    }
}

impl Constraint for Breaks {
    fn allow(&mut self, allowed: &mut Allowed) -> Result<()> {
        let third = self.1 == 2;
        if third && self.0 == Broken::Allow {
            return Err(Error::parameter("grammar", "allow", "is broken"));
        }
        if !(third && self.0 == Broken::Nothing) {
            allowed.words_mut().fill(u32::MAX);
        }
        Ok(())
    }

    fn advance(&mut self, _token: u32) -> Result<()> {
        self.1 += 1;
        match self.1 == 3 && self.0 == Broken::Advance {
            true => Err(Error::parameter("grammar", "advance", "is broken")),
            false => Ok(()),
        }
    }
}

#[test]
fn a_grammar_that_fails_ends_its_sequence_only() {
    for (broken, told) in [(Broken::Begin, 0), (Broken::Allow, 2), (Broken::Nothing, 2), (Broken::Advance, 2)] {
        let mut engine = engine(2);
        let good = request(3, Classes(vec![1, 2]));
        let (bad, beside) = (engine.submit(request(4, broken)).unwrap(), engine.submit(good.clone()).unwrap());
        let (mut tokens, mut finish, mut others) = (0, None, Vec::new());
        engine
            .run(|event| {
                if event.id == bad {
                    tokens += usize::from(event.token.is_some());
                    finish = event.finish.or(finish.take());
                } else {
                    assert_eq!(event.id, beside);
                    others.extend(event.token);
                }
            })
            .unwrap();
        assert_eq!(tokens, told, "{broken:?}");
        let Some(Finish::Failed(error)) = finish else { panic!("{broken:?}: {finish:?}") };
        assert!(error.to_string().contains("grammar"), "{broken:?}: {error}");
        assert_eq!(others, expected(&good, &[]).tokens, "beside {broken:?}");
        assert_eq!(engine.stats().blocks_used, 0);
    }
}

#[test]
fn end_tokens_end_where_the_grammar_allows_them() {
    let options = EngineOptions { end_tokens: Some(vec![35]), ..EngineOptions::default() };
    let mut engine = toy::engine(toy::limits(64, 4, 32, 64), &options);
    // Of class 0 only the end token is wanted: 35 is 5 * 7.
    let mut wanted = request(5, Classes(vec![1, 0]));
    wanted.sampling.logit_bias = vec![(35, 100.0)];
    let got = engine.complete(wanted).unwrap();
    assert_eq!((got.tokens.len(), got.tokens[1]), (2, 35));
    assert!(matches!(got.finish, Finish::End(35)));
}
