//! One step's work: ragged rows of tokens, each sequence with its table of KV blocks.

use std::ops::Range;

/// Tokens in one KV block. A multiple of sixteen, so that a tier may interleave positions inside a block.
pub const BLOCK: usize = 16;

/// Number of a block in the KV cache's pool, `0 .. Limits::blocks`.
pub type BlockId = u32;

/// Number of a place for an adapter that a model has: first those of the adapters that it was loaded with.
pub type AdapterId = u32;

/// The tokens of one step, sequence after sequence, without padding.
///
/// Sequence `s` owns rows `q_indptr[s] .. q_indptr[s + 1]`, at consecutive positions; the KV of positions
/// `0 ..= its last position` lives in blocks `block_ids[kv_indptr[s] .. kv_indptr[s + 1]]`, position `p` in slot
/// `p % BLOCK` of the `p / BLOCK`-th of them. A table is no longer than the context's blocks. The blocks of the rows in this batch
/// are written by it, each by one sequence and as one of its table's; those before are read, and sequences may share them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// `[rows]` token ids, each below `vocab`.
    pub tokens: Vec<u32>,
    /// `[rows]` absolute position of each token in its sequence.
    pub positions: Vec<u32>,
    /// `[sequences + 1]` prefix sums of rows.
    pub q_indptr: Vec<u32>,
    /// `[sequences + 1]` prefix sums of blocks.
    pub kv_indptr: Vec<u32>,
    /// Block tables, one after the other.
    pub block_ids: Vec<BlockId>,
    /// Rows whose logits are wanted, ascending.
    pub outputs: Vec<u32>,
    /// `[sequences]` the adapter that each is computed with, if it is with one.
    pub adapters: Vec<Option<AdapterId>>,
}

/// Which rows of a step a verb's tensors have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// All of them.
    Tokens,
    /// Those whose logits are wanted.
    Outputs,
}

impl Stage {
    /// Every stage, each at the place of its number.
    pub const ALL: [Stage; 2] = [Stage::Tokens, Stage::Outputs];
}

/// Consecutive rows that one adapter changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterRun {
    /// Which.
    pub adapter: AdapterId,
    /// Of the tensors of a [`Stage`].
    pub rows: Range<usize>,
}

impl Batch {
    /// An empty batch, ready for [`Batch::push`].
    pub fn new() -> Self {
        Batch { q_indptr: vec![0], kv_indptr: vec![0], ..Batch::default() }
    }

    /// Empties the batch and keeps its allocations.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.q_indptr.clear();
        self.q_indptr.push(0);
        self.kv_indptr.clear();
        self.kv_indptr.push(0);
        self.block_ids.clear();
        self.outputs.clear();
        self.adapters.clear();
    }

    /// Becomes `other` and keeps its allocations.
    pub fn copy_from(&mut self, other: &Batch) {
        let Batch { tokens, positions, q_indptr, kv_indptr, block_ids, outputs, adapters } = self;
        tokens.clone_from(&other.tokens);
        positions.clone_from(&other.positions);
        q_indptr.clone_from(&other.q_indptr);
        kv_indptr.clone_from(&other.kv_indptr);
        block_ids.clone_from(&other.block_ids);
        outputs.clone_from(&other.outputs);
        adapters.clone_from(&other.adapters);
    }

    /// Appends a sequence's chunk: `tokens` at `position ..`, its whole block table, and which of its rows are outputs
    /// (relative to the chunk, ascending). It is computed without an adapter, unless [`Batch::adapt`] follows.
    pub fn push(&mut self, tokens: &[u32], position: u32, blocks: &[BlockId], outputs: impl IntoIterator<Item = u32>) {
        let first = self.rows() as u32;
        self.outputs.extend(outputs.into_iter().map(|row| first + row));
        self.tokens.extend_from_slice(tokens);
        self.positions.extend(position..position + tokens.len() as u32);
        self.q_indptr.push(self.tokens.len() as u32);
        self.block_ids.extend_from_slice(blocks);
        self.kv_indptr.push(self.block_ids.len() as u32);
        self.adapters.push(None);
    }

    /// Has the sequence that was pushed last computed with `adapter`.
    pub fn adapt(&mut self, adapter: Option<AdapterId>) {
        if let Some(last) = self.adapters.last_mut() {
            *last = adapter;
        }
    }

    /// The rows that adapters change, into `runs`, which is replaced: at most one run a sequence, ascending, neighbours of one
    /// adapter together.
    pub fn adapted(&self, stage: Stage, runs: &mut Vec<AdapterRun>) {
        runs.clear();
        for (s, adapter) in self.adapters.iter().enumerate() {
            let rows = self.rows_of(s);
            let rows = match stage {
                Stage::Tokens => rows,
                Stage::Outputs => self.outputs_before(rows.start)..self.outputs_before(rows.end),
            };
            let Some(adapter) = adapter.filter(|_| !rows.is_empty()) else { continue };
            match runs.last_mut() {
                Some(last) if last.adapter == adapter && last.rows.end == rows.start => last.rows.end = rows.end,
                _ => runs.push(AdapterRun { adapter, rows }),
            }
        }
    }

    /// How many outputs are of rows before `row`.
    fn outputs_before(&self, row: usize) -> usize {
        self.outputs.partition_point(|&output| (output as usize) < row)
    }

    /// Rows, which are tokens.
    pub fn rows(&self) -> usize {
        self.tokens.len()
    }

    /// Sequences.
    pub fn sequences(&self) -> usize {
        self.q_indptr.len().saturating_sub(1)
    }

    /// Rows of sequence `s`.
    pub fn rows_of(&self, s: usize) -> Range<usize> {
        self.q_indptr[s] as usize..self.q_indptr[s + 1] as usize
    }

    /// Block table of sequence `s`.
    pub fn blocks_of(&self, s: usize) -> &[BlockId] {
        &self.block_ids[self.kv_indptr[s] as usize..self.kv_indptr[s + 1] as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_one_adapter_join_and_stages_differ() {
        let mut batch = Batch::new();
        let outputs: [&[u32]; 6] = [&[1], &[], &[0], &[2], &[0], &[]];
        for (s, (adapter, rows)) in
            [(None, 2), (Some(3), 4), (Some(3), 1), (Some(0), 3), (Some(0), 1), (Some(3), 1)].into_iter().enumerate()
        {
            batch.push(&vec![7; rows], 0, &[s as BlockId], outputs[s].iter().copied());
            batch.adapt(adapter);
        }
        let runs = |stage| {
            let mut runs = vec![AdapterRun { adapter: 9, rows: 0..9 }];
            batch.adapted(stage, &mut runs);
            runs.into_iter().map(|run| (run.adapter, run.rows)).collect::<Vec<_>>()
        };
        assert_eq!(runs(Stage::Tokens), [(3, 2..7), (0, 7..11), (3, 11..12)]);
        assert_eq!(runs(Stage::Outputs), [(3, 1..2), (0, 2..4)]);
    }
}
