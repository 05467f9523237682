//! The backend: the contract's verbs, each handed to the one function that does it.
//!
//! Everything is settled here at the door (the tier's tables of inner loops, the team of threads, the numerics) and
//! passed down as arguments. Buffers are sized when tensors, weights, caches and plans are made: a step allocates nothing.

use std::cell::{RefCell, RefMut};
use std::path::Path;

use llama_core::backend::{AttentionShape, Backend, Limits, LowRank, Norm, Numerics, Part, Role, Rows};
use llama_core::batch::{Batch, BlockId, Stage};
use llama_core::checkpoint::{Checkpoint, TensorView};
use llama_core::format::Format;
use llama_core::{Error, Result};

use crate::arch::linear::LinearKernels;
use crate::isa::Tier;
use crate::kernels::{AttentionKernels, VectorKernels};
use crate::kv::{KvCache, with_store};
use crate::ops;
use crate::ops::adapt::{Adapted, Low};
use crate::ops::linear::Output;
use crate::plan::Plan;
use crate::quant::{Input, LinearScratch, RowNorm};
use crate::tensor::Tensor;
use crate::threads::{self, MAX_THREADS, Threads};
use crate::weight::cache::Cache;
use crate::weight::pack::Forms;
use crate::weight::{Adapter, Store, Weight};

/// How a [`Cpu`] computes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuOptions {
    /// Threads, the caller's included; by default as many as this process may use processors.
    pub threads: Option<usize>,
    /// Instruction-set tier; by default the fastest that this CPU has. All give the same bits.
    pub tier: Option<Tier>,
    /// Arithmetic of quantised weights.
    pub numerics: Numerics,
    /// Keep BF16 weights in twelve bits, exactly: the same bits of every result, from three quarters of the memory and of what
    /// a step reads of it. (`weight::coded` says how.) Matrices that are not as trained ones are may not fit, which is a
    /// typed error when they are loaded.
    pub compact: bool,
}

impl CpuOptions {
    fn forms(&self) -> Forms {
        Forms { numerics: self.numerics, compact: self.compact }
    }
}

/// Rows that are so few that gate and up stay in a cache on their way to SwiGLU: what adapters add to them then is best read in
/// one stream.
const FEW: usize = 8;

/// The CPU backend.
pub struct Cpu {
    tier: Tier,
    forms: Forms,
    threads: Threads,
    linear: LinearKernels,
    vector: VectorKernels,
    attention: AttentionKernels,
    weights: RefCell<Store>,
    scratch: RefCell<Scratch>,
}

/// Quantised activations of one linear, sized by the largest plan and the widest weight so far.
struct Scratch {
    tokens: usize,
    widest: usize,
    linear: LinearScratch,
}

impl Scratch {
    fn new(tokens: usize, widest: usize, threads: usize, numerics: Numerics) -> Result<Scratch> {
        Ok(Scratch { tokens, widest, linear: LinearScratch::new(tokens, widest, threads, numerics)? })
    }
}

impl Cpu {
    /// A backend with its threads started.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a tier that this CPU lacks, or a number of threads that is zero, absurd or refused by
    /// the system.
    pub fn new(options: CpuOptions) -> Result<Self> {
        let tier = options.tier.unwrap_or_else(Tier::best);
        let missing = || Error::parameter("tier", tier, "this CPU lacks its instructions");
        Ok(Cpu {
            tier,
            forms: options.forms(),
            threads: Threads::new(options.threads.unwrap_or_else(|| threads::available().min(MAX_THREADS)))?,
            linear: LinearKernels::new(tier).ok_or_else(missing)?,
            vector: VectorKernels::new(tier).ok_or_else(missing)?,
            attention: AttentionKernels::new(tier).ok_or_else(missing)?,
            weights: RefCell::default(),
            scratch: RefCell::new(Scratch::new(0, 0, 0, options.numerics)?),
        })
    }

    /// The same, taking the weights of `checkpoint` from a file of packed weights at `path`, which it writes first if there
    /// is none, or a stale one. In a folder every checkpoint has a file of its own, and one more each for [`Numerics::Float`] and
    /// for `compact`, which pack otherwise. Logits are the same bits.
    ///
    /// # Errors
    /// As [`Cache::open_or_write`].
    pub fn cached(mut self, path: impl AsRef<Path>, checkpoint: &Checkpoint) -> Result<Self> {
        let cache = Cache::open_or_write(path.as_ref(), checkpoint, self.forms, &self.threads)?;
        self.weights.get_mut().map(cache);
        Ok(self)
    }

    /// Compares the packed weights of [`Cpu::cached`] with their checksums, which opening them does not.
    ///
    /// # Errors
    /// As [`Cache::verify`].
    pub fn verify_cache(&self) -> Result<()> {
        self.weights.borrow().cache().map_or(Ok(()), Cache::verify)
    }

    /// The tier in use.
    pub fn tier(&self) -> Tier {
        self.tier
    }

    /// Threads in use, the caller's included.
    pub fn threads(&self) -> usize {
        self.threads.count()
    }

    /// A residual that is normed on its way into a linear, and the room for it.
    fn normed<'a>(
        &'a self,
        x: &'a mut Tensor,
        residual: &'a Tensor,
        norm: &Norm<'a, Tensor>,
    ) -> (Input<'a>, &'a mut [f32]) {
        assert_eq!(norm.gain.cols(), residual.cols(), "gain");
        let norm = RowNorm { kernels: &self.vector, gain: norm.gain.data(), eps: norm.eps };
        (Input { x: residual.data(), norm: Some(norm) }, x.data_mut())
    }

    /// Scratch with room for `tokens` rows of `widest` columns.
    fn scratch(&self, tokens: usize, widest: usize) -> Result<RefMut<'_, Scratch>> {
        let mut scratch = self.scratch.borrow_mut();
        let (tokens, widest) = (scratch.tokens.max(tokens), scratch.widest.max(widest));
        if (tokens, widest) != (scratch.tokens, scratch.widest) {
            *scratch = Scratch::new(tokens, widest, self.threads.count(), self.forms.numerics)?;
        }
        Ok(scratch)
    }

    /// What adapters' first matrices make of `x`.
    fn low<'a>(
        &self,
        low: &'a mut Tensor,
        x: &Tensor,
        adapters: &'a [Option<Adapter>],
        plan: &'a Plan,
        stage: Stage,
    ) -> Result<Adapted<'a>> {
        assert_eq!(x.rows(), plan.rows(stage), "adapters");
        let (cols, mut scratch) = (low.cols(), self.scratch(x.rows(), x.cols().max(low.cols()))?);
        let low = Low { adapters, runs: plan.adapted(stage), low: low.data_mut(), cols };
        Ok(low.fill(&self.linear, &self.threads, &mut scratch.linear, x.data()))
    }

    fn multiply(&self, input: (Input<'_>, &mut [f32]), w: &Weight, output: Output<'_>) -> Result<()> {
        let mut scratch = self.scratch(input.0.x.len() / w.cols(), w.cols())?;
        ops::linear::run(&self.linear, &self.threads, &mut scratch.linear, input, w, output);
        Ok(())
    }
}

impl Backend for Cpu {
    type Tensor = Tensor;
    type Weight = Weight;
    type Adapter = Adapter;
    type KvCache = KvCache;
    type Plan = Plan;

    fn name(&self) -> String {
        let count = self.threads.count();
        format!("cpu {}, {count} thread{}", self.tier, if count == 1 { "" } else { "s" })
    }

    fn numerics(&self) -> Numerics {
        self.forms.numerics
    }

    fn weight_bytes(&self, parts: &[(Format, usize, usize)]) -> u64 {
        Weight::bytes(parts, self.forms)
    }

    fn adapter_bytes(&self, cols: usize, parts: &[(usize, usize)], _role: Role) -> u64 {
        Adapter::bytes(cols, parts)
    }

    fn kv_bytes(&self, shape: &AttentionShape, limits: &Limits) -> u64 {
        KvCache::bytes(shape, limits)
    }

    fn scratch_bytes(&self, shape: &AttentionShape, limits: &Limits, widest: usize) -> u64 {
        let plan = Plan::bytes(shape, limits, self.threads.count());
        plan.saturating_add(LinearScratch::bytes(limits.tokens, widest, self.threads.count(), self.forms.numerics))
    }

    fn reserve(&self, _total: u64, weights: u64) -> Result<()> {
        self.weights.borrow_mut().reserve(weights)
    }

    fn tensor(&self, rows: usize, cols: usize, _role: Role) -> Result<Tensor> {
        Tensor::new(rows, cols)
    }

    fn gain(&self, view: TensorView<'_>) -> Result<Tensor> {
        if view.rows() != 1 {
            return Err(view.error(format!("a gain has one row, not {}", view.rows())));
        }
        let mut gain = Tensor::new(1, view.cols())?;
        view.decode_row(0, gain.data_mut());
        Ok(gain)
    }

    fn weight(&self, parts: &[Part<'_>]) -> Result<Weight> {
        let weight = Weight::within(&mut self.weights.borrow_mut(), parts, self.forms, &self.threads)?;
        self.scratch(0, weight.cols())?;
        Ok(weight)
    }

    fn adapter(&self, [rows, cols]: [usize; 2], parts: &[(usize, usize)], _role: Role) -> Result<Adapter> {
        self.scratch(0, parts.iter().map(|&(_, rank)| rank).sum::<usize>().max(cols))?;
        Adapter::new(&mut self.weights.borrow_mut(), [rows, cols], parts)
    }

    fn set_adapter(&self, adapter: &mut Adapter, parts: &[LowRank<'_>], _role: Role) -> Result<()> {
        adapter.set(parts, &self.threads)
    }

    fn kv_cache(&self, shape: &AttentionShape, limits: &Limits) -> Result<KvCache> {
        KvCache::new(shape, limits)
    }

    fn plan(&self, shape: &AttentionShape, limits: &Limits) -> Result<Plan> {
        self.scratch(limits.tokens, 0)?;
        Plan::new(shape, limits, self.threads.count())
    }

    fn prepare(&self, plan: &mut Plan, batch: &Batch) -> Result<()> {
        plan.prepare(batch);
        Ok(())
    }

    fn copy_blocks(&self, kv: &mut KvCache, pairs: &[(BlockId, BlockId)]) -> Result<()> {
        kv.copy_blocks(pairs);
        Ok(())
    }

    /// Every tier's: they share a layout as they share an arithmetic.
    fn kv_form(&self, _shape: &AttentionShape, limits: &Limits) -> String {
        format!("cpu 1 {}", limits.kv.name())
    }

    fn read_block(&self, kv: &KvCache, block: BlockId, out: &mut Vec<u8>) -> Result<()> {
        kv.read_block(block, out);
        Ok(())
    }

    fn write_block(&self, kv: &mut KvCache, block: BlockId, bytes: &[u8]) -> Result<()> {
        kv.write_block(block, bytes)
    }

    fn read(&self, x: &Tensor, out: &mut Vec<f32>) -> Result<()> {
        out.clear();
        out.extend_from_slice(x.data());
        Ok(())
    }

    fn write(&self, x: &mut Tensor, values: &[f32]) -> Result<()> {
        x.data_mut().copy_from_slice(values);
        Ok(())
    }

    fn embed(&self, out: &mut Tensor, table: &Weight, scale: f32, plan: &Plan) -> Result<()> {
        assert_eq!(out.shape(), (plan.tokens.len(), table.cols()), "embed");
        ops::embed::embed(&self.threads, out.data_mut(), table, scale, &plan.tokens);
        Ok(())
    }

    fn linear(&self, out: &mut Tensor, x: &Tensor, w: &Weight) -> Result<()> {
        assert_eq!((out.shape(), x.cols()), ((x.rows(), w.rows()), w.cols()), "linear of {:?}", x.shape());
        self.multiply((Input::plain(x.data()), &mut []), w, Output::Write(out.data_mut()))
    }

    fn rms_norm(&self, out: &mut Tensor, x: &Tensor, gain: &Tensor, eps: f32) -> Result<()> {
        assert_eq!((out.shape(), gain.cols()), (x.shape(), x.cols()), "rms_norm");
        ops::norm::rms_norm(&self.vector, &self.threads, out.data_mut(), x.data(), gain.data(), eps);
        Ok(())
    }

    fn add(&self, acc: &mut Tensor, x: &Tensor) -> Result<()> {
        assert_eq!(acc.shape(), x.shape(), "add");
        ops::elementwise::add(&self.vector, &self.threads, acc.data_mut(), x.data());
        Ok(())
    }

    fn norm_heads(&self, qkv: &mut Tensor, gains: [&Tensor; 2], eps: f32, plan: &Plan) -> Result<()> {
        ops::norm::norm_heads(&self.vector, &self.threads, qkv.data_mut(), gains.map(Tensor::data), eps, &plan.shape);
        Ok(())
    }

    fn rope_and_store(&self, qkv: &mut Tensor, kv: &mut KvCache, layer: usize, plan: &Plan) -> Result<()> {
        let KvCache { layout, store } = kv;
        let (vector, threads, qkv) = (&self.vector, &self.threads, qkv.data_mut());
        with_store!(store, store => ops::rope::rope_and_store(vector, threads, qkv, (layout, store), layer, plan));
        Ok(())
    }

    fn attention(&self, out: &mut Tensor, qkv: &Tensor, kv: &KvCache, layer: usize, plan: &Plan) -> Result<()> {
        let KvCache { layout, store } = kv;
        let (kernels, threads, out, qkv) = (&self.attention, &self.threads, out.data_mut(), qkv.data());
        with_store!(store, store => ops::attention::attention(kernels, threads, out, qkv, (layout, store), layer, plan));
        Ok(())
    }

    fn swiglu(&self, out: &mut Tensor, gate_up: &Tensor) -> Result<()> {
        assert_eq!((out.rows(), 2 * out.cols()), gate_up.shape(), "swiglu");
        let cols = out.cols();
        ops::swiglu::swiglu(&self.vector, &self.threads, out.data_mut(), gate_up.data(), cols);
        Ok(())
    }

    fn take_outputs(&self, out: &mut Tensor, x: &Tensor, plan: &Plan) -> Result<()> {
        assert_eq!((x.rows(), out.cols()), (plan.tokens.len(), x.cols()), "take_outputs");
        out.set_rows(plan.outputs.len());
        ops::elementwise::take_rows(out.data_mut(), x.data(), &plan.outputs, x.cols());
        Ok(())
    }

    fn adapt(
        &self,
        out: &mut Tensor,
        low: &mut Tensor,
        x: &Tensor,
        adapters: &[Option<Adapter>],
        plan: &Plan,
        stage: Stage,
    ) -> Result<()> {
        assert_eq!((out.rows(), x.rows()), (plan.rows(stage), out.rows()), "adapt");
        let adapted = self.low(low, x, adapters, plan, stage)?;
        let mut scratch = self.scratch(x.rows(), x.cols())?;
        adapted.add_to(&self.linear, &self.threads, &mut scratch.linear, out.data_mut());
        Ok(())
    }

    fn norm_linear(
        &self,
        out: &mut Tensor,
        x: &mut Tensor,
        residual: &Tensor,
        norm: Norm<'_, Tensor>,
        w: &Weight,
    ) -> Result<()> {
        assert_eq!((out.shape(), x.shape()), ((x.rows(), w.rows()), residual.shape()), "norm_linear");
        self.multiply(self.normed(x, residual, &norm), w, Output::Write(out.data_mut()))
    }

    fn norm_linear_swiglu(
        &self,
        act: &mut Tensor,
        (gate_up, x): (&mut Tensor, &mut Tensor),
        residual: &Tensor,
        norm: Norm<'_, Tensor>,
        w: &Weight,
    ) -> Result<()> {
        if !ops::linear::paired(w) {
            self.norm_linear(gate_up, x, residual, norm, w)?;
            return self.swiglu(act, gate_up);
        }
        assert_eq!((gate_up.shape(), x.shape()), ((x.rows(), w.rows()), residual.shape()), "norm_linear_swiglu");
        assert_eq!((act.rows(), 2 * act.cols()), gate_up.shape(), "norm_linear_swiglu");
        let output = Output::Swiglu { kernels: &self.vector, act: act.data_mut(), adapted: None };
        self.multiply(self.normed(x, residual, &norm), w, output)
    }

    fn adapt_swiglu(
        &self,
        act: &mut Tensor,
        (gate_up, low): (&mut Tensor, &mut Tensor),
        x: &Tensor,
        w: &Weight,
        adapters: &[Option<Adapter>],
        plan: &Plan,
    ) -> Result<()> {
        if !ops::linear::paired(w) || x.rows() < FEW {
            self.linear(gate_up, x, w)?;
            self.adapt(gate_up, low, x, adapters, plan, Stage::Tokens)?;
            return self.swiglu(act, gate_up);
        }
        assert_eq!((gate_up.shape(), x.cols()), ((x.rows(), w.rows()), w.cols()), "adapt_swiglu");
        assert_eq!((act.rows(), 2 * act.cols()), gate_up.shape(), "adapt_swiglu");
        let adapted = Some(self.low(low, x, adapters, plan, Stage::Tokens)?);
        let output = Output::Swiglu { kernels: &self.vector, act: act.data_mut(), adapted };
        self.multiply((Input::plain(x.data()), &mut []), w, output)
    }

    fn linear_add(&self, residual: &mut Tensor, _x: &mut Tensor, y: &Tensor, w: &Weight) -> Result<()> {
        assert_eq!((residual.shape(), y.cols()), ((y.rows(), w.rows()), w.cols()), "linear_add of {:?}", y.shape());
        self.multiply((Input::plain(y.data()), &mut []), w, Output::Add(residual.data_mut()))
    }

    fn replay(&self, ops: impl FnOnce() -> Result<()>) -> Result<()> {
        self.threads.step(ops)
    }
}
