//! Weights that are floats: columns of 32 rows, added one after the other to a tile of sums.
//!
//! F32, F16 and BF16 lie as they are multiplied, so a panel is added in one go. BF16 in twelve bits is brought back to BF16, a
//! stretch of columns at a time, in the first-level cache, and added from there: the kernels of BF16 do the arithmetic, and
//! the bits are theirs. It is done once for all columns of a pass. For one or two columns of activations a tier may have
//! something better: while a stretch is multiplied nobody asks memory for the next, and a kernel that does both at once, some
//! 22 vector instructions of 256 bits for 32 weights, takes less time than memory does for their 48 bytes. The chains are the
//! same, so the bits are.

use super::linear::{Acts, MAX_COLUMNS, Tile};
use crate::weight::coded::{Column, Pair, Panel};
use crate::weight::pack::{MAX_PANEL_ROWS, Pack};

/// Columns that are brought back at a time for one tile: 4 KiB, so that memory is asked for again before long.
const FEW: usize = 64;
/// And for a pass, where sums are fetched again for each tile: half of the first-level cache.
pub(super) const MANY: usize = 256;

/// Adds columns of a panel, multiplied with as many rows `[k][column]` of activations, to a tile.
pub(super) type Add = unsafe fn(&[u8], &[f32], &mut Tile);

/// Brings pairs back, as BF16, but for exceptions.
pub(super) type Expand = unsafe fn(&[Pair], &[u8; 16], &mut [Column]);

/// Multiplies a panel with a tile of few columns.
pub(super) type Few = unsafe fn(&Panel<'_>, &[f32], &mut Tile);

/// What a tier has for floats.
pub(super) struct Floating {
    /// Of F32, F16 and BF16, for tiles of one column and more.
    pub(super) plain: [[Add; MAX_COLUMNS]; 3],
    pub(super) coded: Coded,
}

/// What a tier has for BF16 in twelve bits.
pub(super) struct Coded {
    /// For tiles of one and of two columns, where there is something better than what follows.
    pub(super) few: [Option<Few>; 2],
    pub(super) expand: Expand,
    /// Of BF16 that is near, for tiles of one column and more.
    pub(super) add: [Add; MAX_COLUMNS],
}

impl Floating {
    /// `tile[c][r] = panel[r] . acts[c]`.
    ///
    /// # Safety
    /// The CPU has the features of this tier.
    pub(super) unsafe fn multiply(&self, pack: Pack, panel: &[u8], acts: Acts<'_>, tile: &mut Tile) {
        let plain = match pack {
            Pack::F32 => &self.plain[0],
            Pack::F16 => &self.plain[1],
            Pack::BF16 => &self.plain[2],
            // SAFETY: the caller's promise.
            _ => return unsafe { self.coded.multiply(panel, acts, tile) },
        };
        tile[..acts.columns].fill([0.0; MAX_PANEL_ROWS]);
        // SAFETY: the caller's promise.
        unsafe { plain[acts.columns - 1](panel, acts.floats, tile) }
    }
}

impl Coded {
    /// `tile[c][r] = panel[r] . acts[c]`.
    ///
    /// # Safety
    /// The CPU has the features of this tier.
    unsafe fn multiply(&self, panel: &[u8], acts: Acts<'_>, tile: &mut Tile) {
        match self.few.get(acts.columns - 1) {
            // SAFETY: the caller's promise.
            Some(Some(few)) => unsafe { few(&Panel::of(panel, cols(&acts)), acts.floats, tile) },
            // SAFETY: the caller's promise.
            _ => unsafe { self.multiply_all(panel, &[acts], tile, &mut [[0; 64]; FEW]) },
        }
    }

    /// `out[c][r] = panel[r] . acts[c]` for all columns of all tiles; `out` is as much longer as makes a tile of the last one.
    /// As many columns as there is room for, an even number, are brought back at a time.
    ///
    /// # Safety
    /// The CPU has the features of this tier.
    pub(super) unsafe fn multiply_all(
        &self,
        panel: &[u8],
        tiles: &[Acts<'_>],
        out: &mut [[f32; MAX_PANEL_ROWS]],
        room: &mut [Column],
    ) {
        let Some(cols) = tiles.first().map(cols) else { return };
        let panel = Panel::of(panel, cols);
        let mut exceptions = panel.exceptions();
        out[..tiles.iter().map(|acts| acts.columns).sum()].fill([0.0; MAX_PANEL_ROWS]);
        for (i, pairs) in panel.pairs.chunks(room.len() / 2).enumerate() {
            let own = i * room.len()..cols.min((i + 1) * room.len());
            // SAFETY: the caller's promise.
            unsafe { (self.expand)(pairs, panel.exponents, &mut room[..2 * pairs.len()]) };
            exceptions.mend(own.start, &mut room[..2 * pairs.len()]);
            let columns = room[..own.len()].as_flattened();
            let mut at = 0;
            for acts in tiles {
                let x = &acts.floats[own.start * acts.columns..own.end * acts.columns];
                let tile = out[at..].first_chunk_mut().expect("room for a tile");
                // SAFETY: the caller's promise.
                unsafe { self.add[acts.columns - 1](columns, x, tile) };
                at += acts.columns;
            }
        }
    }
}

/// Columns of the panel that activations meet.
fn cols(acts: &Acts<'_>) -> usize {
    acts.floats.len() / acts.columns
}
