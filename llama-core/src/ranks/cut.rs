//! Which rows of a matrix a rank has.

use std::ops::Range;

use crate::config::Config;
use crate::error::{Error, Result};

/// Rank number and number of ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// This one, from 0, the leader.
    pub rank: usize,
    /// All of them.
    pub ranks: usize,
}

impl Place {
    /// What this rank has of `all` rows: runs one after the other, as even as they can be.
    pub fn cut(self, all: usize) -> Range<usize> {
        all * self.rank / self.ranks..all * (self.rank + 1) / self.ranks
    }

    /// How many that are.
    pub fn share(self, all: usize) -> usize {
        self.cut(all).len()
    }

    /// Another rank's place.
    pub fn of(self, rank: usize) -> Place {
        Place { rank, ..self }
    }
}

/// Refuses a number of ranks that heads or columns cannot be divided by, or that leaves one without a token.
///
/// # Errors
/// [`Error::Parameter`] with the numbers that are possible.
pub fn check(config: &Config, ranks: usize) -> Result<()> {
    let sizes =
        [("KV heads", config.kv_heads), ("columns", config.hidden), ("columns of the feed-forward", config.ffn)];
    let cannot = |ranks: usize| match sizes.iter().find(|(_, size)| size % ranks != 0) {
        Some((what, size)) => Some(format!("{size} {what} cannot be divided by it")),
        None if config.vocab < ranks => Some(format!("{} tokens are fewer", config.vocab)),
        None => None,
    };
    let Some(problem) = cannot(ranks) else { return Ok(()) };
    let possible = (1..=config.kv_heads).filter(|&ranks| cannot(ranks).is_none());
    let possible: Vec<_> = possible.map(|ranks| ranks.to_string()).collect();
    Err(Error::parameter("ranks", ranks, format!("this model's {problem}; possible are {}", possible.join(", "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rank_without_a_token_is_refused() {
        let sizes = |vocab| Config { vocab, ..Config::of_tests() };
        check(&sizes(8), 8).unwrap();
        let error = check(&sizes(7), 8).unwrap_err().to_string();
        assert_eq!(error, "parameter ranks = 8: this model's 7 tokens are fewer; possible are 1, 2, 4");
        let error = check(&sizes(3), 3).unwrap_err().to_string();
        assert_eq!(error, "parameter ranks = 3: this model's 8 KV heads cannot be divided by it; possible are 1, 2");
    }

    #[test]
    fn shares_are_runs_that_make_the_whole() {
        for (all, ranks) in [(12, 3), (49152, 7), (5, 5), (32003, 16)] {
            let cuts: Vec<_> = (0..ranks).map(|rank| Place { rank, ranks }.cut(all)).collect();
            assert_eq!((cuts[0].start, cuts[ranks - 1].end), (0, all));
            assert!(cuts.windows(2).all(|pair| pair[0].end == pair[1].start));
            assert!(cuts.iter().all(|cut| cut.len().abs_diff(all / ranks) <= 1), "{cuts:?}");
        }
    }
}
