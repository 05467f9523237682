//! Scenes of verbs that treat each row, or each element, by itself: norms, sums, SwiGLU.

use llama_core::backend::{AttentionShape, Backend, KvFormat, Role, RopeLayout};
use llama_core::batch::Batch;

use super::{Judge, Output, Random, Scene, Size, Subject, Suite, limits, shape};

const SHAPES: [(usize, usize); 8] = [(1, 1), (1, 20), (3, 48), (40, 17), (1, 576), (33, 576), (1, 5000), (9, 2050)];
const FEW: [usize; 4] = [1, 2, 3, 4];

/// Roundings of a norm: the mean, its root, the reciprocal, and two products.
const NORM: Judge = Judge::Whole(5);

/// Units in the last place that a product with a sigmoid may be off: an exponential within two, a sum, a reciprocal, two products.
const SIGMOID: f64 = 4.0;

/// `rms_norm`, alone and after the `add` to its residual.
struct Norms {
    shape: (usize, usize),
    x: Vec<f32>,
    y: Vec<f32>,
    gain: Vec<f32>,
}

impl Scene for Norms {
    fn what(&self) -> String {
        format!("norms of {:?}", self.shape)
    }

    fn play<S: Subject>(&self, s: &S) -> Vec<Output> {
        let ((rows, cols), b) = (self.shape, s.backend());
        let (mut x, gain) = (s.filled(rows, cols, Role::Residual, &self.x), s.gain_of(&self.gain));
        let mut out = s.zeros(rows, cols, Role::Activation);
        b.rms_norm(&mut out, &x, &gain, 1e-5).expect("rms_norm");
        let y = s.filled(rows, cols, Role::Activation, &self.y);
        let mut sum = s.zeros(rows, cols, Role::Activation);
        b.replay(|| {
            b.add(&mut x, &y)?;
            b.rms_norm(&mut sum, &x, &gain, 1e-6)
        })
        .expect("a step");
        vec![
            Output { judge: NORM, ..Output::new("rms_norm", Role::Activation, s.values(&out)) },
            Output { judge: Judge::Each(0.5), ..Output::new("residual", Role::Residual, s.values(&x)) },
            Output { judge: NORM, ..Output::new("add, rms_norm", Role::Activation, s.values(&sum)) },
        ]
    }
}

/// `norm_heads` of some rows.
struct HeadNorms {
    shape: AttentionShape,
    rows: usize,
    qkv: Vec<f32>,
    gains: [Vec<f32>; 2],
}

impl Scene for HeadNorms {
    fn what(&self) -> String {
        format!("norms of the heads of {} rows, {:?}", self.rows, self.shape)
    }

    fn play<S: Subject>(&self, s: &S) -> Vec<Output> {
        let (b, cols) = (s.backend(), self.shape.qkv_cols());
        let limits = limits(1, self.rows, KvFormat::Half);
        let mut plan = b.plan(&self.shape, &limits).expect("memory");
        let mut batch = Batch::new();
        batch.push(&vec![0; self.rows], 0, &(0..limits.blocks as u32 - 3).collect::<Vec<_>>(), []);
        b.prepare(&mut plan, &batch).expect("prepare");
        let mut qkv = s.filled(self.rows, cols, Role::Activation, &self.qkv);
        let gains = self.gains.each_ref().map(|gain| s.gain_of(gain));
        b.norm_heads(&mut qkv, gains.each_ref(), 1e-5, &plan).expect("norm_heads");
        let normed = (self.shape.heads + self.shape.kv_heads) * self.shape.head_dim;
        let values = s.values(&qkv);
        let part =
            |range: std::ops::Range<usize>| values.chunks(cols).flat_map(|row| row[range.clone()].to_vec()).collect();
        vec![
            Output { judge: NORM, ..Output::new("norm_heads", Role::Activation, part(0..normed)) },
            Output {
                judge: Judge::Each(0.0),
                ..Output::new("values beside them", Role::Activation, part(normed..cols))
            },
        ]
    }
}

/// `add` and `swiglu` of hard numbers.
struct Elementwise {
    shape: (usize, usize),
    x: Vec<f32>,
    y: Vec<f32>,
}

impl Scene for Elementwise {
    fn what(&self) -> String {
        format!("hard numbers of {:?}", self.shape)
    }

    fn play<S: Subject>(&self, s: &S) -> Vec<Output> {
        let ((rows, cols), b) = (self.shape, s.backend());
        let mut acc = s.filled(rows, cols, Role::Residual, &self.x);
        b.add(&mut acc, &s.filled(rows, cols, Role::Activation, &self.y[..rows * cols])).expect("add");
        let mut out = s.zeros(rows, cols, Role::Activation);
        b.swiglu(&mut out, &s.filled(rows, 2 * cols, Role::Activation, &self.y)).expect("swiglu");
        vec![
            Output { judge: Judge::Each(0.5), ..Output::new("add", Role::Residual, s.values(&acc)) },
            Output { judge: Judge::Each(SIGMOID), ..Output::new("swiglu", Role::Activation, s.values(&out)) },
        ]
    }
}

/// The rows of a scene one by one, after all of them together.
struct RowByRow {
    rows: usize,
    cols: usize,
    x: Vec<f32>,
    y: Vec<f32>,
    gain: Vec<f32>,
}

impl RowByRow {
    fn rows<S: Subject>(&self, s: &S, rows: std::ops::Range<usize>) -> Vec<f64> {
        let (n, cols, b) = (rows.len(), self.cols, s.backend());
        let part = |x: &[f32], cols: usize| x[rows.start * cols..rows.end * cols].to_vec();
        let mut x = s.filled(n, cols, Role::Residual, &part(&self.x, cols));
        let mut out = s.zeros(n, cols, Role::Activation);
        b.swiglu(&mut out, &s.filled(n, 2 * cols, Role::Activation, &part(&self.y, 2 * cols))).expect("swiglu");
        b.add(&mut x, &out).expect("add");
        b.rms_norm(&mut out, &x, &s.gain_of(&self.gain), 1e-5).expect("rms_norm");
        [s.values(&out), s.values(&x)].concat()
    }
}

impl<S: Subject> Suite<S> {
    /// Norms of rows of many lengths.
    pub fn norms(&self) {
        let mut random = Random(1);
        let scenes = SHAPES.map(|(rows, cols)| Norms {
            shape: (rows, cols),
            x: random.floats(rows * cols),
            y: random.floats(rows * cols),
            gain: random.floats(cols),
        });
        self.pick(&scenes, &FEW).into_iter().for_each(|scene| self.agree(scene));
    }

    /// Norms of heads, of which keys have fewer, in rows of many lengths.
    pub fn norms_of_heads(&self) {
        let mut random = Random(8);
        let shapes = [(1, 1, 2), (4, 2, 16), (3, 1, 36), (16, 8, 128), (2, 2, 256), (5, 5, 80)];
        let scenes = shapes.map(|(heads, kv_heads, head_dim)| {
            let shape = shape(heads, kv_heads, head_dim, head_dim, RopeLayout::Halves);
            let rows = if heads > 4 { 9 } else { 3 };
            let qkv = random.floats(rows * shape.qkv_cols());
            HeadNorms { shape, rows, qkv, gains: [random.floats(head_dim), random.floats(head_dim)] }
        });
        self.pick(&scenes, &[1, 2, 4]).into_iter().for_each(|scene| self.agree(scene));
    }

    /// Norms of rows that differ by many orders of magnitude: a quiet row is its `eps`, a loud one its largest number.
    pub fn sums_in_the_residual(&self) {
        let mut random = Random(6);
        for (size, other) in [(1e-4f32, 1e-4f32), (1e4, 1e-3), (1e-3, 1e4)] {
            let mut sized = |size: f32, n: usize| random.floats(n).iter().map(|x| x * size).collect::<Vec<_>>();
            let (x, y) = (sized(size, 3 * 72), sized(other, 3 * 72));
            self.agree(&Norms { shape: (3, 72), x, y, gain: sized(1.0, 72) });
        }
    }

    /// `add` and `swiglu`, with zeros, tiny and huge numbers, infinities and NaN among their inputs.
    pub fn elementwise(&self) {
        let mut random = Random(2);
        let scenes = SHAPES.map(|(rows, cols)| Elementwise {
            shape: (rows, cols),
            x: random.hard_floats(rows * cols),
            y: random.hard_floats(rows * 2 * cols),
        });
        self.pick(&scenes, &FEW).into_iter().for_each(|scene| self.agree(scene));
    }

    /// A row's bits do not depend on the rows around it.
    pub fn rows_do_not_see_each_other(&self) {
        let mut random = Random(7);
        let (rows, cols) = if self.size == Size::All { (13, 72) } else { (3, 72) };
        let (x, y) = (random.floats(rows * cols), random.floats(rows * 2 * cols));
        let scene = RowByRow { rows, cols, x, y, gain: random.floats(cols) };
        for s in &self.subjects {
            let together = scene.rows(s, 0..scene.rows);
            for r in 0..scene.rows {
                let want: Vec<f64> =
                    [0, rows].iter().flat_map(|of| &together[(of + r) * cols..][..cols]).copied().collect();
                let verdict = super::judge::same_values("row", &scene.rows(s, r..r + 1), &want);
                assert_eq!(verdict, Ok(()), "row {r} alone on {}", s.backend().name());
            }
        }
        self.linear_rows_do_not_see_each_other();
    }
}
