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

/// Refuses a number of ranks that heads or columns cannot be divided by.
///
/// # Errors
/// [`Error::Parameter`] with the numbers that are possible.
pub fn check(config: &Config, ranks: usize) -> Result<()> {
    let sizes =
        [("KV heads", config.kv_heads), ("columns", config.hidden), ("columns of the feed-forward", config.ffn)];
    let Some((what, size)) = sizes.into_iter().find(|(_, size)| size % ranks != 0) else { return Ok(()) };
    let divides = |ranks: &usize| sizes.iter().all(|(_, size)| size % ranks == 0);
    let possible: Vec<_> = (1..=config.kv_heads).filter(divides).map(|ranks| ranks.to_string()).collect();
    Err(Error::parameter(
        "ranks",
        ranks,
        format!("this model's {size} {what} cannot be divided by it; possible are {}", possible.join(", ")),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

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
