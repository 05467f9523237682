//! Scenes of weights: the embedding, linear layers of every format and of several at once, the choice of outputs.

use llama_core::backend::{Backend, KvFormat, Limits, Part, Role, RopeLayout};
use llama_core::batch::Batch;
use llama_core::checkpoint::TensorView;
use llama_core::format::Format;

use super::attention::shape;
use super::{Output, Random, Scene, Size, Subject, Suite, judge, limits};

/// One matrix as a checkpoint holds it.
pub(super) struct Matrix {
    format: Format,
    rows: usize,
    cols: usize,
    bytes: Vec<u8>,
    bias: Option<Vec<u8>>,
}

impl Matrix {
    pub(super) fn new(random: &mut Random, format: Format, rows: usize, cols: usize) -> Self {
        Matrix { format, rows, cols, bytes: random.encoded(format, rows, cols), bias: None }
    }

    pub(super) fn biased(self, random: &mut Random) -> Self {
        Matrix { bias: Some(random.encoded(Format::F32, 1, self.rows)), ..self }
    }

    pub(super) fn again(&self) -> Self {
        Matrix { bytes: self.bytes.clone(), bias: self.bias.clone(), ..*self }
    }

    pub(super) fn format(&self) -> Format {
        self.format
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn view(&self) -> TensorView<'_> {
        TensorView::new("part", self.format, self.rows, self.cols, &self.bytes).expect("a view")
    }

    pub(super) fn part(&self) -> Part<'_> {
        let view = |bytes| TensorView::new("bias", Format::F32, 1, self.rows, bytes).expect("a view");
        Part { weight: self.view(), bias: self.bias.as_deref().map(view) }
    }

    fn top(&self, rows: usize) -> Part<'_> {
        Part { weight: self.view().slice_rows(0..rows), bias: None }
    }
}

/// A lookup, a linear layer of stacked formats, a choice of rows, and logits of the lookup's rows.
struct Lookup {
    table: Matrix,
    scale: f32,
    vocab: usize,
    parts: Vec<Matrix>,
    gain: Vec<f32>,
    batch: Batch,
    limits: Limits,
}

impl Scene for Lookup {
    fn what(&self) -> String {
        let formats: Vec<_> = self.parts.iter().map(|part| part.format).collect();
        format!("embed {:?}, linear {formats:?}, take_outputs", self.table.format)
    }

    fn play<S: Subject>(&self, s: &S) -> Vec<Output> {
        let (b, hidden, tokens) = (s.backend(), self.table.cols, self.batch.rows());
        let mut plan = b.plan(&shape(1, 1, 8, 8, RopeLayout::Halves), &self.limits).expect("memory");
        b.prepare(&mut plan, &self.batch).expect("prepare");
        let parts: Vec<_> = self.parts.iter().map(Matrix::part).collect();
        let out: usize = self.parts.iter().map(|part| part.rows).sum();
        let weight = |parts: &[Part<'_>]| b.weight(parts).expect("a weight");
        let (table, matrix, gain) = (weight(&[self.table.top(self.vocab)]), weight(&parts), s.gain_of(&self.gain));
        let (mut residual, mut x) =
            (s.zeros(tokens, hidden, Role::Residual), s.zeros(tokens, hidden, Role::Activation));
        let (mut y, mut last) = (s.zeros(tokens, out, Role::Activation), s.zeros(64, hidden, Role::Activation));
        let mut logits = s.zeros(self.batch.outputs.len(), self.vocab, Role::Logits);
        b.replay(|| {
            b.embed(&mut residual, &table, self.scale, &plan)?;
            b.rms_norm(&mut x, &residual, &gain, 1e-5)?;
            b.linear(&mut y, &x, &matrix)?;
            b.take_outputs(&mut last, &x, &plan)?;
            b.linear(&mut logits, &last, &table)
        })
        .expect("a step");
        vec![
            Output::new("embed", Role::Residual, s.values(&residual)),
            Output::new("linear", Role::Activation, s.values(&y)),
            Output::new("take_outputs", Role::Activation, s.values(&last)),
            Output::new("logits", Role::Logits, s.values(&logits)),
        ]
    }
}

/// `x [tokens, cols]` through one matrix, into activations and into logits.
struct Linear {
    matrix: Matrix,
    tokens: usize,
    x: Vec<f32>,
}

impl Linear {
    fn new(random: &mut Random, matrix: Matrix, tokens: usize) -> Self {
        Linear { x: random.floats(tokens * matrix.cols), matrix, tokens }
    }

    fn rows<S: Subject>(&self, s: &S, weight: &Prepared<S>, role: Role, rows: std::ops::Range<usize>) -> Vec<f64> {
        let cols = self.matrix.cols;
        let x = s.filled(rows.len(), cols, Role::Activation, &self.x[rows.start * cols..rows.end * cols]);
        let mut out = s.zeros(rows.len(), self.matrix.rows, role);
        s.backend().linear(&mut out, &x, weight).expect("linear");
        s.values(&out)
    }

    fn weight<S: Subject>(&self, s: &S) -> Prepared<S> {
        s.backend().weight(&[self.matrix.part()]).expect("a weight")
    }
}

type Prepared<S> = <<S as Subject>::Backend as Backend>::Weight;

impl Scene for Linear {
    fn what(&self) -> String {
        format!("linear {:?} [{}, {}] of {}", self.matrix.format, self.matrix.rows, self.matrix.cols, self.tokens)
    }

    fn play<S: Subject>(&self, s: &S) -> Vec<Output> {
        let weight = self.weight(s);
        [("activations", Role::Activation), ("logits", Role::Logits)]
            .map(|(what, role)| Output::new(what, role, self.rows(s, &weight, role, 0..self.tokens)))
            .into()
    }
}

impl<S: Subject> Suite<S> {
    /// Tables in five formats, multiplied and not, and linear layers that stack up to five, with and without biases.
    pub fn embedding_linear_and_outputs(&self) {
        let mut random = Random(3);
        let (vocab, hidden, rows) = (37, 64, 50);
        let formats = [Format::F32, Format::F16, Format::BF16, Format::Q8_0, Format::Q4_0];
        let mut batch = Batch::new();
        batch.push(&[3, 36, 0, 5, 5, 17, 2, 1, 9, 30, 31], 0, &[0], [0, 4, 10]);
        for i in 0..formats.len() {
            let matrix = |random: &mut Random, format| {
                let matrix = Matrix::new(random, format, rows, hidden);
                if i % 2 == 0 { matrix.biased(random) } else { matrix }
            };
            self.agree(&Lookup {
                table: Matrix::new(&mut random, formats[i], rows, hidden),
                scale: if i % 2 == 0 { 1.0 } else { 54.545456 },
                vocab,
                parts: formats[i..].iter().map(|&format| matrix(&mut random, format)).collect(),
                gain: random.floats(hidden),
                batch: batch.clone(),
                limits: limits(1, 64, KvFormat::F32),
            });
        }
    }

    /// Every format there is, for few tokens and for many.
    pub fn every_format(&self) {
        let mut random = Random(4);
        for format in Format::ALL {
            for tokens in if self.size == Size::All { vec![1, 3, 9, 33] } else { vec![2, 11] } {
                let matrix = Matrix::new(&mut random, format, 21, 256);
                let matrix = if tokens == 3 { matrix } else { matrix.biased(&mut random) };
                self.agree(&Linear::new(&mut random, matrix, tokens));
            }
        }
    }

    /// A token has the same bits alone and among others, however many: whichever algorithm their number chooses.
    pub(super) fn linear_rows_do_not_see_each_other(&self) {
        let mut random = Random(5);
        for &&format in &self.pick(&Format::ALL, &[1, 2, 3, 4, 5, 10, 11, 12]) {
            let matrix = Matrix::new(&mut random, format, 19, 512).biased(&mut random);
            let scene = Linear::new(&mut random, matrix, if self.size == Size::All { 40 } else { 17 });
            self.subjects.iter().for_each(|s| scene.is_the_same_in_parts(s));
        }
    }
}

impl Linear {
    fn is_the_same_in_parts<S: Subject>(&self, s: &S) {
        let (weight, n) = (self.weight(s), self.matrix.rows);
        for role in [Role::Activation, Role::Logits] {
            let together = self.rows(s, &weight, role, 0..self.tokens);
            for rows in [0..1, 1..3, 3..11, 2..14] {
                let got = self.rows(s, &weight, role, rows.clone());
                let verdict = judge::same_values("rows", &got, &together[rows.start * n..rows.end * n]);
                assert_eq!(verdict, Ok(()), "{}, rows {rows:?} on {}", self.what(), s.backend().name());
            }
        }
    }
}
