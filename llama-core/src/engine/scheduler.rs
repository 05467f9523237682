//! Which sequences get which rows of a step, and which blocks.
//!
//! First come, first served. Sequences that only need their next token come first, one row each and one for each draft;
//! prompts share the rest of the step's rows in chunks, oldest first; then new sequences are admitted while there is room. A sequence takes
//! blocks as it grows. When none is left for it, the newest running sequence gives up all of its blocks and goes back
//! to the head of the queue, to be computed again later: its tokens are kept, so nothing it produced changes, and what
//! the prefix cache still holds of it is not computed twice.
//!
//! Two facts keep this alive. Every running sequence is older than every waiting one, and the oldest is nobody's victim,
//! so it always gets on; and no request is accepted that would not fit alone.

use std::collections::VecDeque;

use crate::backend::Limits;
use crate::batch::Batch;
use crate::error::Result;
use crate::kv::BlockPool;

use super::draft::Draft;
use super::event::SequenceId;
use super::sequence::Sequence;

/// What is left of a step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    /// Rows.
    pub tokens: usize,
    /// Rows of logits.
    pub outputs: usize,
    /// Drafts.
    pub drafts: usize,
    /// Tokens that the prefix cache spared this step.
    pub cached: usize,
}

pub(super) struct Scheduler {
    pool: BlockPool,
    limits: Limits,
    /// Drafts of one step; so few that no sequence has to wait for them.
    drafts: usize,
    /// Oldest first; all newer than those running.
    waiting: VecDeque<Sequence>,
    /// Oldest first.
    running: Vec<Sequence>,
    /// Places in `running` of the sequences of the planned step, in the order of its batch.
    planned: Vec<usize>,
    preemptions: u64,
    cached_tokens: u64,
}

impl Scheduler {
    pub fn new(limits: Limits, drafts: usize) -> Result<Self> {
        let spare = limits.tokens.min(limits.outputs).saturating_sub(limits.sequences);
        Ok(Scheduler {
            pool: BlockPool::new(limits.blocks)?,
            limits,
            drafts: drafts.min(spare),
            waiting: VecDeque::new(),
            running: Vec::with_capacity(limits.sequences),
            planned: Vec::with_capacity(limits.sequences),
            preemptions: 0,
            cached_tokens: 0,
        })
    }

    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// All sequences.
    pub fn all(&self) -> impl Iterator<Item = &Sequence> {
        self.running.iter().chain(&self.waiting)
    }

    pub fn pool(&self) -> &BlockPool {
        &self.pool
    }

    pub fn pool_mut(&mut self) -> &mut BlockPool {
        &mut self.pool
    }

    pub fn preemptions(&self) -> u64 {
        self.preemptions
    }

    pub fn cached_tokens(&self) -> u64 {
        self.cached_tokens
    }

    pub fn submit(&mut self, sequence: Sequence) {
        self.waiting.push_back(sequence);
    }

    /// Takes a sequence out, wherever it is, and frees its blocks.
    pub fn remove(&mut self, id: SequenceId) -> Option<Sequence> {
        let mut sequence = match self.running.iter().position(|sequence| sequence.id == id) {
            Some(at) => self.running.remove(at),
            None => self.waiting.remove(self.waiting.iter().position(|sequence| sequence.id == id)?)?,
        };
        sequence.release(&mut self.pool);
        Some(sequence)
    }

    /// Plans a step: gives rows and blocks out and fills `batch`. The batch is empty only when nothing is left to do.
    pub fn plan(&mut self, batch: &mut Batch) {
        let Limits { tokens, outputs, .. } = self.limits;
        let mut budget = Budget { tokens, outputs, drafts: self.drafts, cached: 0 };
        let before = self.preemptions;
        self.plan_running(&mut budget, Sequence::is_decoding);
        self.plan_running(&mut budget, |sequence| !sequence.is_decoding());
        if self.preemptions == before {
            self.admit(&mut budget);
        }
        self.cached_tokens += budget.cached as u64;
        self.order();
        batch.clear();
        self.planned().for_each(|sequence| sequence.push_to(batch));
    }

    /// What may be guessed before a step is planned, an even share for each sequence that decodes. Drafts of an earlier step
    /// that came to nothing are gone.
    pub fn drafts(&mut self, vocab: usize) -> impl Iterator<Item = Draft<'_>> {
        let decoding = self.running.iter().filter(|sequence| sequence.is_decoding()).count();
        let share = self.drafts.div_ceil(decoding.max(1));
        self.running.iter_mut().filter_map(move |sequence| sequence.draft(share, vocab))
    }

    /// Those with the same adapter one after the other, so that it is read once for all of them.
    fn order(&mut self) {
        let Scheduler { running, planned, .. } = self;
        planned.clear();
        planned.extend((0..running.len()).filter(|&at| running[at].is_planned()));
        planned.sort_unstable_by_key(|&at| (running[at].adapter(), at));
    }

    /// The sequences of the planned step in the order of its batch.
    pub fn planned(&self) -> impl Iterator<Item = &Sequence> {
        self.planned.iter().map(|&at| &self.running[at])
    }

    /// The pool that all take their blocks from, all sequences, and the places of those of the planned step in the order of
    /// its batch.
    pub fn planned_mut(&mut self) -> (&mut BlockPool, &mut [Sequence], &[usize]) {
        (&mut self.pool, &mut self.running, &self.planned)
    }

    /// Undoes the plan: the step did not happen.
    pub fn rollback(&mut self) {
        self.running.iter_mut().for_each(|sequence| sequence.rollback(&mut self.pool));
    }

    /// Drops the sequences that ended in this step; their blocks are free already.
    pub fn retire(&mut self, mut gone: impl FnMut(SequenceId)) {
        self.running.retain(|sequence| {
            if sequence.is_finished() {
                gone(sequence.id);
            }
            !sequence.is_finished()
        });
    }

    fn plan_running(&mut self, budget: &mut Budget, chosen: impl Fn(&Sequence) -> bool) {
        let mut at = 0;
        while at < self.running.len() {
            if chosen(&self.running[at]) {
                self.plan_one(at, budget);
            }
            at += 1;
        }
    }

    /// Gives the sequence at `at` what the budget allows, at the cost of newer ones, or of itself if it is the newest.
    fn plan_one(&mut self, at: usize, budget: &mut Budget) {
        while !self.running[at].plan(&mut self.pool, budget) {
            self.preempt();
            if at == self.running.len() {
                return;
            }
        }
    }

    /// Sends the newest running sequence back to the head of the queue. Rows it had of this step stay unused.
    fn preempt(&mut self) {
        if let Some(mut newest) = self.running.pop() {
            newest.release(&mut self.pool);
            self.waiting.push_front(newest);
            self.preemptions += 1;
        }
    }

    /// Starts waiting sequences in order while rows, places and blocks last. A sequence is started only if all its tokens
    /// find room beside what the running ones still lack, and one block more for each of them to grow into: a start that
    /// ends in preemption at once would be wasted.
    fn admit(&mut self, budget: &mut Budget) {
        while self.running.len() < self.limits.sequences && budget.tokens > 0 {
            let Some(mut sequence) = self.waiting.pop_front() else { return };
            let cached = sequence.reuse(&mut self.pool);
            let reserved: usize = self.running.iter().map(|running| running.missing_blocks() + 1).sum();
            let fits = sequence.missing_blocks() + reserved <= self.pool.available();
            if !(fits && sequence.plan(&mut self.pool, budget)) {
                sequence.release(&mut self.pool);
                self.waiting.push_front(sequence);
                return;
            }
            budget.cached += cached;
            self.running.push(sequence);
        }
    }
}
