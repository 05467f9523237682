//! One prompt, asked a thousand times among random company, gives one answer: the tokens and the bits of the logits that
//! they were picked from, for each format of keys and values that the reference backend's.
//!
//! The company is other requests, some with the same beginning, some cancelled; prompts go in chunks of any size, teams
//! have one to three threads or are two ranks, blocks run out and sequences give theirs up, prefixes are found or not, tokens
//! are drafted and the drafts right or wrong. The prompt ends just below a border of attention's partitions and the answer
//! crosses it, so that a lone sequence is at times attended to in pieces and at times in tiles.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use conformance::Random;
use llama_core::Result;
use llama_core::backend::{KvFormat, Limits, Numerics};
use llama_core::batch::{Batch, BlockId};
use llama_core::checkpoint::Checkpoint;
use llama_core::config::Config;
use llama_core::engine::draft::{Draft, Drafter};
use llama_core::engine::{Engine, EngineOptions, Event, Finish, Request, SequenceId, Stats};
use llama_core::model::Model;
use llama_core::sample::{Draw, Outputs, Sampling};
use llama_kernels::Tier;
use llama_tests::models::{Machine, stories260k};

const CONTEXT: usize = 288;
const ANSWER: usize = 8;
const RUNS: usize = 1000;
const FORMATS: [KvFormat; 4] = [KvFormat::Half, KvFormat::F32, KvFormat::Bf16, KvFormat::Q8];

/// Ends four positions before the second partition.
fn prompt() -> Vec<u32> {
    (0..252).map(|i| 3 + i * 37 % 509).collect()
}

/// Where logits were drawn from: the position, the tokens after the prompt up to there, the bits.
type Row = (u64, Vec<u32>, Vec<u32>);
type Rows = Arc<Mutex<Vec<Row>>>;

/// A model whose logits for answers to [`prompt`] are written down.
struct Watched {
    model: Box<dyn Model>,
    rows: Rows,
}

impl Model for Watched {
    fn config(&self) -> &Config {
        self.model.config()
    }

    fn limits(&self) -> &Limits {
        self.model.limits()
    }

    fn forward(&mut self, batch: &Batch, logits: &mut Vec<f32>) -> Result<()> {
        self.model.forward(batch, logits)
    }

    fn sample(&mut self, batch: &Batch, draws: &[Draw<'_>], outputs: &mut Outputs) -> Result<()> {
        let wanted = std::mem::replace(&mut outputs.wants_logits, true);
        self.model.sample(batch, draws, outputs)?;
        outputs.wants_logits = wanted;
        let (vocab, prompt) = (self.config().vocab, prompt());
        for draw in draws.iter().filter(|draw| draw.history.tokens[..draw.history.prompt] == prompt) {
            let row = &outputs.logits[draw.row * vocab..][..vocab];
            let bits = row.iter().map(|x| x.to_bits()).collect();
            let told = draw.history.tokens[draw.history.prompt..].to_vec();
            self.rows.lock().expect("one thread").push((draw.position, told, bits));
        }
        Ok(())
    }

    fn states(&mut self, states: &mut Vec<f32>) -> Result<()> {
        self.model.states(states)
    }

    fn copy_blocks(&mut self, pairs: &[(BlockId, BlockId)]) -> Result<()> {
        self.model.copy_blocks(pairs)
    }

    fn identity(&self) -> u64 {
        self.model.identity()
    }

    fn read_block(&mut self, block: BlockId, out: &mut Vec<u8>) -> Result<()> {
        self.model.read_block(block, out)
    }

    fn write_block(&mut self, block: BlockId, bytes: &[u8]) -> Result<()> {
        self.model.write_block(block, bytes)
    }

    fn backend(&self) -> String {
        self.model.backend()
    }
}

/// Knows the answer, errs in a third of its drafts for it, and guesses at random for everybody else.
struct Gossip {
    answer: Vec<u32>,
    random: Random,
}

impl Drafter for Gossip {
    fn draft(&mut self, drafts: &mut [Draft<'_>]) -> Result<()> {
        let prompt = prompt();
        for draft in drafts {
            while draft.room() > 0 {
                let told = draft.tokens().strip_prefix(&prompt[..]).map_or(usize::MAX, <[u32]>::len);
                let right = self.answer.get(told).copied().filter(|_| self.random.below(3) > 0);
                assert!(draft.push(right.unwrap_or(3 + self.random.below(509) as u32)));
            }
        }
        Ok(())
    }
}

/// Sizes of an engine.
#[derive(Clone, Copy)]
struct Size {
    chunk: usize,
    sequences: usize,
    blocks: usize,
    drafts: usize,
}

fn engine(machine: Machine, kv: KvFormat, size: Size) -> (Engine, Rows) {
    let checkpoint = Checkpoint::open(stories260k()).expect("the model");
    let Size { chunk, sequences, blocks, drafts } = size;
    let outputs = sequences + drafts;
    let limits = Limits { tokens: chunk.max(outputs), sequences, outputs, context: CONTEXT, blocks, kv };
    let rows = Rows::default();
    let model = Watched { model: machine.load(&checkpoint, limits, Numerics::Default), rows: rows.clone() };
    let options = EngineOptions { drafts, ..EngineOptions::default() };
    (Engine::new(Box::new(model), None, &options).expect("an engine"), rows)
}

fn question() -> Request {
    Request { max_tokens: Some(ANSWER), ignore_end: true, ..Request::new(prompt()) }
}

/// Tokens and logits that everybody must give, and every neighbour's random numbers.
struct Company {
    random: Random,
    answer: Vec<u32>,
    logits: HashMap<u64, Vec<u32>>,
    neighbours: Vec<SequenceId>,
    cancelled: usize,
}

impl Company {
    /// Asks the reference backend, alone.
    fn new(kv: KvFormat) -> Self {
        let size = Size { chunk: CONTEXT, sequences: 1, blocks: CONTEXT / 16, drafts: 0 };
        let (mut engine, rows) = engine(Machine::Reference, kv, size);
        let answer = engine.complete(question()).expect("an answer").tokens;
        let rows = std::mem::take(&mut *rows.lock().expect("one thread"));
        let logits: HashMap<_, _> = rows.into_iter().map(|(position, _, bits)| (position, bits)).collect();
        assert_eq!((answer.len(), logits.len()), (ANSWER, ANSWER));
        Company { random: Random(kv as u64), answer, logits, neighbours: Vec::new(), cancelled: 0 }
    }

    /// A prompt of its own or one that begins as [`prompt`], greedy or not.
    fn neighbour(&mut self) -> Request {
        let random = &mut self.random;
        let mut tokens: Vec<u32> = (0..=random.below(60)).map(|_| 3 + random.below(509) as u32).collect();
        if random.below(3) == 0 {
            let mut same = prompt();
            same.truncate(random.below(220));
            same.append(&mut tokens);
            tokens = same;
            tokens.truncate(CONTEXT - 40);
        }
        let sampling =
            Sampling { temperature: random.below(3) as f32, seed: random.below(1000) as u64, ..Sampling::greedy() };
        Request { max_tokens: Some(1 + random.below(30)), sampling, ..Request::new(tokens) }
    }

    /// New company comes, and some of it leaves early.
    fn mingle(&mut self, engine: &mut Engine) {
        while self.neighbours.len() < 8 && self.random.below(3) > 0 {
            let request = self.neighbour();
            self.neighbours.push(engine.submit(request).expect("a request"));
        }
        if !self.neighbours.is_empty() && self.random.below(12) == 0 {
            let i = self.random.below(self.neighbours.len());
            self.cancelled += usize::from(engine.cancel(self.neighbours.swap_remove(i)));
        }
    }

    /// Asks again and holds the answer to what it must be.
    fn ask(&mut self, engine: &mut Engine, rows: &Rows) {
        let crowded = self.random.below(4) > 0;
        let (id, mut answer) = (engine.submit(question()).expect("a request"), Vec::new());
        let mut finish = None;
        while finish.is_none() {
            if crowded {
                self.mingle(engine);
            }
            for Event { id: of, token, finish: end, .. } in engine.step().expect("a step") {
                if of == id {
                    answer.extend(token);
                    finish = end;
                } else if end.is_some() {
                    self.neighbours.retain(|&neighbour| neighbour != of);
                }
            }
        }
        let what = engine.model().backend();
        assert!(matches!(finish, Some(Finish::Length)), "{finish:?} on {what}");
        assert_eq!(answer, self.answer, "on {what}");
        // What was drawn after a wrong draft says nothing.
        let mut rows: Vec<_> = rows.lock().expect("one thread").drain(..).collect();
        rows.retain(|(_, told, _)| self.answer.starts_with(told));
        assert_eq!(rows.len(), ANSWER, "logits on {what}");
        for (position, _, bits) in rows {
            assert!(self.logits.get(&position) == Some(&bits), "logits at {position} on {what}");
        }
    }
}

/// A quarter of the runs on a team of each size and a quarter on two ranks, half of them with too few blocks for their
/// sequences.
#[test]
fn a_thousand_runs_among_random_company_give_one_answer() {
    let (mut asked, mut cancelled, mut total) = (0, 0, Stats::default());
    for kv in FORMATS {
        let mut company = Company::new(kv);
        let cpu = |threads| Machine::Cpu(Tier::best(), threads);
        for (i, machine) in [cpu(1), cpu(2), Machine::Ranks(2, 1, Tier::best()), cpu(3)].into_iter().enumerate() {
            let scarce = i % 2 == 0;
            let random = &mut company.random;
            let size = Size {
                chunk: 1 + random.below(120),
                sequences: if scarce { 6 } else { 1 + random.below(6) },
                blocks: if scarce { 19 + random.below(5) } else { 120 },
                drafts: random.below(3) * (1 + random.below(5)),
            };
            let (engine, rows) = engine(machine, kv, size);
            let gossip = Gossip { answer: company.answer.clone(), random: Random(i as u64) };
            let mut engine = engine.with_drafter(gossip).expect("any drafter");
            company.neighbours.clear();
            for _ in 0..RUNS.div_ceil(FORMATS.len() * 4) {
                company.ask(&mut engine, &rows);
                asked += 1;
            }
            let stats = engine.stats();
            total.preemptions += stats.preemptions;
            total.cached_tokens += stats.cached_tokens;
            total.drafted += stats.drafted;
            total.accepted += stats.accepted;
        }
        cancelled += company.cancelled;
    }
    // What is claimed to have happened did.
    assert!(asked >= RUNS && cancelled > 100, "{asked} runs, {cancelled} cancelled");
    assert!(total.preemptions > 10 && total.cached_tokens > 10_000, "{total:?}");
    assert!(total.accepted > 500 && total.drafted > 2 * total.accepted, "{total:?}");
}
