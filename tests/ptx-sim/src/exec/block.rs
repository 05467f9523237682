//! One block: its warps in turn, its barriers, and the questions every instruction asks (operands, places, stamps).

use super::warp::{Group, Lanes, Next, Warp, lanes};
use super::{Machine, WARP};
use crate::finding::{Fault, Finding, Place};
use crate::ir::{Address, Op, Operand, Register, Special};
use crate::memory::Region;
use crate::race::Stamp;

pub(crate) struct Block<'b, 'm> {
    pub machine: &'b mut Machine<'m>,
    index: [u32; 3],
    linear: u32,
    pub shared: Region,
    pub warps: Vec<Warp>,
    barriers: u32,
}

/// Multiprocessors of the simulated device (an H100's); blocks go to them in turn.
const PROCESSORS: u32 = 132;

/// A warp at an instruction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Site {
    pub warp: usize,
    pub pc: usize,
}

impl<'b, 'm> Block<'b, 'm> {
    pub fn new(machine: &'b mut Machine<'m>, index: [u32; 3], linear: u32) -> Self {
        let (kernel, threads) = (machine.kernel, machine.launch.threads() as usize);
        let warps = (0..threads.div_ceil(WARP)).map(|w| Warp::new(kernel, w, threads - w * WARP)).collect();
        let shared = Region::new(kernel.shared + machine.launch.shared);
        Block { machine, index, linear, shared, warps, barriers: 0 }
    }

    /// Runs every warp until it waits, opens the barrier, and again, until all threads have exited.
    pub fn run(&mut self) -> Result<(), Finding> {
        loop {
            for w in 0..self.warps.len() {
                self.run_warp(w)?;
            }
            if !self.open_barrier()? {
                return Ok(());
            }
        }
    }

    fn run_warp(&mut self, w: usize) -> Result<(), Finding> {
        let kernel = self.machine.kernel;
        while let Some(group) = self.warps[w].take_lowest() {
            let (site, instruction) = (Site { warp: w, pc: group.pc }, &kernel.code[group.pc]);
            let active = group.mask & self.guard(site, group.mask, instruction.guard)?;
            self.spend_step(site, group)?;
            // A branch not taken was executed all the same; another instruction whose guard is false was not.
            let ran = if matches!(instruction.op, Op::Branch { .. }) { group.mask } else { active };
            self.machine.executed[group.pc] += u64::from(ran.count_ones());
            self.warps[w].settle(group.pc, group.mask & !active, Next::Advance);
            if active == 0 {
                continue;
            }
            let Some(active) = self.gather(site, &instruction.op, active)? else {
                continue;
            };
            self.machine.counters.issue(instruction.class, active.count_ones());
            let next = self.execute(site, &instruction.op, active)?;
            self.warps[w].settle(group.pc, active, next);
        }
        match self.warps[w].gathering.first() {
            None => Ok(()),
            Some(&stuck) => Err(self.finding_at(w, stuck, Fault::Deadlock)),
        }
    }

    fn spend_step(&mut self, site: Site, group: Group) -> Result<(), Finding> {
        match self.machine.steps.checked_sub(1) {
            Some(left) => {
                self.machine.steps = left;
                Ok(())
            }
            None => Err(self.finding_at(site.warp, group, Fault::OutOfSteps)),
        }
    }

    /// The lanes whose predicate lets them execute.
    fn guard(&self, site: Site, mask: u32, guard: Option<(Register, bool)>) -> Result<u32, Finding> {
        let Some((register, negated)) = guard else { return Ok(mask) };
        let values = self.fetch(site, Operand::Register(register), mask)?;
        Ok(lanes(mask).filter(|&lane| (values[lane] & 1 == 1) != negated).fold(0, |m, lane| m | 1 << lane))
    }

    /// Whether anybody is left to go on. All threads that have not exited wait at a barrier when this is called.
    fn open_barrier(&mut self) -> Result<bool, Finding> {
        let parked: Vec<(usize, Group)> =
            self.warps.iter().flat_map(|warp| warp.parked.iter().map(|&group| (warp.index, group))).collect();
        let Some(&(first_warp, first)) = parked.first() else {
            return Ok(false);
        };
        if self.warps.iter().any(|warp| warp.exited != 0) {
            return Err(self.finding_at(first_warp, first, Fault::BarrierDivergence));
        }
        if let Some(&(warp, group)) = parked.iter().find(|(_, group)| group.pc != first.pc) {
            return Err(self.finding_at(warp, group, Fault::BarrierDivergence));
        }
        self.barriers += 1;
        self.machine.counters.barriers += 1;
        for warp in &mut self.warps {
            for group in std::mem::take(&mut warp.parked) {
                warp.resume(group.pc + 1, group.mask);
            }
        }
        Ok(true)
    }

    fn finding_at(&self, warp: usize, group: Group, fault: Fault) -> Finding {
        self.finding(Site { warp, pc: group.pc }, group.mask.trailing_zeros() as usize, fault)
    }

    /// A finding about one lane.
    pub fn finding(&self, site: Site, lane: usize, fault: Fault) -> Finding {
        let instruction = &self.machine.kernel.code[site.pc];
        let place = Place {
            block: self.index,
            thread: self.thread(site.warp, lane),
            line: instruction.line,
            text: instruction.text.clone(),
        };
        Finding { kernel: self.machine.kernel.name.clone(), place: Some(place), fault }
    }

    fn thread(&self, warp: usize, lane: usize) -> [u32; 3] {
        let (linear, [x, y, _]) = ((warp * WARP + lane) as u32, self.machine.launch.block);
        [linear % x, linear / x % y, linear / x / y]
    }

    /// Who a lane is to the race check.
    pub fn stamp(&self, warp: usize, lane: usize) -> Stamp {
        Stamp {
            block: self.linear,
            thread: (warp * WARP + lane) as u32,
            barriers: self.barriers,
            warp_barriers: self.warps[warp].barriers,
        }
    }

    /// The value of an operand in every lane; those of `mask` must have one.
    pub fn fetch(&self, site: Site, operand: Operand, mask: u32) -> Result<Lanes, Finding> {
        Ok(match operand {
            Operand::Immediate(value) => [value; WARP],
            Operand::Global(index) => [self.machine.globals[index as usize]; WARP],
            Operand::DynamicShared => [self.machine.kernel.shared as u64; WARP],
            Operand::Special(special) => std::array::from_fn(|lane| self.special(site.warp, lane, special)),
            Operand::Register(register) => {
                let warp = &self.warps[site.warp];
                let undefined = mask & !warp.defined[register as usize];
                if undefined != 0 {
                    let lane = undefined.trailing_zeros() as usize;
                    return Err(self.finding(site, lane, Fault::UndefinedRegister));
                }
                warp.registers[register as usize]
            }
        })
    }

    fn special(&self, warp: usize, lane: usize, special: Special) -> u64 {
        u64::from(match special {
            Special::Thread(axis) => self.thread(warp, lane)[axis],
            Special::BlockSize(axis) => self.machine.launch.block[axis],
            Special::Block(axis) => self.index[axis],
            Special::GridSize(axis) => self.machine.launch.grid[axis],
            Special::Lane => lane as u32,
            Special::Warp => warp as u32,
            Special::WarpSize => WARP as u32,
            Special::LanesBelow => (1 << lane) - 1,
            Special::LanesBelowOrEqual => u32::MAX >> (WARP - 1 - lane),
            Special::LanesAbove => (u32::MAX << lane) << 1,
            Special::LanesAboveOrEqual => u32::MAX << lane,
            Special::LaneBit => 1 << lane,
            Special::WarpCount => self.warps.len() as u32,
            Special::DynamicSharedSize => self.machine.launch.shared as u32,
            Special::TotalSharedSize => (self.machine.kernel.shared + self.machine.launch.shared) as u32,
            Special::Processor => self.linear % PROCESSORS,
            Special::ProcessorCount => PROCESSORS,
            Special::GridId | Special::ClusterIndex => 0,
            Special::ClusterSize => 1,
            Special::Clock => return self.machine.launch.steps - self.machine.steps,
        })
    }

    /// The address an operand makes in every lane.
    pub fn addresses(&self, site: Site, at: Address, mask: u32) -> Result<Lanes, Finding> {
        Ok(self.fetch(site, at.base, mask)?.map(|base| base.wrapping_add_signed(at.offset)))
    }

    /// Gives the lanes of `mask` a new value, cut to the register's width.
    pub fn assign(&mut self, site: Site, register: Register, mask: u32, values: &Lanes) {
        let width = self.machine.kernel.registers[register as usize].mask();
        let warp = &mut self.warps[site.warp];
        for lane in lanes(mask) {
            warp.registers[register as usize][lane] = values[lane] & width;
        }
        warp.defined[register as usize] |= mask;
    }
}
