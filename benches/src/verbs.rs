//! Each verb of a layer by itself on a GPU, beside the machine's ceiling: bytes over the rate that memory is read at, or
//! products over the rate of the matrix unit.
//!
//! A verb is recorded with several weights in turn, so that none is still in a cache when it is read again, and the
//! recording is replayed until it has taken long enough to be timed by the host's clock. A model fuses verbs, so its step
//! takes less than the sum of these.

use std::time::Instant;

use llama_core::Result;
use llama_core::backend::{AttentionShape, Backend, KvFormat, Limits, LowRank, Part, Role, RopeLayout};
use llama_core::batch::{BLOCK, Batch, Stage};
use llama_core::checkpoint::TensorView;
use llama_core::format::Format;
use llama_cuda::{Cuda, Tensor, Weight};

use crate::random::{Pool, Sizes};

/// Seconds that a timing should last.
const LONG_ENOUGH: f64 = 0.02;
/// Of an adapter, as many are trained.
pub const RANK: usize = 16;

fn limits(tokens: usize, sequences: usize, context: usize) -> Limits {
    let blocks = sequences * context.div_ceil(BLOCK);
    Limits { tokens, sequences, outputs: sequences, context, blocks, kv: KvFormat::Half }
}

/// What was measured of one verb.
#[derive(Debug, Clone)]
pub struct Row {
    /// The verb, what it is on.
    pub what: String,
    /// Rows of activations.
    pub tokens: usize,
    /// Seconds of one call.
    pub seconds: f64,
    /// Bytes it must read and write.
    pub bytes: f64,
    /// Multiply-adds it must do.
    pub products: f64,
}

/// The verbs of a model's shape.
pub struct Verbs<'a> {
    cuda: &'a Cuda,
    sizes: Sizes,
    format: Format,
    pool: Pool,
    uncached: u64,
    repeat: usize,
}

impl<'a> Verbs<'a> {
    /// On a backend, with weights of `format`. All copies of a weight have at least `uncached` bytes, which should be
    /// several times the largest cache. The fastest of `repeat` timings counts.
    pub fn new(cuda: &'a Cuda, sizes: Sizes, format: Format, uncached: u64, repeat: usize) -> Self {
        Verbs { cuda, sizes, format, pool: Pool::new(format), uncached, repeat }
    }

    /// Every linear layer for each number of tokens.
    ///
    /// # Errors
    /// What the backend says.
    pub fn linears(&self, tokens: &[usize]) -> Result<Vec<Row>> {
        let (Sizes { hidden, ffn, vocab, .. }, (q, kv)) = (self.sizes, self.sizes.widths());
        let shapes = [
            ("qkv", q + 2 * kv, hidden, Role::Activation),
            ("o", hidden, q, Role::Activation),
            ("gate_up", 2 * ffn, hidden, Role::Activation),
            ("down", hidden, ffn, Role::Activation),
            ("head", vocab, hidden, Role::Logits),
        ];
        let mut table = Vec::new();
        for (name, rows, cols, role) in shapes {
            let weights = self.weights(rows, cols)?;
            // A plan for so many tokens has the room that matrices of many columns are packed in.
            let limits = limits(*tokens.iter().max().unwrap_or(&1), 1, 1);
            let _plan = self.cuda.plan(&self.shape(), &limits)?;
            for &tokens in tokens {
                // Logits are wanted of one row a sequence: of no more than a decode has.
                let tokens = if role == Role::Logits { tokens.min(16) } else { tokens };
                table.push(self.linear(name, &weights, (rows, cols), tokens, role)?);
            }
        }
        table.dedup_by(|a, b| a.what == b.what && a.tokens == b.tokens);
        Ok(table)
    }

    fn weights(&self, rows: usize, cols: usize) -> Result<Vec<Weight>> {
        let bytes = self.pool.matrix(rows, cols);
        let view = TensorView::new("random", self.format, rows, cols, &bytes)?;
        let copies = self.uncached.div_ceil(bytes.len() as u64).clamp(2, 32);
        (0..copies).map(|_| self.cuda.weight(&[Part { weight: view, bias: None }])).collect()
    }

    fn linear(
        &self,
        name: &str,
        weights: &[Weight],
        (rows, cols): (usize, usize),
        tokens: usize,
        role: Role,
    ) -> Result<Row> {
        let (x, mut out) = (self.cuda.tensor(tokens, cols, Role::Activation)?, self.cuda.tensor(tokens, rows, role)?);
        let seconds =
            self.time(weights.len(), || weights.iter().try_for_each(|weight| self.cuda.linear(&mut out, &x, weight)))?;
        let moved = self.cuda.weight_bytes(&[(self.format, rows, cols)])
            + self.cuda.tensor_bytes(tokens, cols, Role::Activation)
            + self.cuda.tensor_bytes(tokens, rows, role);
        let what = format!("linear {name} [{rows}, {cols}] {}", self.format.name());
        Ok(Row { what, tokens, seconds, bytes: moved as f64, products: (tokens * rows * cols) as f64 })
    }

    /// What adapters add to a layer's first and last linear, with a rank of [`RANK`] for each of their matrices: one token of
    /// each of `sequences`, each with an adapter of its own, then a prompt with one.
    ///
    /// # Errors
    /// What the backend says.
    pub fn adapters(&self, sequences: &[usize], prompt: usize) -> Result<Vec<Row>> {
        let (Sizes { hidden, ffn, .. }, (q, kv)) = (self.sizes, self.sizes.widths());
        let shapes: [(_, &[usize], _, _); 2] =
            [("qkv", &[q, kv, kv], hidden, Role::Local), ("down", &[hidden], ffn, Role::Residual)];
        let batches = || sequences.iter().map(|&s| (s, 1)).chain([(1, prompt)]);
        shapes.into_iter().flat_map(|shape| batches().map(move |batch| self.adapted(shape, batch))).collect()
    }

    fn adapted(
        &self,
        (name, parts, cols, role): (&str, &[usize], usize, Role),
        (sequences, each): (usize, usize),
    ) -> Result<Row> {
        let (b, tokens, rows) = (self.cuda, sequences * each, parts.iter().sum::<usize>());
        let ranks: Vec<_> = parts.iter().map(|&rows| (rows, RANK)).collect();
        let bytes = sequences as u64 * b.adapter_bytes(cols, &ranks, role);
        let set = || (0..sequences).map(|_| self.adapter(parts, cols, role).map(Some)).collect::<Result<Vec<_>>>();
        let sets = (0..self.uncached.div_ceil(bytes).clamp(2, 32)).map(|_| set()).collect::<Result<Vec<_>>>()?;
        let mut plan = b.plan(&self.shape(), &limits(tokens, sequences, each))?;
        let mut batch = Batch::new();
        for s in 0..sequences as u32 {
            let blocks: Vec<u32> = (0..each.div_ceil(BLOCK) as u32).collect();
            batch.push(&vec![0; each], 0, &blocks, []);
            batch.adapt(Some(s));
        }
        b.prepare(&mut plan, &batch)?;
        let (x, mut out) = (b.tensor(tokens, cols, Role::Activation)?, b.tensor(tokens, rows, role)?);
        let mut low = b.tensor(tokens, parts.len() * RANK, Role::Residual)?;
        let mut all = || sets.iter().try_for_each(|set| b.adapt(&mut out, &mut low, &x, set, &plan, Stage::Tokens));
        let seconds = self.time(sets.len(), &mut all)?;
        let moved = bytes + b.tensor_bytes(tokens, cols, Role::Activation) + 2 * b.tensor_bytes(tokens, rows, role);
        let what = format!("adapt {name} [{rows}, {cols}], {} x {RANK}", parts.len());
        let products = tokens * RANK * (parts.len() * cols + rows);
        Ok(Row { what, tokens, seconds, bytes: moved as f64, products: products as f64 })
    }

    fn adapter(&self, parts: &[usize], cols: usize, role: Role) -> Result<<Cuda as Backend>::Adapter> {
        let rows: usize = parts.iter().sum();
        let numbers = vec![0u8; 4 * RANK * rows.max(cols)];
        let view = |rows, cols| TensorView::new("adapter", Format::F32, rows, cols, &numbers[..4 * rows * cols]);
        let mut first_row = 0;
        let mut part = |&rows: &usize| {
            let part = LowRank { first_row, a: view(RANK, cols)?, b: view(rows, RANK)? };
            first_row += rows;
            Ok(part)
        };
        let changes = parts.iter().map(&mut part).collect::<Result<Vec<_>>>()?;
        let ranks: Vec<_> = parts.iter().map(|&rows| (rows, RANK)).collect();
        let mut adapter = self.cuda.adapter([rows, cols], &ranks, role)?;
        self.cuda.set_adapter(&mut adapter, &changes, role)?;
        Ok(adapter)
    }

    /// Norm, SwiGLU, rotation and attention: a token of each of `sequences` after `context`, then a prompt.
    ///
    /// # Errors
    /// What the backend says.
    pub fn others(&self, sequences: &[usize], context: usize, prompt: usize) -> Result<Vec<Row>> {
        let mut table = Vec::new();
        for (tokens, each) in sequences.iter().map(|&s| (s, 1)).chain([(1, prompt)]) {
            table.extend(self.elementwise(tokens * each)?);
            table.extend(self.attention(tokens, each, if each == 1 { context } else { 0 })?);
        }
        Ok(table)
    }

    fn elementwise(&self, tokens: usize) -> Result<[Row; 2]> {
        let (b, Sizes { hidden, ffn, .. }) = (self.cuda, self.sizes);
        let gain = vec![0u8; 4 * hidden];
        let gain = b.gain(TensorView::new("gain", Format::F32, 1, hidden, &gain)?)?;
        let (mut residual, mut x) =
            (b.tensor(tokens, hidden, Role::Residual)?, b.tensor(tokens, hidden, Role::Activation)?);
        let mut add_and_norm = || {
            b.add(&mut residual, &x)?;
            b.rms_norm(&mut x, &residual, &gain, 1e-5)
        };
        let norm = self.time(8, || (0..8).try_for_each(|_| add_and_norm()))?;
        let (gate_up, mut act) =
            (b.tensor(tokens, 2 * ffn, Role::Activation)?, b.tensor(tokens, ffn, Role::Activation)?);
        let swiglu = self.time(8, || (0..8).try_for_each(|_| b.swiglu(&mut act, &gate_up)))?;
        let row = |what: &str, seconds, bytes: usize| Row {
            what: what.to_owned(),
            tokens,
            seconds,
            bytes: bytes as f64,
            products: 0.0,
        };
        // The residual is f32, the rest bf16; the norm reads and writes both.
        Ok([row("add, rms_norm", norm, 12 * tokens * hidden), row("swiglu", swiglu, 6 * tokens * ffn)])
    }

    fn attention(&self, sequences: usize, each: usize, context: usize) -> Result<[Row; 2]> {
        let (b, shape) = (self.cuda, self.shape());
        let (longest, tokens) = (context + each, sequences * each);
        let blocks = longest.div_ceil(BLOCK);
        let limits = limits(tokens, sequences, longest);
        let (mut kv, mut plan) = (b.kv_cache(&shape, &limits)?, b.plan(&shape, &limits)?);
        let mut batch = Batch::new();
        for s in 0..sequences {
            let table: Vec<u32> = (s * blocks..(s + 1) * blocks).map(|block| block as u32).collect();
            batch.push(&vec![0; each], context as u32, &table, []);
        }
        b.prepare(&mut plan, &batch)?;
        let mut qkv = b.tensor(tokens, shape.qkv_cols(), Role::Activation)?;
        let mut out = b.tensor(tokens, shape.heads * shape.head_dim, Role::Activation)?;
        let layers = shape.layers;
        let rope = self.time(layers, || (0..layers).try_for_each(|l| b.rope_and_store(&mut qkv, &mut kv, l, &plan)))?;
        let attend = self.time(layers, || (0..layers).try_for_each(|l| b.attention(&mut out, &qkv, &kv, l, &plan)))?;
        let (heads, cache) = (shape.heads * shape.head_dim, 2 * shape.kv_heads * shape.head_dim);
        let seen = sequences * (each * context + each * (each + 1) / 2);
        let row = |what: &str, seconds, numbers: usize, products: usize| Row {
            what: format!("{what} after {context}"),
            tokens,
            seconds,
            bytes: 2.0 * numbers as f64,
            products: products as f64,
        };
        Ok([
            row("rope_and_store", rope, tokens * (2 * heads + 2 * cache), 0),
            row("attention", attend, sequences * longest * cache + 2 * tokens * heads, 2 * heads * seen),
        ])
    }

    fn shape(&self) -> AttentionShape {
        let Sizes { heads, kv_heads, head_dim, .. } = self.sizes;
        AttentionShape {
            layers: self.sizes.layers.min(16),
            heads,
            kv_heads,
            head_dim,
            inv_freq: (0..head_dim / 2).map(|i| 500_000f32.powf(-2.0 * i as f32 / head_dim as f32)).collect(),
            rope_scale: 1.0,
            layout: RopeLayout::Interleaved,
            unturned: Vec::new(),
            scale: 1.0 / (head_dim as f32).sqrt(),
            window: None,
            temperature: None,
        }
    }

    /// Seconds of one of `calls` verbs that `step` records.
    fn time(&self, calls: usize, mut step: impl FnMut() -> Result<()>) -> Result<f64> {
        let done = self.cuda.tensor(1, 1, Role::Residual)?;
        // Seen twice, a list of launches is a graph.
        (0..2).try_for_each(|_| self.cuda.replay(&mut step))?;
        let mut run = |times: usize| {
            wait(self.cuda, &done)?;
            let start = Instant::now();
            (0..times).try_for_each(|_| self.cuda.replay(&mut step))?;
            wait(self.cuda, &done)?;
            Ok(start.elapsed().as_secs_f64())
        };
        let times = (LONG_ENOUGH / run(1)?).ceil().clamp(1.0, 1000.0) as usize;
        let fastest = (0..self.repeat).map(|_| run(times)).try_fold(f64::INFINITY, |best, t| t.map(|t| best.min(t)));
        Ok(fastest? / (times * calls) as f64)
    }
}

/// Reading a tensor waits for all that was enqueued before.
fn wait(cuda: &Cuda, tensor: &Tensor) -> Result<()> {
    cuda.read(tensor, &mut Vec::new())
}
