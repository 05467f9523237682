//! One block: its warps' turns, and the questions every instruction asks (operands, places).

use std::collections::BTreeMap;

use super::barrier::Barrier;
use super::mbarrier::Mbarrier;
use super::ordering::Engine;
use super::warp::{Group, Lanes, Next, Warp, lanes};
use super::{Machine, PROCESSORS, WARP};
use crate::finding::{Fault, Finding, Place};
use crate::ir::{Address, Instruction, Op, Operand, Register, Special};
use crate::region::Region;

/// Instructions after which another warp gets its turn.
const TURN: u32 = 4096;

/// What is left of a block between its turns.
pub(crate) struct State {
    pub index: [u32; 3],
    pub linear: u32,
    pub shared: Region,
    pub warps: Vec<Warp>,
    pub barriers: [Barrier; 16],
    pub engines: BTreeMap<Engine, u32>,
    /// By offset in shared memory.
    pub mbarriers: BTreeMap<u64, Mbarrier>,
    pub mbarrier_lives: u32,
}

/// A block at work.
pub(crate) struct Block<'b, 'm> {
    pub machine: &'b mut Machine<'m>,
    pub state: &'b mut State,
}

/// A warp at an instruction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Site {
    pub warp: usize,
    pub pc: usize,
}

/// How a warp's turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// All its threads have exited or wait.
    Waits,
    /// A poll failed; nothing else happened.
    Polls,
    /// It would go on.
    Goes,
}

impl State {
    pub fn new(machine: &Machine<'_>, linear: u32) -> Self {
        let (kernel, threads) = (machine.kernel, machine.launch.threads() as usize);
        let warps = (0..threads.div_ceil(WARP)).map(|w| Warp::new(kernel, w, threads - w * WARP)).collect();
        let shared = Region::shared(kernel.shared + machine.launch.shared);
        let mut state = State {
            index: [0; 3],
            linear,
            shared,
            warps,
            barriers: Default::default(),
            engines: BTreeMap::new(),
            mbarriers: BTreeMap::new(),
            mbarrier_lives: 0,
        };
        state.place(machine);
        state
    }

    fn place(&mut self, machine: &Machine<'_>) {
        let [x, y, _] = machine.launch.grid;
        self.index = [self.linear % x, self.linear / x % y, self.linear / x / y];
    }

    /// Starts another block where one has ended.
    pub fn begin(&mut self, machine: &Machine<'_>, linear: u32) {
        self.linear = linear;
        self.place(machine);
        self.shared.reset();
        self.warps.iter_mut().for_each(Warp::reset);
        self.barriers = Default::default();
        self.engines.clear();
        self.mbarriers.clear();
    }
}

impl Block<'_, '_> {
    /// Lets a warp go on until it waits or its turn is over.
    pub fn turn(&mut self, w: usize) -> Result<Turn, Finding> {
        let (mut left, changes) = (TURN, self.machine.changes);
        while let Some(group) = self.state.warps[w].take_lowest() {
            self.run_group(w, group, &mut left)?;
            if left == 0 {
                return Ok(Turn::Goes);
            }
        }
        let polls = self.state.warps[w].end_turn();
        Ok(match polls {
            true if self.machine.changes == changes => Turn::Polls,
            true => Turn::Goes,
            false => Turn::Waits,
        })
    }

    /// Runs threads that share a program counter for as long as they are the ones furthest behind.
    fn run_group(&mut self, w: usize, mut group: Group, left: &mut u32) -> Result<(), Finding> {
        let kernel = self.machine.kernel;
        let others = self.state.warps[w].lowest_pc();
        loop {
            let instruction = &kernel.code[group.pc];
            *left -= 1;
            let Some(rest) = self.step(w, group, instruction)? else { return Ok(()) };
            group = rest;
            if *left == 0 || group.pc >= others {
                self.state.warps[w].resume(group.pc, group.mask);
                return Ok(());
            }
        }
    }

    /// Executes one instruction; returns the threads that go on at once, all others are settled.
    fn step(&mut self, w: usize, group: Group, instruction: &Instruction) -> Result<Option<Group>, Finding> {
        let site = Site { warp: w, pc: group.pc };
        let active = match instruction.guard {
            None => group.mask,
            Some(guard) => group.mask & self.guard(site, group.mask, guard)?,
        };
        self.spend_step(site, group)?;
        // A branch not taken was executed all the same; another instruction whose guard is false was not.
        let ran = if matches!(instruction.op, Op::Branch { .. }) { group.mask } else { active };
        self.machine.executed[group.pc] += u64::from(ran.count_ones());
        let idle = Group { pc: group.pc + 1, mask: group.mask & !active };
        if active == 0 {
            return Ok(Some(idle));
        }
        let idle = (idle.mask != 0).then_some(idle);
        let Some(active) = self.gather(site, &instruction.op, active)? else {
            return Ok(idle);
        };
        self.machine.classes[instruction.class as usize] += 1;
        self.machine.counters.thread_instructions += u64::from(active.count_ones());
        if self.machine.kernel.wgmma {
            self.check_busy(site, active, &instruction.op, &instruction.writes)?;
        }
        let next = self.execute(site, &instruction.op, active)?;
        let warp = &mut self.state.warps[w];
        match (next, idle) {
            (Next::Advance, None) => return Ok(Some(Group { pc: group.pc + 1, mask: active })),
            (Next::Advance, Some(idle)) => return Ok(Some(Group { mask: idle.mask | active, ..idle })),
            (Next::Jump(target), None) => return Ok(Some(Group { pc: target, mask: active })),
            // Where a group divides, its parts are put back and the lowest goes first.
            (_, Some(idle)) => warp.resume(idle.pc, idle.mask),
            (_, None) => {}
        }
        warp.settle(group.pc, active, next);
        self.machine.changes += u64::from(next == Next::Exit);
        Ok(None)
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
    fn guard(&self, site: Site, mask: u32, (register, negated): (Register, bool)) -> Result<u32, Finding> {
        self.must_be_defined(site, register, mask)?;
        let values = &self.state.warps[site.warp].registers[register as usize];
        let set = (0..WARP).fold(0, |set, lane| set | (values[lane] as u32 & 1) << lane);
        Ok(if negated { !set } else { set })
    }

    /// Nobody goes on any more: whoever has not exited waits for what will not happen.
    pub fn finish(&mut self) -> Result<(), Finding> {
        for w in 0..self.state.warps.len() {
            if let Some(&stuck) = self.state.warps[w].gathering.first() {
                return Err(self.finding_at(w, stuck, Fault::Deadlock));
            }
        }
        self.no_barrier_waits()?;
        self.no_bulk_copies()
    }

    /// A warp that spins in vain.
    pub fn spins(&self, w: usize) -> Finding {
        let warp = &self.state.warps[w];
        let group = Group { pc: warp.poll.pc, mask: warp.poll.mask };
        self.finding_at(w, group, Fault::Deadlock)
    }

    pub fn finding_at(&self, warp: usize, group: Group, fault: Fault) -> Finding {
        self.finding(Site { warp, pc: group.pc }, group.mask.trailing_zeros() as usize, fault)
    }

    /// A finding about one lane.
    pub fn finding(&self, site: Site, lane: usize, fault: Fault) -> Finding {
        let instruction = &self.machine.kernel.code[site.pc];
        let place = Place {
            block: self.state.index,
            thread: self.thread(site.warp, lane),
            line: instruction.line,
            text: instruction.text.clone(),
        };
        Finding { kernel: self.machine.kernel.name.clone(), place: Some(place), fault: self.name_issuer(fault) }
    }

    /// Says whose asynchronous operation it was, where the race check only knows an engine.
    fn name_issuer(&self, fault: Fault) -> Fault {
        let issuer = |block, actor| self.machine.engines.get(&(block, actor)).copied();
        match fault {
            Fault::Race { block, thread, address, .. } => match issuer(block, thread) {
                Some(thread) => Fault::InFlight { address, thread },
                None => fault,
            },
            Fault::MissingProxyFence { address, thread } => match issuer(self.state.linear, thread) {
                Some(thread) => Fault::MissingProxyFence { address, thread },
                None => fault,
            },
            _ => fault,
        }
    }

    fn thread(&self, warp: usize, lane: usize) -> [u32; 3] {
        let (linear, [x, y, _]) = ((warp * WARP + lane) as u32, self.machine.launch.block);
        [linear % x, linear / x % y, linear / x / y]
    }

    pub fn must_be_defined(&self, site: Site, register: Register, mask: u32) -> Result<(), Finding> {
        let warp = &self.state.warps[site.warp];
        if self.machine.kernel.wgmma && !warp.matrices.allows(register, false) {
            return Err(self.finding(site, mask.trailing_zeros() as usize, Fault::RegisterInFlight));
        }
        let undefined = mask & !warp.defined[register as usize];
        if undefined == 0 {
            return Ok(());
        }
        Err(self.finding(site, undefined.trailing_zeros() as usize, Fault::UndefinedRegister))
    }

    /// The value of an operand in every lane; those of `mask` must have one.
    pub fn fetch(&self, site: Site, operand: Operand, mask: u32) -> Result<Lanes, Finding> {
        if let Operand::Register(register) = operand {
            self.must_be_defined(site, register, mask)?;
            return Ok(self.state.warps[site.warp].registers[register as usize]);
        }
        Ok(self.constant(site.warp, operand))
    }

    /// The value of an operand that is no register.
    pub fn constant(&self, warp: usize, operand: Operand) -> Lanes {
        match operand {
            Operand::Immediate(value) => [value; WARP],
            Operand::Global(index) => [self.machine.globals[index as usize]; WARP],
            Operand::DynamicShared => [self.machine.kernel.shared as u64; WARP],
            Operand::Special(special) => std::array::from_fn(|lane| self.special(warp, lane, special)),
            Operand::Register(register) => self.state.warps[warp].registers[register as usize],
        }
    }

    fn special(&self, warp: usize, lane: usize, special: Special) -> u64 {
        u64::from(match special {
            Special::Thread(axis) => self.thread(warp, lane)[axis],
            Special::BlockSize(axis) => self.machine.launch.block[axis],
            Special::Block(axis) => self.state.index[axis],
            Special::GridSize(axis) => self.machine.launch.grid[axis],
            Special::Lane => lane as u32,
            Special::Warp => warp as u32,
            Special::WarpSize => WARP as u32,
            Special::LanesBelow => (1 << lane) - 1,
            Special::LanesBelowOrEqual => u32::MAX >> (WARP - 1 - lane),
            Special::LanesAbove => (u32::MAX << lane) << 1,
            Special::LanesAboveOrEqual => u32::MAX << lane,
            Special::LaneBit => 1 << lane,
            Special::WarpCount => self.state.warps.len() as u32,
            Special::DynamicSharedSize => self.machine.launch.shared as u32,
            Special::TotalSharedSize => (self.machine.kernel.shared + self.machine.launch.shared) as u32,
            Special::Processor => self.state.linear % PROCESSORS,
            Special::ProcessorCount => PROCESSORS,
            Special::GridId | Special::ClusterIndex => 0,
            Special::ClusterSize => 1,
            Special::Clock => return self.machine.launch.steps - self.machine.steps,
        })
    }

    /// The address an operand makes in every lane.
    pub fn addresses(&self, site: Site, at: Address, mask: u32) -> Result<Lanes, Finding> {
        let mut base = self.fetch(site, at.base, mask)?;
        if at.offset != 0 {
            base.iter_mut().for_each(|base| *base = base.wrapping_add_signed(at.offset));
        }
        Ok(base)
    }

    /// Gives the lanes of `mask` a new value, cut to the register's width.
    pub fn assign(&mut self, site: Site, register: Register, mask: u32, values: &Lanes) {
        let width = self.machine.kernel.registers[register as usize].mask();
        let warp = &mut self.state.warps[site.warp];
        let own = &mut warp.registers[register as usize];
        if mask == u32::MAX {
            own.iter_mut().zip(values).for_each(|(own, value)| *own = value & width);
        } else {
            lanes(mask).for_each(|lane| own[lane] = values[lane] & width);
        }
        warp.defined[register as usize] |= mask;
    }
}
