//! An adapter under the name that requests ask for it by, and what it adds to each matrix.

use super::{Adapter, check_strength};
use crate::backend::LowRank;
use crate::checkpoint::{Name, TensorView, checksum};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::format::Format;

/// What goes by one name: the sum of some adapters, each with its strength. All of them have been read once, and fit a model of
/// the shape that they were given.
#[derive(Debug)]
pub struct Named {
    loaded: Loaded,
    terms: Vec<(Adapter, f32)>,
}

/// An adapter that a model has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// What requests ask for it by.
    pub name: String,
    /// A number that hardly another adapter has: a checksum of all it adds to a model.
    pub identity: u64,
}

impl Named {
    /// `strength` times `adapter` as `name`, for a model of `base`'s shape. Takes as long as to read the adapter.
    ///
    /// # Errors
    /// [`Error::Parameter`] for an empty name or a strength that is not finite; otherwise as [`Adapter::bind`] to `base`, and what
    /// reading the adapter comes to.
    pub fn new(name: impl Into<String>, adapter: Adapter, strength: f32, base: &Config) -> Result<Self> {
        let loaded = Loaded { name: name.into(), identity: 0 };
        if loaded.name.is_empty() {
            return Err(Error::parameter("adapter", "\"\"", "must have a name"));
        }
        let mut named = Named { loaded, terms: Vec::new() };
        named.add(adapter, strength, base)?;
        Ok(named)
    }

    /// Adds `strength` times `adapter` to what goes by the name.
    ///
    /// # Errors
    /// As [`Named::new`]. Nothing was added then.
    pub fn add(&mut self, adapter: Adapter, strength: f32, base: &Config) -> Result<()> {
        check_strength(strength)?;
        let identity = sum_up(&adapter, strength, base)?;
        self.loaded.identity = checksum(self.loaded.identity, &identity.to_le_bytes());
        self.terms.push((adapter, strength));
        Ok(())
    }

    /// What requests ask for it by, and its identity.
    pub fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    /// The matrices that it changes; one that several adapters change as often.
    pub(super) fn names(&self) -> impl Iterator<Item = Name> {
        self.terms.iter().flat_map(|(adapter, _)| adapter.names())
    }

    /// Ranks of what it adds to `name`; 0 where that is nothing.
    pub(super) fn rank(&self, name: Name) -> usize {
        self.terms.iter().filter_map(|(adapter, _)| adapter.rank(name)).sum()
    }

    /// That the files are as they were when they were opened.
    pub(crate) fn verify(&self) -> Result<()> {
        self.terms.iter().try_for_each(|(adapter, _)| adapter.verify())
    }

    /// What it adds to each of a fused weight's `matrices`, of those that it changes.
    pub(crate) fn products(&self, matrices: &[Name], base: &Config) -> Result<Vec<Product>> {
        let (mut products, mut first_row) = (Vec::new(), 0);
        for &name in matrices {
            let (rows, cols) = name.shape(base);
            let mut factors = Vec::new();
            for (adapter, strength) in &self.terms {
                factors.extend(adapter.bind(base)?.factors(name, *strength)?);
            }
            if !factors.is_empty() {
                let name = format!("{} of adapter {}", name.gguf(), self.loaded.name);
                products.push(Product::new(name, first_row, [rows, cols], factors));
            }
            first_row += rows;
        }
        Ok(products)
    }
}

/// What is added to one matrix, in memory.
pub(crate) struct Product {
    name: String,
    first_row: usize,
    rows: usize,
    cols: usize,
    rank: usize,
    a: Vec<f32>,
    b: Vec<f32>,
}

impl Product {
    /// The sum of the products of `factors`.
    fn new(name: String, first_row: usize, [rows, cols]: [usize; 2], factors: Vec<[Vec<f32>; 2]>) -> Self {
        let [a, b] = match <[_; 1]>::try_from(factors) {
            Ok([alone]) => alone,
            Err(factors) => joined(&factors, [rows, cols]),
        };
        Product { name, first_row, rows, cols, rank: a.len() / cols, a, b }
    }

    /// As a backend takes it.
    pub(crate) fn low_rank(&self) -> Result<LowRank<'_>> {
        let view =
            |rows, cols, numbers| TensorView::new(&self.name, Format::F32, rows, cols, bytemuck::cast_slice(numbers));
        let (a, b) = (view(self.rank, self.cols, &self.a)?, view(self.rows, self.rank, &self.b)?);
        Ok(LowRank { first_row: self.first_row, a, b })
    }
}

/// The sum of some products is one product, of as many ranks as all have: A's lie one below the other, B's side by side.
fn joined(factors: &[[Vec<f32>; 2]], [rows, cols]: [usize; 2]) -> [Vec<f32>; 2] {
    let ranks: Vec<usize> = factors.iter().map(|[a, _]| a.len() / cols).collect();
    let mut b = Vec::with_capacity(factors.iter().map(|[_, b]| b.len()).sum());
    for row in 0..rows {
        for ([_, of], rank) in factors.iter().zip(&ranks) {
            b.extend_from_slice(&of[row * rank..][..*rank]);
        }
    }
    [factors.iter().flat_map(|[a, _]| a).copied().collect(), b]
}

/// A checksum of all that the adapter adds to a model of `base`'s shape, in its order of rows.
fn sum_up(adapter: &Adapter, strength: f32, base: &Config) -> Result<u64> {
    let bound = adapter.bind(base)?;
    let mut sum = 0;
    for name in adapter.names() {
        sum = checksum(sum, name.gguf().as_bytes());
        for factor in bound.factors(name, strength)?.iter().flatten() {
            sum = checksum(sum, bytemuck::cast_slice(factor));
        }
    }
    Ok(sum)
}
