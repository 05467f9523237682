//! What is done to logits before temperature: bias, then penalties on tokens that have occurred.

use super::{History, Sampling};

/// What is noted of a token of the window.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tally {
    pub seen: bool,
    /// For penalties, how often it was generated; for DRY, the length of the longest match that it would continue.
    pub number: u32,
}

/// Adds the biases, then applies the penalties. `tally` is all zeros, one for each token, and is left so.
pub(super) fn adjust(logits: &mut [f32], sampling: &Sampling, history: History<'_>, tally: &mut [Tally]) {
    for &(token, bias) in &sampling.logit_bias {
        logits[token as usize] += bias;
    }
    if !sampling.penalises() {
        return;
    }
    let window = history.start(sampling.penalty_window)..history.tokens.len();
    for i in window.clone() {
        let tally = &mut tally[history.tokens[i] as usize];
        tally.seen = true;
        tally.number += u32::from(i >= history.prompt);
    }
    for &token in &history.tokens[window] {
        let tally = std::mem::take(&mut tally[token as usize]);
        if tally.seen {
            let logit = &mut logits[token as usize];
            *logit = penalised(*logit, sampling, tally.number);
        }
    }
}

/// Repetition as Keskar et al. 2019 (CTRL, arXiv:1909.05858) mean it and transformers does it: towards less likely
/// whichever the sign. Frequency and presence as OpenAI defines them, over what was generated. Kept from overflowing
/// upwards: `+inf` would leave no distribution.
fn penalised(logit: f32, sampling: &Sampling, generated: u32) -> f32 {
    let repetition = sampling.repetition_penalty;
    let logit = if logit < 0.0 { logit * repetition } else { logit / repetition };
    let logit = logit - sampling.frequency_penalty * generated as f32;
    let logit = if generated > 0 { logit - sampling.presence_penalty } else { logit };
    logit.min(f32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adjusted(logits: &[f32], sampling: &Sampling, tokens: &[u32], prompt: usize) -> Vec<f32> {
        let mut logits = logits.to_vec();
        let mut tally = vec![Tally::default(); logits.len()];
        adjust(&mut logits, sampling, History { tokens, prompt }, &mut tally);
        assert!(tally.iter().all(|t| !t.seen && t.number == 0), "the tally must be left clean");
        logits
    }

    #[test]
    fn repetition_divides_what_is_positive_and_multiplies_what_is_negative() {
        let sampling = Sampling { repetition_penalty: 2.0, ..Sampling::greedy() };
        assert_eq!(adjusted(&[3.0, -3.0, 3.0, 0.0], &sampling, &[0, 1, 0, 3], 2), [1.5, -6.0, 3.0, 0.0]);
    }

    #[test]
    fn presence_and_frequency_count_what_was_generated_only() {
        let sampling = Sampling { presence_penalty: 0.5, frequency_penalty: 0.25, ..Sampling::greedy() };
        let got = adjusted(&[1.0; 4], &sampling, &[0, 1, 1, 2, 1, 1], 2);
        assert_eq!(got, [1.0, 1.0 - 3.0 * 0.25 - 0.5, 1.0 - 0.25 - 0.5, 1.0]);
    }

    #[test]
    fn penalties_follow_the_bias_and_each_other() {
        let sampling = Sampling {
            repetition_penalty: 4.0,
            presence_penalty: 0.5,
            logit_bias: vec![(1, 7.0), (1, -2.0)],
            ..Sampling::greedy()
        };
        assert_eq!(adjusted(&[9.0, -1.0], &sampling, &[1], 0), [9.0, (-1.0 + 7.0 - 2.0) / 4.0 - 0.5]);
    }

    #[test]
    fn the_window_forgets_older_tokens() {
        let sampling = Sampling { presence_penalty: 1.0, penalty_window: 2, ..Sampling::greedy() };
        assert_eq!(adjusted(&[0.0; 3], &sampling, &[0, 1, 2], 0), [0.0, -1.0, -1.0]);
        let none = Sampling { penalty_window: 0, ..sampling };
        assert_eq!(adjusted(&[0.0; 3], &none, &[0, 1, 2], 0), [0.0; 3]);
    }

    #[test]
    fn nothing_overflows_upwards_and_the_forbidden_stays_forbidden() {
        let sampling = Sampling {
            repetition_penalty: 1e-3,
            frequency_penalty: -2.0,
            logit_bias: vec![(1, f32::NEG_INFINITY)],
            ..Sampling::greedy()
        };
        assert_eq!(adjusted(&[3e38, 5.0], &sampling, &[0, 1], 0), [f32::MAX, f32::NEG_INFINITY]);
    }
}
