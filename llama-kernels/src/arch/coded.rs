//! BF16 in twelve bits: a stretch of columns is brought back to BF16 in the first-level cache, and multiplied from there.
//!
//! So the kernels of BF16 do the arithmetic, and the bits are theirs. It is done once for all columns of a pass. For one or two
//! columns of activations a tier may have something better: while a stretch is multiplied nobody asks memory for the next,
//! and a kernel that does both at once, some 22 vector instructions of 256 bits for 32 weights, takes less time than memory
//! does for their 48 bytes. The chains are the same, so the bits are.

use super::linear::{Acts, MAX_COLUMNS, Tile};
use crate::weight::coded::{Column, Pair, Panel};
use crate::weight::pack::MAX_PANEL_ROWS;

/// Columns that are brought back at a time for one tile: 4 KiB, so that memory is asked for again before long.
pub(super) const FEW: usize = 64;
/// And for a pass, where sums are fetched again for each tile: half of the first-level cache.
pub(super) const MANY: usize = 256;

/// Brings pairs back, as BF16, but for exceptions.
pub(super) type Expand = unsafe fn(&[Pair], &[u8; 16], &mut [Column]);

/// Adds columns of BF16, multiplied with as many rows `[k][column]` of activations, to a tile.
pub(super) type Add = unsafe fn(&[Column], &[f32], &mut Tile);

/// Multiplies a panel with a tile of few columns.
pub(super) type Few = unsafe fn(&Panel<'_>, &[f32], &mut Tile);

/// What a tier has for this form.
pub(super) struct Coded {
    /// For tiles of one and of two columns, where there is something better than what follows.
    pub(super) few: [Option<Few>; 2],
    pub(super) expand: Expand,
    /// For tiles of one column and more.
    pub(super) add: [Add; MAX_COLUMNS],
}

impl Coded {
    /// `out[c][r] = panel[r] . acts[c]` for all columns of all tiles; `out` is as much longer as makes a tile of the last one.
    /// As many columns as there is room for, an even number, are brought back at a time.
    ///
    /// # Safety
    /// The CPU has the features of this tier.
    pub(super) unsafe fn multiply(
        &self,
        panel: &[u8],
        tiles: &[Acts<'_>],
        out: &mut [[f32; MAX_PANEL_ROWS]],
        room: &mut [Column],
    ) {
        let Some(cols) = tiles.first().map(|acts| acts.floats.len() / acts.columns) else { return };
        let panel = Panel::of(panel, cols);
        if let ([acts], Some(out)) = (tiles, out.first_chunk_mut())
            && let Some(Some(few)) = self.few.get(acts.columns - 1)
        {
            // SAFETY: the caller's promise.
            return unsafe { few(&panel, acts.floats, out) };
        }
        let mut exceptions = panel.exceptions();
        out[..tiles.iter().map(|acts| acts.columns).sum()].fill([0.0; MAX_PANEL_ROWS]);
        for (i, pairs) in panel.pairs.chunks(room.len() / 2).enumerate() {
            let own = i * room.len()..cols.min((i + 1) * room.len());
            // SAFETY: the caller's promise.
            unsafe { (self.expand)(pairs, panel.exponents, &mut room[..2 * pairs.len()]) };
            exceptions.mend(own.start, &mut room[..2 * pairs.len()]);
            let mut at = 0;
            for acts in tiles {
                let x = &acts.floats[own.start * acts.columns..own.end * acts.columns];
                let tile = out[at..].first_chunk_mut().expect("room for a tile");
                // SAFETY: the caller's promise.
                unsafe { (self.add[acts.columns - 1])(&room[..own.len()], x, tile) };
                at += acts.columns;
            }
        }
    }
}
