//! How a sequence's tokens are drawn: as its request says, and until there are `min_tokens` of them without those that would
//! end it.
//!
//! A token that must not come is one that [`Sampling::logit_bias`] forbids. So whoever draws, on the host or beside the
//! logits, knows how to, and log-probabilities are the model's as ever.

use crate::sample::{Allowed, Sampling};

use super::request::Request;

/// A request's sampling, by position.
#[derive(Debug)]
pub(super) struct Manner {
    sampling: Sampling,
    early: Option<Early>,
}

/// What holds before a sequence may end.
#[derive(Debug)]
struct Early {
    /// The request's, without the tokens of `ends`.
    sampling: Sampling,
    /// Tokens that end the sequence, each once.
    ends: Vec<u32>,
    /// The first position that one of them may follow.
    until: usize,
}

impl Manner {
    /// Takes the sampling out of `request`, which has been checked; `end_tokens` are the engine's.
    pub fn take(request: &mut Request, end_tokens: &[u32]) -> Self {
        let sampling = std::mem::take(&mut request.sampling);
        let early = (request.min_tokens > 0).then(|| Early::new(&sampling, request, end_tokens));
        Manner { sampling, early }
    }

    /// How the token after `position` is drawn.
    pub fn at(&self, position: usize) -> &Sampling {
        self.early(position).map_or(&self.sampling, |early| &early.sampling)
    }

    /// The same where a grammar says which tokens are `allowed`. One that allows nothing but an end has its way.
    pub fn among(&self, position: usize, allowed: &Allowed) -> &Sampling {
        match self.early(position) {
            Some(early) if early.leaves_some(allowed) => &early.sampling,
            _ => &self.sampling,
        }
    }

    /// Whether the token after `position` may end the sequence.
    pub fn may_end(&self, position: usize) -> bool {
        self.early(position).is_none()
    }

    /// How many alternatives are reported with each token, if any are.
    pub fn logprobs(&self) -> Option<usize> {
        self.sampling.logprobs
    }

    /// Which parameters may have left no token.
    pub fn forbidding(&self) -> &'static str {
        self.sampling.forbidding()
    }

    /// Whether drawing takes what only the host's sampler does.
    pub fn needs_host(&self) -> bool {
        self.sampling.needs_host()
    }

    fn early(&self, position: usize) -> Option<&Early> {
        self.early.as_ref().filter(|early| position < early.until)
    }
}

impl Early {
    fn new(sampling: &Sampling, request: &Request, end_tokens: &[u32]) -> Self {
        let mut ends = request.stop_tokens.clone();
        ends.extend(end_tokens.iter().filter(|_| !request.ignore_end));
        ends.sort_unstable();
        ends.dedup();
        let mut sampling = sampling.clone();
        sampling.logit_bias.extend(ends.iter().map(|&end| (end, f32::NEG_INFINITY)));
        Early { sampling, ends, until: request.prompt.len() + request.min_tokens - 1 }
    }

    /// Whether a token is allowed that is no end.
    fn leaves_some(&self, allowed: &Allowed) -> bool {
        allowed.count() > self.ends.iter().filter(|&&end| allowed.allows(end)).count()
    }
}
