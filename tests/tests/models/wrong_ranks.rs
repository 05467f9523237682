//! Ranks that are none: they meet the others as a rank does, word by word, and then send what no rank sends. docs/ranks.md
//! promises that it is checked like any other input: the other ends with an error, and panics at nothing.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;

use super::batches::{NO_ADAPTER, bend};
use llama_core::adapter::Adapters;
use llama_core::backend::{Limits, Numerics};
use llama_core::batch::Batch;
use llama_core::checkpoint::Checkpoint;
use llama_core::ranks::Follower;
use llama_core::{Error, Result};
use llama_kernels::{Cpu, CpuOptions};
use llama_tests::models::{Feed, limits, stories260k};
use proptest::prelude::*;
use proptest::sample::Index;

const GREETING: u32 = 0x4C4C_4D52;
const WELCOME: u32 = 1;
const SETUP: u32 = 10;
const READY: u32 = 11;
const STEP: u32 = 13;
const COPY: u32 = 14;
const READ_BLOCK: u32 = 15;
const WRITE_BLOCK: u32 = 16;
const BYE: u32 = 17;

/// Bytes of a block of stories260K in f32: five layers, four KV heads, 16 positions, eight columns of K and of V twice as many, which
/// are whole vectors.
const BLOCK_BYTES: usize = 5 * 4 * 16 * (8 + 16) * 4;

/// What a follower was made for.
fn made_for() -> Limits {
    Limits { outputs: 8, ..limits(2, 64) }
}

fn frame(words: &[u32]) -> Vec<u8> {
    [words.len() as u32].iter().chain(words).flat_map(|word| word.to_ne_bytes()).collect()
}

fn list(words: &[u32]) -> Vec<u32> {
    [&[words.len() as u32], words].concat()
}

fn text(text: &str) -> Vec<u32> {
    list(&text.bytes().map(u32::from).collect::<Vec<_>>())
}

fn number(number: u64) -> [u32; 2] {
    [number as u32, (number >> 32) as u32]
}

/// The kind and the words of the next message.
fn received(mut stream: &TcpStream) -> Vec<u32> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut bytes = vec![0; 4 * u32::from_ne_bytes(length) as usize];
    stream.read_exact(&mut bytes).unwrap();
    bytes.as_chunks().0.iter().map(|word| u32::from_ne_bytes(*word)).collect()
}

/// A leader by hand: what it says, and where numbers go.
struct Wrong {
    wire: TcpStream,
    numbers: TcpStream,
}

impl Wrong {
    /// Welcomes a follower at `door` as the second of two ranks.
    fn meet(door: &TcpListener) -> Self {
        let (mut wire, address) = door.accept().unwrap();
        let greeting = received(&wire);
        let follower = format!("{}:{}", address.ip(), greeting[2]);
        let group = number(7);
        wire.write_all(&frame(&[&[WELCOME, 1, 2], &group[..], &text(&follower)].concat())).unwrap();
        let mut numbers = TcpStream::connect(follower).unwrap();
        numbers.write_all(&frame(&[&[GREETING], &group[..], &[0]].concat())).unwrap();
        Wrong { wire, numbers }
    }

    /// Has it load what it would have it load.
    fn set_up(&mut self, checkpoint: &Checkpoint, limits: Limits) {
        let Limits { tokens, sequences, outputs, context, blocks, kv } = limits;
        let sizes = [tokens, sequences, outputs, context, blocks].map(|size| number(size as u64)).concat();
        let names = [text(Numerics::Default.name()), text(kv.name())].concat();
        self.say(&[&[SETUP], &number(checkpoint.contents())[..], &number(0), &names, &sizes].concat());
    }

    /// Does not care whether it is heard.
    fn say(&mut self, message: &[u32]) {
        let _ = self.wire.write_all(&frame(message));
    }
}

/// What a follower comes to that hears `messages` once it has loaded, and gets `numbers` beside them.
fn follower_of(messages: &[Vec<u32>], numbers: &[f32]) -> Result<()> {
    let door = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = door.local_addr().unwrap().to_string();
    let checkpoint = Checkpoint::open(stories260k()).unwrap();
    thread::scope(|scope| {
        let follower = scope.spawn(|| {
            let cpu = Cpu::new(CpuOptions { threads: Some(1), ..CpuOptions::default() })?;
            Follower::join(&address)?.serve(cpu, &checkpoint, &Adapters::new(), None, &mut |_| ())
        });
        let mut wrong = Wrong::meet(&door);
        wrong.set_up(&checkpoint, made_for());
        assert_eq!(received(&wrong.wire), [READY]);
        let _ = wrong.numbers.write_all(&numbers.iter().flat_map(|number| number.to_ne_bytes()).collect::<Vec<_>>());
        messages.iter().for_each(|message| wrong.say(message));
        // It can still send what it has to, and waits for nothing more.
        let _ = [&wrong.wire, &wrong.numbers].map(|stream| stream.shutdown(Shutdown::Write));
        follower.join().expect("a follower that does not panic")
    })
}

fn step(batch: &Batch) -> Vec<u32> {
    let Batch { tokens, positions, q_indptr, kv_indptr, block_ids, outputs, adapters } = batch;
    let adapters = &adapters.iter().map(|adapter| adapter.unwrap_or(NO_ADAPTER)).collect();
    let lists = [tokens, positions, q_indptr, kv_indptr, block_ids, outputs, adapters];
    [vec![STEP], lists.map(|words| list(words)).concat()].concat()
}

fn write_block(block: u32, bytes: usize) -> Vec<u32> {
    [vec![WRITE_BLOCK, block], list(&vec![0x3F80_0000; bytes / 4])].concat()
}

/// A step that a leader could have sent.
fn batch() -> Batch {
    let mut batch = Batch::new();
    for (first, rows) in [(0, 20), (8, 3)] {
        Feed::new(&[5; 20], first, 1, 32).push(&mut batch, rows);
    }
    batch.outputs.truncate(3);
    batch
}

#[test]
fn a_block_of_a_wrong_length_or_number_ends_a_follower_with_an_error() {
    follower_of(&[write_block(3, BLOCK_BYTES), vec![BYE]], &[]).unwrap();
    let blocks = made_for().blocks as u32;
    for message in [
        write_block(3, 0),
        write_block(3, 4),
        write_block(3, BLOCK_BYTES - 4),
        write_block(3, BLOCK_BYTES + 4),
        write_block(3, BLOCK_BYTES + 40),
        write_block(3, 2 * BLOCK_BYTES),
        write_block(3, BLOCK_BYTES / 2),
        write_block(blocks, BLOCK_BYTES),
        write_block(u32::MAX, BLOCK_BYTES),
        vec![READ_BLOCK, blocks],
        vec![COPY, 1, 0, blocks],
    ] {
        let error = follower_of(&[message.clone(), vec![BYE]], &[]).unwrap_err();
        assert!(matches!(error, Error::Parameter { .. }), "{:?}: {error}", &message[..3.min(message.len())]);
    }
}

#[test]
fn a_message_of_another_form_ends_a_follower_with_an_error() {
    for message in [
        vec![0],
        vec![READY],
        vec![READ_BLOCK],
        vec![READ_BLOCK, 1, 1],
        vec![WRITE_BLOCK, 1],
        vec![WRITE_BLOCK, 1, 8],
        [write_block(1, BLOCK_BYTES), vec![1]].concat(),
        vec![COPY, 2, 0, 1],
        vec![COPY, u32::MAX, 0, 1],
        vec![STEP, 1, 5],
        [step(&batch()), vec![1]].concat(),
    ] {
        let error = follower_of(&[message.clone(), vec![BYE]], &[]).unwrap_err();
        assert!(matches!(error, Error::Peer { .. }), "{:?}: {error}", &message[..3.min(message.len())]);
    }
}

/// They can make a model say anything, and nothing else.
#[test]
fn numbers_that_are_none_end_no_follower() {
    let messages = [step(&batch()), vec![READ_BLOCK, 0], vec![BYE]];
    for number in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN_POSITIVE / 8.0, -0.0] {
        follower_of(&messages, &vec![number; 1 << 16]).unwrap();
    }
}

/// A step, with some words changed, added or taken away.
fn bent_step() -> impl Strategy<Value = Vec<u32>> {
    let word = prop_oneof![4 => 0..40_u32, 1 => any::<u32>()];
    let change = (0..7_usize, any::<Index>(), 0..3_u8, word);
    prop::collection::vec(change, 1..4).prop_map(|changes| step(&bend(batch(), changes)))
}

fn message() -> impl Strategy<Value = Vec<u32>> {
    let words = prop::collection::vec(prop_oneof![4 => 0..40_u32, 1 => any::<u32>()], 0..40);
    let any = (0..20_u32, words).prop_map(|(kind, words)| [vec![kind], words].concat());
    let write = (0..30_u32, 0..2 * BLOCK_BYTES).prop_map(|(block, bytes)| write_block(block, bytes));
    let copy = prop::collection::vec(0..26_u32, 0..8).prop_map(|ids| [vec![COPY, ids.len() as u32 / 2], ids].concat());
    prop_oneof![4 => bent_step(), 1 => any, 1 => write, 1 => copy]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_that_is_said_makes_a_follower_panic(messages in prop::collection::vec(message(), 1..6)) {
        let _ = follower_of(&messages, &[0.5; 1 << 14]);
    }
}
