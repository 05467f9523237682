//! Loads, stores and atomics of one warp (PTX ISA 9.7.9 and 9.7.13).

use super::block::{Block, Site};
use super::warp::{Lanes, Next, lanes};
use super::{Checks, WARP};
use crate::finding::{Fault, Finding};
use crate::ir::{Address, Compute, Operand, Register, Transfer};
use crate::memory::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW};
use crate::order::Order;
use crate::race::Who;
use crate::region::{Region, Spot};
use crate::types::Space;

/// The widest access, in bytes.
const WIDEST: usize = 16;
/// The most registers that one access fills or empties.
const MOST_REGISTERS: usize = 4;

impl Block<'_, '_> {
    pub(super) fn load(
        &mut self,
        site: Site,
        mask: u32,
        how: Transfer,
        d: &[Option<Register>],
        at: Address,
    ) -> Result<Next, Finding> {
        let addresses = self.addresses(site, at, mask)?;
        let (bytes, size) = (how.ty.bytes() * d.len(), how.ty.bytes());
        self.count(how.space, &addresses, mask, bytes, false);
        let (mut found, mut loaded) = (0, [[0; WARP]; MOST_REGISTERS]);
        for lane in lanes(mask) {
            let mut data = [0; WIDEST];
            let read = self.read_lane(site.warp, lane, how, addresses[lane], &mut data[..bytes]);
            read.map_err(|fault| self.finding(site, lane, fault))?;
            let data = u128::from_le_bytes(data);
            found = mix(found, addresses[lane] ^ data as u64);
            for (i, values) in loaded.iter_mut().enumerate().take(d.len()) {
                values[lane] = (data >> (8 * size * i)) as u64;
            }
        }
        for (register, values) in d.iter().zip(loaded) {
            let Some(register) = *register else { continue };
            self.assign(site, register, mask, &values.map(|value| how.ty.extend(value)));
        }
        let vain = how.order != Order::Weak && self.state.warps[site.warp].polls_in_vain(site.pc, mask, found);
        Ok(if vain { Next::Yield } else { Next::Advance })
    }

    /// Changes nothing; an address outside of all memory is a finding, though a device may let it pass.
    pub(super) fn prefetch(&mut self, site: Site, mask: u32, at: Address) -> Result<(), Finding> {
        let addresses = self.addresses(site, at, mask)?;
        for lane in lanes(mask) {
            let address = addresses[lane];
            let found = self.machine.memory.region(address);
            if found.is_none_or(|(region, offset)| offset >= region.len() as u64) {
                let fault = Fault::OutOfBounds { space: Space::Global, address, bytes: 1 };
                return Err(self.finding(site, lane, fault));
            }
        }
        Ok(())
    }

    pub(super) fn store(
        &mut self,
        site: Site,
        mask: u32,
        how: Transfer,
        s: &[Operand],
        at: Address,
    ) -> Result<(), Finding> {
        let addresses = self.addresses(site, at, mask)?;
        let (bytes, size) = (how.ty.bytes() * s.len(), how.ty.bytes());
        self.count(how.space, &addresses, mask, bytes, true);
        let mut values = [[0; WARP]; MOST_REGISTERS];
        for (values, s) in values.iter_mut().zip(s) {
            *values = self.fetch(site, *s, mask)?;
        }
        self.changed(site.warp);
        let width = how.ty.mask();
        for lane in lanes(mask) {
            let part = |i: usize| u128::from(values[i][lane] & width) << (8 * size * i);
            let data = (0..s.len()).fold(0, |data, i| data | part(i)).to_le_bytes();
            let write = |region: &mut Region, spot, who: Option<&Who<'_>>| {
                region.write(spot, who, &data[..bytes])?;
                if how.order != Order::Weak {
                    region.release(spot, (how.order, how.scope, who));
                }
                Ok(())
            };
            let written = self.with_region(site.warp, lane, how, addresses[lane], bytes, write);
            written.map_err(|fault| self.finding(site, lane, fault))?;
            self.tick(site.warp, lane, how.order);
        }
        Ok(())
    }

    /// Notes that a warp did something others may wait for.
    pub(super) fn changed(&mut self, warp: usize) {
        self.machine.changes += 1;
        self.state.warps[warp].changes += 1;
    }

    #[allow(clippy::too_many_arguments)] // they are the instruction's
    pub(super) fn atomic(
        &mut self,
        site: Site,
        mask: u32,
        f: Compute,
        how: Transfer,
        d: Option<Register>,
        at: Address,
        s: [Operand; 2],
    ) -> Result<Next, Finding> {
        let addresses = self.addresses(site, at, mask)?;
        let bytes = how.ty.bytes();
        self.count(how.space, &addresses, mask, bytes, true);
        let (first, second) = (self.fetch(site, s[0], mask)?, self.fetch(site, s[1], mask)?);
        let (mut result, mut found, mut changed) = ([0; WARP], 0, false);
        for lane in lanes(mask) {
            let mut now = 0;
            let old = self.update_lane(site, lane, how, addresses[lane], |old| {
                now = f.one([old, first[lane], second[lane], 0]);
                now
            });
            result[lane] = old.map_err(|fault| self.finding(site, lane, fault))?;
            changed |= now & how.ty.mask() != result[lane];
            found = mix(found, addresses[lane] ^ result[lane]);
        }
        if let Some(d) = d {
            self.assign(site, d, mask, &result);
        }
        if changed {
            self.changed(site.warp);
            return Ok(Next::Advance);
        }
        let vain = self.state.warps[site.warp].polls_in_vain(site.pc, mask, found);
        Ok(if vain { Next::Yield } else { Next::Advance })
    }

    fn update_lane(
        &mut self,
        site: Site,
        lane: usize,
        how: Transfer,
        address: u64,
        f: impl FnMut(u64) -> u64,
    ) -> Result<u64, Fault> {
        let (space, offset) = resolve(how.space, address);
        self.observe(site.warp, lane, how, Spot { space, address, offset });
        let bytes = how.ty.bytes();
        let update = |region: &mut Region, spot, who: Option<&Who<'_>>| {
            region.update(spot, (how.order, how.scope, who), bytes, f)
        };
        let old = self.with_region(site.warp, lane, how, address, bytes, update)?;
        self.tick(site.warp, lane, how.order);
        Ok(old)
    }

    /// Reads for one lane from any space.
    pub(super) fn read_lane(
        &mut self,
        warp: usize,
        lane: usize,
        how: Transfer,
        address: u64,
        out: &mut [u8],
    ) -> Result<(), Fault> {
        let (space, offset) = resolve(how.space, address);
        if space == Space::Param {
            return self.read_param(offset, out);
        }
        if how.order != Order::Weak {
            self.observe(warp, lane, how, Spot { space, address, offset });
        }
        self.with_region(warp, lane, how, address, out.len(), |region, spot, who| region.read(spot, who, out))
    }

    /// A strong read takes along what was released at its address.
    fn observe(&mut self, warp: usize, lane: usize, how: Transfer, spot: Spot) {
        let block = self.state.linear;
        let region = match spot.space {
            Space::Shared => Some((&mut self.state.shared, spot.offset)),
            Space::Global => self.machine.memory.region(spot.address),
            _ => None,
        };
        let Some((region, offset)) = region else { return };
        if let Some(released) = region.released(Spot { offset, ..spot }) {
            released.observe(&mut self.state.warps[warp].views[lane], block, how.order, how.scope);
        }
    }

    fn read_param(&self, address: u64, out: &mut [u8]) -> Result<(), Fault> {
        let bytes = out.len();
        let start = usize::try_from(address).unwrap_or(usize::MAX);
        let param = start.checked_add(bytes).and_then(|end| self.machine.params.get(start..end));
        let param = param.ok_or(Fault::OutOfBounds { space: Space::Param, address, bytes })?;
        if !address.is_multiple_of(bytes as u64) {
            return Err(Fault::Misaligned { address, bytes });
        }
        out.copy_from_slice(param);
        Ok(())
    }

    /// Does something with the memory an address points to.
    pub(super) fn with_region<T>(
        &mut self,
        warp: usize,
        lane: usize,
        how: Transfer,
        address: u64,
        bytes: usize,
        act: impl FnOnce(&mut Region, Spot, Option<&Who<'_>>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let (space, offset) = resolve(how.space, address);
        let spot = Spot { space, address, offset };
        let (threads, block) = (self.threads(), self.state.linear);
        let checks = self.machine.launch.checks == Checks::All;
        let warp = &mut self.state.warps[warp];
        if space == Space::Local {
            // Nobody else reaches it.
            let me = warp.epoch(block, lane);
            let who = Who { me, mark: me, view: &warp.views[lane], threads };
            let local = warp.local.get_mut(lane).ok_or(Fault::OutOfBounds { space, address, bytes })?;
            return act(local, spot, checks.then_some(&who));
        }
        let mut who = warp.who(block, threads, lane);
        if how.order != Order::Weak {
            who.mark = who.mark.strong();
        }
        let who = checks.then_some(&who);
        match space {
            Space::Param if offset < self.machine.params.len() as u64 => Err(Fault::ReadOnly { address }),
            Space::Param => Err(Fault::OutOfBounds { space, address, bytes }),
            Space::Shared => act(&mut self.state.shared, spot, who),
            _ => match self.machine.memory.region(address) {
                Some((region, offset)) => act(region, Spot { offset, ..spot }, who),
                None => Err(Fault::OutOfBounds { space, address, bytes }),
            },
        }
    }

    fn count(&mut self, space: Space, addresses: &Lanes, mask: u32, bytes: usize, write: bool) {
        let (mut active, mut count) = (*addresses, WARP);
        if mask != u32::MAX {
            count = 0;
            for lane in lanes(mask) {
                active[count] = addresses[lane];
                count += 1;
            }
        }
        match active[..count].first().map(|first| resolve(space, *first).0) {
            Some(Space::Shared) => self.machine.counters.shared(&active[..count], bytes),
            Some(Space::Global | Space::Const) => self.machine.counters.global(&active[..count], bytes, write),
            _ => {}
        }
    }
}

/// The space a generic address lies in, and the offset there.
pub(super) fn resolve(space: Space, address: u64) -> (Space, u64) {
    match space {
        Space::Generic if address >= PARAM_WINDOW => (Space::Param, address - PARAM_WINDOW),
        Space::Generic if address >= LOCAL_WINDOW => (Space::Local, address - LOCAL_WINDOW),
        Space::Generic if address >= SHARED_WINDOW => (Space::Shared, address - SHARED_WINDOW),
        Space::Generic => (Space::Global, address),
        _ => (space, address),
    }
}

/// The offset in shared memory of an address that is either one in that space or a generic one.
pub(super) fn shared_offset(address: u64) -> u64 {
    match resolve(Space::Generic, address) {
        (Space::Shared, offset) => offset,
        _ => address,
    }
}

/// A running digest of what polls found.
fn mix(digest: u64, value: u64) -> u64 {
    (digest.rotate_left(5) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
