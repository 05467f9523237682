//! After warm-up a step of the engine allocates nothing but the text that it hands out: not for decoding, not for new
//! blocks, not for publishing them, not for pooling hidden states. One test, because the count is of the whole process.

use std::path::Path;
use std::sync::Arc;

use llama_core::Result;
use llama_core::backend::{KvFormat, Limits, RopeLayout};
use llama_core::batch::{Batch, BlockId};
use llama_core::checkpoint::Checkpoint;
use llama_core::config::{Config, Head, Multipliers, Pooling, ProblemType, Rope, RopeScaling};
use llama_core::engine::draft::DraftModel;
use llama_core::engine::{Embed, Engine, EngineOptions, Request};
use llama_core::model::Model;
use llama_core::sample::Sampling;
use llama_core::text::Tokenizer;
use llama_tests::counting::Counting;

#[global_allocator]
static COUNTING: Counting = Counting::new();

/// Prefers a token that depends on the position, without allocating.
struct Constant {
    config: Config,
    limits: Limits,
    rows: usize,
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
        self.rows = batch.rows();
        for &row in &batch.outputs {
            let favourite = batch.positions[row as usize] * 7 % self.config.vocab as u32;
            logits.extend((0..self.config.vocab as u32).map(|token| f32::from(u8::from(token == favourite))));
        }
        Ok(())
    }

    fn states(&mut self, states: &mut Vec<f32>) -> Result<()> {
        states.clear();
        states.resize(self.rows * self.config.hidden, 0.5);
        Ok(())
    }

    fn copy_blocks(&mut self, _pairs: &[(BlockId, BlockId)]) -> Result<()> {
        Ok(())
    }

    fn identity(&self) -> u64 {
        0
    }

    fn read_block(&mut self, _block: BlockId, out: &mut Vec<u8>) -> Result<()> {
        out.clear();
        Ok(())
    }

    fn write_block(&mut self, _block: BlockId, _bytes: &[u8]) -> Result<()> {
        Ok(())
    }

    fn backend(&self) -> String {
        "constant".into()
    }
}

fn engine(tokenizer: Option<Arc<Tokenizer>>, drafts: usize) -> Engine {
    let rope =
        Rope { theta: 10_000.0, dims: 4, layout: RopeLayout::Halves, unturned: Vec::new(), scaling: RopeScaling::None };
    let config = Config {
        architecture: "constant".into(),
        vocab: 512,
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
        head_norms: false,
        temperature: None,
        multipliers: Multipliers::default(),
        head: Head::Tied,
        pooling: Pooling::Last,
        labels: Vec::new(),
        problem_type: ProblemType::default(),
    };
    let limits = Limits { tokens: 64, sequences: 8, outputs: 40, context: 1024, blocks: 600, kv: KvFormat::Half };
    let options = EngineOptions { end_tokens: Some(Vec::new()), embeddings: true, drafts, ..EngineOptions::default() };
    let model = || Box::new(Constant { config: config.clone(), limits, rows: 0 });
    let engine = Engine::new(model(), tokenizer, &options).expect("an engine");
    let drafter = DraftModel::new(model()).expect("a drafter");
    if drafts > 0 { engine.with_drafter(drafter).expect("the same tokens") } else { engine }
}

/// Allocations of 600 steps of 8 sequences, and how many of their events have text.
fn allocations(tokenizer: Option<Arc<Tokenizer>>) -> (usize, usize) {
    let stop_strings = if tokenizer.is_some() { vec!["never to be found".into()] } else { Vec::new() };
    let mut engine = engine(tokenizer, 0);
    for seed in 0..8 {
        let sampling = Sampling { temperature: 0.9, top_p: 0.9, repetition_penalty: 1.1, seed, ..Sampling::greedy() };
        // Some are drawn on the host.
        let dry = Sampling { dry_multiplier: 0.8, dry_breakers: Arc::from([3, 5]), ..sampling.clone() };
        let all = Sampling { typical_p: 0.9, xtc_probability: 0.5, xtc_threshold: 1e-3, ..dry };
        let sampling = if seed < 4 { all } else { sampling };
        let prompt = vec![seed as u32; 40];
        let stop_strings = stop_strings.clone();
        // Some may not end yet.
        let (stop_tokens, min_tokens) = if seed % 2 == 0 { (vec![3], 800) } else { (Vec::new(), 0) };
        let ends = Request { stop_strings, stop_tokens, min_tokens, ..Request::new(prompt) };
        let request = Request { sampling, max_tokens: Some(900), ..ends };
        engine.submit(request).expect("a sequence");
    }
    for _ in 0..20 {
        assert!(engine.step().is_ok());
    }
    let (before, blocks) = (COUNTING.allocations(), engine.stats().blocks_used);
    let (mut events, mut texts) = (0, 0);
    for _ in 0..600 {
        for event in engine.step().expect("a step") {
            events += 1;
            texts += usize::from(!event.text.is_empty());
        }
    }
    let allocations = COUNTING.allocations() - before;
    assert_eq!(events, 600 * 8);
    assert!(engine.stats().blocks_used > blocks + 8 * 30, "blocks were allocated and published meanwhile");
    (allocations, texts)
}

/// Allocations of 100 steps of 8 sequences with drafts by a model, three for each, and how many were accepted.
fn allocations_of_drafts() -> (usize, u64) {
    let mut engine = engine(None, 24);
    for seed in 0..8 {
        engine.submit(Request { max_tokens: Some(900), ..Request::new(vec![seed; 40]) }).expect("a sequence");
    }
    (0..20).for_each(|_| assert!(engine.step().is_ok()));
    let (before, accepted) = (COUNTING.allocations(), engine.stats().accepted);
    (0..100).for_each(|_| assert!(engine.step().is_ok()));
    (COUNTING.allocations() - before, engine.stats().accepted - accepted)
}

/// Allocations of the steps that embed 6 prompts of 700 tokens side by side, once others went before them, and how many
/// vectors they handed out.
fn allocations_of_embeddings(pooling: Pooling) -> (usize, usize) {
    let mut engine = engine(None, 0);
    let submit = |engine: &mut Engine, seed: u32| {
        let embed =
            Embed { pooling: Some(pooling), ..Embed::new((seed..seed + 700).map(|t| t % 512).collect::<Vec<_>>()) };
        engine.submit_embed(embed).expect("a sequence");
    };
    (0..6).for_each(|seed| submit(&mut engine, 37 * seed));
    engine.run(drop).expect("steps");
    (0..6).for_each(|seed| submit(&mut engine, 300 + 37 * seed));
    let (before, mut vectors) = (COUNTING.allocations(), 0);
    engine.run(|event| vectors += usize::from(!event.vector.is_empty())).expect("steps");
    (COUNTING.allocations() - before, vectors)
}

#[test]
fn a_step_allocates_nothing_but_text_after_warm_up() {
    assert_eq!(allocations(None), (0, 0));
    let (allocations_of_drafts, accepted) = allocations_of_drafts();
    assert_eq!(allocations_of_drafts, 0);
    assert!(accepted > 1_600, "{accepted} drafts accepted");
    // A vector is made when its prompt is submitted, unless there is one for each token.
    assert_eq!(allocations_of_embeddings(Pooling::Last), (0, 6));
    assert_eq!(allocations_of_embeddings(Pooling::Mean), (0, 6));
    let (allocations_of_rows, vectors) = allocations_of_embeddings(Pooling::Tokens);
    assert!(
        vectors > 60 && allocations_of_rows <= 2 * vectors,
        "{allocations_of_rows} allocations of {vectors} vectors"
    );
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/stories260K.gguf");
    let tokenizer = Checkpoint::open(path).and_then(|checkpoint| checkpoint.tokenizer()).expect("a tokenizer");
    let (allocations, texts) = allocations(Some(Arc::new(tokenizer)));
    assert!(texts > 600);
    // One string each; beside them each sequence's room grows when its longest token so far comes.
    assert!((texts..texts + 24).contains(&allocations), "{allocations} allocations for {texts} texts");
}
