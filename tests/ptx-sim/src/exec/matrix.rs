//! `ldmatrix` and `mma` (PTX ISA 9.7.14.5).
//!
//! Lane = 4 g + q. In every fragment of 8x8 elements of 16 bits a lane holds row g, columns 2q and 2q + 1, in one register.

use super::WARP;
use super::block::{Block, Site};
use super::warp::Lanes;
use crate::finding::Finding;
use crate::float::Format;
use crate::ir::{Address, Operand, Register, Transfer};
use crate::types::Space;

impl Block<'_, '_> {
    /// Lane 8 m + r gives the address of row r of matrix m; register m of each lane gets its pair of that matrix.
    pub(super) fn load_matrix(
        &mut self,
        site: Site,
        transposed: bool,
        d: &[Register],
        at: Address,
    ) -> Result<(), Finding> {
        let addresses = self.addresses(site, at, u32::MAX)?;
        for (matrix, register) in d.iter().enumerate() {
            let lanes = 8 * matrix..8 * matrix + 8;
            self.machine.counters.shared(&addresses[lanes.clone()], 16);
            let mut rows = [[0u16; 8]; 8];
            for (lane, row) in lanes.zip(&mut rows) {
                let mut data = [0; 16];
                let read = self.read_lane(site.warp, lane, Transfer::plain(Space::Shared), addresses[lane], &mut data);
                read.map_err(|fault| self.finding(site, lane, fault))?;
                *row = std::array::from_fn(|i| u16::from_le_bytes([data[2 * i], data[2 * i + 1]]));
            }
            let element = |r: usize, c: usize| u64::from(if transposed { rows[c][r] } else { rows[r][c] });
            let pairs: Lanes = std::array::from_fn(|lane| {
                let (g, q) = (lane / 4, lane % 4);
                element(g, 2 * q) | element(g, 2 * q + 1) << 16
            });
            self.assign(site, *register, u32::MAX, &pairs);
        }
        Ok(())
    }

    /// d = a b + c for a 16 x k tile of a, a k x 8 tile of b, accumulators in f32.
    ///
    /// Products are exact and summed in `f64`, then rounded once. A tensor core keeps fewer bits while it sums; the ISA
    /// leaves order and precision open.
    pub(super) fn mma(
        &mut self,
        site: Site,
        format: Format,
        k: usize,
        d: &[Register],
        [a, b, c]: [&[Operand]; 3],
    ) -> Result<(), Finding> {
        self.machine.counters.mma += 1;
        let (a, b, c) = (self.fetch_all(site, a)?, self.fetch_all(site, b)?, self.fetch_all(site, c)?);
        let (mut left, mut right) = ([[0.0; 16]; 16], [[0.0; 8]; 16]);
        for lane in 0..WARP {
            let (g, q) = (lane / 4, lane % 4);
            for (i, a) in a.iter().enumerate().take(k / 4) {
                let at = 2 * q + i / 2 * 8;
                left[g + i % 2 * 8][at..at + 2].copy_from_slice(&pair(format, a[lane]));
            }
            for (i, b) in b.iter().enumerate().take(k / 8) {
                let [first, second] = pair(format, b[lane]);
                (right[2 * q + i * 8][g], right[2 * q + i * 8 + 1][g]) = (first, second);
            }
        }
        let sums = left.map(|row| products(&row[..k], &right[..k]));
        for (i, register) in d.iter().enumerate() {
            let values: Lanes = std::array::from_fn(|lane| {
                let (row, column) = (lane / 4 + i / 2 * 8, lane % 4 * 2 + i % 2);
                let sum = sums[row][column] + f64::from(f32::from_bits(c[i][lane] as u32));
                if sum.is_nan() { F32_NAN } else { u64::from((sum as f32).to_bits()) }
            });
            self.assign(site, *register, u32::MAX, &values);
        }
        Ok(())
    }

    fn fetch_all(&self, site: Site, operands: &[Operand]) -> Result<[Lanes; 4], Finding> {
        let mut all = [[0; WARP]; 4];
        for (values, operand) in all.iter_mut().zip(operands) {
            *values = self.fetch(site, *operand, u32::MAX)?;
        }
        Ok(all)
    }
}

/// The NaN that arithmetic returns.
const F32_NAN: u64 = 0x7fff_ffff;

/// A row times a matrix of eight columns, which are summed side by side, each from the first input to the last.
fn products(row: &[f64], matrix: &[[f64; 8]]) -> [f64; 8] {
    let mut sums = [-0.0; 8];
    for (x, inputs) in row.iter().zip(matrix) {
        sums.iter_mut().zip(inputs).for_each(|(sum, y)| *sum += x * y);
    }
    sums
}

/// The two elements of a register.
fn pair(format: Format, bits: u64) -> [f64; 2] {
    [format.widen(bits & 0xffff), format.widen(bits >> 16 & 0xffff)]
}
