//! Scenes of the verbs that are compositions, by themselves: whatever a backend fuses, its result is that of the parts.

use llama_core::backend::{Backend, Norm, Part, Role};
use llama_core::format::Format;

use super::linear::Matrix;
use super::{Output, Random, Scene, Size, Subject, Suite};

/// `norm_linear`, `norm_linear_swiglu` and `linear_add` of one residual.
struct Fused {
    tokens: usize,
    hidden: usize,
    ffn: usize,
    residual: Vec<f32>,
    gain: Vec<f32>,
    /// Rows `[2 * ffn, hidden]`.
    gate_up: Vec<Matrix>,
    /// `[hidden, ffn]`.
    down: Matrix,
}

impl Fused {
    /// `gate_up` is stacked of parts with these formats and rows.
    fn new(random: &mut Random, tokens: usize, (hidden, ffn): (usize, usize), parts: &[(Format, usize)]) -> Self {
        assert_eq!(parts.iter().map(|(_, rows)| rows).sum::<usize>(), 2 * ffn, "rows of gate and up");
        let mut part = |i: usize, (format, rows)| {
            let matrix = Matrix::new(random, format, rows, hidden);
            if i == 0 { matrix.biased(random) } else { matrix }
        };
        let gate_up = parts.iter().enumerate().map(|(i, &of)| part(i, of)).collect();
        let blocks = ffn.is_multiple_of(32);
        let down = Matrix::new(random, if blocks { parts[0].0 } else { Format::F16 }, hidden, ffn);
        Fused {
            tokens,
            hidden,
            ffn,
            residual: random.floats(tokens * hidden),
            // Products of a few units: a larger one of bf16 is off by more than a sigmoid bears.
            gain: random.floats(hidden).iter().map(|x| 0.1 * x).collect(),
            gate_up,
            down: if tokens.is_multiple_of(2) { down.biased(random) } else { down },
        }
    }
}

impl Scene for Fused {
    fn what(&self) -> String {
        let formats: Vec<_> = self.gate_up.iter().map(Matrix::format).collect();
        format!("fused verbs of {} tokens [{}, {}] {formats:?}", self.tokens, self.hidden, self.ffn)
    }

    fn play<S: Subject>(&self, s: &S) -> Vec<Output> {
        let (b, Fused { tokens, hidden, ffn, .. }) = (s.backend(), self);
        let parts: Vec<Part<'_>> = self.gate_up.iter().map(Matrix::part).collect();
        let (w, down) = (b.weight(&parts).expect("a weight"), b.weight(&[self.down.part()]).expect("a weight"));
        let mut residual = s.filled(*tokens, *hidden, Role::Residual, &self.residual);
        let gain = s.gain_of(&self.gain);
        let norm = || Norm { gain: &gain, eps: 1e-5 };
        let zeros = |cols| s.zeros(*tokens, cols, Role::Activation);
        let (mut out, mut both, mut act, mut x) = (zeros(2 * ffn), zeros(2 * ffn), zeros(*ffn), zeros(*hidden));
        b.replay(|| b.norm_linear(&mut out, &mut x, &residual, norm(), &w)).expect("norm_linear");
        b.replay(|| b.norm_linear_swiglu(&mut act, (&mut both, &mut x), &residual, norm(), &w)).expect("a step");
        b.replay(|| b.linear_add(&mut residual, &mut x, &act, &down)).expect("linear_add");
        vec![
            Output::new("norm_linear", Role::Activation, s.values(&out)),
            Output::new("norm_linear_swiglu", Role::Activation, s.values(&act)),
            Output::new("linear_add", Role::Residual, s.values(&residual)),
        ]
    }
}

impl<S: Subject> Suite<S> {
    /// Gate and up as two whole parts, of one format and of two, and cut at another row.
    pub fn fused_verbs(&self) {
        let mut random = Random(8);
        let tokens: &[usize] = if self.size == Size::All { &[1, 2, 3, 4, 5, 9, 33] } else { &[1, 11] };
        for &tokens in tokens {
            for parts in [
                [(Format::Q4_0, 96), (Format::Q4_0, 96)],
                [(Format::BF16, 96), (Format::BF16, 96)],
                [(Format::Q8_0, 96), (Format::Q4_1, 96)],
                [(Format::Q8_0, 96), (Format::F16, 96)],
                [(Format::Q8_0, 80), (Format::Q8_0, 112)],
            ] {
                self.agree(&Fused::new(&mut random, tokens, (64, 96), &parts));
            }
        }
        // A last panel that isn't full, and enough rows for several tasks.
        for (hidden, ffn) in [(256, 41), (512, 1100)] {
            if self.size == Size::All {
                let parts = [(Format::Q8_0, ffn), (Format::Q8_0, ffn)];
                (1..4).for_each(|tokens| self.agree(&Fused::new(&mut random, tokens, (hidden, ffn), &parts)));
            }
        }
    }
}
