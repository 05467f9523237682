//! Which rows of a step have which adapter: tiles of rows on the device, of which a block of `kernels/adapt.cu` takes one.
//!
//! A step of few rows has a tile for each of them, one of more has tiles of up to eight rows of one adapter. How many tiles
//! there are depends on how many rows and sequences a step has, not on their adapters: the rest of them say that there is
//! nothing to do. So a recorded step fits every step of its shape.

use llama_core::batch::{AdapterRun, Batch, Stage};

use crate::params::AdapterTile;

/// Most rows of a step that has a tile for each.
const FEW: usize = 16;
/// Rows of a wide tile, as in the kernels.
const WIDE: usize = 8;
/// Where there is nothing to do.
const NOTHING: AdapterTile = AdapterTile { adapter: u32::MAX, first: 0, rows: 0 };
/// Words of a tile.
pub(crate) const TILE_WORDS: usize = size_of::<AdapterTile>() / 4;

/// The rows of one stage of a step that adapters change.
#[derive(Debug)]
pub(crate) struct Adapted {
    stage: Stage,
    runs: Vec<AdapterRun>,
    tiles: u32,
    wide: bool,
}

/// Most tiles of a stage, for limits of so many rows and sequences.
pub(crate) fn most_tiles(rows: usize, sequences: usize) -> usize {
    rows.min(FEW).max(wide_tiles(rows, sequences))
}

/// Tiles that runs of as many rows as there are, one a sequence at most, come to.
fn wide_tiles(rows: usize, sequences: usize) -> usize {
    rows.div_ceil(WIDE) + sequences
}

impl Adapted {
    /// Of no step yet. There is room for a run of each of so many sequences.
    pub fn new(stage: Stage, sequences: usize) -> Self {
        Adapted { stage, runs: Vec::with_capacity(sequences), tiles: 0, wide: false }
    }

    /// Takes the batch over: its tiles into `words`, where there is room for the most of them.
    pub fn prepare(&mut self, batch: &Batch, words: &mut [u32]) {
        let rows = match self.stage {
            Stage::Tokens => batch.rows(),
            Stage::Outputs => batch.outputs.len(),
        };
        batch.adapted(self.stage, &mut self.runs);
        self.wide = rows > FEW;
        self.tiles = if self.wide { wide_tiles(rows, batch.sequences()) } else { rows } as u32;
        if self.runs.is_empty() {
            return; // Nobody will read them.
        }
        let tiles: &mut [AdapterTile] = bytemuck::cast_slice_mut(&mut words[..TILE_WORDS * self.tiles as usize]);
        tiles.fill(NOTHING);
        let runs = self.runs.iter().flat_map(|run| cut(run, if self.wide { WIDE } else { 1 }));
        runs.enumerate().for_each(|(i, tile)| tiles[i] = tile);
    }

    /// Whether any row has an adapter that is `such`.
    pub fn has(&self, such: impl Fn(u32) -> bool) -> bool {
        self.runs.iter().any(|run| such(run.adapter))
    }

    /// How many tiles there are, and whether of up to eight rows.
    pub fn tiles(&self) -> (u32, bool) {
        (self.tiles, self.wide)
    }
}

/// A run in tiles of at most so many rows.
fn cut(run: &AdapterRun, most: usize) -> impl Iterator<Item = AdapterTile> {
    let AdapterRun { adapter, rows } = run.clone();
    rows.clone().step_by(most).map(move |first| {
        let rows = most.min(rows.end - first) as u32;
        AdapterTile { adapter, first: first as u32, rows }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tiles of sequences of these adapters and rows.
    fn tiles(sequences: &[(Option<u32>, usize)]) -> (Vec<(u32, u32, u32)>, bool) {
        let mut batch = Batch::new();
        for &(adapter, rows) in sequences {
            batch.push(&vec![1; rows], 0, &[0], []);
            batch.adapt(adapter);
        }
        let mut words = vec![7; TILE_WORDS * most_tiles(batch.rows(), batch.sequences())];
        let mut adapted = Adapted::new(Stage::Tokens, batch.sequences());
        adapted.prepare(&batch, &mut words);
        let (count, wide) = adapted.tiles();
        let list: &[AdapterTile] = bytemuck::cast_slice(&words[..TILE_WORDS * count as usize]);
        (list.iter().map(|tile| (tile.adapter, tile.first, tile.rows)).collect(), wide)
    }

    #[test]
    fn few_rows_are_a_tile_each() {
        let none = (u32::MAX, 0, 0);
        let (got, wide) = tiles(&[(Some(1), 2), (None, 1), (Some(0), 1), (None, 1)]);
        assert_eq!((got, wide), (vec![(1, 0, 1), (1, 1, 1), (0, 3, 1), none, none], false));
    }

    #[test]
    fn many_rows_are_in_tiles_of_one_adapter() {
        let none = (u32::MAX, 0, 0);
        let (got, wide) = tiles(&[(None, 3), (Some(2), 9), (Some(2), 1), (Some(0), 5)]);
        assert_eq!((got, wide), (vec![(2, 3, 8), (2, 11, 2), (0, 13, 5), none, none, none, none], true));
    }

    /// Every row that has an adapter is in one tile of that one, and how many tiles there are says nothing of adapters.
    #[test]
    fn every_row_is_in_one_tile() {
        for case in 0..2000_usize {
            // Digits of the case in mixed bases: whose a sequence is, and how long.
            let sequences: Vec<_> = (0..1 + case % 5)
                .map(|s| ([None, Some(0), Some(1)][(case / 5 + s * case / 7) % 3], 1 + (case / 11 + s * case / 3) % 21))
                .collect();
            let want: Vec<_> =
                sequences.iter().flat_map(|&(adapter, rows)| std::iter::repeat_n(adapter, rows)).collect();
            let (got, wide) = tiles(&sequences);
            let mut seen = vec![None; want.len()];
            let some = sequences.iter().any(|(adapter, _)| adapter.is_some());
            for &(adapter, first, rows) in got.iter().filter(|tile| some && tile.0 != u32::MAX) {
                assert!(rows >= 1 && rows <= if wide { 8 } else { 1 });
                let rows = &mut seen[first as usize..(first + rows) as usize];
                rows.iter_mut().for_each(|row| assert_eq!(row.replace(adapter), None, "{sequences:?}"));
            }
            assert_eq!(seen, want, "{sequences:?}");
            let nobodys: Vec<_> = sequences.iter().map(|&(_, rows)| (None, rows)).collect();
            assert_eq!(got.len(), tiles(&nobodys).0.len());
        }
    }
}
