//! DRY, "don't repeat yourself": a penalty on tokens that would continue a repetition of the text's end, the greater the longer
//! that has gone on. By p-e-w for text-generation-webui (its pull request 5677); found in linear time as koboldcpp and llama.cpp do.

use super::adjust::Tally;
use super::{History, Sampling};

/// Subtracts the penalties. `tally` is all zeros, one for each token, and is left so; `matches` is scratch.
pub(super) fn penalise(
    logits: &mut [f32],
    sampling: &Sampling,
    history: History<'_>,
    tally: &mut [Tally],
    matches: &mut Vec<u32>,
) {
    if !sampling.is_dry() {
        return;
    }
    let tokens = history.last(sampling.dry_window);
    let breaks = |token: &u32| sampling.dry_breakers.binary_search(token).is_ok();
    // A match reaches back to the last breaker at most.
    let most = tokens.iter().rev().position(breaks).unwrap_or(tokens.len());
    if most < sampling.dry_allowed_length {
        return;
    }
    each_match(tokens, most, matches, |next, length| {
        if length as usize >= sampling.dry_allowed_length {
            let tally = &mut tally[next as usize];
            *tally = Tally { seen: true, number: tally.number.max(length) };
        }
    });
    for &token in tokens {
        let Tally { seen, number } = std::mem::take(&mut tally[token as usize]);
        if seen && !breaks(&token) {
            let logit = &mut logits[token as usize];
            *logit = penalised(*logit, sampling, number as usize);
        }
    }
}

/// Calls `each` for every token but the first with how many of the tokens before it are those at the end, at most `most`.
///
/// Read backwards, that is how far the text agrees with its own beginning from each of its places on: the Z function (Gusfield,
/// "Algorithms on strings, trees and sequences", 1997, 1.4). Where a place lies in a stretch known to repeat the beginning, what
/// was found there holds here, and only tokens beyond the stretch are compared. So each is compared once.
fn each_match(tokens: &[u32], most: usize, matches: &mut Vec<u32>, mut each: impl FnMut(u32, u32)) {
    let back = |i: usize| tokens[tokens.len() - 1 - i];
    // The stretch that ends last.
    let (mut start, mut end) = (0, 0);
    matches.clear();
    matches.push(0);
    for at in 1..tokens.len() {
        let mut length = if at < end { (matches[at - start] as usize).min(end - at) } else { 0 };
        if at + length >= end {
            while length < most && at + length < tokens.len() && back(length) == back(at + length) {
                length += 1;
            }
            (start, end) = (at, at + length);
        }
        matches.push(length as u32);
        each(back(at - 1), length as u32);
    }
}

/// What is forbidden stays so, and nothing becomes forbidden: another stage may leave no other token.
fn penalised(logit: f32, sampling: &Sampling, length: usize) -> f32 {
    let power = power(f64::from(sampling.dry_base), length - sampling.dry_allowed_length);
    let penalty = (f64::from(sampling.dry_multiplier) * power).min(f64::from(f32::MAX)) as f32;
    if logit == f32::NEG_INFINITY { logit } else { (logit - penalty).max(f32::MIN) }
}

/// `base ^ exponent` for a base of at least 1, at most the largest `f32`: by squaring, so from multiplications alone.
fn power(base: f64, mut exponent: usize) -> f64 {
    const MOST: f64 = f32::MAX as f64;
    let (mut power, mut square) = (1.0, base);
    while exponent > 0 {
        if exponent % 2 == 1 {
            power = f64::min(power * square, MOST);
        }
        square = f64::min(square * square, MOST);
        exponent /= 2;
    }
    power
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    fn dry(dry_base: f32, dry_allowed_length: usize, breakers: &[u32]) -> Sampling {
        let dry_breakers = Arc::from(breakers);
        Sampling { dry_multiplier: 1.0, dry_base, dry_allowed_length, dry_breakers, ..Sampling::greedy() }
    }

    /// What is left of logits of zero.
    fn penalties(vocab: usize, sampling: &Sampling, tokens: &[u32]) -> Vec<f32> {
        sampling.validate(vocab).expect("valid");
        let (mut logits, mut tally) = (vec![0.0; vocab], vec![Tally::default(); vocab]);
        let history = History { tokens, prompt: tokens.len() / 2 };
        penalise(&mut logits, sampling, history, &mut tally, &mut Vec::new());
        assert!(tally.iter().all(|t| !t.seen && t.number == 0), "the tally must be left clean");
        logits.iter().map(|logit| 0.0 - logit).collect()
    }

    /// The definition: for each token of the window how many of those before it are at the end, one by one.
    fn naive(vocab: usize, sampling: &Sampling, tokens: &[u32]) -> Vec<f32> {
        let tokens = &tokens[tokens.len().saturating_sub(sampling.dry_window)..];
        let breaks = |token: u32| sampling.dry_breakers.contains(&token);
        let mut longest = vec![None; vocab];
        for next in 1..tokens.len() {
            let pairs = tokens[..next].iter().rev().zip(tokens.iter().rev());
            let length = pairs.take_while(|&(&a, &b)| a == b && !breaks(b)).count();
            if length >= sampling.dry_allowed_length && !breaks(tokens[next]) {
                let longest = &mut longest[tokens[next] as usize];
                *longest = (*longest).max(Some(length));
            }
        }
        let penalty = |length: usize| {
            let power = f64::from(sampling.dry_base).powi((length - sampling.dry_allowed_length) as i32);
            (f64::from(sampling.dry_multiplier) * power).min(f64::from(f32::MAX)) as f32
        };
        longest.into_iter().map(|length| length.map_or(0.0, penalty)).collect()
    }

    #[test]
    fn what_would_continue_the_end_is_penalised() {
        let sampling = dry(3.0, 2, &[]);
        // "1 2 3" was followed by 4, "2 3" by 5, "3" by 6: too short.
        let text = [1, 2, 3, 4, 0, 2, 3, 5, 3, 6, 1, 2, 3];
        assert_eq!(penalties(8, &sampling, &text), [0.0, 0.0, 0.0, 0.0, 3.0, 1.0, 0.0, 0.0]);
        let longer = Sampling { dry_allowed_length: 3, dry_multiplier: 0.5, ..sampling.clone() };
        assert_eq!(penalties(8, &longer, &text), [0.0, 0.0, 0.0, 0.0, 0.5, 0.0, 0.0, 0.0]);
        let shorter = Sampling { dry_allowed_length: 1, ..sampling.clone() };
        assert_eq!(penalties(8, &shorter, &text), [0.0, 0.0, 0.0, 0.0, 9.0, 3.0, 1.0, 0.0]);
        // The longest of the matches that a token would continue counts; what overlaps counts, too.
        assert_eq!(penalties(3, &sampling, &[2, 1, 1, 1, 1, 1]), [0.0, 9.0, 0.0]);
        assert_eq!(penalties(3, &sampling, &[]), [0.0; 3]);
        assert_eq!(penalties(3, &sampling, &[1]), [0.0; 3]);
    }

    #[test]
    fn the_window_forgets_older_tokens() {
        let sampling = dry(3.0, 2, &[]);
        let text = [1, 2, 3, 4, 0, 1, 2, 3];
        for (dry_window, penalty) in [(0, 0.0), (1, 0.0), (6, 0.0), (7, 1.0), (8, 3.0), (usize::MAX, 3.0)] {
            let sampling = Sampling { dry_window, ..sampling.clone() };
            assert_eq!(penalties(5, &sampling, &text), [0.0, 0.0, 0.0, 0.0, penalty], "{dry_window}");
        }
    }

    #[test]
    fn no_match_goes_across_a_breaker() {
        let text = [1, 2, 3, 4, 0, 1, 2, 3];
        for (breakers, penalty) in [(&[][..], 3.0), (&[1], 1.0), (&[2], 0.0), (&[3], 0.0), (&[4], 0.0), (&[0], 3.0)] {
            assert_eq!(penalties(5, &dry(3.0, 2, breakers), &text)[4], penalty, "{breakers:?}");
        }
    }

    /// The cases of llama.cpp's tests/test-sampling.cpp, as penalties in place of probabilities.
    #[test]
    fn as_llama_cpp_has_it() {
        assert_eq!(penalties(4, &dry(1.1, 2, &[]), &[0, 1]), [0.0; 4]);
        assert_eq!(penalties(4, &dry(1.1, 2, &[]), &[0, 1, 2, 0, 1]), [0.0, 0.0, 1.0, 0.0]);
        assert_eq!(penalties(5, &dry(1.1, 2, &[3]), &[0, 1, 3, 4, 0, 1]), [0.0; 5]);
        let double = Sampling { dry_multiplier: 2.0, ..dry(1.1, 2, &[]) };
        assert_eq!(penalties(5, &double, &[0, 1, 2, 0, 1]), [0.0, 0.0, 2.0, 0.0, 0.0]);
        assert_eq!(penalties(5, &dry(1.1, 4, &[]), &[0, 1, 2, 3, 4, 0, 1]), [0.0; 5]);
    }

    #[test]
    fn nothing_overflows_and_what_is_forbidden_stays_forbidden() {
        let sampling = Sampling { dry_multiplier: f32::MAX, ..dry(f32::MAX, 0, &[]) };
        let (text, mut tally) = ([1; 3000], [Tally::default(); 2]);
        for (logit, expected) in [(0.0, f32::MIN), (f32::MIN, f32::MIN), (f32::NEG_INFINITY, f32::NEG_INFINITY)] {
            let mut logits = [0.0, logit];
            penalise(&mut logits, &sampling, History { tokens: &text, prompt: 0 }, &mut tally, &mut Vec::new());
            assert_eq!(logits, [0.0, expected]);
        }
        assert_eq!(power(1.0, usize::MAX), 1.0);
        assert_eq!(power(1.0 + f64::EPSILON, 1 << 40).to_bits(), 1.000_244_170_427_926_3f64.to_bits());
        assert_eq!(power(1.75, 3), 1.75 * 1.75 * 1.75);
    }

    /// A text that is one long repetition, or many, takes no longer than another: the whole test would take minutes.
    #[test]
    fn long_repetitions_take_linear_time() {
        let sampling = dry(1.0, 2, &[]);
        for period in [1, 2, 1000, 50_000] {
            let text: Vec<u32> = (0..300_000).map(|i| i % period).collect();
            let got = penalties(50_000, &sampling, &text);
            assert_eq!(got.iter().sum::<f32>(), 1.0, "{period}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

        #[test]
        fn as_by_looking_everywhere(
            tokens in prop_oneof![
                prop::collection::vec(0u32..2, 0..40),
                prop::collection::vec(0u32..5, 0..120),
                // The same again and again, and a little of it once more.
                (prop::collection::vec(0u32..5, 1..12), 1usize..6, 0usize..12).prop_map(|(part, times, more)| {
                    part.repeat(times).iter().chain(part.iter().take(more)).copied().collect()
                }),
            ],
            breakers in prop::collection::btree_set(0u32..6, 0..3),
            (dry_base, dry_allowed_length, dry_window) in (1.0f32..2.0, 0usize..6, prop_oneof![0usize..130, Just(usize::MAX)]),
        ) {
            let breakers: Vec<u32> = breakers.into_iter().collect();
            let sampling = Sampling { dry_window, ..dry(dry_base, dry_allowed_length, &breakers) };
            let (got, expected) = (penalties(6, &sampling, &tokens), naive(6, &sampling, &tokens));
            for (got, expected) in got.iter().zip(&expected) {
                // The library's power multiplies in an order of its own.
                prop_assert!((got - expected).abs() <= expected * 1e-6, "{got} instead of {expected}: {tokens:?} {sampling:?}");
            }
        }
    }
}
