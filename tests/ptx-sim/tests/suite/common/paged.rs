//! A step's ragged batch over a paged cache, and its attention in f64.
//!
//! Blocks are scattered, and what no row of the batch sees was never written: a kernel that reads it is found out.

use ptx_sim::{Buffer, Memory};

use super::element::{Element, Fields};
use super::{Rng, bf16};

pub const BLOCK: usize = 16;
pub const UNIT: usize = 64;

/// Sizes of a model's attention, and how loud its activations are.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub half: usize,
    pub interleaved: bool,
    pub window: usize,
    pub loud: f32,
    /// Whether q is multiplied by a factor of its position.
    pub tempered: bool,
}

impl Shape {
    pub fn padded(&self) -> usize {
        self.head_dim.next_power_of_two().max(64)
    }

    pub fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    pub fn width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Doubles the scores' usual spread, so that the softmax is not flat.
    fn scale(&self) -> f64 {
        2.0 / (self.head_dim as f64).sqrt()
    }

    fn first_visible(&self, position: usize) -> usize {
        if self.window == 0 { 0 } else { (position + 1).saturating_sub(self.window) }
    }

    /// What q is multiplied by after the turn.
    fn factor(&self, position: usize) -> f32 {
        if self.tempered { 0.7 + (position % 5) as f32 * 0.375 } else { 1.0 }
    }

    /// A head after the turn, in f32.
    fn turned(&self, head: &[f32], angles: &[f32]) -> Vec<f32> {
        let mut out = head.to_vec();
        for i in 0..self.half {
            let (x, y) = if self.interleaved { (2 * i, 2 * i + 1) } else { (i, i + self.half) };
            let (a, b, cos, sin) = (head[x], head[y], angles[2 * i], angles[2 * i + 1]);
            out[x] = a.mul_add(cos, -(b * sin));
            out[y] = b.mul_add(cos, a * sin);
        }
        out
    }
}

/// Part of a sequence: `rows` new tokens after `before` positions.
pub type Chunk = (usize, usize);

/// One step.
pub struct Step {
    pub shape: Shape,
    pub act: Element,
    pub kv: Element,
    pub positions: Vec<u32>,
    pub slots: Vec<u32>,
    pub sequence_of: Vec<u32>,
    pub q_indptr: Vec<u32>,
    pub kv_indptr: Vec<u32>,
    pub block_ids: Vec<u32>,
    pub angles: Vec<f32>,
    /// As a linear leaves it, and after the turn.
    pub qkv: Vec<f32>,
    pub turned: Vec<f32>,
    /// k and v before the step and after it.
    pub before: [Vec<Option<u8>>; 2],
    pub after: [Vec<Option<u8>>; 2],
}

/// A step's buffers.
pub struct Device {
    pub out: Buffer,
    pub k: Buffer,
    pub v: Buffer,
    pub arrivals: Option<Buffer>,
    factors: usize,
    fields: Fields,
}

impl Step {
    /// Every token's activations depend on its sequence and position alone, so any chunking gives the same ones.
    pub fn new(shape: Shape, act: Element, kv: Element, chunks: &[Chunk]) -> Self {
        let mut step = Step::empty(shape, act, kv);
        let blocks: usize = chunks.iter().map(|(before, rows)| (before + rows).div_ceil(BLOCK)).sum();
        let (mut ids, mut rng): (Vec<u32>, _) = ((0..blocks as u32 + 2).collect(), Rng(21));
        (1..ids.len()).rev().for_each(|i| ids.swap(i, rng.below(i + 1)));
        let bytes = ids.len() * shape.kv_heads * BLOCK * shape.padded() * kv.bytes();
        step.before = [vec![None; bytes], vec![None; bytes]];
        for (sequence, &(before, rows)) in chunks.iter().enumerate() {
            let count = (before + rows).div_ceil(BLOCK);
            step.block_ids.extend(ids.drain(..count));
            step.kv_indptr.push(step.block_ids.len() as u32);
            (before..before + rows).for_each(|position| step.push_row(sequence, position));
            step.q_indptr.push(step.positions.len() as u32);
            let first = shape.first_visible(before);
            (first..before).for_each(|position| step.fill(sequence, position));
        }
        step.after = step.before.clone();
        (0..step.positions.len()).for_each(|row| step.store(row));
        step
    }

    fn empty(shape: Shape, act: Element, kv: Element) -> Self {
        let (none, start) = (Vec::new(), vec![0]);
        Step {
            shape,
            act,
            kv,
            positions: none.clone(),
            slots: none.clone(),
            sequence_of: none.clone(),
            q_indptr: start.clone(),
            kv_indptr: start,
            block_ids: none,
            angles: Vec::new(),
            qkv: Vec::new(),
            turned: Vec::new(),
            before: Default::default(),
            after: Default::default(),
        }
    }

    fn slot(&self, sequence: usize, position: usize) -> usize {
        let block = self.block_ids[self.kv_indptr[sequence] as usize + position / BLOCK] as usize;
        block * BLOCK + position % BLOCK
    }

    /// Bytes of a slot's row of one kv head.
    fn row(&self, slot: usize, kv_head: usize) -> std::ops::Range<usize> {
        let bytes = self.shape.padded() * self.kv.bytes();
        let start = ((slot / BLOCK * self.shape.kv_heads + kv_head) * BLOCK + slot % BLOCK) * bytes;
        start..start + bytes
    }

    /// qkv of a token and its angles.
    fn token(&self, sequence: usize, position: usize) -> (Vec<f32>, Vec<f32>) {
        let mut rng = Rng((sequence << 32 | position) as u64);
        let qkv = (0..self.shape.width()).map(|_| self.act.round(rng.unit() * self.shape.loud)).collect();
        let angle = |i: usize| position as f64 * 500_000f64.powf(-(i as f64) / self.shape.half as f64);
        let angles = (0..self.shape.half).flat_map(|i| [angle(i).cos() as f32, angle(i).sin() as f32]).collect();
        (qkv, angles)
    }

    /// qkv with q and k turned, not rounded.
    fn turn(&self, qkv: &[f32], angles: &[f32]) -> Vec<f32> {
        let turning = (self.shape.heads + self.shape.kv_heads) * self.shape.head_dim;
        let heads = qkv[..turning].chunks(self.shape.head_dim);
        let turned = heads.flat_map(|head| self.shape.turned(head, angles));
        turned.chain(qkv[turning..].iter().copied()).collect()
    }

    fn push_row(&mut self, sequence: usize, position: usize) {
        let (qkv, angles) = self.token(sequence, position);
        let q = self.shape.heads * self.shape.head_dim;
        let turned = self.turn(&qkv, &angles);
        let factor = self.shape.factor(position);
        self.turned.extend(turned[..q].iter().map(|&x| self.act.round(x * factor)));
        self.turned.extend(&turned[q..]);
        self.qkv.extend(qkv);
        self.angles.extend(angles);
        self.positions.push(position as u32);
        self.sequence_of.push(sequence as u32);
        self.slots.push(self.slot(sequence, position) as u32);
    }

    /// k and v of a token as the cache keeps them, kv head by kv head.
    fn kept(&self, turned: &[f32]) -> [Vec<Vec<u8>>; 2] {
        let (dim, heads) = (self.shape.head_dim, self.shape.kv_heads);
        let k = self.shape.heads * dim;
        [k, k + heads * dim].map(|at| {
            let rows = turned[at..at + heads * dim].chunks(dim);
            rows.map(|row| {
                let mut row = row.to_vec();
                row.resize(self.shape.padded(), 0.0);
                self.kv.encode_all(&row)
            })
            .collect()
        })
    }

    /// A position that was stored before this step.
    fn fill(&mut self, sequence: usize, position: usize) {
        let (qkv, angles) = self.token(sequence, position);
        let (kept, slot) = (self.kept(&self.turn(&qkv, &angles)), self.slot(sequence, position));
        for (which, heads) in kept.into_iter().enumerate() {
            for (kv_head, bytes) in heads.into_iter().enumerate() {
                let range = self.row(slot, kv_head);
                self.before[which][range].iter_mut().zip(bytes).for_each(|(to, byte)| *to = Some(byte));
            }
        }
    }

    /// A row of this step.
    fn store(&mut self, row: usize) {
        let width = self.shape.width();
        let kept = self.kept(&self.turned[row * width..][..width]);
        for (which, heads) in kept.into_iter().enumerate() {
            for (kv_head, bytes) in heads.into_iter().enumerate() {
                let range = self.row(self.slots[row] as usize, kv_head);
                self.after[which][range].iter_mut().zip(bytes).for_each(|(to, byte)| *to = Some(byte));
            }
        }
    }

    /// Uploads everything; `stored` says whether q is turned and k and v stored already.
    pub fn upload(&self, memory: &mut Memory, stored: bool, tiles: &[[u32; 2]], workspace: bool) -> Device {
        let (shape, rows) = (&self.shape, self.positions.len());
        let out = memory.alloc(rows * shape.heads * shape.head_dim * self.act.bytes());
        let qkv = memory.upload(&self.act.encode_all(if stored { &self.turned } else { &self.qkv }));
        let [k, v] = if stored { &self.after } else { &self.before };
        let (k, v) = (memory.upload_partly(k), memory.upload_partly(v));
        let mut fields = Fields::default().buffers(&[out, qkv, k, v, memory.upload(&self.angles)]);
        for words in [
            &self.positions,
            &self.slots_and_factors(),
            &self.sequence_of,
            &self.q_indptr,
            &self.kv_indptr,
            &self.block_ids,
        ] {
            fields = fields.buffers(&[memory.upload(words)]);
        }
        fields = match tiles {
            [] => fields.null(),
            _ => fields.buffers(&[memory.upload(tiles.as_flattened())]),
        };
        let units = self.block_ids.len() / (UNIT / BLOCK) + self.kv_indptr.len() - 1;
        let arrivals = workspace.then(|| {
            let per_token = shape.kv_heads * shape.group().div_ceil(16);
            memory.upload(&vec![0u32; rows * per_token])
        });
        fields = match arrivals {
            None => fields.null().null().null(),
            Some(arrivals) => {
                let partials = memory.alloc(units * shape.heads * shape.padded() * 4);
                fields.buffers(&[partials, memory.alloc(units * shape.heads * 8), arrivals])
            }
        };
        fields = fields.words(&[shape.heads, shape.kv_heads, shape.head_dim, shape.padded(), shape.half]);
        fields = fields.words(&[usize::from(shape.interleaved)]);
        fields = fields.float((shape.scale() * std::f64::consts::LOG2_E) as f32).words(&[shape.window]);
        let factors = if shape.tempered { rows } else { 0 };
        Device { out, k, v, arrivals, factors, fields }
    }

    /// Slots, and behind them factors where there are any.
    fn slots_and_factors(&self) -> Vec<u32> {
        let factors = self.positions.iter().map(|&position| self.shape.factor(position as usize).to_bits());
        self.slots.iter().copied().chain(factors.filter(|_| self.shape.tempered)).collect()
    }

    /// Units that a row sees.
    pub fn units(&self, row: usize) -> usize {
        let position = self.positions[row] as usize;
        position / UNIT - self.shape.first_visible(position) / UNIT + 1
    }

    /// The outputs, with every intermediate value rounded by `round`.
    pub fn attend(&self, round: fn(f64) -> f64) -> Vec<f64> {
        (0..self.positions.len())
            .flat_map(|row| (0..self.shape.heads).flat_map(move |head| self.attend_head(row, head, round)))
            .collect()
    }

    fn attend_head(&self, row: usize, head: usize, round: fn(f64) -> f64) -> Vec<f64> {
        let dim = self.shape.head_dim;
        let (q, k, v) = self.seen(row, head);
        let dot = |k: &Vec<f64>| q.iter().zip(k).map(|(&q, k)| f64::from(q) * k).sum::<f64>();
        let scores: Vec<f64> = k.iter().map(|k| round(dot(k) * self.shape.scale())).collect();
        let highest = scores.iter().copied().fold(f64::MIN, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| (s - highest).exp()).collect();
        let sum: f64 = weights.iter().sum();
        let weights: Vec<f64> = weights.iter().map(|w| round(w / sum)).collect();
        (0..dim).map(|i| round(v.iter().zip(&weights).map(|(v, w)| w * v[i]).sum())).collect()
    }

    /// A head's q, and k and v of the positions that a row sees.
    fn seen(&self, row: usize, head: usize) -> (&[f32], Vec<Vec<f64>>, Vec<Vec<f64>>) {
        let (dim, position) = (self.shape.head_dim, self.positions[row] as usize);
        let q = &self.turned[row * self.shape.width() + head * dim..][..dim];
        let (sequence, kv_head) = (self.sequence_of[row] as usize, head / self.shape.group());
        let rows = |cache: &[Option<u8>]| -> Vec<Vec<f64>> {
            let range = self.shape.first_visible(position)..=position;
            let row = |p| &cache[self.row(self.slot(sequence, p), kv_head)];
            let bytes = |p| row(p).iter().map(|byte| byte.expect("a visible position")).collect::<Vec<u8>>();
            range.map(|p| self.kv.decode_all(&bytes(p))).collect()
        };
        (q, rows(&self.after[0]), rows(&self.after[1]))
    }

    /// The outputs as plain f32 makes them: chains of fused multiply-adds, one softmax over all positions.
    pub fn attend_f32(&self) -> Vec<f64> {
        let rows = 0..self.positions.len();
        rows.flat_map(|row| (0..self.shape.heads).flat_map(move |head| self.attend_head_f32(row, head))).collect()
    }

    fn attend_head_f32(&self, row: usize, head: usize) -> Vec<f64> {
        let (q, k, v) = self.seen(row, head);
        let scale = self.shape.scale() as f32;
        let dot = |k: &Vec<f64>| q.iter().zip(k).fold(0f32, |sum, (&q, &k)| q.mul_add(k as f32, sum));
        let scores: Vec<f32> = k.iter().map(|k| dot(k) * scale).collect();
        let highest = scores.iter().copied().fold(f32::MIN, f32::max);
        let weights: Vec<f32> = scores.iter().map(|s| (s - highest).exp()).collect();
        let inverse = 1.0 / weights.iter().sum::<f32>();
        let mix = |i: usize| v.iter().zip(&weights).fold(0f32, |sum, (v, w)| w.mul_add(v[i] as f32, sum));
        (0..self.shape.head_dim).map(|i| f64::from(mix(i) * inverse)).collect()
    }

    /// Truth, and what a plain computation in bf16 makes of it.
    pub fn truth(&self) -> (Vec<f64>, Vec<f64>) {
        (self.attend(|x| x), self.attend(bf16))
    }
}

impl Device {
    /// The kernel's struct, with `run` units a block.
    pub fn arg(self, run: usize) -> ptx_sim::Arg {
        self.fields.words(&[run, self.factors]).arg()
    }
}
