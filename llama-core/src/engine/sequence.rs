//! One request on its way: its tokens, its blocks, its sampler, its text.

use std::slice::ChunksExact;
use std::sync::Arc;

use crate::batch::{AdapterId, Batch};
use crate::error::{Error, Result};
use crate::kv::BlockPool;
use crate::sample::{Allowed, Draw, History, Refusal, Sampled, Sampler};

use super::adapters::Variant;
use super::draft::{Checked, Draft, Width};
use super::event::{Event, Finish, Score, SequenceId};
use super::grammar::{Constraint, Grammar};
use super::manner::Manner;
use super::pool::{NotFinite, Pool};
use super::request::Request;
use super::scheduler::Budget;
use super::table::Table;
use super::text::Text;

/// A list of tokens that grows is given room for this many at once; more than that is found as it goes.
pub(super) const ROOM: usize = 4096;

pub(super) struct Sequence {
    pub id: SequenceId,
    /// The prompt, then what was generated, then drafts.
    tokens: Vec<u32>,
    prompt: usize,
    /// Prompt and what was generated.
    known: usize,
    width: Width,
    max_tokens: usize,
    manner: Manner,
    stop_tokens: Vec<u32>,
    ignore_end: bool,
    adapter: Option<AdapterId>,
    grammar: Option<Arc<dyn Grammar>>,
    /// How far it has come in the grammar; nothing before its first token.
    constraint: Option<Box<dyn Constraint>>,
    text: Text,
    table: Table,
    /// Rows whose logits have served to score the prompt's tokens: row `i` scores token `i + 1`.
    scored: usize,
    /// What hidden states become, where they are wanted.
    pool: Option<Pool>,
    /// Rows planned for the step at hand.
    chunk: usize,
    /// Tokens that have had their KV, however it came, and how many of them had it from the prefix cache.
    reached: usize,
    cached: usize,
    finished: bool,
}

impl Sequence {
    /// `max_tokens` and everything else has been checked; `variant` is by the request's adapter, `manner` was taken out of it.
    pub fn new(
        id: SequenceId,
        request: Request,
        variant: Variant,
        max_tokens: usize,
        manner: Manner,
        text: Text,
        sharing: bool,
    ) -> Self {
        let mut tokens = request.prompt;
        let prompt = tokens.len();
        tokens.reserve(max_tokens.min(ROOM));
        Sequence {
            id,
            tokens,
            prompt,
            known: prompt,
            width: Width::MOST,
            max_tokens,
            manner,
            stop_tokens: request.stop_tokens,
            ignore_end: request.ignore_end,
            adapter: variant.adapter,
            grammar: request.grammar,
            constraint: None,
            text,
            table: Table::new(variant.start, sharing, prompt + max_tokens),
            scored: if request.prompt_logprobs { 0 } else { prompt - 1 },
            pool: None,
            chunk: 0,
            reached: 0,
            cached: 0,
            finished: false,
        }
    }

    /// One that ends with its prompt, whose hidden states go to `pool`. The prompt has been checked.
    pub fn pooling(id: SequenceId, prompt: Vec<u32>, variant: Variant, pool: Pool, sharing: bool) -> Self {
        let mut request = Request::new(prompt);
        let text = Text::take(None, &mut request);
        let manner = Manner::take(&mut request, &[]);
        Sequence { pool: Some(pool), ..Sequence::new(id, request, variant, 0, manner, text, sharing) }
    }
}

// What the scheduler asks.
impl Sequence {
    /// Whether only the newest token lacks its KV.
    pub fn is_decoding(&self) -> bool {
        self.table.computed() + 1 == self.known
    }

    pub fn is_finished(&self) -> bool {
        self.finished
    }

    pub fn is_planned(&self) -> bool {
        self.chunk > 0
    }

    pub fn adapter(&self) -> Option<AdapterId> {
        self.adapter
    }

    /// Blocks still to be allocated for the tokens there are.
    pub fn missing_blocks(&self) -> usize {
        self.table.missing(self.known)
    }

    /// Takes what the prefix cache holds. The last token is always computed, because its logits or its state are wanted,
    /// and so is every token of the prompt whose row still has to score the next, or to be pooled. Returns how many tokens
    /// that saved.
    pub fn reuse(&mut self, pool: &mut BlockPool) -> usize {
        let last = self.known - 1;
        let scored = if self.scored + 1 < self.prompt { self.scored } else { last };
        let pooled = self.pool.as_ref().map_or(last, Pool::needed_from);
        self.table.reuse(pool, &self.tokens[..scored.min(pooled)])
    }

    /// Plans as many of the remaining tokens as budget and blocks allow. False if only blocks were lacking for even one.
    pub fn plan(&mut self, pool: &mut BlockPool, budget: &mut Budget) -> bool {
        budget.cached += self.reuse(pool);
        let (wanted, certain) = (self.rows_within(budget), self.known - self.table.computed());
        self.chunk = self.table.reserve(pool, wanted.min(certain));
        if self.chunk == certain {
            // Drafts may fill the last block, and take none of their own.
            self.chunk = wanted.min(self.table.room());
            budget.drafts -= self.chunk - certain;
        }
        budget.tokens -= self.chunk;
        budget.outputs -= self.outputs(self.chunk);
        self.chunk > 0 || wanted == 0
    }

    /// Undoes [`Sequence::plan`].
    pub fn rollback(&mut self, pool: &mut BlockPool) {
        self.chunk = 0;
        self.tokens.truncate(self.known);
        self.table.rollback(pool);
    }

    /// Gives all blocks back; the tokens stay.
    pub fn release(&mut self, pool: &mut BlockPool) {
        self.chunk = 0;
        self.tokens.truncate(self.known);
        self.table.release(pool);
    }

    /// Drafts of at most `share` tokens for a sequence that decodes and will be told more than one token.
    pub fn draft(&mut self, share: usize, vocab: usize) -> Option<Draft<'_>> {
        self.tokens.truncate(self.known);
        let rest = self.prompt + self.max_tokens - self.known;
        let room = self.width.within(share).min(rest.saturating_sub(1));
        (self.is_decoding() && room > 0).then_some(Draft {
            id: self.id,
            tokens: &mut self.tokens,
            known: self.known,
            most: self.known + room,
            prompt: self.prompt,
            manner: &self.manner,
            vocab,
        })
    }

    /// Appends the planned chunk.
    pub fn push_to(&self, batch: &mut Batch) {
        let start = self.table.computed();
        let rows = (0..self.chunk).filter(|row| self.is_output(start + row)).map(|row| row as u32);
        batch.push(&self.tokens[start..start + self.chunk], start as u32, self.table.blocks(), rows);
        batch.adapt(self.adapter);
    }

    fn rows_within(&self, budget: &Budget) -> usize {
        let most = self.tokens.len().min(self.known + budget.drafts);
        let mut rows = (most - self.table.computed()).min(budget.tokens);
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

    /// Whether a token that is not known follows `position`: the next one, or one after a draft.
    fn is_picking(&self, position: usize) -> bool {
        position + 1 >= self.known && self.max_tokens > 0
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
    /// What became of its draws, if it had any.
    pub picks: &'a [Result<u32, Refusal>],
    /// For the rows that are not picked from elsewhere.
    pub sampler: &'a mut Sampler,
    /// Room for what a grammar allows.
    pub allowed: &'a mut Allowed,
}

// What is wanted of a step.
impl Sequence {
    /// Rows of the planned chunk.
    pub fn planned_rows(&self) -> usize {
        self.chunk
    }

    /// Drafts in the planned chunk.
    fn planned_drafts(&self) -> usize {
        (self.table.computed() + self.chunk).saturating_sub(self.known)
    }

    /// Rows of logits of the planned chunk.
    pub fn planned_outputs(&self) -> usize {
        self.outputs(self.chunk)
    }

    /// Whether a row of the planned chunk has to come to the host: to score the prompt, to report log-probabilities, to keep to a
    /// grammar or to be drawn from as only the host's sampler does.
    /// Who was preempted may have scored the chunk's first rows before.
    pub fn wants_logits(&self) -> bool {
        let start = self.table.computed();
        !self.picks_elsewhere() && self.outputs(self.chunk) > 0
            || (start..start + self.chunk).any(|position| self.is_scoring(position))
    }

    /// Whether the hidden state of a row of the planned chunk is wanted.
    pub fn wants_states(&self) -> bool {
        self.pool.as_ref().is_some_and(|pool| pool.needed_from() < self.table.computed() + self.chunk)
    }

    /// How to pick the tokens that the planned chunk gets to, if it gets that far and they can be picked where the logits are.
    /// `row` is its first row of logits.
    pub fn draws(&self, row: usize) -> impl ExactSizeIterator<Item = Draw<'_>> {
        let end = self.table.computed() + self.chunk;
        let first = self.table.computed().max(self.known - 1);
        let picked = if self.max_tokens > 0 && self.picks_elsewhere() { first..end } else { end..end };
        // The rows that are picked from are the chunk's last.
        let row = row + self.planned_outputs() - picked.len();
        picked.enumerate().map(move |(i, position)| self.draw(row + i, position))
    }

    /// Whether its tokens may be picked where the logits are: nothing but the tokens is wanted, any may come, and whoever samples
    /// there knows how to.
    fn picks_elsewhere(&self) -> bool {
        self.manner.logprobs().is_none() && self.grammar.is_none() && !self.manner.needs_host()
    }

    fn draw(&self, row: usize, position: usize) -> Draw<'_> {
        Draw { row, sampling: self.manner.at(position), history: self.history(position), position: position as u64 }
    }

    /// What the token after `position` is drawn with.
    fn history(&self, position: usize) -> History<'_> {
        History { tokens: &self.tokens[..=position], prompt: self.prompt }
    }
}

// What happens after a step.
impl Sequence {
    /// Takes the planned chunk's outputs and moves on; what there is to say goes to `events`. Returns what became of its drafts.
    pub fn advance(
        &mut self,
        pool: &mut BlockPool,
        mut rows: Rows<'_>,
        end_tokens: &[u32],
        events: &mut Vec<Event>,
    ) -> Checked {
        let (certain, drafted) = (self.known, self.planned_drafts());
        let mut event = Event::new(self.id);
        // Whoever was preempted may find again what it had computed itself.
        self.cached += self.table.computed().saturating_sub(self.reached);
        match self.take_outputs(&mut rows, end_tokens, &mut event, events) {
            Ok(end) => {
                self.table.commit(pool, &self.tokens, end - self.table.computed());
                self.reached = self.reached.max(end);
            }
            Err(error) => {
                self.table.discard(pool);
                self.finish(Finish::Failed(error), &mut event);
            }
        }
        self.chunk = 0;
        self.tokens.truncate(self.known);
        if self.finished {
            self.table.release(pool);
        }
        if !event.is_empty() {
            events.push(event);
        }
        let checked = Checked { drafted, accepted: (self.known - certain).saturating_sub(1) };
        self.width.learn(checked);
        checked
    }

    /// Ends the sequence; what text was held back comes out, unless a stop string ended it.
    pub fn finish(&mut self, finish: Finish, event: &mut Event) {
        if !matches!(finish, Finish::Stop(_)) {
            self.text.flush(&mut event.text);
        }
        event.cached_tokens = self.cached;
        event.finish = Some(finish);
        self.finished = true;
    }

    /// Returns up to which position the chunk was computed after the right tokens. What is to be said last stays in `event`.
    fn take_outputs(
        &mut self,
        rows: &mut Rows<'_>,
        end_tokens: &[u32],
        event: &mut Event,
        events: &mut Vec<Event>,
    ) -> Result<usize> {
        self.take_states(rows, event)?;
        let end = self.table.computed() + self.chunk;
        for position in self.table.computed()..end {
            if self.is_scoring(position) {
                event.prompt.push(self.score_next(position, rows)?);
                self.scored = position + 1;
            } else if self.is_picking(position) {
                if event.token.is_some() {
                    events.push(std::mem::replace(event, Event::new(self.id)));
                }
                if !self.choose_next(position, rows, end_tokens, event)? {
                    return Ok(position + 1);
                }
            }
        }
        if end == self.known && self.max_tokens == 0 {
            self.finish(Finish::Length, event);
        }
        Ok(end)
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
        let top = self.manner.logprobs().unwrap_or(0);
        let logits = rows.logits.next().unwrap_or_default();
        let sampled = rows.sampler.score(logits, self.tokens[position + 1], top);
        let Sampled { token, logprob, top } = sampled.map_err(|refusal| self.error(refusal, position))?;
        Ok(Score { token, logprob: logprob.unwrap_or(f32::NEG_INFINITY), top: top.to_vec() })
    }

    /// Takes the token after `position`, the last one that is known, and decides whether it is the last at all. Returns whether
    /// the next row was computed after it.
    fn choose_next(
        &mut self,
        position: usize,
        rows: &mut Rows<'_>,
        end_tokens: &[u32],
        event: &mut Event,
    ) -> Result<bool> {
        let token = self.next_token(position, rows, event)?;
        self.constraint.as_mut().map_or(Ok(()), |constraint| constraint.advance(token))?;
        let accepted = self.tokens.get(self.known) == Some(&token);
        if !accepted {
            self.tokens.truncate(self.known);
            self.tokens.push(token);
        }
        self.known += 1;
        event.token = Some(token);
        if let Some(finish) = self.end_after(token, end_tokens, &mut event.text)? {
            self.finish(finish, event);
        }
        Ok(accepted && !self.finished)
    }

    /// The token that was picked; one that cannot be picked elsewhere is picked here.
    fn next_token(&mut self, position: usize, rows: &mut Rows<'_>, event: &mut Event) -> Result<u32> {
        if let Some((&pick, rest)) = rows.picks.split_first() {
            rows.picks = rest;
            return pick.map_err(|refusal| self.error(refusal, position));
        }
        let constrained = self.allow(rows.allowed)?;
        let logits = rows.logits.next().unwrap_or_default();
        let (manner, history, at) = (&self.manner, self.history(position), position as u64);
        let sampled = match constrained {
            true => {
                let sampling = manner.among(position, rows.allowed);
                rows.sampler.sample_allowed(logits, sampling, history, at, rows.allowed)
            }
            false => rows.sampler.sample(logits, manner.at(position), history, at),
        };
        let Sampled { token, logprob, top } = sampled.map_err(|refusal| self.error(refusal, position))?;
        event.logprob = logprob;
        event.top.extend_from_slice(top);
        Ok(token)
    }

    /// Fills `allowed` with what may come next. False, and nothing done, if that is any token.
    fn allow(&mut self, allowed: &mut Allowed) -> Result<bool> {
        let Some(grammar) = &self.grammar else { return Ok(false) };
        let constraint = match &mut self.constraint {
            Some(constraint) => constraint,
            none => none.insert(grammar.begin()?),
        };
        allowed.clear();
        constraint.allow(allowed)?;
        Ok(true)
    }

    fn error(&self, refusal: Refusal, position: usize) -> Error {
        let puts_off = if self.manner.may_end(position) { "" } else { "; min_tokens puts off those that end the text" };
        let problem = |what: &str| format!("must {what} a token to follow position {position}{puts_off}");
        match (refusal, &self.grammar) {
            (Refusal::NothingAllowed, Some(_)) => {
                let leave = format!("allow, and {} leave,", self.manner.forbidding());
                Error::parameter("grammar", "no token", problem(&leave))
            }
            (Refusal::NothingAllowed, None) => {
                Error::parameter(self.manner.forbidding(), "-inf for every token", problem("leave"))
            }
            _ => refusal.into_error(self.id.number(), position as u32),
        }
    }

    /// Why `token` is the last one, if it is. Its text goes to `text` unless it stands for an end.
    fn end_after(&mut self, token: u32, end_tokens: &[u32], text: &mut String) -> Result<Option<Finish>> {
        if self.stop_tokens.contains(&token) {
            return Ok(Some(Finish::StopToken(token)));
        }
        if !self.ignore_end && end_tokens.contains(&token) {
            return Ok(Some(Finish::End(token)));
        }
        // The token came after the position before its own.
        if let Some(stop) = self.text.push(token, self.manner.may_end(self.known - 2), text)? {
            return Ok(Some(Finish::Stop(stop)));
        }
        Ok((self.known - self.prompt == self.max_tokens).then_some(Finish::Length))
    }
}
