//! A step that picks its own tokens picks what the sampler picks out of the step's logits.

use llama_core::backend::Numerics;
use llama_core::batch::Batch;
use llama_core::checkpoint::Checkpoint;
use llama_core::sample::{Draw, History, Outputs, Sampler, Sampling};
use llama_tests::models::{Feed, Machine, bits, limits, stories260k};

const IDS: [u32; 9] = [1, 403, 407, 261, 378, 432, 383, 285, 299];

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

#[test]
fn a_step_picks_what_the_sampler_would() {
    let checkpoint = Checkpoint::open(stories260k()).unwrap();
    for machine in Machine::all() {
        let mut model = machine.load(&checkpoint, limits(1, IDS.len()), Numerics::Default);
        let vocab = model.config().vocab;
        let (mut batch, mut logits) = (Batch::new(), Vec::new());
        Feed::new(&IDS, 1, 1, IDS.len()).push(&mut batch, IDS.len());
        model.forward(&batch, &mut logits).unwrap();

        let samplings = samplings();
        // Some rows not at all.
        let history = History { tokens: &IDS, prompt: 3 };
        let draws: Vec<Draw<'_>> = [0, 1, 3, 5, 7, 8]
            .into_iter()
            .zip(&samplings)
            .map(|(row, sampling)| Draw { row, sampling, history, position: row as u64 })
            .collect();
        let mut sampler = Sampler::new(vocab);
        let expected: Vec<_> = draws
            .iter()
            .map(|draw| sampler.pick(&logits[draw.row * vocab..][..vocab], draw.sampling, history, draw.position))
            .collect();
        assert!(expected.last().unwrap().is_err(), "one row allows nothing");
        let mut outputs = Outputs::new(vocab);
        for wants_logits in [false, true] {
            outputs.wants_logits = wants_logits;
            model.sample(&batch, &draws, &mut outputs).unwrap();
            assert_eq!(outputs.picks, expected, "{machine:?}");
        }
        assert_eq!(bits(&outputs.logits), bits(&logits), "{machine:?}");
    }
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
