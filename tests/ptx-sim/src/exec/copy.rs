//! Asynchronous copies from global to shared memory, `cp.async` (PTX ISA 9.7.9.25.3).
//!
//! A copy is modelled as late as it can be: its bytes arrive when its thread waits for the group, and until then nobody
//! may touch them. Other threads still need a barrier after that wait, which the race check sees to.

use std::collections::VecDeque;

use super::block::{Block, Site};
use super::warp::lanes;
use crate::finding::{Fault, Finding};
use crate::ir::{Address, Operand};
use crate::types::Space;

/// A copy under way: where it goes and what it brings.
#[derive(Debug)]
pub(crate) struct Copy {
    start: usize,
    data: Vec<u8>,
}

/// The copies of one thread, in order.
#[derive(Debug, Default)]
pub(crate) struct Copies {
    pub open: Vec<Copy>,
    pub groups: VecDeque<Vec<Copy>>,
}

impl Copies {
    pub fn is_empty(&self) -> bool {
        self.open.is_empty() && self.groups.iter().all(Vec::is_empty)
    }

    /// The copies that are complete once at most `pending` groups are not; `None` waits for all, committed or not.
    fn complete(&mut self, pending: Option<usize>) -> Vec<Copy> {
        let keep = pending.unwrap_or(0).min(self.groups.len());
        let mut done: Vec<Copy> = self.groups.drain(..self.groups.len() - keep).flatten().collect();
        if pending.is_none() {
            done.append(&mut self.open);
        }
        done
    }
}

impl Block<'_, '_> {
    pub(super) fn copy(
        &mut self,
        site: Site,
        mask: u32,
        bytes: usize,
        [to, from]: [Address; 2],
        valid: Operand,
    ) -> Result<(), Finding> {
        let (to, from) = (self.addresses(site, to, mask)?, self.addresses(site, from, mask)?);
        let valid = self.fetch(site, valid, mask)?;
        let read: Vec<u64> = lanes(mask).filter(|&lane| valid[lane] as u32 != 0).map(|lane| from[lane]).collect();
        self.machine.counters.global(&read, bytes, false);
        for lane in lanes(mask) {
            let valid = (valid[lane] as u32 as usize).min(bytes);
            let copy = self.start_copy(site, lane, bytes, [to[lane], from[lane]], valid);
            let copy = copy.map_err(|fault| self.finding(site, lane, fault))?;
            self.warps[site.warp].copies[lane].open.push(copy);
        }
        Ok(())
    }

    fn start_copy(
        &mut self,
        site: Site,
        lane: usize,
        bytes: usize,
        [to, from]: [u64; 2],
        valid: usize,
    ) -> Result<Copy, Fault> {
        if !from.is_multiple_of(bytes as u64) {
            return Err(Fault::Misaligned { address: from, bytes });
        }
        let mut data = vec![0; bytes];
        for (i, byte) in data[..valid].iter_mut().enumerate() {
            self.read_lane(site.warp, lane, Space::Global, from.wrapping_add(i as u64), std::slice::from_mut(byte))?;
        }
        let now = self.stamp(site.warp, lane);
        let begin = |region: &mut crate::memory::Region, spot| region.begin_copy(spot, now, bytes);
        let start = self.with_region(site.warp, lane, Space::Shared, to, bytes, begin)?;
        Ok(Copy { start, data })
    }

    pub(super) fn commit_copies(&mut self, site: Site, mask: u32) {
        for lane in lanes(mask) {
            let copies = &mut self.warps[site.warp].copies[lane];
            let group = std::mem::take(&mut copies.open);
            copies.groups.push_back(group);
        }
    }

    pub(super) fn wait_copies(&mut self, site: Site, mask: u32, pending: Option<usize>) {
        for lane in lanes(mask) {
            let now = self.stamp(site.warp, lane);
            for copy in self.warps[site.warp].copies[lane].complete(pending) {
                self.shared.finish_copy(copy.start, now, &copy.data);
            }
        }
    }
}
