//! Scenes of picking tokens: every backend picks the very tokens, and refuses the very rows, that the host's sampler would.

use std::sync::Arc;

use llama_core::backend::{Backend, Role};
use llama_core::sample::{Allowed, Draw, History, Outputs, Sampling};

use super::{Random, Subject, Suite};

/// One way of sampling each: penalties, truncations, biases, and one that allows no token.
fn samplings(vocab: usize) -> Vec<Sampling> {
    let warm = |seed| Sampling { temperature: 0.9, seed, ..Sampling::greedy() };
    vec![
        Sampling::greedy(),
        warm(1),
        Sampling { temperature: 3.0, top_k: 7, ..warm(2) },
        Sampling { top_p: 0.7, ..warm(3) },
        Sampling { min_p: 0.2, top_k: 40, top_p: 0.95, ..warm(4) },
        Sampling { repetition_penalty: 1.4, presence_penalty: 0.5, frequency_penalty: 0.25, ..warm(5) },
        Sampling { repetition_penalty: 0.5, penalty_window: 3, ..Sampling::greedy() },
        Sampling { logit_bias: vec![(5, f32::NEG_INFINITY), (9, 100.0), (11, -100.0)], ..warm(6) },
        Sampling { logit_bias: (0..vocab as u32).map(|token| (token, f32::NEG_INFINITY)).collect(), ..warm(7) },
        Sampling { temperature: 1e-3, top_k: 1, ..warm(8) },
    ]
}

/// What a backend may leave to the host. In a list of their own, since one of them may take a step's draws with it.
fn for_the_host(vocab: usize) -> Vec<Sampling> {
    let warm = |seed| Sampling { temperature: 0.9, seed, ..Sampling::greedy() };
    let dry = Sampling { dry_multiplier: 4.0, dry_allowed_length: 0, ..warm(9) };
    vec![
        Sampling { typical_p: 0.3, ..warm(10) },
        Sampling { xtc_probability: 0.7, xtc_threshold: 0.01, ..warm(11) },
        dry.clone(),
        Sampling { temperature: 0.0, ..dry.clone() },
        Sampling { typical_p: 0.9, xtc_probability: 1.0, xtc_threshold: 0.0, top_k: 9, ..dry },
        Sampling { allowed_tokens: Some(Arc::new(Allowed::only(vocab, &[3, 30, 36]).expect("tokens"))), ..warm(13) },
        Sampling { bad_words: (0..vocab as u32 / 2).map(|token| Box::from([token])).collect(), ..Sampling::greedy() },
        warm(12),
    ]
}

/// `[samplings, vocab]` logits: ordinary ones, and rows of equals, of infinities and with a NaN.
fn logits(random: &mut Random, rows: usize, vocab: usize) -> Vec<f32> {
    let mut logits: Vec<f32> = random.floats(rows * vocab).iter().map(|x| x * 6.0).collect();
    for (r, row) in logits.chunks_exact_mut(vocab).enumerate() {
        match r % 5 {
            1 => row.fill(1.5),
            2 if r > 5 => row.iter_mut().step_by(3).for_each(|x| *x = f32::NEG_INFINITY),
            3 => row.iter_mut().for_each(|x| *x = x.round()),
            4 if r > 5 => row[vocab / 2] = f32::NAN,
            _ => {}
        }
    }
    logits
}

impl<S: Subject> Suite<S> {
    /// Every way of sampling, on rows in another order than the draws', one of them twice.
    pub fn tokens_are_the_samplers(&self) {
        let mut random = Random(8);
        let vocabs = self.pick(&[37usize, 512, 5000], &[0, 1]);
        let cases = vocabs.iter().flat_map(|&&vocab| [(vocab, samplings(vocab)), (vocab, for_the_host(vocab))]);
        for (vocab, samplings) in cases {
            let rows = samplings.len();
            let values = logits(&mut random, rows, vocab);
            let tokens: Vec<u32> = (0..20).map(|_| random.below(vocab) as u32).collect();
            let draws: Vec<Draw<'_>> = samplings
                .iter()
                .enumerate()
                .map(|(i, sampling)| Draw {
                    row: if i == 1 { 0 } else { (i * 7 + 3) % rows },
                    sampling,
                    history: History { tokens: &tokens[..2 * i], prompt: i },
                    position: 2 * i as u64,
                })
                .collect();
            let mut want = Outputs::new(vocab);
            want.logits.clone_from(&values);
            want.pick(&draws);
            for s in &self.subjects {
                let mut logits = s.filled(rows, vocab, Role::Logits, &values);
                let mut got = Outputs::new(vocab);
                s.backend().sample(&mut logits, &draws, &mut got).expect("sample");
                // As text: a refusal holds the logit that was refused, which may be NaN.
                let [got, want] = [&got, &want].map(|outputs| format!("{:?}", outputs.picks));
                assert_eq!(got, want, "vocabulary of {vocab} on {}", s.backend().name());
            }
        }
    }
}
