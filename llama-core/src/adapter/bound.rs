//! An adapter together with the shape of a base: what it adds to which rows.
//!
//! The base's rows of queries and keys are in the order of its rotary embedding, and so are the adapter's rows of `B`, each in
//! that of its own kind of file. For a head of `d` columns
//!
//! ```text
//! interleaved row (head, 2 i + s)  is  row (head, s d / 2 + i) of halves        i < d / 2, s < 2
//! ```

use std::ops::Range;

use super::Adapter;
use super::pairs::{Pair, number_rows};
use crate::checkpoint::Name;
use crate::config::{Config, Head, RopeLayout, row_of_halves};
use crate::error::{Error, InFile, Result};

/// An adapter whose every matrix is one of a base's, in the right shape.
#[derive(Debug, Clone, Copy)]
pub struct Bound<'a> {
    adapter: &'a Adapter,
    base: &'a Config,
}

impl Adapter {
    /// The adapter as a change of a model of `base`'s shape and of its order of rows.
    ///
    /// # Errors
    /// [`Error::Tensor`] that names the tensor and both shapes where the base has no such matrix, or one of another shape.
    /// [`Error::Unsupported`] where rows of queries and keys would have to be put into another order in a model that turns a
    /// part of a head only, for which no file says what the order is.
    pub fn bind<'a>(&'a self, base: &'a Config) -> Result<Bound<'a>> {
        for (&name, pair) in &self.pairs {
            self.check_place(name, pair, base)?;
            self.check_order(name, pair, base)?;
        }
        Ok(Bound { adapter: self, base })
    }

    fn check_place(&self, name: Name, pair: &Pair, base: &Config) -> Result<()> {
        let b = self.file.view(pair.b)?;
        if let Some(layer) = layer(name).filter(|&layer| layer >= base.layers) {
            let problem = format!("is of layer {layer}; one of the base's {} layers was expected", base.layers);
            return Err(b.error(problem));
        }
        if name == Name::Head && base.head != Head::Own {
            return Err(b.error("changes a head, and this base has none of its own; a base with one was expected"));
        }
        let ((_, rows), (_, cols)) = (rows_of_b(name, pair, base), name.shape(base));
        match (pair.rows, pair.cols) == (rows, cols) {
            true => Ok(()),
            false => Err(b.error(format!(
                "changes a matrix of [{}, {}]; [{rows}, {cols}], as the base's {} has, was expected",
                pair.rows,
                pair.cols,
                name.gguf()
            ))),
        }
    }

    fn check_order(&self, name: Name, pair: &Pair, base: &Config) -> Result<()> {
        if !name.is_rotated() || self.layout == base.rope.layout || base.rope.dims == base.head_dim {
            return Ok(());
        }
        let tensor = self.file.info(pair.b).name;
        let what = format!("tensor {tensor} for a base that turns {} of {} columns", base.rope.dims, base.head_dim);
        let advice = "take an adapter in the base's own kind of file, GGUF or safetensors";
        Err(Error::unsupported(what, advice)).in_file(self.file.map().path())
    }
}

impl<'a> Bound<'a> {
    /// The adapter.
    pub fn adapter(self) -> &'a Adapter {
        self.adapter
    }

    /// Whether it changes `name`.
    pub fn changes(self, name: Name) -> bool {
        self.adapter.pairs.contains_key(&name)
    }

    /// Adds `strength * scale * (B A)` of the base's rows `rows` to `out`, `[rows, in]`; nothing where `name` is not changed.
    ///
    /// All in f32: products of `B` and `A` are rounded and summed in the order of the rank, from 0; a sum is multiplied by
    /// `strength * scale`, itself rounded once, and the product is added to the weight. So a weight's bits do not depend on which
    /// rows are asked for together. `A` is decoded at each call: ask for many rows at once.
    ///
    /// # Errors
    /// [`Error::Parameter`] if `strength` is not finite. [`Error::Tensor`] that names row and column if what is to be added is
    /// not. [`Error::Io`] and [`Error::File`] if the adapter's file cannot be read any more. `out` is then of no use.
    ///
    /// # Panics
    /// If the matrix has no such rows, or `out` is not as long as they are.
    pub fn add(self, name: Name, rows: Range<usize>, strength: f32, out: &mut [f32]) -> Result<()> {
        check_strength(strength)?;
        let Some(pair) = self.adapter.pairs.get(&name) else { return Ok(()) };
        let (cols, rank) = (pair.cols, pair.rank);
        let (own, _) = rows_of_b(name, pair, self.base);
        assert!(rows.start <= rows.end && rows.end <= own.len(), "rows {rows:?} of {}", own.len());
        assert_eq!(out.len(), rows.len() * cols, "places for rows {rows:?} of {cols} columns");
        if rows.is_empty() {
            return Ok(());
        }
        let file = &self.adapter.file;
        let a = number_rows(file.view(pair.a)?, 0..rank)?;
        let held = self.held(name, &rows);
        let b = number_rows(file.view(pair.b)?, own.start + held.start..own.start + held.end)?;
        let mut delta = vec![0.0; cols];
        for (row, out) in rows.zip(out.chunks_exact_mut(cols)) {
            let at = (self.row_of(name, row) - held.start) * rank;
            product(&b[at..at + rank], &a, &mut delta);
            delta.iter_mut().for_each(|sum| *sum *= strength * pair.scale);
            self.check_finite(pair, row, &delta)?;
            out.iter_mut().zip(&delta).for_each(|(weight, delta)| *weight += delta);
        }
        Ok(())
    }

    /// `A [rank, in]` and `B [out, rank]` of the base's matrix `name`, B's rows in the base's order and multiplied by `strength *
    /// scale`, which is rounded once, as each product is; `None` where `name` is not changed.
    ///
    /// # Errors
    /// As [`Bound::add`].
    pub(crate) fn factors(self, name: Name, strength: f32) -> Result<Option<[Vec<f32>; 2]>> {
        let Some(pair) = self.adapter.pairs.get(&name) else { return Ok(None) };
        let file = &self.adapter.file;
        let a = number_rows(file.view(pair.a)?, 0..pair.rank)?;
        let (own, _) = rows_of_b(name, pair, self.base);
        let held = number_rows(file.view(pair.b)?, own.clone())?;
        let mut b = Vec::with_capacity(held.len());
        for row in 0..own.len() {
            let of = self.row_of(name, row) * pair.rank;
            b.extend(held[of..of + pair.rank].iter().map(|number| strength * pair.scale * number));
            if let Some(k) = b[row * pair.rank..].iter().position(|number| !number.is_finite()) {
                let (number, row) = (b[row * pair.rank + k], own.start + of / pair.rank);
                let problem =
                    format!("is {number} times its scale in row {row}, column {k}; finite numbers were expected");
                return Err(file.view(pair.b)?.error(problem));
            }
        }
        Ok(Some([a, b]))
    }

    /// The adapter's rows of a matrix that hold the base's `rows`: the same, or the whole heads that they are in.
    fn held(self, name: Name, rows: &Range<usize>) -> Range<usize> {
        let head_dim = self.base.head_dim;
        match self.reorders(name) {
            true => rows.start / head_dim * head_dim..rows.end.next_multiple_of(head_dim),
            false => rows.clone(),
        }
    }

    /// The adapter's row for the base's row `row`.
    fn row_of(self, name: Name, row: usize) -> usize {
        if !self.reorders(name) {
            return row;
        }
        let head_dim = self.base.head_dim;
        let (in_head, half) = (row % head_dim, head_dim / 2);
        match self.base.rope.layout {
            RopeLayout::Interleaved => row_of_halves(row, head_dim, head_dim),
            RopeLayout::Halves => row - in_head + in_head % half * 2 + in_head / half,
        }
    }

    fn reorders(self, name: Name) -> bool {
        name.is_rotated() && self.base.rope.layout != self.adapter.layout
    }

    fn check_finite(self, pair: &Pair, row: usize, delta: &[f32]) -> Result<()> {
        match delta.iter().position(|delta| !delta.is_finite()) {
            None => Ok(()),
            Some(column) => {
                let problem =
                    format!("adds {} to row {row}, column {column}; a finite number was expected", delta[column]);
                Err(self.adapter.file.view(pair.b)?.error(problem))
            }
        }
    }
}

/// Which of B's rows are `name`'s, and how many there are.
fn rows_of_b(name: Name, pair: &Pair, base: &Config) -> (Range<usize>, usize) {
    let own = name.shape(base).0;
    name.rows_of_fused(base).filter(|_| pair.fused).unwrap_or((0..own, own))
}

/// That an adapter can be added so strongly.
pub(crate) fn check_strength(strength: f32) -> Result<()> {
    match strength.is_finite() {
        true => Ok(()),
        false => Err(Error::parameter("strength", strength, "must be a finite number")),
    }
}

/// `b [r]` times `a [r, columns]`: the terms of a column in the order of the rank.
fn product(b: &[f32], a: &[f32], out: &mut [f32]) {
    out.fill(0.0);
    for (b, a) in b.iter().zip(a.chunks_exact(out.len())) {
        out.iter_mut().zip(a).for_each(|(out, a)| *out += b * a);
    }
}

fn layer(name: Name) -> Option<usize> {
    use Name::{Down, Gate, K, O, Q, Up, V};
    match name {
        Q(layer) | K(layer) | V(layer) | O(layer) | Gate(layer) | Up(layer) | Down(layer) => Some(layer),
        _ => None,
    }
}
