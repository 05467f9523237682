//! Bulk copies by the asynchronous proxy, plain and of boxes of a tensor (PTX ISA 9.7.9.25.4 to 9.7.9.27).
//!
//! What a copy into shared memory brings is read when it starts and arrives when its mbarrier is asked. A copy out of shared
//! memory is complete, to the race check, once its thread has waited for its group: `.read` for the bytes in shared memory
//! alone.

use super::WARP;
use super::access::shared_offset;
use super::block::{Block, Site};
use super::mbarrier::Bulk;
use super::ordering::Engine;
use super::warp::lanes;
use crate::finding::{Fault, Finding};
use crate::ir::{Address, Operand, Transfer};
use crate::order::Epoch;
use crate::race::Who;
use crate::region::Region;
use crate::tensor_map::{Swizzle, TensorMap};
use crate::types::{Space, Type};

/// Bulk stores of one thread: the number of the open group, whether it holds anything, and what was waited for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Stores {
    committed: u32,
    open: bool,
    read: u32,
}

impl Stores {
    pub fn is_empty(self) -> bool {
        !self.open && self.read == self.committed
    }
}

/// Bulk copies move, and start at, multiples of this.
const UNIT: u64 = 16;
/// Boxes of a tensor lie at multiples of this in shared memory.
const BOX_ALIGNMENT: u64 = 128;

impl Block<'_, '_> {
    pub(super) fn bulk_load(
        &mut self,
        site: Site,
        mask: u32,
        [to, from, barrier]: [Address; 3],
        bytes: Operand,
    ) -> Result<(), Finding> {
        let (to, from) = (self.addresses(site, to, mask)?, self.addresses(site, from, mask)?);
        let (barrier, bytes) = (self.addresses(site, barrier, mask)?, self.fetch(site, bytes, mask)?);
        self.changed(site.warp);
        for lane in lanes(mask) {
            let size = bytes[lane] & 0xffff_ffff;
            let rows = [(0, from[lane], size as usize)];
            let aligned = [to[lane], from[lane], size].into_iter().find(|n| !n.is_multiple_of(UNIT));
            let copied = match aligned {
                Some(address) => Err(Fault::Misaligned { address, bytes: size as usize }),
                None => self.load_rows(site, lane, [to[lane], barrier[lane]], size as usize, &rows, Swizzle::None),
            };
            copied.map_err(|fault| self.finding(site, lane, fault))?;
        }
        Ok(())
    }

    pub(super) fn tensor_load(
        &mut self,
        site: Site,
        mask: u32,
        [to, map, barrier]: [Address; 3],
        at: &[Operand],
    ) -> Result<(), Finding> {
        let (to, maps) = (self.addresses(site, to, mask)?, self.addresses(site, map, mask)?);
        let barrier = self.addresses(site, barrier, mask)?;
        self.changed(site.warp);
        for lane in lanes(mask) {
            let at = self.coordinates(site, lane, at, mask)?;
            let copied = self.tensor_map(site, lane, maps[lane], at.len()).and_then(|map| {
                self.box_at(to[lane], &map)?;
                self.load_rows(site, lane, [to[lane], barrier[lane]], map.box_bytes(), &map.rows(&at), map.swizzle)
            });
            copied.map_err(|fault| self.finding(site, lane, fault))?;
        }
        Ok(())
    }

    fn coordinates(&self, site: Site, lane: usize, at: &[Operand], mask: u32) -> Result<Vec<i32>, Finding> {
        at.iter().map(|operand| Ok(self.fetch(site, *operand, mask)?[lane] as i32)).collect()
    }

    fn box_at(&self, address: u64, map: &TensorMap) -> Result<(), Fault> {
        match shared_offset(address).is_multiple_of(BOX_ALIGNMENT) {
            true => Ok(()),
            false => Err(Fault::Misaligned { address, bytes: map.box_bytes() }),
        }
    }

    /// The map at an address, in parameters or global memory.
    fn tensor_map(&mut self, site: Site, lane: usize, address: u64, rank: usize) -> Result<TensorMap, Fault> {
        let mut bytes = [0; TensorMap::BYTES];
        if !address.is_multiple_of(64) {
            return Err(Fault::Misaligned { address, bytes: TensorMap::BYTES });
        }
        for (i, part) in bytes.chunks_exact_mut(16).enumerate() {
            let how = Transfer::plain(Space::Generic);
            self.read_lane(site.warp, lane, how, address.wrapping_add(16 * i as u64), part)?;
        }
        let map = TensorMap::decode(&bytes).filter(|map| map.dims.len() == rank);
        map.ok_or(Fault::BadTensorMap { address })
    }

    /// Copies rows of global memory into shared memory, zeros where there are none.
    fn load_rows(
        &mut self,
        site: Site,
        lane: usize,
        [to, barrier]: [u64; 2],
        bytes: usize,
        rows: &[(usize, u64, usize)],
        swizzle: Swizzle,
    ) -> Result<(), Fault> {
        let (offset, mark) = self.copy_epoch(site, lane, barrier)?;
        let mut data = vec![0; bytes];
        for &(at, address, length) in rows {
            self.read_async(site, lane, Space::Global, address, mark, &mut data[at..at + length])?;
        }
        let begin = |region: &mut Region, spot, who: Option<&Who<'_>>| {
            let who = who.map(|who| Who { mark, ..*who });
            let start = region.begin_write(spot, who.as_ref(), bytes, 1)?;
            region.forget(start, bytes);
            Ok(start)
        };
        let start = self.with_region(site.warp, lane, SHARED, shared_offset(to), bytes, begin)?;
        self.machine.counters.bulk_bytes += bytes as u64;
        self.start_bulk(site, lane, offset, Bulk { start, data, swizzle });
        Ok(())
    }

    fn read_async(
        &mut self,
        site: Site,
        lane: usize,
        space: Space,
        address: u64,
        mark: Epoch,
        out: &mut [u8],
    ) -> Result<(), Fault> {
        let bytes = out.len();
        let read = |region: &mut Region, spot, who: Option<&Who<'_>>| {
            let who = who.map(|who| Who { mark, ..*who });
            region.read_aligned(spot, who.as_ref(), out, 1)
        };
        self.with_region(site.warp, lane, Transfer { space, ..SHARED }, address, bytes, read)
    }

    pub(super) fn bulk_store(
        &mut self,
        site: Site,
        mask: u32,
        [to, from]: [Address; 2],
        bytes: Operand,
    ) -> Result<(), Finding> {
        let (to, from) = (self.addresses(site, to, mask)?, self.addresses(site, from, mask)?);
        let bytes = self.fetch(site, bytes, mask)?;
        self.changed(site.warp);
        for lane in lanes(mask) {
            let size = bytes[lane] & 0xffff_ffff;
            let rows = [(0, to[lane], size as usize)];
            let aligned = [to[lane], from[lane], size].into_iter().find(|n| !n.is_multiple_of(UNIT));
            let copied = match aligned {
                Some(address) => Err(Fault::Misaligned { address, bytes: size as usize }),
                None => self.store_rows(site, lane, from[lane], size as usize, &rows, Swizzle::None),
            };
            copied.map_err(|fault| self.finding(site, lane, fault))?;
        }
        Ok(())
    }

    pub(super) fn tensor_store(
        &mut self,
        site: Site,
        mask: u32,
        [map, from]: [Address; 2],
        at: &[Operand],
    ) -> Result<(), Finding> {
        let (maps, from) = (self.addresses(site, map, mask)?, self.addresses(site, from, mask)?);
        self.changed(site.warp);
        for lane in lanes(mask) {
            let at = self.coordinates(site, lane, at, mask)?;
            let copied = self.tensor_map(site, lane, maps[lane], at.len()).and_then(|map| {
                self.box_at(from[lane], &map)?;
                self.store_rows(site, lane, from[lane], map.box_bytes(), &map.rows(&at), map.swizzle)
            });
            copied.map_err(|fault| self.finding(site, lane, fault))?;
        }
        Ok(())
    }

    /// Copies a stretch of shared memory to rows of global memory.
    fn store_rows(
        &mut self,
        site: Site,
        lane: usize,
        from: u64,
        bytes: usize,
        rows: &[(usize, u64, usize)],
        swizzle: Swizzle,
    ) -> Result<(), Fault> {
        let [reads, writes] = self.store_epochs(site, lane)?;
        let (start, mut data) = (shared_offset(from), vec![0; bytes]);
        for (i, chunk) in data.chunks_mut(16).enumerate() {
            let address = swizzle.apply(start.wrapping_add(16 * i as u64));
            self.read_async(site, lane, Space::Shared, address, reads, chunk)?;
        }
        for &(at, address, length) in rows {
            let write = |region: &mut Region, spot, who: Option<&Who<'_>>| {
                let who = who.map(|who| Who { mark: writes, ..*who });
                let start = region.begin_write(spot, who.as_ref(), length, 1)?;
                region.put(start, &data[at..at + length]);
                Ok(())
            };
            let global = Transfer { space: Space::Global, ..SHARED };
            self.with_region(site.warp, lane, global, address, length, write)?;
        }
        self.machine.counters.bulk_bytes += bytes as u64;
        self.state.warps[site.warp].stores[lane].open = true;
        Ok(())
    }

    fn store_epochs(&mut self, site: Site, lane: usize) -> Result<[Epoch; 2], Fault> {
        let thread = (site.warp * WARP + lane) as u32;
        let group = self.state.warps[site.warp].stores[lane].committed + 1;
        let reads = self.engine(Engine::BulkReads(thread)).ok_or(Fault::TooManyEngines)?;
        let writes = self.engine(Engine::BulkWrites(thread)).ok_or(Fault::TooManyEngines)?;
        Ok([reads, writes].map(|engine| Epoch::new(self.state.linear, engine, group).asynchronous()))
    }

    pub(super) fn bulk_commit(&mut self, site: Site, mask: u32) {
        for lane in lanes(mask) {
            let stores = &mut self.state.warps[site.warp].stores[lane];
            stores.committed += 1;
            stores.open = false;
        }
    }

    pub(super) fn bulk_wait(&mut self, site: Site, mask: u32, pending: u32, reads_only: bool) {
        let block = self.state.linear;
        for lane in lanes(mask) {
            let thread = (site.warp * WARP + lane) as u32;
            let warp = &mut self.state.warps[site.warp];
            let stores = &mut warp.stores[lane];
            let complete = stores.committed.saturating_sub(pending);
            stores.read = stores.read.max(complete);
            for engine in
                [Engine::BulkReads(thread), Engine::BulkWrites(thread)].into_iter().take(2 - usize::from(reads_only))
            {
                if let Some(&engine) = self.state.engines.get(&engine) {
                    warp.views[lane].seen.raise(block, engine, complete);
                }
            }
        }
    }
}

const SHARED: Transfer = Transfer {
    space: Space::Shared,
    ty: Type::B8,
    order: crate::order::Order::Weak,
    scope: crate::order::Scope::Block,
};
