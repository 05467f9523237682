//! The contract spelled out in a chosen precision: in f64 it is the truth, in bf16 or f32 the plain computation whose error
//! a backend may make twice.
//!
//! *Plain* is what a model written with a tensor library does: sums in f32, one number after the other, and each result
//! rounded to the width of activations before the next operation reads it: the normed row before its gain, the sigmoid
//! before its product, scores before and after their scale, weights of the softmax. The residual stream, gains and logits
//! are f32. Weights are what their format decodes to, rounded to the width.
//!
//! Angles of RoPE are `position * inv_freq` rounded to f32 in every precision: that product defines the rotation
//! (docs/numerics.md).

use llama_core::backend::{
    AttentionShape, Backend, KvFormat, Limits, LowRank, Numerics, Part, Role, RopeLayout, Rows, Temperature,
};
use llama_core::batch::{BLOCK, Batch, BlockId, Stage};
use llama_core::checkpoint::TensorView;
use llama_core::error::Result;
use llama_core::format::Format;
use llama_core::numerics;

use super::Subject;

/// Bits of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// bfloat16.
    Bf16,
    /// IEEE single.
    F32,
    /// IEEE double: nothing is rounded.
    F64,
}

impl Width {
    /// The nearest number of this width.
    pub fn round(self, x: f64) -> f64 {
        match self {
            Width::Bf16 => bf16(x),
            Width::F32 => f64::from(x as f32),
            Width::F64 => x,
        }
    }

    /// The width of a tensor where activations have this one.
    pub fn of(self, role: Role) -> Width {
        match (self, role) {
            (Width::F64, _) | (_, Role::Activation | Role::Local) => self,
            _ => Width::F32,
        }
    }

    /// A unit in the last place of a number like `x`.
    pub fn ulp(self, x: f64) -> f64 {
        let (digits, least) = match self {
            Width::Bf16 => (7, -126),
            Width::F32 => (23, -126),
            Width::F64 => (52, -1022),
        };
        let exponent = if x == 0.0 { least } else { (x.abs().log2().floor() as i32).max(least) };
        2f64.powi(exponent - digits)
    }

    /// `a . b`, added up from the first to the last in f32 unless nothing is rounded.
    fn dot(self, a: &[f64], b: impl Iterator<Item = f64>) -> f64 {
        let pairs = a.iter().zip(b);
        match self {
            Width::F64 => pairs.fold(0.0, |sum, (a, b)| a.mul_add(b, sum)),
            _ => f64::from(pairs.fold(0.0f32, |sum, (&a, b)| (a as f32).mul_add(b as f32, sum))),
        }
    }
}

/// To nearest even, from f64 at once: a step over f32 could round twice.
fn bf16(x: f64) -> f64 {
    let ulp = Width::Bf16.ulp(x);
    let near = if x.is_finite() { (x / ulp).round_ties_even() * ulp } else { x };
    f64::from(near as f32)
}

/// The backend. Activations are written in the width of `inputs`, whatever is computed with.
pub struct Spelled {
    inputs: Width,
    width: Width,
}

impl Spelled {
    /// f64, for a backend whose activations have `inputs` bits.
    pub fn exact(inputs: Width) -> Self {
        Spelled { inputs, width: Width::F64 }
    }

    /// The plain computation with activations of `width`.
    pub fn plain(width: Width) -> Self {
        Spelled { inputs: width, width }
    }

    /// A result of an operation, as the next reads it.
    fn step(&self, x: f64) -> f64 {
        self.width.round(x)
    }

    /// What an operation keeps inside itself.
    fn inner(&self, x: f64) -> f64 {
        self.width.of(Role::Residual).round(x)
    }

    /// Below the least normal number it is zero, as it is on a GPU.
    fn reciprocal(&self, x: f64) -> f64 {
        let reciprocal = self.inner(1.0 / x);
        let vanishes = self.width != Width::F64 && reciprocal < f64::from(f32::MIN_POSITIVE);
        if vanishes { 0.0 } else { reciprocal }
    }

    fn exp(&self, x: f64) -> f64 {
        self.inner(self.inner(x).exp())
    }
}

/// `[rows, cols]`.
pub struct Numbers {
    rows: usize,
    cols: usize,
    role: Role,
    data: Vec<f64>,
}

impl Numbers {
    fn row(&self, r: usize) -> &[f64] {
        &self.data[r * self.cols..][..self.cols]
    }

    fn row_mut(&mut self, r: usize) -> &mut [f64] {
        &mut self.data[r * self.cols..][..self.cols]
    }
}

impl Rows for Numbers {
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

/// Rows with their biases.
pub struct Stacked(Vec<(Vec<f64>, f64)>);

/// What an adapter adds: first row, `a` and `b` row by row.
pub struct Product {
    first_row: usize,
    a: Vec<Vec<f64>>,
    b: Vec<Vec<f64>>,
}

/// `[layers][blocks][kv_heads][BLOCK]` of (k, v).
pub struct Kept {
    shape: AttentionShape,
    blocks: usize,
    format: KvFormat,
    slots: Vec<(Vec<f64>, Vec<f64>)>,
}

impl Kept {
    fn slot(&self, layer: usize, block: BlockId, head: usize, position: usize) -> usize {
        ((layer * self.blocks + block as usize) * self.shape.kv_heads + head) * BLOCK + position % BLOCK
    }

    fn round(&self, x: f64, width: Width) -> f64 {
        match (width, self.format) {
            (Width::F64, _) => x,
            (_, KvFormat::Half | KvFormat::Bf16) => Width::Bf16.round(x),
            (_, KvFormat::F32) => Width::F32.round(x),
            (_, KvFormat::F8) => f64::from(numerics::round_to_e4m3(x as f32)),
            (_, KvFormat::Q8) => unreachable!("no backend that owes a bound keeps integers"),
        }
    }
}

/// A batch and its angles.
pub struct Angles {
    shape: AttentionShape,
    batch: Batch,
}

impl Subject for Spelled {
    type Backend = Spelled;

    fn backend(&self) -> &Spelled {
        self
    }

    fn values(&self, tensor: &Numbers) -> Vec<f64> {
        tensor.data[..tensor.rows * tensor.cols].to_vec()
    }
}

impl Backend for Spelled {
    type Tensor = Numbers;
    type Weight = Stacked;
    type Adapter = Vec<Product>;
    type KvCache = Kept;
    type Plan = Angles;

    fn name(&self) -> String {
        format!("spelled out in {:?}", self.width)
    }

    fn numerics(&self) -> Numerics {
        Numerics::Float
    }

    fn weight_bytes(&self, parts: &[(Format, usize, usize)]) -> u64 {
        parts.iter().map(|&(_, rows, cols)| (rows * (cols + 1) * size_of::<f64>()) as u64).sum()
    }

    fn adapter_bytes(&self, cols: usize, parts: &[(usize, usize)], _role: Role) -> u64 {
        parts.iter().map(|&(rows, rank)| ((rows + cols) * rank * size_of::<f64>()) as u64).sum()
    }

    fn kv_bytes(&self, shape: &AttentionShape, limits: &Limits) -> u64 {
        (2 * shape.layers * limits.blocks * shape.kv_heads * BLOCK * shape.head_dim * size_of::<f64>()) as u64
    }

    fn scratch_bytes(&self, _shape: &AttentionShape, _limits: &Limits, _widest: usize) -> u64 {
        0
    }

    fn tensor(&self, rows: usize, cols: usize, role: Role) -> Result<Numbers> {
        Ok(Numbers { rows, cols, role, data: vec![0.0; rows * cols] })
    }

    fn gain(&self, view: TensorView<'_>) -> Result<Numbers> {
        let data = view.to_f32().into_iter().map(f64::from).collect();
        Ok(Numbers { rows: 1, cols: view.cols(), role: Role::Residual, data })
    }

    fn weight(&self, parts: &[Part<'_>]) -> Result<Stacked> {
        let mut rows = Vec::new();
        for part in parts {
            let (mut row, bias) = (vec![0.0; part.weight.cols()], part.bias.map(|view| view.to_f32()));
            for r in 0..part.weight.rows() {
                part.weight.decode_row(r, &mut row);
                let row = row.iter().map(|&x| self.step(f64::from(x))).collect();
                rows.push((row, bias.as_ref().map_or(0.0, |bias| f64::from(bias[r]))));
            }
        }
        Ok(Stacked(rows))
    }

    fn adapter(&self, _shape: [usize; 2], _parts: &[(usize, usize)], _role: Role) -> Result<Vec<Product>> {
        Ok(Vec::new())
    }

    fn set_adapter(&self, adapter: &mut Vec<Product>, parts: &[LowRank<'_>], _role: Role) -> Result<()> {
        let rows = |view: &TensorView<'_>| -> Vec<Vec<f64>> {
            view.to_f32().chunks_exact(view.cols()).map(|row| row.iter().map(|&x| f64::from(x)).collect()).collect()
        };
        let product = |part: &LowRank<'_>| Product { first_row: part.first_row, a: rows(&part.a), b: rows(&part.b) };
        *adapter = parts.iter().map(product).collect();
        Ok(())
    }

    fn kv_cache(&self, shape: &AttentionShape, limits: &Limits) -> Result<Kept> {
        let slots = vec![Default::default(); shape.layers * limits.blocks * shape.kv_heads * BLOCK];
        Ok(Kept { shape: shape.clone(), blocks: limits.blocks, format: limits.kv, slots })
    }

    fn plan(&self, shape: &AttentionShape, _limits: &Limits) -> Result<Angles> {
        Ok(Angles { shape: shape.clone(), batch: Batch::new() })
    }

    fn prepare(&self, plan: &mut Angles, batch: &Batch) -> Result<()> {
        plan.batch.clone_from(batch);
        Ok(())
    }

    fn copy_blocks(&self, kv: &mut Kept, pairs: &[(BlockId, BlockId)]) -> Result<()> {
        for (layer, &(from, to)) in (0..kv.shape.layers).flat_map(|layer| pairs.iter().map(move |pair| (layer, pair))) {
            for i in 0..kv.shape.kv_heads * BLOCK {
                let (from, to) = (kv.slot(layer, from, 0, 0) + i, kv.slot(layer, to, 0, 0) + i);
                kv.slots[to] = kv.slots[from].clone();
            }
        }
        Ok(())
    }

    fn kv_form(&self, _shape: &AttentionShape, _limits: &Limits) -> String {
        self.name()
    }

    fn read_block(&self, _kv: &Kept, _block: BlockId, _out: &mut Vec<u8>) -> Result<()> {
        unimplemented!("what is spelled out is compared in steps only")
    }

    fn write_block(&self, _kv: &mut Kept, _block: BlockId, _bytes: &[u8]) -> Result<()> {
        unimplemented!("what is spelled out is compared in steps only")
    }

    fn read(&self, x: &Numbers, out: &mut Vec<f32>) -> Result<()> {
        out.clear();
        out.extend(self.values(x).into_iter().map(|x| x as f32));
        Ok(())
    }

    fn write(&self, x: &mut Numbers, values: &[f32]) -> Result<()> {
        let width = self.inputs.of(x.role);
        x.data.iter_mut().zip(values).for_each(|(slot, &x)| *slot = width.round(f64::from(x)));
        Ok(())
    }

    fn embed(&self, out: &mut Numbers, table: &Stacked, scale: f32, plan: &Angles) -> Result<()> {
        for (t, &token) in plan.batch.tokens.iter().enumerate() {
            let width = self.width.of(out.role);
            let row = table.0[token as usize].0.iter().map(|number| width.round(number * f64::from(scale)));
            out.row_mut(t).iter_mut().zip(row).for_each(|(out, number)| *out = number);
        }
        Ok(())
    }

    fn linear(&self, out: &mut Numbers, x: &Numbers, w: &Stacked) -> Result<()> {
        let width = self.width.of(out.role);
        for t in 0..x.rows {
            for (out, (row, bias)) in out.row_mut(t).iter_mut().zip(&w.0) {
                let dot = width.round(self.width.dot(row, x.row(t).iter().copied()));
                *out = width.round(dot + bias);
            }
        }
        Ok(())
    }

    fn rms_norm(&self, out: &mut Numbers, x: &Numbers, gain: &Numbers, eps: f32) -> Result<()> {
        for t in 0..x.rows {
            let factor = self.norm_factor(x.row(t), eps);
            for ((out, x), gain) in out.row_mut(t).iter_mut().zip(x.row(t)).zip(gain.row(0)) {
                *out = self.step(self.step(x * factor) * self.step(*gain));
            }
        }
        Ok(())
    }

    fn add(&self, acc: &mut Numbers, x: &Numbers) -> Result<()> {
        let width = self.width.of(acc.role);
        for t in 0..x.rows {
            acc.row_mut(t).iter_mut().zip(x.row(t)).for_each(|(acc, x)| *acc = width.round(*acc + x));
        }
        Ok(())
    }

    fn norm_heads(&self, qkv: &mut Numbers, gains: [&Numbers; 2], eps: f32, plan: &Angles) -> Result<()> {
        let AttentionShape { heads, kv_heads, head_dim, .. } = plan.shape;
        for t in 0..qkv.rows {
            let turning = qkv.row_mut(t)[..(heads + kv_heads) * head_dim].chunks_exact_mut(head_dim);
            for (head, x) in turning.enumerate() {
                let (factor, gain) = (self.norm_factor(x, eps), gains[usize::from(head >= heads)].row(0));
                x.iter_mut().zip(gain).for_each(|(x, gain)| *x = self.step(self.step(*x * factor) * self.step(*gain)));
            }
        }
        Ok(())
    }

    fn rope_and_store(&self, qkv: &mut Numbers, kv: &mut Kept, layer: usize, plan: &Angles) -> Result<()> {
        let AttentionShape { heads, kv_heads, head_dim, .. } = plan.shape;
        for (s, t) in (0..plan.batch.sequences()).flat_map(|s| plan.batch.rows_of(s).map(move |t| (s, t))) {
            let position = plan.batch.positions[t];
            let (turning, v) = qkv.row_mut(t).split_at_mut((heads + kv_heads) * head_dim);
            if plan.shape.turns(layer) {
                turning.chunks_exact_mut(head_dim).for_each(|head| self.rotate(head, position, &plan.shape));
            }
            if let Some(Temperature { growth, from }) = plan.shape.temperature {
                let stretches = (f64::from(position) / from as f64).floor();
                let factor = self.step(1.0 + f64::from(growth) * (1.0 + stretches).ln());
                turning[..heads * head_dim].iter_mut().for_each(|q| *q = self.step(*q * factor));
            }
            let k = turning[heads * head_dim..].chunks_exact(head_dim);
            for (head, (k, v)) in k.zip(v.chunks_exact(head_dim)).enumerate() {
                let block = plan.batch.blocks_of(s)[position as usize / BLOCK];
                let at = kv.slot(layer, block, head, position as usize);
                let [k, v] = [k, v].map(|x| x.iter().map(|&x| kv.round(x, self.width)).collect());
                kv.slots[at] = (k, v);
            }
        }
        Ok(())
    }

    fn attention(&self, out: &mut Numbers, qkv: &Numbers, kv: &Kept, layer: usize, plan: &Angles) -> Result<()> {
        let shape = &plan.shape;
        for (s, t) in (0..plan.batch.sequences()).flat_map(|s| plan.batch.rows_of(s).map(move |t| (s, t))) {
            let position = plan.batch.positions[t] as usize;
            let queries = qkv.row(t).chunks_exact(shape.head_dim);
            for (head, (out, q)) in out.row_mut(t).chunks_exact_mut(shape.head_dim).zip(queries).enumerate() {
                let block = |p: usize| plan.batch.blocks_of(s)[p / BLOCK];
                let kv_head = head / (shape.heads / shape.kv_heads);
                let visible = shape.first_visible(position)..=position;
                let slots: Vec<_> = visible.map(|p| &kv.slots[kv.slot(layer, block(p), kv_head, p)]).collect();
                self.attend(out, q, &slots, f64::from(shape.scale));
            }
        }
        Ok(())
    }

    fn swiglu(&self, out: &mut Numbers, gate_up: &Numbers) -> Result<()> {
        for t in 0..gate_up.rows {
            let (gate, up) = gate_up.row(t).split_at(out.cols);
            for ((out, gate), up) in out.row_mut(t).iter_mut().zip(gate).zip(up) {
                *out = self.step(self.step(gate * self.reciprocal(self.inner(1.0 + self.exp(-gate)))) * up);
            }
        }
        Ok(())
    }

    fn take_outputs(&self, out: &mut Numbers, x: &Numbers, plan: &Angles) -> Result<()> {
        out.set_rows(plan.batch.outputs.len());
        for (i, &t) in plan.batch.outputs.iter().enumerate() {
            out.row_mut(i).copy_from_slice(x.row(t as usize));
        }
        Ok(())
    }

    fn adapt(
        &self,
        out: &mut Numbers,
        _low: &mut Numbers,
        x: &Numbers,
        adapters: &[Option<Vec<Product>>],
        plan: &Angles,
        stage: Stage,
    ) -> Result<()> {
        let (mut runs, width) = (Vec::new(), self.width.of(out.role));
        plan.batch.adapted(stage, &mut runs);
        for (t, id) in runs.into_iter().flat_map(|run| run.rows.map(move |t| (t, run.adapter as usize))) {
            for Product { first_row, a, b } in adapters[id].iter().flatten() {
                let dot = |row: &Vec<f64>| self.inner(self.width.dot(row, x.row(t).iter().copied()));
                let low: Vec<f64> = a.iter().map(dot).collect();
                for (out, row) in out.row_mut(t)[*first_row..].iter_mut().zip(b) {
                    let product = width.round(self.width.dot(row, low.iter().copied()));
                    *out = width.round(*out + product);
                }
            }
        }
        Ok(())
    }
}

impl Spelled {
    /// One over the root mean square of `x`.
    fn norm_factor(&self, x: &[f64], eps: f32) -> f64 {
        let squares = self.width.dot(x, x.iter().copied());
        let root = self.inner(self.inner(squares / x.len() as f64 + f64::from(eps)).sqrt());
        self.inner(1.0 / root)
    }

    fn rotate(&self, head: &mut [f64], position: u32, shape: &AttentionShape) {
        for (i, &inv_freq) in shape.inv_freq.iter().enumerate() {
            let (i, j) = match shape.layout {
                RopeLayout::Interleaved => (2 * i, 2 * i + 1),
                RopeLayout::Halves => (i, i + shape.inv_freq.len()),
            };
            let (sin, cos) = f64::from(position as f32 * inv_freq).sin_cos();
            let [sin, cos] = [sin, cos].map(|x| self.step(x * f64::from(shape.rope_scale)));
            let (a, b) = (head[i], head[j]);
            head[i] = self.step(self.step(a * cos) - self.step(b * sin));
            head[j] = self.step(self.step(b * cos) + self.step(a * sin));
        }
    }

    fn attend(&self, out: &mut [f64], q: &[f64], slots: &[&(Vec<f64>, Vec<f64>)], scale: f64) {
        let score = |k: &[f64]| self.step(self.step(self.width.dot(q, k.iter().copied())) * scale);
        let scores: Vec<f64> = slots.iter().map(|(k, _)| score(k)).collect();
        let max = scores.iter().fold(f64::NEG_INFINITY, |max, &s| if s > max || s.is_nan() { s } else { max });
        let weights: Vec<f64> = scores.iter().map(|s| self.exp(s - max)).collect();
        let sum = self.width.dot(&weights, std::iter::repeat(1.0));
        let weights: Vec<f64> = weights.iter().map(|w| self.step(w / sum)).collect();
        for (i, out) in out.iter_mut().enumerate() {
            *out = self.step(self.width.dot(&weights, slots.iter().map(|(_, v)| v[i])));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every finite bf16 is itself, and what lies between two goes to the nearer, or to the even one.
    #[test]
    fn bf16_rounds_to_nearest_even() {
        let value = |bits: u32| f64::from(f32::from_bits(bits << 16));
        for bits in (0..0x7F7F).step_by(3) {
            let (low, high) = (value(bits), value(bits + 1));
            let middle = low.midpoint(high);
            let even = if bits % 2 == 0 { low } else { high };
            let above = middle + (high - low) * 1e-9;
            let below = middle - (high - low) * 1e-9;
            for (x, want) in [(low, low), (middle, even), (above, high), (below, low)] {
                assert_eq!((bf16(x), bf16(-x)), (want, -want), "{x:e}");
            }
        }
        assert!(bf16(f64::NAN).is_nan());
        assert_eq!((bf16(1e60), bf16(-0.0).to_bits()), (f64::INFINITY, (-0.0f64).to_bits()));
    }

    #[test]
    fn units_in_the_last_place() {
        assert_eq!(Width::F32.ulp(1.0), f64::from(f32::EPSILON));
        assert_eq!(Width::F32.ulp(-1.999), f64::from(f32::EPSILON));
        assert_eq!(Width::Bf16.ulp(2.0), 2f64.powi(-6));
        assert_eq!(Width::F32.ulp(0.0), f64::from(f32::from_bits(1)));
    }
}
