//! A whole layer, the verbs in the order of the graph: what a backend fuses is judged here, where it may.

use llama_core::backend::{AttentionShape, Backend, KvFormat, Norm, Part, Role, RopeLayout, Rows};
use llama_core::batch::Batch;
use llama_core::format::Format;

use super::attention::shape;
use super::linear::Matrix;
use super::{Output, Random, Scene, Subject, Suite, limits};

const HIDDEN: usize = 64;
const FFN: usize = 96;

/// One layer over two sequences: a prompt and, in a second step, a token of each.
struct Layer {
    shape: AttentionShape,
    embed: Matrix,
    qkv: [Matrix; 3],
    o: Matrix,
    gate_up: [Matrix; 2],
    down: Matrix,
    gains: [Vec<f32>; 3],
}

impl Layer {
    fn new(random: &mut Random, format: Format, other: Format) -> Self {
        let shape = shape(4, 2, 16, 16, RopeLayout::Halves);
        let mut matrix = |rows, cols, format| Matrix::new(random, format, rows, cols);
        let (q, kv) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
        let (embed, o, down) = (matrix(40, HIDDEN, format), matrix(HIDDEN, q, format), matrix(HIDDEN, FFN, other));
        let gate_up = [matrix(FFN, HIDDEN, format), matrix(FFN, HIDDEN, format)];
        let qkv = [matrix(q, HIDDEN, format), matrix(kv, HIDDEN, format), matrix(kv, HIDDEN, other)];
        let qkv = qkv.map(|matrix| matrix.biased(random));
        // Scores of a few units: where they are hundreds, a softmax is a choice, and near a tie any rounding turns it.
        let gains = [0.1, 0.1, 1.0].map(|size| random.floats(HIDDEN).iter().map(|x| size * x).collect());
        Layer { shape, embed, qkv, o, gate_up, down, gains }
    }

    fn steps() -> [Batch; 2] {
        let [mut prompt, mut decode] = [Batch::new(), Batch::new()];
        prompt.push(&[3, 9, 39, 0, 7, 7, 21, 30, 2], 0, &[5, 1], [8]);
        prompt.push(&[12, 0], 0, &[4], [0, 1]);
        decode.push(&[4], 9, &[5, 1], [0]);
        decode.push(&[33], 2, &[4], [0]);
        [prompt, decode]
    }
}

impl Scene for Layer {
    fn what(&self) -> String {
        "a layer".to_owned()
    }

    fn play<S: Subject>(&self, s: &S) -> Vec<Output> {
        let (b, limits) = (s.backend(), limits(2, 32, KvFormat::Half));
        let weight = |parts: &[&Matrix]| {
            let parts: Vec<Part<'_>> = parts.iter().map(|part| part.part()).collect();
            b.weight(&parts).expect("a weight")
        };
        let [q, k, v] = &self.qkv;
        let (embed, qkv, o) = (weight(&[&self.embed]), weight(&[q, k, v]), weight(&[&self.o]));
        let (gate_up, down) = (weight(&[&self.gate_up[0], &self.gate_up[1]]), weight(&[&self.down]));
        let gains = self.gains.each_ref().map(|gain| s.gain_of(gain));
        let (mut kv, mut plan) =
            (b.kv_cache(&self.shape, &limits).expect("memory"), b.plan(&self.shape, &limits).expect("memory"));
        let activation = |cols| s.zeros(11, cols, Role::Activation);
        let local = |cols| s.zeros(11, cols, Role::Local);
        let (mut x, mut wide, mut both) = (activation(HIDDEN), local(self.shape.qkv_cols()), local(2 * FFN));
        let (mut heads, mut act, mut last) = (activation(HIDDEN), activation(FFN), activation(HIDDEN));
        let (mut residual, mut logits) = (s.zeros(11, HIDDEN, Role::Residual), s.zeros(11, 40, Role::Logits));
        let mut outputs = Vec::new();
        for batch in Layer::steps() {
            b.prepare(&mut plan, &batch).expect("prepare");
            let all = [&mut x, &mut wide, &mut both, &mut heads, &mut act, &mut residual];
            all.into_iter().for_each(|tensor| tensor.set_rows(batch.rows()));
            [&mut last, &mut logits].into_iter().for_each(|tensor| tensor.set_rows(batch.outputs.len()));
            b.replay(|| {
                b.embed(&mut residual, &embed, 1.0, &plan)?;
                let norm = |i: usize| Norm { gain: &gains[i], eps: 1e-5 };
                b.norm_linear(&mut wide, &mut x, &residual, norm(0), &qkv)?;
                b.rope_and_store(&mut wide, &mut kv, 1, &plan)?;
                b.attention(&mut heads, &wide, &kv, 1, &plan)?;
                b.linear_add(&mut residual, &mut x, &heads, &o)?;
                b.norm_linear_swiglu(&mut act, (&mut both, &mut x), &residual, norm(1), &gate_up)?;
                b.linear_add(&mut residual, &mut x, &act, &down)?;
                b.rms_norm(&mut x, &residual, &gains[2], 1e-5)?;
                b.take_outputs(&mut last, &x, &plan)?;
                b.linear(&mut logits, &last, &embed)
            })
            .expect("a step");
            outputs.push(Output::new("residual", Role::Residual, s.values(&residual)));
            outputs.push(Output::new("logits", Role::Logits, s.values(&logits)));
        }
        outputs
    }
}

impl<S: Subject> Suite<S> {
    /// A layer in the formats that models are shipped in.
    pub fn a_layer(&self) {
        let mut random = Random(600);
        for (format, other) in [(Format::BF16, Format::BF16), (Format::Q4_0, Format::Q8_0), (Format::F16, Format::F32)]
        {
            self.agree(&Layer::new(&mut random, format, other));
        }
    }
}
