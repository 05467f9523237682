//! Adapters beside the weights: against PEFT's logits, against merging, and in every company the same bits.

use std::sync::Arc;

use conformance::Random;
use llama_core::adapter::{Adapter, AdapterRoom, Adapters};
use llama_core::backend::{KvFormat, Limits, Numerics};
use llama_core::batch::{AdapterId, Batch};
use llama_core::checkpoint::{Checkpoint, Name};
use llama_core::convert::Converter;
use llama_core::engine::{Embed, Engine, EngineOptions, Request};
use llama_core::model::Model;
use llama_core::{Error, Loader};
use llama_kernels::{Cpu, CpuOptions, Tier};
use llama_tests::adapters::{Change, peft};
use llama_tests::arrays::Arrays;
use llama_tests::models::{Feed, Machine, bits, data, limits, run, stories260k};
use llama_tests::tiny::Case;

use crate::convert::{as_gguf, with_tokenizer};

/// Two that PEFT saved, of all matrices and of some.
const SAVED: [&str; 2] = ["llama3-gqa", "llama31-rope"];

pub fn machines() -> Vec<Machine> {
    let mut machines = Machine::all();
    machines.push(Machine::Ranks(2, 1, Tier::Portable));
    machines
}

/// Logits of every position, computed with `adapter`.
pub fn logits(model: &mut dyn Model, ids: &[u32], adapter: Option<AdapterId>) -> Vec<f32> {
    run(model, &mut Feed { adapter, ..Feed::new(ids, 1, 1, ids.len()) }, usize::MAX)
}

fn worst(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn pefts_adapters_come_to_pefts_logits() {
    for name in SAVED {
        let folder = data().join("adapters").join(name);
        let reference = Arrays::open(folder.join("reference.safetensors"));
        let (ids, want, shape) = (reference.ids("input_ids"), reference.f32("logits"), reference.shape("logits"));
        let place = tempfile::tempdir().unwrap();
        with_tokenizer(name, place.path());
        let base = Checkpoint::open(place.path()).unwrap();
        for base in [as_gguf(&base), base] {
            let mut adapters = Adapters::new();
            adapters.add("peft", Adapter::open(&folder).unwrap(), 1.0, base.config()).unwrap();
            let adapters = Arc::new(adapters);
            for machine in [Machine::Reference, Machine::Cpu(Tier::best(), 2)] {
                let mut model = machine.load_with(&base, &adapters, limits(1, shape[1]), Numerics::Default);
                for (ids, want) in ids.chunks(shape[1]).zip(want.chunks(shape[1] * shape[2])) {
                    let error = worst(&logits(&mut *model, ids, Some(0)), want);
                    assert!(error <= 2e-4, "{name} on {machine:?}: largest error {error}");
                    let plain = worst(&logits(&mut *model, ids, None), want);
                    assert!(plain > 0.01, "{name}: what the adapter adds is {plain}");
                }
            }
        }
    }
}

/// An adapter of some matrices of each kind, of random numbers that are small beside the model's.
pub fn random(base: &Checkpoint, rank: usize, seed: u64) -> Adapter {
    let (config, mut changes) = (base.config(), Vec::new());
    let head = [Name::Head].into_iter().filter(|&name| base.find(name).is_some());
    let layers = (0..config.layers)
        .flat_map(|l| [Name::Q(l), Name::K(l), Name::V(l), Name::O(l), Name::Gate(l), Name::Up(l), Name::Down(l)]);
    for (i, name) in layers.chain(head).enumerate().filter(|(i, _)| !(i + seed as usize).is_multiple_of(3)) {
        let mut change = Change::random(name, rank, config, seed + 100 * i as u64);
        change.b.iter_mut().for_each(|number| *number *= 0.05);
        changes.push(change);
    }
    let (mut folder, place) = (peft(&changes), tempfile::tempdir().unwrap());
    folder.replace("adapter_config.json", "\"r\": 2", &format!("\"r\": {rank}"));
    folder.write(place.path()).unwrap();
    Adapter::open(place.path()).unwrap()
}

/// Names, ranks and strengths.
pub const SEVERAL: [(&str, usize, f32); 3] = [("one", 2, 1.0), ("two", 5, 0.5), ("two", 1, -0.7)];

/// "one", and "two" which is the sum of two.
fn several(base: &Checkpoint) -> Adapters {
    let mut adapters = Adapters::new();
    for (name, rank, strength) in SEVERAL {
        adapters.add(name, random(base, rank, rank as u64), strength, base.config()).unwrap();
    }
    adapters
}

/// Merged with the weights, what has one name is the same but for rounding.
#[test]
fn a_sum_of_adapters_is_what_merging_makes() {
    let place = tempfile::tempdir().unwrap();
    with_tokenizer("llama3-gqa", place.path());
    let base = as_gguf(&Checkpoint::open(place.path()).unwrap());
    let parts = [(random(&base, 5, 5), 0.5), (random(&base, 1, 1), -0.7)];
    let mut converter = Converter::new(&base).mixture("F32".parse().unwrap());
    for (adapter, strength) in &parts {
        converter = converter.adapter(adapter, *strength).unwrap();
    }
    let path = place.path().join("merged.gguf");
    converter.write(&path, |_| ()).unwrap();
    let ids: Vec<u32> = (0..40).map(|i| i * 7 % 90).collect();
    let load = |checkpoint: &Checkpoint, adapters: &Arc<Adapters>| {
        Machine::Cpu(Tier::best(), 1).load_with(checkpoint, adapters, limits(1, 40), Numerics::Float)
    };
    let merged = logits(&mut *load(&Checkpoint::open(path).unwrap(), &Arc::default()), &ids, None);
    let mut beside = load(&base, &Arc::new(several(&base)));
    let (plain, both) = (logits(&mut *beside, &ids, None), logits(&mut *beside, &ids, Some(1)));
    let (error, change) = (worst(&both, &merged), worst(&plain, &merged));
    assert!(error <= 1e-4 && change > 0.1, "largest error {error}, of a change of {change}");
}

/// Which adapter each of four sequences has.
const SEQUENCES: [Option<AdapterId>; 4] = [None, Some(1), Some(0), Some(1)];

fn ids(s: usize) -> Vec<u32> {
    (0..50).map(|i| (i * 13 + s as u32 * 29) % 90).collect()
}

/// The bits of every logit of the four, each alone on the reference backend.
pub fn alone(base: &Checkpoint) -> Vec<Vec<u32>> {
    let mut model = Machine::Reference.load_with(base, &Arc::new(several(base)), limits(4, 50), Numerics::Default);
    (0..4).map(|s| bits(&logits(&mut *model, &ids(s), SEQUENCES[s]))).collect()
}

/// The same of all four together, in chunks of any size and any order.
pub fn in_company(model: &mut dyn Model, dice: &mut Random) -> Vec<Vec<u32>> {
    let (vocab, mut got) = (model.config().vocab, vec![Vec::new(); 4]);
    let feed = |s: usize| Feed { adapter: SEQUENCES[s], ..Feed::new(&ids(s), s as u32, 4, 50) };
    let mut feeds: Vec<_> = (0..4).map(feed).collect();
    let (mut batch, mut rows, mut order) = (Batch::new(), Vec::new(), [0, 1, 2, 3]);
    while feeds.iter().any(|feed| feed.done < 50) {
        batch.clear();
        dice.shuffle(&mut order);
        let counts = order.map(|s| feeds[s].push(&mut batch, dice.below(20)));
        model.forward(&batch, &mut rows).unwrap();
        let mut rest = &rows[..];
        for (s, count) in order.into_iter().zip(counts) {
            let (own, later) = rest.split_at(count * vocab);
            got[s].extend(bits(own));
            rest = later;
        }
    }
    got
}

/// Four sequences, two of them with the same adapter, in chunks of any size and any order: each has the bits that it has alone on
/// the reference backend.
#[test]
fn company_of_other_adapters_changes_nothing() {
    let base = Case::open("llama3-gqa").checkpoint;
    let (adapters, want, mut dice) = (Arc::new(several(&base)), alone(&base), Random(5));
    for machine in machines() {
        let mut model = machine.load_with(&base, &adapters, limits(4, 50), Numerics::Default);
        assert!(in_company(&mut *model, &mut dice) == want, "on {machine:?}");
    }
}

pub fn engine(adapters: &[(&str, u64)]) -> Engine {
    engine_with(adapters, AdapterRoom::default())
}

pub fn engine_with(adapters: &[(&str, u64)], room: AdapterRoom) -> Engine {
    let base = Checkpoint::open(stories260k()).unwrap();
    let mut all = Adapters::new();
    all.set_room(room).unwrap();
    for &(name, seed) in adapters {
        all.add(name, random(&base, 4, seed), 1.0, base.config()).unwrap();
    }
    let limits = Limits { tokens: 40, sequences: 4, outputs: 4, context: 256, blocks: 60, kv: KvFormat::Half };
    let model = Machine::Cpu(Tier::best(), 2).load_with(&base, &Arc::new(all), limits, Numerics::Default);
    let options = EngineOptions { embeddings: true, ..EngineOptions::default() };
    Engine::new(model, None, &options).unwrap()
}

pub fn question(adapter: Option<&str>) -> Request {
    let prompt: Vec<u32> = (0..100).map(|i| 3 + i * 37 % 509).collect();
    Request { max_tokens: Some(12), ignore_end: true, adapter: adapter.map(str::to_owned), ..Request::new(prompt) }
}

/// The same prompt, by everybody, one after the other and side by side: nobody finds the blocks of another adapter.
#[test]
fn an_engine_serves_each_request_by_its_adapter() {
    let names = [None, Some("a"), Some("b"), Some("a"), None];
    let alone = names.map(|name| engine(&[("a", 1), ("b", 2)]).complete(question(name)).unwrap().tokens);
    assert!(alone[0] != alone[1] && alone[1] != alone[2] && alone[0] != alone[2] && alone[1] == alone[3]);
    let mut engine = engine(&[("a", 1), ("b", 2)]);
    assert_eq!(engine.adapters().collect::<Vec<_>>(), ["a", "b"]);
    for (i, name) in names.into_iter().enumerate() {
        let before = engine.stats().cached_tokens;
        assert_eq!(engine.complete(question(name)).unwrap().tokens, alone[i], "{name:?}");
        assert_eq!(engine.stats().cached_tokens - before, if i < 3 { 0 } else { 96 }, "{name:?}");
    }
    let ids = names.map(|name| engine.submit(question(name)).unwrap());
    let mut told = vec![Vec::new(); ids.len()];
    engine.run(|event| told[ids.iter().position(|id| *id == event.id).unwrap()].extend(event.token)).unwrap();
    assert_eq!(told, alone);
    let embed = |adapter: Option<&str>| Embed { adapter: adapter.map(str::to_owned), ..Embed::new([5; 20]) };
    let vectors = engine.embed_all([embed(None), embed(Some("b")), embed(Some("b"))]).unwrap();
    assert!(vectors[0] != vectors[1] && vectors[1] == vectors[2]);
}

#[test]
fn a_saved_prefix_is_its_adapters() {
    let place = tempfile::tempdir().unwrap();
    let (file, plain) = (place.path().join("a"), place.path().join("plain"));
    let mut first = engine(&[("a", 1), ("b", 2)]);
    let prompt = question(None).prompt;
    assert!(matches!(first.save_adapted_prefix("a", &prompt, &file), Err(Error::Parameter { name: "tokens", .. })));
    let want = first.complete(question(Some("a"))).unwrap().tokens;
    assert!(matches!(first.save_prefix(&prompt, &plain), Err(Error::Parameter { name: "tokens", .. })));
    assert_eq!(first.save_adapted_prefix("a", &prompt, &file).unwrap(), 96);
    // The same adapter under another name and number.
    let mut other = engine(&[("x", 3), ("y", 1)]);
    assert_eq!(other.load_prefix(&file).unwrap(), 96);
    assert_eq!(other.complete(question(Some("y"))).unwrap().tokens, want);
    assert_eq!(other.stats().cached_tokens, 96);
    other.complete(question(None)).unwrap();
    assert_eq!(other.stats().cached_tokens, 96);
    let error = engine(&[("b", 2)]).load_prefix(&file).unwrap_err().to_string();
    assert!(error.contains("adapter: is none of those"), "{error}");
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let mut engine = engine(&[("a", 1)]);
    let error = engine.submit(question(Some("b"))).unwrap_err().to_string();
    assert_eq!(error, "parameter adapter = b: is none of those loaded: [\"a\"]");
    let embed = Embed { adapter: Some("b".into()), ..Embed::new([5; 20]) };
    assert!(matches!(engine.embed(embed), Err(Error::Parameter { name: "adapter", .. })));
    let loader = || Loader::open(stories260k()).unwrap();
    let own = || random(loader().checkpoint(), 2, 1);
    for (name, strength, wrong) in [("", 1.0, "adapter"), ("a", f32::NAN, "strength"), ("a", f32::INFINITY, "strength")]
    {
        let refused = loader().adapter(name, own(), strength).err().unwrap();
        assert!(matches!(refused, Error::Parameter { name, .. } if name == wrong), "{refused}");
    }
    let foreign = random(&Case::open("llama3-gqa").checkpoint, 2, 1);
    let error = loader().adapter("a", foreign, 1.0).err().unwrap().to_string();
    assert!(error.contains("adapter_model.safetensors") && error.contains("was expected"), "{error}");
    let error = loader().adapter("a", own(), f32::MAX).err().unwrap().to_string();
    assert!(error.contains("times its scale") && error.contains("finite numbers were expected"), "{error}");
}

/// Through the door that programs use, under the plan's memory.
#[test]
fn a_loader_keeps_adapters_within_a_memory_limit() {
    let cpu = || Cpu::new(CpuOptions { threads: Some(1), ..CpuOptions::default() }).unwrap();
    let loader = |memory_limit| {
        let options = EngineOptions { context: Some(64), sequences: 1, memory_limit, ..EngineOptions::default() };
        let loader = Loader::open(stories260k()).unwrap().options(options);
        let adapter = random(loader.checkpoint(), 8, 1);
        loader.adapter("a", adapter, 1.0).unwrap()
    };
    let plan = loader(None).memory_plan(&cpu()).unwrap();
    assert!(plan.adapters > 0 && plan.to_string().contains("adapters"), "{plan}");
    let mut engine = loader(Some(plan.total())).load(cpu()).unwrap();
    let request = Request { adapter: Some("a".into()), max_tokens: Some(3), ..Request::new([1, 403]) };
    assert_eq!(engine.complete(request).unwrap().tokens.len(), 3);
    let refused = loader(Some(plan.total() - plan.adapters)).load(cpu());
    assert!(matches!(refused.err(), Some(Error::Memory { .. })));
    // What is too much is named, though neither of the two is by itself.
    let error = plan.check(Some(plan.weights.max(plan.adapters))).unwrap_err().to_string();
    assert!(error.contains("lower the number of adapters"), "{error}");
}

/// A training that saves once more while a model is loaded, or written, leaves neither with half of each.
#[test]
fn a_file_that_is_written_anew_meanwhile_is_refused() {
    let base = Checkpoint::open(stories260k()).unwrap();
    let change = Change::random(Name::V(0), 2, base.config(), 1);
    let place = tempfile::tempdir().unwrap();
    let saved = || {
        peft(std::slice::from_ref(&change)).write(place.path()).unwrap();
        let file = std::fs::File::options().append(true).open(place.path().join("adapter_model.safetensors")).unwrap();
        file.set_modified(std::time::SystemTime::now() + std::time::Duration::from_secs(9)).unwrap();
    };
    saved();
    let adapter = || Adapter::open(place.path()).unwrap();
    let (beside, merged) = (Loader::open(stories260k()).unwrap().adapter("a", adapter(), 1.0).unwrap(), adapter());
    saved();
    let written = Converter::new(&base).adapter(&merged, 1.0).unwrap().write(place.path().join("m.gguf"), |_| ());
    let cpu = Cpu::new(CpuOptions { threads: Some(1), ..CpuOptions::default() }).unwrap();
    for error in [beside.load(cpu).map(drop).unwrap_err(), written.map(drop).unwrap_err()] {
        let error = error.to_string();
        assert!(error.contains("adapter_model.safetensors: file: was written to since"), "{error}");
    }
    assert!(!place.path().join("m.gguf").exists());
}

/// Followers need the leader's adapters.
#[test]
fn ranks_have_the_same_adapters() {
    use llama_core::ranks::{Follower, Leader};
    let open = || Checkpoint::open(stories260k()).unwrap();
    let set = |seeds: &[u64]| {
        let (base, mut adapters) = (open(), Adapters::new());
        for seed in seeds {
            adapters.add(&seed.to_string(), random(&base, 2, *seed), 1.0, base.config()).unwrap();
        }
        adapters
    };
    let cpu = || Cpu::new(CpuOptions { threads: Some(1), ..CpuOptions::default() }).unwrap();
    for others in [&[][..], &[2, 1], &[1, 3]] {
        let door = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = door.local_addr().unwrap().to_string();
        std::thread::scope(|scope| {
            let follower =
                scope.spawn(move || Follower::join(&address)?.serve(cpu(), &open(), &set(others), None, &mut |_| ()));
            let leader = Leader::wait(&door, 2).unwrap();
            let refused = leader.load(cpu(), &open(), &set(&[1, 2]), |_| Ok(limits(1, 32)), None, &mut |_| ());
            let error = refused.map(drop).unwrap_err().to_string();
            assert!(error.contains("adapters") && error.contains("the leader has others"), "{error}");
            let error = follower.join().unwrap().unwrap_err();
            assert!(matches!(error, Error::Parameter { name: "adapters", .. }), "{error}");
        });
    }
}
