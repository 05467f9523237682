//! Seventeen random checkpoints of Llama's family and of its likes with transformers' float32 logits and greedy continuations, and the
//! schedules they are run through.

use std::path::Path;

use llama_core::backend::Numerics;
use llama_core::batch::{BLOCK, Batch};
use llama_core::checkpoint::Checkpoint;
use llama_core::model::Model;

use crate::arrays::Arrays;
use crate::models::{Feed, Machine, data, limits, run};

/// Their names.
pub const NAMES: [&str; 17] = [
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
    "qwen2",
    "qwen3",
    "smollm3",
    "phi3",
    "granite",
    "seed_oss",
];

/// One checkpoint, and what transformers makes of it.
pub struct Case {
    /// The weights.
    pub checkpoint: Checkpoint,
    /// Two prompts.
    pub ids: Vec<Vec<u32>>,
    /// Their logits, `[ids, vocab]` each.
    pub logits: Vec<Vec<f32>>,
    /// The prompts and what follows them.
    pub greedy: Vec<Vec<u32>>,
}

impl Case {
    /// Opens the one called `name`.
    pub fn open(name: &str) -> Self {
        let folder = data().join("tiny").join(name);
        Case::of(Checkpoint::open(&folder).unwrap(), &folder.join("reference.safetensors"))
    }

    /// A checkpoint, and what transformers makes of it in the file `reference`.
    pub fn of(checkpoint: Checkpoint, reference: &Path) -> Self {
        let arrays = Arrays::open(reference);
        let shape = arrays.shape("logits");
        let rows = |ids: Vec<u32>| ids.chunks(ids.len() / shape[0]).map(<[u32]>::to_vec).collect::<Vec<_>>();
        Case {
            checkpoint,
            ids: rows(arrays.ids("input_ids")),
            logits: arrays.f32("logits").chunks(shape[1] * shape[2]).map(<[f32]>::to_vec).collect(),
            greedy: rows(arrays.ids("greedy")),
        }
    }

    /// Loads it on a machine.
    pub fn load(&self, machine: Machine, numerics: Numerics) -> Box<dyn Model> {
        machine.load(&self.checkpoint, limits(2, self.greedy[0].len()), numerics)
    }
}

/// Both sequences in one step, then one token of each in turn until both are through: a ragged batch.
pub fn ragged(model: &mut dyn Model, ids: &[Vec<u32>]) -> Vec<Vec<f32>> {
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
pub fn prefix_hit(model: &mut dyn Model, ids: &[u32]) -> Vec<f32> {
    let mut first = Feed::new(ids, 0, 1, ids.len());
    let mut logits = run(model, &mut first, 7);
    let shared = 3;
    let mut second = Feed::new(ids, 20, 1, ids.len());
    second.blocks[..shared].copy_from_slice(&first.blocks[..shared]);
    second.done = shared * BLOCK;
    logits.truncate(second.done * model.config().vocab);
    logits.extend(run(model, &mut second, 64));
    logits
}
