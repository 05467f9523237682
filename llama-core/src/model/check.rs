//! What a model demands of a batch, so that a backend may rely on it.

use crate::backend::Limits;
use crate::batch::{BLOCK, Batch, BlockId};
use crate::config::{Config, Head};
use crate::error::{Error, Result};
use crate::sample::Draw;

/// Refuses a batch that breaks its own description, `limits` or the vocabulary.
pub(crate) fn batch(batch: &Batch, config: &Config, limits: &Limits) -> Result<()> {
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
    let positions = &batch.positions[batch.rows_of(s)];
    let Some(&last) = positions.last() else { return Ok(()) };
    at_most("position", last as usize + 1, limits.context)?;
    if positions.windows(2).any(|pair| pair[0].checked_add(1) != Some(pair[1])) {
        return Err(Error::parameter("batch.positions", format!("{positions:?}"), "consecutive positions are needed"));
    }
    let (have, need) = (batch.blocks_of(s).len(), last as usize / BLOCK + 1);
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
