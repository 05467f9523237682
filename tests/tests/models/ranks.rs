//! A model on several ranks: the bits that it has on one, whatever the ranks, schedules and tiers, and what happens when a
//! rank is not what it should be.

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use llama_core::adapter::Adapters;
use llama_core::backend::{Limits, Numerics};
use llama_core::batch::Batch;
use llama_core::checkpoint::Checkpoint;
use llama_core::engine::{EngineOptions, Request};
use llama_core::model::MemoryPlan;
use llama_core::ranks::{Follower, Leader, Sharded};
use llama_core::text::Specials;
use llama_core::{Error, Loader, Result};
use llama_kernels::{Cpu, CpuOptions, Tier};
use llama_tests::models::{Feed, Machine, bits, data, limits, logits_in_chunks, stories260k};
use llama_tests::tiny::{Case, NAMES, prefix_hit, ragged};

use super::faulty::Faulty;

/// How many ranks a model can be divided among, beyond one.
fn divisors(checkpoint: &Checkpoint) -> impl Iterator<Item = usize> {
    let config = checkpoint.config();
    let sizes = [config.kv_heads, config.hidden, config.ffn];
    (2..=config.kv_heads).filter(move |ranks| sizes.iter().all(|size| size % ranks == 0))
}

#[test]
fn ranks_give_the_reference_bits_in_every_schedule() {
    let mut divided = 0;
    for name in NAMES {
        let case = Case::open(name);
        let mut reference = case.load(Machine::Reference, Numerics::Default);
        let want: Vec<_> =
            case.ids.iter().map(|ids| bits(&logits_in_chunks(&mut *reference, ids, usize::MAX))).collect();
        for ranks in divisors(&case.checkpoint) {
            let mut model = case.load(Machine::Ranks(ranks, 1, Tier::Portable), Numerics::Default);
            for (ids, want) in case.ids.iter().zip(&want) {
                for chunk in [usize::MAX, 1, 7] {
                    let got = bits(&logits_in_chunks(&mut *model, ids, chunk));
                    assert!(got == *want, "{name} on {ranks} ranks in chunks of {chunk}");
                }
                assert!(bits(&prefix_hit(&mut *model, ids)) == *want, "{name} on {ranks} ranks, prefix hit");
            }
            for (got, want) in ragged(&mut *model, &case.ids).iter().zip(&want) {
                assert!(bits(got) == *want, "{name} on {ranks} ranks, ragged");
            }
            divided += 1;
        }
    }
    assert!(divided >= 8, "{divided} models");
}

#[test]
fn every_mode_and_hidden_states() {
    let checkpoint = Checkpoint::open(stories260k()).unwrap();
    let ids: Vec<u32> = (0..100).map(|i| 3 + i * 37 % 509).collect();
    for numerics in Numerics::ALL {
        let step = |machine: Machine| {
            let mut model = machine.load(&checkpoint, limits(1, 128), numerics);
            let (mut batch, mut logits, mut states) = (Batch::new(), Vec::new(), Vec::new());
            Feed::new(&ids, 0, 1, 128).push(&mut batch, ids.len());
            model.forward(&batch, &mut logits).unwrap();
            model.states(&mut states).unwrap();
            model.copy_blocks(&[(0, 20), (1, 21)]).unwrap();
            let mut on_copies = Feed { done: 32, ..Feed::new(&ids, 0, 1, 128) };
            on_copies.blocks[..2].copy_from_slice(&[20, 21]);
            logits.extend(llama_tests::models::run(&mut *model, &mut on_copies, usize::MAX));
            (bits(&logits), bits(&states))
        };
        assert!(step(Machine::Ranks(4, 2, Tier::Portable)) == step(Machine::Reference), "{numerics:?}");
    }
}

fn cpu() -> Cpu {
    Cpu::new(CpuOptions { threads: Some(1), ..CpuOptions::default() }).unwrap()
}

/// What a follower does once it has joined.
type Other<'a> = Box<dyn FnOnce(Follower) -> Result<()> + Send + 'a>;

/// A leader and followers that have met, and what both come to.
fn together<T>(others: Vec<Other<'_>>, lead: impl FnOnce(Leader) -> T) -> (T, Vec<Result<()>>) {
    let door = TcpListener::bind("127.0.0.1:0").unwrap();
    let (ranks, address) = (others.len() + 1, &door.local_addr().unwrap().to_string());
    thread::scope(|scope| {
        let mut joined = Vec::new();
        for other in others {
            joined.push(scope.spawn(move || other(Follower::join(address).unwrap())));
        }
        let led = lead(Leader::wait(&door, ranks).unwrap());
        (led, joined.into_iter().map(|other| other.join().unwrap()).collect())
    })
}

fn two<T>(other: impl FnOnce(Follower) -> Result<()> + Send, lead: impl FnOnce(Leader) -> T) -> (T, Result<()>) {
    let (led, mut others) = together(vec![Box::new(other)], lead);
    (led, others.remove(0))
}

fn story(leader: Leader) -> Result<String> {
    let mut engine = Loader::open(stories260k())?.lead(cpu(), leader)?;
    let prompt = engine.encode("Once upon a time", Specials::AsText)?;
    Ok(engine.complete(Request { max_tokens: Some(5), ..Request::new(prompt) })?.text)
}

#[test]
fn an_engine_leads_until_it_is_dropped() {
    let (text, other) = two(|follower| Loader::open(stories260k())?.follow(cpu(), follower), story);
    assert_eq!(text.unwrap(), ", there was a little");
    other.unwrap();
}

#[test]
fn a_follower_with_another_model_says_so_to_both() {
    let other = data().join("tiny/llama2-mha");
    let (text, other) = two(|follower| Loader::open(other)?.follow(cpu(), follower), story);
    let (leaders, own) = (text.unwrap_err().to_string(), other.unwrap_err().to_string());
    assert!(
        own.starts_with("parameter model = ")
            && own.ends_with("the leader has another model, or another version of it")
    );
    assert!(leaders.starts_with("rank 1 at 127.0.0.1:") && leaders.ends_with(&own), "{leaders}");
}

#[test]
fn a_follower_that_computes_otherwise_says_so() {
    let fast = || Cpu::new(CpuOptions { numerics: Numerics::Fast, ..CpuOptions::default() });
    let (text, other) = two(|follower| Loader::open(stories260k())?.follow(fast()?, follower), story);
    assert!(text.unwrap_err().to_string().contains("parameter numerics = fast: the leader's is default"));
    assert!(matches!(other, Err(Error::Parameter { name: "numerics", .. })));
}

#[test]
fn a_follower_without_memory_says_so() {
    let options = EngineOptions { memory_limit: Some(1 << 10), ..EngineOptions::default() };
    let follow = |follower| Loader::open(stories260k())?.options(options).follow(cpu(), follower);
    let (text, other) = two(follow, story);
    assert!(text.unwrap_err().to_string().contains("memory for the whole model"));
    assert!(matches!(other, Err(Error::Memory { .. })));
}

#[test]
fn a_model_that_cannot_be_divided_names_the_numbers_that_are_possible() {
    let lead = |leader| Loader::open(stories260k())?.lead(cpu(), leader).map(drop);
    let follow = |follower: Follower| Loader::open(stories260k())?.follow(cpu(), follower);
    let (led, others) = together(vec![Box::new(follow), Box::new(follow)], lead);
    let error = led.unwrap_err().to_string();
    assert_eq!(error, "parameter ranks = 3: this model's 4 KV heads cannot be divided by it; possible are 1, 2, 4");
    for other in others {
        let error = other.unwrap_err().to_string();
        assert!(error.starts_with("the leader at 127.0.0.1:") && error.ends_with(": has gone away"), "{error}");
    }
}

/// Carries one connection to `leader` until it is told to end it.
fn carry(door: &TcpListener, leader: SocketAddr, end: &Receiver<()>) {
    let (near, far) = (door.accept().unwrap().0, TcpStream::connect(leader).unwrap());
    thread::scope(|scope| {
        for (from, to) in [(&near, &far), (&far, &near)] {
            scope.spawn(move || std::io::copy(&mut &*from, &mut &*to));
        }
        end.recv().unwrap();
        near.shutdown(Shutdown::Both).unwrap();
        far.shutdown(Shutdown::Both).unwrap();
    });
}

#[test]
fn a_rank_that_is_lost_fails_the_request_and_all_later_ones() {
    let [door, between] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let (address, proxy) = (door.local_addr().unwrap(), between.local_addr().unwrap().to_string());
    let (cut, end) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(move || carry(&between, address, &end));
        let follow = move || Loader::open(stories260k())?.follow(cpu(), Follower::join(&proxy)?);
        let other = scope.spawn(follow);
        let leader = Leader::wait(&door, 2).unwrap();
        let mut engine = Loader::open(stories260k()).unwrap().lead(cpu(), leader).unwrap();
        let request = || Request { max_tokens: Some(5), ..Request::new(vec![1, 2, 3]) };
        engine.complete(request()).unwrap();
        cut.send(()).unwrap();
        let error = other.join().unwrap().unwrap_err().to_string();
        assert!(error.ends_with(": has gone away"), "{error}");
        for _ in 0..3 {
            let error = engine.complete(request()).unwrap_err();
            assert!(matches!(&error, Error::Peer { .. }) && error.to_string().contains("rank 1"), "{error}");
        }
    });
}

/// What the others send is of the step that failed, and must not be taken for the next one's.
#[test]
fn a_leader_that_fails_in_a_step_ends_the_group_at_once() {
    let start = Instant::now();
    let follow = |follower: Follower| {
        follower.serve(cpu(), &Checkpoint::open(stories260k())?, &Adapters::new(), None, &mut |_| ())
    };
    let (errors, others) = together(vec![Box::new(follow), Box::new(follow), Box::new(follow)], |leader| {
        let (backend, checkpoint) = (Faulty::default(), Checkpoint::open(stories260k()).unwrap());
        let calls_left = backend.calls_left.clone();
        let mut model =
            leader.load(backend, &checkpoint, &Adapters::new(), |_| Ok(limits(1, 32)), None, &mut |_| ()).unwrap();
        let mut step = || -> Result<()> {
            let (mut batch, mut logits) = (Batch::new(), Vec::new());
            Feed::new(&[1, 2, 3], 0, 1, 32).push(&mut batch, 3);
            model.forward(&batch, &mut logits)
        };
        step().unwrap();
        calls_left.store(3, Ordering::Relaxed);
        [(); 3].map(|()| step().unwrap_err())
    });
    assert!(matches!(errors[0], Error::Backend { .. }), "{}", errors[0]);
    for error in &errors[1..] {
        assert!(matches!(error, Error::Peer { .. }) && error.to_string().contains("the device has failed"), "{error}");
    }
    assert!(others.iter().all(|other| matches!(other, Err(Error::Peer { .. }))), "{others:?}");
    assert!(start.elapsed() < Duration::from_secs(20), "they waited for the leader");
}

/// All ranks' weights together are the whole model's, and a rank's plan is what it allocates.
#[test]
fn shares_of_memory() {
    let checkpoint = Checkpoint::open(stories260k()).unwrap();
    let limits = limits(2, 64);
    let whole = MemoryPlan::of(&cpu(), &checkpoint, &limits).unwrap();
    let mut plans = Vec::new();
    let follow = |follower: Follower| {
        follower.serve(cpu(), &Checkpoint::open(stories260k())?, &Adapters::new(), None, &mut |_| ())
    };
    two(follow, |leader| {
        let plan = |backend: &Sharded<Cpu>| -> Result<Limits> {
            plans.push(MemoryPlan::of(backend, &checkpoint, &limits)?);
            Ok(limits)
        };
        leader.load(cpu(), &checkpoint, &Adapters::new(), plan, None, &mut |_| ()).map(drop).unwrap();
    })
    .1
    .unwrap();
    let share = plans[0];
    assert_eq!(share.kv_cache, whole.kv_cache / 2);
    assert!(share.weights > whole.weights / 2 && share.weights < whole.weights * 11 / 20, "{share} of {whole}");
}
