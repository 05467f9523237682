//! Executing one instruction in the active lanes of a warp: dispatch and everything that stays within a thread.

use super::WARP;
use super::block::{Block, Site};
use super::warp::{Lanes, Next, lanes};
use crate::convert::Conversion;
use crate::finding::{Fault, Finding};
use crate::ir::{Bool, Compute, Flag, Op, Operand, Register};

/// The operand of most unused places.
static ZERO: Lanes = [0; WARP];

impl Block<'_, '_> {
    pub(super) fn execute(&mut self, site: Site, op: &Op, mask: u32) -> Result<Next, Finding> {
        match op {
            Op::Branch { target } => return Ok(Next::Jump(*target)),
            Op::Barrier(meeting) => return self.barrier(site, mask, *meeting),
            Op::Fence { scope } => self.fence(site.warp, mask, *scope),
            Op::ProxyFence => self.proxy_fence(site.warp, mask),
            Op::Exit => return self.exit(site, mask),
            Op::Trap => return Err(self.finding(site, mask.trailing_zeros() as usize, Fault::Trap)),
            Op::Nothing => {}
            Op::Compute { f, d, s } => self.compute(site, mask, *d, *s, *f)?,
            Op::Arith { op, format, packed, mode, d, s } => {
                self.map(site, mask, *d, *s, |s| op.apply(*format, *packed, *mode, s))?;
            }
            Op::Convert { how, d, s } => self.map(site, mask, *d, [*s], |[s]| how.apply(s))?,
            Op::ConvertPair { how, d, high, low } => self.convert_pair(site, mask, how, *d, [*high, *low])?,
            Op::Compare { f, d, inverse, s, with } => {
                self.compare(site, mask, *f, [Some(*d), *inverse], *s, *with)?;
            }
            Op::Pack { d, s, bits } => self.pack(site, mask, *d, s, *bits)?,
            Op::Unpack { d, s, bits } => self.unpack(site, mask, d, *s, *bits)?,
            Op::Load { how, d, at } => return self.load(site, mask, *how, d, *at),
            Op::Store { how, s, at } => self.store(site, mask, *how, s, *at)?,
            Op::Atomic { f, how, d, at, s } => return self.atomic(site, mask, *f, *how, *d, *at, *s),
            Op::WarpBarrier { .. } => self.warp_barrier(site, mask),
            Op::Shuffle { mode, d, valid, s, members } => {
                self.shuffle(site, mask, *mode, (*d, *valid), *s, *members)?;
            }
            Op::Vote { mode, d, s, .. } => self.vote(site, mask, *mode, *d, *s)?,
            Op::Reduce { f, d, s, .. } => self.reduce(site, mask, *f, *d, *s)?,
            Op::Elect { d, elected, .. } => self.elect(site, mask, *d, *elected),
            Op::ActiveMask { d } => self.assign(site, *d, mask, &[u64::from(mask); WARP]),
            Op::LoadMatrix { transposed, d, at } => self.load_matrix(site, *transposed, d, *at)?,
            Op::Mma { format, k, d, a, b, c } => self.mma(site, *format, *k, d, [a, b, c])?,
            Op::CopiesArrive { at, counted } => self.copies_arrive(site, mask, *at, *counted)?,
            Op::MbarrierInit { at, count } => self.mbarrier_init(site, mask, *at, *count)?,
            Op::MbarrierInvalidate { at } => self.mbarrier_invalidate(site, mask, *at)?,
            Op::MbarrierFence => self.announce_mbarriers(site.warp, mask),
            Op::MbarrierArrive { d, at, count, bytes } => {
                self.mbarrier_arrive(site, mask, *d, *at, [*count, *bytes])?;
            }
            Op::MbarrierCount { at, bytes, sign } => self.mbarrier_count(site, mask, *at, *bytes, *sign)?,
            Op::MbarrierTest { d, at, phase } => return self.mbarrier_test(site, mask, *d, *at, *phase),
            Op::BulkLoad { to, from, bytes, barrier } => self.bulk_load(site, mask, [*to, *from, *barrier], *bytes)?,
            Op::BulkStore { to, from, bytes } => self.bulk_store(site, mask, [*to, *from], *bytes)?,
            Op::TensorLoad { to, map, at, barrier } => self.tensor_load(site, mask, [*to, *map, *barrier], at)?,
            Op::TensorStore { map, at, from } => self.tensor_store(site, mask, [*map, *from], at)?,
            Op::BulkCommit => self.bulk_commit(site, mask),
            Op::BulkWait { pending, reads_only } => self.bulk_wait(site, mask, *pending, *reads_only),
            Op::Wgmma(product) => self.wgmma(site, product)?,
            Op::WgmmaFence => self.wgmma_fence(site.warp),
            Op::WgmmaCommit => self.wgmma_commit(site.warp),
            Op::WgmmaWait { pending } => self.wgmma_wait(site.warp, *pending),
            Op::CopyAsync { bytes, to, from, valid } => self.copy(site, mask, *bytes, [*to, *from], *valid)?,
            Op::CopyCommit => self.commit_copies(site, mask),
            Op::Prefetch { at } => self.prefetch(site, mask, *at)?,
            Op::CopyWait { pending } => self.wait_copies(site, mask, *pending),
        }
        Ok(Next::Advance)
    }

    fn exit(&mut self, site: Site, mask: u32) -> Result<Next, Finding> {
        let warp = &self.state.warps[site.warp];
        let waited = |lane: usize| warp.copies[lane].is_empty() && warp.stores[lane].is_empty();
        match lanes(mask).find(|&lane| !waited(lane) || !warp.matrices.is_empty()) {
            Some(lane) => Err(self.finding(site, lane, Fault::NeverWaited)),
            None => Ok(Next::Exit),
        }
    }

    /// The common case of `map`: no operand is copied.
    fn compute(&mut self, site: Site, mask: u32, d: Register, s: [Operand; 4], f: Compute) -> Result<(), Finding> {
        for (i, source) in s.into_iter().enumerate() {
            match source {
                Operand::Register(register) => self.must_be_defined(site, register, mask)?,
                Operand::Immediate(0) => {}
                _ => self.machine.scratch[i] = self.constant(site.warp, source),
            }
        }
        let (registers, scratch) = (&self.state.warps[site.warp].registers, &self.machine.scratch);
        let operand = |i: usize| match s[i] {
            Operand::Register(register) => &registers[register as usize],
            Operand::Immediate(0) => &ZERO,
            _ => &scratch[i],
        };
        let mut result = [0; WARP];
        f.all(&mut result, [operand(0), operand(1), operand(2), operand(3)]);
        self.assign(site, d, mask, &result);
        Ok(())
    }

    fn map<const N: usize>(
        &mut self,
        site: Site,
        mask: u32,
        d: Register,
        sources: [Operand; N],
        f: impl Fn([u64; N]) -> u64,
    ) -> Result<(), Finding> {
        let mut values = [[0; WARP]; N];
        for (value, source) in values.iter_mut().zip(sources) {
            *value = self.fetch(site, source, mask)?;
        }
        let mut result = [0; WARP];
        for lane in lanes(mask) {
            result[lane] = f(std::array::from_fn(|i| values[i][lane]));
        }
        self.assign(site, d, mask, &result);
        Ok(())
    }

    fn convert_pair(
        &mut self,
        site: Site,
        mask: u32,
        how: &Conversion,
        d: Register,
        pair: [Operand; 2],
    ) -> Result<(), Finding> {
        self.map(site, mask, d, pair, |[high, low]| how.apply(high) << 16 | how.apply(low))
    }

    /// The value of a predicate operand in every lane.
    pub(super) fn flags(&self, site: Site, flag: Flag, mask: u32) -> Result<Lanes, Finding> {
        Ok(self.fetch(site, flag.operand, mask)?.map(|v| v & 1 ^ u64::from(flag.negated)))
    }

    fn compare(
        &mut self,
        site: Site,
        mask: u32,
        f: fn(u64, u64) -> bool,
        d: [Option<Register>; 2],
        s: [Operand; 2],
        with: Option<(Bool, Flag)>,
    ) -> Result<(), Finding> {
        let (a, b) = (self.fetch(site, s[0], mask)?, self.fetch(site, s[1], mask)?);
        let second = with.map(|(_, flag)| self.flags(site, flag, mask)).transpose()?;
        for (register, inverted) in d.into_iter().zip([false, true]) {
            let Some(register) = register else { continue };
            let mut result = [0; WARP];
            for lane in lanes(mask) {
                let value = u64::from(f(a[lane], b[lane]) != inverted);
                result[lane] = match (with, &second) {
                    (Some((Bool::And, _)), Some(c)) => value & c[lane],
                    (Some((Bool::Or, _)), Some(c)) => value | c[lane],
                    (Some((Bool::Xor, _)), Some(c)) => value ^ c[lane],
                    _ => value,
                };
            }
            self.assign(site, register, mask, &result);
        }
        Ok(())
    }

    fn pack(&mut self, site: Site, mask: u32, d: Register, s: &[Operand], bits: u32) -> Result<(), Finding> {
        let part = u64::MAX >> (64 - bits);
        let mut result = [0; WARP];
        for (i, source) in s.iter().enumerate() {
            let values = self.fetch(site, *source, mask)?;
            for lane in lanes(mask) {
                result[lane] |= (values[lane] & part) << (bits * i as u32);
            }
        }
        self.assign(site, d, mask, &result);
        Ok(())
    }

    fn unpack(&mut self, site: Site, mask: u32, d: &[Option<Register>], s: Operand, bits: u32) -> Result<(), Finding> {
        let values = self.fetch(site, s, mask)?;
        let part = u64::MAX >> (64 - bits);
        for (i, register) in d.iter().enumerate() {
            if let Some(register) = register {
                self.assign(site, *register, mask, &values.map(|v| v >> (bits * i as u32) & part));
            }
        }
        Ok(())
    }
}
