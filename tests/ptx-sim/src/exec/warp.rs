//! One warp: 32 program counters, kept as groups of threads that share one, and 32 sets of registers.

use super::WARP;
use super::bulk::Stores;
use super::copy::Copies;
use super::wgmma::Matrices;
use crate::ir::Kernel;
use crate::order::View;
use crate::region::Region;

/// One value a lane.
pub(crate) type Lanes = [u64; WARP];

/// Threads at the same instruction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Group {
    pub pc: usize,
    pub mask: u32,
}

/// Indices of the set bits.
#[inline]
pub(crate) fn lanes(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lane = mask.trailing_zeros() as usize;
        mask &= mask.wrapping_sub(1);
        (lane < WARP).then_some(lane)
    })
}

/// What becomes of the threads that executed an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    Advance,
    Jump(usize),
    Exit,
    /// Wait; whoever ends the waiting knows of them.
    Wait,
    /// Wait for other lanes.
    Lanes,
    /// Go on, but let others run first.
    Yield,
}

/// The last poll of a warp: where, by whom, and what it found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Poll {
    pub pc: usize,
    pub mask: u32,
    pub found: u64,
    /// The warp's own changes up to then.
    pub changes: u64,
}

pub(crate) struct Warp {
    pub index: usize,
    /// The lanes that exist: fewer than 32 in the last warp of an odd-sized block.
    pub present: u32,
    running: Vec<Group>,
    /// Threads whose turn is over until others have run.
    yielded: Vec<Group>,
    /// Threads at a warp-wide operation that not all of its lanes have reached.
    pub gathering: Vec<Group>,
    pub exited: u32,
    pub registers: Vec<Lanes>,
    /// Lanes in which a register has a value.
    pub defined: Vec<u32>,
    /// Of each lane, or none where the kernel has no local memory.
    pub local: Vec<Region>,
    pub copies: Vec<Copies>,
    pub stores: [Stores; WARP],
    pub matrices: Matrices,
    wgmma: bool,
    /// What each lane knows of other threads, and its own clock.
    pub views: Vec<View>,
    pub clocks: [u32; WARP],
    pub poll: Poll,
    /// How often the warp itself has changed memory.
    pub changes: u64,
}

impl Warp {
    pub fn new(kernel: &Kernel, index: usize, threads: usize) -> Self {
        let mut warp = Warp {
            index,
            present: u32::MAX >> (WARP - threads.min(WARP)),
            running: Vec::new(),
            yielded: Vec::new(),
            gathering: Vec::new(),
            exited: 0,
            registers: vec![[0; WARP]; kernel.registers.len()],
            defined: vec![0; kernel.registers.len()],
            local: (0..if kernel.local > 0 { WARP } else { 0 }).map(|_| Region::new(kernel.local)).collect(),
            copies: (0..WARP).map(|_| Copies::default()).collect(),
            stores: [Stores::default(); WARP],
            matrices: Matrices::default(),
            wgmma: kernel.wgmma,
            views: vec![View::default(); WARP],
            clocks: [1; WARP],
            poll: Poll::default(),
            changes: 0,
        };
        warp.reset();
        warp
    }

    /// Back to the kernel's first instruction.
    pub fn reset(&mut self) {
        self.running = vec![Group { pc: 0, mask: self.present }];
        self.yielded.clear();
        self.gathering.clear();
        self.defined.fill(0);
        self.local.iter_mut().for_each(Region::reset);
        self.copies.iter_mut().for_each(|copies| *copies = Copies::default());
        self.stores = [Stores::default(); WARP];
        self.matrices = Matrices::new(if self.wgmma { self.registers.len() } else { 0 });
        self.views.fill(View::default());
        (self.exited, self.changes, self.clocks, self.poll) = (0, 0, [1; WARP], Poll::default());
    }

    /// Takes the group with the lowest program counter.
    pub fn take_lowest(&mut self) -> Option<Group> {
        let lowest = (0..self.running.len()).min_by_key(|&i| self.running[i].pc)?;
        Some(self.running.swap_remove(lowest))
    }

    /// The lowest program counter of those that run.
    pub fn lowest_pc(&self) -> usize {
        self.running.iter().map(|group| group.pc).min().unwrap_or(usize::MAX)
    }

    /// Threads that yielded may run again; whether there are any.
    pub fn end_turn(&mut self) -> bool {
        std::mem::swap(&mut self.running, &mut self.yielded);
        !self.running.is_empty()
    }

    /// Lets threads go on at an instruction, together with any that are there already.
    pub fn resume(&mut self, pc: usize, mask: u32) {
        join(&mut self.running, pc, mask);
    }

    pub fn settle(&mut self, pc: usize, mask: u32, next: Next) {
        match next {
            _ if mask == 0 => {}
            Next::Advance => self.resume(pc + 1, mask),
            Next::Jump(target) => self.resume(target, mask),
            Next::Exit => self.exited |= mask,
            Next::Wait => {}
            Next::Lanes => join(&mut self.gathering, pc, mask),
            Next::Yield => join(&mut self.yielded, pc + 1, mask),
        }
    }

    /// Whether a poll found nothing new: the same thing at the same place, with nothing done in between.
    pub fn polls_in_vain(&mut self, pc: usize, mask: u32, found: u64) -> bool {
        let poll = Poll { pc, mask, found, changes: self.changes };
        std::mem::replace(&mut self.poll, poll) == poll
    }
}

fn join(groups: &mut Vec<Group>, pc: usize, mask: u32) {
    match groups.iter_mut().find(|group| group.pc == pc) {
        Some(group) => group.mask |= mask,
        None => groups.push(Group { pc, mask }),
    }
}
