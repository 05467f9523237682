//! Byte-pair merging, shared by both kinds of tokenizer.
//!
//! A word is a row of symbols. As long as two neighbours are a known pair, the pair of best rank (the leftmost of equals)
//! becomes one symbol. Rescanning the row after each merge is quadratic; here the symbols form a linked list and all
//! candidate pairs wait in one priority queue, so `n` symbols cost O(n log n): each merge removes a symbol and adds at
//! most two candidates, hence there are never more than 3n of them. A candidate whose symbols changed since it was queued
//! is dropped when it surfaces.
//!
//! Sources: Sennrich et al. 2016 for the merges; SentencePiece (`bpe_model.cc`) for queue and list.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// A symbol: the id of a token, or a number past the vocabulary for a character that only occurs inside tokens.
pub(super) type Symbol = u32;

/// What becomes of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Merge {
    /// Lower merges first.
    pub rank: u32,
    /// The symbol that takes the pair's place.
    pub result: Symbol,
}

/// All known pairs.
#[derive(Clone, Debug, Default)]
pub(super) struct Merges(HashMap<(Symbol, Symbol), Merge>);

/// A pair that could be merged, as it was when it was queued. Ordered by rank, then by place.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    rank: u32,
    left: u32,
    right: u32,
    pair: (Symbol, Symbol),
    result: Symbol,
}

/// Marks the end of the list, and a symbol that was merged into its left neighbour.
const NONE: u32 = u32::MAX;

/// The row of symbols as a doubly linked list over three columns.
struct Row<'a> {
    symbols: &'a mut Vec<Symbol>,
    next: Vec<u32>,
    previous: Vec<u32>,
}

impl Merges {
    /// Adds a pair. A pair that is already known keeps its better rank.
    pub fn insert(&mut self, left: Symbol, right: Symbol, merge: Merge) {
        let entry = self.0.entry((left, right)).or_insert(merge);
        if merge.rank < entry.rank {
            *entry = merge;
        }
    }

    /// Merges `symbols` in place until no known pair is left. Returns how many candidates were looked at.
    ///
    /// `symbols` must be fewer than 2^32 - 1; the tokenizer refuses longer texts.
    pub fn apply(&self, symbols: &mut Vec<Symbol>) -> usize {
        if symbols.len() < 2 || self.0.is_empty() {
            return 0;
        }
        let mut row = Row::new(symbols);
        let mut queue: BinaryHeap<_> =
            (0..row.next.len() as u32).filter_map(|left| self.candidate(&row, left)).map(Reverse).collect();
        let mut looked_at = 0;
        while let Some(Reverse(candidate)) = queue.pop() {
            looked_at += 1;
            if row.still_holds(&candidate) {
                row.join(&candidate);
                queue.extend(self.candidate(&row, candidate.left).map(Reverse));
                let before = row.previous[candidate.left as usize];
                if before != NONE {
                    queue.extend(self.candidate(&row, before).map(Reverse));
                }
            }
        }
        row.compact();
        looked_at
    }

    /// The pair that starts at `left`, if it is known.
    fn candidate(&self, row: &Row<'_>, left: u32) -> Option<Candidate> {
        let right = row.next[left as usize];
        if right == NONE {
            return None;
        }
        let pair = (row.symbols[left as usize], row.symbols[right as usize]);
        self.0.get(&pair).map(|merge| Candidate { rank: merge.rank, left, right, pair, result: merge.result })
    }
}

impl<'a> Row<'a> {
    fn new(symbols: &'a mut Vec<Symbol>) -> Self {
        let n = symbols.len() as u32;
        let mut next: Vec<u32> = (1..=n).collect();
        next[n as usize - 1] = NONE;
        let previous = std::iter::once(NONE).chain(0..n - 1).collect();
        Row { symbols, next, previous }
    }

    fn still_holds(&self, c: &Candidate) -> bool {
        self.next[c.left as usize] == c.right
            && self.symbols[c.left as usize] == c.pair.0
            && self.symbols[c.right as usize] == c.pair.1
    }

    /// Puts the result where the left symbol was and takes the right one out of the list.
    fn join(&mut self, c: &Candidate) {
        let after = self.next[c.right as usize];
        self.symbols[c.left as usize] = c.result;
        self.symbols[c.right as usize] = NONE;
        self.next[c.right as usize] = NONE;
        self.next[c.left as usize] = after;
        if after != NONE {
            self.previous[after as usize] = c.left;
        }
    }

    fn compact(self) {
        self.symbols.retain(|&s| s != NONE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// a=0 b=1; aa=2 (rank 1), ab=3 (rank 0), aaaa=4 (rank 2)
    fn merges() -> Merges {
        let mut merges = Merges::default();
        merges.insert(0, 0, Merge { rank: 1, result: 2 });
        merges.insert(0, 1, Merge { rank: 0, result: 3 });
        merges.insert(2, 2, Merge { rank: 2, result: 4 });
        merges
    }

    fn apply(mut symbols: Vec<Symbol>) -> Vec<Symbol> {
        merges().apply(&mut symbols);
        symbols
    }

    #[test]
    fn best_rank_first_then_leftmost() {
        assert_eq!(apply(vec![0, 0, 1]), [0, 3]);
        assert_eq!(apply(vec![0, 0, 0]), [2, 0]);
        assert_eq!(apply(vec![0; 9]), [4, 4, 0]);
        assert_eq!(apply(vec![1]), [1]);
        assert_eq!(apply(vec![]), [0u32; 0]);
    }

    #[test]
    fn work_is_linear_in_one_repeated_symbol() {
        let work = |n: usize| merges().apply(&mut vec![0; n]);
        for n in [1_000, 10_000, 100_000] {
            assert!(work(n) <= 3 * n);
            assert!(2 * work(2 * n) <= 5 * work(n), "t(2n)/t(n) over 2.5 at {n}");
        }
    }

    #[test]
    fn a_repeated_pair_keeps_its_better_rank() {
        let mut merges = Merges::default();
        merges.insert(0, 1, Merge { rank: 3, result: 8 });
        merges.insert(0, 1, Merge { rank: 5, result: 9 });
        let mut row = vec![0, 1];
        merges.apply(&mut row);
        assert_eq!(row, [8]);
    }
}
