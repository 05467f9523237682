//! Operations in which the lanes of a warp take part together: gathering them, shuffles, votes, reductions
//! (PTX ISA 9.7.9.6, 9.7.13.9 to 9.7.13.12).

use super::WARP;
use super::block::{Block, Site};
use super::warp::{Next, lanes};
use crate::finding::{Fault, Finding};
use crate::ir::{Compute, Flag, Op, Operand, Register, Shuffle, Vote};

impl Op {
    /// The membership mask of an operation that needs one; `.aligned` operations need the whole warp.
    fn members(&self) -> Option<Operand> {
        match self {
            Op::WarpBarrier { members } => Some(*members),
            Op::Shuffle { members, .. } | Op::Vote { members, .. } => Some(*members),
            Op::Reduce { members, .. } | Op::Elect { members, .. } => Some(*members),
            Op::LoadMatrix { .. } | Op::Mma { .. } => Some(Operand::Immediate(u64::from(u32::MAX))),
            Op::Wgmma(_) | Op::WgmmaFence | Op::WgmmaCommit | Op::WgmmaWait { .. } => {
                Some(Operand::Immediate(u64::from(u32::MAX)))
            }
            _ => None,
        }
    }
}

impl Block<'_, '_> {
    /// The lanes that execute an operation together, once all that its mask names have arrived; until then `None`.
    pub(super) fn gather(&mut self, site: Site, op: &Op, active: u32) -> Result<Option<u32>, Finding> {
        let Some(members) = op.members() else {
            return Ok(Some(active));
        };
        let masks = self.fetch(site, members, active)?;
        let mask = masks[active.trailing_zeros() as usize] as u32;
        if let Some(lane) = lanes(active).find(|&lane| masks[lane] as u32 != mask || mask >> lane & 1 == 0) {
            let fault = Fault::OutsideMask { lane: lane as u32, mask: masks[lane] as u32 };
            return Err(self.finding(site, lane, fault));
        }
        let aligned = matches!(op, Op::LoadMatrix { .. } | Op::Mma { .. } | Op::Wgmma(_));
        let warp = &mut self.state.warps[site.warp];
        let missing = mask & (warp.exited | if aligned { !warp.present } else { 0 });
        if missing != 0 {
            return Err(self.finding(site, active.trailing_zeros() as usize, Fault::MissingLanes { missing }));
        }
        let needed = mask & warp.present;
        let waiting = warp.gathering.iter().position(|group| group.pc == site.pc);
        let here = active | waiting.map_or(0, |i| warp.gathering[i].mask);
        if here & needed != needed {
            warp.settle(site.pc, active, Next::Lanes);
            return Ok(None);
        }
        waiting.map(|i| warp.gathering.swap_remove(i));
        Ok(Some(here))
    }

    /// Orders the accesses of those that take part.
    pub(super) fn warp_barrier(&mut self, site: Site, mask: u32) {
        self.meet(site.warp, mask);
    }

    pub(super) fn shuffle(
        &mut self,
        site: Site,
        mask: u32,
        mode: Shuffle,
        (d, valid): (Register, Option<Register>),
        s: [Operand; 3],
        members: Operand,
    ) -> Result<(), Finding> {
        let values = self.fetch(site, s[0], mask)?;
        let (steps, clamps) = (self.fetch(site, s[1], mask)?, self.fetch(site, s[2], mask)?);
        let masks = self.fetch(site, members, mask)?;
        let (mut result, mut inside) = ([0; WARP], [0; WARP]);
        for lane in lanes(mask) {
            let (source, in_range) = source_lane(mode, lane as u32, steps[lane] as u32, clamps[lane] as u32);
            if mask >> source & 1 == 0 {
                let fault = Fault::OutsideMask { lane: source, mask: masks[lane] as u32 };
                return Err(self.finding(site, lane, fault));
            }
            result[lane] = values[source as usize];
            inside[lane] = u64::from(in_range);
        }
        self.assign(site, d, mask, &result);
        if let Some(valid) = valid {
            self.assign(site, valid, mask, &inside);
        }
        Ok(())
    }

    pub(super) fn vote(&mut self, site: Site, mask: u32, mode: Vote, d: Register, s: Flag) -> Result<(), Finding> {
        let flags = self.flags(site, s, mask)?;
        let ballot = lanes(mask).fold(0u32, |ballot, lane| ballot | (flags[lane] as u32) << lane);
        let result = match mode {
            Vote::All => u64::from(ballot == mask),
            Vote::Any => u64::from(ballot != 0),
            Vote::Uniform => u64::from(ballot == mask || ballot == 0),
            Vote::Ballot => u64::from(ballot),
        };
        self.assign(site, d, mask, &[result; WARP]);
        Ok(())
    }

    /// The lowest lane is elected: which one, the ISA leaves open.
    pub(super) fn elect(&mut self, site: Site, mask: u32, d: Option<Register>, elected: Register) {
        let leader = mask.trailing_zeros() as usize;
        if let Some(d) = d {
            self.assign(site, d, mask, &[leader as u64; WARP]);
        }
        self.assign(site, elected, mask, &std::array::from_fn(|lane| u64::from(lane == leader)));
    }

    pub(super) fn reduce(&mut self, site: Site, mask: u32, f: Compute, d: Register, s: Operand) -> Result<(), Finding> {
        let values = self.fetch(site, s, mask)?;
        let total = lanes(mask).map(|lane| values[lane]).reduce(|a, b| f.one([a, b, 0, 0])).unwrap_or(0);
        self.assign(site, d, mask, &[total; WARP]);
        Ok(())
    }
}

/// The lane a shuffle reads, and whether it lies inside the segment (PTX ISA 9.7.9.6; `c` holds the clamp in its low
/// bits and the segment mask eight bits up).
fn source_lane(mode: Shuffle, lane: u32, b: u32, c: u32) -> (u32, bool) {
    let (b, clamp, segment) = (b & 31, c & 31, c >> 8 & 31);
    let highest = lane & segment | clamp & !segment;
    let (source, inside) = match mode {
        Shuffle::Up => (lane.wrapping_sub(b), lane as i32 - b as i32 >= highest as i32),
        Shuffle::Down => (lane + b, lane + b <= highest),
        Shuffle::Butterfly => (lane ^ b, lane ^ b <= highest),
        Shuffle::Index => {
            let source = lane & segment | b & !segment;
            (source, source <= highest)
        }
    };
    if inside { (source, true) } else { (lane, false) }
}
