//! Decode attention: ragged contexts over a shuffled paged cache whose unused slots hold nothing at all.

use ptx_sim::{Arg, Launch, Memory, Module};

use super::cases::{Covered, go};
use super::{Rng, all_bf16, bf16, from_bf16, judge};

struct Shape {
    head_dim: usize,
    heads: usize,
    kv_heads: usize,
    block_len: usize,
    contexts: Vec<u32>,
}

/// A paged cache and where its blocks are.
struct Cache {
    tables: Vec<u32>,
    max_blocks: usize,
    k: Vec<Option<u16>>,
    v: Vec<Option<u16>>,
}

pub fn decode_case(module: &Module) -> Result<Covered, String> {
    let mut covered = Vec::new();
    let shapes = [
        Shape { head_dim: 64, heads: 6, kv_heads: 2, block_len: 16, contexts: vec![1, 37, 1290] },
        Shape { head_dim: 128, heads: 8, kv_heads: 1, block_len: 16, contexts: vec![257, 100] },
        Shape { head_dim: 64, heads: 2, kv_heads: 2, block_len: 5, contexts: vec![256, 300] },
    ];
    for shape in &shapes {
        run(&mut covered, module, shape)?;
    }
    Ok(covered)
}

impl Shape {
    fn slot(&self, cache: &Cache, sequence: usize, position: usize, kv_head: usize) -> usize {
        let block = cache.tables[sequence * cache.max_blocks + position / self.block_len] as usize;
        ((block * self.kv_heads + kv_head) * self.block_len + position % self.block_len) * self.head_dim
    }

    fn longest(&self) -> usize {
        self.contexts.iter().copied().max().unwrap_or(0) as usize
    }

    fn cache(&self, rng: &mut Rng) -> Cache {
        let max_blocks = self.longest().div_ceil(self.block_len);
        let blocks = max_blocks * self.contexts.len();
        let mut tables: Vec<u32> = (0..blocks as u32).collect();
        for i in (1..blocks).rev() {
            tables.swap(i, rng.below(i + 1));
        }
        let empty = vec![None; blocks * self.kv_heads * self.block_len * self.head_dim];
        let mut cache = Cache { tables, max_blocks, k: empty.clone(), v: empty };
        for (sequence, &context) in self.contexts.iter().enumerate() {
            for position in 0..context as usize {
                for kv_head in 0..self.kv_heads {
                    let at = self.slot(&cache, sequence, position, kv_head);
                    let (k, v) = (rng.bf16s(self.head_dim), rng.bf16s(self.head_dim));
                    cache.k[at..at + self.head_dim].copy_from_slice(&k.into_iter().map(Some).collect::<Vec<_>>());
                    cache.v[at..at + self.head_dim].copy_from_slice(&v.into_iter().map(Some).collect::<Vec<_>>());
                }
            }
        }
        cache
    }

    /// Doubles the scores' usual spread, so that the softmax is not flat.
    fn scale(&self) -> f64 {
        2.0 / (self.head_dim as f64).sqrt()
    }
}

fn run(covered: &mut Covered, module: &Module, shape: &Shape) -> Result<(), String> {
    let (mut rng, mut memory) = (Rng(20), Memory::new());
    let cache = shape.cache(&mut rng);
    let (sequences, width) = (shape.contexts.len(), (shape.heads + 2 * shape.kv_heads) * shape.head_dim);
    let qkv = rng.bf16s(sequences * width);
    let partitions = shape.longest().div_ceil(256);
    let rows = sequences * shape.heads;

    let partials = memory.alloc(rows * partitions * shape.head_dim * 4);
    let stats = memory.alloc(rows * partitions * 8);
    let out = memory.alloc(rows * shape.head_dim * 2);
    let contexts = memory.upload(&shape.contexts);
    let mut args: Vec<Arg> = [partials, stats, memory.upload(&qkv)].map(Arg::Buffer).to_vec();
    args.extend([memory.upload_partly(&cache.k), memory.upload_partly(&cache.v)].map(Arg::Buffer));
    args.extend([contexts, memory.upload(&cache.tables)].map(Arg::Buffer));
    args.extend([cache.max_blocks, shape.block_len, shape.heads, width].map(|n| Arg::U32(n as u32)));
    args.push(Arg::F32((shape.scale() * std::f64::consts::LOG2_E) as f32));
    let kernel = if shape.head_dim == 64 { "attention_decode_bf16_64" } else { "attention_decode_bf16_128" };
    let grid = Launch { grid: [partitions as u32, shape.kv_heads as u32, sequences as u32], ..Launch::new(1, 128) };
    go(covered, module, kernel, &mut memory, grid, &args)?;

    let mut args: Vec<Arg> = [out, partials, stats, contexts].map(Arg::Buffer).to_vec();
    args.push(Arg::U32(partitions as u32));
    let grid = Launch::new(1, shape.head_dim as u32).grid(shape.heads as u32, sequences as u32);
    go(covered, module, "attention_combine_bf16", &mut memory, grid, &args)?;
    let got = all_bf16(&memory.read(out).map_err(|fault| fault.to_string())?);
    let truth = attend(shape, &cache, &qkv, |x| x);
    judge(kernel, &got, &attend(shape, &cache, &qkv, bf16), &truth)
}

/// Attention with every intermediate value rounded by `round`.
fn attend(shape: &Shape, cache: &Cache, qkv: &[u16], round: fn(f64) -> f64) -> Vec<f64> {
    let (dim, width) = (shape.head_dim, (shape.heads + 2 * shape.kv_heads) * shape.head_dim);
    let value = |cache: &[Option<u16>], at: usize| from_bf16(cache[at].expect("a slot in use"));
    let mut out = Vec::new();
    for (sequence, &context) in shape.contexts.iter().enumerate() {
        for head in 0..shape.heads {
            let q = &qkv[sequence * width + head * dim..][..dim];
            let kv_head = head * shape.kv_heads / shape.heads;
            let rows: Vec<usize> =
                (0..context as usize).map(|position| shape.slot(cache, sequence, position, kv_head)).collect();
            let dot = |at: usize| (0..dim).map(|i| from_bf16(q[i]) * value(&cache.k, at + i)).sum::<f64>();
            let scores: Vec<f64> = rows.iter().map(|&at| round(dot(at) * shape.scale())).collect();
            let highest = scores.iter().copied().fold(f64::MIN, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| (s - highest).exp()).collect();
            let sum: f64 = weights.iter().sum();
            let weights: Vec<f64> = weights.iter().map(|w| round(w / sum)).collect();
            for i in 0..dim {
                out.push(round(rows.iter().zip(&weights).map(|(&at, w)| w * value(&cache.v, at + i)).sum()));
            }
        }
    }
    out
}
