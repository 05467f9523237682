//! A prefix that one machine saved goes on on another in the bits that it would have had there: other tiers, threads and ranks,
//! for each format of keys and values. What computes otherwise refuses it.

use std::path::Path;

use llama_core::backend::{KvFormat, Limits, Numerics};
use llama_core::checkpoint::Checkpoint;
use llama_core::engine::{Completion, Engine, EngineOptions, Request};
use llama_core::sample::Sampling;
use llama_kernels::Tier;
use llama_tests::models::{Machine, data, stories260k};

fn engine_of(model: impl AsRef<Path>, machine: Machine, kv: KvFormat, numerics: Numerics) -> Engine {
    let checkpoint = Checkpoint::open(model).unwrap();
    let limits = Limits { tokens: 64, sequences: 2, outputs: 2, context: 256, blocks: 32, kv };
    let model = machine.load(&checkpoint, limits, numerics);
    Engine::new(model, None, &EngineOptions::default()).unwrap()
}

fn engine(machine: Machine, kv: KvFormat) -> Engine {
    engine_of(stories260k(), machine, kv, Numerics::Default)
}

fn prompt() -> Vec<u32> {
    (0..150).map(|i| 3 + i * 37 % 509).collect()
}

fn goes_on(engine: &mut Engine) -> Completion {
    let sampling = Sampling { logprobs: Some(3), ..Sampling::greedy() };
    engine.complete(Request { max_tokens: Some(10), sampling, ..Request::new(prompt()) }).unwrap()
}

#[test]
fn what_one_machine_saved_another_goes_on_with() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    for kv in [KvFormat::Half, KvFormat::F32, KvFormat::Bf16, KvFormat::Q8] {
        let mut first = engine(Machine::Cpu(Tier::Portable, 1), kv);
        let want = goes_on(&mut first);
        assert_eq!(first.save_prefix(&prompt(), file("one")).unwrap(), 144);
        for machine in
            [Machine::Cpu(Tier::best(), 2), Machine::Ranks(2, 1, Tier::Portable), Machine::Ranks(4, 1, Tier::best())]
        {
            let mut other = engine(machine, kv);
            assert_eq!(other.load_prefix(file("one")).unwrap(), 144);
            let got = goes_on(&mut other);
            assert_eq!((&got.tokens, &got.scores), (&want.tokens, &want.scores), "{kv:?} on {machine:?}");
            assert_eq!(other.stats().cached_tokens, 144);
            // What it computes itself is the same bytes.
            let mut own = engine(machine, kv);
            goes_on(&mut own);
            own.save_prefix(&prompt(), file("other")).unwrap();
            assert!(
                std::fs::read(file("one")).unwrap() == std::fs::read(file("other")).unwrap(),
                "{kv:?} on {machine:?}"
            );
        }
    }
}

#[test]
fn who_computes_otherwise_refuses_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prefix");
    let cpu = Machine::Cpu(Tier::best(), 1);
    let mut first = engine(cpu, KvFormat::Half);
    goes_on(&mut first);
    first.save_prefix(&prompt(), &file).unwrap();
    let model = data().join("tiny/llama3-gqa");
    for (what, mut other) in [
        ("another format", engine(cpu, KvFormat::Bf16)),
        ("another backend", engine(Machine::Reference, KvFormat::Half)),
        ("another arithmetic", engine_of(stories260k(), cpu, KvFormat::Half, Numerics::Precise)),
        ("another model", engine_of(model, cpu, KvFormat::Half, Numerics::Default)),
    ] {
        let error = other.load_prefix(&file).unwrap_err().to_string();
        assert!(error.contains("identity: is of another model"), "{what}: {error}");
    }
}
