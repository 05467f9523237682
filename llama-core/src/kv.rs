//! Who owns which block of the KV cache: ids, reference counts and prefix sharing. No bytes.
//!
//! A sequence's KV lives in blocks of [`BLOCK`] tokens, as in PagedAttention (Kwon et al. 2023, arXiv:2309.06180). A block
//! is born private to the sequence that allocated it. Once its last slot has been written its owner may *publish* it:
//! from then on it is immutable, and any sequence that starts with the same tokens may share it. There is no other way
//! to share, so a block being written always has one owner.
//!
//! A published block is found by what precedes it and what it holds. What precedes it is a [`Prefix`], a number that
//! stands for one exact list of tokens and is never given out twice, so a block whose predecessor was evicted and
//! replaced cannot be found by mistake. The tokens themselves are the rest of the key, compared in full: two prompts whose
//! hashes collide (or were made to collide) share nothing.
//!
//! A published block that nobody references stays until its room is needed. The least recently used goes first, and a
//! sequence releases its last block first, so chains shrink from their tails.

use std::collections::HashMap;

use crate::batch::{BLOCK, BlockId};
use crate::error::{Error, Result};

/// Stands for one exact list of tokens that fills whole blocks, computed by the model as it is or with one adapter. Never reused
/// within a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Prefix(u64);

impl Prefix {
    /// No tokens: what precedes a sequence's first block.
    pub const EMPTY: Prefix = Prefix(0);
}

/// What a published block is found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    before: Prefix,
    tokens: [u32; BLOCK],
}

#[derive(Debug, Clone, Copy)]
struct Published {
    key: Key,
    /// The tokens up to and including this block's.
    through: Prefix,
}

#[derive(Debug, Clone, Default)]
struct Block {
    references: u32,
    published: Option<Published>,
    /// Neighbours in the list of unreferenced published blocks.
    older: Option<BlockId>,
    newer: Option<BlockId>,
}

/// The blocks of one KV cache.
#[derive(Debug)]
pub struct BlockPool {
    blocks: Vec<Block>,
    /// Unreferenced and unpublished.
    blank: Vec<BlockId>,
    index: HashMap<Key, BlockId>,
    /// Ends of the list of unreferenced published blocks, and its length.
    oldest: Option<BlockId>,
    newest: Option<BlockId>,
    idle: usize,
    last_prefix: u64,
}

impl BlockPool {
    /// A pool of blank blocks `0 .. blocks`.
    ///
    /// # Errors
    /// [`Error::Memory`] if there is none for the pool's own lists, [`BlockPool::bytes`].
    ///
    /// # Panics
    /// If `blocks` exceeds the range of [`BlockId`].
    pub fn new(blocks: usize) -> Result<Self> {
        let count = BlockId::try_from(blocks).expect("block ids are 32-bit");
        let refused = |_| Error::refused("the lists of KV blocks", Self::bytes(blocks), "context or sequences");
        let (mut all, mut blank, mut index) = (Vec::new(), Vec::new(), HashMap::new());
        all.try_reserve_exact(blocks).map_err(refused)?;
        blank.try_reserve_exact(blocks).map_err(refused)?;
        // Twice the number of entries: a table at most half full never grows to shed the traces of removed keys.
        index.try_reserve(2 * blocks).map_err(refused)?;
        all.resize(blocks, Block::default());
        blank.extend((0..count).rev());
        let last_prefix = Prefix::EMPTY.0;
        Ok(BlockPool { blocks: all, blank, index, oldest: None, newest: None, idle: 0, last_prefix })
    }

    /// Bytes that the lists of a pool of `blocks` blocks take.
    pub fn bytes(blocks: usize) -> u64 {
        // The standard library's table: a power of two of buckets, at most 7/8 of them full, a byte of control for each.
        let buckets = (2 * blocks as u64 * 8 / 7 + 1).next_power_of_two();
        let lists = size_of::<Block>() + size_of::<BlockId>();
        blocks as u64 * lists as u64 + buckets * (size_of::<(Key, BlockId)>() as u64 + 1)
    }

    /// All blocks.
    pub fn capacity(&self) -> usize {
        self.blocks.len()
    }

    /// Blocks that [`BlockPool::allocate`] can hand out: blank, or published and unreferenced.
    pub fn available(&self) -> usize {
        self.blank.len() + self.idle
    }

    /// Blocks that a sequence references.
    pub fn used(&self) -> usize {
        self.capacity() - self.available()
    }

    /// Blocks that can be found by their tokens, referenced or not.
    pub fn published(&self) -> usize {
        self.index.len()
    }

    /// How many references `id` has.
    pub fn references(&self, id: BlockId) -> u32 {
        self.blocks[id as usize].references
    }

    /// Whether `id` may be written: one owner, not published.
    pub fn is_private(&self, id: BlockId) -> bool {
        let block = &self.blocks[id as usize];
        block.references == 1 && block.published.is_none()
    }

    /// A private block, or `None` if every block is referenced. Evicts the least recently used unreferenced published
    /// block when none is blank.
    pub fn allocate(&mut self) -> Option<BlockId> {
        let id = self.blank.pop().or_else(|| self.evict())?;
        self.blocks[id as usize].references = 1;
        Some(id)
    }

    /// Gives back one reference.
    ///
    /// # Panics
    /// If there is none.
    pub fn release(&mut self, id: BlockId) {
        let block = &mut self.blocks[id as usize];
        assert!(block.references > 0, "block {id} released without a reference");
        block.references -= 1;
        if block.references == 0 {
            match block.published {
                Some(_) => self.link(id),
                None => self.blank.push(id),
            }
        }
    }

    /// No tokens, as [`Prefix::EMPTY`], for sequences whose blocks nobody else shall find: those of an adapter.
    pub fn another_empty(&mut self) -> Prefix {
        self.new_prefix()
    }

    /// The block that holds `tokens` after `before`, with a reference for the caller, and the prefix through it.
    pub fn find(&mut self, before: Prefix, tokens: &[u32; BLOCK]) -> Option<(BlockId, Prefix)> {
        let id = *self.index.get(&Key { before, tokens: *tokens })?;
        let through = self.blocks[id as usize].published?.through;
        self.share(id);
        Some((id, through))
    }

    /// Makes the caller's private block `id`, whose slots all hold KV, findable as `tokens` after `before`. Returns the
    /// block to use from now on and the prefix through it: where the same tokens were published already, the caller's
    /// block is released in exchange for a reference to that one.
    ///
    /// # Panics
    /// If `id` is not private.
    pub fn publish(&mut self, id: BlockId, before: Prefix, tokens: &[u32; BLOCK]) -> (BlockId, Prefix) {
        assert!(self.is_private(id), "block {id} published twice, or while shared");
        if let Some(found) = self.find(before, tokens) {
            self.release(id);
            return found;
        }
        let (key, through) = (Key { before, tokens: *tokens }, self.new_prefix());
        self.blocks[id as usize].published = Some(Published { key, through });
        self.index.insert(key, id);
        (id, through)
    }

    /// Makes `id` unfindable: what it holds is not to be trusted. Those who share it keep their references.
    pub fn forget(&mut self, id: BlockId) {
        if let Some(published) = self.blocks[id as usize].published.take() {
            self.index.remove(&published.key);
            if self.blocks[id as usize].references == 0 {
                self.unlink(id);
                self.blank.push(id);
            }
        }
    }

    /// Makes every block unfindable, and those nobody references blank.
    pub fn forget_all(&mut self) {
        for id in 0..self.blocks.len() {
            self.forget(id as BlockId);
        }
    }

    fn new_prefix(&mut self) -> Prefix {
        self.last_prefix += 1;
        Prefix(self.last_prefix)
    }

    fn share(&mut self, id: BlockId) {
        if self.blocks[id as usize].references == 0 {
            self.unlink(id);
        }
        self.blocks[id as usize].references += 1;
    }

    fn evict(&mut self) -> Option<BlockId> {
        self.forget(self.oldest?);
        self.blank.pop()
    }

    /// Appends `id` to the list of unreferenced published blocks.
    fn link(&mut self, id: BlockId) {
        let older = self.newest.replace(id);
        self.blocks[id as usize].older = older;
        match older {
            Some(older) => self.blocks[older as usize].newer = Some(id),
            None => self.oldest = Some(id),
        }
        self.idle += 1;
    }

    fn unlink(&mut self, id: BlockId) {
        let block = &mut self.blocks[id as usize];
        let (older, newer) = (block.older.take(), block.newer.take());
        match older {
            Some(older) => self.blocks[older as usize].newer = newer,
            None => self.oldest = newer,
        }
        match newer {
            Some(newer) => self.blocks[newer as usize].older = older,
            None => self.newest = older,
        }
        self.idle -= 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The pool said as plainly as possible, with linear scans, and the whole list of tokens behind every prefix.
    #[derive(Default)]
    struct Naive {
        references: Vec<u32>,
        published: Vec<Option<(Prefix, [u32; BLOCK])>>,
        /// Unreferenced published blocks, least recently used first.
        idle: Vec<BlockId>,
        /// What each prefix given out stands for.
        prefixes: HashMap<Prefix, Vec<u32>>,
    }

    impl Naive {
        fn new(blocks: usize) -> Self {
            Naive {
                references: vec![0; blocks],
                published: vec![None; blocks],
                prefixes: HashMap::from([(Prefix::EMPTY, vec![])]),
                ..Naive::default()
            }
        }

        fn holder(&self, before: Prefix, tokens: [u32; BLOCK]) -> Option<BlockId> {
            let position = self.published.iter().position(|&held| held == Some((before, tokens)))?;
            Some(position as BlockId)
        }

        fn allocate(&mut self, got: Option<BlockId>) {
            let blank = |id: usize| self.references[id] == 0 && self.published[id].is_none();
            let any_blank = (0..self.references.len()).any(blank);
            let Some(id) = got else {
                assert!(!any_blank && self.idle.is_empty(), "refused with room left");
                return;
            };
            if any_blank {
                assert!(blank(id as usize), "{id} taken while a blank block was left");
            } else {
                assert_eq!(id, self.idle.remove(0), "not the least recently used");
                self.published[id as usize] = None;
            }
            self.references[id as usize] = 1;
        }

        fn release(&mut self, id: BlockId) {
            self.references[id as usize] -= 1;
            if self.references[id as usize] == 0 && self.published[id as usize].is_some() {
                self.idle.push(id);
            }
        }

        fn share(&mut self, id: BlockId) {
            self.references[id as usize] += 1;
            self.idle.retain(|&idle| idle != id);
        }

        fn forget(&mut self, id: BlockId) {
            self.published[id as usize] = None;
            self.idle.retain(|&idle| idle != id);
        }

        fn check(&self, pool: &BlockPool) {
            let used = self.references.iter().filter(|&&count| count > 0).count();
            assert_eq!(pool.used(), used);
            assert_eq!(pool.available(), pool.capacity() - used);
            assert_eq!(pool.published(), self.published.iter().flatten().count());
            for (id, &count) in self.references.iter().enumerate() {
                assert_eq!(pool.references(id as BlockId), count, "references of {id}");
            }
        }
    }

    /// A handle of the test: one reference to a block, and where in which list of tokens it stands once published.
    #[derive(Clone, Copy)]
    struct Held {
        id: BlockId,
        through: Option<Prefix>,
    }

    /// `before` plus one block made from a small alphabet, so that lists often coincide.
    fn content(naive: &Naive, before: Prefix, letter: u32) -> (Vec<u32>, [u32; BLOCK]) {
        let tokens = [letter % 3; BLOCK];
        let mut list = naive.prefixes[&before].clone();
        list.extend(tokens);
        (list, tokens)
    }

    fn act(pool: &mut BlockPool, naive: &mut Naive, held: &mut Vec<Held>, (what, which, letter): (u8, usize, u32)) {
        let before = match which % 4 {
            0 => Prefix::EMPTY,
            _ => held.get(which % held.len().max(1)).and_then(|held| held.through).unwrap_or(Prefix::EMPTY),
        };
        match what % 8 {
            0..=2 => {
                let got = pool.allocate();
                naive.allocate(got);
                held.extend(got.map(|id| Held { id, through: None }));
            }
            3 if !held.is_empty() => {
                let gone = held.swap_remove(which % held.len());
                pool.release(gone.id);
                naive.release(gone.id);
            }
            4 => {
                let (list, tokens) = content(naive, before, letter);
                let found = pool.find(before, &tokens);
                assert_eq!(found.map(|(id, _)| id), naive.holder(before, tokens));
                if let Some((id, through)) = found {
                    assert_eq!(naive.prefixes[&through], list, "shared other tokens");
                    naive.share(id);
                    held.push(Held { id, through: Some(through) });
                }
            }
            5 | 6 => {
                let Some(at) = held.iter().position(|held| pool.is_private(held.id)) else { return };
                let (list, tokens) = content(naive, before, letter);
                let (id, through) = pool.publish(held[at].id, before, &tokens);
                match naive.holder(before, tokens) {
                    Some(holder) => {
                        assert_eq!(id, holder);
                        assert_eq!(naive.prefixes[&through], list);
                        naive.share(id);
                        naive.release(held[at].id);
                    }
                    None => {
                        assert_eq!(id, held[at].id);
                        assert!(naive.prefixes.insert(through, list).is_none(), "prefix given out twice");
                        naive.published[id as usize] = Some((before, tokens));
                    }
                }
                held[at] = Held { id, through: Some(through) };
            }
            7 if letter == 0 => {
                let id = (which % pool.capacity()) as BlockId;
                pool.forget(id);
                naive.forget(id);
            }
            _ => {}
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_naive_pool(
            blocks in 1usize..9,
            actions in prop::collection::vec((any::<u8>(), 0usize..1000, 0u32..8), 1..300),
        ) {
            let (mut pool, mut naive, mut held) = (BlockPool::new(blocks).unwrap(), Naive::new(blocks), Vec::new());
            for action in actions {
                act(&mut pool, &mut naive, &mut held, action);
                naive.check(&pool);
            }
            for held in held.drain(..) {
                pool.release(held.id);
            }
            prop_assert_eq!(pool.used(), 0);
            pool.forget_all();
            prop_assert_eq!((pool.published(), pool.available()), (0, blocks));
        }
    }

    #[test]
    fn an_evicted_parent_makes_its_children_unreachable() {
        let mut pool = BlockPool::new(2).unwrap();
        let (parent, child) = (pool.allocate().unwrap(), pool.allocate().unwrap());
        let (_, first) = pool.publish(parent, Prefix::EMPTY, &[1; BLOCK]);
        pool.publish(child, first, &[2; BLOCK]);
        pool.release(parent);
        let replaced = pool.allocate().unwrap();
        assert_eq!(replaced, parent);
        let (_, other) = pool.publish(replaced, Prefix::EMPTY, &[9; BLOCK]);
        assert_eq!(pool.find(other, &[2; BLOCK]), None, "the child belongs after [1; BLOCK] only");
        assert_eq!(pool.find(Prefix::EMPTY, &[1; BLOCK]), None);
    }

    #[test]
    #[should_panic(expected = "released without a reference")]
    fn a_double_release_is_caught() {
        let mut pool = BlockPool::new(1).unwrap();
        let id = pool.allocate().unwrap();
        pool.release(id);
        pool.release(id);
    }
}
