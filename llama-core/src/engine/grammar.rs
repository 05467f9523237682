//! What a sequence may say: a grammar allows tokens, and the sampler draws among them.
//!
//! The engine knows no language of grammars. It asks whoever implements [`Grammar`] which tokens may come next, each time
//! that one is drawn, and tells which it was. `examples/structured` does it for JSON schemas, regular expressions and
//! context-free grammars with the llguidance crate.

use std::fmt;

use crate::error::Result;
use crate::sample::Allowed;

/// Texts that a sequence may have, in terms of tokens. One serves any number of sequences.
pub trait Grammar: fmt::Debug + Send + Sync {
    /// At the beginning of a text, which is after the prompt.
    ///
    /// # Errors
    /// End the sequence with [`Finish::Failed`](super::Finish::Failed) before its first token.
    fn begin(&self) -> Result<Box<dyn Constraint>>;
}

/// How far one sequence has come in a [`Grammar`].
pub trait Constraint: Send {
    /// Allows the tokens that may come next. None are allowed before. Where the text is complete, those that end it are among
    /// them: an engine's [end tokens](super::EngineOptions::end_tokens), or the request's stop tokens.
    ///
    /// # Errors
    /// End the sequence with [`Finish::Failed`](super::Finish::Failed), and so does it if no token is allowed.
    fn allow(&mut self, allowed: &mut Allowed) -> Result<()>;

    /// Goes on by `token`, which was allowed. (A token that is guessed ahead comes here when it was drawn, too, and not before.)
    ///
    /// # Errors
    /// End the sequence with [`Finish::Failed`](super::Finish::Failed).
    fn advance(&mut self, token: u32) -> Result<()>;
}
