//! `wgmma`: matrix products of a warpgroup, asynchronous and with operands in shared memory (PTX ISA 9.7.15).
//!
//! Each warp is modelled by itself: warp w of a warpgroup computes rows 16 w to 16 w + 15 of the 64, from its part of A and
//! all of B. Results are computed when the instruction is issued, but they are nobody's until the warp has waited for their
//! group: until then registers are *busy*, and reads of shared memory are those of the warp's engine, which only
//! `wgmma.wait_group` tells the completion of. So whatever overwrites a tile must come after that wait.

use super::block::{Block, Site};
use super::ordering::Engine;
use super::warp::{Lanes, lanes};
use crate::finding::{Fault, Finding};
use crate::float::Format;
use crate::ir::{Flag, MatrixA, Op, Operand, Register, Wgmma};
use crate::order::Epoch;
use crate::region::{Region, Spot};
use crate::tensor_map::Swizzle;
use crate::types::Space;

/// Inputs of one instruction, for elements of 16 bits.
const K: usize = 16;

/// How a register takes part in matrix operations.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Use {
    /// The group that reads it, and the group that writes it; 0 if none is under way.
    read_by: u32,
    written_by: u32,
    /// Written by another instruction since the last `wgmma.fence`.
    touched: bool,
}

/// The matrix operations of one warp.
#[derive(Debug, Default)]
pub(crate) struct Matrices {
    /// By register; empty in kernels without such operations.
    uses: Vec<Use>,
    committed: u32,
    complete: u32,
    open: bool,
}

impl Matrices {
    pub fn new(registers: usize) -> Self {
        Matrices { uses: vec![Use::default(); registers], ..Matrices::default() }
    }

    pub fn is_empty(&self) -> bool {
        !self.open && self.complete == self.committed
    }

    /// Whether a register may be read (or written) by an ordinary instruction now.
    pub fn allows(&self, register: Register, write: bool) -> bool {
        let Some(usage) = self.uses.get(register as usize) else { return true };
        usage.written_by <= self.complete && (!write || usage.read_by <= self.complete)
    }
}

/// A matrix in shared memory as a descriptor has it (PTX ISA 9.7.15.5.1).
#[derive(Debug, Clone, Copy)]
struct Tile {
    start: u64,
    leading: u64,
    stride: u64,
    swizzle: Swizzle,
    /// Whether elements along M or N, not along K, are neighbours.
    transposed: bool,
}

impl Tile {
    fn new(descriptor: u64, transposed: bool) -> Self {
        let field = |at: u64| (descriptor >> at & 0x3fff) << 4;
        let swizzle = [Swizzle::None, Swizzle::B128, Swizzle::B64, Swizzle::B32][(descriptor >> 62) as usize];
        Tile { start: field(0), leading: field(16), stride: field(32), swizzle, transposed }
    }

    /// Where eight elements lie that are neighbours in memory: those of row `line` from the eighth `chunk` on along K, or if
    /// transposed those of input `line` along M or N.
    fn chunk(&self, line: u64, chunk: u64) -> u64 {
        let span = self.swizzle.span();
        let within = |chunk: u64| (chunk % (span / 16)) * 16 + line % 8 * span;
        let offset = match (self.swizzle, self.transposed) {
            (Swizzle::None, false) => line / 8 * self.stride + line % 8 * 16 + chunk * self.leading,
            (Swizzle::None, true) => chunk * self.stride + line % 8 * 16 + line / 8 * self.leading,
            (_, false) => line / 8 * self.stride + line % 8 * span + chunk * 16,
            (_, true) => line / 8 * self.stride + chunk / (span / 16) * self.leading + within(chunk),
        };
        self.swizzle.apply(self.start + offset)
    }
}

impl Block<'_, '_> {
    /// Before an ordinary instruction: it may not use registers of operations under way.
    pub(super) fn check_busy(&mut self, site: Site, mask: u32, op: &Op, writes: &[Register]) -> Result<(), Finding> {
        if matches!(op, Op::Wgmma(_)) {
            return Ok(());
        }
        let matrices = &mut self.state.warps[site.warp].matrices;
        if writes.iter().any(|register| !matrices.allows(*register, true)) {
            return Err(self.finding(site, mask.trailing_zeros() as usize, Fault::RegisterInFlight));
        }
        for register in writes {
            if let Some(usage) = matrices.uses.get_mut(*register as usize) {
                usage.touched = true;
            }
        }
        Ok(())
    }

    pub(super) fn wgmma_fence(&mut self, warp: usize) {
        self.state.warps[warp].matrices.uses.iter_mut().for_each(|usage| usage.touched = false);
    }

    pub(super) fn wgmma_commit(&mut self, warp: usize) {
        let matrices = &mut self.state.warps[warp].matrices;
        matrices.committed += 1;
        matrices.open = false;
    }

    pub(super) fn wgmma_wait(&mut self, warp: usize, pending: u32) {
        let engine = self.state.engines.get(&Engine::Matrices(warp as u32)).copied();
        let (block, warp) = (self.state.linear, &mut self.state.warps[warp]);
        let complete = warp.matrices.committed.saturating_sub(pending).max(warp.matrices.complete);
        warp.matrices.complete = complete;
        if let (Some(engine), super::Checks::All) = (engine, self.machine.launch.checks) {
            warp.teach(warp.present, |view| view.seen.raise(block, engine, complete));
        }
    }

    pub(super) fn wgmma(&mut self, site: Site, op: &Wgmma) -> Result<(), Finding> {
        self.machine.counters.wgmma += 1;
        self.machine.changes += 1;
        let group = self.state.warps[site.warp].matrices.committed + 1;
        self.state.warps[site.warp].matrices.open = true;
        let a_registers: Vec<Register> = match &op.a {
            MatrixA::Registers(all) => all.iter().filter_map(register).collect(),
            MatrixA::Shared { .. } => Vec::new(),
        };
        self.take_registers(site, &op.d, &a_registers, group)?;
        let engine = self.engine(Engine::Matrices(site.warp as u32));
        let engine = engine.ok_or_else(|| self.finding(site, 0, Fault::TooManyEngines))?;
        let mark = Epoch::new(self.state.linear, engine, group).asynchronous();
        let a = match &op.a {
            MatrixA::Registers(all) => self.rows_of_registers(site, op.format, all)?,
            MatrixA::Shared { descriptor, transposed } => {
                let tile = self.tile(site, *descriptor, *transposed)?;
                self.read_tile(site, mark, tile, site.warp as u64 % 4 * 16, 16, op.format)?
            }
        };
        let tile = self.tile(site, op.b, op.b_transposed)?;
        let b = self.read_tile(site, mark, tile, 0, 2 * op.d.len() as u64, op.format)?;
        self.multiply(site, op, &a, &b)
    }

    /// Registers an operation uses may not have been written since the last fence; from now on they are its own.
    fn take_registers(&mut self, site: Site, d: &[Register], a: &[Register], group: u32) -> Result<(), Finding> {
        let matrices = &mut self.state.warps[site.warp].matrices;
        let touched = |register: &Register| matrices.uses.get(*register as usize).is_some_and(|usage| usage.touched);
        if d.iter().chain(a).any(touched) {
            return Err(self.finding(site, 0, Fault::MissingWgmmaFence));
        }
        for register in d {
            matrices.uses[*register as usize].written_by = group;
        }
        for register in a {
            matrices.uses[*register as usize].read_by = group;
        }
        Ok(())
    }

    fn tile(&self, site: Site, descriptor: Operand, transposed: bool) -> Result<Tile, Finding> {
        Ok(Tile::new(self.fetch(site, descriptor, u32::MAX)?[0], transposed))
    }

    /// A's rows from registers: as in `mma`, lane 4 g + q holds rows g and g + 8.
    fn rows_of_registers(&self, site: Site, format: Format, a: &[Operand]) -> Result<Vec<[f64; K]>, Finding> {
        let mut rows = vec![[0.0; K]; 16];
        for (i, operand) in a.iter().enumerate() {
            let values = self.fetch(site, *operand, u32::MAX)?;
            for (lane, value) in values.iter().enumerate() {
                for half in 0..2 {
                    let column = lane % 4 * 2 + i / 2 * 8 + half;
                    rows[lane / 4 + i % 2 * 8][column] = format.widen(value >> (16 * half) & 0xffff);
                }
            }
        }
        Ok(rows)
    }

    /// Rows of a matrix in shared memory, read by the warp's engine.
    fn read_tile(
        &mut self,
        site: Site,
        mark: Epoch,
        tile: Tile,
        first: u64,
        count: u64,
        format: Format,
    ) -> Result<Vec<[f64; K]>, Finding> {
        let mut rows = vec![[0.0; K]; count as usize];
        let (lines, chunks) =
            if tile.transposed { (0..K as u64, first / 8..(first + count) / 8) } else { (first..first + count, 0..2) };
        for line in lines {
            for chunk in chunks.clone() {
                let mut data = [0; 16];
                self.read_chunk(site, mark, tile.chunk(line, chunk), &mut data)?;
                for (i, pair) in data.chunks_exact(2).enumerate() {
                    let value = format.widen(u64::from(u16::from_le_bytes([pair[0], pair[1]])));
                    match tile.transposed {
                        false => rows[(line - first) as usize][chunk as usize * 8 + i] = value,
                        true => rows[(chunk * 8 - first) as usize + i][line as usize] = value,
                    }
                }
            }
        }
        Ok(rows)
    }

    /// Sixteen bytes that every lane of the warp must know to be there, since every lane's operation reads them.
    fn read_chunk(&mut self, site: Site, mark: Epoch, address: u64, out: &mut [u8; 16]) -> Result<(), Finding> {
        let spot = Spot { space: Space::Shared, address, offset: address };
        let (threads, block) = (self.threads(), self.state.linear);
        let read = if self.checks_races() {
            let warp = &self.state.warps[site.warp];
            let shared: &mut Region = &mut self.state.shared;
            let distinct = |&lane: &usize| lane == 0 || !warp.views[lane].seen.is_same(&warp.views[lane - 1].seen);
            let mut each = lanes(warp.present).filter(distinct);
            each.try_for_each(|lane| {
                let who = crate::race::Who { mark, ..warp.who(block, threads, lane) };
                shared.read(spot, Some(&who), out)
            })
        } else {
            self.state.shared.read(spot, None, out)
        };
        read.map_err(|fault| self.finding(site, 0, fault))
    }

    /// d = a b + d, or a b: products are exact and summed in `f64`, then rounded once, as in `mma`.
    fn multiply(&mut self, site: Site, op: &Wgmma, a: &[[f64; K]], b: &[[f64; K]]) -> Result<(), Finding> {
        let keep = self.flag_of_warp(site, op.scale_d)?;
        let sign = if op.negated { -1.0 } else { 1.0 };
        for (i, &d) in op.d.iter().enumerate() {
            let undefined = !self.state.warps[site.warp].defined[d as usize];
            if keep && undefined != 0 {
                return Err(self.finding(site, undefined.trailing_zeros() as usize, Fault::UndefinedRegister));
            }
            let old = self.state.warps[site.warp].registers[d as usize];
            let values: Lanes = std::array::from_fn(|lane| {
                let (row, column) = (lane / 4 + i / 2 % 2 * 8, i / 4 * 8 + lane % 4 * 2 + i % 2);
                let products: f64 = a[row].iter().zip(&b[column]).map(|(x, y)| x * y).sum();
                let before = if keep { f64::from(f32::from_bits(old[lane] as u32)) } else { 0.0 };
                let sum = sign * products + before;
                if sum.is_nan() { 0x7fff_ffff } else { u64::from((sum as f32).to_bits()) }
            });
            self.assign(site, d, u32::MAX, &values);
        }
        Ok(())
    }

    fn flag_of_warp(&self, site: Site, flag: Flag) -> Result<bool, Finding> {
        Ok(self.flags(site, flag, u32::MAX)?[0] == 1)
    }
}

fn register(operand: &Operand) -> Option<Register> {
    match operand {
        Operand::Register(register) => Some(*register),
        _ => None,
    }
}
