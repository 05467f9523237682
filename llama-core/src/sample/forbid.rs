//! Tokens that may not be drawn: those that are not on the list of the allowed ones, and those that would complete a bad word.

use super::{History, Sampling};

/// Gives them the logit `-inf`.
pub(super) fn forbid(logits: &mut [f32], sampling: &Sampling, history: History<'_>) {
    if let Some(allowed) = &sampling.allowed_tokens {
        allowed.forbid_others(logits);
    }
    let generated = history.tokens.get(history.prompt..).unwrap_or_default();
    for word in sampling.bad_words.iter() {
        if let Some((&last, _)) = word.split_last().filter(|(_, before)| generated.ends_with(before)) {
            logits[last as usize] = f32::NEG_INFINITY;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::Allowed;
    use super::*;

    /// Which of five tokens are left after `tokens`, of which the first two are the prompt.
    fn left(sampling: &Sampling, tokens: &[u32]) -> Vec<usize> {
        sampling.validate(5).expect("valid");
        let mut logits = [0.0; 5];
        forbid(&mut logits, sampling, History { tokens, prompt: 2 });
        (0..5).filter(|&token| logits[token] == 0.0).collect()
    }

    #[test]
    fn no_bad_word_is_completed() {
        let word = |tokens: &[u32]| Box::from(tokens);
        let bad_words = Arc::from([word(&[0]), word(&[3, 4]), word(&[3, 3, 1]), word(&[1, 2, 1, 2])]);
        let sampling = Sampling { bad_words, ..Sampling::greedy() };
        assert_eq!(left(&sampling, &[3, 3]), [1, 2, 3, 4], "a prompt begins no word");
        assert_eq!(left(&sampling, &[3, 3, 3]), [1, 2, 3]);
        assert_eq!(left(&sampling, &[0, 0, 3, 3]), [2, 3]);
        assert_eq!(left(&sampling, &[1, 2, 1, 2]), [1, 2, 3, 4]);
        assert_eq!(left(&sampling, &[0, 0, 1, 2, 1]), [1, 3, 4]);
        assert_eq!(left(&sampling, &[0]), [1, 2, 3, 4]);
    }

    #[test]
    fn only_what_is_allowed_is_left() {
        let allowed_tokens = Some(Arc::new(Allowed::only(5, &[4, 0, 4]).expect("tokens")));
        let allowed = Sampling { allowed_tokens, ..Sampling::greedy() };
        assert_eq!(left(&allowed, &[1, 1]), [0, 4]);
        let both = Sampling { bad_words: Arc::from([Box::from([4])]), ..allowed };
        assert_eq!(left(&both, &[1, 1]), [0]);
    }
}
