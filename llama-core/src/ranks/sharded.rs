//! A rank as a backend: it keeps a share of every weight on a backend of its own and gathers what the graph wants whole.

use std::cell::RefCell;
use std::ops::Range;

use super::cut::{self, Place};
use super::mesh::{Columns, Layout, Mesh};
use super::wire::words_of;
use crate::backend::{AttentionShape, Backend, Limits, LowRank, Norm, Numerics, Part, Role, Rows, check_block};
use crate::batch::{Batch, BlockId, Stage};
use crate::checkpoint::TensorView;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::format::Format;
use crate::model::widest_input;

/// `B` with one rank's share of a model's weights, heads and KV cache.
///
/// Logits are the same bits as `B`'s with all of it. Rank 0 alone can read them.
pub struct Sharded<B> {
    inner: B,
    place: Place,
    mesh: RefCell<Mesh>,
    room: RefCell<Room>,
    layers: usize,
    hidden: usize,
    widest: usize,
    vocab: usize,
}

/// What goes through the host when a tensor is gathered.
#[derive(Default)]
struct Room {
    own: Vec<f32>, // [T, share of the columns], or rows of the embedding
    all: Vec<f32>, // [T, columns]
}

/// A matrix of activations: whole, or this rank's columns of it, or both.
pub struct Sheet<B: Backend> {
    whole: Option<B::Tensor>,
    part: Option<B::Tensor>,
    rows: usize,
    cols: usize,
    /// Of logits, which nobody has whole: where its part is read to.
    own: RefCell<Vec<f32>>,
}

/// A step's batch, and which rank looks up which of its tokens.
pub struct Plan<B: Backend> {
    inner: B::Plan,
    /// With this rank's numbers of its own tokens, and 0 for those of others.
    local: Batch,
    lookups: Lookups,
}

impl<B: Backend> Sharded<B> {
    /// The rank of `mesh`, for models of `config`.
    ///
    /// # Errors
    /// [`Error::Parameter`] if that cannot be divided among so many ranks.
    pub(crate) fn new(inner: B, mesh: Mesh, config: &Config) -> Result<Self> {
        let place = mesh.place();
        cut::check(config, place.ranks)?;
        Ok(Sharded {
            inner,
            place,
            mesh: RefCell::new(mesh),
            room: RefCell::default(),
            layers: config.layers,
            hidden: config.hidden,
            widest: widest_input(config),
            vocab: config.vocab,
        })
    }

    /// This rank's heads.
    fn shape(&self, shape: &AttentionShape) -> AttentionShape {
        let [heads, kv_heads] = [shape.heads, shape.kv_heads].map(|heads| self.place.share(heads));
        AttentionShape { heads, kv_heads, ..shape.clone() }
    }

    /// What this rank has of an adapter's `(rows, rank)`.
    fn adapted(&self, parts: &[(usize, usize)], role: Role) -> Vec<(usize, usize)> {
        let share = |&(rows, rank): &(usize, usize)| (if kept(role).0 { rows } else { self.place.share(rows) }, rank);
        parts.iter().map(share).collect()
    }

    /// Numbers in each half of the room for `tokens` rows.
    fn room(&self, tokens: usize) -> [usize; 2] {
        [self.hidden.max(self.place.share(self.widest)), self.widest].map(|cols| tokens.saturating_mul(cols))
    }

    /// This rank has written its columns of `sheet`: where that is to be whole, everybody gets them.
    fn gather(&self, sheet: &mut Sheet<B>) -> Result<()> {
        let (Some(part), Some(whole)) = (&sheet.part, &mut sheet.whole) else { return Ok(()) };
        let Room { own, all } = &mut *self.room.borrow_mut();
        self.inner.read(part, own)?;
        all.resize(sheet.rows * sheet.cols, 0.0);
        self.mesh.borrow_mut().all_gather(own, all, &Columns { rows: sheet.rows, cols: sheet.cols })?;
        self.inner.write(whole, all)
    }
}

impl<B: Backend> Sheet<B> {
    fn whole(&self) -> &B::Tensor {
        self.whole.as_ref().unwrap_or_else(|| panic!("[{}, {}] is in parts", self.rows, self.cols))
    }

    fn whole_mut(&mut self) -> &mut B::Tensor {
        self.whole.as_mut().unwrap_or_else(|| panic!("[{}, {}] is in parts", self.rows, self.cols))
    }

    fn part(&self) -> &B::Tensor {
        self.part.as_ref().unwrap_or_else(|| panic!("[{}, {}] is whole", self.rows, self.cols))
    }

    fn part_mut(&mut self) -> &mut B::Tensor {
        self.part.as_mut().unwrap_or_else(|| panic!("[{}, {}] is whole", self.rows, self.cols))
    }
}

impl<B: Backend> Rows for Sheet<B> {
    fn rows(&self) -> usize {
        self.rows
    }

    fn cols(&self) -> usize {
        self.cols
    }

    fn set_rows(&mut self, rows: usize) {
        self.rows = rows;
        self.whole.iter_mut().chain(&mut self.part).for_each(|tensor| tensor.set_rows(rows));
    }
}

/// Whether a tensor of this role is kept whole, and whether in parts.
fn kept(role: Role) -> (bool, bool) {
    match role {
        Role::Residual => (true, false),
        Role::Activation => (true, true),
        Role::Local | Role::Logits => (false, true),
    }
}

impl<B: Backend> Backend for Sharded<B> {
    type Tensor = Sheet<B>;
    type Weight = B::Weight;
    type Adapter = B::Adapter;
    type KvCache = B::KvCache;
    type Plan = Plan<B>;

    fn name(&self) -> String {
        format!("{}, rank {} of {}", self.inner.name(), self.place.rank, self.place.ranks)
    }

    fn numerics(&self) -> Numerics {
        self.inner.numerics()
    }

    fn weight_bytes(&self, parts: &[(Format, usize, usize)]) -> u64 {
        let shares: Vec<_> = parts.iter().map(|&(format, rows, cols)| (format, self.place.share(rows), cols)).collect();
        self.inner.weight_bytes(&shares)
    }

    fn adapter_bytes(&self, cols: usize, parts: &[(usize, usize)], role: Role) -> u64 {
        self.inner.adapter_bytes(cols, &self.adapted(parts, role), role)
    }

    fn kv_bytes(&self, shape: &AttentionShape, limits: &Limits) -> u64 {
        self.inner.kv_bytes(&self.shape(shape), limits)
    }

    fn tensor_bytes(&self, rows: usize, cols: usize, role: Role) -> u64 {
        let ((whole, part), share) = (kept(role), self.place.share(cols));
        let bytes = |is_kept, cols| if is_kept { self.inner.tensor_bytes(rows, cols, role) } else { 0 };
        let own = if role == Role::Logits { (rows * share * size_of::<f32>()) as u64 } else { 0 };
        bytes(whole, cols) + bytes(part, share) + own
    }

    fn scratch_bytes(&self, shape: &AttentionShape, limits: &Limits, widest: usize) -> u64 {
        let room: usize = self.room(limits.tokens).iter().sum();
        let inner = self.inner.scratch_bytes(&self.shape(shape), limits, widest);
        inner.saturating_add((room.saturating_mul(size_of::<f32>())) as u64)
    }

    fn reserve(&self, total: u64, weights: u64) -> Result<()> {
        self.inner.reserve(total, weights)
    }

    fn tensor(&self, rows: usize, cols: usize, role: Role) -> Result<Sheet<B>> {
        let ((whole, part), share) = (kept(role), self.place.share(cols));
        let tensor = |is_kept: bool, cols| is_kept.then(|| self.inner.tensor(rows, cols, role)).transpose();
        let mut own = Vec::new();
        if role == Role::Logits {
            have(&mut own, rows * share)?;
        }
        Ok(Sheet { whole: tensor(whole, cols)?, part: tensor(part, share)?, rows, cols, own: RefCell::new(own) })
    }

    fn gain(&self, view: TensorView<'_>) -> Result<Sheet<B>> {
        let whole = Some(self.inner.gain(view)?);
        Ok(Sheet { whole, part: None, rows: 1, cols: view.cols(), own: RefCell::default() })
    }

    /// A run of each part's rows, so of q, k and v as many heads, and of gate and up the same columns.
    fn weight(&self, parts: &[Part<'_>]) -> Result<B::Weight> {
        let shares: Result<Vec<_>> = parts.iter().map(|part| share_of(part, self.place)).collect();
        self.inner.weight(&shares?)
    }

    fn adapter(&self, [rows, cols]: [usize; 2], parts: &[(usize, usize)], role: Role) -> Result<B::Adapter> {
        let rows = if kept(role).0 { rows } else { self.place.share(rows) };
        self.inner.adapter([rows, cols], &self.adapted(parts, role), role)
    }

    /// To what every rank has whole every rank adds all, so that nobody need be told; `a x` is small. Where a weight is of several
    /// parts, ranks divide the rows of each, so that a part begins at as large a share of all rows.
    fn set_adapter(&self, adapter: &mut B::Adapter, parts: &[LowRank<'_>], role: Role) -> Result<()> {
        if kept(role).0 {
            return self.inner.set_adapter(adapter, parts, role);
        }
        let mut shares = parts.to_vec();
        for LowRank { first_row, b, .. } in &mut shares {
            *first_row /= self.place.ranks;
            *b = b.slice_rows(self.place.cut(b.rows()));
        }
        self.inner.set_adapter(adapter, &shares, role)
    }

    fn kv_cache(&self, shape: &AttentionShape, limits: &Limits) -> Result<B::KvCache> {
        self.inner.kv_cache(&self.shape(shape), limits)
    }

    fn plan(&self, shape: &AttentionShape, limits: &Limits) -> Result<Plan<B>> {
        let [own, all] = self.room(limits.tokens);
        let mut room = self.room.borrow_mut();
        have(&mut room.own, own)?;
        have(&mut room.all, all)?;
        let inner = self.inner.plan(&self.shape(shape), limits)?;
        Ok(Plan { inner, local: Batch::new(), lookups: Lookups::default() })
    }

    fn prepare(&self, plan: &mut Plan<B>, batch: &Batch) -> Result<()> {
        let Plan { inner, local, lookups } = plan;
        lookups.divide(&batch.tokens, self.place, self.vocab);
        local.copy_from(batch);
        let own = self.place.cut(self.vocab);
        for token in &mut local.tokens {
            *token = if own.contains(&(*token as usize)) { *token - own.start as u32 } else { 0 };
        }
        self.inner.prepare(inner, local)
    }

    fn copy_blocks(&self, kv: &mut B::KvCache, pairs: &[(BlockId, BlockId)]) -> Result<()> {
        self.inner.copy_blocks(kv, pairs)
    }

    /// As one rank's with all heads, so that a file does not know how many ranks wrote it.
    fn kv_form(&self, shape: &AttentionShape, limits: &Limits) -> String {
        self.inner.kv_form(shape, limits)
    }

    /// The heads of all ranks come to rank 0; for the others `out` is empty.
    fn read_block(&self, kv: &B::KvCache, block: BlockId, out: &mut Vec<u8>) -> Result<()> {
        let mut own = Vec::new();
        self.inner.read_block(kv, block, &mut own)?;
        let layout = Columns { rows: self.layers, cols: own.len() / size_of::<f32>() * self.place.ranks / self.layers };
        let mut all = vec![0.0; if self.place.rank == 0 { layout.rows * layout.cols } else { 0 }];
        self.mesh.borrow_mut().gather(bytemuck::cast_slice(&words_of(&own)), &mut all, &layout)?;
        out.clear();
        out.extend_from_slice(bytemuck::cast_slice(&all));
        Ok(())
    }

    /// Of all heads' bytes, this rank's.
    fn write_block(&self, kv: &mut B::KvCache, block: BlockId, bytes: &[u8]) -> Result<()> {
        let share = bytes.len() / (self.layers * self.place.ranks);
        check_block(bytes, share * self.layers * self.place.ranks)?;
        let first = |layer| (layer * self.place.ranks + self.place.rank) * share;
        let own: Vec<u8> = (0..self.layers).flat_map(|layer| &bytes[first(layer)..][..share]).copied().collect();
        self.inner.write_block(kv, block, &own)
    }

    /// Logits come to rank 0; for the others `out` is empty.
    fn read(&self, x: &Sheet<B>, out: &mut Vec<f32>) -> Result<()> {
        if let Some(whole) = &x.whole {
            return self.inner.read(whole, out);
        }
        let own = &mut *x.own.borrow_mut();
        self.inner.read(x.part(), own)?;
        out.clear();
        if self.place.rank == 0 {
            out.resize(x.rows * x.cols, 0.0);
        }
        self.mesh.borrow_mut().gather(own, out, &Columns { rows: x.rows, cols: x.cols })
    }

    /// What is in parts is for verbs to write.
    fn write(&self, x: &mut Sheet<B>, values: &[f32]) -> Result<()> {
        self.inner.write(x.whole_mut(), values)
    }

    /// Each rank looks up its tokens, and all get all rows.
    fn embed(&self, out: &mut Sheet<B>, table: &B::Weight, scale: f32, plan: &Plan<B>) -> Result<()> {
        let (cols, whole) = (out.cols, out.whole_mut());
        self.inner.embed(whole, table, scale, &plan.inner)?;
        let Room { own, all } = &mut *self.room.borrow_mut();
        self.inner.read(whole, all)?;
        let layout = TokenRows { lookups: &plan.lookups, cols };
        own.clear();
        for run in (0..layout.runs(self.place)).map(|i| layout.run(self.place, i)) {
            own.extend_from_slice(&all[run]);
        }
        self.mesh.borrow_mut().all_gather(own, all, &layout)?;
        self.inner.write(whole, all)
    }

    fn linear(&self, out: &mut Sheet<B>, x: &Sheet<B>, w: &B::Weight) -> Result<()> {
        self.inner.linear(out.part_mut(), x.whole(), w)?;
        self.gather(out)
    }

    fn rms_norm(&self, out: &mut Sheet<B>, x: &Sheet<B>, gain: &Sheet<B>, eps: f32) -> Result<()> {
        self.inner.rms_norm(out.whole_mut(), x.whole(), gain.whole(), eps)
    }

    fn add(&self, acc: &mut Sheet<B>, x: &Sheet<B>) -> Result<()> {
        self.inner.add(acc.whole_mut(), x.whole())
    }

    fn norm_heads(&self, qkv: &mut Sheet<B>, gains: [&Sheet<B>; 2], eps: f32, plan: &Plan<B>) -> Result<()> {
        self.inner.norm_heads(qkv.part_mut(), gains.map(Sheet::whole), eps, &plan.inner)
    }

    fn rope_and_store(&self, qkv: &mut Sheet<B>, kv: &mut B::KvCache, layer: usize, plan: &Plan<B>) -> Result<()> {
        self.inner.rope_and_store(qkv.part_mut(), kv, layer, &plan.inner)
    }

    fn attention(
        &self,
        out: &mut Sheet<B>,
        qkv: &Sheet<B>,
        kv: &B::KvCache,
        layer: usize,
        plan: &Plan<B>,
    ) -> Result<()> {
        self.inner.attention(out.part_mut(), qkv.part(), kv, layer, &plan.inner)?;
        self.gather(out)
    }

    fn swiglu(&self, out: &mut Sheet<B>, gate_up: &Sheet<B>) -> Result<()> {
        self.inner.swiglu(out.part_mut(), gate_up.part())?;
        self.gather(out)
    }

    fn take_outputs(&self, out: &mut Sheet<B>, x: &Sheet<B>, plan: &Plan<B>) -> Result<()> {
        self.inner.take_outputs(out.whole_mut(), x.whole(), &plan.inner)
    }

    fn adapt(
        &self,
        out: &mut Sheet<B>,
        low: &mut Sheet<B>,
        x: &Sheet<B>,
        adapters: &[Option<B::Adapter>],
        plan: &Plan<B>,
        stage: Stage,
    ) -> Result<()> {
        let out = out.whole.as_mut().or(out.part.as_mut()).expect("a tensor is whole or in parts");
        self.inner.adapt(out, low.whole_mut(), x.whole(), adapters, &plan.inner, stage)
    }

    fn norm_linear(
        &self,
        out: &mut Sheet<B>,
        x: &mut Sheet<B>,
        residual: &Sheet<B>,
        norm: Norm<'_, Sheet<B>>,
        w: &B::Weight,
    ) -> Result<()> {
        let norm = Norm { gain: norm.gain.whole(), eps: norm.eps };
        self.inner.norm_linear(out.part_mut(), x.whole_mut(), residual.whole(), norm, w)?;
        self.gather(out)
    }

    fn norm_linear_swiglu(
        &self,
        act: &mut Sheet<B>,
        (gate_up, x): (&mut Sheet<B>, &mut Sheet<B>),
        residual: &Sheet<B>,
        norm: Norm<'_, Sheet<B>>,
        w: &B::Weight,
    ) -> Result<()> {
        let norm = Norm { gain: norm.gain.whole(), eps: norm.eps };
        let room = (gate_up.part_mut(), x.whole_mut());
        self.inner.norm_linear_swiglu(act.part_mut(), room, residual.whole(), norm, w)?;
        self.gather(act)
    }

    fn adapt_swiglu(
        &self,
        act: &mut Sheet<B>,
        (gate_up, low): (&mut Sheet<B>, &mut Sheet<B>),
        x: &Sheet<B>,
        w: &B::Weight,
        adapters: &[Option<B::Adapter>],
        plan: &Plan<B>,
    ) -> Result<()> {
        let room = (gate_up.part_mut(), low.whole_mut());
        self.inner.adapt_swiglu(act.part_mut(), room, x.whole(), w, adapters, &plan.inner)?;
        self.gather(act)
    }

    fn replay(&self, ops: impl FnOnce() -> Result<()>) -> Result<()> {
        self.inner.replay(ops)
    }
}

/// The rows of `part` that are the rank's at `place`.
fn share_of<'a>(part: &Part<'a>, place: Place) -> Result<Part<'a>> {
    let cut = place.cut(part.weight.rows());
    let bias = part.bias.map(|bias| bias.slice_vector(cut.clone())).transpose()?;
    Ok(Part { weight: part.weight.slice_rows(cut), bias })
}

/// Room for `count` numbers, empty.
fn have(room: &mut Vec<f32>, count: usize) -> Result<()> {
    let bytes = (count.saturating_mul(size_of::<f32>())) as u64;
    room.clear();
    room.try_reserve_exact(count).map_err(|_| Error::refused("what ranks exchange", bytes, "the tokens of a step"))
}

/// The rows of a step by the rank that has their token's embedding.
#[derive(Debug, Default)]
struct Lookups {
    rows: Vec<u32>,
    /// `[ranks + 1]`: where each rank's rows begin among `rows`.
    bounds: Vec<usize>,
}

impl Lookups {
    fn divide(&mut self, tokens: &[u32], place: Place, vocab: usize) {
        self.rows.clear();
        self.bounds.clear();
        self.bounds.push(0);
        for rank in 0..place.ranks {
            let own = place.of(rank).cut(vocab);
            let rows = (0u32..).zip(tokens).filter(|(_, token)| own.contains(&(**token as usize)));
            self.rows.extend(rows.map(|(row, _)| row));
            self.bounds.push(self.rows.len());
        }
    }
}

struct TokenRows<'a> {
    lookups: &'a Lookups,
    cols: usize,
}

impl Layout for TokenRows<'_> {
    fn runs(&self, place: Place) -> usize {
        self.lookups.bounds[place.rank + 1] - self.lookups.bounds[place.rank]
    }

    fn run(&self, place: Place, i: usize) -> Range<usize> {
        let row = self.lookups.rows[self.lookups.bounds[place.rank] + i] as usize;
        row * self.cols..(row + 1) * self.cols
    }
}
