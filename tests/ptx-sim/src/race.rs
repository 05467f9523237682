//! Data races: two accesses to a byte, at least one a write, not both strong, that nothing orders (see `order`).
//!
//! For each *cell* of memory the last write and the reads since are kept. Cells are as small as the accesses: 16 bytes where
//! threads move 16 bytes, one where they write single bytes. Reads are kept per warp. In global memory only two warps'
//! reads are kept, of different warps if there were any, so a write that races with a third warp's read alone may pass; in
//! shared memory all are.

use std::collections::HashMap;

use crate::order::{Epoch, Released, View};

/// Who accesses: the thread whose knowledge counts, and what is remembered of the access.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Who<'a> {
    pub me: Epoch,
    pub view: &'a View,
    /// The thread itself, or the engine that works for it.
    pub mark: Epoch,
    /// Actors from here on are engines.
    pub threads: u32,
}

impl Who<'_> {
    fn precedes(&self, earlier: Epoch) -> bool {
        earlier == Epoch::NONE || earlier.same_actor(self.me) || self.view.seen.knows(earlier)
    }

    /// Whether the asynchronous proxy, if this access goes through it, sees a write.
    fn proxy_sees(&self, write: Epoch) -> bool {
        write == Epoch::NONE
            || !self.mark.is_asynchronous()
            || write.is_asynchronous()
            || self.view.proxied.knows(write)
    }

    fn is_thread(&self, epoch: Epoch) -> bool {
        epoch.actor() < self.threads
    }
}

/// Reads at one clock of a warp's threads, or of an engine.
#[derive(Debug, Clone, Copy)]
struct Reads {
    epoch: Epoch,
    lanes: u32,
}

impl Reads {
    const NONE: Reads = Reads { epoch: Epoch::NONE, lanes: 0 };

    fn one(who: &Who<'_>) -> Reads {
        let lanes = if who.is_thread(who.mark) { 1 << (who.mark.actor() % 32) } else { 0 };
        Reads { epoch: who.mark, lanes }
    }

    /// The first of these reads that does not precede an access.
    fn unordered(&self, who: &Who<'_>) -> Option<Epoch> {
        if self.lanes == 0 {
            return (!who.precedes(self.epoch)).then_some(self.epoch);
        }
        let all = (0..32).filter(|lane| self.lanes >> lane & 1 == 1).map(|lane| self.epoch.of_lane(lane));
        all.into_iter().find(|read| !who.precedes(*read))
    }

    /// The first of these reads that races with a write.
    fn race(&self, who: &Who<'_>) -> Option<Epoch> {
        if who.mark.is_strong() && self.epoch.is_strong() { None } else { self.unordered(who) }
    }

    /// Adds a read of the same warp at the same clock.
    fn merge(&mut self, other: Reads) -> bool {
        let (own, new) = (self.epoch, other.epoch);
        let same = own.same_warp(new)
            && self.lanes != 0
            && other.lanes != 0
            && own.clock() == new.clock()
            && own.is_strong() == new.is_strong();
        self.lanes |= if same { other.lanes } else { 0 };
        same
    }
}

/// What is remembered about a cell.
#[derive(Debug, Clone, Copy)]
struct Cell {
    write: Epoch,
    reads: [Reads; 2],
}

/// What an access runs into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clash {
    /// An earlier access that nothing orders before it.
    Race(Epoch),
    /// A write that is ordered, but not made visible to the asynchronous proxy.
    Proxy(Epoch),
}

impl Cell {
    const FRESH: Cell = Cell { write: Epoch::NONE, reads: [Reads::NONE; 2] };

    fn check_write(&self, who: &Who<'_>) -> Option<Clash> {
        let both_strong = self.write.is_strong() && who.mark.is_strong();
        if !both_strong && !who.precedes(self.write) {
            return Some(Clash::Race(self.write));
        }
        (!who.proxy_sees(self.write)).then_some(Clash::Proxy(self.write))
    }

    /// Keeps a read; returns one that there was no room for.
    fn remember_read(&mut self, who: &Who<'_>) -> Option<Reads> {
        let read = Reads::one(who);
        if self.reads.iter_mut().any(|reads| reads.merge(read)) {
            return None;
        }
        let known = |reads: &Reads| {
            reads.epoch.same_actor(who.mark) && reads.lanes.count_ones() < 2 || reads.unordered(who).is_none()
        };
        if let Some(slot) = self.reads.iter_mut().find(|reads| known(reads)) {
            *slot = read;
            return None;
        }
        let [first, second] = self.reads;
        let warp = |reads: Reads| reads.epoch.same_warp(who.mark);
        Some(std::mem::replace(&mut self.reads[usize::from(!warp(first) || warp(second))], read))
    }

    fn write(&mut self, who: &Who<'_>) -> Option<Clash> {
        let racing = self.reads.iter().find_map(|reads| reads.race(who));
        *self = Cell { write: who.mark, ..Cell::FRESH };
        racing.map(Clash::Race)
    }
}

/// Bytes of a page.
const PAGE: usize = 256;
/// The largest cell, as a power of two.
const WIDEST: u32 = 4;

#[derive(Debug, Default)]
struct Page {
    /// Bytes of a cell, as a power of two.
    shift: u32,
    cells: Vec<Cell>,
}

impl Page {
    fn new() -> Self {
        Page { shift: WIDEST, cells: vec![Cell::FRESH; PAGE >> WIDEST] }
    }

    fn refine(&mut self, shift: u32) {
        let copies = 1 << (self.shift - shift);
        self.cells = self.cells.iter().flat_map(|cell| std::iter::repeat_n(*cell, copies)).collect();
        self.shift = shift;
    }
}

/// The accesses to a stretch of memory since a launch began. Pages nobody touched cost nothing.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pages: Vec<Option<Box<Page>>>,
    /// Reads that found no room in their cell, by the cell's first byte. Shared memory only.
    crowds: HashMap<usize, Vec<Reads>>,
    keeps_all_reads: bool,
    /// What ordered writes left, by address.
    released: HashMap<usize, Released>,
}

impl Log {
    /// A log that keeps all reads.
    pub fn exact() -> Self {
        Log { keeps_all_reads: true, ..Log::default() }
    }

    /// Records an access to some bytes; returns the first that clashes, and with what.
    pub fn access(&mut self, start: usize, bytes: usize, who: &Who<'_>, write: bool) -> Option<(usize, Clash)> {
        let mut at = start;
        while at < start + bytes {
            let part = (start + bytes).min((at / PAGE + 1) * PAGE) - at;
            if let Some(clash) = self.access_page(at, part, who, write) {
                return Some(clash);
            }
            at += part;
        }
        None
    }

    fn access_page(&mut self, start: usize, bytes: usize, who: &Who<'_>, write: bool) -> Option<(usize, Clash)> {
        if self.pages.len() <= start / PAGE {
            self.pages.resize_with(start / PAGE + 1, || None);
        }
        let page = self.pages[start / PAGE].get_or_insert_with(|| Box::new(Page::new()));
        let needed = (start | bytes).trailing_zeros().min(WIDEST);
        if needed < page.shift {
            divide_crowds(&mut self.crowds, start / PAGE * PAGE, page.shift, needed);
            page.refine(needed);
        }
        let (first, last) = ((start % PAGE) >> page.shift, (start % PAGE + bytes - 1) >> page.shift);
        for (i, cell) in page.cells[first..=last].iter_mut().enumerate() {
            let at = start / PAGE * PAGE + ((first + i) << page.shift);
            if let Some(clash) = cell.check_write(who) {
                return Some((at, clash));
            }
            let clash = if write {
                cell.write(who).or(crowd_clash(&mut self.crowds, at, who))
            } else {
                let evicted = cell.remember_read(who);
                if let (Some(reads), true) = (evicted, self.keeps_all_reads) {
                    join_crowd(self.crowds.entry(at).or_default(), reads);
                }
                None
            };
            if let Some(clash) = clash {
                return Some((at, clash));
            }
        }
        None
    }

    /// What was released at an address.
    pub fn released(&self, at: usize) -> Option<&Released> {
        if self.released.is_empty() { None } else { self.released.get(&at) }
    }

    /// A store leaves what it releases in place of what was there; an atomic adds to it.
    pub fn release(&mut self, at: usize, what: Option<Released>, atomic: bool) {
        match (what, self.released.get_mut(&at)) {
            (Some(what), Some(old)) if atomic => old.join(&what),
            (Some(what), _) => drop(self.released.insert(at, what)),
            (None, Some(_)) if !atomic => drop(self.released.remove(&at)),
            (None, _) => {}
        }
    }

    /// A plain store undoes releases.
    pub fn overwrite(&mut self, at: usize) {
        if !self.released.is_empty() {
            self.released.remove(&at);
        }
    }
}

/// Crowds go by the first byte of a cell: the reads of a divided one are reads of all its parts.
fn divide_crowds(crowds: &mut HashMap<usize, Vec<Reads>>, page: usize, from: u32, to: u32) {
    if crowds.is_empty() {
        return;
    }
    for cell in (page..page + PAGE).step_by(1 << from) {
        let Some(crowd) = crowds.get(&cell).cloned() else { continue };
        for part in (cell..cell + (1 << from)).step_by(1 << to) {
            crowds.insert(part, crowd.clone());
        }
    }
}

fn crowd_clash(crowds: &mut HashMap<usize, Vec<Reads>>, at: usize, who: &Who<'_>) -> Option<Clash> {
    if crowds.is_empty() {
        return None;
    }
    let crowd = crowds.remove(&at)?;
    crowd.iter().find_map(|reads| reads.race(who)).map(Clash::Race)
}

fn join_crowd(crowd: &mut Vec<Reads>, reads: Reads) {
    let same = |other: &&mut Reads| other.lanes == 0 && reads.lanes == 0 && other.epoch.same_actor(reads.epoch);
    if crowd.iter_mut().any(|other| other.merge(reads)) {
        return;
    }
    match crowd.iter_mut().find(same) {
        Some(other) => *other = reads,
        None => crowd.push(reads),
    }
}
