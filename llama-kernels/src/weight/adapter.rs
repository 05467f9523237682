//! What an adapter adds to a weight: thin matrices, packed as those of floats are.

use llama_core::Result;
use llama_core::backend::{LowRank, Numerics, Part};
use llama_core::format::Format;

use super::{Store, Weight};
use crate::threads::Threads;

/// Products `b a x` that are added to runs of a weight's rows.
pub struct Adapter {
    /// All `a`, a segment each.
    down: Weight,
    /// The `b` of each segment, at their rows of the weight.
    up: Vec<Weight>,
}

impl Adapter {
    /// Packs `parts`, which add to a weight of so many `rows`, in memory of `store`.
    pub fn new(store: &mut Store, rows: usize, parts: &[LowRank<'_>], threads: &Threads) -> Result<Adapter> {
        let down: Vec<_> = parts.iter().map(|part| Part { weight: part.a, bias: None }).collect();
        let down = Weight::within(store, &down, Numerics::default(), threads)?;
        let up = parts.iter().map(|part| Weight::run(store, &part.b, (part.first_row, rows), threads));
        Ok(Adapter { down, up: up.collect::<Result<_>>()? })
    }

    /// Bytes of one of parts `(rows, rank)` that adds to a weight of `cols` columns.
    pub fn bytes(cols: usize, parts: &[(usize, usize)]) -> u64 {
        let floats = |&(rows, rank)| [(Format::F32, rank, cols), (Format::F32, rows, rank)];
        let matrices: Vec<_> = parts.iter().flat_map(floats).collect();
        Weight::bytes(&matrices, Numerics::default())
    }

    /// `[ranks, in]`, each part's ranks after those of the parts before.
    pub fn down(&self) -> &Weight {
        &self.down
    }

    /// `[out, rank]` of each part, with the rows that it adds to alone.
    pub fn up(&self) -> &[Weight] {
        &self.up
    }

    /// The `b` of the part that begins with the weight's row `first`, and how many ranks come before its own.
    pub fn part(&self, first: usize) -> Option<(usize, &Weight)> {
        let before = |ranks: &mut usize, up: &Weight| Some(std::mem::replace(ranks, *ranks + up.cols()));
        let ranks = self.up.iter().scan(0, before);
        ranks.zip(&self.up).find(|(_, up)| up.segments()[0].first_row() == first)
    }
}
