//! A backend that passes every verb on to another and keeps the time and the number of calls of each.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use crate::backend::{AttentionShape, Backend, Limits, LowRank, Norm, Numerics, Part, Role};
use crate::batch::{Batch, BlockId, Stage};
use crate::checkpoint::TensorView;
use crate::error::Result;
use crate::format::Format;
use crate::sample::{Draw, Outputs};

/// Time spent in one verb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerbTime {
    /// The verb, as the contract names it.
    pub verb: &'static str,
    /// Calls.
    pub calls: u64,
    /// Wall time of all calls.
    pub time: Duration,
}

/// `B`, timed. Fused verbs count under their own name.
pub struct Timed<B> {
    inner: B,
    times: RefCell<Vec<VerbTime>>,
}

impl<B> Timed<B> {
    /// Times `inner`.
    pub fn new(inner: B) -> Self {
        Timed { inner, times: RefCell::default() }
    }

    /// Times so far, in the order the verbs were first called.
    pub fn times(&self) -> Vec<VerbTime> {
        self.times.borrow().clone()
    }

    /// Forgets all times.
    pub fn reset(&self) {
        self.times.borrow_mut().clear();
    }

    fn time<R>(&self, verb: &'static str, call: impl FnOnce(&B) -> R) -> R {
        let start = Instant::now();
        let result = call(&self.inner);
        let elapsed = start.elapsed();
        let mut times = self.times.borrow_mut();
        match times.iter_mut().find(|entry| entry.verb == verb) {
            Some(entry) => {
                entry.calls += 1;
                entry.time += elapsed;
            }
            None => times.push(VerbTime { verb, calls: 1, time: elapsed }),
        }
        result
    }
}

impl<B: Backend> Backend for Timed<B> {
    type Tensor = B::Tensor;
    type Weight = B::Weight;
    type Adapter = B::Adapter;
    type KvCache = B::KvCache;
    type Plan = B::Plan;

    fn name(&self) -> String {
        format!("{}, timed", self.inner.name())
    }

    fn numerics(&self) -> Numerics {
        self.inner.numerics()
    }

    fn weight_bytes(&self, parts: &[(Format, usize, usize)]) -> u64 {
        self.inner.weight_bytes(parts)
    }

    fn adapter_bytes(&self, cols: usize, parts: &[(usize, usize)], role: Role) -> u64 {
        self.inner.adapter_bytes(cols, parts, role)
    }

    fn kv_bytes(&self, shape: &AttentionShape, limits: &Limits) -> u64 {
        self.inner.kv_bytes(shape, limits)
    }

    fn scratch_bytes(&self, shape: &AttentionShape, limits: &Limits, widest: usize) -> u64 {
        self.inner.scratch_bytes(shape, limits, widest)
    }

    fn tensor_bytes(&self, rows: usize, cols: usize, role: Role) -> u64 {
        self.inner.tensor_bytes(rows, cols, role)
    }

    fn reserve(&self, total: u64, weights: u64) -> Result<()> {
        self.inner.reserve(total, weights)
    }

    fn tensor(&self, rows: usize, cols: usize, role: Role) -> Result<B::Tensor> {
        self.inner.tensor(rows, cols, role)
    }

    fn gain(&self, view: TensorView<'_>) -> Result<B::Tensor> {
        self.inner.gain(view)
    }

    fn weight(&self, parts: &[Part<'_>]) -> Result<B::Weight> {
        self.time("weight", |b| b.weight(parts))
    }

    fn adapter(&self, shape: [usize; 2], parts: &[(usize, usize)], role: Role) -> Result<B::Adapter> {
        self.time("adapter", |b| b.adapter(shape, parts, role))
    }

    fn set_adapter(&self, adapter: &mut B::Adapter, parts: &[LowRank<'_>], role: Role) -> Result<()> {
        self.time("set_adapter", |b| b.set_adapter(adapter, parts, role))
    }

    fn kv_cache(&self, shape: &AttentionShape, limits: &Limits) -> Result<B::KvCache> {
        self.inner.kv_cache(shape, limits)
    }

    fn plan(&self, shape: &AttentionShape, limits: &Limits) -> Result<B::Plan> {
        self.inner.plan(shape, limits)
    }

    fn prepare(&self, plan: &mut B::Plan, batch: &Batch) -> Result<()> {
        self.time("prepare", |b| b.prepare(plan, batch))
    }

    fn copy_blocks(&self, kv: &mut B::KvCache, pairs: &[(BlockId, BlockId)]) -> Result<()> {
        self.time("copy_blocks", |b| b.copy_blocks(kv, pairs))
    }

    fn kv_form(&self, shape: &AttentionShape, limits: &Limits) -> String {
        self.inner.kv_form(shape, limits)
    }

    fn read_block(&self, kv: &B::KvCache, block: BlockId, out: &mut Vec<u8>) -> Result<()> {
        self.time("read_block", |b| b.read_block(kv, block, out))
    }

    fn write_block(&self, kv: &mut B::KvCache, block: BlockId, bytes: &[u8]) -> Result<()> {
        self.time("write_block", |b| b.write_block(kv, block, bytes))
    }

    fn read(&self, x: &B::Tensor, out: &mut Vec<f32>) -> Result<()> {
        self.time("read", |b| b.read(x, out))
    }

    fn write(&self, x: &mut B::Tensor, values: &[f32]) -> Result<()> {
        self.time("write", |b| b.write(x, values))
    }

    fn embed(&self, out: &mut B::Tensor, table: &B::Weight, scale: f32, plan: &B::Plan) -> Result<()> {
        self.time("embed", |b| b.embed(out, table, scale, plan))
    }

    fn linear(&self, out: &mut B::Tensor, x: &B::Tensor, w: &B::Weight) -> Result<()> {
        self.time("linear", |b| b.linear(out, x, w))
    }

    fn rms_norm(&self, out: &mut B::Tensor, x: &B::Tensor, gain: &B::Tensor, eps: f32) -> Result<()> {
        self.time("rms_norm", |b| b.rms_norm(out, x, gain, eps))
    }

    fn add(&self, acc: &mut B::Tensor, x: &B::Tensor) -> Result<()> {
        self.time("add", |b| b.add(acc, x))
    }

    fn norm_heads(&self, qkv: &mut B::Tensor, gains: [&B::Tensor; 2], eps: f32, plan: &B::Plan) -> Result<()> {
        self.time("norm_heads", |b| b.norm_heads(qkv, gains, eps, plan))
    }

    fn rope_and_store(&self, qkv: &mut B::Tensor, kv: &mut B::KvCache, layer: usize, plan: &B::Plan) -> Result<()> {
        self.time("rope_and_store", |b| b.rope_and_store(qkv, kv, layer, plan))
    }

    fn attention(
        &self,
        out: &mut B::Tensor,
        qkv: &B::Tensor,
        kv: &B::KvCache,
        layer: usize,
        plan: &B::Plan,
    ) -> Result<()> {
        self.time("attention", |b| b.attention(out, qkv, kv, layer, plan))
    }

    fn swiglu(&self, out: &mut B::Tensor, gate_up: &B::Tensor) -> Result<()> {
        self.time("swiglu", |b| b.swiglu(out, gate_up))
    }

    fn take_outputs(&self, out: &mut B::Tensor, x: &B::Tensor, plan: &B::Plan) -> Result<()> {
        self.time("take_outputs", |b| b.take_outputs(out, x, plan))
    }

    fn adapt(
        &self,
        out: &mut B::Tensor,
        low: &mut B::Tensor,
        x: &B::Tensor,
        adapters: &[Option<B::Adapter>],
        plan: &B::Plan,
        stage: Stage,
    ) -> Result<()> {
        self.time("adapt", |b| b.adapt(out, low, x, adapters, plan, stage))
    }

    fn norm_linear(
        &self,
        out: &mut B::Tensor,
        x: &mut B::Tensor,
        residual: &B::Tensor,
        norm: Norm<'_, B::Tensor>,
        w: &B::Weight,
    ) -> Result<()> {
        self.time("norm_linear", |b| b.norm_linear(out, x, residual, norm, w))
    }

    fn norm_linear_swiglu(
        &self,
        act: &mut B::Tensor,
        room: (&mut B::Tensor, &mut B::Tensor),
        residual: &B::Tensor,
        norm: Norm<'_, B::Tensor>,
        w: &B::Weight,
    ) -> Result<()> {
        self.time("norm_linear_swiglu", |b| b.norm_linear_swiglu(act, room, residual, norm, w))
    }

    fn adapt_swiglu(
        &self,
        act: &mut B::Tensor,
        room: (&mut B::Tensor, &mut B::Tensor),
        x: &B::Tensor,
        w: &B::Weight,
        adapters: &[Option<B::Adapter>],
        plan: &B::Plan,
    ) -> Result<()> {
        self.time("adapt_swiglu", |b| b.adapt_swiglu(act, room, x, w, adapters, plan))
    }

    fn linear_add(&self, residual: &mut B::Tensor, x: &mut B::Tensor, y: &B::Tensor, w: &B::Weight) -> Result<()> {
        self.time("linear_add", |b| b.linear_add(residual, x, y, w))
    }

    fn sample(&self, logits: &mut B::Tensor, draws: &[Draw<'_>], outputs: &mut Outputs) -> Result<()> {
        self.time("sample", |b| b.sample(logits, draws, outputs))
    }

    fn replay(&self, ops: impl FnOnce() -> Result<()>) -> Result<()> {
        self.inner.replay(ops)
    }
}
