//! A model small enough to be its own specification, and what the engine should make of it.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use llama_core::backend::{KvFormat, Limits, RopeLayout};
use llama_core::batch::{BLOCK, Batch, BlockId};
use llama_core::config::{Config, Head, Multipliers, Pooling, ProblemType, Rope, RopeScaling};
use llama_core::engine::{Completion, Engine, EngineOptions, Finish, Request, Score};
use llama_core::model::Model;
use llama_core::sample::{Allowed, Draw, History, Outputs, Sampled, Sampler};
use llama_core::{Error, Result};

pub const VOCAB: usize = 97;

/// Sizes of nothing in particular, but a vocabulary.
pub fn config() -> Config {
    Config {
        architecture: "toy".into(),
        vocab: VOCAB,
        hidden: 8,
        ffn: 8,
        layers: 2,
        heads: 2,
        kv_heads: 1,
        head_dim: 4,
        context: 256,
        eps: 1e-5,
        rope: Rope {
            theta: 10_000.0,
            dims: 4,
            layout: RopeLayout::Halves,
            unturned: Vec::new(),
            scaling: RopeScaling::None,
        },
        window: None,
        head_norms: false,
        temperature: None,
        multipliers: Multipliers::default(),
        head: Head::Tied,
        pooling: Pooling::Last,
        labels: Vec::new(),
        problem_type: ProblemType::default(),
    }
}

pub fn limits(tokens: usize, sequences: usize, outputs: usize, blocks: usize) -> Limits {
    Limits { tokens, sequences, outputs, context: 256, blocks, kv: KvFormat::F32 }
}

/// Turned from outside while the engine owns the model.
#[derive(Debug, Default)]
pub struct Knobs {
    /// Forward passes that return an error, after having spoilt the slots of their rows.
    pub failures: usize,
    /// A history that holds this token gives NaN instead of logits.
    pub poison: Option<u32>,
    /// Rows computed so far.
    pub rows: usize,
    /// Rows of logits computed so far.
    pub outputs: usize,
    /// Tokens asked for so far where the logits are.
    pub draws: usize,
    /// Of those, the ones that only the host's sampler knows how to draw.
    pub host_draws: usize,
}

pub struct Toy {
    config: Config,
    limits: Limits,
    /// Of each slot: its token, its position, and a hash of it and everything before it.
    slots: Vec<(u32, u32, u64)>,
    knobs: Arc<Mutex<Knobs>>,
    /// Of the step before.
    states: Vec<f32>,
}

impl Toy {
    pub fn new(limits: Limits) -> (Box<Self>, Arc<Mutex<Knobs>>) {
        let knobs = Arc::<Mutex<Knobs>>::default();
        let slots = vec![(u32::MAX, u32::MAX, 0xDEAD); limits.blocks * BLOCK];
        (Box::new(Toy { config: config(), limits, slots, knobs: knobs.clone(), states: Vec::new() }), knobs)
    }

    /// Everything a backend may take for granted.
    fn check(&self, batch: &Batch) {
        let limits = &self.limits;
        assert!(batch.rows() > 0 && batch.rows() <= limits.tokens, "{} rows, limit {}", batch.rows(), limits.tokens);
        assert!(batch.sequences() <= limits.sequences, "{} sequences", batch.sequences());
        assert!(batch.outputs.len() <= limits.outputs, "{} outputs", batch.outputs.len());
        assert!(batch.outputs.is_sorted_by(|a, b| a < b) && batch.outputs.iter().all(|&o| (o as usize) < batch.rows()));
        assert!(batch.tokens.iter().all(|&token| (token as usize) < VOCAB));
        let mut written = HashSet::new();
        let mut read = HashSet::new();
        for s in 0..batch.sequences() {
            let positions = &batch.positions[batch.rows_of(s)];
            let (first, last) = (positions[0] as usize, *positions.last().unwrap() as usize);
            assert!(positions.iter().enumerate().all(|(i, &p)| p as usize == first + i), "gap in positions");
            assert!(last < limits.context, "position {last}");
            let blocks = batch.blocks_of(s);
            assert_eq!(blocks.len(), last / BLOCK + 1, "block table of {} positions", last + 1);
            assert!(blocks.iter().all(|&id| (id as usize) < limits.blocks));
            assert_eq!(blocks.iter().collect::<HashSet<_>>().len(), blocks.len(), "a block twice in one table");
            for (i, &id) in blocks.iter().enumerate() {
                if i >= first / BLOCK {
                    assert!(written.insert(id), "block {id} written by two sequences");
                } else {
                    read.insert(id);
                }
            }
        }
        assert!(written.is_disjoint(&read), "a block is read by one sequence and written by another");
    }

    fn slot(blocks: &[BlockId], position: usize) -> usize {
        blocks[position / BLOCK] as usize * BLOCK + position % BLOCK
    }

    fn store(&mut self, batch: &Batch, spoil: bool) {
        for s in 0..batch.sequences() {
            for row in batch.rows_of(s) {
                let (token, position) = (batch.tokens[row], batch.positions[row]);
                let blocks = batch.blocks_of(s);
                let before = match position {
                    0 => 0,
                    _ => self.slots[Self::slot(blocks, position as usize - 1)].2,
                };
                let slot = Self::slot(blocks, position as usize);
                self.slots[slot] = match spoil {
                    true => (7, 7, 7),
                    false => (token, position, chain(before, token, position)),
                };
            }
        }
    }
}

impl Model for Toy {
    fn config(&self) -> &Config {
        &self.config
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn forward(&mut self, batch: &Batch, logits: &mut Vec<f32>) -> Result<()> {
        self.check(batch);
        let mut knobs = self.knobs.lock().unwrap();
        let (failing, poison) = (knobs.failures > 0, knobs.poison);
        knobs.failures = knobs.failures.saturating_sub(1);
        knobs.rows += batch.rows();
        knobs.outputs += batch.outputs.len();
        drop(knobs);
        self.store(batch, failing);
        if failing {
            return Err(Error::Backend { backend: "toy", verb: "attention", problem: "planted".into() });
        }
        logits.clear();
        self.states.clear();
        for s in 0..batch.sequences() {
            let blocks = batch.blocks_of(s);
            for row in batch.rows_of(s) {
                let seen: Vec<_> =
                    (0..=batch.positions[row] as usize).map(|p| self.slots[Self::slot(blocks, p)]).collect();
                let poisoned = seen.iter().any(|slot| Some(slot.0) == poison);
                let numbers = |v| if poisoned { f32::NAN } else { v };
                self.states.extend(logits_of(&seen).take(self.config.hidden).map(numbers));
                if batch.outputs.contains(&(row as u32)) {
                    logits.extend(logits_of(&seen).map(numbers));
                }
            }
        }
        Ok(())
    }

    fn sample(&mut self, batch: &Batch, draws: &[Draw<'_>], outputs: &mut Outputs) -> Result<()> {
        let mut knobs = self.knobs.lock().unwrap();
        knobs.draws += draws.len();
        knobs.host_draws += draws.iter().filter(|draw| draw.sampling.needs_host()).count();
        drop(knobs);
        outputs.clear();
        self.forward(batch, &mut outputs.logits)?;
        outputs.pick(draws);
        Ok(())
    }

    fn states(&mut self, states: &mut Vec<f32>) -> Result<()> {
        states.clone_from(&self.states);
        Ok(())
    }

    fn copy_blocks(&mut self, _pairs: &[(BlockId, BlockId)]) -> Result<()> {
        Ok(())
    }

    fn identity(&self) -> u64 {
        7
    }

    fn read_block(&mut self, block: BlockId, out: &mut Vec<u8>) -> Result<()> {
        out.clear();
        for (token, position, hash) in &self.slots[block as usize * BLOCK..][..BLOCK] {
            let word = u128::from(*token) | u128::from(*position) << 32 | u128::from(*hash) << 64;
            out.extend(word.to_le_bytes());
        }
        Ok(())
    }

    fn write_block(&mut self, block: BlockId, bytes: &[u8]) -> Result<()> {
        let slots = &mut self.slots[block as usize * BLOCK..][..BLOCK];
        for (slot, bytes) in slots.iter_mut().zip(bytes.as_chunks::<16>().0) {
            let word = u128::from_le_bytes(*bytes);
            *slot = (word as u32, (word >> 32) as u32, (word >> 64) as u64);
        }
        Ok(())
    }

    fn backend(&self) -> String {
        "toy".into()
    }
}

fn mix(a: u64, b: u64) -> u64 {
    let x = (a ^ b.wrapping_mul(0x9E37_79B9_7F4A_7C15)).wrapping_add(0x6A09_E667_F3BC_C909);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

fn chain(before: u64, token: u32, position: u32) -> u64 {
    mix(before, (u64::from(token) << 32) | u64::from(position))
}

/// `[VOCAB]` numbers in -4 .. 4 that depend on every bit of every slot seen.
fn logits_of(seen: &[(u32, u32, u64)]) -> impl Iterator<Item = f32> + use<> {
    let all = seen.iter().fold(1, |all, &(token, position, hash)| mix(chain(all, token, position), hash));
    (0..VOCAB as u64).map(move |v| (mix(all, v) >> 40) as f32 / (1u64 << 21) as f32 - 4.0)
}

/// The logits after `history`, by definition.
pub fn logits(history: &[u32]) -> Vec<f32> {
    let mut hash = 0;
    let slots: Vec<_> = (0..)
        .zip(history)
        .map(|(position, &token)| {
            hash = chain(hash, token, position);
            (token, position, hash)
        })
        .collect();
    logits_of(&slots).collect()
}

/// What an engine without a tokenizer must make of `request`.
#[derive(Debug, Default, PartialEq)]
pub struct Expected {
    pub tokens: Vec<u32>,
    pub scores: Vec<Score>,
    pub prompt: Vec<Score>,
    pub finish: String,
}

/// Generates without an engine: one token after the other, from the definition of the logits.
pub fn expected(request: &Request, end_tokens: &[u32]) -> Expected {
    let mut expected = Expected::default();
    let mut sampler = Sampler::new(VOCAB);
    let (prompt, sampling) = (&request.prompt, &request.sampling);
    for i in 1..prompt.len() * usize::from(request.prompt_logprobs) {
        let sampled = sampler.score(&logits(&prompt[..i]), prompt[i], sampling.logprobs.unwrap_or(0)).unwrap();
        expected.prompt.extend(score(sampled));
    }
    let mut tokens = prompt.clone();
    let mut constraint = request.grammar.as_ref().map(|grammar| grammar.begin().unwrap());
    for _ in 0..request.max_tokens.unwrap_or(256 - prompt.len()) {
        let history = History { tokens: &tokens, prompt: prompt.len() };
        let (logits, position) = (logits(&tokens), tokens.len() as u64 - 1);
        let mut allowed = Allowed::none(VOCAB);
        match &mut constraint {
            None => allowed.words_mut().fill(u32::MAX),
            Some(constraint) => constraint.allow(&mut allowed).unwrap(),
        }
        if expected.tokens.len() < request.min_tokens {
            put_off_ends(&mut allowed, request, end_tokens);
        }
        let sampled = sampler.sample_allowed(&logits, sampling, history, position, &allowed).unwrap();
        let token = sampled.token;
        constraint.iter_mut().for_each(|constraint| constraint.advance(token).unwrap());
        expected.scores.extend(score(sampled));
        expected.tokens.push(token);
        tokens.push(token);
        if let Some(finish) = end(request, token, end_tokens) {
            expected.finish = format!("{finish:?}");
            return expected;
        }
    }
    expected.finish = format!("{:?}", Finish::Length);
    expected
}

/// Allows no token that would end the text, unless no other is allowed.
fn put_off_ends(allowed: &mut Allowed, request: &Request, end_tokens: &[u32]) {
    let goes_on = |&token: &u32| allowed.allows(token) && end(request, token, end_tokens).is_none();
    let others: Vec<u32> = (0..VOCAB as u32).filter(goes_on).collect();
    if !others.is_empty() {
        allowed.clear();
        others.into_iter().for_each(|token| allowed.allow(token));
    }
}

fn score(sampled: Sampled<'_>) -> Option<Score> {
    sampled.logprob.map(|logprob| Score { token: sampled.token, logprob, top: sampled.top.to_vec() })
}

fn end(request: &Request, token: u32, end_tokens: &[u32]) -> Option<Finish> {
    if request.stop_tokens.contains(&token) {
        return Some(Finish::StopToken(token));
    }
    (end_tokens.contains(&token) && !request.ignore_end).then_some(Finish::End(token))
}

impl From<Completion> for Expected {
    fn from(got: Completion) -> Self {
        let finish = format!("{:?}", got.finish);
        Expected { tokens: got.tokens, scores: got.scores, prompt: got.prompt, finish }
    }
}

/// An engine over a toy, without a tokenizer.
pub fn engine(limits: Limits, options: &EngineOptions) -> Engine {
    Engine::new(Toy::new(limits).0, None, options).unwrap()
}

/// `len` tokens that differ from seed to seed.
pub fn prompt(seed: u64, len: usize) -> Vec<u32> {
    (0..len as u64).map(|i| (mix(seed, i) % VOCAB as u64) as u32).collect()
}
