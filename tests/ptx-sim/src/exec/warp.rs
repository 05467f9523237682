//! One warp: 32 program counters, kept as groups of threads that share one, and 32 sets of registers.

use std::collections::VecDeque;

use super::WARP;
use super::copy::Copies;
use crate::ir::{Kernel, Register};
use crate::memory::Region;

/// One value a lane.
pub(crate) type Lanes = [u64; WARP];

/// Threads at the same instruction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Group {
    pub pc: usize,
    pub mask: u32,
}

/// Indices of the set bits.
pub(crate) fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    (0..WARP).filter(move |lane| mask >> lane & 1 == 1)
}

/// What becomes of the threads that executed an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    Advance,
    Jump(usize),
    Exit,
    /// Wait for the block.
    Barrier,
    /// Wait for other lanes.
    Lanes,
}

pub(crate) struct Warp {
    pub index: usize,
    /// The lanes that exist: fewer than 32 in the last warp of an odd-sized block.
    pub present: u32,
    running: Vec<Group>,
    /// Threads at a warp-wide operation that not all of its lanes have reached.
    pub gathering: Vec<Group>,
    /// Threads at a block-wide barrier.
    pub parked: Vec<Group>,
    pub exited: u32,
    /// How many times the whole warp has synchronised.
    pub barriers: u32,
    pub registers: Vec<Lanes>,
    /// Lanes in which a register has a value.
    pub defined: Vec<u32>,
    pub local: Vec<Region>,
    pub copies: Vec<Copies>,
}

impl Warp {
    pub fn new(kernel: &Kernel, index: usize, threads: usize) -> Self {
        let present = u32::MAX >> (WARP - threads.min(WARP));
        Warp {
            index,
            present,
            running: vec![Group { pc: 0, mask: present }],
            gathering: Vec::new(),
            parked: Vec::new(),
            exited: 0,
            barriers: 0,
            registers: vec![[0; WARP]; kernel.registers.len()],
            defined: vec![0; kernel.registers.len()],
            local: (0..WARP).map(|_| Region::new(kernel.local)).collect(),
            copies: (0..WARP).map(|_| Copies { open: Vec::new(), groups: VecDeque::new() }).collect(),
        }
    }

    /// Takes the group with the lowest program counter.
    pub fn take_lowest(&mut self) -> Option<Group> {
        let lowest = (0..self.running.len()).min_by_key(|&i| self.running[i].pc)?;
        Some(self.running.swap_remove(lowest))
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
            Next::Barrier => join(&mut self.parked, pc, mask),
            Next::Lanes => join(&mut self.gathering, pc, mask),
        }
    }

    pub fn set(&mut self, register: Register, lane: usize, value: u64) {
        self.registers[register as usize][lane] = value;
        self.defined[register as usize] |= 1 << lane;
    }
}

fn join(groups: &mut Vec<Group>, pc: usize, mask: u32) {
    match groups.iter_mut().find(|group| group.pc == pc) {
        Some(group) => group.mask |= mask,
        None => groups.push(Group { pc, mask }),
    }
}
