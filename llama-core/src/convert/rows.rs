//! One tensor on its way: decoded piece by piece, changed, put in GGUF's order, encoded, by several threads at once.

use std::ops::Range;
use std::thread;

use half::{bf16, f16};

use crate::adapter::Bound;
use crate::checkpoint::{Name, TensorView};
use crate::config::row_of_halves;
use crate::error::{Error, Result};
use crate::format::{ENCODE_MAX, Format};

/// Weights that a thread takes at once: few enough that memory is not counted in models.
const PIECE: usize = 1 << 20;

/// A tensor and what becomes of it.
pub(super) struct Rows<'a> {
    pub name: Name,
    pub view: TensorView<'a>,
    /// How it will be stored.
    pub format: Format,
    /// In which order its rows, or a vector's numbers, will be.
    pub order: Order,
    /// What is added to it, each so many times: those adapters that change it.
    pub adapters: Vec<(Bound<'a>, f32)>,
    /// How much each column counts, where that is known.
    pub importance: Option<&'a [f32]>,
}

/// An order of rows. A rotary embedding turns two columns of a head together: the model's file has the rows that make
/// them in two halves, a GGUF side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// As it is.
    Kept,
    /// Of each head's rows the first `dims` in pairs instead of halves.
    Pairs { head_dim: usize, dims: usize },
}

impl Order {
    /// Which row of the source becomes row `row`: one of the same head.
    fn source(self, row: usize) -> usize {
        match self {
            Order::Kept => row,
            Order::Pairs { head_dim, dims } => row_of_halves(row, head_dim, dims),
        }
    }

    /// How many rows must be together to be put in order.
    fn together(self) -> usize {
        match self {
            Order::Kept => 1,
            Order::Pairs { head_dim, .. } => head_dim,
        }
    }
}

/// What a thread needs to work on a piece.
#[derive(Default)]
struct Piece {
    file: Vec<u8>,
    weights: Vec<f32>,
    encoded: Vec<u8>,
}

impl Rows<'_> {
    /// Hands all rows to `put`, encoded, in order, each time with how many bytes of the source they were.
    pub(super) fn encode_on(&self, threads: usize, put: &mut dyn FnMut(&[u8], u64) -> Result<()>) -> Result<()> {
        let (rows, cols) = (self.view.rows(), self.view.cols());
        let step = (PIECE / cols).clamp(1, rows.div_ceil(threads)).next_multiple_of(self.order.together());
        let mut pieces: Vec<Piece> = (0..threads).map(|_| Piece::default()).collect();
        for first in (0..rows).step_by(step * threads) {
            let last = rows.min(first + step * threads);
            let parts: Vec<_> = (first..last).step_by(step).map(|row| row..last.min(row + step)).collect();
            self.encode_all(&parts, &mut pieces)?;
            for (part, piece) in parts.into_iter().zip(&pieces) {
                put(&piece.encoded, (self.view.data().len() / rows * part.len()) as u64)?;
            }
        }
        self.view.release();
        Ok(())
    }

    /// A piece for each of `parts`, each by a thread of its own.
    fn encode_all(&self, parts: &[Range<usize>], pieces: &mut [Piece]) -> Result<()> {
        if let [only] = parts {
            return self.encode(only.clone(), &mut pieces[0]);
        }
        thread::scope(|scope| {
            let spawn = |(part, piece): (&Range<usize>, _)| {
                let part = part.clone();
                thread::Builder::new().spawn_scoped(scope, || self.encode(part, piece))
            };
            let workers: Vec<_> = parts.iter().zip(pieces).map(spawn).collect();
            workers.into_iter().try_for_each(|worker| match worker {
                Ok(worker) => worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                Err(error) => {
                    Err(Error::parameter("threads", parts.len(), format!("the system gives no more: {error}")))
                }
            })
        })
    }

    /// The rows of the source in `rows`, put in order and encoded.
    fn encode(&self, rows: Range<usize>, piece: &mut Piece) -> Result<()> {
        let Piece { file, weights, encoded } = piece;
        let source = self.view.read_rows(rows.clone(), file)?;
        weights.resize(rows.len() * self.view.cols(), 0.0);
        source.format().decode(source.data(), weights);
        self.adapters
            .iter()
            .try_for_each(|(bound, strength)| bound.add(self.name, rows.clone(), *strength, weights))?;
        self.check(rows.start, weights)?;
        match self.name.is_vector() {
            true => self.put_numbers(weights, encoded),
            false => self.put_rows(rows, &source, weights, encoded)?,
        }
        Ok(())
    }

    /// A vector is stored as [`Format::F32`].
    fn put_numbers(&self, numbers: &[f32], encoded: &mut Vec<u8>) {
        encoded.clear();
        encoded.extend((0..numbers.len()).flat_map(|i| numbers[self.order.source(i)].to_le_bytes()));
    }

    fn put_rows(
        &self,
        rows: Range<usize>,
        source: &TensorView<'_>,
        weights: &[f32],
        encoded: &mut Vec<u8>,
    ) -> Result<()> {
        let cols = self.view.cols();
        let row_bytes = self.format.row_bytes(cols).expect("a format that fits");
        encoded.resize(rows.len() * row_bytes, 0);
        for (row, out) in rows.clone().zip(encoded.chunks_exact_mut(row_bytes)) {
            let at = self.order.source(row) - rows.start;
            let weights = &weights[at * cols..][..cols];
            match self.importance {
                _ if self.is_copied() => out.copy_from_slice(source.row(at)),
                Some(importance) => self.format.encode_weighing(weights, importance, out)?,
                None => self.format.encode(weights, out)?,
            }
        }
        Ok(())
    }

    /// Whether bytes stay as they are.
    fn is_copied(&self) -> bool {
        self.format == self.view.format() && self.adapters.is_empty()
    }

    /// An error about a weight that no model may have, or that the format cannot hold.
    fn check(&self, first: usize, weights: &[f32]) -> Result<()> {
        let most = match self.format {
            Format::F32 => f32::MAX,
            _ if self.is_copied() => f32::MAX,
            Format::F16 => f16::MAX.to_f32(),
            Format::BF16 => bf16::MAX.to_f32(),
            _ => ENCODE_MAX,
        };
        let Some(i) = weights.iter().position(|weight| weight.is_nan() || weight.abs() > most) else { return Ok(()) };
        let (row, column) = (first + i / self.view.cols(), i % self.view.cols());
        let holds = self.format.name();
        let problem =
            format!("element [{row}, {column}] is {}; at most {most:e}, as {holds} holds, was expected", weights[i]);
        Err(self.view.error(problem))
    }
}
