//! A backend that fails in the middle of a step, as a device does.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use llama_core::backend::{AttentionShape, Backend, Limits, LowRank, Numerics, Part, Reference, Role};
use llama_core::batch::{Batch, BlockId, Stage};
use llama_core::checkpoint::TensorView;
use llama_core::format::Format;
use llama_core::{Error, Result};

/// The reference backend, of whose calls of attention one fails: the one before which so many are left.
#[derive(Default)]
pub struct Faulty {
    inner: Reference,
    pub calls_left: Arc<AtomicUsize>,
}

type Matrix = <Reference as Backend>::Tensor;
type Weight = <Reference as Backend>::Weight;
type Adapter = <Reference as Backend>::Adapter;
type KvCache = <Reference as Backend>::KvCache;
type Plan = <Reference as Backend>::Plan;

/// Passes verbs on.
macro_rules! passed_on {
    ($(fn $name:ident(&self $(, $argument:ident: $kind:ty)*) -> $outcome:ty;)*) => {
        $(fn $name(&self $(, $argument: $kind)*) -> $outcome {
            self.inner.$name($($argument),*)
        })*
    };
}

impl Backend for Faulty {
    type Tensor = Matrix;
    type Weight = Weight;
    type Adapter = Adapter;
    type KvCache = KvCache;
    type Plan = Plan;

    passed_on! {
        fn name(&self) -> String;
        fn numerics(&self) -> Numerics;
        fn weight_bytes(&self, parts: &[(Format, usize, usize)]) -> u64;
        fn adapter_bytes(&self, cols: usize, parts: &[(usize, usize)], role: Role) -> u64;
        fn adapter(&self, shape: [usize; 2], parts: &[(usize, usize)], role: Role) -> Result<Adapter>;
        fn set_adapter(&self, adapter: &mut Adapter, parts: &[LowRank<'_>], role: Role) -> Result<()>;
        fn adapt(&self, out: &mut Matrix, low: &mut Matrix, x: &Matrix, adapters: &[Option<Adapter>], plan: &Plan, stage: Stage) -> Result<()>;
        fn kv_bytes(&self, shape: &AttentionShape, limits: &Limits) -> u64;
        fn scratch_bytes(&self, shape: &AttentionShape, limits: &Limits, widest: usize) -> u64;
        fn tensor(&self, rows: usize, cols: usize, role: Role) -> Result<Matrix>;
        fn gain(&self, view: TensorView<'_>) -> Result<Matrix>;
        fn weight(&self, parts: &[Part<'_>]) -> Result<Weight>;
        fn kv_cache(&self, shape: &AttentionShape, limits: &Limits) -> Result<KvCache>;
        fn plan(&self, shape: &AttentionShape, limits: &Limits) -> Result<Plan>;
        fn prepare(&self, plan: &mut Plan, batch: &Batch) -> Result<()>;
        fn copy_blocks(&self, kv: &mut KvCache, pairs: &[(BlockId, BlockId)]) -> Result<()>;
        fn kv_form(&self, shape: &AttentionShape, limits: &Limits) -> String;
        fn read_block(&self, kv: &KvCache, block: BlockId, out: &mut Vec<u8>) -> Result<()>;
        fn write_block(&self, kv: &mut KvCache, block: BlockId, bytes: &[u8]) -> Result<()>;
        fn read(&self, x: &Matrix, out: &mut Vec<f32>) -> Result<()>;
        fn write(&self, x: &mut Matrix, values: &[f32]) -> Result<()>;
        fn embed(&self, out: &mut Matrix, table: &Weight, scale: f32, plan: &Plan) -> Result<()>;
        fn linear(&self, out: &mut Matrix, x: &Matrix, w: &Weight) -> Result<()>;
        fn rms_norm(&self, out: &mut Matrix, x: &Matrix, gain: &Matrix, eps: f32) -> Result<()>;
        fn add(&self, acc: &mut Matrix, x: &Matrix) -> Result<()>;
        fn norm_heads(&self, qkv: &mut Matrix, gains: [&Matrix; 2], eps: f32, plan: &Plan) -> Result<()>;
        fn rope_and_store(&self, qkv: &mut Matrix, kv: &mut KvCache, layer: usize, plan: &Plan) -> Result<()>;
        fn swiglu(&self, out: &mut Matrix, gate_up: &Matrix) -> Result<()>;
        fn take_outputs(&self, out: &mut Matrix, x: &Matrix, plan: &Plan) -> Result<()>;
    }

    fn attention(&self, out: &mut Matrix, qkv: &Matrix, kv: &KvCache, layer: usize, plan: &Plan) -> Result<()> {
        let left = self.calls_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        match left {
            Ok(1) => {
                let problem = "the device has failed".into();
                Err(Error::Backend { backend: "faulty", verb: "attention", problem })
            }
            _ => self.inner.attention(out, qkv, kv, layer, plan),
        }
    }
}
