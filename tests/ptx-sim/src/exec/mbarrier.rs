//! `mbarrier`: barriers in shared memory that count arrivals and bytes (PTX ISA 9.7.13.15).
//!
//! A phase is complete when as many arrivals as the barrier was initialised for have come and the bytes announced by
//! `expect_tx` have been copied. Whoever waits for it learns what all who arrived knew, and that the copies are there: to the
//! race check the barrier is an engine whose clock is the phase's number. Bytes arrive as late as they can, when somebody
//! has asked for the phase in vain. A phase that completes while copies issued for it are still under way was promised too few bytes.

use std::collections::{BTreeMap, VecDeque};

use super::WARP;
use super::access::shared_offset;
use super::block::{Block, Site};
use super::ordering::Engine;
use super::warp::{Next, lanes};
use crate::finding::{Fault, Finding};
use crate::ir::{Address, Operand, Phase, Register, Transfer};
use crate::order::{Epoch, Message, Order, Scope};
use crate::region::Region;
use crate::tensor_map::Swizzle;
use crate::types::{Space, Type};

/// One barrier object.
#[derive(Debug, Default)]
pub(crate) struct Mbarrier {
    /// Arrivals that complete a phase.
    expected: u32,
    /// Of them, those still missing.
    pending: i64,
    /// Bytes announced and not yet copied; below zero where copies came first.
    bytes: i64,
    /// Phases completed.
    phase: u32,
    /// What those who arrived in this phase know, and what those of the complete ones knew.
    arrived: Message,
    complete: Message,
    /// Distinguishes barriers that lived at the same address.
    life: u32,
    in_flight: VecDeque<Copy>,
    /// The thread that initialised it, and whether it said so to the asynchronous proxy.
    initialiser: u32,
    announced: bool,
}

/// A bulk copy under way.
#[derive(Debug)]
struct Copy {
    start: usize,
    data: Vec<u8>,
    swizzle: Swizzle,
    phase: u32,
    site: Site,
    lane: usize,
}

/// The most arrivals and bytes that a phase can wait for.
const MOST: i64 = (1 << 20) - 1;

impl Block<'_, '_> {
    /// The offset of a barrier in shared memory, after the access to its eight bytes was checked. Operations on a barrier do
    /// not race with each other, but with its initialisation.
    fn mbarrier_at(&mut self, site: Site, lane: usize, address: u64, write: bool) -> Result<u64, Fault> {
        let offset = shared_offset(address);
        if !self.state.mbarriers.contains_key(&offset) {
            return Err(Fault::NoMbarrier { address });
        }
        let how = Transfer { space: Space::Shared, ty: Type::B64, order: Order::Relaxed, scope: Scope::Block };
        if write {
            self.with_region(site.warp, lane, how, offset, 8, |region, spot, who| {
                region.begin_write(spot, who, 8, 8).map(drop)
            })?;
        } else {
            let mut ignored = [0; 8];
            self.with_region(site.warp, lane, how, offset, 8, |region, spot, who| {
                region.read(spot, who, &mut ignored)
            })?;
        }
        Ok(offset)
    }

    fn mbarrier(&mut self, offset: u64, address: u64) -> Result<&mut Mbarrier, Fault> {
        self.state.mbarriers.get_mut(&offset).ok_or(Fault::NoMbarrier { address })
    }

    pub(super) fn mbarrier_init(&mut self, site: Site, mask: u32, at: Address, count: Operand) -> Result<(), Finding> {
        let (addresses, counts) = (self.addresses(site, at, mask)?, self.fetch(site, count, mask)?);
        self.changed(site.warp);
        for lane in lanes(mask) {
            let done = self.init_one(site, lane, addresses[lane], counts[lane] as u32);
            done.map_err(|fault| self.finding(site, lane, fault))?;
        }
        Ok(())
    }

    fn init_one(&mut self, site: Site, lane: usize, address: u64, count: u32) -> Result<(), Fault> {
        if !(1..=MOST).contains(&i64::from(count)) {
            return Err(Fault::MbarrierCount { address });
        }
        let offset = shared_offset(address);
        let plain = Transfer::plain(Space::Shared);
        self.with_region(site.warp, lane, plain, offset, 8, |region, spot, who| region.write(spot, who, &[0; 8]))?;
        self.state.mbarrier_lives += 1;
        let barrier = Mbarrier {
            expected: count,
            pending: i64::from(count),
            life: self.state.mbarrier_lives,
            initialiser: (site.warp * WARP + lane) as u32,
            ..Mbarrier::default()
        };
        self.state.mbarriers.insert(offset, barrier);
        Ok(())
    }

    pub(super) fn mbarrier_invalidate(&mut self, site: Site, mask: u32, at: Address) -> Result<(), Finding> {
        let addresses = self.addresses(site, at, mask)?;
        for lane in lanes(mask) {
            let offset = self.mbarrier_at(site, lane, addresses[lane], true);
            let offset = offset.map_err(|fault| self.finding(site, lane, fault))?;
            self.state.mbarriers.remove(&offset);
        }
        Ok(())
    }

    /// `fence.mbarrier_init` and every proxy fence: the asynchronous proxy sees the barriers these threads initialised.
    pub(super) fn announce_mbarriers(&mut self, warp: usize, mask: u32) {
        let mine = |thread: u32| thread as usize / WARP == warp && mask >> (thread % 32) & 1 == 1;
        for barrier in self.state.mbarriers.values_mut() {
            barrier.announced |= mine(barrier.initialiser);
        }
    }

    /// `arrive`, with the bytes it announces.
    pub(super) fn mbarrier_arrive(
        &mut self,
        site: Site,
        mask: u32,
        d: Option<Register>,
        at: Address,
        [count, bytes]: [Operand; 2],
    ) -> Result<(), Finding> {
        let addresses = self.addresses(site, at, mask)?;
        let (counts, bytes) = (self.fetch(site, count, mask)?, self.fetch(site, bytes, mask)?);
        self.changed(site.warp);
        let mut states = [0; WARP];
        for lane in lanes(mask) {
            let told = self.message(site.warp, lane);
            let arrived = self.arrive_one(site, lane, addresses[lane], [counts[lane], bytes[lane]], &told);
            states[lane] = arrived.map_err(|fault| self.finding(site, lane, fault))?;
        }
        if let Some(d) = d {
            self.assign(site, d, mask, &states);
        }
        Ok(())
    }

    fn arrive_one(
        &mut self,
        site: Site,
        lane: usize,
        address: u64,
        [count, bytes]: [u64; 2],
        told: &Message,
    ) -> Result<u64, Fault> {
        let offset = self.mbarrier_at(site, lane, address, true)?;
        let barrier = self.mbarrier(offset, address)?;
        let state = u64::from(barrier.phase);
        barrier.bytes += i64::from(bytes as u32);
        barrier.pending -= i64::from(count as u32);
        barrier.arrived.join(told);
        match () {
            () if barrier.pending < 0 => Err(Fault::TooManyArrivals { address }),
            () if barrier.bytes > MOST => Err(Fault::MbarrierCount { address }),
            () => self.complete_phase(offset, address).map(|()| state),
        }
    }

    /// `expect_tx` and `complete_tx`.
    pub(super) fn mbarrier_count(
        &mut self,
        site: Site,
        mask: u32,
        at: Address,
        bytes: Operand,
        sign: i64,
    ) -> Result<(), Finding> {
        let (addresses, bytes) = (self.addresses(site, at, mask)?, self.fetch(site, bytes, mask)?);
        self.changed(site.warp);
        for lane in lanes(mask) {
            let (address, bytes) = (addresses[lane], sign * i64::from(bytes[lane] as u32));
            let counted = self.mbarrier_at(site, lane, address, true).and_then(|offset| {
                self.mbarrier(offset, address)?.bytes += bytes;
                self.complete_phase(offset, address)
            });
            counted.map_err(|fault| self.finding(site, lane, fault))?;
        }
        Ok(())
    }

    fn complete_phase(&mut self, offset: u64, address: u64) -> Result<(), Fault> {
        let barrier = self.mbarrier(offset, address)?;
        if barrier.pending != 0 || barrier.bytes != 0 {
            return Ok(());
        }
        barrier.phase += 1;
        barrier.pending = i64::from(barrier.expected);
        let arrived = std::mem::take(&mut barrier.arrived);
        barrier.complete.join(&arrived);
        let (phase, life) = (barrier.phase, barrier.life);
        if barrier.in_flight.iter().any(|copy| copy.phase < phase) {
            return Err(Fault::TooFewBytes { address });
        }
        self.machine.changes += 1;
        if let Some(&engine) = self.state.engines.get(&Engine::Phases(offset, life)) {
            let block = self.state.linear;
            self.mbarrier(offset, address)?.complete.seen.raise(block, engine, phase);
        }
        Ok(())
    }

    /// `test_wait` and `try_wait`: whether a phase is complete. Where one is not, others run first.
    pub(super) fn mbarrier_test(
        &mut self,
        site: Site,
        mask: u32,
        d: Register,
        at: Address,
        phase: Phase,
    ) -> Result<Next, Finding> {
        let addresses = self.addresses(site, at, mask)?;
        let (Phase::Parity(operand) | Phase::State(operand)) = phase;
        let numbers = self.fetch(site, operand, mask)?;
        let mut complete = [0; WARP];
        for lane in lanes(mask) {
            let by_parity = matches!(phase, Phase::Parity(_));
            let test = self.test_one(site, lane, addresses[lane], numbers[lane], by_parity);
            complete[lane] = u64::from(test.map_err(|fault| self.finding(site, lane, fault))?);
        }
        self.assign(site, d, mask, &complete);
        self.learn_phases(site.warp, lanes(mask).filter(|&lane| complete[lane] == 1), &addresses);
        let all = lanes(mask).all(|lane| complete[lane] == 1);
        Ok(if all { Next::Advance } else { Next::Yield })
    }

    fn test_one(&mut self, site: Site, lane: usize, address: u64, number: u64, parity: bool) -> Result<bool, Fault> {
        let offset = self.mbarrier_at(site, lane, address, false)?;
        let (poll, number) = (&mut self.state.warps[site.warp].poll, number as u32);
        (poll.pc, poll.mask) = (site.pc, 1 << lane);
        let now = self.mbarrier(offset, address)?.phase;
        let complete = if parity { now & 1 != number & 1 } else { now > number };
        if !complete {
            self.deliver(offset, address)?;
        }
        Ok(complete)
    }

    /// Lanes that found a phase complete learn what is known to it.
    fn learn_phases(&mut self, warp: usize, lanes: impl Iterator<Item = usize>, addresses: &[u64; WARP]) {
        if !self.checks_races() {
            return;
        }
        let mut by_barrier: BTreeMap<u64, u32> = BTreeMap::new();
        lanes.for_each(|lane| *by_barrier.entry(shared_offset(addresses[lane])).or_default() |= 1 << lane);
        for (offset, mask) in by_barrier {
            if let Some(barrier) = self.state.mbarriers.get(&offset) {
                self.state.warps[warp].teach(mask, |view| view.learn(&barrier.complete));
            }
        }
    }

    /// The bytes that are under way arrive.
    fn deliver(&mut self, offset: u64, address: u64) -> Result<(), Fault> {
        while let Some(copy) = self.mbarrier(offset, address)?.in_flight.pop_front() {
            put_swizzled(&mut self.state.shared, copy.start, &copy.data, copy.swizzle);
            self.machine.changes += 1;
            self.mbarrier(offset, address)?.bytes -= copy.data.len() as i64;
            self.complete_phase(offset, address)?;
        }
        Ok(())
    }

    /// The actor and clock of a copy that the barrier will tell the completion of.
    pub(super) fn copy_epoch(&mut self, site: Site, lane: usize, address: u64) -> Result<(u64, Epoch), Fault> {
        let offset = self.mbarrier_at(site, lane, address, false)?;
        let barrier = self.mbarrier(offset, address)?;
        if !barrier.announced {
            return Err(Fault::MissingProxyFence { address, thread: barrier.initialiser });
        }
        let (clock, life) = (barrier.phase + 1, barrier.life);
        let engine = self.engine(Engine::Phases(offset, life)).ok_or(Fault::TooManyEngines)?;
        self.machine.engines.insert((self.state.linear, engine), (site.warp * WARP + lane) as u32);
        Ok((offset, Epoch::new(self.state.linear, engine, clock).asynchronous()))
    }

    /// A copy begins, whose bytes the barrier counts. What its thread knows comes before its completion.
    pub(super) fn start_bulk(&mut self, site: Site, lane: usize, offset: u64, copy: Bulk) {
        let warp = &self.state.warps[site.warp];
        let Some(barrier) = self.state.mbarriers.get_mut(&offset) else { return };
        barrier.arrived.seen.join(&warp.views[lane].seen);
        let Bulk { start, data, swizzle } = copy;
        barrier.in_flight.push_back(Copy { start, data, swizzle, phase: barrier.phase, site, lane });
    }

    /// `cp.async.mbarrier.arrive`: the barrier waits for a thread's copies, and unless `counted` for nothing more.
    pub(super) fn copies_arrive(&mut self, site: Site, mask: u32, at: Address, counted: bool) -> Result<(), Finding> {
        let addresses = self.addresses(site, at, mask)?;
        self.changed(site.warp);
        for lane in lanes(mask) {
            let mut told = Message::default();
            if let Some((engine, group)) = self.finish_copies(site.warp, lane, None) {
                told.seen.raise(self.state.linear, engine, group);
            }
            let count = u64::from(counted);
            let arrived = self.arrive_one(site, lane, addresses[lane], [count, 0], &told);
            arrived.map_err(|fault| self.finding(site, lane, fault))?;
        }
        Ok(())
    }

    /// Copies that nobody waited for when the block ended.
    pub(super) fn no_bulk_copies(&self) -> Result<(), Finding> {
        let mut left = self.state.mbarriers.values().flat_map(|barrier| &barrier.in_flight);
        left.next().map_or(Ok(()), |copy| Err(self.finding(copy.site, copy.lane, Fault::NeverWaited)))
    }
}

/// What a bulk copy brings to shared memory.
pub(super) struct Bulk {
    pub start: usize,
    pub data: Vec<u8>,
    pub swizzle: Swizzle,
}

fn put_swizzled(shared: &mut Region, start: usize, data: &[u8], swizzle: Swizzle) {
    for (i, chunk) in data.chunks(16).enumerate() {
        shared.put(swizzle.apply((start + 16 * i) as u64) as usize, chunk);
    }
}
