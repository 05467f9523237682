//! What a model demands of a batch, so that a backend may rely on it.

use crate::adapter::Loaded;
use crate::backend::Limits;
use crate::batch::{AdapterId, BLOCK, Batch, BlockId};
use crate::config::{Config, Head};
use crate::error::{Error, Result};
use crate::sample::Draw;

/// Checks the batch of every step, in time that grows with its size alone. It keeps a bit for each block of the pool, so that a step
/// allocates nothing.
pub(crate) struct Batches {
    /// Whether the batch at hand writes a block. All zeros between batches.
    written: Vec<u64>,
}

impl Batches {
    /// For batches within `limits`.
    ///
    /// # Errors
    /// [`Error::Memory`] if there is none.
    pub(crate) fn new(limits: &Limits) -> Result<Self> {
        let (mut written, words) = (Vec::new(), limits.blocks.div_ceil(64));
        let refused = |_| Error::refused("marks of KV blocks", 8 * words as u64, "the number of KV blocks");
        written.try_reserve_exact(words).map_err(refused)?;
        written.resize(words, 0);
        Ok(Batches { written })
    }

    /// Refuses a batch that breaks its own description, `limits` or the vocabulary, or has an adapter that is not among `loaded`.
    pub(crate) fn check(
        &mut self,
        batch: &Batch,
        config: &Config,
        limits: &Limits,
        loaded: &[Option<Loaded>],
    ) -> Result<()> {
        by_itself(batch, config, limits)?;
        adapters(batch, loaded)?;
        let twice = written(batch).find(|&block| !self.mark(block));
        written(batch).for_each(|block| self.written[block as usize / 64] = 0);
        match twice {
            Some(block) => Err(Error::parameter("batch.block_ids", block, "is written twice; once was expected")),
            None => Ok(()),
        }
    }

    /// False if it is marked already.
    fn mark(&mut self, block: BlockId) -> bool {
        let (word, bit) = (&mut self.written[block as usize / 64], 1 << (block % 64));
        let before = *word & bit;
        *word |= bit;
        before == 0
    }
}

/// The blocks that the rows of a batch are written to, sequence by sequence: other blocks of its tables are only read, and may be
/// those of several.
fn written(batch: &Batch) -> impl Iterator<Item = BlockId> {
    let of = |s: usize| {
        let positions = &batch.positions[batch.rows_of(s)];
        let ends = positions.first().zip(positions.last());
        let blocks = ends.map_or(0..0, |(&first, &last)| first as usize / BLOCK..last as usize / BLOCK + 1);
        batch.blocks_of(s)[blocks].iter().copied()
    };
    (0..batch.sequences()).flat_map(of)
}

fn by_itself(batch: &Batch, config: &Config, limits: &Limits) -> Result<()> {
    at_most("batch rows", batch.rows(), limits.tokens)?;
    at_most("batch sequences", batch.sequences(), limits.sequences)?;
    at_most("batch outputs", batch.outputs.len(), limits.outputs)?;
    if config.head == Head::None && !batch.outputs.is_empty() {
        return Err(Error::parameter(
            "batch.outputs",
            batch.outputs.len(),
            "this model has no head to compute logits with",
        ));
    }
    indptr("batch.q_indptr", &batch.q_indptr, batch.rows())?;
    indptr("batch.kv_indptr", &batch.kv_indptr, batch.block_ids.len())?;
    if batch.positions.len() != batch.rows() || batch.kv_indptr.len() != batch.q_indptr.len() {
        return Err(Error::parameter("batch.positions", batch.positions.len(), "one for each row is needed"));
    }
    if let Some(token) = batch.tokens.iter().find(|&&token| token as usize >= config.vocab) {
        return Err(Error::parameter("token", token, format!("the vocabulary has {}", config.vocab)));
    }
    if let Some(row) = batch.outputs.iter().find(|&&row| row as usize >= batch.rows()) {
        return Err(Error::parameter("batch.outputs", row, format!("the batch has {} rows", batch.rows())));
    }
    blocks(batch.block_ids.iter().copied(), limits)?;
    (0..batch.sequences()).try_for_each(|s| sequence(batch, s, limits))
}

fn adapters(batch: &Batch, loaded: &[Option<Loaded>]) -> Result<()> {
    if batch.adapters.len() != batch.sequences() {
        return Err(Error::parameter(
            "batch.adapters",
            batch.adapters.len(),
            "one for each sequence is needed, or None",
        ));
    }
    let is_there = |id: AdapterId| loaded.get(id as usize).is_some_and(Option::is_some);
    match batch.adapters.iter().flatten().find(|&&id| !is_there(id)) {
        Some(id) => Err(Error::parameter("batch.adapters", id, "no adapter of this model has that number")),
        None => Ok(()),
    }
}

/// Refuses draws from rows that have no logits, or from one row twice.
pub(crate) fn draws(draws: &[Draw<'_>], batch: &Batch) -> Result<()> {
    let outputs = batch.outputs.len();
    if let Some(draw) = draws.iter().find(|draw| draw.row >= outputs) {
        return Err(Error::parameter("draw", draw.row, format!("the batch has {outputs} outputs")));
    }
    match draws.windows(2).find(|pair| pair[0].row >= pair[1].row) {
        Some(pair) => Err(Error::parameter("draw", pair[1].row, "draws must ascend by row")),
        None => Ok(()),
    }
}

/// Refuses blocks outside the pool.
pub(crate) fn blocks(mut ids: impl Iterator<Item = BlockId>, limits: &Limits) -> Result<()> {
    match ids.find(|&id| id as usize >= limits.blocks) {
        Some(id) => Err(Error::parameter("block", id, format!("the pool has {}", limits.blocks))),
        None => Ok(()),
    }
}

fn sequence(batch: &Batch, s: usize, limits: &Limits) -> Result<()> {
    let (positions, most) = (&batch.positions[batch.rows_of(s)], limits.context.div_ceil(BLOCK));
    let have = batch.blocks_of(s).len();
    if have > most {
        return Err(Error::parameter("batch.block_ids", have, format!("the context has {most} blocks")));
    }
    let Some(&last) = positions.last() else { return Ok(()) };
    at_most("position", last as usize + 1, limits.context)?;
    if positions.windows(2).any(|pair| pair[0].checked_add(1) != Some(pair[1])) {
        return Err(Error::parameter("batch.positions", format!("{positions:?}"), "consecutive positions are needed"));
    }
    let need = last as usize / BLOCK + 1;
    if have < need {
        return Err(Error::parameter("batch.block_ids", have, format!("position {last} needs {need} blocks")));
    }
    Ok(())
}

fn at_most(name: &'static str, value: usize, limit: usize) -> Result<()> {
    if value > limit { Err(Error::parameter(name, value, format!("at most {limit}"))) } else { Ok(()) }
}

fn indptr(name: &'static str, indptr: &[u32], end: usize) -> Result<()> {
    let rises = indptr.first() == Some(&0) && indptr.windows(2).all(|pair| pair[0] <= pair[1]);
    if rises && indptr.last().map(|&last| last as usize) == Some(end) {
        Ok(())
    } else {
        Err(Error::parameter(name, format!("{indptr:?}"), format!("prefix sums from 0 to {end} are needed")))
    }
}
