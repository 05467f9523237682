//! The linear's microkernels: one table per tier, indexed by packed form and by the width of the column tile.
//!
//! Every kernel computes, for the rows of one panel and the tokens of one column tile, the chains that docs/numerics.md
//! fixes; so all tables give the same bits, and `portable` is the one that can be read.

use crate::isa::Tier;
use crate::quant::QuantTile;
use crate::weight::pack::{MAX_PANEL_ROWS, PACKS, Pack};

/// Columns of the widest tile of any tier.
pub const MAX_COLUMNS: usize = 12;

/// A column tile of activations, `columns` tokens wide. What a form does not read is empty.
#[derive(Debug, Clone, Copy, Default)]
pub struct Acts<'a> {
    /// Tokens.
    pub columns: usize,
    /// `[k][column]`.
    pub floats: &'a [f32],
    /// `[group][column]`, four quants in each i32, lowest byte first.
    pub quants: &'a [[i32; 8]],
    /// `[group][column]`.
    pub scales: &'a [f32],
    /// `[group][sub-block][column]` `-zero_point * sum(quants)`.
    pub zeros: &'a [i32],
    /// `[group][sub-block][column]` `scale * sum(quants)`.
    pub sums: &'a [f32],
}

/// What a kernel writes: `[column][row of the panel]`.
pub type Tile = [[f32; MAX_PANEL_ROWS]; MAX_COLUMNS];

/// Multiplies one panel with one column tile.
pub(super) type Kernel = unsafe fn(Pack, &[u8], Acts<'_>, &mut Tile);

/// The inner loops of one tier.
///
/// Made only by [`LinearKernels::new`], which asks the CPU whether it has the instructions: that is why calling through
/// it is safe.
pub struct LinearKernels {
    pub(super) columns: usize,
    pub(super) kernels: [[Kernel; MAX_COLUMNS]; PACKS],
    pub(super) quantise: unsafe fn(&[f32], QuantTile<'_>),
}

impl LinearKernels {
    /// The table of `tier`, or `None` if this CPU cannot run it.
    pub fn new(tier: Tier) -> Option<LinearKernels> {
        tier.is_available().then(|| match tier {
            #[cfg(target_arch = "x86_64")]
            Tier::Avx512 => super::avx512::linear::kernels(),
            #[cfg(target_arch = "x86_64")]
            Tier::Avx2 => super::avx2::linear::kernels(),
            #[cfg(target_arch = "aarch64")]
            Tier::Neon => super::aarch64::linear::neon(),
            #[cfg(target_arch = "aarch64")]
            Tier::NeonDotprod => super::aarch64::linear::dotprod(),
            _ => super::portable::linear::kernels(),
        })
    }

    /// Columns of the widest tile.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// `tile[c][r] = panel[r] . acts[c]` for every row of the panel and every column of the tile.
    pub fn run(&self, pack: Pack, panel: &[u8], acts: Acts<'_>, tile: &mut Tile) {
        let kernel = self.kernels[pack as usize][acts.columns - 1];
        // SAFETY: the kernel needs nothing but the CPU features of its tier, which `new` has checked.
        unsafe { kernel(pack, panel, acts, tile) }
    }

    /// Quantises a column tile.
    pub(crate) fn quantise(&self, x: &[f32], out: QuantTile<'_>) {
        // SAFETY: as in `run`.
        unsafe { (self.quantise)(x, out) }
    }
}
