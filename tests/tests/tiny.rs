//! Eleven random checkpoints of the Llama family against transformers' float32 logits, and promise 1: the same bits
//! for every schedule, tier and thread count.

use llama_core::backend::Numerics;
use llama_core::batch::Batch;
use llama_core::checkpoint::Checkpoint;
use llama_core::model::Model;
use llama_tests::arrays::Arrays;
use llama_tests::models::{Feed, Machine, bits, data, greedy, limits, logits_in_chunks, run};

const NAMES: [&str; 11] = [
    "llama2-mha",
    "llama3-gqa",
    "llama31-rope",
    "llama32-tied",
    "gqa-9-3",
    "mqa",
    "wide-heads",
    "biased",
    "rope-linear",
    "rope-yarn",
    "mistral-window",
];

/// Largest error against transformers, whose own f32 is within 2.6e-5 of its f64.
const TOLERANCE: f32 = 2e-4;

struct Case {
    checkpoint: Checkpoint,
    ids: Vec<Vec<u32>>,
    logits: Vec<Vec<f32>>,
    greedy: Vec<Vec<u32>>,
}

impl Case {
    fn open(name: &str) -> Self {
        let folder = data().join("tiny").join(name);
        let arrays = Arrays::open(folder.join("reference.safetensors"));
        let shape = arrays.shape("logits");
        let rows = |ids: Vec<u32>| ids.chunks(ids.len() / shape[0]).map(<[u32]>::to_vec).collect::<Vec<_>>();
        Case {
            checkpoint: Checkpoint::open(&folder).unwrap(),
            ids: rows(arrays.ids("input_ids")),
            logits: arrays.f32("logits").chunks(shape[1] * shape[2]).map(<[f32]>::to_vec).collect(),
            greedy: rows(arrays.ids("greedy")),
        }
    }

    fn load(&self, machine: Machine) -> Box<dyn Model> {
        machine.load(&self.checkpoint, limits(2, self.greedy[0].len()), Numerics::Default)
    }
}

/// Both sequences in one step, then one token of each in turn until both are through: a ragged batch.
fn ragged(model: &mut dyn Model, ids: &[Vec<u32>]) -> Vec<Vec<f32>> {
    let vocab = model.config().vocab;
    let mut feeds: Vec<Feed> = ids.iter().zip(0..).map(|(ids, i)| Feed::new(ids, i, 2, ids.len())).collect();
    let mut all = vec![Vec::new(); ids.len()];
    let (mut batch, mut logits) = (Batch::new(), Vec::new());
    for chunks in [[50, 3], [1, 40], [17, 1], [12, 36]] {
        batch.clear();
        let counts: Vec<usize> = feeds.iter_mut().zip(chunks).map(|(feed, n)| feed.push(&mut batch, n)).collect();
        model.forward(&batch, &mut logits).unwrap();
        let (first, second) = logits.split_at(counts[0] * vocab);
        all[0].extend_from_slice(first);
        all[1].extend_from_slice(second);
    }
    assert!(feeds.iter().all(|feed| feed.done == feed.ids.len()));
    all
}

/// A second sequence continues the blocks that a first one filled, as a prefix-cache hit does.
fn prefix_hit(model: &mut dyn Model, ids: &[u32]) -> Vec<f32> {
    let mut first = Feed::new(ids, 0, 1, ids.len());
    let mut logits = run(model, &mut first, 7);
    let shared = 3;
    let mut second = Feed::new(ids, 20, 1, ids.len());
    second.blocks[..shared].copy_from_slice(&first.blocks[..shared]);
    second.done = shared * llama_core::batch::BLOCK;
    logits.truncate(second.done * model.config().vocab);
    logits.extend(run(model, &mut second, 64));
    logits
}

fn assert_close(name: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{name}");
    let worst = got.iter().zip(want).map(|(g, w)| (g - w).abs()).fold(0.0f32, |a, b| if b <= a { a } else { b });
    assert!(worst <= TOLERANCE, "{name}: largest error {worst}");
}

#[test]
fn reference_backend_agrees_with_transformers() {
    for name in NAMES {
        let case = Case::open(name);
        let mut model = case.load(Machine::Reference);
        for (i, ids) in case.ids.iter().enumerate() {
            assert_close(name, &logits_in_chunks(&mut *model, ids, usize::MAX), &case.logits[i]);
            assert_eq!(greedy(&mut *model, ids, case.greedy[i].len() - ids.len()), case.greedy[i], "{name}");
        }
    }
}

#[test]
fn every_machine_and_schedule_gives_the_reference_bits() {
    for name in NAMES {
        let case = Case::open(name);
        let mut reference = case.load(Machine::Reference);
        let want: Vec<Vec<u32>> =
            case.ids.iter().map(|ids| bits(&logits_in_chunks(&mut *reference, ids, usize::MAX))).collect();
        for machine in Machine::all() {
            let mut model = case.load(machine);
            for (ids, want) in case.ids.iter().zip(&want) {
                for chunk in [usize::MAX, 1, 7, 64] {
                    let got = bits(&logits_in_chunks(&mut *model, ids, chunk));
                    assert!(got == *want, "{name} on {machine:?} in chunks of {chunk}");
                }
                assert!(bits(&prefix_hit(&mut *model, ids)) == *want, "{name} on {machine:?}, prefix hit");
            }
            for (got, want) in ragged(&mut *model, &case.ids).iter().zip(&want) {
                assert!(bits(got) == *want, "{name} on {machine:?}, ragged");
            }
        }
    }
}

#[test]
fn greedy_continuations_equal_transformers_on_every_machine() {
    for name in NAMES {
        let case = Case::open(name);
        for machine in Machine::all() {
            let mut model = case.load(machine);
            for (ids, want) in case.ids.iter().zip(&case.greedy) {
                assert_eq!(&greedy(&mut *model, ids, want.len() - ids.len()), want, "{name} on {machine:?}");
            }
        }
    }
}
