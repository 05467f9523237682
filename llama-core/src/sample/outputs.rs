//! What a step brings to the host: tokens picked where the logits are, and the logits themselves only where they are
//! wanted. A row of 128,000 logits is half a megabyte; its token is four bytes.

use super::{History, Refusal, Sampler, Sampling};

/// A token to be picked out of one row of a step's logits.
#[derive(Debug, Clone, Copy)]
pub struct Draw<'a> {
    /// The row: an index into [`Batch::outputs`](crate::batch::Batch::outputs). The draws of a step ascend by it: no row is
    /// drawn from twice.
    pub row: usize,
    /// How to pick. [`Sampling::logprobs`] is not looked at.
    pub sampling: &'a Sampling,
    /// The tokens so far.
    pub history: History<'a>,
    /// The position the row belongs to.
    pub position: u64,
}

/// The tokens and logits of one step, in memory that is made once.
#[derive(Debug)]
pub struct Outputs {
    /// Whether the step's logits are to be brought to the host as well.
    pub wants_logits: bool,
    /// `[outputs, vocab]` as the model computed them, where they came to the host; otherwise empty.
    pub logits: Vec<f32>,
    /// What became of each draw, in the order of the draws.
    pub picks: Vec<Result<u32, Refusal>>,
    /// The host's sampler. Whoever samples elsewhere picks the tokens that it would.
    pub sampler: Sampler,
}

impl Outputs {
    /// Outputs over `vocab` tokens. Room for rows is found as they come, or reserved by the caller.
    pub fn new(vocab: usize) -> Self {
        Outputs { wants_logits: false, logits: Vec::new(), picks: Vec::new(), sampler: Sampler::new(vocab) }
    }

    /// Empties it for the next step.
    pub fn clear(&mut self) {
        self.logits.clear();
        self.picks.clear();
    }

    /// Picks a token for every draw, on the host, out of `logits`.
    ///
    /// # Panics
    /// Where [`Sampler::sample`] does, or if a draw's row is not there.
    pub fn pick(&mut self, draws: &[Draw<'_>]) {
        let vocab = self.sampler.vocab();
        self.picks.clear();
        for draw in draws {
            let row = &self.logits[draw.row * vocab..][..vocab];
            self.picks.push(self.sampler.pick(row, draw.sampling, draw.history, draw.position));
        }
    }
}
