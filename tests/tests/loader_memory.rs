//! The memory contract: what a plan says is what loading allocates, and a cap is kept or refused by name.

use std::net::TcpListener;
use std::thread;

use llama_core::adapter::{Adapter, Adapters};
use llama_core::backend::{KvFormat, Limits, Numerics};
use llama_core::batch::Batch;
use llama_core::checkpoint::{Checkpoint, Name};
use llama_core::engine::{Engine, EngineOptions, Request};
use llama_core::model::MemoryPlan;
use llama_core::ranks::{Follower, Leader, Sharded};
use llama_core::{Error, Loader};
use llama_kernels::{Cpu, CpuOptions};
use llama_tests::adapters::{Change, peft};
use llama_tests::counting::Counting;
use llama_tests::models::stories260k;

#[global_allocator]
static COUNTING: Counting = Counting::new();

/// One test, because the count is of the whole process, and a harness with several starts threads when it likes.
#[test]
fn the_memory_contract() {
    // What a process makes once, whichever model comes first, is no model's.
    drop(planned_and_held(&EngineOptions::default(), Numerics::Default));
    the_plan_is_what_is_allocated();
    adapters_are_in_the_plan();
    who_embeds_pays_for_it();
    a_cap_shrinks_the_cache_and_is_kept();
    a_cap_below_one_context_names_the_number_to_lower();
    ranks_allocate_what_each_plans();
}

fn cpu(numerics: Numerics) -> Cpu {
    Cpu::new(CpuOptions { threads: Some(2), numerics, ..CpuOptions::default() }).unwrap()
}

fn loader(options: &EngineOptions) -> Loader {
    Loader::open(stories260k()).unwrap().options(options.clone())
}

/// The plan's total, and what the loaded engine holds beside its tokenizer: what it has on the heap, and weights and KV
/// cache, which lie in pages mapped for them (that the plan has their size to the byte is tested in llama-kernels).
fn planned_and_held(options: &EngineOptions, numerics: Numerics) -> (u64, u64, Engine) {
    planned_and_held_of(numerics, || loader(options))
}

fn planned_and_held_of(numerics: Numerics, loader: impl FnOnce() -> Loader) -> (u64, u64, Engine) {
    let held = || COUNTING.held() as u64;
    // A backend's threads are there before any model, and rayon's queues with them.
    let cpu = cpu(numerics);
    let before = held();
    let loader = loader();
    let plan = loader.memory_plan(&cpu).unwrap();
    let without = held();
    let tokenizer = loader.checkpoint().tokenizer().unwrap();
    let tokenizer_bytes = held() - without;
    drop(tokenizer);
    let engine = loader.load(cpu).unwrap();
    let pages = plan.weights + plan.adapters + plan.kv_cache;
    (plan.total(), held() - before - tokenizer_bytes + pages, engine)
}

fn the_plan_is_what_is_allocated() {
    for options in [
        EngineOptions::default(),
        EngineOptions { sequences: 1, chunk: 64, ..EngineOptions::default() },
        EngineOptions { sequences: 40, cache_blocks: Some(3000), ..EngineOptions::default() },
        EngineOptions { sequences: 1, chunk: 4096, embeddings: true, ..EngineOptions::default() },
    ] {
        for numerics in Numerics::ALL {
            let (planned, held, _engine) = planned_and_held(&options, numerics);
            assert!(
                planned.abs_diff(held) * 100 <= planned,
                "planned {planned}, held {held}: {numerics:?}, {options:?}"
            );
        }
    }
}

/// Two of all matrices, of ranks of their own, beside a model that has room for them only if they are counted.
fn adapters_are_in_the_plan() {
    let place = tempfile::tempdir().unwrap();
    let config = Checkpoint::open(stories260k()).unwrap().config().clone();
    let all = (0..config.layers).flat_map(|l| [Name::Q(l), Name::V(l), Name::O(l), Name::Up(l), Name::Down(l)]);
    let changes: Vec<_> = all.map(|name| Change::random(name, 2, &config, 1)).collect();
    peft(&changes).write(place.path()).unwrap();
    let options = EngineOptions { sequences: 40, chunk: 2000, ..EngineOptions::default() };
    let adapted = || {
        ["a", "b", "b", "b"].into_iter().fold(loader(&options), |loader, name| {
            loader.adapter(name, Adapter::open(place.path()).unwrap(), 1.0).unwrap()
        })
    };
    let plan = adapted().memory_plan(&cpu(Numerics::Default)).unwrap();
    let without = loader(&options).memory_plan(&cpu(Numerics::Default)).unwrap();
    assert!(plan.adapters > 400 << 10 && without.adapters == 0, "{plan}");
    assert_eq!(plan.activations - without.activations, 2000 * 12 * 4);
    for numerics in Numerics::ALL {
        let (planned, held, _engine) = planned_and_held_of(numerics, adapted);
        assert!(planned.abs_diff(held) * 100 <= planned, "planned {planned}, held {held}: {numerics:?}");
    }
}

/// Room for hidden states is a step's rows of them, and nobody has it who did not ask.
fn who_embeds_pays_for_it() {
    let plan = |embeddings| {
        let options = EngineOptions { chunk: 4096, embeddings, ..EngineOptions::default() };
        loader(&options).memory_plan(&cpu(Numerics::Default)).unwrap()
    };
    let (without, with) = (plan(false), plan(true));
    assert_eq!(with.engine - without.engine, 4096 * 64 * 4);
    assert_eq!(with.total() - without.total(), 4096 * 64 * 4);
}

fn a_cap_shrinks_the_cache_and_is_kept() {
    let options = EngineOptions { sequences: 64, ..EngineOptions::default() };
    let free = loader(&options).memory_plan(&cpu(Numerics::Default)).unwrap();
    let limit = free.total() - free.kv_cache / 2;
    let capped = EngineOptions { memory_limit: Some(limit), ..options };
    let (planned, held, mut engine) = planned_and_held(&capped, Numerics::Default);
    // A plan counts what grows with sizes; names, handles and the threads' own are some kilobytes more.
    assert!(planned <= limit && held <= limit + (16 << 10), "planned {planned}, held {held}, limit {limit}");
    assert!(limit - planned < free.kv_cache / 64, "room was left: planned {planned}, limit {limit}");
    assert!(engine.stats().blocks < 64 * 32);
    let story = engine.complete(Request { max_tokens: Some(5), ..Request::new([1, 403, 407, 261, 378]) }).unwrap();
    assert_eq!(story.tokens.len(), 5);
}

fn a_cap_below_one_context_names_the_number_to_lower() {
    let load = |limit, options: &EngineOptions| {
        let options = EngineOptions { memory_limit: Some(limit), ..options.clone() };
        loader(&options).load(cpu(Numerics::Default)).map(|_| ())
    };
    let refusal = |limit, options: EngineOptions| match load(limit, &options) {
        Err(Error::Memory { needed, limit: named, advice, .. }) => {
            assert!(needed > limit && named == limit, "{needed} {named} {limit}");
            if needed < 1 << 30 {
                load(needed, &options).expect("what the error said is needed is enough");
            }
            advice
        }
        other => panic!("{other:?}"),
    };
    assert!(refusal(1 << 19, EngineOptions { context: Some(64), ..Default::default() }).contains("model"));
    assert!(refusal(1 << 24, EngineOptions { context: Some(1 << 30), ..Default::default() }).contains("context"));
    assert!(refusal(1 << 24, EngineOptions { cache_blocks: Some(1 << 20), ..Default::default() }).contains("blocks"));
    assert!(refusal(4 << 20, EngineOptions { chunk: 1 << 14, ..Default::default() }).contains("chunk"));
}

/// What two ranks in this process have on the heap: weights and KV cache lie elsewhere.
fn ranks_allocate_what_each_plans() {
    let door = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = door.local_addr().unwrap().to_string();
    let checkpoint = Checkpoint::open(stories260k()).unwrap();
    let limits = Limits { tokens: 4096, sequences: 4, outputs: 1024, context: 4096, blocks: 256, kv: KvFormat::Half };
    let plan = |backend: &Sharded<Cpu>| MemoryPlan::of(backend, &checkpoint, &limits).unwrap();
    thread::scope(|scope| {
        let one = || Cpu::new(CpuOptions { threads: Some(1), ..CpuOptions::default() }).unwrap();
        let (leaders, followers) = (one(), one());
        scope.spawn(|| {
            let follower = Follower::join(&address).unwrap();
            follower.serve(followers, &checkpoint, &Adapters::new(), None, &mut |_| ()).unwrap();
        });
        let leader = Leader::wait(&door, 2).unwrap();
        let (before, mut planned) = (COUNTING.held(), 0);
        let limits_of = |backend: &Sharded<Cpu>| {
            let plan = plan(backend);
            planned = 2 * (plan.activations + plan.scratch);
            Ok(limits)
        };
        let mut model = leader.load(leaders, &checkpoint, &Adapters::new(), limits_of, None, &mut |_| ()).unwrap();
        let mut batch = Batch::new();
        batch.push(&[1; 4096], 0, &Vec::from_iter(0..256), []);
        let held_is_planned = |when| {
            let held = (COUNTING.held() - before) as u64;
            assert!(planned.abs_diff(held) * 100 <= planned, "planned {planned}, held {held}, {when}");
        };
        held_is_planned("before a step");
        model.forward(&batch, &mut Vec::new()).unwrap();
        held_is_planned("after a step");
    });
}
