//! Scenes of adapters: a batch some of whose rows have one.

use llama_core::backend::{Backend, KvFormat, LowRank, Role, RopeLayout};
use llama_core::batch::{AdapterId, Batch, BlockId, Stage};
use llama_core::format::Format;

use super::attention::shape;
use super::linear::Matrix;
use super::{Output, PlanOf, Random, Scene, Size, Subject, Suite, judge, limits};

/// Rows of the weight's matrices.
const PARTS: [usize; 3] = [40, 17, 24];
const OUT: usize = PARTS[0] + PARTS[1] + PARTS[2];

/// What an adapter adds to one of the weight's matrices.
struct Change {
    part: usize,
    /// `[rank, hidden]`.
    a: Matrix,
    /// `[rows, rank]`.
    b: Matrix,
}

/// SwiGLU of a product of two matrices, or of one that is both, that adapters change.
struct Gated {
    tokens: usize,
    hidden: usize,
    ffn: usize,
    weight: Vec<Matrix>,
    x: Vec<f32>,
    /// Of gate and of up, where it changes them.
    adapters: Vec<[Option<Change>; 2]>,
    sequences: Vec<Row>,
}

/// A sequence: its adapter, its rows, and which of them are outputs.
type Row = (Option<AdapterId>, usize, &'static [u32]);

/// A linear whose product is changed, another that adds to the residual, and a head, all of the same weight.
struct Adapted {
    hidden: usize,
    weight: Matrix,
    x: Vec<f32>,
    residual: Vec<f32>,
    adapters: Vec<Vec<Change>>,
    sequences: Vec<Row>,
}

impl Adapted {
    fn new(random: &mut Random, (format, hidden): (Format, usize), sequences: &[Row]) -> Self {
        let rows = sequences.iter().map(|&(_, rows, _)| rows).sum::<usize>();
        let adapters = [&[(0, 4), (2, 16)][..], &[(1, 7)], &[], &[(0, 24), (1, 24), (2, 1)]];
        let mut change = |&(part, rank): &(usize, usize)| Change {
            part,
            a: Matrix::new(random, Format::F32, rank, hidden),
            b: Matrix::new(random, Format::F32, PARTS[part], rank),
        };
        let adapters = adapters.map(|changes| changes.iter().map(&mut change).collect()).into();
        Adapted {
            hidden,
            weight: Matrix::new(random, format, OUT, hidden),
            x: random.floats(rows * hidden),
            residual: random.floats(rows * OUT),
            adapters,
            sequences: sequences.to_vec(),
        }
    }

    /// The `s`-th sequence alone, and its rows.
    fn alone(&self, s: usize) -> (Adapted, std::ops::Range<usize>) {
        let first: usize = self.sequences[..s].iter().map(|&(_, rows, _)| rows).sum();
        let rows = first..first + self.sequences[s].1;
        let of = |x: &[f32], cols: usize| x[rows.start * cols..rows.end * cols].to_vec();
        let adapters = self.adapters.iter().map(|changes| changes.iter().map(Change::again).collect()).collect();
        let alone = Adapted {
            hidden: self.hidden,
            weight: self.weight.again(),
            x: of(&self.x, self.hidden),
            residual: of(&self.residual, OUT),
            adapters,
            sequences: vec![self.sequences[s]],
        };
        (alone, rows)
    }

    /// Those that add nothing are none, in every other scene one whose memory held something.
    fn adapters<S: Subject>(&self, s: &S, role: Role) -> Vec<Option<AdapterOf<S>>> {
        let one = |changes: &Vec<Change>| {
            let parts: Vec<_> = changes.iter().map(Change::low_rank).collect();
            let is_one = !parts.is_empty() || self.sequences.len().is_multiple_of(2);
            is_one.then(|| adapter_of(s, ([OUT, self.hidden], &PARTS), &parts, role))
        };
        self.adapters.iter().map(one).collect()
    }

    fn rank(&self) -> usize {
        self.adapters.iter().map(|changes| changes.iter().map(|change| change.a.rows()).sum()).max().unwrap_or(0)
    }
}

type AdapterOf<S> = <<S as Subject>::Backend as Backend>::Adapter;

/// `parts` in memory for more, of a weight of `[rows, cols]` whose matrices have so many rows each: it held something of all of them.
fn adapter_of<S: Subject>(
    s: &S,
    ([rows, cols], matrices): ([usize; 2], &[usize]),
    parts: &[LowRank<'_>],
    role: Role,
) -> AdapterOf<S> {
    let rank = 1 + parts.iter().map(|part| part.a.rows()).max().unwrap_or(0);
    let ranks: Vec<_> = matrices.iter().map(|&rows| (rows, rank)).collect();
    let mut adapter = s.backend().adapter([rows, cols], &ranks, role).expect("an adapter");
    let random = &mut Random(13);
    let mut change = |(part, &rows)| Change {
        part,
        a: Matrix::new(random, Format::F32, rank, cols),
        b: Matrix::new(random, Format::F32, rows, rank),
    };
    let before: Vec<_> = matrices.iter().enumerate().map(&mut change).collect();
    let first_row = |change: &Change| matrices[..change.part].iter().sum();
    let before = before.iter().map(|change| LowRank { first_row: first_row(change), ..change.low_rank() });
    s.backend().set_adapter(&mut adapter, &before.collect::<Vec<_>>(), role).expect("an adapter");
    s.backend().set_adapter(&mut adapter, parts, role).expect("another adapter");
    adapter
}

/// A prepared plan of one step of these sequences, and its batch.
fn plan_of<S: Subject>(s: &S, sequences: &[Row]) -> (PlanOf<S>, Batch) {
    let (b, mut batch, limits) = (s.backend(), Batch::new(), limits(sequences.len(), 1024, KvFormat::Half));
    for (i, &(adapter, rows, outputs)) in sequences.iter().enumerate() {
        let blocks: Vec<_> = (0..64).map(|block| (i * 64 + block) as BlockId).collect();
        batch.push(&vec![0; rows], 0, &blocks, outputs.iter().copied());
        batch.adapt(adapter);
    }
    let mut plan = b.plan(&shape(1, 1, 8, 8, RopeLayout::Halves), &limits).expect("memory");
    b.prepare(&mut plan, &batch).expect("prepare");
    (plan, batch)
}

impl Change {
    fn again(&self) -> Change {
        Change { part: self.part, a: self.a.again(), b: self.b.again() }
    }

    fn low_rank(&self) -> LowRank<'_> {
        LowRank { first_row: PARTS[..self.part].iter().sum(), a: self.a.view(), b: self.b.view() }
    }
}

impl Scene for Adapted {
    fn what(&self) -> String {
        format!("adapters beside {:?} of {} columns for {:?}", self.weight.format(), self.hidden, self.sequences)
    }

    fn play<S: Subject>(&self, s: &S) -> Vec<Output> {
        let (b, hidden) = (s.backend(), self.hidden);
        let ((plan, batch), w) = (plan_of(s, &self.sequences), b.weight(&[self.weight.part()]).expect("a weight"));
        let (rows, outputs) = (batch.rows(), batch.outputs.len());
        let [local, sums, logit] = [Role::Local, Role::Residual, Role::Logits].map(|role| self.adapters(s, role));
        let x = s.filled(rows, hidden, Role::Activation, &self.x);
        let mut residual = s.filled(rows, OUT, Role::Residual, &self.residual);
        let (mut out, mut room) = (s.zeros(rows, OUT, Role::Local), s.zeros(rows, OUT, Role::Activation));
        let (mut last, mut logits) = (s.zeros(rows, hidden, Role::Activation), s.zeros(outputs, OUT, Role::Logits));
        let mut low = s.zeros(rows, self.rank(), Role::Residual);
        b.replay(|| {
            b.linear(&mut out, &x, &w)?;
            b.adapt(&mut out, &mut low, &x, &local, &plan, Stage::Tokens)
        })
        .expect("linear");
        b.replay(|| {
            b.linear_add(&mut residual, &mut room, &x, &w)?;
            b.adapt(&mut residual, &mut low, &x, &sums, &plan, Stage::Tokens)
        })
        .expect("linear_add");
        b.replay(|| {
            b.take_outputs(&mut last, &x, &plan)?;
            b.linear(&mut logits, &last, &w)?;
            b.adapt(&mut logits, &mut low, &last, &logit, &plan, Stage::Outputs)
        })
        .expect("a head");
        vec![
            Output::new("adapted linear", Role::Local, s.values(&out)),
            Output::new("adapted residual", Role::Residual, s.values(&residual)),
            Output::new("adapted logits", Role::Logits, s.values(&logits)),
        ]
    }
}

impl Gated {
    fn new(random: &mut Random, format: Format, [hidden, ffn]: [usize; 2], sequences: &[Row], paired: bool) -> Self {
        let tokens = sequences.iter().map(|&(_, rows, _)| rows).sum();
        let mut change = |part, rank| Change {
            part,
            a: Matrix::new(random, Format::F32, rank, hidden),
            b: Matrix::new(random, Format::F32, ffn, rank),
        };
        let adapters = vec![
            [Some(change(0, 4)), Some(change(1, 9))],
            [None, Some(change(1, 1))],
            [None, None],
            [Some(change(0, 20)), None],
        ];
        let rows = if paired { vec![ffn, ffn] } else { vec![2 * ffn] };
        let matrix = |rows| Matrix::new(random, format, rows, hidden);
        let mut weight: Vec<_> = rows.into_iter().map(matrix).collect();
        if tokens % 2 == 0 {
            weight = weight.into_iter().map(|matrix| matrix.biased(random)).collect();
        }
        // Products of a few units, as in the scene of fused verbs.
        let x = random.floats(tokens * hidden).iter().map(|x| 0.1 * x).collect();
        Gated { tokens, hidden, ffn, weight, x, adapters, sequences: sequences.to_vec() }
    }
}

impl Scene for Gated {
    fn what(&self) -> String {
        let formats: Vec<_> = self.weight.iter().map(Matrix::format).collect();
        format!("SwiGLU of adapted {formats:?} of {} columns for {:?}", self.hidden, self.sequences)
    }

    fn play<S: Subject>(&self, s: &S) -> Vec<Output> {
        let (b, Gated { tokens, hidden, ffn, .. }) = (s.backend(), self);
        let parts: Vec<_> = self.weight.iter().map(Matrix::part).collect();
        let w = b.weight(&parts).expect("a weight");
        let one = |changes: &[Option<Change>; 2]| {
            let changes = changes.iter().flatten();
            let parts = changes.map(|change| LowRank { first_row: change.part * ffn, ..change.low_rank() });
            let parts: Vec<_> = parts.collect();
            (!parts.is_empty()).then(|| adapter_of(s, ([2 * ffn, *hidden], &[*ffn; 2]), &parts, Role::Local))
        };
        let adapters: Vec<_> = self.adapters.iter().map(one).collect();
        let (plan, _) = plan_of(s, &self.sequences);
        let x = s.filled(*tokens, *hidden, Role::Activation, &self.x);
        let (mut act, mut both) = (s.zeros(*tokens, *ffn, Role::Activation), s.zeros(*tokens, 2 * ffn, Role::Local));
        let mut low = s.zeros(*tokens, 20, Role::Residual);
        b.replay(|| b.adapt_swiglu(&mut act, (&mut both, &mut low), &x, &w, &adapters, &plan)).expect("a step");
        vec![Output::new("adapt_swiglu", Role::Activation, s.values(&act))]
    }
}

impl<S: Subject> Suite<S> {
    /// Batches of one adapter, of several and of none, in runs of one row and of many; and each sequence alone has the bits that it
    /// has among the others.
    pub fn adapters_of_rows(&self) {
        let mut random = Random(11);
        let batches: [&[Row]; 4] = [
            &[(Some(0), 1, &[0])],
            &[(None, 3, &[2]), (Some(3), 2, &[0, 1]), (Some(2), 2, &[1]), (Some(1), 1, &[0]), (Some(1), 2, &[])],
            &[(Some(1), 70, &[0, 69]), (None, 1, &[0]), (Some(0), 9, &[8])],
            &[(Some(3), 19, &[3, 4]), (Some(0), 1, &[0]), (Some(3), 1, &[0]), (None, 1, &[]), (Some(0), 6, &[5])],
        ];
        let weights = [(Format::Q8_0, 96), (Format::F16, 50), (Format::Q4_0, 640)];
        for &&batch in &self.pick(&batches, &[1, 3]) {
            for &&weight in &self.pick(&weights, &[0]) {
                let scene = Adapted::new(&mut random, weight, batch);
                self.agree(&scene);
                let alone = if self.size == Size::All { 0..batch.len() } else { 1..2 };
                alone.for_each(|s| self.is_the_same_alone(&scene, s));
            }
        }
    }

    /// The same before SwiGLU, of panels that are not full and of weights whose gate and up are not two parts.
    pub fn adapters_before_swiglu(&self) {
        let mut random = Random(12);
        let batches: [&[Row]; 3] = [
            &[(None, 2, &[]), (Some(0), 1, &[]), (Some(3), 3, &[]), (Some(2), 1, &[]), (Some(1), 2, &[])],
            &[(Some(3), 1, &[0])],
            &[(Some(1), 50, &[]), (None, 1, &[]), (Some(0), 83, &[])],
        ];
        for &&batch in &self.pick(&batches, &[0]) {
            for &&(format, shape, paired) in &self.pick(
                &[
                    (Format::Q8_0, [96, 41], true),
                    (Format::F16, [50, 75], true),
                    (Format::Q4_0, [320, 600], true),
                    (Format::BF16, [64, 96], false),
                ],
                &[0, 3],
            ) {
                self.agree(&Gated::new(&mut random, format, shape, batch, paired));
            }
        }
    }

    fn is_the_same_alone(&self, scene: &Adapted, s: usize) {
        let (alone, rows) = scene.alone(s);
        for subject in &self.subjects {
            let (all, own) = (scene.play(subject), alone.play(subject));
            for (all, own) in all.iter().zip(&own).take(2) {
                let verdict = judge::same_values(own.what, &own.values, &all.values[rows.start * OUT..rows.end * OUT]);
                self.tell(scene, subject, verdict);
            }
        }
    }
}
