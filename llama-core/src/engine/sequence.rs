//! One request on its way: its tokens, its blocks, its sampler, its text.

use std::slice::ChunksExact;

use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::kv::BlockPool;
use crate::sample::{Draw, History, Refusal, Sampled, Sampler, Sampling};

use super::event::{Event, Finish, Score, SequenceId};
use super::pool::{NotFinite, Pool};
use super::request::Request;
use super::scheduler::Budget;
use super::table::Table;
use super::text::Text;

/// A list of tokens that grows is given room for this many at once; more than that is found as it goes.
const ROOM: usize = 4096;

pub(super) struct Sequence {
    pub id: SequenceId,
    /// The prompt, then what was generated.
    tokens: Vec<u32>,
    prompt: usize,
    max_tokens: usize,
    sampling: Sampling,
    stop_tokens: Vec<u32>,
    ignore_end: bool,
    text: Text,
    table: Table,
    /// Rows whose logits have served to score the prompt's tokens: row `i` scores token `i + 1`.
    scored: usize,
    /// What hidden states become, where they are wanted.
    pool: Option<Pool>,
    /// Rows planned for the step at hand.
    chunk: usize,
    finished: bool,
}

impl Sequence {
    /// `max_tokens` and everything else has been checked.
    pub fn new(id: SequenceId, request: Request, max_tokens: usize, text: Text, sharing: bool) -> Self {
        let mut tokens = request.prompt;
        let prompt = tokens.len();
        tokens.reserve(max_tokens.min(ROOM));
        Sequence {
            id,
            tokens,
            prompt,
            max_tokens,
            sampling: request.sampling,
            stop_tokens: request.stop_tokens,
            ignore_end: request.ignore_end,
            text,
            table: Table::new(sharing, prompt + max_tokens),
            scored: if request.prompt_logprobs { 0 } else { prompt - 1 },
            pool: None,
            chunk: 0,
            finished: false,
        }
    }

    /// One that ends with its prompt, whose hidden states go to `pool`. The prompt has been checked.
    pub fn pooling(id: SequenceId, prompt: Vec<u32>, pool: Pool, sharing: bool) -> Self {
        let text = Text::new(None, &prompt, Vec::new());
        Sequence { pool: Some(pool), ..Sequence::new(id, Request::new(prompt), 0, text, sharing) }
    }
}

// What the scheduler asks.
impl Sequence {
    /// Whether only the newest token lacks its KV.
    pub fn is_decoding(&self) -> bool {
        self.table.computed() + 1 == self.tokens.len()
    }

    pub fn is_finished(&self) -> bool {
        self.finished
    }

    pub fn is_planned(&self) -> bool {
        self.chunk > 0
    }

    /// Blocks still to be allocated for the tokens there are.
    pub fn missing_blocks(&self) -> usize {
        self.table.missing(self.tokens.len())
    }

    /// Takes what the prefix cache holds. The last token is always computed, because its logits or its state are wanted,
    /// and so is every token of the prompt whose row still has to score the next, or to be pooled. Returns how many tokens
    /// that saved.
    pub fn reuse(&mut self, pool: &mut BlockPool) -> usize {
        let last = self.tokens.len() - 1;
        let scored = if self.scored + 1 < self.prompt { self.scored } else { last };
        let pooled = self.pool.as_ref().map_or(last, Pool::needed_from);
        self.table.reuse(pool, &self.tokens[..scored.min(pooled)])
    }

    /// Plans as many of the remaining tokens as budget and blocks allow. False if only blocks were lacking for even one.
    pub fn plan(&mut self, pool: &mut BlockPool, budget: &mut Budget) -> bool {
        budget.cached += self.reuse(pool);
        let wanted = self.rows_within(budget);
        self.chunk = self.table.reserve(pool, wanted);
        budget.tokens -= self.chunk;
        budget.outputs -= self.outputs(self.chunk);
        self.chunk > 0 || wanted == 0
    }

    /// Undoes [`Sequence::plan`].
    pub fn rollback(&mut self, pool: &mut BlockPool) {
        self.chunk = 0;
        self.table.rollback(pool);
    }

    /// Gives all blocks back; the tokens stay.
    pub fn release(&mut self, pool: &mut BlockPool) {
        self.chunk = 0;
        self.table.release(pool);
    }

    /// Appends the planned chunk.
    pub fn push_to(&self, batch: &mut Batch) {
        let start = self.table.computed();
        let rows = (0..self.chunk).filter(|row| self.is_output(start + row)).map(|row| row as u32);
        batch.push(&self.tokens[start..start + self.chunk], start as u32, self.table.blocks(), rows);
    }

    fn rows_within(&self, budget: &Budget) -> usize {
        let mut rows = (self.tokens.len() - self.table.computed()).min(budget.tokens);
        // Dropping a row drops at most one output.
        while self.outputs(rows) > budget.outputs {
            rows -= self.outputs(rows) - budget.outputs;
        }
        rows
    }

    fn outputs(&self, rows: usize) -> usize {
        let start = self.table.computed();
        (start..start + rows).filter(|&position| self.is_output(position)).count()
    }

    /// Whether the logits at `position` are wanted: to score the prompt's next token, or to choose the next one.
    fn is_output(&self, position: usize) -> bool {
        self.is_scoring(position) || self.is_picking(position)
    }

    /// Whether the next token follows `position`.
    fn is_picking(&self, position: usize) -> bool {
        position + 1 == self.tokens.len() && self.max_tokens > 0
    }

    fn is_scoring(&self, position: usize) -> bool {
        position >= self.scored && position + 1 < self.prompt
    }
}

/// What a step brought one sequence.
pub(super) struct Rows<'a> {
    /// Its rows of logits; none where nobody wanted the step's.
    pub logits: ChunksExact<'a, f32>,
    /// Its rows of hidden states, one for each of its chunk; none where nobody wanted the step's.
    pub states: &'a [f32],
    /// What became of its draw, if it had one.
    pub pick: Option<Result<u32, Refusal>>,
    /// For the rows that are not picked from elsewhere.
    pub sampler: &'a mut Sampler,
}

// What is wanted of a step.
impl Sequence {
    /// Rows of the planned chunk.
    pub fn planned_rows(&self) -> usize {
        self.chunk
    }

    /// Rows of logits of the planned chunk.
    pub fn planned_outputs(&self) -> usize {
        self.outputs(self.chunk)
    }

    /// Whether a row of the planned chunk has to come to the host: to score the prompt, or to report log-probabilities.
    /// Who was preempted may have scored the chunk's first rows before.
    pub fn wants_logits(&self) -> bool {
        let start = self.table.computed();
        self.sampling.logprobs.is_some() && self.outputs(self.chunk) > 0
            || (start..start + self.chunk).any(|position| self.is_scoring(position))
    }

    /// Whether the hidden state of a row of the planned chunk is wanted.
    pub fn wants_states(&self) -> bool {
        self.pool.as_ref().is_some_and(|pool| pool.needed_from() < self.table.computed() + self.chunk)
    }

    /// How to pick the next token out of `row`, if the planned chunk gets that far and no log-probabilities are wanted.
    pub fn draw(&self, row: usize) -> Option<Draw<'_>> {
        let position = self.tokens.len() - 1;
        let picks = self.table.computed() + self.chunk == self.tokens.len() && self.is_picking(position);
        (picks && self.sampling.logprobs.is_none()).then(|| Draw {
            row,
            sampling: &self.sampling,
            history: self.history(),
            position: position as u64,
        })
    }

    fn history(&self) -> History<'_> {
        History { tokens: &self.tokens, prompt: self.prompt }
    }
}

// What happens after a step.
impl Sequence {
    /// Takes the planned chunk's outputs and moves on. The event may have nothing to say.
    pub fn advance(&mut self, pool: &mut BlockPool, mut rows: Rows<'_>, end_tokens: &[u32]) -> Event {
        let mut event = Event::new(self.id);
        match self.take_outputs(&mut rows, end_tokens, &mut event) {
            Ok(()) => self.table.commit(pool, &self.tokens, self.chunk),
            Err(error) => {
                self.table.discard(pool);
                self.finish(Finish::Failed(error), &mut event);
            }
        }
        self.chunk = 0;
        if self.finished {
            self.table.release(pool);
        }
        event
    }

    /// Ends the sequence; what text was held back comes out, unless a stop string ended it.
    pub fn finish(&mut self, finish: Finish, event: &mut Event) {
        if !matches!(finish, Finish::Stop(_)) {
            self.text.flush(&mut event.text);
        }
        event.finish = Some(finish);
        self.finished = true;
    }

    fn take_outputs(&mut self, rows: &mut Rows<'_>, end_tokens: &[u32], event: &mut Event) -> Result<()> {
        self.take_states(rows, event)?;
        let end = self.table.computed() + self.chunk;
        for position in self.table.computed()..end {
            if self.is_scoring(position) {
                event.prompt.push(self.score_next(position, rows)?);
                self.scored = position + 1;
            } else if self.is_picking(position) {
                self.choose_next(rows, end_tokens, event)?;
            }
        }
        if end == self.tokens.len() && self.max_tokens == 0 {
            self.finish(Finish::Length, event);
        }
        Ok(())
    }

    /// Pools the chunk's hidden states, and hands out what came of it.
    fn take_states(&mut self, rows: &Rows<'_>, event: &mut Event) -> Result<()> {
        let Some(pool) = &mut self.pool else { return Ok(()) };
        let given = pool.take(self.table.computed(), rows.states).and_then(|()| pool.give());
        event.vector = given.map_err(|NotFinite { position, column, value }| Error::StateNotFinite {
            sequence: self.id.number(),
            column,
            position: position as u32,
            value,
        })?;
        Ok(())
    }

    /// Scores the prompt's token after `position`.
    fn score_next(&self, position: usize, rows: &mut Rows<'_>) -> Result<Score> {
        let top = self.sampling.logprobs.unwrap_or(0);
        let logits = rows.logits.next().unwrap_or_default();
        let sampled = rows.sampler.score(logits, self.tokens[position + 1], top);
        let Sampled { token, logprob, top } = sampled.map_err(|refusal| self.error(refusal, position))?;
        Ok(Score { token, logprob: logprob.unwrap_or(f32::NEG_INFINITY), top: top.to_vec() })
    }

    /// Takes the next token, and decides whether it is the last.
    fn choose_next(&mut self, rows: &mut Rows<'_>, end_tokens: &[u32], event: &mut Event) -> Result<()> {
        let token = self.next_token(rows, event)?;
        self.tokens.push(token);
        event.token = Some(token);
        if let Some(finish) = self.end_after(token, end_tokens, &mut event.text)? {
            self.finish(finish, event);
        }
        Ok(())
    }

    /// The token that was picked; one whose log-probability is wanted is picked here.
    fn next_token(&self, rows: &mut Rows<'_>, event: &mut Event) -> Result<u32> {
        let position = self.tokens.len() - 1;
        let error = |refusal| self.error(refusal, position);
        if let Some(pick) = rows.pick {
            return pick.map_err(error);
        }
        let logits = rows.logits.next().unwrap_or_default();
        let sampled = rows.sampler.sample(logits, &self.sampling, self.history(), position as u64);
        let Sampled { token, logprob, top } = sampled.map_err(error)?;
        event.logprob = logprob;
        event.top.extend_from_slice(top);
        Ok(token)
    }

    fn error(&self, refusal: Refusal, position: usize) -> Error {
        refusal.into_error(self.id.number(), position as u32)
    }

    /// Why `token` is the last one, if it is. Its text goes to `text` unless it stands for an end.
    fn end_after(&mut self, token: u32, end_tokens: &[u32], text: &mut String) -> Result<Option<Finish>> {
        if self.stop_tokens.contains(&token) {
            return Ok(Some(Finish::StopToken(token)));
        }
        if !self.ignore_end && end_tokens.contains(&token) {
            return Ok(Some(Finish::End(token)));
        }
        if let Some(stop) = self.text.push(token, text)? {
            return Ok(Some(Finish::Stop(stop)));
        }
        Ok((self.tokens.len() - self.prompt == self.max_tokens).then_some(Finish::Length))
    }
}
