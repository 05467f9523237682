//! Asynchronous copies from global to shared memory, `cp.async` (PTX ISA 9.7.9.25.3).
//!
//! A copy is modelled as late as it can be: its bytes arrive when its thread waits for the group. To the race check it is an
//! actor of its own, the thread's engine, whose clock is the group's number: whoever has not learned that the group is
//! complete races with it. Only its thread learns that by waiting; others need a barrier after the wait.

use std::collections::VecDeque;

use super::WARP;
use super::block::{Block, Site};
use super::ordering::Engine;
use super::warp::lanes;
use crate::finding::{Fault, Finding};
use crate::ir::{Address, Operand, Transfer};
use crate::order::Epoch;
use crate::race::Who;
use crate::region::Region;
use crate::types::Space;

/// A copy under way: where it goes and what it brings.
#[derive(Debug)]
pub(crate) struct Copy {
    start: usize,
    bytes: usize,
    data: [u8; 16],
}

/// The copies of one thread, in order.
#[derive(Debug, Default)]
pub(crate) struct Copies {
    open: Vec<Copy>,
    groups: VecDeque<Vec<Copy>>,
    /// Groups committed so far; the open one's number is the next.
    committed: u32,
}

impl Copies {
    /// The number of the last group that is complete.
    fn complete_groups(&self) -> u32 {
        self.committed - self.groups.len() as u32
    }

    pub fn is_empty(&self) -> bool {
        self.open.is_empty() && self.groups.iter().all(Vec::is_empty)
    }

    /// The copies that are complete once at most `pending` groups are not; `None` waits for all, committed or not.
    fn complete(&mut self, pending: Option<usize>) -> Vec<Copy> {
        let keep = pending.unwrap_or(0).min(self.groups.len());
        let mut done: Vec<Copy> = self.groups.drain(..self.groups.len() - keep).flatten().collect();
        if pending.is_none() {
            done.append(&mut self.open);
            self.committed += 1;
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
            self.state.warps[site.warp].copies[lane].open.push(copy);
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
        let (mut data, mut at) = ([0; 16], 0);
        let global = Transfer::plain(Space::Global);
        // The valid bytes in pieces as large as they can be.
        while at < valid {
            let left = 1 << (valid - at).ilog2();
            let part = if at == 0 { left } else { left.min(1 << at.trailing_zeros()) };
            self.read_lane(site.warp, lane, global, from.wrapping_add(at as u64), &mut data[at..at + part])?;
            at += part;
        }
        let thread = (site.warp * WARP + lane) as u32;
        let engine = self.engine(Engine::Copies(thread)).ok_or(Fault::TooManyEngines)?;
        let group = self.state.warps[site.warp].copies[lane].committed + 1;
        let mark = Epoch::new(self.state.linear, engine, group);
        let begin = |region: &mut Region, spot, who: Option<&Who<'_>>| {
            let who = who.map(|who| Who { mark, ..*who });
            let start = region.begin_write(spot, who.as_ref(), bytes, bytes)?;
            region.forget(start, bytes);
            Ok(start)
        };
        let start = self.with_region(site.warp, lane, Transfer::plain(Space::Shared), to, bytes, begin)?;
        Ok(Copy { start, bytes, data })
    }

    pub(super) fn commit_copies(&mut self, site: Site, mask: u32) {
        for lane in lanes(mask) {
            let copies = &mut self.state.warps[site.warp].copies[lane];
            let group = std::mem::take(&mut copies.open);
            copies.groups.push_back(group);
            copies.committed += 1;
        }
    }

    pub(super) fn wait_copies(&mut self, site: Site, mask: u32, pending: Option<usize>) {
        for lane in lanes(mask) {
            if let Some((engine, group)) = self.finish_copies(site.warp, lane, pending) {
                self.state.warps[site.warp].views[lane].seen.raise(self.state.linear, engine, group);
            }
        }
    }

    /// The bytes of all groups but the last `pending` arrive (`None`: all copies); which actor's clock tells so.
    pub(super) fn finish_copies(&mut self, warp: usize, lane: usize, pending: Option<usize>) -> Option<(u32, u32)> {
        let copies = &mut self.state.warps[warp].copies[lane];
        for copy in copies.complete(pending) {
            self.state.shared.put(copy.start, &copy.data[..copy.bytes]);
        }
        let engine = self.state.engines.get(&Engine::Copies((warp * WARP + lane) as u32))?;
        Some((*engine, copies.complete_groups()))
    }
}
