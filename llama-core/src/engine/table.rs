//! One sequence's blocks: which positions have their KV, and where.

use crate::batch::{BLOCK, BlockId};
use crate::kv::{BlockPool, Prefix};

/// A block table. Positions `0 .. computed` have their KV in `blocks`; the first `published` blocks are full, immutable and
/// perhaps shared, the rest are this sequence's own.
#[derive(Debug)]
pub(super) struct Table {
    blocks: Vec<BlockId>,
    computed: usize,
    published: usize,
    /// What precedes the first block.
    start: Prefix,
    /// The tokens of the published blocks.
    through: Prefix,
    /// Whether blocks are published and looked for.
    sharing: bool,
}

impl Table {
    /// An empty table that grows without allocating as far as `positions`; `start` precedes its first block.
    pub fn new(start: Prefix, sharing: bool, positions: usize) -> Self {
        let blocks = Vec::with_capacity(positions.div_ceil(BLOCK));
        Table { blocks, computed: 0, published: 0, start, through: start, sharing }
    }

    pub fn blocks(&self) -> &[BlockId] {
        &self.blocks
    }

    /// Positions that have their KV.
    pub fn computed(&self) -> usize {
        self.computed
    }

    /// Blocks still to be allocated before `positions` positions have their KV.
    pub fn missing(&self, positions: usize) -> usize {
        positions.div_ceil(BLOCK).saturating_sub(self.blocks.len())
    }

    /// Takes over published blocks that hold the next of `tokens`, which are those that may be skipped. Returns how many
    /// tokens that saved. Does something only where all computed blocks are published, so before the first chunk or
    /// between two that end on a block's border: another sequence may have published the next block meanwhile.
    pub fn reuse(&mut self, pool: &mut BlockPool, tokens: &[u32]) -> usize {
        let before = self.computed;
        while self.sharing && self.computed == self.published * BLOCK && self.blocks.len() == self.published {
            let next = tokens.get(self.computed..).and_then(|rest| rest.first_chunk());
            let Some((id, through)) = next.and_then(|next| pool.find(self.through, next)) else { break };
            self.blocks.push(id);
            self.through = through;
            self.published += 1;
            self.computed += BLOCK;
        }
        self.computed - before
    }

    /// Positions that its blocks have left.
    pub fn room(&self) -> usize {
        self.blocks.len() * BLOCK - self.computed
    }

    /// Allocates blocks for the next `rows` tokens, as far as there are any. Returns how many tokens have room.
    pub fn reserve(&mut self, pool: &mut BlockPool, rows: usize) -> usize {
        for _ in 0..self.missing(self.computed + rows) {
            let Some(id) = pool.allocate() else { break };
            self.blocks.push(id);
        }
        rows.min(self.room())
    }

    /// Notes that the next `rows` of `tokens` have their KV, and publishes the blocks they filled.
    pub fn commit(&mut self, pool: &mut BlockPool, tokens: &[u32], rows: usize) {
        self.computed += rows;
        let (full, _) = tokens[..self.computed].as_chunks::<BLOCK>();
        while self.sharing && self.published < full.len() {
            let own = self.blocks[self.published];
            let (id, through) = pool.publish(own, self.through, &full[self.published]);
            self.blocks[self.published] = id;
            self.through = through;
            self.published += 1;
        }
    }

    /// Forgets the KV of all positions from `positions` on, none of which is in a published block.
    pub fn truncate(&mut self, pool: &mut BlockPool, positions: usize) {
        assert!(self.published * BLOCK <= positions, "{positions} positions and {} published blocks", self.published);
        self.computed = self.computed.min(positions);
        self.rollback(pool);
    }

    /// Gives back what was reserved and never committed.
    pub fn rollback(&mut self, pool: &mut BlockPool) {
        for id in self.blocks.drain(self.computed.div_ceil(BLOCK)..).rev() {
            pool.release(id);
        }
    }

    /// Gives everything back, last block first. Published blocks stay findable until their room is needed.
    pub fn release(&mut self, pool: &mut BlockPool) {
        self.computed = 0;
        self.published = 0;
        self.through = self.start;
        self.rollback(pool);
    }

    /// Gives everything back, and nobody shall find it: it led to numbers that are not finite.
    pub fn discard(&mut self, pool: &mut BlockPool) {
        self.blocks.iter().for_each(|&id| pool.forget(id));
        self.release(pool);
    }
}
