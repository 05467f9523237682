//! Drafts by a smaller model.

use crate::batch::Batch;
use crate::engine::event::SequenceId;
use crate::engine::sequence::ROOM;
use crate::engine::table::Table;
use crate::engine::{check_generates, emptied, roomy_batch, roomy_outputs};
use crate::error::Result;
use crate::kv::{BlockPool, Prefix};
use crate::model::Model;
use crate::sample::{Draw, Outputs};

use super::{Draft, Drafter};

/// What a smaller model says next, with a KV cache of its own. It must know the same tokens by the same ids, as the members
/// of one family do ([`Loader::drafter`](crate::Loader::drafter) checks that).
///
/// It draws with the sampling and the random numbers of the sequence, so the two models agree at a temperature, too, wherever
/// their probabilities are alike. All sequences of a step are drafted for together, a row each; a prompt is read when
/// its sequence first decodes. A sequence that finds no room in the cache, or is longer than the model's context, gets
/// no drafts.
pub struct DraftModel {
    model: Box<dyn Model>,
    pool: BlockPool,
    kept: Vec<Kept>,
    batch: Batch,
    outputs: Outputs,
    /// Empty between calls.
    draws: Vec<Draw<'static>>,
}

/// What the cache holds of one sequence.
struct Kept {
    id: SequenceId,
    /// Those whose KV is there; some may have been drafts that came to nothing.
    tokens: Vec<u32>,
    table: Table,
    /// Rows of the round at hand.
    chunk: usize,
    /// No more drafts in this step.
    done: bool,
}

impl DraftModel {
    /// A drafter of `model`, which was made for as many sequences and positions as it shall draft for.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) for a model without a head; [`Error::Memory`](crate::Error::Memory)
    /// where the system refuses.
    pub fn new(model: Box<dyn Model>) -> Result<Self> {
        check_generates(model.config())?;
        let (limits, vocab) = (*model.limits(), model.config().vocab);
        Ok(DraftModel {
            model,
            pool: BlockPool::new(limits.blocks)?,
            kept: Vec::with_capacity(limits.sequences),
            batch: roomy_batch(&limits),
            outputs: roomy_outputs(&limits, vocab)?,
            draws: Vec::with_capacity(limits.outputs),
        })
    }

    /// The model.
    pub fn model(&self) -> &dyn Model {
        &*self.model
    }

    /// Brings what is kept into the order of `drafts`, and each in line with its sequence.
    fn align(&mut self, drafts: &[Draft<'_>]) {
        for (i, draft) in drafts.iter().enumerate() {
            let at = self.kept.iter().position(|kept| kept.id == draft.id).unwrap_or_else(|| {
                self.kept.push(Kept::new(draft.id, self.model.limits().context));
                self.kept.len() - 1
            });
            self.kept.swap(i, at);
            self.kept[i].align(&mut self.pool, draft.tokens());
        }
    }

    /// Plans a round: for each sequence what of its tokens the cache lacks, as far as a step goes. False if nothing is left to
    /// do.
    fn plan(&mut self, drafts: &[Draft<'_>]) -> bool {
        let limits = *self.model.limits();
        let mut budget = limits.tokens;
        self.batch.clear();
        for (i, draft) in drafts.iter().enumerate() {
            let tokens = draft.tokens();
            self.kept[i].chunk = 0;
            self.kept[i].done |= draft.room() == 0 || tokens.len() > limits.context;
            if self.kept[i].done || budget == 0 || self.batch.sequences() == limits.sequences.min(limits.outputs) {
                continue;
            }
            let chunk = self.reserve(i, drafts.len(), (tokens.len() - self.kept[i].tokens.len()).min(budget));
            let kept = &mut self.kept[i];
            kept.chunk = chunk;
            kept.done = chunk == 0;
            budget -= chunk;
            if chunk > 0 {
                let start = kept.tokens.len();
                let end = start + chunk;
                let output = (end == tokens.len()).then_some(chunk as u32 - 1);
                self.batch.push(&tokens[start..end], start as u32, kept.table.blocks(), output);
            }
        }
        self.batch.rows() > 0
    }

    /// Finds room for `rows` more tokens of the `i`-th sequence, at the cost of those that are not among the first `busy`.
    fn reserve(&mut self, i: usize, busy: usize, rows: usize) -> usize {
        loop {
            let reserved = self.kept[i].table.reserve(&mut self.pool, rows);
            if reserved == rows || self.kept.len() == busy {
                return reserved;
            }
            if let Some(mut idle) = self.kept.pop() {
                idle.table.release(&mut self.pool);
            }
        }
    }

    /// Runs the round and draws a token for each sequence whose tokens all have their KV.
    fn run(&mut self, drafts: &[Draft<'_>]) -> Result<()> {
        let mut draws = emptied(std::mem::take(&mut self.draws));
        let ready = drafts.iter().zip(&self.kept).filter(|(draft, kept)| kept.reaches(draft.tokens().len()));
        draws.extend(ready.enumerate().map(|(row, (draft, _))| draft.draw(row)));
        let result = self.model.sample(&self.batch, &draws, &mut self.outputs);
        self.draws = emptied(draws);
        result
    }

    /// Notes what the round computed, and pushes what was drawn.
    fn take(&mut self, drafts: &mut [Draft<'_>]) {
        let mut picks = self.outputs.picks.iter();
        for (draft, kept) in drafts.iter_mut().zip(&mut self.kept).filter(|(_, kept)| kept.chunk > 0) {
            let ready = kept.reaches(draft.tokens().len());
            kept.commit(&mut self.pool, draft.tokens());
            if ready {
                let pick = picks.next().and_then(|pick| pick.ok());
                kept.done = !pick.is_some_and(|token| draft.push(token));
            }
        }
    }
}

impl Drafter for DraftModel {
    fn draft(&mut self, drafts: &mut [Draft<'_>]) -> Result<()> {
        self.align(drafts);
        while self.plan(drafts) {
            self.run(drafts)?;
            self.take(drafts);
        }
        Ok(())
    }

    fn forget(&mut self, id: SequenceId) {
        if let Some(at) = self.kept.iter().position(|kept| kept.id == id) {
            self.kept.swap_remove(at).table.release(&mut self.pool);
        }
    }

    fn vocab(&self) -> Option<usize> {
        Some(self.model.config().vocab)
    }
}

impl Kept {
    fn new(id: SequenceId, context: usize) -> Self {
        let tokens = Vec::with_capacity(context.min(ROOM));
        Kept { id, tokens, table: Table::new(Prefix::EMPTY, false, context), chunk: 0, done: false }
    }

    /// Keeps what `tokens` begin with. The newest is computed in any case, because its logits are wanted.
    fn align(&mut self, pool: &mut BlockPool, tokens: &[u32]) {
        let same = self.tokens.iter().zip(&tokens[..tokens.len() - 1]).take_while(|(a, b)| a == b).count();
        self.tokens.truncate(same);
        self.table.truncate(pool, same);
        self.done = false;
    }

    /// Whether the round brings the KV of all of `length` tokens.
    fn reaches(&self, length: usize) -> bool {
        self.chunk > 0 && self.tokens.len() + self.chunk == length
    }

    /// Notes that the round's rows, of `tokens`, have their KV.
    fn commit(&mut self, pool: &mut BlockPool, tokens: &[u32]) {
        let start = self.tokens.len();
        self.tokens.extend_from_slice(&tokens[start..start + self.chunk]);
        self.table.commit(pool, &self.tokens, self.chunk);
    }
}
