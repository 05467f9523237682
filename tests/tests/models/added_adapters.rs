//! Adapters that are added and removed while a model serves: the bits of those that it was loaded with, in memory that it had from
//! the start, and nothing of one ever reaches another that has its place.

use std::sync::Arc;

use conformance::Random;
use llama_core::adapter::{Adapter, AdapterRoom, Adapters, Named};
use llama_core::backend::Numerics;
use llama_core::batch::Batch;
use llama_core::checkpoint::{Checkpoint, Name};
use llama_core::engine::{Embed, Engine, Request};
use llama_core::ranks::Leader;
use llama_core::{Error, Loader};
use llama_kernels::{Cpu, CpuOptions, Tier};
use llama_tests::adapters::{Change, peft};
use llama_tests::models::{Feed, Machine, limits, stories260k};
use llama_tests::tiny::Case;

use super::adapters::{SEVERAL, alone, engine, engine_with, in_company, question, random};

const ROOM: AdapterRoom = AdapterRoom { adapters: 1, rank: 4 };

/// "one" and "two" of [`SEVERAL`], to be added.
fn several(base: &Checkpoint) -> [Named; 2] {
    ["one", "two"].map(|name| {
        let mut terms = SEVERAL.into_iter().filter(|(of, ..)| *of == name);
        let read = |rank: usize| random(base, rank, rank as u64);
        let (_, rank, strength) = terms.next().unwrap();
        let mut named = Named::new(name, read(rank), strength, base.config()).unwrap();
        terms.for_each(|(_, rank, strength)| named.add(read(rank), strength, base.config()).unwrap());
        named
    })
}

/// Beside one that stays, on every tier and team: what is written over others, of other ranks and on other matrices, has the bits of
/// what is loaded, in every company.
#[test]
fn what_is_added_has_the_bits_of_what_is_loaded() {
    let base = Case::open("llama3-gqa").checkpoint;
    let mut adapters = Adapters::new();
    adapters.set_room(AdapterRoom { adapters: 1, rank: 7 }).unwrap();
    adapters.add("before", random(&base, 3, 9), 1.0, base.config()).unwrap();
    let (adapters, want, mut dice) = (Arc::new(adapters), alone(&base), Random(5));
    let all = |name: &str, seed| Named::new(name, random(&base, 7, seed), 1.0, base.config()).unwrap();
    let (others, [one, two]) = ([all("x", 1), all("y", 2), all("z", 3)], several(&base));
    for machine in Machine::all() {
        let mut model = machine.load_with(&base, &adapters, limits(4, 50), Numerics::Default);
        let mut put = |named: &Named, place| assert_eq!(model.add_adapter(named, &[place]).unwrap(), place);
        others.iter().for_each(|other| put(other, 1));
        put(&others[0], 0);
        put(&one, 0);
        put(&two, 1);
        assert!(in_company(&mut *model, &mut dice) == want, "on {machine:?}");
    }
}

/// What of a step has an adapter that does not change a weight gets nothing of what the place held, where another of the step
/// has the weight changed.
#[test]
fn nothing_is_left_of_what_was_there() {
    let base = Case::open("llama3-gqa").checkpoint;
    let one = |name: &str, matrix| {
        let (place, change) = (tempfile::tempdir().unwrap(), Change::random(matrix, 2, base.config(), 1));
        peft(&[change]).write(place.path()).unwrap();
        Named::new(name, Adapter::open(place.path()).unwrap(), 0.1, base.config()).unwrap()
    };
    let mut adapters = Adapters::new();
    adapters.set_room(AdapterRoom { adapters: 2, rank: 2 }).unwrap();
    let adapters = Arc::new(adapters);
    for machine in Machine::all() {
        let logits = [false, true].map(|used| {
            let mut model = machine.load_with(&base, &adapters, limits(2, 20), Numerics::Default);
            if used {
                model.add_adapter(&one("before", Name::Up(1)), &[1]).unwrap();
            }
            model.add_adapter(&one("up", Name::Up(1)), &[0]).unwrap();
            model.add_adapter(&one("down", Name::Down(0)), &[1]).unwrap();
            let (mut batch, mut logits) = (Batch::new(), Vec::new());
            for s in 0..2 {
                Feed { adapter: Some(s), ..Feed::new(&[7, 8, 9], s, 2, 20) }.push(&mut batch, 3);
            }
            model.forward(&batch, &mut logits).unwrap();
            logits
        });
        assert!(logits[0] == logits[1], "on {machine:?}");
    }
}

fn named(engine: &Engine, name: &str, rank: usize, seed: u64) -> Named {
    let base = Checkpoint::open(stories260k()).unwrap();
    Named::new(name, random(&base, rank, seed), 1.0, engine.model().config()).unwrap()
}

/// What an engine that was loaded with it says by the adapter of that seed.
fn loaded(seed: u64) -> Vec<u32> {
    engine(&[("x", seed)]).complete(question(Some("x"))).unwrap().tokens
}

/// Sequences on their way get what they would have got, whatever comes and goes beside them, and their own adapter to the end.
#[test]
fn who_is_on_the_way_notices_nothing() {
    let mut engine = engine_with(&[("b", 2)], ROOM);
    let [a, c] = [("a", 1), ("c", 3)].map(|(name, seed)| named(&engine, name, 4, seed));
    engine.add_named(&a).unwrap();
    let names = [None, Some("a"), Some("b"), Some("a")];
    let want = names.map(|name| match name {
        None => engine_with(&[], AdapterRoom::default()).complete(question(None)).unwrap().tokens,
        Some(name) => loaded(if name == "a" { 1 } else { 2 }),
    });
    let ids = names.map(|name| engine.submit(question(name)).unwrap());
    let mut told = vec![Vec::new(); ids.len()];
    let mut step = |engine: &mut Engine| {
        for event in engine.step().unwrap() {
            told[ids.iter().position(|id| *id == event.id).unwrap()].extend(event.token);
        }
    };
    (0..5).for_each(|_| step(&mut engine));
    engine.remove_adapter("a").unwrap();
    assert_eq!(engine.adapters().collect::<Vec<_>>(), ["b"]);
    let error = engine.submit(question(Some("a"))).unwrap_err().to_string();
    assert_eq!(error, "parameter adapter = a: is none of those loaded: [\"b\"]");
    let error = engine.add_named(&c).unwrap_err().to_string();
    let problem = "finds no place beside [\"b\"], while \"a\", which was removed, is still used by 2 sequences: try again later, or \
                   remove another";
    assert_eq!(error, format!("parameter adapter = c: {problem}"));
    step(&mut engine);
    assert!(engine.cancel(ids[3]));
    assert!(engine.add_named(&c).unwrap_err().to_string().contains("used by 1 sequences"));
    while !engine.is_idle() {
        step(&mut engine);
    }
    assert_eq!(told[..3], want[..3]);
    assert_eq!(told[3], want[3][..told[3].len()]);
    engine.add_named(&c).unwrap();
    assert_eq!(engine.adapters().collect::<Vec<_>>(), ["b", "c"]);
    assert_eq!(engine.complete(question(Some("c"))).unwrap().tokens, loaded(3));
    // Nor does one notice that was computed before, but for its place in a batch.
    assert_eq!(engine.complete(question(Some("b"))).unwrap().tokens, want[2]);
}

/// One place, four adapters after each other, the first of them twice: each has its own answer, and none finds what another left in
/// the cache, nor what it left itself before it was removed.
#[test]
fn a_place_of_another_brings_no_blocks() {
    let mut engine = engine_with(&[], ROOM);
    for (name, seed) in [("a", 1), ("b", 2), ("a", 3), ("a", 1)] {
        let adapter = named(&engine, name, 4, seed);
        engine.add_named(&adapter).unwrap();
        for cached in [0, 96] {
            let before = engine.stats().cached_tokens;
            assert_eq!(engine.complete(question(Some(name))).unwrap().tokens, loaded(seed), "{name} of {seed}");
            assert_eq!(engine.stats().cached_tokens - before, cached, "{name} of {seed}");
        }
        let embed = Embed { adapter: Some(name.into()), ..Embed::new([5; 20]) };
        let mut fresh = super::adapters::engine(&[("x", seed)]);
        let expected = fresh.embed(Embed { adapter: Some("x".into()), ..Embed::new([5; 20]) }).unwrap();
        assert_eq!(engine.embed(embed).unwrap(), expected);
        engine.remove_adapter(name).unwrap();
    }
}

/// The name goes over to another in one go: who asked before has the old one, who asks later the new.
#[test]
fn a_name_is_given_to_another() {
    let mut engine = engine_with(&[("a", 1)], ROOM);
    let next = named(&engine, "a", 4, 2);
    let old = engine.submit(question(Some("a"))).unwrap();
    engine.step().unwrap();
    engine.replace_named(&next).unwrap();
    assert_eq!(engine.adapters().collect::<Vec<_>>(), ["a"]);
    let new = engine.submit(question(Some("a"))).unwrap();
    let mut told = [Vec::new(), Vec::new()];
    engine.step().unwrap().for_each(drop);
    let error = engine.replace_named(&named(&engine, "a", 4, 3)).unwrap_err().to_string();
    assert!(error.contains("still used by 1 sequences"), "{error}");
    engine.cancel(old);
    engine.run(|event| told[usize::from(event.id == new)].extend(event.token)).unwrap();
    assert_eq!(told[1].len(), 12);
    assert!(loaded(2).ends_with(&told[1][1..]));
    // The place of the first is free now; what has too high a rank leaves all as it was.
    let error = engine.replace_named(&named(&engine, "a", 5, 3)).unwrap_err().to_string();
    assert!(error.contains("room for rank 4"), "{error}");
    assert_eq!(engine.complete(question(Some("a"))).unwrap().tokens, loaded(2));
}

#[test]
fn a_saved_prefix_is_found_by_what_is_added() {
    let place = tempfile::tempdir().unwrap();
    let (file, prompt) = (place.path().join("a"), question(None).prompt);
    let mut first = engine_with(&[], ROOM);
    let a = named(&first, "a", 4, 1);
    first.add_named(&a).unwrap();
    first.complete(question(Some("a"))).unwrap();
    assert_eq!(first.save_adapted_prefix("a", &prompt, &file).unwrap(), 96);
    first.remove_adapter("a").unwrap();
    assert!(matches!(first.save_adapted_prefix("a", &prompt, &file), Err(Error::Parameter { name: "adapter", .. })));
    let error = first.load_prefix(&file).unwrap_err().to_string();
    assert!(error.contains("adapter: is none of those that this engine has"), "{error}");
    let mut other = engine_with(&[("b", 2)], ROOM);
    let again = named(&other, "again", 4, 1);
    other.add_named(&again).unwrap();
    assert_eq!(other.load_prefix(&file).unwrap(), 96);
    assert_eq!(other.complete(question(Some("again"))).unwrap().tokens, loaded(1));
    assert_eq!(other.stats().cached_tokens, 96);
    other.complete(question(Some("b"))).unwrap();
    assert_eq!(other.stats().cached_tokens, 96);
}

/// What cannot be added says why and what to do, and changes nothing.
#[test]
fn what_cannot_be_added_is_refused_by_name() {
    let mut engine = engine_with(&[], ROOM);
    let refusal = |engine: &mut Engine, adapter: &Named| engine.add_named(adapter).unwrap_err().to_string();
    let (a, b, thick) = (named(&engine, "a", 4, 1), named(&engine, "b", 1, 2), named(&engine, "b", 5, 2));
    assert_eq!(
        refusal(&mut engine, &thick),
        "parameter adapter = b: has rank 5 for blk.0.attn_q.weight, and there is room for rank 4: load the model with room for rank 5"
    );
    engine.add_named(&a).unwrap();
    let twice = "is the name of another, which is loaded: remove that first, or give this one another name";
    assert_eq!(refusal(&mut engine, &a), format!("parameter adapter = a: {twice}"));
    assert_eq!(
        refusal(&mut engine, &b),
        "parameter adapter = b: finds no place beside [\"a\"]: remove one of them first"
    );
    let error = engine.remove_adapter("b").unwrap_err().to_string();
    assert_eq!(error, "parameter adapter = b: is none of those loaded: [\"a\"]");
    let foreign = random(&Case::open("llama3-gqa").checkpoint, 2, 1);
    let error = engine.add_adapter("c", foreign, 1.0).unwrap_err().to_string();
    assert!(error.contains("adapter_model.safetensors") && error.contains("was expected"), "{error}");
    let own = || random(&Checkpoint::open(stories260k()).unwrap(), 2, 1);
    for (name, strength, wrong) in [("", 1.0, "adapter"), ("c", f32::NAN, "strength"), ("c", f32::INFINITY, "strength")]
    {
        let refused = engine.add_adapter(name, own(), strength).unwrap_err();
        assert!(matches!(refused, Error::Parameter { name, .. } if name == wrong), "{refused}");
    }
    assert_eq!(engine.complete(question(Some("a"))).unwrap().tokens, loaded(1));
    let mut none = super::adapters::engine(&[]);
    let problem = "finds no place: load the model with room for more adapters (Loader::adapter_room)";
    assert_eq!(refusal(&mut none, &b), format!("parameter adapter = b: {problem}"));
    let mut batch = Batch::new();
    batch.push(&[1], 0, &[0], [0]);
    batch.adapt(Some(0));
    let mut model = Machine::Reference.load_with(
        &Checkpoint::open(stories260k()).unwrap(),
        &Arc::new(with_room(ROOM).unwrap()),
        limits(1, 16),
        Numerics::Default,
    );
    let error = model.forward(&batch, &mut Vec::new()).unwrap_err().to_string();
    assert_eq!(error, "parameter batch.adapters = 0: no adapter of this model has that number");
}

fn with_room(room: AdapterRoom) -> llama_core::Result<Adapters> {
    let mut adapters = Adapters::new();
    adapters.set_room(room)?;
    Ok(adapters)
}

#[test]
fn a_room_that_is_none_is_refused() {
    for (adapters, rank, wrong) in
        [(1, 0, "room.rank"), (1, 4097, "room.rank"), (0, usize::MAX, "room.rank"), (4097, 1, "room.adapters")]
    {
        let error = with_room(AdapterRoom { adapters, rank }).err().unwrap();
        assert!(matches!(error, Error::Parameter { name, .. } if name == wrong), "{error}");
    }
}

/// Without a room, the place of one that was loaded takes another that is no larger.
#[test]
fn a_place_of_a_loaded_one_takes_another() {
    let mut engine = engine(&[("a", 1)]);
    let [same, other] = [1, 2].map(|seed| named(&engine, "b", 3, seed));
    engine.remove_adapter("a").unwrap();
    let error = engine.add_named(&other).unwrap_err().to_string();
    assert!(error.contains("and there is room for rank 0"), "{error}");
    engine.add_named(&same).unwrap();
    let request = Request { max_tokens: Some(3), ..question(Some("b")) };
    assert_eq!(engine.complete(request).unwrap().tokens.len(), 3);
}

/// A training that saves once more while its adapter waits to be added: it is refused, its place stays free, and others are as they
/// were.
#[test]
fn a_file_that_is_written_anew_is_not_added() {
    let mut engine = engine_with(&[("b", 2)], ROOM);
    let place = tempfile::tempdir().unwrap();
    let change = Change::random(Name::V(0), 2, engine.model().config(), 1);
    peft(std::slice::from_ref(&change)).write(place.path()).unwrap();
    let stale = Named::new("a", Adapter::open(place.path()).unwrap(), 1.0, engine.model().config()).unwrap();
    let file = std::fs::File::options().append(true).open(place.path().join("adapter_model.safetensors")).unwrap();
    file.set_modified(std::time::SystemTime::now() + std::time::Duration::from_secs(9)).unwrap();
    let error = engine.add_named(&stale).unwrap_err().to_string();
    assert!(error.contains("adapter_model.safetensors: file: was written to since"), "{error}");
    assert_eq!(engine.adapters().collect::<Vec<_>>(), ["b"]);
    assert_eq!(engine.complete(question(Some("b"))).unwrap().tokens, loaded(2));
    let a = named(&engine, "a", 4, 1);
    engine.add_named(&a).unwrap();
    assert_eq!(engine.complete(question(Some("a"))).unwrap().tokens, loaded(1));
}

/// Through the door that programs use: the room is in the plan, and in no request's way.
#[test]
fn a_loader_plans_the_room() {
    let cpu = || Cpu::new(CpuOptions { threads: Some(1), ..CpuOptions::default() }).unwrap();
    let loader = |room| Loader::open(stories260k()).unwrap().adapter_room(room).unwrap();
    let rooms = [0, 1, 3].map(|adapters| AdapterRoom { adapters, rank: if adapters > 0 { 16 } else { 0 } });
    let plans = rooms.map(|room| loader(room).memory_plan(&cpu()).unwrap());
    assert_eq!((plans[0].adapters, 3 * plans[1].adapters), (0, plans[2].adapters));
    assert!(plans[1].adapters > 0 && plans[1].activations > plans[0].activations);
    let mut engine = loader(rooms[1]).load(cpu()).unwrap();
    engine.add_adapter("a", random(&Checkpoint::open(stories260k()).unwrap(), 16, 1), 1.0).unwrap();
    let request = Request { adapter: Some("a".into()), max_tokens: Some(3), ..Request::new([1, 403]) };
    assert_eq!(engine.complete(request).unwrap().tokens.len(), 3);
}

/// Several ranks are loaded with all adapters that they will have.
#[test]
fn ranks_take_none_later() {
    let base = Checkpoint::open(stories260k()).unwrap();
    let mut model = Machine::Ranks(2, 1, Tier::Portable).load(&base, limits(1, 16), Numerics::Default);
    let one = Named::new("a", random(&base, 2, 1), 1.0, base.config()).unwrap();
    let error = model.add_adapter(&one, &[]).unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    assert!(error.to_string().contains("give it when the model is loaded"), "{error}");
    let door = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let leader = Leader::wait(&door, 1).unwrap();
    let cpu = Cpu::new(CpuOptions { threads: Some(1), ..CpuOptions::default() }).unwrap();
    let room = with_room(ROOM).unwrap();
    let error = leader.load(cpu, &base, &room, |_| Ok(limits(1, 16)), None, &mut |_| ()).map(drop).unwrap_err();
    assert!(error.to_string().contains("room for more adapters on several ranks"), "{error}");
}
