//! A step that picks its own tokens picks what the sampler picks out of the step's logits.

use std::sync::Arc;

use llama_core::backend::Numerics;
use llama_core::batch::Batch;
use llama_core::checkpoint::Checkpoint;
use llama_core::sample::{Allowed, Draw, History, Outputs, Refusal, Sampler, Sampling};
use llama_kernels::Tier;
use llama_tests::models::{Feed, Machine, bits, limits, stories260k};

const IDS: [u32; 9] = [1, 403, 407, 261, 378, 432, 383, 285, 299];
/// What draws look back on.
const TOLD: [u32; 9] = [1, 403, 407, 261, 378, 432, 403, 403, 403];

fn samplings() -> Vec<Sampling> {
    let warm = |seed| Sampling { temperature: 1.0, seed, ..Sampling::greedy() };
    vec![
        Sampling::greedy(),
        warm(1),
        Sampling { top_k: 40, ..warm(2) },
        Sampling { top_p: 0.9, min_p: 0.01, ..warm(3) },
        Sampling { repetition_penalty: 1.3, presence_penalty: 0.5, penalty_window: 4, ..Sampling::greedy() },
        Sampling { logit_bias: (0..512).map(|token| (token, f32::NEG_INFINITY)).collect(), ..warm(4) },
    ]
}

/// What only the host's sampler does. Each picks another token than it would without.
fn for_the_host() -> Vec<Sampling> {
    let warm = |seed| Sampling { temperature: 1.0, seed, ..Sampling::greedy() };
    let circle = Sampling { logit_bias: vec![(403, 100.0)], ..Sampling::greedy() };
    vec![
        Sampling { xtc_probability: 1.0, xtc_threshold: 0.0, ..warm(5) },
        Sampling { dry_multiplier: 1e6, dry_allowed_length: 1, ..circle },
        Sampling { typical_p: 1e-6, ..Sampling { temperature: 50.0, ..warm(6) } },
        Sampling::greedy(),
        Sampling { allowed_tokens: Some(Arc::new(Allowed::only(512, &[3, 4]).unwrap())), ..Sampling::greedy() },
        Sampling { bad_words: (0..510).map(|token| Box::from([token])).collect(), ..Sampling::greedy() },
    ]
}

#[test]
fn a_step_picks_what_the_sampler_would() {
    let picks = picked(&samplings());
    assert!(picks.last().unwrap().is_err(), "one row allows nothing");
}

#[test]
fn what_only_the_host_does_is_not_passed_over() {
    let with = picked(&for_the_host());
    let off = |s: Sampling| Sampling {
        xtc_probability: 0.0,
        dry_multiplier: 0.0,
        typical_p: 1.0,
        allowed_tokens: None,
        bad_words: Arc::default(),
        ..s
    };
    let without = picked(&for_the_host().into_iter().map(off).collect::<Vec<_>>());
    for (i, sampling) in for_the_host().iter().enumerate() {
        assert_eq!(with[i] != without[i], sampling.needs_host(), "{sampling:?}: {:?}", with[i]);
    }
}

/// What every machine picks, which is what the sampler does.
fn picked(samplings: &[Sampling]) -> Vec<Result<u32, Refusal>> {
    let mut picks = Vec::new();
    let checkpoint = Checkpoint::open(stories260k()).unwrap();
    for machine in Machine::all().into_iter().chain([Machine::Ranks(2, 1, Tier::best())]) {
        let mut model = machine.load(&checkpoint, limits(1, IDS.len()), Numerics::Default);
        let vocab = model.config().vocab;
        let (mut batch, mut logits) = (Batch::new(), Vec::new());
        Feed::new(&IDS, 1, 1, IDS.len()).push(&mut batch, IDS.len());
        model.forward(&batch, &mut logits).unwrap();

        // Some rows not at all.
        let history = History { tokens: &TOLD, prompt: 3 };
        let draws: Vec<Draw<'_>> = [0, 1, 3, 5, 7, 8]
            .into_iter()
            .zip(samplings)
            .map(|(row, sampling)| Draw { row, sampling, history, position: row as u64 })
            .collect();
        let mut sampler = Sampler::new(vocab);
        let expected: Vec<_> = draws
            .iter()
            .map(|draw| sampler.pick(&logits[draw.row * vocab..][..vocab], draw.sampling, history, draw.position))
            .collect();
        let mut outputs = Outputs::new(vocab);
        for wants_logits in [false, true] {
            outputs.wants_logits = wants_logits;
            model.sample(&batch, &draws, &mut outputs).unwrap();
            assert_eq!(outputs.picks, expected, "{machine:?}");
        }
        assert_eq!(bits(&outputs.logits), bits(&logits), "{machine:?}");
        picks = expected;
    }
    picks
}

#[test]
fn draws_that_make_no_sense_are_refused() {
    let checkpoint = Checkpoint::open(stories260k()).unwrap();
    let mut model = Machine::Reference.load(&checkpoint, limits(1, IDS.len()), Numerics::Default);
    let mut batch = Batch::new();
    batch.push(&IDS, 0, &[0], [7, 8]);
    let (sampling, history) = (Sampling::greedy(), History::default());
    for rows in [[0, 2], [1, 1], [1, 0]] {
        let draws = rows.map(|row| Draw { row, sampling: &sampling, history, position: 8 });
        let error = model.sample(&batch, &draws, &mut Outputs::new(512)).unwrap_err();
        assert!(error.to_string().starts_with(&format!("parameter draw = {}: ", rows[1])), "{error}");
    }
}
