//! The sampling kernels against llama-core's sampler: the same token or refusal for the same logits, draw by draw.

use llama_core::sample::{History, Refusal, Sampler, Sampling};
use ptx_sim::{Arg, Buffer, Launch, Memory, Module};

use super::Rng;
use super::bugs::{Bug, bug};
use super::cases::{Covered, go};
use super::element::Fields;

const CHUNK: usize = 2048;
/// Words of `DrawState`: two keys, two floors, a need, the bins, the list, and six of 32 bits.
const STATE_BYTES: usize = 8 * (5 + 256 + 2048) + 24;

#[rustfmt::skip]
pub const BUGS: &[Bug] = &[
    bug("barrier dropped between logits and biases", "sample", ("bar.sync", 0), "", ""),
    bug("barrier dropped between tallies and penalties", "sample", ("bar.sync", 1), "", ""),
    bug("barrier dropped before asking who was last", "sample", ("bar.sync", 3), "", ""),
    bug("barrier dropped between clearing and counting", "sample", ("bar.sync", 4), "", ""),
    bug("barrier dropped between counting and passing on", "sample", ("bar.sync", 5), "", ""),
    bug("arrivals not wrapped", "sample", ("atom.global.inc.u32", 1), "inc", "add"),
    bug("bins read and not cleared", "sample", ("atom.global.exch.b64 \t%rd205", 0), "atom.global.exch.b64 \t%rd205, [%rd219], 0", "ld.global.u64 %rd205, [%rd219]"),
    bug("penalty of the wrong sign", "sample", ("setp.lt.f32 \t%p49", 0), "setp.lt", "setp.gt"),
    bug("presence counts the prompt", "sample", ("@%p50 bra", 0), "", ""),
    bug("of equals the higher id", "sample", ("not.b32", 0), "not.b32", "mov.b32"),
    bug("minus zero less than zero", "sample", ("mov.f32 \t%f45, 0f00000000", 0), "0f00000000", "0f80000000"),
    bug("low half of a product", "sample", ("mul.hi.u64", 0), "mul.hi", "mul.lo"),
    bug("list longer than its room", "sample", ("setp.gt.u32 \t%p52", 0), "2048", "4096"),
    bug("top-p undoes top-k", "sample", ("max.u64 \t%rd13,", 0), "max", "min"),
    bug("min-p drops what is exactly as probable", "sample", ("setp.ltu.f32", 0), "setp.ltu", "setp.leu"),
    bug("last chunk left out", "sample", ("add.s32 \t%r32, %r1, 2047", 0), "2047", "0"),
];

/// One draw and what it draws from.
struct Case {
    logits: Vec<f32>,
    sampling: Sampling,
    tokens: Vec<u32>,
    prompt: usize,
    position: u64,
}

impl Case {
    fn new(logits: Vec<f32>, sampling: Sampling, rng: &mut Rng) -> Self {
        let tokens = (0..40).map(|_| rng.below(logits.len()) as u32).collect();
        Case { logits, sampling, tokens, prompt: 13, position: rng.bits() }
    }

    fn expected(&self) -> Result<u32, Refusal> {
        self.sampling.validate(self.logits.len()).expect("valid");
        let history = History { tokens: &self.tokens, prompt: self.prompt };
        Sampler::new(self.logits.len()).pick(&self.logits, &self.sampling, history, self.position)
    }
}

/// The arrays of a step's draws, as the host lays them out.
#[derive(Default)]
struct Draws {
    words: Vec<u32>,
    tokens: Vec<u32>,
    biases: Vec<u32>,
}

impl Draws {
    fn push(&mut self, row: usize, case: &Case) {
        let s = &case.sampling;
        let penalises = s.repetition_penalty != 1.0 || s.presence_penalty != 0.0 || s.frequency_penalty != 0.0;
        let window = if penalises { case.tokens.len().saturating_sub(s.penalty_window) } else { case.tokens.len() };
        let history = self.tokens.len();
        self.tokens.extend(&case.tokens[window..]);
        let generated = history + case.prompt.saturating_sub(window).min(case.tokens.len() - window);
        let bias = self.biases.len() / 2;
        let mut biases = s.logit_bias.clone();
        biases.sort_by_key(|&(token, _)| token);
        self.biases.extend(biases.iter().flat_map(|&(token, value)| [token, value.to_bits()]));
        self.words.extend([row as u32, s.temperature.to_bits(), s.top_k as u32, s.top_p.to_bits(), s.min_p.to_bits()]);
        self.words.extend([s.repetition_penalty, s.presence_penalty, s.frequency_penalty].map(f32::to_bits));
        self.words.extend([history, generated, self.tokens.len(), bias, self.biases.len() / 2].map(|at| at as u32));
        self.words.extend([s.seed, s.seed >> 32, case.position, case.position >> 32].map(|word| word as u32));
        self.words.extend([0; 3]);
    }
}

/// A step on the device. Draw `i` is from row `draws - i`; row 0 is nobody's.
struct Step {
    memory: Memory,
    logits: Buffer,
    rest: [Buffer; 5],
    picks: Buffer,
    vocab: usize,
    count: usize,
}

impl Step {
    fn new(cases: &[Case]) -> Self {
        let (mut memory, vocab, count) = (Memory::new(), cases[0].logits.len(), cases.len());
        let mut draws = Draws::default();
        cases.iter().enumerate().for_each(|(i, case)| draws.push(count - i, case));
        let logits = memory.upload(&rows(cases));
        let [draws, tokens, biases] = [draws.words, draws.tokens, draws.biases].map(|words| memory.upload(&words));
        let states = memory.upload(&vec![0u8; count * STATE_BYTES]);
        let sums = memory.upload(&vec![0u64; count * vocab.div_ceil(CHUNK)]);
        let picks = memory.alloc(16 * count);
        Step { memory, logits, rest: [draws, tokens, biases, states, sums], picks, vocab, count }
    }

    fn arg(&self, by_weight: bool) -> Arg {
        let fields = Fields::default().buffers(&[self.logits]).buffers(&self.rest).buffers(&[self.picks]);
        fields.words(&[self.vocab, self.count, usize::from(by_weight), 0]).arg()
    }

    /// Every launch that any draw may need.
    fn run(&mut self, covered: &mut Covered, module: &Module) -> Result<Vec<Result<u32, Refusal>>, String> {
        let launches = [
            ("sample_adjust", false),
            ("sample_bin", false),
            ("sample_gather", false),
            ("sample_bin", true),
            ("sample_gather", true),
            ("sample_draw", false),
        ];
        for (kernel, by_weight) in launches {
            let shape = Launch::new((self.count * self.vocab.div_ceil(CHUNK)) as u32, 256);
            let arg = self.arg(by_weight);
            go(covered, module, kernel, &mut self.memory, shape, &[arg])?;
        }
        let words: Vec<u32> = self.memory.read(self.picks).map_err(|fault| fault.to_string())?;
        words.chunks(4).map(picked).collect()
    }
}

fn rows(cases: &[Case]) -> Vec<f32> {
    let mut rows = vec![f32::NAN; cases[0].logits.len()];
    cases.iter().rev().for_each(|case| rows.extend(&case.logits));
    rows
}

fn picked(words: &[u32]) -> Result<Result<u32, Refusal>, String> {
    match words {
        [0, token, 0, 0] => Ok(Ok(*token)),
        [1, token, bits, 0] => Ok(Err(Refusal::NotFinite { token: *token, value: f32::from_bits(*bits) })),
        [2, 0, 0, 0] => Ok(Err(Refusal::NothingAllowed)),
        other => Err(format!("{other:?} is no pick")),
    }
}

fn run(covered: &mut Covered, module: &Module, cases: &[Case]) -> Result<(), String> {
    let mut step = Step::new(cases);
    let picks = step.run(covered, module)?;
    for (i, (case, pick)) in cases.iter().zip(&picks).enumerate() {
        let expected = case.expected();
        // NaN differs from itself: what is printed does not.
        if format!("{pick:?}") != format!("{expected:?}") {
            let vocab = case.logits.len();
            return Err(format!("draw {i} of {vocab}: {pick:?} instead of {expected:?} for {:?}", case.sampling));
        }
    }
    Ok(())
}

fn warm(rng: &mut Rng) -> Sampling {
    Sampling { temperature: 1.0, seed: rng.bits(), ..Sampling::greedy() }
}

fn spread(rng: &mut Rng, vocab: usize, by: f32) -> Vec<f32> {
    rng.units(vocab).into_iter().map(|v| v * by).collect()
}

/// One of few values each.
fn tied(rng: &mut Rng, vocab: usize, values: usize) -> Vec<f32> {
    (0..vocab).map(|_| rng.below(values) as f32 * 0.5 - 0.5).collect()
}

/// Settings that go wrong one by one.
fn chosen(rng: &mut Rng, vocab: usize) -> Vec<Case> {
    let greedy = Sampling::greedy();
    let w = |rng: &mut Rng| warm(rng);
    let forbid = |n: usize| (0..n as u32).map(|token| (token, f32::NEG_INFINITY)).collect::<Vec<_>>();
    let biases = vec![(5, 3.0), (2, -1.5), (5, 0.7), (5, -2.1), (vocab as u32 - 1, 4.0), (2, 100.0)];
    let samplings = [
        greedy.clone(),
        Sampling { top_k: 5, ..w(rng) },
        Sampling { top_p: 0.8, ..w(rng) },
        Sampling { top_k: 50, top_p: 0.7, min_p: 0.05, ..w(rng) },
        Sampling { min_p: 0.3, ..w(rng) },
        Sampling { logit_bias: biases.clone(), ..greedy.clone() },
        Sampling { logit_bias: forbid(vocab - 1), temperature: 0.0, ..w(rng) },
        Sampling { logit_bias: forbid(vocab), ..w(rng) },
        Sampling {
            repetition_penalty: 1.7,
            presence_penalty: 0.4,
            frequency_penalty: 0.3,
            penalty_window: 31,
            logit_bias: biases,
            ..w(rng)
        },
        Sampling { repetition_penalty: 1e-38, frequency_penalty: -2.0, penalty_window: 9, ..greedy },
    ];
    samplings.into_iter().map(|sampling| Case::new(spread(rng, vocab, 4.0), sampling, rng)).collect()
}

/// Penalties that decide between logits close to each other.
fn penalised(rng: &mut Rng, vocab: usize) -> Vec<Case> {
    let settings =
        [(1.0, 0.5, 0.0, 99), (1.3, 0.0, 0.0, 25), (1.0, 0.0, -0.7, 99), (0.8, -1.0, 0.2, 0), (2.0, 2.0, 2.0, 39)];
    let mut cases = Vec::new();
    for (repetition_penalty, presence_penalty, frequency_penalty, penalty_window) in settings {
        for temperature in [0.0, 0.0, 0.5] {
            let sampling = Sampling {
                temperature,
                repetition_penalty,
                presence_penalty,
                frequency_penalty,
                penalty_window,
                ..warm(rng)
            };
            cases.push(Case::new(spread(rng, vocab, 0.4), sampling, rng));
        }
    }
    cases
}

/// Logits that go wrong one by one, at settings that look at all of them.
fn odd_logits(rng: &mut Rng, vocab: usize) -> Vec<Case> {
    let mut all = vec![vec![0.0; vocab], vec![f32::MAX; vocab], vec![f32::MIN; vocab], tied(rng, vocab, 2)];
    all.push((0..vocab).map(|i| if i % 3 == 0 { -0.0 } else { 0.0 }).collect());
    all.push((0..vocab).map(|i| if i % 2 == 0 { f32::MIN } else { f32::MAX }).collect());
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut logits = spread(rng, vocab, 4.0);
        logits[vocab - 1] = f32::INFINITY;
        logits[vocab / 2] = bad;
        all.push(logits);
    }
    let half = vocab / 2;
    all.into_iter()
        .map(|logits| {
            let sampling = Sampling { top_k: half, top_p: 0.9, ..warm(rng) };
            Case::new(logits, sampling, rng)
        })
        .collect()
}

/// Any setting on any logits.
fn any(rng: &mut Rng, vocab: usize) -> Case {
    let pick = |rng: &mut Rng, of: &[f32]| of[rng.below(of.len())];
    let sampling = Sampling {
        temperature: pick(rng, &[f32::from_bits(1), 1e-3, 0.3, 0.8, 1.0, 2.5, 1e4, f32::MAX]),
        top_k: [0, 0, 1, 2, 40, vocab - 1, vocab, 10 * vocab][rng.below(8)],
        top_p: pick(rng, &[1.0, 1.0, f32::from_bits(1), 1e-6, 0.3, 0.9, 0.9999, 1.0 - f32::EPSILON]),
        min_p: pick(rng, &[0.0, 0.0, 1e-5, 0.1, 1.0]),
        ..warm(rng)
    };
    let logits = match rng.below(4) {
        0 => tied(rng, vocab, 7),
        1 => spread(rng, vocab, 0.01),
        2 => spread(rng, vocab, 60.0),
        _ => spread(rng, vocab, 5.0),
    };
    Case::new(logits, sampling, rng)
}

pub fn case(module: &Module) -> Result<Covered, String> {
    let (mut covered, mut rng) = (Vec::new(), Rng(7));
    run(&mut covered, module, &chosen(&mut rng, 300))?;
    run(&mut covered, module, &odd_logits(&mut rng, 300))?;
    run(&mut covered, module, &chosen(&mut rng, 7))?;
    run(&mut covered, module, &penalised(&mut rng, 40))?;
    let many: Vec<Case> = (0..12).map(|_| any(&mut rng, 40)).collect();
    run(&mut covered, module, &many)?;
    // Three chunks; more keys near a cut than have room on the list; ties everywhere.
    let mut large: Vec<Case> = (0..3).map(|_| any(&mut rng, 5000)).collect();
    let flat = Sampling { top_k: 3000, top_p: 0.5, ..warm(&mut rng) };
    large.push(Case::new(tied(&mut rng, 5000, 2), flat, &mut rng));
    large.extend(chosen(&mut rng, 5000).into_iter().skip(7).take(2));
    large.extend((0..4).map(|_| Case::new(spread(&mut rng, 5000, 0.5), warm(&mut rng), &mut rng)).collect::<Vec<_>>());
    run(&mut covered, module, &large)?;
    replayed(&mut covered, module, &mut rng)?;
    Ok(covered)
}

/// A step leaves nothing behind that the next would stumble over.
fn replayed(covered: &mut Covered, module: &Module, rng: &mut Rng) -> Result<(), String> {
    let cases = chosen(rng, 30);
    let mut step = Step::new(&cases);
    let first = step.run(covered, module)?;
    let bytes: Vec<u8> = rows(&cases).iter().flat_map(|v| v.to_le_bytes()).collect();
    step.memory.write_bytes(step.logits.address(), &bytes).map_err(|fault| fault.to_string())?;
    let second = step.run(covered, module)?;
    if first == second { Ok(()) } else { Err(format!("{first:?}, then {second:?}")) }
}

/// What takes too long for every day.
pub fn many(module: &Module) -> Result<(), String> {
    let mut covered = Vec::new();
    for seed in 0..60 {
        let mut rng = Rng(1000 + seed);
        for (vocab, draws) in [(2, 20), (7, 20), (33, 20), (300, 20), (9001, usize::from(seed % 10 == 0))] {
            let cases: Vec<Case> = (0..draws).map(|_| any(&mut rng, vocab)).collect();
            if !cases.is_empty() {
                run(&mut covered, module, &cases)?;
            }
        }
        run(&mut covered, module, &penalised(&mut rng, 33))?;
    }
    let mut rng = Rng(5);
    let large = Case::new(spread(&mut rng, 600_001, 3.0), warm(&mut rng), &mut rng);
    run(&mut covered, module, &[large])
}
