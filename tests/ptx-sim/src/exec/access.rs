//! Loads, stores and atomics of one warp (PTX ISA 9.7.9 and 9.7.13).

use super::block::{Block, Site};
use super::warp::{Lanes, lanes};
use crate::finding::{Fault, Finding};
use crate::ir::{Address, Compute, Operand, Register};
use crate::memory::{LOCAL_WINDOW, PARAM_WINDOW, Region, SHARED_WINDOW, Spot};
use crate::race::Stamp;
use crate::types::{Space, Type};

/// The widest access, in bytes.
const WIDEST: usize = 16;

impl Block<'_, '_> {
    pub(super) fn load(
        &mut self,
        site: Site,
        mask: u32,
        space: Space,
        ty: Type,
        d: &[Option<Register>],
        at: Address,
    ) -> Result<(), Finding> {
        let addresses = self.addresses(site, at, mask)?;
        let (bytes, size) = (ty.bytes() * d.len(), ty.bytes());
        self.count(space, &addresses, mask, bytes, false);
        for lane in lanes(mask) {
            let mut data = [0; WIDEST];
            let read = self.read_lane(site.warp, lane, space, addresses[lane], &mut data[..bytes]);
            read.map_err(|fault| self.finding(site, lane, fault))?;
            for (register, part) in d.iter().zip(data.chunks_exact(size)) {
                if let Some(register) = register {
                    let width = self.machine.kernel.registers[*register as usize].mask();
                    self.warps[site.warp].set(*register, lane, ty.extend(from_bytes(part)) & width);
                }
            }
        }
        Ok(())
    }

    pub(super) fn store(
        &mut self,
        site: Site,
        mask: u32,
        space: Space,
        ty: Type,
        s: &[Operand],
        at: Address,
    ) -> Result<(), Finding> {
        let addresses = self.addresses(site, at, mask)?;
        let (bytes, size) = (ty.bytes() * s.len(), ty.bytes());
        self.count(space, &addresses, mask, bytes, true);
        let values: Vec<Lanes> = s.iter().map(|s| self.fetch(site, *s, mask)).collect::<Result<_, _>>()?;
        for lane in lanes(mask) {
            let mut data = [0; WIDEST];
            for (part, value) in data.chunks_exact_mut(size).zip(&values) {
                part.copy_from_slice(&value[lane].to_le_bytes()[..size]);
            }
            let now = self.stamp(site.warp, lane);
            let write = |region: &mut Region, spot| region.write(spot, now, &data[..bytes]);
            let written = self.with_region(site.warp, lane, space, addresses[lane], bytes, write);
            written.map_err(|fault| self.finding(site, lane, fault))?;
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)] // they are the instruction's
    pub(super) fn atomic(
        &mut self,
        site: Site,
        mask: u32,
        f: Compute,
        (space, ty): (Space, Type),
        d: Option<Register>,
        at: Address,
        s: [Operand; 2],
    ) -> Result<(), Finding> {
        let addresses = self.addresses(site, at, mask)?;
        self.count(space, &addresses, mask, ty.bytes(), true);
        let (first, second) = (self.fetch(site, s[0], mask)?, self.fetch(site, s[1], mask)?);
        for lane in lanes(mask) {
            let now = self.stamp(site.warp, lane);
            let update = |region: &mut Region, spot| {
                region.update(spot, now, ty.bytes(), |old| f([old, first[lane], second[lane], 0]))
            };
            let old = self.with_region(site.warp, lane, space, addresses[lane], ty.bytes(), update);
            let old = old.map_err(|fault| self.finding(site, lane, fault))?;
            if let Some(d) = d {
                self.warps[site.warp].set(d, lane, old);
            }
        }
        Ok(())
    }

    /// Reads for one lane from any space.
    pub(super) fn read_lane(
        &mut self,
        warp: usize,
        lane: usize,
        space: Space,
        address: u64,
        out: &mut [u8],
    ) -> Result<(), Fault> {
        if let (Space::Param, offset) = resolve(space, address) {
            return self.read_param(offset, out);
        }
        let now: Stamp = self.stamp(warp, lane);
        self.with_region(warp, lane, space, address, out.len(), |region, spot| region.read(spot, now, out))
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
        space: Space,
        address: u64,
        bytes: usize,
        act: impl FnOnce(&mut Region, Spot) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let (space, offset) = resolve(space, address);
        let spot = Spot { space, address, offset };
        match space {
            Space::Param if offset < self.machine.params.len() as u64 => Err(Fault::ReadOnly { address }),
            Space::Param => Err(Fault::OutOfBounds { space, address, bytes }),
            Space::Shared => act(&mut self.shared, spot),
            Space::Local => act(&mut self.warps[warp].local[lane], spot),
            _ => match self.machine.memory.region(address) {
                Some((region, offset)) => act(region, Spot { offset, ..spot }),
                None => Err(Fault::OutOfBounds { space, address, bytes }),
            },
        }
    }

    fn count(&mut self, space: Space, addresses: &Lanes, mask: u32, bytes: usize, write: bool) {
        let active: Vec<u64> = lanes(mask).map(|lane| addresses[lane]).collect();
        match active.first().map(|first| resolve(space, *first).0) {
            Some(Space::Shared) => self.machine.counters.shared(&active, bytes),
            Some(Space::Global | Space::Const) => self.machine.counters.global(&active, bytes, write),
            _ => {}
        }
    }
}

/// The space a generic address lies in, and the offset there.
fn resolve(space: Space, address: u64) -> (Space, u64) {
    match space {
        Space::Generic if address >= PARAM_WINDOW => (Space::Param, address - PARAM_WINDOW),
        Space::Generic if address >= LOCAL_WINDOW => (Space::Local, address - LOCAL_WINDOW),
        Space::Generic if address >= SHARED_WINDOW => (Space::Shared, address - SHARED_WINDOW),
        Space::Generic => (Space::Global, address),
        _ => (space, address),
    }
}

fn from_bytes(part: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    bytes[..part.len()].copy_from_slice(part);
    u64::from_le_bytes(bytes)
}
