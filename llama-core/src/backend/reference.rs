//! The contract executed as plainly as it can be said: one loop a line, no tiling, no vectors, one thread.
//!
//! This file is the specification. Where docs/numerics.md and this code disagree, the code is right; the tiers of
//! `llama-kernels` are tested against it for equality of bits. It is slow, and meant to be.

use std::ops::Range;

use crate::backend::{
    AttentionShape, Backend, KvFormat, Limits, LowRank, Numerics, Part, Role, RopeLayout, Rows, check_block,
};
use crate::batch::{BLOCK, Batch, BlockId, Stage};
use crate::checkpoint::TensorView;
use crate::error::Result;
use crate::format::{Format, Group};
use crate::numerics::{self, GROUP, LANES, PARTITION};

/// The reference backend.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reference {
    numerics: Numerics,
}

impl Reference {
    /// A backend that computes with quantised weights as `numerics` says.
    pub fn new(numerics: Numerics) -> Self {
        Reference { numerics }
    }
}

/// `[rows, cols]`, row-major.
#[derive(Debug, Clone)]
pub struct Matrix {
    rows: usize,
    cols: usize,
    data: Vec<f32>,
}

impl Matrix {
    fn new(rows: usize, cols: usize) -> Self {
        Matrix { rows, cols, data: vec![0.0; rows * cols] }
    }

    /// Row `r`.
    pub fn row(&self, r: usize) -> &[f32] {
        &self.data[..self.rows * self.cols][r * self.cols..(r + 1) * self.cols]
    }

    /// Row `r`, to write.
    pub fn row_mut(&mut self, r: usize) -> &mut [f32] {
        &mut self.data[..self.rows * self.cols][r * self.cols..(r + 1) * self.cols]
    }
}

impl Rows for Matrix {
    fn rows(&self) -> usize {
        self.rows
    }

    fn cols(&self) -> usize {
        self.cols
    }

    fn set_rows(&mut self, rows: usize) {
        assert!(rows * self.cols <= self.data.len(), "{rows} rows of {} in {}", self.cols, self.data.len());
        self.rows = rows;
    }
}

/// Stacked rows: each knows its own arithmetic.
pub struct Weight {
    cols: usize,
    rows: Vec<WeightRow>,
}

struct WeightRow {
    decoded: Vec<f32>,
    integer: Option<Integers>,
    bias: Option<f32>,
}

/// A row for int8 activations.
struct Integers {
    format: Format,
    groups: Vec<Group>,
}

/// Products that are added to runs of a weight's rows.
pub struct Adapter {
    /// The most that its parts may hold.
    bytes: u64,
    parts: Vec<Product>,
}

struct Product {
    first_row: usize,
    a: Matrix,
    b: Matrix,
}

/// K and V, each number rounded to the cache's format.
pub struct KvCache {
    shape: AttentionShape,
    blocks: usize,
    format: KvFormat,
    k: Kept,
    v: Kept,
}

/// Rows of heads, `[layers][blocks][kv_heads][BLOCK]` of them: numbers `[head_dim]`, and a scale for each group of columns.
struct Kept {
    numbers: Vec<f32>,
    scales: Vec<f32>,
}

/// One of the rows.
#[derive(Clone, Copy)]
struct Row<'a> {
    numbers: &'a [f32],
    scales: &'a [f32],
    group: usize,
}

/// Columns of a head that share a scale: all of them, and the scale is 1, where the format needs none.
fn columns_of_scale(format: KvFormat, head_dim: usize) -> usize {
    if format == KvFormat::Q8 { GROUP } else { head_dim }
}

/// Scales of a row.
fn scales(format: KvFormat, head_dim: usize) -> usize {
    head_dim.div_ceil(columns_of_scale(format, head_dim))
}

impl KvCache {
    fn scales(&self) -> usize {
        scales(self.format, self.shape.head_dim)
    }

    fn index(&self, layer: usize, block: BlockId, head: usize, slot: usize) -> usize {
        ((layer * self.blocks + block as usize) * self.shape.kv_heads + head) * BLOCK + slot
    }

    /// The first row of each head of `block`, in every layer.
    fn heads(&self, block: BlockId) -> impl Iterator<Item = usize> + use<> {
        let (kv_heads, layers) = (self.shape.kv_heads, self.shape.layers);
        let first = self.index(0, block, 0, 0);
        let layer = self.blocks * kv_heads * BLOCK;
        (0..layers * kv_heads).map(move |i| first + i / kv_heads * layer + i % kv_heads * BLOCK)
    }

    /// The numbers of the rows of a head's block whose first is `row`.
    fn numbers_of(&self, row: usize) -> Range<usize> {
        row * self.shape.head_dim..(row + BLOCK) * self.shape.head_dim
    }

    /// Their scales.
    fn scales_of(&self, row: usize) -> Range<usize> {
        row * self.scales()..(row + BLOCK) * self.scales()
    }

    fn row<'a>(&self, of: &'a Kept, index: usize) -> Row<'a> {
        let (dim, scales) = (self.shape.head_dim, self.scales());
        Row {
            numbers: &of.numbers[index * dim..][..dim],
            scales: &of.scales[index * scales..][..scales],
            group: columns_of_scale(self.format, dim),
        }
    }

    fn store(&mut self, index: usize, k: &[f32], v: &[f32]) {
        let (dim, scales) = (self.shape.head_dim, self.scales());
        for (kept, x) in [(&mut self.k, k), (&mut self.v, v)] {
            let numbers = &mut kept.numbers[index * dim..][..dim];
            keep(self.format, x, numbers, &mut kept.scales[index * scales..][..scales]);
        }
    }
}

/// Rounds a row to the format.
fn keep(format: KvFormat, x: &[f32], numbers: &mut [f32], scales: &mut [f32]) {
    let mut each = |round: fn(f32) -> f32| numbers.iter_mut().zip(x).for_each(|(slot, &x)| *slot = round(x));
    match format {
        KvFormat::F32 => each(|x| x),
        KvFormat::Half => each(|x| half::f16::from_f32(x).to_f32()),
        KvFormat::Bf16 => each(|x| half::bf16::from_f32(x).to_f32()),
        KvFormat::F8 => each(numerics::round_to_e4m3),
        KvFormat::Q8 => {
            let mut slots = numbers.chunks_mut(GROUP).zip(scales);
            numerics::quantize_row(x, |scale, quants| {
                let (numbers, slot) = slots.next().expect("a group");
                *slot = scale;
                numbers.iter_mut().zip(quants).for_each(|(number, &q)| *number = f32::from(q));
            });
            return;
        }
    }
    scales.fill(1.0);
}

/// A batch with the cosine and sine of every position and frequency.
pub struct Plan {
    shape: AttentionShape,
    batch: Batch,
    /// `[rows][rope_dim / 2]` of (cosine, sine).
    turns: Vec<(f32, f32)>,
}

/// Softmax partials over some positions: the maximum, the sum of exponentials, and the weighted sum of values.
struct Partial {
    max: f32,
    sum: f32,
    out: Vec<f32>,
}

impl Partial {
    /// Merges the partial of later positions.
    fn merge(&mut self, later: &Partial) {
        let max = if later.max > self.max { later.max } else { self.max };
        let (a, b) = (numerics::exp(self.max - max), numerics::exp(later.max - max));
        self.sum = self.sum.mul_add(a, later.sum * b);
        self.out.iter_mut().zip(&later.out).for_each(|(o, &l)| *o = o.mul_add(a, l * b));
        self.max = max;
    }
}

impl Backend for Reference {
    type Tensor = Matrix;
    type Weight = Weight;
    type Adapter = Adapter;
    type KvCache = KvCache;
    type Plan = Plan;

    fn name(&self) -> String {
        "reference".into()
    }

    fn numerics(&self) -> Numerics {
        self.numerics
    }

    fn weight_bytes(&self, parts: &[(Format, usize, usize)]) -> u64 {
        let row = |format: Format, cols: usize| {
            let integer = self.numerics.is_integer() && format.is_quantised();
            cols * size_of::<f32>() + if integer { cols / GROUP * size_of::<Group>() } else { 0 }
        };
        parts.iter().map(|&(format, rows, cols)| (rows * (size_of::<WeightRow>() + row(format, cols))) as u64).sum()
    }

    fn adapter_bytes(&self, cols: usize, parts: &[(usize, usize)], _role: Role) -> u64 {
        parts.iter().map(|&(rows, rank)| (rank * (rows + cols) * size_of::<f32>()) as u64).sum()
    }

    fn kv_bytes(&self, shape: &AttentionShape, limits: &Limits) -> u64 {
        let row = shape.head_dim + scales(limits.kv, shape.head_dim);
        2 * size_of::<f32>() as u64 * (shape.layers * limits.blocks * shape.kv_heads * BLOCK * row) as u64
    }

    fn scratch_bytes(&self, shape: &AttentionShape, limits: &Limits, _widest: usize) -> u64 {
        (limits.tokens * shape.inv_freq.len() * size_of::<(f32, f32)>()) as u64
    }

    fn tensor(&self, rows: usize, cols: usize, _role: Role) -> Result<Matrix> {
        Ok(Matrix::new(rows, cols))
    }

    fn gain(&self, view: TensorView<'_>) -> Result<Matrix> {
        Ok(Matrix { rows: 1, cols: view.cols(), data: view.to_f32() })
    }

    fn weight(&self, parts: &[Part<'_>]) -> Result<Weight> {
        let cols = parts.first().map_or(0, |part| part.weight.cols());
        let mut rows = Vec::new();
        for part in parts {
            assert_eq!(part.weight.cols(), cols, "columns of {}", part.weight.name());
            let bias = part.bias.map(|view| view.to_f32());
            for r in 0..part.weight.rows() {
                rows.push(self.weight_row(&part.weight, r, bias.as_ref().map(|bias| bias[r])));
            }
        }
        Ok(Weight { cols, rows })
    }

    fn adapter(&self, [_, cols]: [usize; 2], parts: &[(usize, usize)], role: Role) -> Result<Adapter> {
        Ok(Adapter { bytes: self.adapter_bytes(cols, parts, role), parts: Vec::new() })
    }

    fn set_adapter(&self, adapter: &mut Adapter, parts: &[LowRank<'_>], role: Role) -> Result<()> {
        let shapes: Vec<_> = parts.iter().map(|part| (part.b.rows(), part.a.rows())).collect();
        let bytes = self.adapter_bytes(parts.first().map_or(0, |part| part.a.cols()), &shapes, role);
        assert!(bytes <= adapter.bytes, "parts of {shapes:?} in {} bytes", adapter.bytes);
        let matrix = |view: &TensorView<'_>| Matrix { rows: view.rows(), cols: view.cols(), data: view.to_f32() };
        let product =
            |part: &LowRank<'_>| Product { first_row: part.first_row, a: matrix(&part.a), b: matrix(&part.b) };
        adapter.parts = parts.iter().map(product).collect();
        Ok(())
    }

    fn kv_cache(&self, shape: &AttentionShape, limits: &Limits) -> Result<KvCache> {
        let rows = shape.layers * limits.blocks * shape.kv_heads * BLOCK;
        let scales = scales(limits.kv, shape.head_dim);
        let kept = || Kept { numbers: vec![0.0; rows * shape.head_dim], scales: vec![0.0; rows * scales] };
        Ok(KvCache { shape: shape.clone(), blocks: limits.blocks, format: limits.kv, k: kept(), v: kept() })
    }

    fn plan(&self, shape: &AttentionShape, _limits: &Limits) -> Result<Plan> {
        Ok(Plan { shape: shape.clone(), batch: Batch::new(), turns: Vec::new() })
    }

    fn prepare(&self, plan: &mut Plan, batch: &Batch) -> Result<()> {
        plan.batch.clone_from(batch);
        plan.turns.clear();
        for &position in &batch.positions {
            for &inv_freq in &plan.shape.inv_freq {
                let (sin, cos) = numerics::sin_cos(position as f32 * inv_freq);
                plan.turns.push((cos * plan.shape.rope_scale, sin * plan.shape.rope_scale));
            }
        }
        Ok(())
    }

    fn copy_blocks(&self, kv: &mut KvCache, pairs: &[(BlockId, BlockId)]) -> Result<()> {
        let (dim, scales, rows) = (kv.shape.head_dim, kv.scales(), kv.shape.kv_heads * BLOCK);
        for &(from, to) in pairs {
            for layer in 0..kv.shape.layers {
                let (from, to) = (kv.index(layer, from, 0, 0), kv.index(layer, to, 0, 0));
                for kept in [&mut kv.k, &mut kv.v] {
                    kept.numbers.copy_within(from * dim..(from + rows) * dim, to * dim);
                    kept.scales.copy_within(from * scales..(from + rows) * scales, to * scales);
                }
            }
        }
        Ok(())
    }

    fn kv_form(&self, _shape: &AttentionShape, limits: &Limits) -> String {
        format!("reference 1 {}", limits.kv.name())
    }

    fn read_block(&self, kv: &KvCache, block: BlockId, out: &mut Vec<u8>) -> Result<()> {
        out.clear();
        for head in kv.heads(block) {
            for kept in [&kv.k, &kv.v] {
                out.extend_from_slice(bytemuck::cast_slice(&kept.numbers[kv.numbers_of(head)]));
                out.extend_from_slice(bytemuck::cast_slice(&kept.scales[kv.scales_of(head)]));
            }
        }
        Ok(())
    }

    fn write_block(&self, kv: &mut KvCache, block: BlockId, mut bytes: &[u8]) -> Result<()> {
        let numbers = kv.numbers_of(0).len() + kv.scales_of(0).len();
        check_block(bytes, 2 * kv.shape.layers * kv.shape.kv_heads * numbers * size_of::<f32>())?;
        for head in kv.heads(block) {
            let (numbers, scales) = (kv.numbers_of(head), kv.scales_of(head));
            for kept in [&mut kv.k, &mut kv.v] {
                for values in [&mut kept.numbers[numbers.clone()], &mut kept.scales[scales.clone()]] {
                    let values: &mut [u8] = bytemuck::cast_slice_mut(values);
                    let (head, rest) = bytes.split_at(values.len());
                    values.copy_from_slice(head);
                    bytes = rest;
                }
            }
        }
        Ok(())
    }

    fn read(&self, x: &Matrix, out: &mut Vec<f32>) -> Result<()> {
        out.clear();
        out.extend_from_slice(&x.data[..x.rows * x.cols]);
        Ok(())
    }

    fn write(&self, x: &mut Matrix, values: &[f32]) -> Result<()> {
        x.data[..x.rows * x.cols].copy_from_slice(values);
        Ok(())
    }

    fn embed(&self, out: &mut Matrix, table: &Weight, scale: f32, plan: &Plan) -> Result<()> {
        for (t, &token) in plan.batch.tokens.iter().enumerate() {
            let row = &table.rows[token as usize].decoded;
            out.row_mut(t).iter_mut().zip(row).for_each(|(out, number)| *out = number * scale);
        }
        Ok(())
    }

    fn linear(&self, out: &mut Matrix, x: &Matrix, w: &Weight) -> Result<()> {
        assert_eq!((out.rows, out.cols, x.cols), (x.rows, w.rows.len(), w.cols), "linear");
        for t in 0..x.rows {
            let x = Activations::new(x.row(t), self.numerics);
            for (out, row) in out.row_mut(t).iter_mut().zip(&w.rows) {
                let dot = row.integer.as_ref().map_or_else(|| numerics::dot(&row.decoded, x.floats), |row| x.dot(row));
                *out = row.bias.map_or(dot, |bias| dot + bias);
            }
        }
        Ok(())
    }

    fn rms_norm(&self, out: &mut Matrix, x: &Matrix, gain: &Matrix, eps: f32) -> Result<()> {
        for t in 0..x.rows {
            let scale = numerics::rms_scale(x.row(t), eps);
            for ((out, &x), &gain) in out.row_mut(t).iter_mut().zip(x.row(t)).zip(gain.row(0)) {
                *out = x * scale * gain;
            }
        }
        Ok(())
    }

    fn add(&self, acc: &mut Matrix, x: &Matrix) -> Result<()> {
        for t in 0..x.rows {
            acc.row_mut(t).iter_mut().zip(x.row(t)).for_each(|(acc, &x)| *acc += x);
        }
        Ok(())
    }

    fn norm_heads(&self, qkv: &mut Matrix, gains: [&Matrix; 2], eps: f32, plan: &Plan) -> Result<()> {
        let AttentionShape { heads, kv_heads, head_dim, .. } = plan.shape;
        for t in 0..qkv.rows {
            let qk = qkv.row_mut(t)[..(heads + kv_heads) * head_dim].chunks_exact_mut(head_dim);
            for (head, numbers) in qk.enumerate() {
                let (scale, gain) = (numerics::rms_scale(numbers, eps), gains[usize::from(head >= heads)].row(0));
                numbers.iter_mut().zip(gain).for_each(|(x, &gain)| *x = *x * scale * gain);
            }
        }
        Ok(())
    }

    fn rope_and_store(&self, qkv: &mut Matrix, kv: &mut KvCache, layer: usize, plan: &Plan) -> Result<()> {
        let shape = &plan.shape;
        let turning = shape.heads + shape.kv_heads;
        for s in 0..plan.batch.sequences() {
            for t in plan.batch.rows_of(s) {
                let (qk, v) = qkv.row_mut(t).split_at_mut(turning * shape.head_dim);
                let turns = &plan.turns[t * shape.inv_freq.len()..][..shape.inv_freq.len()];
                if shape.turns(layer) {
                    qk.chunks_exact_mut(shape.head_dim).for_each(|head| rotate(head, turns, shape.layout));
                }
                let factor = shape.query_factor(plan.batch.positions[t]);
                qk[..shape.heads * shape.head_dim].iter_mut().for_each(|q| *q *= factor);

                let position = plan.batch.positions[t] as usize;
                let block = plan.batch.blocks_of(s)[position / BLOCK];
                let k = &qk[shape.heads * shape.head_dim..];
                for (head, (k, v)) in k.chunks_exact(shape.head_dim).zip(v.chunks_exact(shape.head_dim)).enumerate() {
                    kv.store(kv.index(layer, block, head, position % BLOCK), k, v);
                }
            }
        }
        Ok(())
    }

    fn attention(&self, out: &mut Matrix, qkv: &Matrix, kv: &KvCache, layer: usize, plan: &Plan) -> Result<()> {
        let shape = &plan.shape;
        for s in 0..plan.batch.sequences() {
            for t in plan.batch.rows_of(s) {
                let position = plan.batch.positions[t] as usize;
                let heads = out.row_mut(t).chunks_exact_mut(shape.head_dim);
                let queries = qkv.row(t).chunks_exact(shape.head_dim);
                for (head, (out, q)) in heads.zip(queries).enumerate() {
                    let kv_head = head / (shape.heads / shape.kv_heads);
                    let index = |p: usize| kv.index(layer, plan.batch.blocks_of(s)[p / BLOCK], kv_head, p % BLOCK);
                    attend(out, q, shape.first_visible(position)..=position, shape.scale, |p| {
                        (kv.row(&kv.k, index(p)), kv.row(&kv.v, index(p)))
                    });
                }
            }
        }
        Ok(())
    }

    fn swiglu(&self, out: &mut Matrix, gate_up: &Matrix) -> Result<()> {
        for t in 0..gate_up.rows {
            let (gate, up) = gate_up.row(t).split_at(out.cols);
            for ((out, &gate), &up) in out.row_mut(t).iter_mut().zip(gate).zip(up) {
                *out = numerics::silu(gate) * up;
            }
        }
        Ok(())
    }

    fn take_outputs(&self, out: &mut Matrix, x: &Matrix, plan: &Plan) -> Result<()> {
        out.set_rows(plan.batch.outputs.len());
        for (i, &t) in plan.batch.outputs.iter().enumerate() {
            out.row_mut(i).copy_from_slice(x.row(t as usize));
        }
        Ok(())
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
        let mut runs = Vec::new();
        plan.batch.adapted(stage, &mut runs);
        for run in runs {
            let parts = adapters[run.adapter as usize].as_ref().map_or(&[][..], |adapter| &adapter.parts);
            for t in run.rows {
                for Product { first_row, a, b } in parts {
                    let low = &mut low.row_mut(t)[..a.rows];
                    low.iter_mut().enumerate().for_each(|(k, low)| *low = numerics::dot(a.row(k), x.row(t)));
                    let out = &mut out.row_mut(t)[*first_row..][..b.rows];
                    out.iter_mut().enumerate().for_each(|(r, out)| *out += numerics::dot(b.row(r), low));
                }
            }
        }
        Ok(())
    }
}

impl Reference {
    fn weight_row(&self, view: &TensorView<'_>, r: usize, bias: Option<f32>) -> WeightRow {
        let format = view.format();
        let mut decoded = vec![0.0; view.cols()];
        view.decode_row(r, &mut decoded);
        let integer = (self.numerics.is_integer() && format.is_quantised()).then(|| Integers {
            format,
            groups: (0..view.cols() / GROUP).map(|g| format.group(view.row(r), g)).collect(),
        });
        WeightRow { decoded, integer, bias }
    }
}

/// A row of activations, as floats and as terms.
struct Activations<'a> {
    floats: &'a [f32],
    terms: Vec<Term>,
}

/// A row of quantised groups: scale and quants.
type Term = Vec<(f32, [i8; GROUP])>;

impl<'a> Activations<'a> {
    /// Each term quantises what the ones before it left.
    fn new(floats: &'a [f32], numerics: Numerics) -> Self {
        let mut left: Vec<[f32; GROUP]> = floats.as_chunks().0.to_vec();
        let mut terms = Vec::new();
        for _ in 0..numerics.terms() {
            let term: Term = left.iter().map(|x| numerics::quantize_group(x, numerics.scaling())).collect();
            for (x, (scale, quants)) in left.iter_mut().zip(&term) {
                *x = numerics::remainder(x, *scale, quants);
            }
            terms.push(term);
        }
        Activations { floats, terms }
    }

    /// The sum of the terms' products with a row.
    fn dot(&self, row: &Integers) -> f32 {
        self.terms.iter().map(|term| row.dot(term)).reduce(|sum, dot| sum + dot).unwrap_or(0.0)
    }
}

impl Integers {
    /// Exact integer dots of sub-blocks, chained by fused multiply-adds.
    fn dot(&self, term: &Term) -> f32 {
        let sub_block = self.format.sub_block();
        let mut acc = 0.0f32;
        for (w, (scale, quants)) in self.groups.iter().zip(term) {
            for (i, (codes, quants)) in w.codes.chunks_exact(sub_block).zip(quants.chunks_exact(sub_block)).enumerate()
            {
                let dot: i32 = codes.iter().zip(quants).map(|(&w, &a)| i32::from(w) * i32::from(a)).sum();
                acc = (w.scale[i] * scale).mul_add(dot as f32, acc);
                if self.format.has_min() {
                    let sum: i32 = quants.iter().map(|&a| i32::from(a)).sum();
                    acc = w.min[i].mul_add(scale * sum as f32, acc);
                }
            }
        }
        acc
    }
}

/// Turns the pairs of one head.
fn rotate(head: &mut [f32], turns: &[(f32, f32)], layout: RopeLayout) {
    for (i, &(cos, sin)) in turns.iter().enumerate() {
        let (i, j) = match layout {
            RopeLayout::Interleaved => (2 * i, 2 * i + 1),
            RopeLayout::Halves => (i, i + turns.len()),
        };
        let (a, b) = (head[i], head[j]);
        head[i] = a.mul_add(cos, -(b * sin));
        head[j] = b.mul_add(cos, a * sin);
    }
}

/// Attention of one query of one head over `visible` positions, in partitions at absolute multiples of [`PARTITION`]
/// (the split of FlashDecoding, fixed so that nothing but the position decides it).
fn attend<'a>(
    out: &mut [f32],
    q: &[f32],
    visible: std::ops::RangeInclusive<usize>,
    scale: f32,
    kv: impl Fn(usize) -> (Row<'a>, Row<'a>),
) {
    let (first, last) = visible.into_inner();
    let mut all: Option<Partial> = None;
    for partition in first / PARTITION..=last / PARTITION {
        let positions = first.max(partition * PARTITION)..=last.min((partition + 1) * PARTITION - 1);
        let partial = attend_partition(q, positions, scale, &kv);
        match &mut all {
            Some(all) => all.merge(&partial),
            None => all = Some(partial),
        }
    }
    let Some(all) = all else { return };
    let inverse = 1.0 / all.sum;
    out.iter_mut().zip(&all.out).for_each(|(out, &o)| *out = o * inverse);
}

impl Row<'_> {
    fn dot(&self, q: &[f32]) -> f32 {
        numerics::scaled_dot(q, self.numbers, self.scales, self.group)
    }

    /// `out += weight * row`, the weight times the scale rounded first.
    fn add_to(&self, out: &mut [f32], weight: f32) {
        for ((out, numbers), scale) in out.chunks_mut(self.group).zip(self.numbers.chunks(self.group)).zip(self.scales)
        {
            let weight = weight * scale;
            out.iter_mut().zip(numbers).for_each(|(o, &v)| *o = weight.mul_add(v, *o));
        }
    }
}

fn attend_partition<'a>(
    q: &[f32],
    positions: std::ops::RangeInclusive<usize>,
    scale: f32,
    kv: &impl Fn(usize) -> (Row<'a>, Row<'a>),
) -> Partial {
    let scores: Vec<(usize, f32)> = positions.map(|p| (p, kv(p).0.dot(q) * scale)).collect();
    let max = scores.iter().fold(f32::NEG_INFINITY, |max, &(_, s)| if s > max { s } else { max });
    let mut lanes = [0.0f32; LANES];
    let mut out = vec![0.0f32; q.len()];
    for (p, score) in scores {
        let weight = numerics::exp(score - max);
        lanes[p % LANES] += weight;
        kv(p).1.add_to(&mut out, weight);
    }
    Partial { max, sum: numerics::fold(lanes), out }
}
