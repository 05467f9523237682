//! What the leader has its followers load.

use super::wire::{Message, Words};
use crate::adapter::Adapters;
use crate::backend::{Backend, KvFormat, Limits, Numerics};
use crate::checkpoint::Checkpoint;
use crate::engine::check_limits;
use crate::error::{Error, Result};

/// The kind of message that it is.
pub const SETUP: u32 = 10;

/// What all ranks have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setup {
    fingerprint: u64,
    adapters: u64,
    numerics: Numerics,
    /// What steps and the cache may hold.
    pub limits: Limits,
}

impl Setup {
    /// The leader's.
    pub fn new<B: Backend>(checkpoint: &Checkpoint, adapters: &Adapters, backend: &B, limits: Limits) -> Self {
        let (fingerprint, adapters) = (checkpoint.contents(), adapters.identity());
        Setup { fingerprint, adapters, numerics: backend.numerics(), limits }
    }

    /// Refuses another model, other adapters or another arithmetic than the leader's, and limits that no engine has.
    ///
    /// # Errors
    /// [`Error::Parameter`] with what is wrong.
    pub fn check<B: Backend>(&self, checkpoint: &Checkpoint, adapters: &Adapters, backend: &B) -> Result<()> {
        if self.numerics != backend.numerics() {
            let ours = backend.numerics().name();
            return Err(Error::parameter("numerics", ours, format!("the leader's is {}", self.numerics.name())));
        }
        if self.fingerprint != checkpoint.contents() {
            let problem = "the leader has another model, or another version of it";
            return Err(Error::parameter("model", checkpoint.path().display(), problem));
        }
        if self.adapters != adapters.identity() {
            let names: Vec<_> = adapters.loaded().map(|loaded| loaded.name.as_str()).collect();
            let problem = "the leader has others, or in another order";
            return Err(Error::parameter("adapters", format!("{names:?}"), problem));
        }
        check_limits(&self.limits)
    }

    /// As a message.
    pub fn write(&self, message: &mut Message) {
        let Limits { tokens, sequences, outputs, context, blocks, kv } = self.limits;
        message.begin(SETUP).number(self.fingerprint).number(self.adapters);
        message.text(self.numerics.name()).text(kv.name());
        for count in [tokens, sequences, outputs, context, blocks] {
            message.number(count as u64);
        }
    }

    /// Out of a message.
    pub fn read(mut words: Words<'_>) -> Option<Self> {
        let (fingerprint, adapters) = (words.number()?, words.number()?);
        let (numerics, kv) = (words.text()?.parse().ok()?, words.text()?.parse::<KvFormat>().ok()?);
        let [tokens, sequences, outputs, context, blocks] = [(); 5].map(|()| words.count());
        let limits = Limits {
            tokens: tokens?,
            sequences: sequences?,
            outputs: outputs?,
            context: context?,
            blocks: blocks?,
            kv,
        };
        words.end()?;
        Some(Setup { fingerprint, adapters, numerics, limits })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(counts: [usize; 5], [fingerprint, adapters]: [u64; 2], mode in 0usize..4, kv in 0usize..5) {
            let [tokens, sequences, outputs, context, blocks] = counts;
            let limits = Limits { tokens, sequences, outputs, context, blocks, kv: KvFormat::ALL[kv] };
            let setup = Setup { fingerprint, adapters, numerics: Numerics::ALL[mode], limits };
            let mut message = Message::default();
            setup.write(&mut message);
            prop_assert_eq!(Setup::read(message.words()), Some(setup));
        }

        #[test]
        fn any_words_are_read_without_a_panic(words in prop::collection::vec(0u32..9, 0..60)) {
            let _ = Setup::read(Words(&words));
        }
    }
}
