//! After warm-up a step of the engine allocates nothing: not for decoding, not for new blocks, not for publishing them.
//! One test, because the count is of the whole process.

use llama_core::Result;
use llama_core::backend::{KvFormat, Limits, RopeLayout};
use llama_core::batch::{Batch, BlockId};
use llama_core::config::{Config, Rope, RopeScaling};
use llama_core::engine::{Engine, EngineOptions, Request};
use llama_core::model::Model;
use llama_core::sample::Sampling;
use llama_tests::counting::Counting;

#[global_allocator]
static COUNTING: Counting = Counting::new();

/// Prefers a token that depends on the position, without allocating.
struct Constant {
    config: Config,
    limits: Limits,
}

impl Model for Constant {
    fn config(&self) -> &Config {
        &self.config
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn forward(&mut self, batch: &Batch, logits: &mut Vec<f32>) -> Result<()> {
        logits.clear();
        for &row in &batch.outputs {
            let favourite = batch.positions[row as usize] * 7 % self.config.vocab as u32;
            logits.extend((0..self.config.vocab as u32).map(|token| f32::from(u8::from(token == favourite))));
        }
        Ok(())
    }

    fn copy_blocks(&mut self, _pairs: &[(BlockId, BlockId)]) -> Result<()> {
        Ok(())
    }

    fn backend(&self) -> String {
        "constant".into()
    }
}

fn engine() -> Engine {
    let rope = Rope { theta: 10_000.0, dims: 4, layout: RopeLayout::Halves, scaling: RopeScaling::None };
    let config = Config {
        architecture: "constant".into(),
        vocab: 500,
        hidden: 8,
        ffn: 8,
        layers: 1,
        heads: 1,
        kv_heads: 1,
        head_dim: 4,
        context: 1024,
        eps: 1e-5,
        rope,
        window: None,
        tied: true,
    };
    let limits = Limits { tokens: 64, sequences: 8, outputs: 8, context: 1024, blocks: 600, kv: KvFormat::Half };
    Engine::new(Box::new(Constant { config, limits }), None, &EngineOptions::default()).expect("an engine")
}

#[test]
fn a_step_allocates_nothing_after_warm_up() {
    let mut engine = engine();
    for seed in 0..8 {
        let sampling = Sampling { temperature: 0.9, top_p: 0.9, repetition_penalty: 1.1, seed, ..Sampling::greedy() };
        let prompt = vec![seed as u32; 40];
        engine.submit(Request { sampling, max_tokens: Some(900), ..Request::new(prompt) }).expect("a sequence");
    }
    for _ in 0..20 {
        assert!(engine.step().is_ok());
    }
    let (before, blocks) = (COUNTING.allocations(), engine.stats().blocks_used);
    let mut events = 0;
    for _ in 0..600 {
        events += engine.step().map_or(0, Iterator::count);
    }
    let allocations = COUNTING.allocations() - before;
    assert_eq!(allocations, 0, "in 600 steps");
    assert_eq!(events, 600 * 8);
    assert!(engine.stats().blocks_used > blocks + 8 * 30, "blocks were allocated and published meanwhile");
}
