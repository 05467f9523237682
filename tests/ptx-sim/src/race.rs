//! Data races: two accesses to a byte, at least one a write, not both atomic, that nothing orders.
//!
//! Inside a block, accesses are ordered if a block-wide barrier lies between them, or, within a warp, a `bar.warp.sync`.
//! So it is enough to number each thread's barriers: an access carries its thread and the two counts, and precedes a later
//! one if it has a smaller count. (`__syncwarp` over part of a warp orders nothing here.) Between blocks nothing orders
//! plain accesses. The idea of keeping only the last write and a couple of reads per byte is FastTrack's (Flanagan and
//! Freund, 2009), with barriers in place of vector clocks.

/// Who accesses, and after how many barriers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Linear index of the block.
    pub block: u32,
    /// Linear index of the thread in its block.
    pub thread: u32,
    pub barriers: u32,
    pub warp_barriers: u32,
}

/// How a byte is accessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
    Atomic,
}

impl Stamp {
    const NOBODY: Stamp = Stamp { block: u32::MAX, thread: u32::MAX, barriers: 0, warp_barriers: 0 };

    fn same_warp(self, other: Stamp) -> bool {
        self.block == other.block && self.thread / 32 == other.thread / 32
    }

    /// Whether this access is ordered before a later one.
    fn precedes(self, now: Stamp) -> bool {
        self.thread == u32::MAX
            || (self.block == now.block && (self.thread == now.thread || self.barriers < now.barriers))
            || (self.same_warp(now) && self.warp_barriers < now.warp_barriers)
    }
}

/// What is remembered about a byte.
#[derive(Debug, Clone, Copy)]
struct Cell {
    write: Stamp,
    atomic: bool,
    reads: [Stamp; 2],
}

impl Cell {
    const FRESH: Cell = Cell { write: Stamp::NOBODY, atomic: false, reads: [Stamp::NOBODY; 2] };

    /// Records an access; returns an earlier one it races with.
    fn access(&mut self, now: Stamp, access: Access) -> Option<Stamp> {
        let both_atomic = self.atomic && access == Access::Atomic;
        if !both_atomic && !self.write.precedes(now) {
            return Some(self.write);
        }
        if access == Access::Read {
            self.remember_read(now);
            return None;
        }
        let racing = self.reads.into_iter().find(|read| !read.precedes(now));
        *self = Cell { write: now, atomic: access == Access::Atomic, reads: [Stamp::NOBODY; 2] };
        racing
    }

    /// Two unordered reads are kept, of different warps if there were any: then a later write that some forgotten read is
    /// unordered with is unordered with one of them.
    fn remember_read(&mut self, now: Stamp) {
        let [first, second] = self.reads;
        let in_place_of_first =
            first.precedes(now) || (!second.precedes(now) && first.same_warp(now) && !second.same_warp(now));
        self.reads[usize::from(!in_place_of_first)] = now;
    }
}

const PAGE: usize = 256;

/// The accesses to a stretch of memory since a launch began. Pages nobody touched cost nothing.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pages: Vec<Option<Box<[Cell; PAGE]>>>,
}

impl Log {
    /// Records an access to some bytes; returns the first that races, and with whom.
    pub fn access(&mut self, start: usize, bytes: usize, now: Stamp, access: Access) -> Option<(usize, Stamp)> {
        (start..start + bytes).find_map(|at| self.cell(at).access(now, access).map(|other| (at, other)))
    }

    fn cell(&mut self, at: usize) -> &mut Cell {
        if self.pages.len() <= at / PAGE {
            self.pages.resize_with(at / PAGE + 1, || None);
        }
        let page = self.pages[at / PAGE].get_or_insert_with(|| Box::new([Cell::FRESH; PAGE]));
        &mut page[at % PAGE]
    }

    pub fn clear(&mut self) {
        self.pages.clear();
    }
}
