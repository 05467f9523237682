//! The CPU backend in the conformance suite: every tier this machine has, with one, two and three threads, gives the bits
//! of the reference backend.

use llama_core::backend::{Backend, KvFormat, Limits, Numerics, RopeLayout};
use llama_core::batch::BLOCK;
use llama_kernels::{Cpu, CpuOptions, Tensor, Tier};
use llama_tests::conformance::{Agreement, Size, Subject, Suite};
use llama_tests::conformance_suite;

struct Threaded(Cpu);

impl Subject for Threaded {
    type Backend = Cpu;

    fn backend(&self) -> &Cpu {
        &self.0
    }

    fn write(&self, tensor: &mut Tensor, values: &[f32]) {
        tensor.data_mut().copy_from_slice(values);
    }
}

fn suite_of(numerics: Numerics) -> Suite<Threaded> {
    let options = |tier, threads| CpuOptions { threads: Some(threads), tier: Some(tier), numerics };
    let subjects = Tier::available()
        .flat_map(|tier| [1, 2, 3].map(|threads| Threaded(Cpu::new(options(tier, threads)).expect("a backend"))));
    Suite { subjects: subjects.collect(), owes: Agreement::Bits(numerics), size: Size::All }
}

fn suite() -> Suite<Threaded> {
    suite_of(Numerics::Default)
}

conformance_suite!(suite);

/// The other mode differs in linear layers only.
#[test]
fn precise_linear_layers() {
    let suite = suite_of(Numerics::Precise);
    suite.embedding_linear_and_outputs();
    suite.every_format();
    suite.a_layer();
}

#[test]
fn a_plan_and_a_cache_hold_what_they_say() {
    let cpu = Cpu::new(CpuOptions { threads: Some(2), ..CpuOptions::default() }).expect("a backend");
    let shape = llama_tests::conformance::shape(4, 2, 20, 20, RopeLayout::Halves);
    let limits = Limits { tokens: 1024, sequences: 1, outputs: 1024, context: 43, blocks: 6, kv: KvFormat::Half };
    let elements = shape.layers * limits.blocks * shape.kv_heads * BLOCK * (20 + 32);
    assert_eq!(cpu.kv_bytes(&shape, &limits), elements as u64 * 2 + 2 * 64);
    assert!(cpu.scratch_bytes(&shape, &limits, 128) > 0);
}
