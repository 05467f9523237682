//! The linear's microkernels: one table per tier, indexed by packed form and by the width of the column tile.
//!
//! Every kernel computes, for the rows of one panel and the columns of one tile, the chains that docs/numerics.md
//! fixes; so all tables give the same bits, and `portable` is the one that can be read.

use super::floats::{Floating, MANY};
use crate::isa::Tier;
use crate::quant::QuantTile;
use crate::weight::pack::{MAX_PANEL_ROWS, PACKS, Pack};

/// Columns of the widest tile of any tier.
pub const MAX_COLUMNS: usize = 12;

/// A column tile of activations. What a form does not read is empty.
#[derive(Debug, Clone, Copy, Default)]
pub struct Acts<'a> {
    /// Columns: a token, or a term of one.
    pub columns: usize,
    /// `[k][column]`.
    pub floats: &'a [f32],
    /// `[group][column]`, four quants in each i32, lowest byte first. Some tiers bring columns into another order.
    pub quants: &'a [[i32; 8]],
    /// `[group][column]`.
    pub scales: &'a [f32],
    /// Whether all scales are powers of two from 2^-100 to 2^100. A product of one with an f16, or a small multiple of an f16,
    /// is a normal number or 0: its exponent is the sum of theirs.
    pub powers: bool,
    /// `[group][sub-block][column]` `-zero_point * sum(quants)`: one number of 32 bits, or on AVX2 two of 16, whose sum it
    /// is, for columns 0 and 1 and for columns 2 and 3 of every four.
    pub zeros: &'a [i32],
    /// `[group][sub-block][column]` `scale * sum(quants)`.
    pub sums: &'a [f32],
}

/// What a kernel writes: `[column][row of the panel]`.
pub type Tile = [[f32; MAX_PANEL_ROWS]; MAX_COLUMNS];

/// Multiplies one panel with one column tile.
pub(super) type Kernel = unsafe fn(Pack, &[u8], Acts<'_>, &mut Tile);

/// Columns of a batch that go through a panel together, where its codes are unpacked once for all of them.
pub const PASS: usize = 96;

/// What a kernel writes for a pass: `[column][row of the panel]`, and as much more as makes a [`Tile`] of the last tile.
pub type Columns = [[f32; MAX_PANEL_ROWS]; PASS + MAX_COLUMNS];

/// Bytes of unpacked codes in a [`Room`]: less than any first-level cache that has them.
pub(super) const ROOM: usize = 20 << 10;

/// Where a kernel unpacks.
#[repr(C, align(64))]
pub struct Room {
    pub(super) codes: [u8; ROOM],
}

impl Room {
    /// Zeroed.
    pub fn new() -> Room {
        Room { codes: [0; ROOM] }
    }
}

/// Multiplies one panel with many column tiles.
pub(super) type ManyKernel = unsafe fn(&[u8], &[Acts<'_>], &mut Columns, &mut Room);

/// The kernels of a tier that unpacks codes for many columns.
pub(super) struct Many {
    /// Batches of fewer columns than this are better off with a [`Kernel`].
    pub(super) from: usize,
    /// For forms that have codes.
    pub(super) kernels: [Option<ManyKernel>; PACKS],
}

/// The inner loops of one tier.
///
/// Made only by [`LinearKernels::new`], which asks the CPU whether it has the instructions: that is why calling through
/// it is safe.
pub struct LinearKernels {
    pub(super) columns: usize,
    /// For forms that have codes.
    pub(super) kernels: [[Kernel; MAX_COLUMNS]; PACKS],
    pub(super) many: Option<Many>,
    /// Whether [`Acts::zeros`] are pairs of 16 bits, for the first and last two of every four columns.
    pub(super) zero_pairs: bool,
    pub(super) quantise: unsafe fn(&[f32], QuantTile<'_>),
    pub(super) floats: Floating,
}

impl LinearKernels {
    /// The table of `tier`, or `None` if this CPU cannot run it.
    pub fn new(tier: Tier) -> Option<LinearKernels> {
        tier.is_available().then(|| match tier {
            #[cfg(target_arch = "x86_64")]
            Tier::Avx512 => super::avx512::linear::kernels(),
            #[cfg(target_arch = "x86_64")]
            Tier::AvxVnni => super::avxvnni::linear::kernels(),
            #[cfg(target_arch = "x86_64")]
            Tier::Avx2 => super::avx2::linear::kernels(),
            #[cfg(target_arch = "aarch64")]
            Tier::Neon => super::aarch64::linear::neon(),
            #[cfg(target_arch = "aarch64")]
            Tier::NeonDotprod => super::aarch64::linear::dotprod(),
            #[cfg(target_arch = "aarch64")]
            Tier::NeonI8mm => super::aarch64::linear::i8mm(),
            _ => super::portable::linear::kernels(),
        })
    }

    /// Columns of the widest tile.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// `tile[c][r] = panel[r] . acts[c]` for every row of the panel and every column of the tile.
    pub fn run(&self, pack: Pack, panel: &[u8], acts: Acts<'_>, tile: &mut Tile) {
        if pack.is_float() {
            // SAFETY: nothing is needed but the CPU features of this tier, which `new` has checked.
            return unsafe { self.floats.multiply(pack, panel, acts, tile) };
        }
        let kernel = self.kernels[pack as usize][acts.columns - 1];
        // SAFETY: as above.
        unsafe { kernel(pack, panel, acts, tile) }
    }

    /// Whether so many columns go through panels of these forms in passes of `PASS`, not tile by tile.
    pub fn makes_passes(&self, columns: usize, mut packs: impl Iterator<Item = Pack>) -> bool {
        self.many.as_ref().is_some_and(|many| columns >= many.from)
            || columns > self.columns && packs.any(|pack| pack == Pack::CodedBF16)
    }

    /// `columns[c][r] = panel[r] . acts[c]` for every row of the panel and every column of all the tiles, at most `PASS`.
    pub fn run_pass(&self, pack: Pack, panel: &[u8], acts: &[Acts<'_>], columns: &mut Columns, room: &mut Room) {
        assert!(acts.iter().map(|acts| acts.columns).sum::<usize>() <= PASS, "columns of a pass");
        if pack == Pack::CodedBF16 {
            let room = &mut room.codes.as_chunks_mut().0[..MANY];
            // SAFETY: as in `run`.
            return unsafe { self.floats.coded.multiply_all(panel, acts, columns, room) };
        }
        if let Some(kernel) = self.many.as_ref().and_then(|many| many.kernels[pack as usize]) {
            // SAFETY: as in `run`.
            return unsafe { kernel(panel, acts, columns, room) };
        }
        let mut at = 0;
        for acts in acts {
            self.run(pack, panel, *acts, columns[at..].first_chunk_mut().expect("room for a tile"));
            at += acts.columns;
        }
    }

    /// Whether activations come with zero points in pairs of 16 bits, which are taken off together.
    pub fn zero_pairs(&self) -> bool {
        self.zero_pairs
    }

    /// Quantises the tokens of a column tile.
    pub(crate) fn quantise(&self, x: &[f32], out: QuantTile<'_>) {
        // SAFETY: as in `run`.
        unsafe { (self.quantise)(x, out) }
    }
}
