//! Every verb of the CPU backend, on every tier this machine has and with one, two and three threads, against the
//! executable contract: equality of bits. Two NaNs are equal.

use llama_core::backend::reference::Matrix;
use llama_core::backend::{
    AttentionShape, Backend, KvFormat, Limits, Numerics, Part, Reference, Role, RopeLayout, Rows,
};
use llama_core::batch::{BLOCK, Batch};
use llama_core::checkpoint::TensorView;
use llama_core::format::Format;
use llama_kernels::{Cpu, CpuOptions, Tensor, Tier};

/// Writing activations is no verb: each backend's own way.
trait Writable {
    fn write(&mut self, row: usize, x: &[f32]);
}

impl Writable for Tensor {
    fn write(&mut self, row: usize, x: &[f32]) {
        self.data_mut()[row * x.len()..][..x.len()].copy_from_slice(x);
    }
}

impl Writable for Matrix {
    fn write(&mut self, row: usize, x: &[f32]) {
        self.row_mut(row).copy_from_slice(x);
    }
}

trait Testable: Backend<Tensor: Writable> {
    fn filled(&self, rows: usize, cols: usize, x: &[f32]) -> Self::Tensor {
        let mut tensor = self.tensor(rows, cols, Role::Activation).expect("memory");
        x.chunks_exact(cols).enumerate().for_each(|(r, x)| tensor.write(r, x));
        tensor
    }

    fn values(&self, x: &Self::Tensor) -> Vec<f32> {
        let mut out = Vec::new();
        self.read(x, &mut out).expect("read");
        out
    }
}

impl<B: Backend<Tensor: Writable>> Testable for B {}

/// A SplitMix64 stream.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// In `-2 .. 2`.
    fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 22) as f32 - 2.0
    }

    fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }

    fn shuffle<T>(&mut self, x: &mut [T]) {
        (1..x.len()).for_each(|i| x.swap(i, self.below(i + 1)));
    }
}

/// Every tier with one, two and three threads.
fn backends() -> Vec<Cpu> {
    let options = |tier, threads| CpuOptions { threads: Some(threads), tier: Some(tier), numerics: Numerics::Default };
    Tier::available()
        .flat_map(|tier| [1, 2, 3].map(|threads| Cpu::new(options(tier, threads)).expect("a backend")))
        .collect()
}

fn assert_same(got: &[f32], want: &[f32], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!(got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(), "{what}: [{i}] {got:e} not {want:e}");
    }
}

/// Runs `verb` on the reference and on every backend and compares what it returns.
macro_rules! agree {
    ($what:expr, |$b:ident| $verb:expr) => {{
        let want = {
            let $b = &Reference::new(Numerics::Default);
            $verb
        };
        for cpu in backends() {
            let what = format!("{} on {}", $what, cpu.name());
            let $b = &cpu;
            assert_same(&$verb, &want, &what);
        }
    }};
}

/// Ordinary numbers with the extraordinary among them.
fn hard_floats(random: &mut Random, n: usize) -> Vec<f32> {
    const HARD: [f32; 12] =
        [0.0, -0.0, 1e30, -1e30, 1e-42, -1e-42, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 87.5, -88.0, -1e-8];
    (0..n).map(|i| if i % 7 == 3 { HARD[random.below(HARD.len())] } else { 20.0 * random.float() }).collect()
}

const SHAPES: [(usize, usize); 8] = [(1, 1), (1, 20), (3, 48), (40, 17), (1, 576), (33, 576), (1, 5000), (9, 2050)];

#[test]
fn norms() {
    let mut random = Random(1);
    for (rows, cols) in SHAPES {
        let (x, y, gain) = (random.floats(rows * cols), random.floats(rows * cols), random.floats(cols));
        agree!(format!("rms_norm [{rows}, {cols}]"), |b| {
            let (x, gain) = (b.filled(rows, cols, &x), b.filled(1, cols, &gain));
            let mut out = b.tensor(rows, cols, Role::Activation).expect("memory");
            b.rms_norm(&mut out, &x, &gain, 1e-5).expect("rms_norm");
            b.values(&out)
        });
        agree!(format!("add_rms_norm [{rows}, {cols}]"), |b| {
            let gain = b.filled(1, cols, &gain);
            let (mut x, mut y) = (b.filled(rows, cols, &x), b.filled(rows, cols, &y));
            b.add_rms_norm(&mut x, &mut y, &gain, 1e-6).expect("add_rms_norm");
            [b.values(&x), b.values(&y)].concat()
        });
    }
}

#[test]
fn elementwise() {
    let mut random = Random(2);
    for (rows, cols) in SHAPES {
        let (x, y) = (hard_floats(&mut random, rows * cols), hard_floats(&mut random, rows * 2 * cols));
        agree!(format!("add [{rows}, {cols}]"), |b| {
            let mut acc = b.filled(rows, cols, &x);
            b.add(&mut acc, &b.filled(rows, cols, &y[..rows * cols])).expect("add");
            b.values(&acc)
        });
        agree!(format!("swiglu [{rows}, {cols}]"), |b| {
            let mut out = b.tensor(rows, cols, Role::Activation).expect("memory");
            b.swiglu(&mut out, &b.filled(rows, 2 * cols, &y)).expect("swiglu");
            b.values(&out)
        });
    }
}

fn shape(heads: usize, kv_heads: usize, head_dim: usize, turned: usize, layout: RopeLayout) -> AttentionShape {
    let inv_freq = (0..turned / 2).map(|i| 10_000f32.powf(-2.0 * i as f32 / turned as f32)).collect();
    let scale = 1.0 / (head_dim as f32).sqrt();
    AttentionShape { layers: 2, heads, kv_heads, head_dim, inv_freq, rope_scale: 1.25, layout, scale, window: None }
}

fn limits(sequences: usize, context: usize, kv: KvFormat) -> Limits {
    let blocks = sequences * context.div_ceil(BLOCK) + 3;
    Limits { tokens: 1024, sequences, outputs: 1024, context, blocks, kv }
}

/// `rows` of random weights in a format that defines an encoder.
fn encoded(random: &mut Random, format: Format, rows: usize, cols: usize) -> Vec<u8> {
    let mut bytes = vec![0; rows * format.row_bytes(cols).expect("whole blocks")];
    format.encode(&random.floats(rows * cols), &mut bytes).expect("an encoder");
    bytes
}

#[test]
fn embedding_linear_and_outputs() {
    let mut random = Random(3);
    let (vocab, hidden, rows) = (37, 64, 50);
    let formats = [Format::F32, Format::F16, Format::BF16, Format::Q8_0, Format::Q4_0];
    let bytes = formats.map(|format| encoded(&mut random, format, rows, hidden));
    let views = [0, 1, 2, 3, 4].map(|i| TensorView::new("part", formats[i], rows, hidden, &bytes[i]).expect("a view"));
    let bias = encoded(&mut random, Format::F32, 1, rows);
    let bias = Some(TensorView::new("bias", Format::F32, 1, rows, &bias).expect("a view"));
    let mut batch = Batch::new();
    batch.push(&[3, 36, 0, 5, 5, 17, 2, 1, 9, 30, 31], 0, &[0], [0, 4, 10]);
    let (shape, limits) = (shape(1, 1, 8, 8, RopeLayout::Halves), limits(1, 64, KvFormat::F32));
    for (table, view) in views.iter().enumerate() {
        let part = |&weight| Part { weight, bias: bias.filter(|_| table % 2 == 0) };
        let parts: Vec<_> = views[table..].iter().map(part).collect();
        let out = parts.len() * rows;
        agree!(format!("embed {:?}, linear, take_outputs", view.format()), |b| {
            let mut plan = b.plan(&shape, &limits).expect("memory");
            b.prepare(&mut plan, &batch).expect("prepare");
            let part = Part { weight: view.slice_rows(0..vocab), bias: None };
            let (table, matrix) = (b.weight(&[part]).expect("a weight"), b.weight(&parts).expect("a weight"));
            let mut x = b.tensor(batch.rows(), hidden, Role::Activation).expect("memory");
            let mut y = b.tensor(batch.rows(), out, Role::Activation).expect("memory");
            let mut logits = b.tensor(limits.outputs, out, Role::Logits).expect("memory");
            b.replay(|| {
                b.embed(&mut x, &table, &plan)?;
                b.linear(&mut y, &x, &matrix)?;
                b.take_outputs(&mut logits, &y, &plan)
            })
            .expect("a step");
            assert_eq!(logits.rows(), 3);
            [b.values(&x), b.values(&y), b.values(&logits)].concat()
        });
    }
}

/// Sequences of one attention test: rows already in the cache, and rows of the step that is compared.
struct Scene {
    shape: AttentionShape,
    limits: Limits,
    /// `(cached, new)` rows.
    sequences: Vec<(usize, usize)>,
    tables: Vec<Vec<u32>>,
    /// `[sequence][position]` rows of qkv.
    qkv: Vec<Vec<Vec<f32>>>,
}

impl Scene {
    fn new(shape: AttentionShape, kv: KvFormat, sequences: &[(usize, usize)], seed: u64) -> Self {
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
        Scene { shape, limits, sequences: sequences.to_vec(), tables, qkv }
    }

    /// The batch of some positions of every sequence, and its qkv.
    fn batch(&self, positions: impl Fn(usize) -> std::ops::Range<usize>) -> (Batch, Vec<f32>) {
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

    /// Numbers that must never be read, in every block of the layer under test.
    fn spoil<B: Testable>(&self, b: &B, kv: &mut B::KvCache, plan: &mut B::Plan) {
        for block in 0..self.limits.blocks as u32 {
            let mut batch = Batch::new();
            batch.push(&[0; BLOCK][..BLOCK.min(self.limits.context)], 0, &[block], []);
            let cols = self.shape.qkv_cols();
            let bad = [f32::NAN, f32::INFINITY, 1e30][block as usize % 3];
            let mut qkv = b.filled(batch.rows(), cols, &vec![bad; batch.rows() * cols]);
            b.prepare(plan, &batch).expect("prepare");
            b.rope_and_store(&mut qkv, kv, 1, plan).expect("rope_and_store");
        }
    }

    /// One step: rotated qkv, then attention's output.
    fn step<B: Testable>(
        &self,
        b: &B,
        kv: &mut B::KvCache,
        plan: &mut B::Plan,
        (batch, qkv): (Batch, Vec<f32>),
    ) -> (Vec<f32>, Vec<f32>) {
        let mut qkv = b.filled(batch.rows(), self.shape.qkv_cols(), &qkv);
        let mut out = b.tensor(batch.rows(), self.shape.heads * self.shape.head_dim, Role::Activation).expect("memory");
        b.prepare(plan, &batch).expect("prepare");
        b.replay(|| {
            b.rope_and_store(&mut qkv, kv, 1, plan)?;
            b.attention(&mut out, &qkv, kv, 1, plan)
        })
        .expect("a step");
        (b.values(&qkv), b.values(&out))
    }

    /// What is cached already, in chunks; then the step that is compared.
    fn play<B: Testable>(&self, b: &B) -> Vec<f32> {
        let mut kv = b.kv_cache(&self.shape, &self.limits).expect("memory");
        let mut plan = b.plan(&self.shape, &self.limits).expect("memory");
        self.spoil(b, &mut kv, &mut plan);
        let longest = self.sequences.iter().map(|(cached, _)| *cached).max().unwrap_or(0);
        for start in (0..longest).step_by(150) {
            let chunk = self.batch(|s| start.min(self.sequences[s].0)..(start + 150).min(self.sequences[s].0));
            self.step(b, &mut kv, &mut plan, chunk);
        }
        let (qkv, out) = self.step(b, &mut kv, &mut plan, self.batch(|s| self.sequences[s].0..self.qkv[s].len()));
        [qkv, out].concat()
    }

    fn compare(&self, what: &str) {
        agree!(format!("{what}: {:?} {:?}", self.sequences, self.shape), |b| self.play(b));
    }
}

#[test]
fn attention_of_many_shapes() {
    use KvFormat::{F32, Half};
    use RopeLayout::{Halves, Interleaved};
    for (i, (heads, kv_heads, head_dim, turned, layout, kv)) in [
        (1, 1, 8, 8, Halves, F32),
        (2, 1, 16, 16, Interleaved, Half),
        (3, 1, 20, 20, Halves, Half),
        (8, 2, 48, 48, Interleaved, F32),
        (8, 1, 64, 64, Halves, Half),
        (6, 2, 80, 32, Interleaved, Half),
        (5, 5, 96, 64, Halves, F32),
        (4, 4, 128, 128, Interleaved, Half),
        (11, 1, 100, 2, Halves, F32),
    ]
    .into_iter()
    .enumerate()
    {
        let sequences = [(0, 37), (16, 1), (15, 2), (70, 1), (9, 50)];
        Scene::new(shape(heads, kv_heads, head_dim, turned, layout), kv, &sequences, i as u64).compare("shapes");
    }
}

#[test]
fn attention_across_partitions() {
    for (i, sequences) in
        [&[(0, 300)][..], &[(255, 1)], &[(256, 1)], &[(250, 20)], &[(700, 1)], &[(511, 2), (40, 1), (513, 3)]]
            .iter()
            .enumerate()
    {
        for kv in [KvFormat::Half, KvFormat::F32] {
            let shape = shape(4, 2, 24, 24, RopeLayout::Halves);
            Scene::new(shape, kv, sequences, 50 + i as u64).compare("partitions");
        }
    }
}

#[test]
fn attention_in_windows() {
    for (i, window) in [1, 2, 15, 16, 17, 100, 256, 300, 10_000].into_iter().enumerate() {
        for sequences in [&[(0, 290)][..], &[(530, 1)], &[(500, 40), (3, 2)]] {
            let shape = AttentionShape { window: Some(window), ..shape(3, 3, 16, 16, RopeLayout::Interleaved) };
            Scene::new(shape, KvFormat::Half, sequences, 90 + i as u64).compare("windows");
        }
    }
}

/// Scores far apart, so that weights reach the least exponential, and infinities and NaN.
#[test]
fn attention_of_hard_numbers() {
    for (seed, size) in [(200, 60.0), (201, 1e20)] {
        for kv in [KvFormat::Half, KvFormat::F32] {
            let mut scene = Scene::new(shape(4, 2, 16, 8, RopeLayout::Halves), kv, &[(0, 40), (260, 6)], seed);
            scene.qkv.iter_mut().flatten().flatten().for_each(|x| *x *= size);
            scene.compare("hard numbers");
        }
    }
}

/// One go, token by token and ragged chunks give the same bits for every row.
#[test]
fn chunking_changes_nothing() {
    let scene = Scene::new(shape(4, 2, 32, 32, RopeLayout::Halves), KvFormat::Half, &[(0, 275)], 300);
    for b in backends() {
        let play = |chunk: usize| {
            let mut kv = b.kv_cache(&scene.shape, &scene.limits).expect("memory");
            let mut plan = b.plan(&scene.shape, &scene.limits).expect("memory");
            let chunks = (0..275).step_by(chunk).map(|start| scene.batch(|_| start..275.min(start + chunk)));
            chunks.flat_map(|chunk| scene.step(&b, &mut kv, &mut plan, chunk).1).collect::<Vec<_>>()
        };
        let whole = play(275);
        for chunk in [1, 7, 64] {
            assert_same(&play(chunk), &whole, &format!("chunks of {chunk} on {}", b.name()));
        }
    }
}

/// A sequence that continues in copied blocks gives the bits of the original.
#[test]
fn copied_blocks_are_the_same() {
    for kv in [KvFormat::Half, KvFormat::F32] {
        let mut scene = Scene::new(shape(4, 2, 20, 20, RopeLayout::Halves), kv, &[(40, 3)], 400);
        scene.limits.blocks += 3;
        for b in backends() {
            let mut cache = b.kv_cache(&scene.shape, &scene.limits).expect("memory");
            let mut plan = b.plan(&scene.shape, &scene.limits).expect("memory");
            scene.step(&b, &mut cache, &mut plan, scene.batch(|_| 0..40));
            let first = scene.limits.blocks as u32 - 3;
            let pairs: Vec<_> = scene.tables[0].iter().copied().zip(first..).collect();
            b.copy_blocks(&mut cache, &pairs).expect("copy_blocks");
            let original = scene.step(&b, &mut cache, &mut plan, scene.batch(|_| 40..43));
            let mut copy = scene.batch(|_| 40..43);
            copy.0.block_ids = pairs.iter().map(|pair| pair.1).collect();
            assert_same(&scene.step(&b, &mut cache, &mut plan, copy).1, &original.1, &b.name());
        }
    }
}

#[test]
fn a_plan_and_a_cache_hold_what_they_say() {
    let scene = Scene::new(shape(4, 2, 20, 20, RopeLayout::Halves), KvFormat::Half, &[(40, 3)], 500);
    let cpu = Cpu::new(CpuOptions { threads: Some(2), ..CpuOptions::default() }).expect("a backend");
    let (shape, limits) = (&scene.shape, &scene.limits);
    let elements = shape.layers * limits.blocks * shape.kv_heads * BLOCK * (20 + 32);
    assert_eq!(cpu.kv_bytes(shape, limits), elements as u64 * 2 + 2 * 64);
    assert!(cpu.scratch_bytes(shape, limits, 128) > 0);
}
