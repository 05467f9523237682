//! The backend: the contract's verbs, written down, fused, and handed to the device.
//!
//! Inside [`Backend::replay`] verbs are collected and run together; outside, each runs at once. Either way they go through
//! the same three steps: `fuse` (verbs to operations), `lower` (operations to launches), `replay` (launches to the device).

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use bytemuck::{cast_slice, cast_slice_mut};
use half::bf16;
use llama_core::backend::{AttentionShape, Backend, Limits, LowRank, Numerics, Part, Role, Rows};
use llama_core::batch::{Batch, BlockId, Stage};
use llama_core::checkpoint::TensorView;
use llama_core::format::Format;
use llama_core::sample::{Draw, Outputs};
use llama_core::{Error, Result};

use crate::adapter::{Adapter, Group};
use crate::arena::{Arena, padded};
use crate::device::{self, Device, DeviceInfo, Span};
use crate::fuse::{Op, Reach, fuse};
use crate::kernels::Kernels;
use crate::kv::{self, KvCache, Layout};
use crate::launch::Launch;
use crate::lower::{GEMV_COLUMNS, Lower};
use crate::persistent::Programs;
use crate::plan::Plan;
use crate::replay::Replay;
use crate::sample::Picker;
use crate::tensor::{Number, Tensor};
use crate::upload::Uploader;
use crate::verb::{Gain, HeadNorms, Segments, Verb};
use crate::weight::{self, Segment, Weight};
use crate::wgmma;

/// Most bytes of input that a gemv keeps in shared memory: two such blocks fit a multiprocessor of every device.
const STAGED: u32 = 48 << 10;

/// How a [`Cuda`] computes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CudaOptions {
    /// Which device, from 0, as [`Cuda::devices`] numbers them.
    pub device: usize,
    /// bf16 activations on tensor cores (default, fast), or f32 everywhere (precise, float).
    pub numerics: Numerics,
    /// Whether steps of one to four rows are performed by one kernel that stays, instead of as a graph of launches: the same
    /// bits. Off unless asked for: on an H100 it is a tenth slower than a graph.
    pub persistent: bool,
    /// What multiplies matrices of many rows.
    pub gemm: Gemm,
}

/// Which instruction of the tensor cores multiplies activations of more than a few rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Gemm {
    /// `mma.sync`, as for few rows.
    Mma,
    /// `wgmma` where there is one (Hopper), for faster prefill. It adds the same products in the same order; how many of them
    /// it rounds at once is not said anywhere, but on an H100 its sums have `mma.sync`'s bits (`cargo run -p opcodes`
    /// compares the two), so a sequence's bits do not depend on how many rows a step has.
    #[default]
    Wgmma,
}

/// The CUDA backend.
pub struct Cuda {
    device: Arc<Device>,
    name: String,
    options: CudaOptions,
    kernels: Kernels,
    arena: RefCell<Arena>,
    uploader: RefCell<Uploader>,
    /// Inputs of the widest weight so far, or the ranks of an adapter that has more.
    widest: Cell<usize>,
    /// Room for packed activations, where `wgmma` takes them.
    packed: RefCell<Option<Span>>,
    step: RefCell<Step>,
}

/// What a step is made of; kept, so that the next one allocates nothing.
#[derive(Default)]
struct Step {
    recording: bool,
    verbs: Vec<Verb>,
    ops: Vec<Op>,
    launches: Vec<Launch>,
    replay: Replay,
}

impl Cuda {
    /// Every CUDA device; none where there is no driver.
    ///
    /// # Errors
    /// [`Error::Backend`] with what the driver says, where there is one that does not work.
    pub fn devices() -> Result<Vec<DeviceInfo>> {
        device::list()
    }

    /// A backend on one device.
    ///
    /// # Errors
    /// [`Error::Backend`] where there is no driver, or it is too old, or the device is (compute capability below 8.0);
    /// [`Error::Parameter`] for a device that does not exist.
    pub fn new(options: CudaOptions) -> Result<Self> {
        let device = Device::open(options.device)?;
        let (major, minor) = device.abilities.capability;
        Ok(Cuda {
            name: format!("cuda:{} sm_{major}{minor}", options.device),
            options,
            kernels: Kernels::new(&device),
            arena: RefCell::default(),
            uploader: RefCell::default(),
            widest: Cell::new(0),
            packed: RefCell::default(),
            step: RefCell::default(),
            device,
        })
    }

    /// Bytes of the device's memory that nobody has taken.
    ///
    /// # Errors
    /// [`Error::Backend`] with what the driver says.
    pub fn free_memory(&self) -> Result<u64> {
        self.device.free_memory()
    }

    /// How many step shapes are recorded as graphs.
    pub fn graphs(&self) -> usize {
        self.step.borrow().replay.graphs()
    }

    /// How many step shapes are performed by the persistent kernel.
    pub fn programs(&self) -> usize {
        self.step.borrow().replay.programs()
    }

    fn span(&self, what: &'static str, bytes: u64) -> Result<Span> {
        let span = self.arena.borrow_mut().span(&self.device, what, bytes)?;
        span.clear()?;
        Ok(span)
    }

    /// Writes a verb down, and runs it unless a whole step is being collected.
    fn verb(&self, verb: Verb) -> Result<()> {
        let mut step = self.step.borrow_mut();
        step.verbs.push(verb);
        if step.recording { Ok(()) } else { self.run(&mut step) }
    }

    /// Runs what of a step is written down: somebody on the host wants to see it, or to go on from there.
    fn catch_up(&self) -> Result<()> {
        let mut step = self.step.borrow_mut();
        if step.verbs.is_empty() { Ok(()) } else { self.run(&mut step) }
    }

    /// Runs the verbs that are written down.
    fn run(&self, step: &mut Step) -> Result<()> {
        let Step { verbs, ops, launches, replay, .. } = step;
        let most = Reach { columns: GEMV_COLUMNS, bytes: STAGED };
        fuse(verbs, most, ops);
        verbs.clear();
        launches.clear();
        let packed = self.packed.borrow().as_ref().map(|span| (span.address(), span.bytes()));
        let lower = Lower { kernels: &self.kernels, abilities: self.device.abilities, packed };
        ops.iter().try_for_each(|op| lower.op(op, launches))?;
        ops.clear();
        self.device.enter()?;
        replay.enqueue(&self.device, &self.kernels, launches)
    }

    /// Bytes of packed activations; none where `mma.sync` multiplies.
    fn packed_bytes(&self, tokens: usize, widest: usize) -> u64 {
        let packs = self.options.gemm == Gemm::Wgmma
            && Number::of(Role::Activation, self.options.numerics) == Number::Bf16
            && device::is_hopper(self.device.abilities.capability);
        if packs { padded(wgmma::packed_bytes(tokens, widest)) } else { 0 }
    }

    fn segment(&self, parts: &[Part<'_>], first: usize) -> Result<Segment> {
        let (form, rows, bytes) = weight::extent(&sizes(parts));
        let tiles = self.arena.borrow_mut().span(&self.device, "weights", bytes)?;
        let mut at = 0;
        for part in parts {
            let bytes = form.matrix_bytes(part.weight.rows(), part.weight.cols());
            self.uploader.borrow_mut().upload(&self.device, &self.kernels, &part.weight, tiles.address() + at)?;
            at += bytes;
        }
        let bias = weight::biases(parts).map(|bias| {
            let span = self.span("biases", 4 * bias.len() as u64)?;
            span.write(0, cast_slice(&bias))?;
            Ok::<_, Error>(span)
        });
        Ok(Segment { form, first, rows, tiles, bias: bias.transpose()? })
    }
}

/// Formats and shapes of parts.
fn sizes(parts: &[Part<'_>]) -> Vec<(Format, usize, usize)> {
    parts.iter().map(|part| (part.weight.format(), part.weight.rows(), part.weight.cols())).collect()
}

impl Backend for Cuda {
    type Tensor = Tensor;
    type Weight = Weight;
    type Adapter = Adapter;
    type KvCache = KvCache;
    type Plan = Plan;

    fn name(&self) -> String {
        self.name.clone()
    }

    fn numerics(&self) -> Numerics {
        self.options.numerics
    }

    fn weight_bytes(&self, parts: &[(Format, usize, usize)]) -> u64 {
        weight::runs(parts).map(|run| padded(weight::extent(&parts[run]).2)).sum()
    }

    fn adapter_bytes(&self, cols: usize, parts: &[(usize, usize)], _role: Role) -> u64 {
        padded(Adapter::bytes(cols, parts))
    }

    fn kv_bytes(&self, shape: &AttentionShape, limits: &Limits) -> u64 {
        padded(Layout::new(shape, limits).bytes()) + padded(kv::PAIR_BYTES)
    }

    fn tensor_bytes(&self, rows: usize, cols: usize, role: Role) -> u64 {
        let picker = if role == Role::Logits { Picker::bytes(rows, cols) } else { 0 };
        padded((rows * cols * Number::of(role, self.options.numerics).bytes()) as u64) + picker
    }

    fn scratch_bytes(&self, shape: &AttentionShape, limits: &Limits, widest: usize) -> u64 {
        let programs = if self.options.persistent { Programs::bytes(shape.layers) } else { 0 };
        Plan::bytes(shape, limits) + programs + self.packed_bytes(limits.tokens, widest)
    }

    fn reserve(&self, total: u64, _weights: u64) -> Result<()> {
        self.arena.borrow_mut().reserve(&self.device, total)
    }

    fn tensor(&self, rows: usize, cols: usize, role: Role) -> Result<Tensor> {
        let number = Number::of(role, self.options.numerics);
        let span = self.span("activations", (rows * cols * number.bytes()) as u64)?;
        let tensor = Tensor::new(span, number, rows, cols);
        if role != Role::Logits {
            return Ok(tensor);
        }
        let picker = Picker::new(&self.device, rows, cols, &mut |what, bytes| self.span(what, bytes))?;
        Ok(tensor.picked_by(picker))
    }

    fn gain(&self, view: TensorView<'_>) -> Result<Tensor> {
        if view.rows() != 1 {
            return Err(view.error(format!("a gain has one row, not {}", view.rows())));
        }
        let span = self.span("gains", 4 * view.cols() as u64)?;
        span.write(0, cast_slice(&view.to_f32()))?;
        Ok(Tensor::new(span, Number::F32, 1, view.cols()))
    }

    fn weight(&self, parts: &[Part<'_>]) -> Result<Weight> {
        weight::check(parts)?;
        let mut rows = 0;
        let mut segments = Vec::new();
        for run in weight::runs(&sizes(parts)) {
            let segment = self.segment(&parts[run], rows)?;
            rows += segment.rows;
            segments.push(segment);
        }
        let cols = parts.first().map_or(0, |part| part.weight.cols());
        self.widest.set(self.widest.get().max(cols));
        Ok(Weight { rows, cols, segments: segments.into() })
    }

    fn adapter(&self, shape: [usize; 2], parts: &[(usize, usize)], _role: Role) -> Result<Adapter> {
        let span = self.arena.borrow_mut().span(&self.device, "adapters", Adapter::bytes(shape[1], parts))?;
        // The plan is told of one width for all that is multiplied.
        self.widest.set(self.widest.get().max(parts.iter().map(|(_, rank)| rank).sum()));
        Ok(Adapter::new(shape, span))
    }

    fn set_adapter(&self, adapter: &mut Adapter, parts: &[LowRank<'_>], _role: Role) -> Result<()> {
        self.catch_up()?;
        adapter.set(parts)
    }

    fn kv_cache(&self, shape: &AttentionShape, limits: &Limits) -> Result<KvCache> {
        kv::check(shape, limits)?;
        // The weights are there: what they came through is given back.
        self.uploader.take();
        let layout = Layout::new(shape, limits);
        let span = self.span("the KV cache", layout.bytes())?;
        Ok(KvCache { layout, span, pairs: self.span("the KV cache", kv::PAIR_BYTES)? })
    }

    fn plan(&self, shape: &AttentionShape, limits: &Limits) -> Result<Plan> {
        kv::check(shape, limits)?;
        if self.options.persistent {
            let span = self.span("lists of instructions", Programs::bytes(shape.layers))?;
            self.step.borrow_mut().replay.use_programs(Programs::new(span, shape.layers));
        }
        let packed = self.packed_bytes(limits.tokens, self.widest.get());
        if packed > self.packed.borrow().as_ref().map_or(0, Span::bytes) {
            *self.packed.borrow_mut() = Some(self.span("packed activations", packed)?);
        }
        Plan::new(&self.device, shape, limits, &mut |what, bytes| self.span(what, bytes))
    }

    fn prepare(&self, plan: &mut Plan, batch: &Batch) -> Result<()> {
        self.device.enter()?;
        plan.prepare(batch, self.device.abilities.multiprocessors)?;
        let turn = plan.turn(&self.kernels)?;
        turn.map_or(Ok(()), |launch| launch.enqueue(&self.device))
    }

    fn copy_blocks(&self, kv: &mut KvCache, pairs: &[(BlockId, BlockId)]) -> Result<()> {
        kv.copy_blocks(&self.device, &self.kernels, pairs)
    }

    /// Kernels of another generation may add in another order.
    fn kv_form(&self, shape: &AttentionShape, limits: &Limits) -> String {
        let (major, minor) = self.device.abilities.capability;
        let padded = Layout::new(shape, limits).padded;
        format!("cuda 1 {} of {padded}, sm_{major}{minor} {:?}", limits.kv.name(), self.options.gemm)
    }

    fn read_block(&self, kv: &KvCache, block: BlockId, out: &mut Vec<u8>) -> Result<()> {
        self.catch_up()?;
        kv.read_block(block, out)
    }

    fn write_block(&self, kv: &mut KvCache, block: BlockId, bytes: &[u8]) -> Result<()> {
        self.catch_up()?;
        kv.write_block(block, bytes)
    }

    fn read(&self, x: &Tensor, out: &mut Vec<f32>) -> Result<()> {
        self.catch_up()?;
        let (rows, cols) = x.shape();
        out.clear();
        out.resize(rows * cols, 0.0);
        match x.number() {
            Number::F32 => x.span().read(0, cast_slice_mut(out)),
            Number::Bf16 => {
                let bytes: &mut [u8] = cast_slice_mut(out);
                x.span().read(0, bytes.split_at_mut(2 * rows * cols).1)?;
                widen(out);
                Ok(())
            }
        }
    }

    fn write(&self, x: &mut Tensor, values: &[f32]) -> Result<()> {
        self.catch_up()?;
        x.write(values)
    }

    fn embed(&self, out: &mut Tensor, table: &Weight, scale: f32, plan: &Plan) -> Result<()> {
        assert_eq!(out.shape(), (plan.rows as usize, table.cols), "embed");
        let table = Segments(table.segments.clone());
        self.verb(Verb::Embed { out: out.matrix(), table, scale, tokens: plan.tokens() })
    }

    fn linear(&self, out: &mut Tensor, x: &Tensor, w: &Weight) -> Result<()> {
        assert_eq!((out.shape(), x.cols()), ((x.rows(), w.rows), w.cols), "linear of {:?}", x.shape());
        self.verb(Verb::Linear { out: out.matrix(), x: x.matrix(), weight: Segments(w.segments.clone()) })
    }

    fn rms_norm(&self, out: &mut Tensor, x: &Tensor, gain: &Tensor, eps: f32) -> Result<()> {
        assert_eq!((out.shape(), gain.cols()), (x.shape(), x.cols()), "rms_norm");
        self.verb(Verb::Norm { out: out.matrix(), residual: x.matrix(), norm: norm(gain, eps) })
    }

    fn add(&self, acc: &mut Tensor, x: &Tensor) -> Result<()> {
        assert_eq!(acc.shape(), x.shape(), "add");
        self.verb(Verb::Add { acc: acc.matrix(), x: x.matrix() })
    }

    fn norm_heads(&self, qkv: &mut Tensor, gains: [&Tensor; 2], eps: f32, plan: &Plan) -> Result<()> {
        let AttentionShape { heads, kv_heads, head_dim, .. } = plan.shape;
        assert!(gains.iter().all(|gain| gain.cols() == head_dim), "norm_heads of {head_dim}");
        assert_eq!(qkv.shape(), (plan.rows as usize, plan.shape.qkv_cols()), "norm_heads");
        let norms = HeadNorms {
            gains: gains.map(|gain| gain.matrix().address),
            eps,
            heads: heads as u32,
            kv_heads: kv_heads as u32,
            head_dim: head_dim as u32,
        };
        self.verb(Verb::NormHeads { qkv: qkv.matrix(), norms })
    }

    fn rope_and_store(&self, qkv: &mut Tensor, kv: &mut KvCache, layer: usize, plan: &Plan) -> Result<()> {
        assert_eq!(qkv.shape(), (plan.rows as usize, plan.shape.qkv_cols()), "rope_and_store");
        self.verb(Verb::RopeAndStore { qkv: qkv.matrix(), attend: plan.attend(kv, layer) })
    }

    fn attention(&self, out: &mut Tensor, qkv: &Tensor, kv: &KvCache, layer: usize, plan: &Plan) -> Result<()> {
        let heads = plan.shape.heads * plan.shape.head_dim;
        assert_eq!((out.shape(), qkv.rows()), ((plan.rows as usize, heads), plan.rows as usize), "attention");
        self.verb(Verb::Attention { out: out.matrix(), qkv: qkv.matrix(), attend: plan.attend(kv, layer) })
    }

    fn swiglu(&self, out: &mut Tensor, gate_up: &Tensor) -> Result<()> {
        assert_eq!((out.rows(), 2 * out.cols()), gate_up.shape(), "swiglu");
        self.verb(Verb::Swiglu { out: out.matrix(), gate_up: gate_up.matrix() })
    }

    fn take_outputs(&self, out: &mut Tensor, x: &Tensor, plan: &Plan) -> Result<()> {
        assert_eq!((x.rows(), out.cols()), (plan.rows as usize, x.cols()), "take_outputs");
        out.set_rows(plan.outputs as usize);
        if plan.outputs == 0 {
            return Ok(());
        }
        self.verb(Verb::Take { out: out.matrix(), x: x.matrix(), index: plan.outputs_index() })
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
        assert_eq!(out.rows(), x.rows(), "adapt");
        for group in Group::all(adapters) {
            let Some(rows) = plan.adapted(stage, &group) else { continue };
            assert!(low.holds(out.rows(), group.ranks as usize), "adapt: {:?} for {} ranks", low.shape(), group.ranks);
            self.verb(Verb::Adapt { out: out.matrix(), low: low.matrix(), x: x.matrix(), group, rows })?;
        }
        Ok(())
    }

    fn sample(&self, logits: &mut Tensor, draws: &[Draw<'_>], outputs: &mut Outputs) -> Result<()> {
        self.device.enter()?;
        let at = logits.matrix().address;
        let picker = logits.picker();
        let picked = picker.map(|picker| picker.pick(&self.device, &self.kernels, at, draws, &mut outputs.picks));
        if picked.transpose()? == Some(true) {
            return Ok(());
        }
        if outputs.logits.is_empty() {
            self.read(logits, &mut outputs.logits)?;
        }
        outputs.pick(draws);
        Ok(())
    }

    fn replay(&self, ops: impl FnOnce() -> Result<()>) -> Result<()> {
        self.step.borrow_mut().recording = true;
        let collected = ops();
        let mut step = self.step.borrow_mut();
        step.recording = false;
        if collected.is_err() {
            step.verbs.clear();
            return collected;
        }
        self.run(&mut step)
    }
}

/// Turns bf16 that fill the second half of `x` into f32, front to back: what is written is never before what is still to be
/// read.
fn widen(x: &mut [f32]) {
    for i in 0..x.len() {
        x[i] = cast_slice::<f32, bf16>(x)[x.len() + i].to_f32();
    }
}

fn norm(gain: &Tensor, eps: f32) -> Gain {
    Gain { gain: gain.matrix().address, eps }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_are_widened_where_they_lie() {
        for count in 0..40 {
            let narrow: Vec<bf16> = (0..count).map(|i| bf16::from_f32(i as f32 * 1.5 - 7.0)).collect();
            let mut x = vec![f32::NAN; count];
            cast_slice_mut::<f32, bf16>(&mut x)[count..].copy_from_slice(&narrow);
            widen(&mut x);
            assert!(x.iter().zip(&narrow).all(|(x, n)| *x == n.to_f32()), "{x:?}");
        }
    }
}
