//! Activations: `[rows, cols]` f32, row-major, aligned to a cache line.

use llama_core::Result;
use llama_core::backend::Rows;

use crate::buffer::Buffer;

/// A matrix of activations.
pub struct Tensor {
    data: Buffer<f32>,
    rows: usize,
    cols: usize,
}

impl Tensor {
    /// Zeros, `[rows, cols]`.
    pub(crate) fn new(rows: usize, cols: usize) -> Result<Self> {
        let len = rows.saturating_mul(cols);
        Ok(Tensor { data: Buffer::zeroed(len, "activations", "the tokens of a step")?, rows, cols })
    }

    /// The rows in use, `[rows * cols]`.
    pub fn data(&self) -> &[f32] {
        &self.data[..self.rows * self.cols]
    }

    /// The rows in use, to write.
    pub fn data_mut(&mut self) -> &mut [f32] {
        &mut self.data[..self.rows * self.cols]
    }

    /// `(rows, cols)`.
    pub(crate) fn shape(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }
}

impl Rows for Tensor {
    fn rows(&self) -> usize {
        self.rows
    }

    fn cols(&self) -> usize {
        self.cols
    }

    fn set_rows(&mut self, rows: usize) {
        assert!(rows * self.cols <= self.data.len(), "{rows} rows of {} in {}", self.cols, self.data.len());
        self.rows = rows;
    }
}
