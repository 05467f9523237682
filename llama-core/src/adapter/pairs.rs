//! The tensors of an adapter, two by two, and every number of them looked at.

use std::collections::BTreeMap;
use std::ops::Range;

use super::names::{Half, Part, refusal};
use crate::checkpoint::{Name, Shard, TensorView};
use crate::error::{Error, InFile, Result};

/// Numbers that are looked at together.
const AT_ONCE: usize = 1 << 16;

/// The change of one matrix: `scale * B A`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Pair {
    /// Place of A, `[rank, cols]`, in the file.
    pub(super) a: usize,
    /// Place of B, `[rows, rank]`.
    pub(super) b: usize,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) rank: usize,
    pub(super) scale: f32,
    /// Whether it changes a tensor that several matrices are in, of which this is one ([`Name::fused`]).
    pub(super) fused: bool,
}

/// The pairs of `file`: `part` says what a name is, `scale` what the product of a matrix of some rank is multiplied by.
pub(super) fn all(
    file: &Shard,
    part: impl Fn(&str) -> Option<Part>,
    scale: impl Fn(&Part, usize) -> Result<f32>,
) -> Result<BTreeMap<Name, Pair>> {
    let path = file.map().path();
    let mut found: BTreeMap<Name, Found> = BTreeMap::new();
    for i in 0..file.len() {
        let name = file.info(i).name;
        let part = part(name).ok_or_else(|| refusal(name)).in_file(path)?;
        for &name in &part.names {
            found.entry(name).or_default().put(part.clone(), i).map_err(|twin| twin_of(file, i, twin))?;
        }
    }
    if found.is_empty() {
        return Err(Error::file(path, "tensors", None, "are none; the two of a matrix at least were expected"));
    }
    found.into_iter().map(|(name, found)| Ok((name, found.pair(file, &scale)?))).collect()
}

fn twin_of(file: &Shard, i: usize, twin: usize) -> Error {
    let problem = format!("is the same as {}; one of them was expected", file.info(twin).name);
    Error::tensor(file.info(i).name, problem).in_file(file.map().path())
}

/// The halves of a matrix's change, as far as they were found, with their places.
#[derive(Default)]
struct Found {
    a: Option<(Part, usize)>,
    b: Option<(Part, usize)>,
}

impl Found {
    /// `Err` has the place of another that is the same half.
    fn put(&mut self, part: Part, i: usize) -> Result<(), usize> {
        let place = match part.half {
            Half::A => &mut self.a,
            Half::B => &mut self.b,
        };
        match place.replace((part, i)) {
            None => Ok(()),
            Some((_, twin)) => Err(twin),
        }
    }

    fn pair(self, file: &Shard, scale: impl Fn(&Part, usize) -> Result<f32>) -> Result<Pair> {
        let ((part, a), (_, b)) = match (self.a, self.b) {
            (Some(a), Some(b)) if a.0.names == b.0.names => (a, b),
            (Some((_, alone)), Some(_)) | (Some((_, alone)), None) | (None, Some((_, alone))) => {
                let problem = "is one half of a change, and the other is not in the file; A and B were expected";
                return Err(Error::tensor(file.info(alone).name, problem).in_file(file.map().path()));
            }
            (None, None) => unreachable!("an entry is made for a half"),
        };
        let (views, rank) = ([file.view(a)?, file.view(b)?], file.info(a).rows);
        let [rows, cols] = shape(views)?;
        let scale = scale(&part, rank)?;
        views.into_iter().try_for_each(check_finite)?;
        Ok(Pair { a, b, rows, cols, rank, scale, fused: part.names.len() > 1 })
    }
}

/// `[rows, cols]` of the product of B and A.
fn shape([a, b]: [TensorView<'_>; 2]) -> Result<[usize; 2]> {
    match a.rows() == b.cols() {
        true => Ok([b.rows(), a.cols()]),
        false => Err(b.error(format!(
            "is [{}, {}] beside {} of [{}, {}]; as many columns as that has rows were expected",
            b.rows(),
            b.cols(),
            a.name(),
            a.rows(),
            a.cols()
        ))),
    }
}

/// An error that names the first number that is not finite.
fn check_finite(view: TensorView<'_>) -> Result<()> {
    let step = (AT_ONCE / view.cols()).max(1);
    for start in (0..view.rows()).step_by(step) {
        let numbers = number_rows(view, start..view.rows().min(start + step))?;
        if let Some(i) = numbers.iter().position(|number| !number.is_finite()) {
            let (row, column) = (start + i / view.cols(), i % view.cols());
            let problem = format!("is {} in row {row}, column {column}; finite numbers were expected", numbers[i]);
            return Err(view.error(problem));
        }
    }
    Ok(())
}

/// The rows `rows` of a tensor as numbers, read without a look at the file's map.
pub(super) fn number_rows(view: TensorView<'_>, rows: Range<usize>) -> Result<Vec<f32>> {
    Ok(view.read_rows(rows, &mut Vec::new())?.to_f32())
}
