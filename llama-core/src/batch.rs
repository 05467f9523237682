//! One step's work: ragged rows of tokens, each sequence with its table of KV blocks.

/// Tokens in one KV block. A multiple of sixteen, so that a tier may interleave positions inside a block.
pub const BLOCK: usize = 16;

/// Number of a block in the KV cache's pool, `0 .. Limits::blocks`.
pub type BlockId = u32;

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
    }

    /// Becomes `other` and keeps its allocations.
    pub fn copy_from(&mut self, other: &Batch) {
        let Batch { tokens, positions, q_indptr, kv_indptr, block_ids, outputs } = self;
        tokens.clone_from(&other.tokens);
        positions.clone_from(&other.positions);
        q_indptr.clone_from(&other.q_indptr);
        kv_indptr.clone_from(&other.kv_indptr);
        block_ids.clone_from(&other.block_ids);
        outputs.clone_from(&other.outputs);
    }

    /// Appends a sequence's chunk: `tokens` at `position ..`, its whole block table, and which of its rows are outputs
    /// (relative to the chunk, ascending).
    pub fn push(&mut self, tokens: &[u32], position: u32, blocks: &[BlockId], outputs: impl IntoIterator<Item = u32>) {
        let first = self.rows() as u32;
        self.outputs.extend(outputs.into_iter().map(|row| first + row));
        self.tokens.extend_from_slice(tokens);
        self.positions.extend(position..position + tokens.len() as u32);
        self.q_indptr.push(self.tokens.len() as u32);
        self.block_ids.extend_from_slice(blocks);
        self.kv_indptr.push(self.block_ids.len() as u32);
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
    pub fn rows_of(&self, s: usize) -> std::ops::Range<usize> {
        self.q_indptr[s] as usize..self.q_indptr[s + 1] as usize
    }

    /// Block table of sequence `s`.
    pub fn blocks_of(&self, s: usize) -> &[BlockId] {
        &self.block_ids[self.kv_indptr[s] as usize..self.kv_indptr[s + 1] as usize]
    }
}
