//! Attention by itself, one layer: a prompt of 512 tokens, and one token at depth, for the shapes of SmolLM2-135M, Llama
//! 3.2 1B and Llama 3.1 8B. Throughput is in multiply-accumulates of f32 (scores and values); the ceiling is the tier's
//! fused multiply-adds per second. Every case is checked against the reference backend, bit for bit, before it is timed.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use llama_benches::ceiling;
use llama_core::backend::reference::Matrix;
use llama_core::backend::{AttentionShape, Backend, KvFormat, Limits, Numerics, Reference, Role, RopeLayout};
use llama_core::batch::{BLOCK, Batch};
use llama_kernels::threads::Threads;
use llama_kernels::{Cpu, CpuOptions, Tensor, Tier};

/// Name, query heads, KV heads, columns of a head.
const SHAPES: [(&str, usize, usize, usize); 3] = [("smollm2-135m", 9, 3, 64), ("1b", 32, 8, 64), ("8b", 32, 8, 128)];

/// Name, cached positions, new tokens.
const STEPS: [(&str, usize, usize); 3] = [("prefill-512", 0, 512), ("decode-1k", 1023, 1), ("decode-8k", 8191, 1)];

fn shape(heads: usize, kv_heads: usize, head_dim: usize) -> AttentionShape {
    let scale = 1.0 / (head_dim as f32).sqrt();
    let (inv_freq, rope_scale, layout) = (vec![0.01; head_dim / 2], 1.0, RopeLayout::Halves);
    AttentionShape {
        layers: 1,
        heads,
        kv_heads,
        head_dim,
        inv_freq,
        rope_scale,
        layout,
        unturned: Vec::new(),
        scale,
        window: None,
        temperature: None,
    }
}

/// Chunks of at most 512 tokens: those that fill the cache, and the one that is timed.
fn batches(cached: usize, new: usize, table: &[u32]) -> Vec<Batch> {
    let fill = (0..cached).step_by(512).map(|start| (start, 512.min(cached - start)));
    let chunks = fill.chain([(cached, new)]);
    let batch = |(start, rows)| {
        let mut batch = Batch::new();
        batch.push(&vec![0; rows], start as u32, table, []);
        batch
    };
    chunks.map(batch).collect()
}

/// The same numbers for every backend.
fn qkv(batch: &Batch, cols: usize) -> Vec<f32> {
    let first = u64::from(batch.positions[0]) * cols as u64;
    (first..first + (batch.rows() * cols) as u64)
        .map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as f32 / (1u64 << 23) as f32 - 1.0)
        .collect()
}

/// A backend with its cache filled, ready for the step that is timed.
struct Case<B: Backend> {
    backend: B,
    kv: B::KvCache,
    plan: B::Plan,
    qkv: B::Tensor,
    out: B::Tensor,
}

impl<B: Backend> Case<B> {
    fn new(
        backend: B,
        shape: &AttentionShape,
        (cached, new): (usize, usize),
        fill: fn(&mut B::Tensor, &[f32]),
    ) -> Self {
        let blocks = (cached + new).div_ceil(BLOCK);
        let limits =
            Limits { tokens: 512, sequences: 1, outputs: 1, context: blocks * BLOCK, blocks, kv: KvFormat::Half };
        let mut kv = backend.kv_cache(shape, &limits).expect("memory");
        let mut plan = backend.plan(shape, &limits).expect("memory");
        let table: Vec<u32> = (0..blocks as u32).rev().collect();
        let mut last = None;
        for batch in batches(cached, new, &table) {
            let mut rows = backend.tensor(batch.rows(), shape.qkv_cols(), Role::Activation).expect("memory");
            fill(&mut rows, &qkv(&batch, shape.qkv_cols()));
            backend.prepare(&mut plan, &batch).expect("prepare");
            backend.rope_and_store(&mut rows, &mut kv, 0, &plan).expect("rope_and_store");
            last = Some(rows);
        }
        let out = backend.tensor(new, shape.heads * shape.head_dim, Role::Activation).expect("memory");
        Case { backend, kv, plan, qkv: last.expect("a step"), out }
    }

    fn attend(&mut self) {
        self.backend.attention(&mut self.out, &self.qkv, &self.kv, 0, &self.plan).expect("attention");
    }

    fn result(&mut self) -> Vec<u32> {
        self.attend();
        let mut out = Vec::new();
        self.backend.read(&self.out, &mut out).expect("read");
        out.iter().map(|x| x.to_bits()).collect()
    }
}

fn fill_matrix(out: &mut Matrix, x: &[f32]) {
    let cols = llama_core::backend::Rows::cols(out);
    x.chunks_exact(cols).enumerate().for_each(|(r, x)| out.row_mut(r).copy_from_slice(x));
}

fn fill_tensor(out: &mut Tensor, x: &[f32]) {
    out.data_mut().copy_from_slice(x);
}

fn attention(c: &mut Criterion) {
    let mut group = c.benchmark_group("attention");
    for (model, heads, kv_heads, head_dim) in SHAPES {
        let shape = shape(heads, kv_heads, head_dim);
        for (step, cached, new) in STEPS {
            let want = Case::new(Reference::new(Numerics::Default), &shape, (cached, new), fill_matrix).result();
            let visible: usize = (cached + 1..=cached + new).sum();
            group.throughput(Throughput::Elements((2 * visible * heads * head_dim) as u64));
            // The best may be one that is named.
            let others = [Tier::Avx2, Tier::Portable].into_iter().filter(|&tier| tier != Tier::best());
            let teams = [(Tier::best(), 1), (Tier::best(), 2)].into_iter().chain(others.map(|tier| (tier, 1)));
            for (tier, threads) in teams {
                let options = CpuOptions { threads: Some(threads), tier: Some(tier), ..CpuOptions::default() };
                let Ok(cpu) = Cpu::new(options) else { continue };
                let mut case = Case::new(cpu, &shape, (cached, new), fill_tensor);
                assert!(case.result() == want, "{model} {step} on {} differs from the reference", case.backend.name());
                let team = Threads::new(threads).expect("threads");
                println!("ceiling: {:.1} GMAC/s", 1e-9 * ceiling::macs_per_second(&team, tier, true, 2_000_000));
                let id = BenchmarkId::new(format!("{model}/{step}"), format!("{tier}-{threads}"));
                group.bench_function(id, |b| b.iter(|| case.attend()));
            }
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = attention
}
criterion_main!(benches);
