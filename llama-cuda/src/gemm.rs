//! Which gemm a linear of many columns gets, and what it takes: `kernels/gemm.cuh` has the same sizes, as constants.

use crate::tiles::{TILE_ROWS, Tiles};

/// A shape of a block's outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub rows: u32,
    pub columns: u32,
}

/// 128 x 128: every weight that is fetched serves 128 columns.
pub(crate) const WIDE: Shape = Shape { rows: 128, columns: 128 };
/// 64 x 64: four times as many blocks.
pub(crate) const NARROW: Shape = Shape { rows: 64, columns: 64 };

/// Inputs of a chunk of the ring.
const CHUNK: usize = 64;
/// Shared memory that every device of compute capability 8.0 and up gives a block.
const ROOM: usize = 99 << 10;

/// The shape for `rows` x `columns` outputs: the wide one, if that leaves no multiprocessor idle.
pub(crate) fn shape(rows: u32, columns: u32, multiprocessors: u32) -> Shape {
    let blocks = rows.div_ceil(WIDE.rows) * columns.div_ceil(WIDE.columns);
    if columns > NARROW.columns && blocks >= multiprocessors { WIDE } else { NARROW }
}

impl Shape {
    /// Blocks of a launch.
    pub fn blocks(self, rows: u32, columns: u32) -> u32 {
        rows.div_ceil(self.rows) * columns.div_ceil(self.columns)
    }

    /// Bytes of dynamic shared memory for weights of a form: a ring of chunks of inputs and tiles of weights, sums of inputs
    /// where there are minima, and the columns' addresses; at the end all of it is the outputs'.
    pub fn shared(self, form: Tiles) -> u32 {
        let (rows, columns) = (self.rows as usize, self.columns as usize);
        let (weights, inputs) = (rows / TILE_ROWS * form.bytes(), columns * CHUNK * 2);
        let sums = if form.has_min() { 2 * (CHUNK / form.group()) * columns * 4 } else { 0 };
        let fixed = sums + columns * 8;
        let most = if self == WIDE { 4 } else { 6 };
        let whole = form.inputs() == CHUNK;
        let tiles = |stages| if whole { stages } else { most / 2 };
        let fit =
            if whole { (ROOM - fixed) / (weights + inputs) } else { (ROOM - fixed - tiles(0) * weights) / inputs };
        let stages = fit.min(most);
        let ring = stages * inputs + tiles(stages) * weights + fixed;
        let out = columns * (rows + 4) * 4;
        ring.max(out) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_fit_every_device() {
        for form in Tiles::ALL {
            for shape in [WIDE, NARROW] {
                assert!(shape.shared(form) <= 99 << 10, "{form:?} {shape:?}: {}", shape.shared(form));
            }
        }
    }

    #[test]
    fn few_columns_or_blocks_are_narrow() {
        assert_eq!(shape(4096, 64, 132), NARROW);
        assert_eq!(shape(4096, 512, 132), NARROW, "128 blocks would leave some idle");
        assert_eq!(shape(4096, 2048, 132), WIDE);
    }
}
