//! Nothing ends a text before it has `min_tokens` tokens, however likely its end is, but a grammar that allows nothing else.
//! Company, preemption and drafts: `schedule.rs` and `drafts.rs` ask for it, too. Stop strings: `text.rs`.

use std::sync::Arc;

use llama_core::Result;
use llama_core::engine::{Constraint, Engine, EngineOptions, Finish, Grammar, Request};
use llama_core::sample::{Allowed, Sampling};

use super::toy::{self, Expected, expected};

const END: u32 = 35;
const STOP: u32 = 36;

fn engine(drafts: usize) -> Engine {
    let options = EngineOptions { end_tokens: Some(vec![END]), drafts, ..EngineOptions::default() };
    toy::engine(toy::limits(64, 4, 32, 64), &options)
}

/// Would say nothing but its ends.
fn eager(min_tokens: usize) -> Request {
    let logit_bias = vec![(END, 100.0), (STOP, 90.0)];
    let sampling = Sampling { temperature: 1.0, seed: 3, logit_bias, ..Sampling::greedy() };
    let stop_tokens = vec![STOP, STOP];
    Request { max_tokens: Some(20), min_tokens, sampling, stop_tokens, ..Request::new(toy::prompt(1, 12)) }
}

#[test]
fn an_end_comes_as_soon_as_it_may() {
    for min_tokens in [0, 1, 7, 19] {
        for drafts in [0, 4] {
            for logprobs in [None, Some(2)] {
                let mut request = eager(min_tokens);
                request.sampling.logprobs = logprobs;
                let want = expected(&request, &[END]);
                let got = engine(drafts).complete(request).unwrap();
                assert_eq!(got.tokens.len(), min_tokens + 1);
                assert_eq!(got.tokens.iter().position(|token| [END, STOP].contains(token)), Some(min_tokens));
                assert!(matches!(got.finish, Finish::End(END)));
                assert_eq!(Expected::from(got), want);
            }
        }
    }
    let got = engine(0).complete(eager(20)).unwrap();
    assert_eq!(got.tokens.len(), 20);
    assert!(matches!(got.finish, Finish::Length));
}

#[test]
fn end_tokens_that_are_ignored_may_come_at_any_time() {
    let got = engine(0).complete(Request { ignore_end: true, ..eager(10) }).unwrap();
    assert_eq!(got.tokens, [END; 20]);
}

/// So many tokens below 20, with or without an end in their place, and then the end.
#[derive(Debug, Clone)]
struct Then {
    left: usize,
    may_end: bool,
}

impl Grammar for Then {
    fn begin(&self) -> Result<Box<dyn Constraint>> {
        Ok(Box::new(self.clone()))
    }
}

impl Constraint for Then {
    fn allow(&mut self, allowed: &mut Allowed) -> Result<()> {
        if self.may_end || self.left == 0 {
            allowed.allow(END);
        }
        (0..20).filter(|_| self.left > 0).for_each(|token| allowed.allow(token));
        Ok(())
    }

    fn advance(&mut self, _token: u32) -> Result<()> {
        self.left = self.left.saturating_sub(1);
        Ok(())
    }
}

#[test]
fn a_grammar_goes_on_where_it_may_and_ends_where_it_must() {
    for (left, min_tokens, count) in [(9, 4, 5), (3, 10, 4), (0, 5, 1), (9, 0, 1)] {
        let grammar: Option<Arc<dyn Grammar>> = Some(Arc::new(Then { left, may_end: true }));
        let request = Request { grammar, ..eager(min_tokens) };
        let want = expected(&request, &[END]);
        for drafts in [0, 4] {
            let got = engine(drafts).complete(request.clone()).unwrap();
            assert_eq!(got.tokens.len(), count, "{left} tokens allowed, at least {min_tokens} wanted");
            assert!(matches!(got.finish, Finish::End(END)));
            assert_eq!(Expected::from(got), want);
        }
    }
}

#[test]
fn where_only_ends_are_left_the_error_says_that_they_are_put_off() {
    let forbidden = (0..toy::VOCAB as u32).filter(|&token| token != END).map(|token| (token, f32::NEG_INFINITY));
    let mut request = eager(2);
    request.sampling.logit_bias = forbidden.collect();
    let mut engine = engine(0);
    let error = engine.complete(request.clone()).unwrap_err().to_string();
    assert!(error.contains("logit_bias") && error.contains("min_tokens"), "{error}");
    request.grammar = Some(Arc::new(Then { left: 3, may_end: true }));
    let error = engine.complete(request.clone()).unwrap_err().to_string();
    assert!(error.contains("grammar") && error.contains("min_tokens"), "{error}");
    assert_eq!(engine.complete(Request { min_tokens: 0, ..request }).unwrap().tokens, [END]);
    assert_eq!(engine.stats().blocks_used, 0);
}
