//! Drafts out of the sequence itself.

use crate::error::Result;

use super::{Draft, Drafter};

/// What followed the last time: finds the newest place where the sequence's last tokens, the longest run of
/// [`Lookup::LEAST`] to [`Lookup::MOST`], came up before, and guesses that what followed there follows again (prompt lookup
/// decoding, Saxena 2023). Right where an answer repeats its prompt: summaries, edits, code, quotations, extraction. Costs
/// a glance over the tokens and no memory.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lookup;

impl Lookup {
    /// Tokens that must have come up before: fewer say little.
    pub const LEAST: usize = 2;
    /// Tokens that are compared: more say little more.
    pub const MOST: usize = 5;
}

impl Drafter for Lookup {
    fn draft(&mut self, drafts: &mut [Draft<'_>]) -> Result<()> {
        for draft in drafts {
            let Some(start) = continuation(draft.tokens()) else { continue };
            // What follows may run into the drafts: a text that goes round in circles goes on to do so.
            for next in start.. {
                let token = draft.tokens()[next];
                if !draft.push(token) {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// Where the tokens stand that followed the last time, which is before the end of `tokens`.
fn continuation(tokens: &[u32]) -> Option<usize> {
    let mut best = (Lookup::LEAST - 1, None);
    for next in (1..tokens.len()).rev() {
        let same = common_end(&tokens[..next], tokens);
        if same > best.0 {
            best = (same, Some(next));
        }
        if same == Lookup::MOST {
            break;
        }
    }
    best.1
}

/// How many of the last tokens of both are the same, as far as it matters.
fn common_end(a: &[u32], b: &[u32]) -> usize {
    let pairs = a.iter().rev().zip(b.iter().rev());
    pairs.take(Lookup::MOST).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_run_wins_and_of_equals_the_newest() {
        assert_eq!(continuation(&[1, 2, 3, 9, 1, 2, 4, 1, 2]), Some(6), "1 2 came up twice");
        assert_eq!(continuation(&[7, 1, 2, 3, 9, 1, 2, 4, 7, 1, 2]), Some(3), "7 1 2 came up once");
        assert_eq!(continuation(&[1, 2, 3, 1]), None, "one token says little");
        assert_eq!(continuation(&[1]), None);
        assert_eq!(continuation(&[5, 5, 5]), Some(2), "a circle");
    }
}
