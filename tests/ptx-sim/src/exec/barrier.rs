//! `bar` and `barrier`: 16 meeting points a block has (PTX ISA 9.7.13.1).
//!
//! A barrier opens when all the threads it is for have arrived. Barriers without a count are for the whole block and must be
//! reached by all of it at one place; those with a count are for that many threads, whole warps of them, anywhere.

use super::WARP;
use super::block::{Block, Site};
use super::warp::{Group, Next, lanes};
use crate::finding::{Fault, Finding};
use crate::ir::{Meeting, Reduction, Register, Role};
use crate::order::View;

/// Who has come to one barrier since it last opened.
#[derive(Debug, Default)]
pub(crate) struct Barrier {
    /// Threads it is for, once somebody has come; `None` stands for all.
    threads: Option<Option<u64>>,
    arrived: Vec<Arrival>,
}

/// Threads of a warp at a barrier.
#[derive(Debug)]
struct Arrival {
    warp: usize,
    group: Group,
    waits: bool,
    /// What they knew and had done.
    told: View,
    /// What they contribute to a reduction, and where the result goes.
    reduces: Option<(Reduction, Register, u32)>,
}

impl Barrier {
    fn masks(&self, warp: usize) -> u32 {
        self.arrived.iter().filter(|a| a.warp == warp).fold(0, |mask, a| mask | a.group.mask)
    }
}

impl Block<'_, '_> {
    pub(super) fn barrier(&mut self, site: Site, mask: u32, meeting: Meeting) -> Result<Next, Finding> {
        let lane = mask.trailing_zeros() as usize;
        let id = self.fetch(site, meeting.id, mask)?[lane];
        let threads = meeting.threads.map(|threads| self.fetch(site, threads, mask)).transpose()?;
        let threads = threads.map(|threads| threads[lane] & 0xffff_ffff);
        let most = self.state.warps.len() as u64 * WARP as u64;
        let fits = threads.is_none_or(|n| n != 0 && n.is_multiple_of(WARP as u64) && n <= most);
        let bad = Fault::BadBarrier { id, threads: threads.unwrap_or(most) };
        if id > 15 || !fits {
            return Err(self.finding(site, lane, bad));
        }
        let (reduces, waits) = match meeting.role {
            Role::Wait => (None, true),
            Role::Arrive => (None, false),
            Role::Reduce(how, d, flag) => {
                let flags = self.flags(site, flag, mask)?;
                let set = lanes(mask).fold(0, |set, lane| set | (flags[lane] as u32) << lane);
                (Some((how, d, set)), true)
            }
        };
        let told = self.tell(site.warp, mask);
        let barrier = &mut self.state.barriers[id as usize];
        if barrier.threads.is_some_and(|earlier| earlier != threads) || barrier.masks(site.warp) & mask != 0 {
            return Err(self.finding(site, lane, bad));
        }
        barrier.threads = Some(threads);
        barrier.arrived.push(Arrival { warp: site.warp, group: Group { pc: site.pc, mask }, waits, told, reduces });
        self.machine.changes += 1;
        // Who waits leaves the warp's turn; an opened barrier brings it back.
        self.open(id as usize);
        Ok(if waits { Next::Wait } else { Next::Advance })
    }

    /// Opens a barrier if all have arrived.
    fn open(&mut self, id: usize) {
        let barrier = &self.state.barriers[id];
        let whole = |w: &usize| barrier.masks(*w) == self.state.warps[*w].present;
        let warps = (0..self.state.warps.len()).filter(whole).count() as u64;
        let full = match barrier.threads {
            None => false,
            Some(None) => {
                let pc = barrier.arrived.first().map(|a| a.group.pc);
                warps == self.state.warps.len() as u64 && barrier.arrived.iter().all(|a| Some(a.group.pc) == pc)
            }
            Some(Some(threads)) => warps * WARP as u64 == threads,
        };
        if full {
            let arrived = std::mem::take(&mut self.state.barriers[id]).arrived;
            self.release(&arrived);
        }
    }

    fn release(&mut self, arrived: &[Arrival]) {
        self.machine.counters.barriers += 1;
        let mut told = View::default();
        arrived.iter().for_each(|arrival| told.join(&arrival.told));
        let given = || arrived.iter().filter_map(|a| a.reduces.map(|(_, _, set)| (set, a.group.mask)));
        let set: u32 = given().map(|(set, _)| set.count_ones()).sum();
        let all = given().all(|(set, mask)| set == mask);
        for arrival in arrived.iter().filter(|a| a.waits) {
            if let Some((how, d, _)) = arrival.reduces {
                let value = match how {
                    Reduction::Count => u64::from(set),
                    Reduction::And => u64::from(all),
                    Reduction::Or => u64::from(set != 0),
                };
                self.assign(Site { warp: arrival.warp, pc: arrival.group.pc }, d, arrival.group.mask, &[value; WARP]);
            }
            self.learn(arrival.warp, arrival.group.mask, &told);
            let warp = &mut self.state.warps[arrival.warp];
            warp.resume(arrival.group.pc + 1, arrival.group.mask);
        }
    }

    /// All threads have exited or wait: then nobody may wait at a barrier.
    pub(super) fn no_barrier_waits(&self) -> Result<(), Finding> {
        let waiting = self.state.barriers.iter().flat_map(|b| b.arrived.iter().filter(|a| a.waits));
        let mut waiting: Vec<&Arrival> = waiting.collect();
        waiting.sort_by_key(|a| a.warp);
        let Some(first) = waiting.first() else { return Ok(()) };
        // Of threads at two places, those that are not with the first are named.
        let stray = waiting.iter().find(|a| a.group.pc != first.group.pc).unwrap_or(first);
        Err(self.finding_at(stray.warp, stray.group, Fault::BarrierDivergence))
    }
}
