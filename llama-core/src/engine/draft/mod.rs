//! Speculative decoding: tokens that are guessed ahead are checked by the model together, in one step (Leviathan, Kalman and
//! Matias 2022, arXiv:2211.17192).
//!
//! A step that decodes reads every weight once, for one row as for four. So a sequence may bring its newest token and some
//! *drafts*, guesses at what comes next, as rows of one step. Each row's logits say which token follows; as long as that is
//! the draft, the next row was computed after the right token and counts, too. The first that differs ends it, and the rows
//! after it are forgotten.
//!
//! Where others accept a draft by a probability, here the token is drawn as ever, out of the same logits and with the same
//! random number, for a draw depends on nothing but them, the history and the position. So a sequence is told exactly what it
//! would have been told without drafts, greedy or not, with penalties and log-probabilities; how good the guesses are decides
//! only how soon.
//!
//! Drafts come from a [`Drafter`]: [`Lookup`], which finds them in the sequence itself and costs nothing, or a [`DraftModel`].

mod lookup;
mod model;

pub use lookup::Lookup;
pub use model::DraftModel;

use crate::error::{Error, Result};
use crate::sample::{Draw, History};

use super::event::SequenceId;
use super::manner::Manner;

/// Guesses what sequences will be told next.
pub trait Drafter: Send {
    /// Guesses for the sequences of a step, by [`Draft::push`].
    ///
    /// # Errors
    /// End the step before it has begun; the sequences stay as they are. Who can do without a guess makes none instead.
    fn draft(&mut self, drafts: &mut [Draft<'_>]) -> Result<()>;

    /// How many tokens it knows, if it must know as many as the model that it drafts for. `None`: it may know any.
    fn vocab(&self) -> Option<usize> {
        None
    }

    /// A sequence has ended: what is kept for it can go.
    fn forget(&mut self, id: SequenceId) {
        let _ = id;
    }
}

/// One sequence, and what is guessed to follow.
#[derive(Debug)]
pub struct Draft<'a> {
    /// Which.
    pub id: SequenceId,
    /// The tokens so far, then drafts.
    pub(super) tokens: &'a mut Vec<u32>,
    /// How many of them are so far.
    pub(super) known: usize,
    /// How many there may be with drafts.
    pub(super) most: usize,
    pub(super) prompt: usize,
    pub(super) manner: &'a Manner,
    pub(super) vocab: usize,
}

impl Draft<'_> {
    /// Prompt, what was generated, and the drafts pushed so far. Never empty.
    pub fn tokens(&self) -> &[u32] {
        self.tokens
    }

    /// How many of [`Draft::tokens`] are no drafts.
    pub fn known(&self) -> usize {
        self.known
    }

    /// How many drafts more are wanted.
    pub fn room(&self) -> usize {
        self.most - self.tokens.len()
    }

    /// Guesses that `token` is next. False, and nothing done, if there is no room, or the model's vocabulary lacks it.
    pub fn push(&mut self, token: u32) -> bool {
        let takes = self.room() > 0 && (token as usize) < self.vocab;
        if takes {
            self.tokens.push(token);
        }
        takes
    }

    /// How the sequence itself would draw the next token out of logits, if they were those of `row`: with its sampling and the
    /// random number of this position. A model that thinks alike will so be right more often than by its own luck.
    pub fn draw(&self, row: usize) -> Draw<'_> {
        let position = self.tokens.len() - 1;
        let history = History { tokens: self.tokens, prompt: self.prompt };
        Draw { row, sampling: self.manner.at(position), history, position: position as u64 }
    }
}

/// That a drafter, which knows `known` tokens, can draft for a model of `vocab`.
pub(crate) fn check_vocab(known: usize, vocab: usize) -> Result<()> {
    match known == vocab {
        true => Ok(()),
        false => Err(Error::parameter("drafter", known, format!("must know the model's {vocab} tokens"))),
    }
}

/// What became of drafts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Checked {
    pub drafted: usize,
    pub accepted: usize,
}

/// How many drafts a sequence is worth: two more after a step that accepted all, one less otherwise, at least one
/// (transformers' `num_assistant_tokens_schedule="heuristic"`).
#[derive(Debug, Clone, Copy)]
pub(super) struct Width(usize);

impl Width {
    /// As many as there may be.
    pub const MOST: Width = Width(usize::MAX);

    /// At most `most`, from now on.
    pub fn within(&mut self, most: usize) -> usize {
        self.0 = self.0.min(most);
        self.0
    }

    /// Goes by what became of a step's drafts.
    pub fn learn(&mut self, checked: Checked) {
        self.0 = match checked {
            Checked { drafted: 0, .. } => self.0,
            Checked { drafted, accepted } if accepted == drafted => self.0.saturating_add(2),
            _ => (self.0 - 1).max(1),
        };
    }
}
