//! Which tokens may be drawn: a bit for each.

use crate::error::{Error, Result};

const BITS: usize = u32::BITS as usize;

/// A set of tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed {
    words: Vec<u32>,
    vocab: usize,
}

impl Allowed {
    /// None of `vocab` tokens.
    pub fn none(vocab: usize) -> Self {
        Allowed { words: vec![0; vocab.div_ceil(BITS)], vocab }
    }

    /// `tokens` of `vocab`.
    ///
    /// # Errors
    /// [`Error::Parameter`] for no token, or one that is not in the vocabulary.
    pub fn only(vocab: usize, tokens: &[u32]) -> Result<Self> {
        let wrong = |value: &dyn std::fmt::Display, problem| Err(Error::parameter("allowed_tokens", value, problem));
        if let Some(token) = tokens.iter().find(|&&token| token as usize >= vocab) {
            return wrong(token, format!("the token must be below {vocab}"));
        }
        if tokens.is_empty() {
            return wrong(&"[]", "at least one token must be allowed".into());
        }
        let mut allowed = Allowed::none(vocab);
        tokens.iter().for_each(|&token| allowed.allow(token));
        Ok(allowed)
    }

    /// Bytes of a set of `vocab` tokens.
    pub fn bytes(vocab: usize) -> u64 {
        4 * vocab.div_ceil(BITS) as u64
    }

    /// Tokens of the vocabulary, allowed or not.
    pub fn vocab(&self) -> usize {
        self.vocab
    }

    /// Forbids all.
    pub fn clear(&mut self) {
        self.words.fill(0);
    }

    /// Allows `token`. One that is not in the vocabulary is passed over.
    pub fn allow(&mut self, token: u32) {
        if (token as usize) < self.vocab {
            self.words[token as usize / BITS] |= 1 << (token as usize % BITS);
        }
    }

    /// Whether `token` is allowed.
    pub fn allows(&self, token: u32) -> bool {
        let word = self.words.get(token as usize / BITS).copied().unwrap_or(0);
        (token as usize) < self.vocab && word >> (token as usize % BITS) & 1 == 1
    }

    /// How many tokens are allowed.
    pub fn count(&self) -> usize {
        let beyond = self.words.len() * BITS - self.vocab;
        let ones: usize = self.words.iter().map(|word| word.count_ones() as usize).sum();
        let meaningless = self.words.last().map_or(0, |&word| word.checked_shr((BITS - beyond) as u32).unwrap_or(0));
        ones - meaningless.count_ones() as usize
    }

    /// `[vocab / 32, rounded up]`: token `t` is bit `t % 32` of word `t / 32`. Bits beyond the vocabulary mean nothing.
    pub fn words_mut(&mut self) -> &mut [u32] {
        &mut self.words
    }

    /// Gives all tokens that are not allowed the logit `-inf`.
    pub(super) fn forbid_others(&self, logits: &mut [f32]) {
        for (logits, &word) in logits.chunks_mut(BITS).zip(&self.words) {
            if word != u32::MAX {
                let others = logits.iter_mut().enumerate().filter(|(bit, _)| word >> bit & 1 == 0);
                others.for_each(|(_, logit)| *logit = f32::NEG_INFINITY);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_allowed_is_forbidden() {
        let mut allowed = Allowed::none(70);
        let tokens = [0, 31, 32, 69];
        tokens.iter().chain(&[70, 95, 96, u32::MAX]).for_each(|&token| allowed.allow(token));
        let mut logits = [1.0; 70];
        allowed.forbid_others(&mut logits);
        for token in 0..70 {
            assert_eq!(allowed.allows(token), tokens.contains(&token), "token {token}");
            assert_eq!(logits[token as usize] == 1.0, tokens.contains(&token), "token {token}");
        }
        assert!(!allowed.allows(70) && !allowed.allows(95) && !allowed.allows(u32::MAX));
        assert_eq!(allowed.count(), 4);
        allowed.clear();
        assert_eq!((&allowed, allowed.count()), (&Allowed::none(70), 0));
        for vocab in [64, 70] {
            let mut all = Allowed::none(vocab);
            all.words_mut().fill(u32::MAX);
            assert_eq!(all.count(), vocab);
        }
    }
}
