//! Activations on the device: `[rows, cols]`, contiguous, bf16 or f32 by what they are for.

use half::bf16;
use llama_core::Result;
use llama_core::backend::{Numerics, Role, Rows};

use crate::device::Span;
use crate::sample::Picker;

/// The number format of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Number {
    Bf16,
    F32,
}

impl Number {
    /// What a tensor is kept in. The residual stream and the logits are sums: f32. Activations are bf16, unless every
    /// rounding is to be avoided.
    pub fn of(role: Role, numerics: Numerics) -> Self {
        match (role, numerics) {
            (Role::Activation | Role::Local, Numerics::Default | Numerics::Fast) => Number::Bf16,
            _ => Number::F32,
        }
    }

    pub fn bytes(self) -> usize {
        match self {
            Number::Bf16 => 2,
            Number::F32 => 4,
        }
    }
}

/// A matrix of activations.
#[derive(Debug)]
pub struct Tensor {
    span: Span,
    number: Number,
    rows: usize,
    cols: usize,
    capacity: usize,
    /// Of logits: where tokens are picked out of them.
    picker: Option<Box<Picker>>,
}

/// Where a tensor lies and how large it is at the moment: what a recorded verb keeps of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Matrix {
    pub address: u64,
    pub number: Number,
    pub rows: u32,
    pub cols: u32,
}

impl Tensor {
    pub(crate) fn new(span: Span, number: Number, rows: usize, cols: usize) -> Self {
        assert!(span.bytes() >= (rows * cols * number.bytes()) as u64, "[{rows}, {cols}] in {} bytes", span.bytes());
        Tensor { span, number, rows, cols, capacity: rows, picker: None }
    }

    /// The same, with tokens to be picked out of it.
    pub(crate) fn picked_by(self, picker: Picker) -> Self {
        Tensor { picker: Some(Box::new(picker)), ..self }
    }

    pub(crate) fn picker(&mut self) -> Option<&mut Picker> {
        self.picker.as_deref_mut()
    }

    pub(crate) fn matrix(&self) -> Matrix {
        Matrix { address: self.span.address(), number: self.number, rows: self.rows as u32, cols: self.cols as u32 }
    }

    pub(crate) fn span(&self) -> &Span {
        &self.span
    }

    pub(crate) fn number(&self) -> Number {
        self.number
    }

    /// Writes the rows in use, rounded to what the tensor keeps: for tests, and for programs with activations of their own.
    ///
    /// # Panics
    /// If `values` are not `rows * cols`.
    pub fn write(&mut self, values: &[f32]) -> Result<()> {
        assert_eq!(values.len(), self.rows * self.cols, "values of [{}, {}]", self.rows, self.cols);
        match self.number {
            Number::F32 => self.span.write(0, bytemuck::cast_slice(values)),
            Number::Bf16 => {
                let narrow: Vec<bf16> = values.iter().map(|&x| bf16::from_f32(x)).collect();
                self.span.write(0, bytemuck::cast_slice(&narrow))
            }
        }
    }

    /// Whether it has room for so many f32 of so many rows.
    pub(crate) fn holds(&self, rows: usize, cols: usize) -> bool {
        self.number == Number::F32 && self.capacity >= rows && self.cols >= cols
    }

    /// `[rows, cols]`
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
        assert!(rows <= self.capacity, "{rows} rows of {} in {}", self.cols, self.capacity);
        self.rows = rows;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_modes_are_two() {
        let activations = Numerics::ALL.map(|numerics| Number::of(Role::Activation, numerics));
        assert_eq!(activations, [Number::Bf16, Number::Bf16, Number::F32, Number::F32]);
        assert!(Numerics::ALL.iter().all(|&numerics| Number::of(Role::Residual, numerics) == Number::F32));
    }
}
