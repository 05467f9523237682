//! The CPU backend in the conformance suite: every tier this machine has, with one, two and three threads, gives the bits
//! of the reference backend.

use conformance::conformance_suite;
use conformance::{Agreement, Size, Subject, Suite};
use llama_core::Error;
use llama_core::backend::{Backend, KvFormat, Limits, Numerics, RopeLayout};
use llama_core::batch::BLOCK;
use llama_kernels::{Cpu, CpuOptions, Tier};

struct Threaded(Cpu);

impl Subject for Threaded {
    type Backend = Cpu;

    fn backend(&self) -> &Cpu {
        &self.0
    }
}

fn suite_of(numerics: Numerics, threads: &[usize], size: Size) -> Suite<Threaded> {
    suite_in(false, numerics, threads, size)
}

/// With BF16 in twelve bits where it is to be `compact`.
fn suite_in(compact: bool, numerics: Numerics, threads: &[usize], size: Size) -> Suite<Threaded> {
    let options = |tier, threads| CpuOptions { threads: Some(threads), tier: Some(tier), numerics, compact };
    let subjects = Tier::available()
        .flat_map(|tier| threads.iter().map(move |&n| Threaded(Cpu::new(options(tier, n)).expect("a backend"))));
    Suite { subjects: subjects.collect(), owes: Agreement::Bits(numerics), size }
}

fn suite() -> Suite<Threaded> {
    suite_of(Numerics::Default, &[1, 2, 3], Size::All)
}

conformance_suite!(suite);

/// The same scenes on one thread and at their smallest: what an emulator of a CPU is asked.
mod small {
    use super::*;

    fn suite() -> Suite<Threaded> {
        suite_of(Numerics::Default, &[1], Size::Few)
    }

    conformance_suite!(suite);

    #[test]
    fn other_modes() {
        for numerics in [Numerics::Fast, Numerics::Precise] {
            linear_layers(&suite_of(numerics, &[1], Size::Few));
        }
    }
}

/// Modes differ in linear layers only.
fn linear_layers(suite: &Suite<Threaded>) {
    suite.embedding_linear_and_outputs();
    suite.fused_verbs();
    suite.a_layer();
}

#[test]
fn float_linear_layers() {
    let suite = suite_of(Numerics::Float, &[1, 2, 3], Size::All);
    linear_layers(&suite);
    suite.every_format();
}

#[test]
fn compact_linear_layers() {
    let suite = suite_in(true, Numerics::Default, &[1, 3], Size::All);
    linear_layers(&suite);
    suite.every_format();
    suite.rows_do_not_see_each_other();
}

#[test]
fn precise_linear_layers() {
    let suite = suite_of(Numerics::Precise, &[1, 2, 3], Size::All);
    linear_layers(&suite);
    suite.every_format();
    suite.rows_do_not_see_each_other();
}

#[test]
fn fast_linear_layers() {
    let suite = suite_of(Numerics::Fast, &[1, 3], Size::Few);
    linear_layers(&suite);
    suite.every_format();
}

#[test]
fn a_plan_and_a_cache_hold_what_they_say() {
    let cpu = Cpu::new(CpuOptions { threads: Some(2), ..CpuOptions::default() }).expect("a backend");
    let shape = conformance::shape(4, 2, 36, 20, RopeLayout::Halves);
    // K has 36 columns and V 48, rounded up to vectors; a group of 32 and what is left have a scale each.
    let rows = [
        (KvFormat::Half, 2 * (36 + 48)),
        (KvFormat::F32, 4 * (36 + 48)),
        (KvFormat::Bf16, 2 * (36 + 48)),
        (KvFormat::Q8, 36 + 48 + 2 * 2 * 4),
    ];
    for (kv, row) in rows {
        let limits = Limits { tokens: 1024, sequences: 1, outputs: 1024, context: 43, blocks: 6, kv };
        let heads = shape.layers * limits.blocks * shape.kv_heads;
        assert_eq!(cpu.kv_bytes(&shape, &limits), (heads * BLOCK * row) as u64, "{kv:?}");
        cpu.kv_cache(&shape, &limits).expect("a cache");
        assert!(cpu.scratch_bytes(&shape, &limits, 128) > 0);
    }
}

/// The one format that is only a GPU's is refused by name.
#[test]
fn a_format_for_gpus_is_refused() {
    let cpu = Cpu::new(CpuOptions { threads: Some(1), ..CpuOptions::default() }).expect("a backend");
    let limits = Limits { tokens: 8, sequences: 1, outputs: 8, context: 32, blocks: 2, kv: KvFormat::F8 };
    let refused = cpu.kv_cache(&conformance::shape(4, 2, 16, 16, RopeLayout::Halves), &limits);
    assert!(matches!(refused.err(), Some(Error::Parameter { name: "kv", .. })));
}
