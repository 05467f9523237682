//! The adapters that a model is loaded with, each under a name that requests ask for it by.

use super::{Adapter, check_strength};
use crate::backend::LowRank;
use crate::batch::AdapterId;
use crate::checkpoint::{Name, TensorView, checksum};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::format::Format;

/// More than any server keeps beside one model.
const MOST: usize = 1 << 12;

/// Adapters by their names, in the order in which they were named first.
#[derive(Debug, Default)]
pub struct Adapters {
    all: Vec<Named>,
}

/// What goes by one name: the sum of some adapters, each with its strength.
#[derive(Debug)]
struct Named {
    loaded: Loaded,
    terms: Vec<(Adapter, f32)>,
}

/// An adapter that a model was loaded with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// What requests ask for it by.
    pub name: String,
    /// A number that hardly another adapter has: a checksum of all it adds to a model.
    pub identity: u64,
}

impl Adapters {
    /// None.
    pub fn new() -> Self {
        Adapters::default()
    }

    /// Has `strength` times `adapter` go by `name`, on top of what goes by it already.
    ///
    /// # Errors
    /// [`Error::Parameter`] for an empty name, a strength that is not finite, or too many names; otherwise as [`Adapter::bind`] to
    /// the model's `base`, and what reading the adapter comes to.
    pub fn add(&mut self, name: &str, adapter: Adapter, strength: f32, base: &Config) -> Result<()> {
        if name.is_empty() {
            return Err(Error::parameter("adapter", "\"\"", "must have a name"));
        }
        check_strength(strength)?;
        let identity = sum_up(&adapter, strength, base)?;
        let place = match self.find(name) {
            Some(id) => id as usize,
            None if self.all.len() == MOST => {
                return Err(Error::parameter("adapter", name, format!("is one more than {MOST}, which is the most")));
            }
            None => {
                let loaded = Loaded { name: name.into(), identity: 0 };
                self.all.push(Named { loaded, terms: Vec::new() });
                self.all.len() - 1
            }
        };
        let named = &mut self.all[place];
        named.loaded.identity = checksum(named.loaded.identity, &identity.to_le_bytes());
        named.terms.push((adapter, strength));
        Ok(())
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The number of `name`.
    pub fn find(&self, name: &str) -> Option<AdapterId> {
        self.all.iter().position(|named| named.loaded.name == name).map(|id| id as AdapterId)
    }

    /// Names and identities, each at its number's place.
    pub fn loaded(&self) -> impl ExactSizeIterator<Item = &Loaded> {
        self.all.iter().map(|named| &named.loaded)
    }

    /// That the files are as they were when they were opened.
    pub(crate) fn verify(&self) -> Result<()> {
        self.all.iter().flat_map(|named| &named.terms).try_for_each(|(adapter, _)| adapter.verify())
    }

    /// A number that other adapters, or the same in another order, hardly have.
    pub(crate) fn identity(&self) -> u64 {
        self.loaded().fold(0, |sum, loaded| checksum(sum, &loaded.identity.to_le_bytes()))
    }

    /// `(rows, rank)` of what the adapter adds to each of a fused weight's `matrices` that it changes; none where it changes none.
    pub(crate) fn shapes(&self, id: usize, matrices: &[Name], base: &Config) -> Vec<(usize, usize)> {
        let rank = |name| self.all[id].terms.iter().filter_map(|(adapter, _)| adapter.rank(name)).sum();
        let shapes = matrices.iter().map(|&name| (name.shape(base).0, rank(name)));
        shapes.filter(|&(_, rank)| rank > 0).collect()
    }

    /// What it adds to each of them.
    pub(crate) fn products(&self, id: usize, matrices: &[Name], base: &Config) -> Result<Vec<Product>> {
        let (mut products, mut first_row) = (Vec::new(), 0);
        for &name in matrices {
            let (rows, cols) = name.shape(base);
            let mut factors = Vec::new();
            for (adapter, strength) in &self.all[id].terms {
                factors.extend(adapter.bind(base)?.factors(name, *strength)?);
            }
            if !factors.is_empty() {
                let name = format!("{} of adapter {}", name.gguf(), self.all[id].loaded.name);
                products.push(Product::new(name, first_row, [rows, cols], &factors));
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
    /// The sum of some products is one product, of as many ranks as all have: A's lie one below the other, B's side by side.
    fn new(name: String, first_row: usize, [rows, cols]: [usize; 2], factors: &[[Vec<f32>; 2]]) -> Self {
        let ranks: Vec<usize> = factors.iter().map(|[a, _]| a.len() / cols).collect();
        let rank = ranks.iter().sum();
        let mut b = Vec::with_capacity(rows * rank);
        for row in 0..rows {
            for ([_, of], rank) in factors.iter().zip(&ranks) {
                b.extend_from_slice(&of[row * rank..][..*rank]);
            }
        }
        let a = factors.iter().flat_map(|[a, _]| a).copied().collect();
        Product { name, first_row, rows, cols, rank, a, b }
    }

    /// As a backend takes it.
    pub(crate) fn low_rank(&self) -> Result<LowRank<'_>> {
        let view =
            |rows, cols, numbers| TensorView::new(&self.name, Format::F32, rows, cols, bytemuck::cast_slice(numbers));
        let (a, b) = (view(self.rank, self.cols, &self.a)?, view(self.rows, self.rank, &self.b)?);
        Ok(LowRank { first_row: self.first_row, a, b })
    }
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
