//! The kernels that benchmarks measure a GPU's ceilings with: one that did not read or multiply would measure nothing.

use ptx_sim::{Arg, Launch, Memory, Module, launch};

fn module(file: &str) -> Module {
    let path = format!("{}/../../benches/ptx/{file}.ptx", env!("CARGO_MANIFEST_DIR"));
    Module::parse(&std::fs::read_to_string(path).expect("the PTX is part of the repository")).expect("PTX")
}

#[test]
fn every_word_is_read_once() {
    // Two blocks: a whole round of eight loads a thread, and a rest that ends inside a block.
    let words: Vec<u32> = (0..4 * (2 * 256 * 8 + 300)).map(|i: u32| i.wrapping_mul(0x9E37_79B9) ^ i << 7).collect();
    let mut memory = Memory::new();
    let (x, out) = (memory.upload(&words), memory.alloc(8));
    let args = [Arg::Buffer(x), Arg::U64(words.len() as u64 / 4), Arg::Buffer(out)];
    launch(&module("compute_80/ceiling"), "read_ceiling", &mut memory, Launch::new(2, 256), &args).expect("no finding");
    let folds = memory.read::<u32>(out).expect("written");
    assert_eq!(folds[0] ^ folds[1], words.iter().fold(0, |a, b| a ^ b));
}

#[test]
fn every_product_is_added() {
    let mut memory = Memory::new();
    let out = memory.alloc(4 * 256);
    let args = [Arg::Buffer(out), Arg::U32(0x3F80_3F80), Arg::U32(3)];
    launch(&module("compute_80/ceiling"), "mma_ceiling", &mut memory, Launch::new(1, 256), &args).expect("no finding");
    // Three rounds of eight chains, four sums a lane, sixteen products of ones in each.
    assert_eq!(memory.read::<f32>(out).expect("written"), vec![3.0 * 8.0 * 4.0 * 16.0; 256]);
}

/// Rounds of 64 x 256 x 16, a multiple of eight.
#[test]
fn every_product_of_a_warpgroup_is_added() {
    let mut memory = Memory::new();
    let out = memory.alloc(4 * 256);
    let args = [Arg::Buffer(out), Arg::U32(0x3F80_3F80), Arg::U32(16)];
    launch(&module("compute_90a/ceiling_sm90"), "wgmma_ceiling", &mut memory, Launch::new(1, 256), &args)
        .expect("no finding");
    assert_eq!(memory.read::<f32>(out).expect("written"), vec![16.0 * 128.0 * 16.0; 256]);
}
