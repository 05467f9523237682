//! Scenes of attention: sequences with something in the cache already, in blocks in no order, among blocks that hold
//! numbers which must never be read.

use std::ops::Range;

use llama_core::backend::{AttentionShape, Backend, KvFormat, Limits, Role, RopeLayout, Temperature};
use llama_core::batch::{BLOCK, Batch};

use super::{Judge, KvOf, Output, PlanOf, Random, Scene, Size, Subject, Suite, limits};

/// A shape of `turned` rotated columns.
pub fn shape(heads: usize, kv_heads: usize, head_dim: usize, turned: usize, layout: RopeLayout) -> AttentionShape {
    let inv_freq = (0..turned / 2).map(|i| 10_000f32.powf(-2.0 * i as f32 / turned as f32)).collect();
    let scale = 1.0 / (head_dim as f32).sqrt();
    AttentionShape {
        layers: 2,
        heads,
        kv_heads,
        head_dim,
        inv_freq,
        rope_scale: 1.25,
        layout,
        unturned: Vec::new(),
        scale,
        window: None,
        temperature: None,
    }
}

/// Sequences: rows already in the cache, and rows of the step that is compared.
pub(super) struct Passage {
    pub what: &'static str,
    pub shape: AttentionShape,
    pub limits: Limits,
    /// `(cached, new)` rows.
    pub sequences: Vec<(usize, usize)>,
    pub tables: Vec<Vec<u32>>,
    /// `[sequence][position]` rows of qkv.
    pub qkv: Vec<Vec<Vec<f32>>>,
}

impl Passage {
    pub fn new(
        what: &'static str,
        shape: AttentionShape,
        kv: KvFormat,
        sequences: &[(usize, usize)],
        seed: u64,
    ) -> Self {
        let mut random = Random(seed);
        let longest = sequences.iter().map(|(cached, new)| cached + new).max().expect("a sequence");
        let limits = limits(sequences.len(), longest, kv);
        let mut blocks: Vec<u32> = (0..limits.blocks as u32).collect();
        random.shuffle(&mut blocks);
        let tables =
            sequences.iter().map(|(cached, new)| blocks.split_off(blocks.len() - (cached + new).div_ceil(BLOCK)));
        let tables = tables.collect();
        let mut row = || random.floats(shape.qkv_cols()).iter().map(|x| 3.0 * x).collect();
        let qkv = sequences.iter().map(|(cached, new)| (0..cached + new).map(|_| row()).collect()).collect();
        Passage { what, shape, limits, sequences: sequences.to_vec(), tables, qkv }
    }

    /// The batch of some positions of every sequence, and its qkv.
    pub fn batch(&self, positions: impl Fn(usize) -> Range<usize>) -> (Batch, Vec<f32>) {
        let (mut batch, mut qkv) = (Batch::new(), Vec::new());
        for (s, table) in self.tables.iter().enumerate() {
            let positions = positions(s);
            if !positions.is_empty() {
                batch.push(&vec![0; positions.len()], positions.start as u32, table, []);
                self.qkv[s][positions].iter().for_each(|row| qkv.extend_from_slice(row));
            }
        }
        (batch, qkv)
    }

    pub fn room<S: Subject>(&self, s: &S) -> (KvOf<S>, PlanOf<S>) {
        let b = s.backend();
        (b.kv_cache(&self.shape, &self.limits).expect("memory"), b.plan(&self.shape, &self.limits).expect("memory"))
    }

    /// Numbers that must never be read, in every block of the layer under test.
    fn spoil<S: Subject>(&self, s: &S, kv: &mut KvOf<S>, plan: &mut PlanOf<S>) {
        let (b, cols) = (s.backend(), self.shape.qkv_cols());
        for block in 0..self.limits.blocks as u32 {
            let mut batch = Batch::new();
            batch.push(&[0; BLOCK][..BLOCK.min(self.limits.context)], 0, &[block], []);
            let bad = [f32::NAN, f32::INFINITY, 1e30][block as usize % 3];
            let mut qkv = s.filled(batch.rows(), cols, Role::Activation, &vec![bad; batch.rows() * cols]);
            b.prepare(plan, &batch).expect("prepare");
            b.rope_and_store(&mut qkv, kv, 1, plan).expect("rope_and_store");
        }
    }

    /// One step: rotated qkv, then attention's output.
    pub fn step<S: Subject>(
        &self,
        s: &S,
        kv: &mut KvOf<S>,
        plan: &mut PlanOf<S>,
        (batch, qkv): (Batch, Vec<f32>),
    ) -> (Vec<f64>, Vec<f64>) {
        let (b, heads) = (s.backend(), self.shape.heads * self.shape.head_dim);
        let fresh = || s.filled(batch.rows(), self.shape.qkv_cols(), Role::Activation, &qkv);
        let (mut qkv, mut turned) = (fresh(), fresh());
        let mut out = s.zeros(batch.rows(), heads, Role::Activation);
        b.prepare(plan, &batch).expect("prepare");
        b.replay(|| {
            b.rope_and_store(&mut qkv, kv, 1, plan)?;
            b.attention(&mut out, &qkv, kv, 1, plan)
        })
        .expect("a step");
        // A step leaves what its last verb wrote; what the first writes is seen where it is alone. It stores the same.
        b.rope_and_store(&mut turned, kv, 1, plan).expect("rope_and_store");
        (s.values(&turned), s.values(&out))
    }

    /// What is cached already, in chunks.
    pub fn fill<S: Subject>(&self, s: &S, kv: &mut KvOf<S>, plan: &mut PlanOf<S>) {
        let longest = self.sequences.iter().map(|(cached, _)| *cached).max().unwrap_or(0);
        for start in (0..longest).step_by(150) {
            let chunk = self.batch(|s| start.min(self.sequences[s].0)..(start + 150).min(self.sequences[s].0));
            self.step(s, kv, plan, chunk);
        }
    }

    /// The rows that are compared.
    pub fn new_rows(&self, s: usize) -> Range<usize> {
        self.sequences[s].0..self.qkv[s].len()
    }
}

impl Scene for Passage {
    fn what(&self) -> String {
        format!("{}, {:?}: {:?} {:?}", self.what, self.limits.kv, self.sequences, self.shape)
    }

    fn play<S: Subject>(&self, s: &S) -> Vec<Output> {
        let (mut kv, mut plan) = self.room(s);
        self.spoil(s, &mut kv, &mut plan);
        self.fill(s, &mut kv, &mut plan);
        let (qkv, out) = self.step(s, &mut kv, &mut plan, self.batch(|s| self.new_rows(s)));
        // k and v are read from the cache.
        let (cols, q) = (self.shape.qkv_cols(), self.shape.heads * self.shape.head_dim);
        let part = |of: Range<usize>| qkv.chunks_exact(cols).flat_map(|row| row[of.clone()].to_vec()).collect();
        // The cosine or sine, a product, the sum of two; where there is a temperature its factor, and what that makes.
        let roundings = if self.shape.temperature.is_some() { 5 } else { 3 };
        let turned = Output { judge: Judge::Whole(roundings), ..Output::new("q", Role::Activation, part(0..q)) };
        let stored = Output { judge: Judge::Unread, ..Output::new("k and v", Role::Activation, part(q..cols)) };
        vec![turned, stored, Output::new("attention", Role::Activation, out)]
    }
}

impl<S: Subject> Suite<S> {
    /// Head counts, head sizes, partial rotations and both layouts; a ragged batch of prompts and decodes.
    pub fn attention_of_many_shapes(&self) {
        use KvFormat::{F32, Half};
        use RopeLayout::{Halves, Interleaved};
        let shapes = [
            (1, 1, 8, 8, Halves, F32),
            (2, 1, 16, 16, Interleaved, Half),
            (3, 1, 20, 20, Halves, Half),
            (8, 2, 48, 48, Interleaved, F32),
            (8, 1, 64, 64, Halves, Half),
            (6, 2, 80, 32, Interleaved, Half),
            (5, 5, 96, 64, Halves, F32),
            (4, 4, 128, 128, Interleaved, Half),
            (11, 1, 100, 2, Halves, F32),
        ];
        let sequences: &[_] = match self.size {
            Size::All => &[(0, 37), (16, 1), (15, 2), (70, 1), (9, 50)],
            Size::Few => &[(0, 19), (16, 1), (70, 2)],
        };
        for (i, (heads, kv_heads, head_dim, turned, layout, kv)) in shapes.into_iter().enumerate() {
            if self.size == Size::All || [1, 5, 7, 8].contains(&i) {
                let shape = shape(heads, kv_heads, head_dim, turned, layout);
                // A backend that is asked everything is asked every format.
                let formats = if self.size == Size::All { self.kv_formats() } else { &[kv] };
                for &kv in formats {
                    self.agree(&Passage::new("shapes", shape.clone(), kv, sequences, i as u64));
                }
            }
        }
    }

    /// Contexts around the multiples where an attention is cut into parts.
    pub fn attention_across_partitions(&self) {
        let all: [&[(usize, usize)]; 6] =
            [&[(0, 300)], &[(255, 1)], &[(256, 1)], &[(250, 20)], &[(700, 1)], &[(511, 2), (40, 1), (513, 3)]];
        let few: [&[(usize, usize)]; 2] = [&[(63, 2), (64, 1)], &[(250, 20)]];
        let scenes = if self.size == Size::All { &all[..] } else { &few[..] };
        for (i, sequences) in scenes.iter().enumerate() {
            for &kv in self.kv_formats() {
                let (heads, kv_heads) = if self.size == Size::All { (4, 2) } else { (2, 1) };
                let shape = shape(heads, kv_heads, 24, 24, RopeLayout::Halves);
                self.agree(&Passage::new("partitions", shape, kv, sequences, 50 + i as u64));
            }
        }
    }

    /// Sliding windows shorter than, as long as and longer than blocks, parts and contexts.
    pub fn attention_in_windows(&self) {
        let sequences: [&[(usize, usize)]; 3] = [&[(0, 290)], &[(530, 1)], &[(500, 40), (3, 2)]];
        let few: [&[(usize, usize)]; 1] = [&[(120, 20), (3, 1)]];
        for (i, window) in [1, 2, 15, 16, 17, 100, 256, 300, 10_000].into_iter().enumerate() {
            if self.size == Size::Few && ![1, 17, 100].contains(&window) {
                continue;
            }
            for sequences in if self.size == Size::All { &sequences[..] } else { &few[..] } {
                let heads = if self.size == Size::All { 3 } else { 1 };
                let shape =
                    AttentionShape { window: Some(window), ..shape(heads, heads, 16, 16, RopeLayout::Interleaved) };
                for &kv in self.kv_formats() {
                    // Windows are the same code for every format: a few show it.
                    if kv == KvFormat::Half || self.size == Size::All && [1, 17, 300].contains(&window) {
                        self.agree(&Passage::new("windows", shape.clone(), kv, sequences, 90 + i as u64));
                    }
                }
            }
        }
    }

    /// A temperature that grows soon: prompts and decodes before it does, where it does and after, heads that turn in part.
    pub fn attention_with_a_temperature(&self) {
        let temperature = Some(Temperature { growth: 0.3, from: 4 });
        // Of one row each in the second: a decode, which a backend may do otherwise.
        let scenes: [(_, &[_]); 2] = [
            ((4, 2, 16, 16, RopeLayout::Interleaved), &[(0, 19), (3, 1), (4, 1), (50, 2), (34, 1)]),
            ((3, 1, 80, 32, RopeLayout::Halves), &[(66, 1), (3, 1), (4, 1), (70, 1), (40, 1), (21, 1)]),
        ];
        for (i, ((heads, kv_heads, head_dim, turned, layout), sequences)) in scenes.into_iter().enumerate() {
            let shape = AttentionShape { temperature, ..shape(heads, kv_heads, head_dim, turned, layout) };
            for &kv in self.kv_formats() {
                self.agree(&Passage::new("a temperature", shape.clone(), kv, sequences, 170 + i as u64));
            }
        }
    }

    /// A layer whose queries and keys do not turn, in a model whose other layers do, with a temperature and without.
    pub fn attention_without_a_turn(&self) {
        let scenes: [(_, &[_]); 2] = [
            ((4, 2, 16, 16, RopeLayout::Interleaved), &[(0, 19), (50, 2), (34, 1)]),
            ((3, 1, 80, 32, RopeLayout::Halves), &[(66, 1), (3, 1), (40, 1)]),
        ];
        for (i, ((heads, kv_heads, head_dim, turned, layout), sequences)) in scenes.into_iter().enumerate() {
            let temperature = (i == 1).then_some(Temperature { growth: 0.3, from: 4 });
            let turning = shape(heads, kv_heads, head_dim, turned, layout);
            let shape = AttentionShape { unturned: vec![1], temperature, ..turning };
            for &kv in self.kv_formats() {
                self.agree(&Passage::new("no turn", shape.clone(), kv, sequences, 190 + i as u64));
            }
        }
    }

    /// Keys and values in eight bits: for backends that keep them so.
    pub fn attention_in_eight_bits(&self) {
        for (i, sequences) in [&[(0, 20), (66, 1)][..], &[(70, 1), (15, 1)]].into_iter().enumerate() {
            let shape = shape(4, 2, 24, 16, RopeLayout::Halves);
            self.agree(&Passage::new("eight bits", shape, KvFormat::F8, sequences, 150 + i as u64));
        }
    }

    /// Scores far apart, so that weights reach the least exponential, and infinities and NaN.
    pub fn attention_of_hard_numbers(&self) {
        let sequences = if self.size == Size::All { [(0, 40), (260, 6)] } else { [(0, 17), (66, 3)] };
        for (seed, size) in [(200, 60.0), (201, 1e20)] {
            for &kv in self.kv_formats() {
                let shape = shape(4, 2, 16, 8, RopeLayout::Halves);
                let mut scene = Passage::new("hard numbers", shape, kv, &sequences, seed);
                scene.qkv.iter_mut().flatten().flatten().for_each(|x| *x *= size);
                self.agree(&scene);
            }
        }
    }
}
