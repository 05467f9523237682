//! From hidden states to one sequence's vector, and from that to scores of a classifier's labels.
//!
//! Rows are taken in the order of positions, each once, however a prompt was cut or how often it was preempted; a mean is
//! `((0 + x0) + x1) + ..`, divided by the number of rows. So a vector has the same bits whatever happened on the way
//! (docs/numerics.md).

use std::sync::Arc;

use crate::checkpoint::{Checkpoint, Name};
use crate::config::{Config, Pooling};
use crate::error::{Error, Result};
use crate::numerics;

/// Less than this no vector's length is divided by, as PyTorch's `normalize` has it.
const LEAST_LENGTH: f64 = 1e-12;

/// A classifier's matrix, on the host: it is multiplied by one row for each text. [`Loader`](crate::Loader) gives an engine
/// its model's.
#[derive(Debug)]
pub struct Classifier {
    /// `[labels, hidden]`.
    weight: Vec<f32>,
    hidden: usize,
}

impl Classifier {
    /// That of `checkpoint`, if it has one.
    ///
    /// # Errors
    /// [`Error::Tensor`] for a weight that is not finite.
    pub fn of(checkpoint: &Checkpoint) -> Result<Option<Self>> {
        let Some(view) = checkpoint.find(Name::Score) else { return Ok(None) };
        let classifier = Classifier { weight: view.to_f32(), hidden: view.cols() };
        view.release();
        match classifier.weight.iter().position(|x| !x.is_finite()) {
            Some(i) => Err(view.error(format!("element {i} is not finite"))),
            None => Ok(Some(classifier)),
        }
    }

    /// Bytes that it holds for a model of this shape.
    pub(super) fn bytes(config: &Config) -> u64 {
        (config.labels.len() * config.hidden * size_of::<f32>()) as u64
    }

    pub(super) fn check(&self, config: &Config) -> Result<()> {
        let (labels, expected) = (self.weight.len() / self.hidden.max(1), config.labels.len());
        if (labels, self.hidden) == (expected, config.hidden) {
            return Ok(());
        }
        let problem = format!("the model has [{expected}, {}]", config.hidden);
        Err(Error::parameter("classifier", format!("[{labels}, {}]", self.hidden), problem))
    }

    /// `[labels]`: a linear's arithmetic.
    fn scores(&self, state: &[f32]) -> Vec<f32> {
        self.weight.chunks_exact(self.hidden).map(|row| numerics::dot(row, state)).collect()
    }
}

/// What becomes of a vector.
#[derive(Debug, Clone)]
pub(super) enum Then {
    Nothing,
    Normalise,
    Classify(Arc<Classifier>),
}

/// One sequence's vector as it comes about.
#[derive(Debug)]
pub(super) struct Pool {
    pooling: Pooling,
    then: Then,
    /// Tokens of the prompt.
    prompt: usize,
    hidden: usize,
    /// Positions before this one are in the vector, or are not wanted.
    taken: usize,
    /// `[hidden]`; where there is no pooling, `[n, hidden]`: those that nobody was told of yet.
    vector: Vec<f32>,
}

impl Pool {
    /// Room for all that a step will add, unless it hands it out at once.
    pub fn new(pooling: Pooling, then: Then, prompt: usize, hidden: usize) -> Self {
        let (taken, vector) = match pooling {
            Pooling::Last => (prompt - 1, vec![0.0; hidden]),
            Pooling::Mean => (0, vec![0.0; hidden]),
            Pooling::Tokens => (0, Vec::new()),
        };
        Pool { pooling, then, prompt, hidden, taken, vector }
    }

    /// The first position whose state is still needed.
    pub fn needed_from(&self) -> usize {
        self.taken
    }

    /// Takes the states of the positions from `start` on, `[n, hidden]`, but for those that it has or does not need.
    pub fn take(&mut self, start: usize, states: &[f32]) -> Result<(), NotFinite> {
        let known = (self.taken - start) * self.hidden;
        let Some(states) = states.get(known..).filter(|states| !states.is_empty()) else { return Ok(()) };
        check_finite(states, self.hidden, self.taken)?;
        match self.pooling {
            Pooling::Last => self.vector.copy_from_slice(states),
            Pooling::Mean => states.chunks_exact(self.hidden).for_each(|state| add(&mut self.vector, state)),
            Pooling::Tokens => self.vector.extend_from_slice(states),
        }
        self.taken += states.len() / self.hidden;
        Ok(())
    }

    /// What can be handed out: rows where there is no pooling, the vector once all rows are in it, otherwise nothing.
    pub fn give(&mut self) -> Result<Vec<f32>, NotFinite> {
        if self.pooling != Pooling::Tokens && self.taken < self.prompt {
            return Ok(Vec::new());
        }
        let mut vector = std::mem::take(&mut self.vector);
        if self.pooling == Pooling::Mean {
            let count = self.prompt as f32;
            vector.iter_mut().for_each(|x| *x /= count);
        }
        match &self.then {
            Then::Nothing => {}
            Then::Normalise => vector.chunks_exact_mut(self.hidden).for_each(normalise),
            Then::Classify(classifier) => vector = classifier.scores(&vector),
        }
        // Finite states may add up to what is not.
        check_finite(&vector, vector.len().max(1), self.prompt - 1)?;
        Ok(vector)
    }
}

/// A number that is not finite, and where it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct NotFinite {
    pub position: usize,
    pub column: usize,
    pub value: f32,
}

/// That rows of `width` columns are numbers; the first is of position `start`.
fn check_finite(rows: &[f32], width: usize, start: usize) -> Result<(), NotFinite> {
    match rows.iter().position(|x| !x.is_finite()) {
        Some(i) => Err(NotFinite { position: start + i / width, column: i % width, value: rows[i] }),
        None => Ok(()),
    }
}

fn add(sum: &mut [f32], x: &[f32]) {
    sum.iter_mut().zip(x).for_each(|(sum, x)| *sum += x);
}

/// Divides by the length. In f64 squares are exact, and no sum of them overflows.
fn normalise(vector: &mut [f32]) {
    let squares = vector.iter().map(|&x| f64::from(x) * f64::from(x));
    let length = squares.fold(0.0, |sum, square| sum + square).sqrt().max(LEAST_LENGTH);
    vector.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
}
