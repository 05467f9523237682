//! The suite itself, where a bound is owed: the reference backend in f32 keeps it, and backends with a fault do not.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use conformance::conformance_suite;
use conformance::{Agreement, Size, Subject, Suite, Width};
use llama_core::backend::reference::{Adapter, KvCache, Matrix, Plan, Weight};
use llama_core::backend::{AttentionShape, Backend, Limits, LowRank, Numerics, Part, Reference, Role, Rows};
use llama_core::batch::{Batch, BlockId, Stage};
use llama_core::checkpoint::TensorView;
use llama_core::error::Result;
use llama_core::format::Format;
use llama_core::sample::{Draw, Outputs};

fn suite() -> Suite<Reference> {
    suite_of(Reference::new(Numerics::Float))
}

fn suite_of<S: Subject>(subject: S) -> Suite<S> {
    Suite { subjects: vec![subject], owes: Agreement::Bound(Width::F32), size: Size::Few }
}

// Without `elementwise`: the reference's exponential saturates, so a gate of -1e30 gives -4e-9 where f64 has 0.
conformance_suite!(suite;
    norms norms_of_heads sums_in_the_residual embedding_linear_and_outputs every_format
    attention_of_many_shapes attention_across_partitions attention_in_windows attention_with_a_temperature
    attention_without_a_turn attention_of_hard_numbers
    rows_do_not_see_each_other sequences_do_not_see_each_other chunking_changes_nothing
    copied_blocks_are_the_same adapters_of_rows adapters_before_swiglu a_layer tokens_are_the_samplers
);

/// What is wrong with a [`Faulty`] backend.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    EpsTwice,
    BiasForgotten,
    RowLeftOut,
    DecodeTurnsOtherwise,
    WindowTooWide,
    TemperatureForgotten,
    EveryLayerTurns,
    GainsMixedUp,
    ScaleALittleOff,
    SigmoidOfUp,
    LayerNotCopied,
    OtherBitsNextTime,
    BitsOfTheBatchSize,
    ResidualInHalf,
    OutputsInOrder,
    DrawsFromTheFirstRow,
    HeadNotAdapted,
}

/// The reference backend with a fault.
struct Faulty {
    inner: Reference,
    fault: Fault,
    calls: Cell<usize>,
}

impl Faulty {
    fn new(fault: Fault) -> Self {
        Faulty { inner: Reference::new(Numerics::Float), fault, calls: Cell::new(0) }
    }

    fn is(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    /// The shape that is computed with.
    fn shape(&self, shape: &AttentionShape) -> AttentionShape {
        let mut shape = shape.clone();
        if self.is(Fault::WindowTooWide) {
            shape.window = shape.window.map(|window| window + 1);
        }
        if self.is(Fault::TemperatureForgotten) {
            shape.temperature = None;
        }
        if self.is(Fault::EveryLayerTurns) {
            shape.unturned.clear();
        }
        if self.is(Fault::ScaleALittleOff) {
            shape.scale *= 1.0 + 1e-4;
        }
        shape
    }
}

/// The last bit of the first number.
fn nudge(x: &mut Matrix) {
    let first = &mut x.row_mut(0)[0];
    *first = f32::from_bits(first.to_bits() ^ 1);
}

impl Subject for Faulty {
    type Backend = Faulty;

    fn backend(&self) -> &Faulty {
        self
    }
}

impl Backend for Faulty {
    type Tensor = Matrix;
    type Weight = Weight;
    type Adapter = Adapter;
    type KvCache = KvCache;
    type Plan = Plan;

    fn name(&self) -> String {
        format!("{:?}", self.fault)
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

    fn tensor(&self, rows: usize, cols: usize, role: Role) -> Result<Matrix> {
        self.inner.tensor(rows, cols, role)
    }

    fn gain(&self, view: TensorView<'_>) -> Result<Matrix> {
        Backend::gain(&self.inner, view)
    }

    fn weight(&self, parts: &[Part<'_>]) -> Result<Weight> {
        let mut parts = parts.to_vec();
        if self.is(Fault::BiasForgotten) {
            parts.iter_mut().for_each(|part| part.bias = None);
        }
        self.inner.weight(&parts)
    }

    fn adapter(&self, shape: [usize; 2], parts: &[(usize, usize)], role: Role) -> Result<Adapter> {
        self.inner.adapter(shape, parts, role)
    }

    fn set_adapter(&self, adapter: &mut Adapter, parts: &[LowRank<'_>], role: Role) -> Result<()> {
        self.inner.set_adapter(adapter, parts, role)
    }

    fn kv_cache(&self, shape: &AttentionShape, limits: &Limits) -> Result<KvCache> {
        self.inner.kv_cache(shape, limits)
    }

    fn plan(&self, shape: &AttentionShape, limits: &Limits) -> Result<Plan> {
        self.inner.plan(&self.shape(shape), limits)
    }

    fn prepare(&self, plan: &mut Plan, batch: &Batch) -> Result<()> {
        let mut batch = batch.clone();
        if self.is(Fault::OutputsInOrder) {
            batch.outputs = (0..batch.outputs.len() as u32).collect();
        }
        self.inner.prepare(plan, &batch)
    }

    fn copy_blocks(&self, kv: &mut KvCache, pairs: &[(BlockId, BlockId)]) -> Result<()> {
        let pairs = if self.is(Fault::LayerNotCopied) { &pairs[1..] } else { pairs };
        self.inner.copy_blocks(kv, pairs)
    }

    fn kv_form(&self, shape: &AttentionShape, limits: &Limits) -> String {
        self.inner.kv_form(shape, limits)
    }

    fn read_block(&self, kv: &KvCache, block: BlockId, out: &mut Vec<u8>) -> Result<()> {
        self.inner.read_block(kv, block, out)
    }

    fn write_block(&self, kv: &mut KvCache, block: BlockId, bytes: &[u8]) -> Result<()> {
        self.inner.write_block(kv, block, bytes)
    }

    fn read(&self, x: &Matrix, out: &mut Vec<f32>) -> Result<()> {
        self.inner.read(x, out)
    }

    fn write(&self, x: &mut Matrix, values: &[f32]) -> Result<()> {
        self.inner.write(x, values)
    }

    fn embed(&self, out: &mut Matrix, table: &Weight, scale: f32, plan: &Plan) -> Result<()> {
        self.inner.embed(out, table, scale, plan)
    }

    fn linear(&self, out: &mut Matrix, x: &Matrix, w: &Weight) -> Result<()> {
        self.inner.linear(out, x, w)?;
        if self.is(Fault::RowLeftOut) && x.rows() > 8 {
            out.row_mut(x.rows() - 1).fill(0.0);
        }
        Ok(())
    }

    fn rms_norm(&self, out: &mut Matrix, x: &Matrix, gain: &Matrix, eps: f32) -> Result<()> {
        let eps = if self.is(Fault::EpsTwice) { 2.0 * eps } else { eps };
        self.inner.rms_norm(out, x, gain, eps)
    }

    fn add(&self, acc: &mut Matrix, x: &Matrix) -> Result<()> {
        self.inner.add(acc, x)?;
        let round = |x: &mut f32| *x = f32::from_bits(x.to_bits() & 0xFFFF_0000);
        if self.is(Fault::ResidualInHalf) {
            (0..acc.rows()).for_each(|r| acc.row_mut(r).iter_mut().for_each(round));
        }
        Ok(())
    }

    fn norm_heads(&self, qkv: &mut Matrix, gains: [&Matrix; 2], eps: f32, plan: &Plan) -> Result<()> {
        let gains = if self.is(Fault::GainsMixedUp) { [gains[1], gains[0]] } else { gains };
        self.inner.norm_heads(qkv, gains, eps, plan)
    }

    fn rope_and_store(&self, qkv: &mut Matrix, kv: &mut KvCache, layer: usize, plan: &Plan) -> Result<()> {
        self.inner.rope_and_store(qkv, kv, layer, plan)?;
        if self.is(Fault::DecodeTurnsOtherwise) && qkv.rows() == 1 {
            qkv.row_mut(0)[0] *= 1.001;
        }
        Ok(())
    }

    fn attention(&self, out: &mut Matrix, qkv: &Matrix, kv: &KvCache, layer: usize, plan: &Plan) -> Result<()> {
        self.inner.attention(out, qkv, kv, layer, plan)?;
        self.calls.set(self.calls.get() + 1);
        let odd_call = self.is(Fault::OtherBitsNextTime) && self.calls.get() % 2 == 1;
        if odd_call || self.is(Fault::BitsOfTheBatchSize) && out.rows() > 3 {
            nudge(out);
        }
        Ok(())
    }

    fn swiglu(&self, out: &mut Matrix, gate_up: &Matrix) -> Result<()> {
        if self.is(Fault::SigmoidOfUp) {
            let mut swapped = gate_up.clone();
            (0..gate_up.rows()).for_each(|r| swapped.row_mut(r).rotate_left(gate_up.cols() / 2));
            return self.inner.swiglu(out, &swapped);
        }
        self.inner.swiglu(out, gate_up)
    }

    fn sample(&self, logits: &mut Matrix, draws: &[Draw<'_>], outputs: &mut Outputs) -> Result<()> {
        let mut draws = draws.to_vec();
        if self.is(Fault::DrawsFromTheFirstRow) {
            draws.iter_mut().for_each(|draw| draw.row = 0);
        }
        self.inner.sample(logits, &draws, outputs)
    }

    fn take_outputs(&self, out: &mut Matrix, x: &Matrix, plan: &Plan) -> Result<()> {
        self.inner.take_outputs(out, x, plan)
    }

    fn adapt(
        &self,
        out: &mut Matrix,
        low: &mut Matrix,
        x: &Matrix,
        adapters: &[Option<Adapter>],
        plan: &Plan,
        stage: Stage,
    ) -> Result<()> {
        match self.is(Fault::HeadNotAdapted) && stage == Stage::Outputs {
            true => Ok(()),
            false => self.inner.adapt(out, low, x, adapters, plan, stage),
        }
    }
}

type Check = fn(&Suite<Faulty>);

#[test]
fn faults_are_caught() {
    let faults: [(Fault, Check); 17] = [
        (Fault::EpsTwice, |suite| suite.sums_in_the_residual()),
        (Fault::BiasForgotten, |suite| suite.every_format()),
        (Fault::RowLeftOut, |suite| suite.every_format()),
        (Fault::DecodeTurnsOtherwise, |suite| suite.chunking_changes_nothing()),
        (Fault::WindowTooWide, |suite| suite.attention_in_windows()),
        (Fault::TemperatureForgotten, |suite| suite.attention_with_a_temperature()),
        (Fault::EveryLayerTurns, |suite| suite.attention_without_a_turn()),
        (Fault::GainsMixedUp, |suite| suite.norms_of_heads()),
        (Fault::ScaleALittleOff, |suite| suite.attention_of_many_shapes()),
        (Fault::SigmoidOfUp, |suite| suite.a_layer()),
        (Fault::LayerNotCopied, |suite| suite.copied_blocks_are_the_same()),
        (Fault::OtherBitsNextTime, |suite| suite.attention_across_partitions()),
        (Fault::BitsOfTheBatchSize, |suite| suite.sequences_do_not_see_each_other()),
        (Fault::ResidualInHalf, |suite| suite.norms()),
        (Fault::OutputsInOrder, |suite| suite.embedding_linear_and_outputs()),
        (Fault::DrawsFromTheFirstRow, |suite| suite.tokens_are_the_samplers()),
        (Fault::HeadNotAdapted, |suite| suite.adapters_of_rows()),
    ];
    for (fault, check) in faults {
        let caught = |fault| catch_unwind(AssertUnwindSafe(|| check(&suite_of(Faulty::new(fault))))).is_err();
        assert!(caught(fault), "{fault:?} was not caught");
        assert!(!caught(Fault::None), "without {fault:?} the check fails, too");
    }
}
