//! Measuring importance: what texts send into the columns of a model's matrices while it computes them.
//!
//! ```no_run
//! # use llama_core::{Loader, backend::{Numerics, Reference}, convert::Measure, engine::Request};
//! # fn main() -> llama_core::Result<()> {
//! let loader = Loader::open("my-fine-tune")?;
//! let measure = Measure::of(loader.checkpoint());
//! let mut engine = loader.load(measure.on(Reference::new(Numerics::Default)))?;
//! # let windows: Vec<Vec<u32>> = vec![];
//! for window in windows {
//!     engine.complete(Request { max_tokens: Some(0), prompt_logprobs: true, ..Request::new(window) })?;
//! }
//! measure.write("my-fine-tune.imatrix.gguf", "wiki.train.raw", 512)?;
//! # Ok(())
//! # }
//! ```
//!
//! The number of a column is the sum of the squares of what is multiplied by it, as of llama.cpp's `llama-imatrix`, whose file this
//! writes. A matrix that serves as embedding and head has what it gets as a head. Any backend will do, whatever it computes with:
//! each product's input is read from it, in the precision that it keeps activations in.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use super::Importance;
use crate::backend::{AttentionShape, Backend, Limits, LowRank, Numerics, Part, Role, Rows};
use crate::batch::{Batch, BlockId, Stage};
use crate::checkpoint::gguf::write::{ALIGNMENT, Entry, front};
use crate::checkpoint::gguf::{Array, Value};
use crate::checkpoint::{Checkpoint, Name, TensorView};
use crate::error::{Error, Result};
use crate::format::Format;
use crate::sample::{Draw, Outputs};
use crate::whole;

/// What is being measured of one model: the sums so far, by the matrices' names in a GGUF.
#[derive(Clone)]
pub struct Measure {
    model: PathBuf,
    /// Every matrix of the model, in the order of a file.
    matrices: Vec<String>,
    /// What a GGUF calls a tensor of the checkpoint.
    names: Arc<HashMap<String, String>>,
    taken: Arc<Mutex<Taken>>,
}

/// What was measured so far.
#[derive(Default)]
struct Taken {
    /// By the first matrix of each weight.
    sums: HashMap<String, Sums>,
    /// The first matrix of the weight that a matrix is part of: all of them multiply the same.
    first: HashMap<String, String>,
}

impl Taken {
    fn of(&self, matrix: &str) -> Option<&Sums> {
        self.sums.get(self.first.get(matrix)?)
    }
}

/// Sums of squares of one matrix's input.
#[derive(Clone, Default)]
struct Sums {
    rows: u64,
    columns: Vec<f64>,
}

impl Sums {
    fn add(&mut self, cols: usize, x: &[f32]) {
        self.columns.resize(cols, 0.0);
        for row in x.chunks_exact(cols) {
            self.columns.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x) * f64::from(x));
            self.rows += 1;
        }
    }
}

impl Measure {
    /// Nothing yet, of the model in `checkpoint`.
    pub fn of(checkpoint: &Checkpoint) -> Measure {
        let matrices = || Name::all(checkpoint.config()).filter(|name| !name.is_vector());
        let traits = super::hyperparameters::traits(checkpoint.config());
        let tensor = |name| traits.tensor(name);
        let named = matrices().filter_map(|name| Some((checkpoint.find(name)?.name().to_owned(), tensor(name))));
        let mut all: Vec<String> = matrices().map(tensor).collect();
        // Of several that are one tensor the first stands for all.
        all.dedup();
        Measure {
            model: checkpoint.path().to_owned(),
            matrices: all,
            names: Arc::new(named.collect()),
            taken: Arc::default(),
        }
    }

    /// `inner`, for loading that model: what it multiplies from now on is measured here.
    pub fn on<B: Backend>(&self, inner: B) -> Measured<B> {
        Measured { inner, measure: self.clone(), room: RefCell::default() }
    }

    /// What was measured so far.
    ///
    /// # Errors
    /// [`Error::Parameter`] if nothing was, or an activation was not finite, with the matrix.
    pub fn importance(&self) -> Result<Importance> {
        let columns = self.each(|name, sums| Ok((name.to_owned(), self.finite(name, sums)?)))?;
        Ok(Importance { path: self.model.clone(), columns: columns.into_iter().collect() })
    }

    /// Writes what was measured so far, of windows of at most so many tokens of `text`, as `llama-imatrix` would.
    ///
    /// # Errors
    /// As [`Measure::importance`]; [`Error::Io`] if the file cannot be written. One that was there is replaced when all is
    /// written.
    pub fn write(&self, path: impl AsRef<Path>, text: &str, window: usize) -> Result<()> {
        let tensors = self.each(|name, sums| Ok((name.to_owned(), self.finite(name, sums)?, sums.rows)))?;
        let tokens = tensors.iter().map(|&(.., rows)| rows).max().unwrap_or(0);
        let entry = |name: &str, end: &str, cols| {
            let name = format!("{name}{end}");
            Entry { name, format: Format::F32, rows: 1, cols, vector: true }
        };
        let (mut entries, mut data) = (Vec::new(), Vec::new());
        for (name, columns, rows) in &tensors {
            for (end, numbers) in
                [(super::importance::SUMS, &columns[..]), (super::importance::COUNTS, &[*rows as f32])]
            {
                entries.push(entry(name, end, numbers.len()));
                data.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
                data.resize(data.len().next_multiple_of(ALIGNMENT), 0);
            }
        }
        let count = u32::try_from(tokens.div_ceil(window.max(1) as u64)).unwrap_or(u32::MAX);
        let pairs = [
            ("general.type", Value::String("imatrix".into())),
            ("imatrix.datasets", Value::Array(Array::String(vec![text.into()]))),
            ("imatrix.chunk_count", Value::U32(count)),
            ("imatrix.chunk_size", Value::U32(u32::try_from(window).unwrap_or(u32::MAX))),
        ];
        let mut bytes = front(&pairs.map(|(key, value)| (key.to_owned(), value)), &entries);
        bytes.append(&mut data);
        whole::written(path.as_ref(), |partial| fs::write(partial, &bytes).map_err(|source| Error::io(partial, source)))
    }

    /// The matrices that something was measured of, in the order of a file.
    fn each<T>(&self, mut of: impl FnMut(&str, &Sums) -> Result<T>) -> Result<Vec<T>> {
        let taken = self.taken();
        let all = self.matrices.iter().filter_map(|name| Some(of(name, taken.of(name)?)));
        let all = all.collect::<Result<Vec<_>>>()?;
        match all.is_empty() {
            true => Err(Error::parameter("measure", 0, "nothing was computed yet: complete a request first")),
            false => Ok(all),
        }
    }

    fn finite(&self, name: &str, sums: &Sums) -> Result<Vec<f32>> {
        let columns: Vec<f32> = sums.columns.iter().map(|&sum| sum as f32).collect();
        match columns.iter().position(|sum| !sum.is_finite()) {
            None => Ok(columns),
            Some(i) => {
                let problem = format!("column {i} of {name} got {}; finite numbers were expected", columns[i]);
                Err(Error::parameter("measure", self.model.display(), problem))
            }
        }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// A backend whose products are measured. Fused verbs are the compositions that the contract provides, so that each product has an
/// input to be read; what comes of them is the same.
pub struct Measured<B> {
    inner: B,
    measure: Measure,
    /// One product's input.
    room: RefCell<Vec<f32>>,
}

/// A weight, and what a GGUF calls the first matrix that it is made of.
pub struct Weight<B: Backend> {
    inner: B::Weight,
    first: Option<String>,
}

/// Passes on to the backend within.
macro_rules! passed_on {
    ($(fn $name:ident(&self $(, $argument:ident: $kind:ty)*) -> $outcome:ty;)*) => {
        $(fn $name(&self $(, $argument: $kind)*) -> $outcome {
            self.inner.$name($($argument),*)
        })*
    };
}

impl<B: Backend> Backend for Measured<B> {
    type Tensor = B::Tensor;
    type Weight = Weight<B>;
    type Adapter = B::Adapter;
    type KvCache = B::KvCache;
    type Plan = B::Plan;

    passed_on! {
        fn name(&self) -> String;
        fn numerics(&self) -> Numerics;
        fn weight_bytes(&self, parts: &[(Format, usize, usize)]) -> u64;
        fn adapter_bytes(&self, cols: usize, parts: &[(usize, usize)], role: Role) -> u64;
        fn kv_bytes(&self, shape: &AttentionShape, limits: &Limits) -> u64;
        fn tensor_bytes(&self, rows: usize, cols: usize, role: Role) -> u64;
        fn scratch_bytes(&self, shape: &AttentionShape, limits: &Limits, widest: usize) -> u64;
        fn reserve(&self, total: u64, weights: u64) -> Result<()>;
        fn tensor(&self, rows: usize, cols: usize, role: Role) -> Result<B::Tensor>;
        fn gain(&self, view: TensorView<'_>) -> Result<B::Tensor>;
        fn adapter(&self, shape: [usize; 2], parts: &[(usize, usize)], role: Role) -> Result<B::Adapter>;
        fn set_adapter(&self, adapter: &mut B::Adapter, parts: &[LowRank<'_>], role: Role) -> Result<()>;
        fn kv_cache(&self, shape: &AttentionShape, limits: &Limits) -> Result<B::KvCache>;
        fn plan(&self, shape: &AttentionShape, limits: &Limits) -> Result<B::Plan>;
        fn prepare(&self, plan: &mut B::Plan, batch: &Batch) -> Result<()>;
        fn copy_blocks(&self, kv: &mut B::KvCache, pairs: &[(BlockId, BlockId)]) -> Result<()>;
        fn kv_form(&self, shape: &AttentionShape, limits: &Limits) -> String;
        fn read_block(&self, kv: &B::KvCache, block: BlockId, out: &mut Vec<u8>) -> Result<()>;
        fn write_block(&self, kv: &mut B::KvCache, block: BlockId, bytes: &[u8]) -> Result<()>;
        fn read(&self, x: &B::Tensor, out: &mut Vec<f32>) -> Result<()>;
        fn write(&self, x: &mut B::Tensor, values: &[f32]) -> Result<()>;
        fn rms_norm(&self, out: &mut B::Tensor, x: &B::Tensor, gain: &B::Tensor, eps: f32) -> Result<()>;
        fn add(&self, acc: &mut B::Tensor, x: &B::Tensor) -> Result<()>;
        fn norm_heads(&self, qkv: &mut B::Tensor, gains: [&B::Tensor; 2], eps: f32, plan: &B::Plan) -> Result<()>;
        fn rope_and_store(&self, qkv: &mut B::Tensor, kv: &mut B::KvCache, layer: usize, plan: &B::Plan) -> Result<()>;
        fn attention(&self, out: &mut B::Tensor, qkv: &B::Tensor, kv: &B::KvCache, layer: usize, plan: &B::Plan) -> Result<()>;
        fn swiglu(&self, out: &mut B::Tensor, gate_up: &B::Tensor) -> Result<()>;
        fn take_outputs(&self, out: &mut B::Tensor, x: &B::Tensor, plan: &B::Plan) -> Result<()>;
        fn adapt(&self, out: &mut B::Tensor, low: &mut B::Tensor, x: &B::Tensor, adapters: &[Option<B::Adapter>], plan: &B::Plan, stage: Stage) -> Result<()>;
        fn sample(&self, logits: &mut B::Tensor, draws: &[Draw<'_>], outputs: &mut Outputs) -> Result<()>;
        fn replay(&self, ops: impl FnOnce() -> Result<()>) -> Result<()>;
    }

    fn weight(&self, parts: &[Part<'_>]) -> Result<Weight<B>> {
        let known = |part: &Part<'_>| self.measure.names.get(part.weight.name()).cloned();
        let first = parts.first().and_then(known);
        let same = parts.iter().filter_map(known).zip(first.iter().cycle().cloned());
        self.measure.taken().first.extend(same);
        Ok(Weight { inner: self.inner.weight(parts)?, first })
    }

    fn embed(&self, out: &mut B::Tensor, table: &Weight<B>, scale: f32, plan: &B::Plan) -> Result<()> {
        self.inner.embed(out, &table.inner, scale, plan)
    }

    fn linear(&self, out: &mut B::Tensor, x: &B::Tensor, w: &Weight<B>) -> Result<()> {
        let room = &mut *self.room.borrow_mut();
        self.inner.read(x, room)?;
        if let Some(first) = &w.first {
            self.measure.taken().sums.entry(first.clone()).or_default().add(x.cols(), room);
        }
        self.inner.linear(out, x, &w.inner)
    }
}
