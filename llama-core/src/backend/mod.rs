//! The contract between the Llama graph and a machine.
//!
//! The verbs are those of a Llama, not the operators of a tensor library. Activations are matrices `[tokens, features]`
//! of f32 semantics, always contiguous: heads are a reading of the columns, and a ragged batch needs no padding. Every
//! verb writes into tensors made once, so a step allocates nothing and its addresses are stable.
//!
//! [`mod@reference`] is this contract executed as plainly as it can be said; docs/backend.md tells how to write another.

pub mod reference;
mod timed;

pub use reference::Reference;
pub use timed::{Timed, VerbTime};

pub use crate::config::{RopeLayout, Temperature};

use std::str::FromStr;

use crate::batch::{Batch, BlockId, Stage};
use crate::checkpoint::TensorView;
use crate::config::Config;
use crate::error::{Error, Result, by_name};
use crate::format::Format;
use crate::numerics::Scaling;
use crate::sample::{Draw, Outputs};

/// How a backend computes with quantised weights. Chosen for a whole model, never per step. F32, F16 and BF16 weights are
/// unaffected: they multiply f32 activations.
///
/// That is a CPU's: a GPU has two modes, its default for `Default` and `Fast` and f32 activations for `Precise` and `Float`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Numerics {
    /// Activations are rounded to int8 in groups of 32 with an f32 scale, dots are exact in integers.
    #[default]
    Default,
    /// As `Default` with scales that are powers of two: twice the divergence.
    Fast,
    /// As `Default`, and what rounding left is rounded to int8 once more and multiplied, too: two terms, about a 250th of the
    /// error, on the same weights.
    Precise,
    /// f32 activations on weights decoded to f32: slower, four (8-bit formats) to seven (4-bit) times the memory, no rounding
    /// of activations.
    Float,
}

impl Numerics {
    /// Every mode.
    pub const ALL: [Numerics; 4] = [Numerics::Default, Numerics::Fast, Numerics::Precise, Numerics::Float];

    /// Its name on a command line.
    pub fn name(self) -> &'static str {
        match self {
            Numerics::Default => "default",
            Numerics::Fast => "fast",
            Numerics::Precise => "precise",
            Numerics::Float => "float",
        }
    }

    /// On a CPU: whether quantised weights multiply int8 activations, not f32 ones.
    pub fn is_integer(self) -> bool {
        self != Numerics::Float
    }

    /// Terms of a quantised activation: int8 numbers with a scale whose sum it is.
    pub fn terms(self) -> usize {
        if self == Numerics::Precise { 2 } else { 1 }
    }

    /// How groups of activations get their scales.
    pub fn scaling(self) -> Scaling {
        if self == Numerics::Fast { Scaling::PowerOfTwo } else { Scaling::Full }
    }
}

impl FromStr for Numerics {
    type Err = Error;

    /// By its name.
    fn from_str(name: &str) -> Result<Self> {
        by_name("numerics", name, Numerics::ALL, Numerics::name)
    }
}

/// How K and V are kept between steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KvFormat {
    /// Sixteen bits, rounded to nearest even: IEEE half on a CPU, bfloat16 on a GPU, whichever its arithmetic takes.
    #[default]
    Half,
    /// Single precision.
    F32,
    /// bfloat16, rounded to nearest even: the range of single precision with eight bits of fraction. On a GPU it is what
    /// `Half` is.
    Bf16,
    /// Eight bits, e4m3 (Micikevicius et al. 2022, arXiv:2209.05433), rounded to nearest even, at most 448: for GPUs.
    F8,
    /// Eight-bit integers in groups of [`GROUP`](crate::numerics::GROUP) columns of a head with a scale in single precision,
    /// nine bits a number, quantised as activations are ([`crate::numerics::quantize_row`]): for CPUs.
    Q8,
}

impl KvFormat {
    /// Every format.
    pub const ALL: [KvFormat; 5] = [KvFormat::Half, KvFormat::F32, KvFormat::Bf16, KvFormat::F8, KvFormat::Q8];

    /// Its name on a command line and in errors.
    pub fn name(self) -> &'static str {
        match self {
            KvFormat::Half => "half",
            KvFormat::F32 => "f32",
            KvFormat::Bf16 => "bf16",
            KvFormat::F8 => "f8",
            KvFormat::Q8 => "q8",
        }
    }
}

impl FromStr for KvFormat {
    type Err = Error;

    /// By its name.
    fn from_str(name: &str) -> Result<Self> {
        by_name("kv", name, KvFormat::ALL, KvFormat::name)
    }
}

/// What a model may be asked for at once; every buffer is sized by it, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Rows of one step.
    pub tokens: usize,
    /// Sequences of one step.
    pub sequences: usize,
    /// Rows of logits of one step.
    pub outputs: usize,
    /// Positions of one sequence.
    pub context: usize,
    /// Blocks in the KV cache's pool, of [`crate::batch::BLOCK`] tokens each.
    pub blocks: usize,
    /// How K and V are kept.
    pub kv: KvFormat,
}

/// Everything attention needs to know about a model.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionShape {
    /// Decoder layers.
    pub layers: usize,
    /// Query heads; a multiple of `kv_heads`.
    pub heads: usize,
    /// Key and value heads. Query head `h` reads KV head `h / (heads / kv_heads)`.
    pub kv_heads: usize,
    /// Columns of one head.
    pub head_dim: usize,
    /// `[rope_dim / 2]` radians per position; `rope_dim <= head_dim`, further columns are not turned.
    pub inv_freq: Vec<f32>,
    /// Multiplies cosine and sine (YaRN's attention factor; 1 otherwise).
    pub rope_scale: f32,
    /// Which columns are turned together.
    pub layout: RopeLayout,
    /// Layers whose queries and keys are not turned, in order.
    pub unturned: Vec<usize>,
    /// Multiplies `q . k`: [`Config::attention_scale`].
    pub scale: f32,
    /// A query at position `p` sees positions `> p - window` only.
    pub window: Option<usize>,
    /// What multiplies queries after the turn, all their columns, where a model has one.
    pub temperature: Option<Temperature>,
}

impl AttentionShape {
    /// What attention needs of `config`, for an engine whose sequences hold at most `context` positions.
    pub fn new(config: &Config, context: usize) -> Self {
        AttentionShape {
            layers: config.layers,
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            inv_freq: config.rope.inv_freq(context),
            rope_scale: config.rope.scale(),
            layout: config.rope.layout,
            unturned: config.rope.unturned.clone(),
            scale: config.attention_scale(),
            window: config.window,
            temperature: config.temperature,
        }
    }

    /// Whether queries and keys of `layer` are turned.
    pub fn turns(&self, layer: usize) -> bool {
        self.unturned.binary_search(&layer).is_err()
    }

    /// What a query at `position` is multiplied by after the turn.
    pub fn query_factor(&self, position: u32) -> f32 {
        self.temperature.map_or(1.0, |temperature| temperature.factor(position))
    }

    /// Columns of the fused `qkv` rows: q heads, then k heads, then v heads.
    pub fn qkv_cols(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Positions visible to a query at `position`: all of `first ..= position`.
    pub fn first_visible(&self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }
}

/// One `[out, in]` matrix of a fused weight, with its bias (`[out]`, one row) where the checkpoint has one.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    /// The matrix.
    pub weight: TensorView<'a>,
    /// Its bias: a view of one row with `weight.rows()` columns.
    pub bias: Option<TensorView<'a>>,
}

/// What an adapter adds to a run of a weight's rows: `b a x` (Hu et al. 2021, arXiv:2106.09685), whatever scale there is in `b`.
#[derive(Debug, Clone, Copy)]
pub struct LowRank<'a> {
    /// The first of the weight's rows; as many follow as `b` has.
    pub first_row: usize,
    /// `[rank, in]`, F32.
    pub a: TensorView<'a>,
    /// `[rows, rank]`, F32.
    pub b: TensorView<'a>,
}

/// What a tensor is for: a backend may keep activations in fewer bits than the sums that they are added to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The residual stream, which every layer adds to.
    Residual,
    /// What flows inside a layer.
    Activation,
    /// What flows from a verb to the next within its heads or its columns of the feed-forward, so that nobody needs those of
    /// another rank: qkv, gate and up. A backend that is the whole machine keeps it as an [`Role::Activation`].
    Local,
    /// The model's output.
    Logits,
}

/// What a norm multiplies by, and what it adds under the root.
#[derive(Debug)]
pub struct Norm<'a, T> {
    /// `[1, cols]`.
    pub gain: &'a T,
    /// Added to the mean of squares.
    pub eps: f32,
}

/// A matrix of activations whose row count changes from step to step inside a fixed allocation.
pub trait Rows {
    /// Rows in use.
    fn rows(&self) -> usize;
    /// Columns.
    fn cols(&self) -> usize;
    /// Uses the first `rows` rows of the allocation.
    ///
    /// # Panics
    /// If the tensor was made with fewer.
    fn set_rows(&mut self, rows: usize);
}

/// A machine that can run a Llama. Shapes below are `[rows, columns]`; T is the rows of the batch.
///
/// A backend may assume what the model guarantees (shapes fit, ids are in range); it panics with shapes where that is
/// broken, and returns errors for what only the machine can refuse.
pub trait Backend: Send + 'static {
    /// `[tokens, features]` on the device.
    type Tensor: Rows + Send;
    /// `[out, in]`, prepared: repacked, stacked, perhaps of several formats, with its bias.
    type Weight: Send;
    /// What one adapter adds to one weight, prepared.
    type Adapter: Send;
    /// The bytes of all blocks of all layers; layout and format private.
    type KvCache: Send;
    /// One step's ragged batch on the device, its rotations and its attention schedule.
    type Plan: Send;

    /// Name and tier, for people: `"cpu avx512-vnni, 2 threads"`.
    fn name(&self) -> String;
    /// The mode it was made with.
    fn numerics(&self) -> Numerics;

    // ---- memory, before a byte is read ----

    /// Bytes that [`Backend::weight`] will hold for parts of these formats and `[out, in]` shapes.
    fn weight_bytes(&self, parts: &[(Format, usize, usize)]) -> u64;
    /// Bytes that [`Backend::adapter`] will hold for a weight of `cols` columns and parts of at most these `(rows, rank)`.
    fn adapter_bytes(&self, cols: usize, parts: &[(usize, usize)], role: Role) -> u64;
    /// Bytes that [`Backend::kv_cache`] will hold.
    fn kv_bytes(&self, shape: &AttentionShape, limits: &Limits) -> u64;
    /// Bytes that [`Backend::tensor`] and [`Backend::gain`] (a row of the residual) will hold.
    fn tensor_bytes(&self, rows: usize, cols: usize, role: Role) -> u64 {
        let _ = role;
        (rows * cols * size_of::<f32>()) as u64
    }
    /// Bytes that [`Backend::plan`] and the backend's own scratch will hold for rows of at most `widest` columns.
    fn scratch_bytes(&self, shape: &AttentionShape, limits: &Limits, widest: usize) -> u64;

    // ---- load ----

    /// Told once, before anything is made: the bytes of everything that will be, by the functions above, and of those the
    /// weights' (with gains and adapters). A backend with memory of its own takes it in one piece, or says how much there is.
    fn reserve(&self, total: u64, weights: u64) -> Result<()> {
        let _ = (total, weights);
        Ok(())
    }
    /// Zeros, `[rows, cols]`.
    fn tensor(&self, rows: usize, cols: usize, role: Role) -> Result<Self::Tensor>;
    /// A norm's gain, `[1, cols]`.
    fn gain(&self, view: TensorView<'_>) -> Result<Self::Tensor>;
    /// Stacks the rows of `parts`, which have equal columns, into one weight.
    fn weight(&self, parts: &[Part<'_>]) -> Result<Self::Weight>;
    /// Memory for what an adapter adds to a weight of `[rows, cols]`, whose product is a tensor of `role` or is added to one: of the
    /// weight's matrices as many `parts`, each of at most so many `(rows, rank)`. It adds nothing until it is set.
    fn adapter(&self, shape: [usize; 2], parts: &[(usize, usize)], role: Role) -> Result<Self::Adapter>;
    /// An empty KV cache of `limits.blocks` blocks.
    fn kv_cache(&self, shape: &AttentionShape, limits: &Limits) -> Result<Self::KvCache>;
    /// An empty plan that any batch within `limits` fits.
    fn plan(&self, shape: &AttentionShape, limits: &Limits) -> Result<Self::Plan>;

    // ---- between steps ----

    /// Has an adapter add `parts` to its weight in the stead of whatever it added, in the memory that it has: by ascending rows,
    /// which do not overlap, each within one of the parts that it was made for, or none at all. `role` is what it was made for.
    fn set_adapter(&self, adapter: &mut Self::Adapter, parts: &[LowRank<'_>], role: Role) -> Result<()>;

    // ---- once a step ----

    /// Takes the batch over: tokens, rotations of every position, block tables, schedule.
    fn prepare(&self, plan: &mut Self::Plan, batch: &Batch) -> Result<()>;
    /// Copies whole blocks `(from, to)` in every layer.
    fn copy_blocks(&self, kv: &mut Self::KvCache, pairs: &[(BlockId, BlockId)]) -> Result<()>;
    /// What the bytes of [`Backend::read_block`] are and whose arithmetic they come from: where two say the same, one's blocks are
    /// what the other would have computed.
    fn kv_form(&self, shape: &AttentionShape, limits: &Limits) -> String;
    /// Reads the K and V of a block into `out`, which is replaced: `[layers][kv_heads]`, as many bytes for each head, a multiple
    /// of eight.
    fn read_block(&self, kv: &Self::KvCache, block: BlockId, out: &mut Vec<u8>) -> Result<()>;
    /// Writes a block's K and V as [`Backend::read_block`] read them, from a backend of the same [`Backend::kv_form`]. Bytes come
    /// from files and from other ranks: how many there are is for the backend to check ([`check_block`]).
    fn write_block(&self, kv: &mut Self::KvCache, block: BlockId, bytes: &[u8]) -> Result<()>;
    /// Reads the rows in use into `out`, which is replaced: what the verbs before wrote there, inside [`Backend::replay`], too.
    fn read(&self, x: &Self::Tensor, out: &mut Vec<f32>) -> Result<()>;
    /// Writes the rows in use, `values [rows, cols]`, rounded to nearest even where the tensor keeps fewer bits. Verbs before
    /// have read what was there.
    fn write(&self, x: &mut Self::Tensor, values: &[f32]) -> Result<()>;

    // ---- verbs ----

    /// `out[t] = table[token[t]] * scale`: decoded, multiplied, rounded once. `table [vocab, hidden]`, `out [T, hidden]`.
    fn embed(&self, out: &mut Self::Tensor, table: &Self::Weight, scale: f32, plan: &Self::Plan) -> Result<()>;
    /// `out = x w^T + bias`. `x [T, in]`, `w [out, in]`, `out [T, out]`.
    fn linear(&self, out: &mut Self::Tensor, x: &Self::Tensor, w: &Self::Weight) -> Result<()>;
    /// `out = x / rms(x) * gain`, row by row; `rms = sqrt(mean(x^2) + eps)`.
    fn rms_norm(&self, out: &mut Self::Tensor, x: &Self::Tensor, gain: &Self::Tensor, eps: f32) -> Result<()>;
    /// `acc += x`.
    fn add(&self, acc: &mut Self::Tensor, x: &Self::Tensor) -> Result<()>;
    /// Norms every head of q and of k of every row in place, as [`Backend::rms_norm`] does a row: `gains` are those of queries and of
    /// keys, `[1, head_dim]` each. `qkv [T, qkv_cols]`.
    fn norm_heads(&self, qkv: &mut Self::Tensor, gains: [&Self::Tensor; 2], eps: f32, plan: &Self::Plan) -> Result<()>;
    /// Turns q and k of every row by its position, in layers that do ([`AttentionShape::turns`]), and stores k and v in the row's
    /// slot of `layer`. `qkv [T, qkv_cols]`; its q is turned in place, and multiplied by [`AttentionShape::query_factor`]; its k and
    /// v may be left as they were.
    fn rope_and_store(
        &self,
        qkv: &mut Self::Tensor,
        kv: &mut Self::KvCache,
        layer: usize,
        plan: &Self::Plan,
    ) -> Result<()>;
    /// Causal softmax attention of every row over its sequence's visible positions. `out [T, heads * head_dim]`.
    fn attention(
        &self,
        out: &mut Self::Tensor,
        qkv: &Self::Tensor,
        kv: &Self::KvCache,
        layer: usize,
        plan: &Self::Plan,
    ) -> Result<()>;
    /// `out = silu(gate) * up`; `gate_up [T, 2 * ffn]` holds gate then up.
    fn swiglu(&self, out: &mut Self::Tensor, gate_up: &Self::Tensor) -> Result<()>;
    /// `out[i] = x[outputs[i]]`; sets the rows of `out`.
    fn take_outputs(&self, out: &mut Self::Tensor, x: &Self::Tensor, plan: &Self::Plan) -> Result<()>;

    /// `out[t] += b (a x[t])` for the rows t of the plan's batch that have an adapter, by what that one, its number's place among
    /// `adapters`, adds to the weight whose product `out` is; nothing where it is `None`. `x [R, in]`, `out [R, out]`, R the rows
    /// of `stage`; room `low`, of [`Role::Residual`], at least as many rows and as wide as the ranks of any of them together.
    ///
    /// A row's numbers are `a x` in f32, of which `b`'s products are summed from 0 before the sum is added to `out`.
    fn adapt(
        &self,
        out: &mut Self::Tensor,
        low: &mut Self::Tensor,
        x: &Self::Tensor,
        adapters: &[Option<Self::Adapter>],
        plan: &Self::Plan,
        stage: Stage,
    ) -> Result<()>;

    // ---- provided: correct compositions a backend may fuse ----

    // Their room (`x`, `gate_up`) is for what the composition passes on: afterwards it may hold anything.

    /// `out = norm(residual) w^T + bias`. `residual [T, in]`, room `x [T, in]`, `w [out, in]`, `out [T, out]`.
    fn norm_linear(
        &self,
        out: &mut Self::Tensor,
        x: &mut Self::Tensor,
        residual: &Self::Tensor,
        norm: Norm<'_, Self::Tensor>,
        w: &Self::Weight,
    ) -> Result<()> {
        self.rms_norm(x, residual, norm.gain, norm.eps)?;
        self.linear(out, x, w)
    }

    /// `act = silu(gate) * up` with gate and up, in this order, the columns of `norm(residual) w^T + bias`.
    /// `residual [T, in]`, `w [2 * ffn, in]`, `act [T, ffn]`; room `x [T, in]` and `gate_up [T, 2 * ffn]`.
    fn norm_linear_swiglu(
        &self,
        act: &mut Self::Tensor,
        (gate_up, x): (&mut Self::Tensor, &mut Self::Tensor),
        residual: &Self::Tensor,
        norm: Norm<'_, Self::Tensor>,
        w: &Self::Weight,
    ) -> Result<()> {
        self.norm_linear(gate_up, x, residual, norm, w)?;
        self.swiglu(act, gate_up)
    }

    /// `act = silu(gate) * up` with gate and up, in this order, the columns of `x w^T + bias` and what [`Backend::adapt`] adds to
    /// them. `x [T, in]`, `w [2 * ffn, in]`, `act [T, ffn]`; room `gate_up [T, 2 * ffn]` and `low` as for `adapt`.
    fn adapt_swiglu(
        &self,
        act: &mut Self::Tensor,
        (gate_up, low): (&mut Self::Tensor, &mut Self::Tensor),
        x: &Self::Tensor,
        w: &Self::Weight,
        adapters: &[Option<Self::Adapter>],
        plan: &Self::Plan,
    ) -> Result<()> {
        self.linear(gate_up, x, w)?;
        self.adapt(gate_up, low, x, adapters, plan, Stage::Tokens)?;
        self.swiglu(act, gate_up)
    }

    /// `residual += y w^T + bias`. `y [T, in]`, `w [out, in]`, `residual [T, out]`, room `x [T, out]`.
    fn linear_add(
        &self,
        residual: &mut Self::Tensor,
        x: &mut Self::Tensor,
        y: &Self::Tensor,
        w: &Self::Weight,
    ) -> Result<()> {
        self.linear(x, y, w)?;
        self.add(residual, x)
    }

    /// Picks a token for each of `draws` out of its row of `logits [O, vocab]`: the very tokens, or refusals, that
    /// [`Outputs::pick`] picks, into `outputs.picks`. May leave the tensor changed. Where `outputs.logits` isn't empty, it
    /// holds the same rows.
    fn sample(&self, logits: &mut Self::Tensor, draws: &[Draw<'_>], outputs: &mut Outputs) -> Result<()> {
        if outputs.logits.is_empty() {
            self.read(logits, &mut outputs.logits)?;
        }
        outputs.pick(draws);
        Ok(())
    }

    /// Runs one step's verbs. A GPU may record and fuse them; a CPU may keep its workers awake in between. Afterwards only
    /// what the last verb wrote and what was added to or stored is defined: what a step left in between may never have
    /// been written.
    fn replay(&self, ops: impl FnOnce() -> Result<()>) -> Result<()> {
        ops()
    }
}

/// What [`Backend::write_block`] refuses: bytes that are not the `expected` ones of a block.
///
/// # Errors
/// [`Error::Parameter`] with both numbers.
pub fn check_block(bytes: &[u8], expected: usize) -> Result<()> {
    match bytes.len() {
        given if given == expected => Ok(()),
        given => Err(Error::parameter("bytes of a block", given, format!("{expected} were expected"))),
    }
}
