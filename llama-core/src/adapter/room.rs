//! Room for adapters that a model gets while it serves: how large what comes may be.
//!
//! Memory is taken once, when the model is loaded, and a place of it is written anew with whatever comes. So a place has a most of
//! ranks for each matrix, which what is in it need not have.

use std::collections::BTreeMap;

use super::Named;
use crate::checkpoint::Name;
use crate::config::Config;
use crate::error::{Error, Result};

/// Ranks that no adapter has.
const MOST_RANKS: usize = 1 << 12;

/// Room for adapters that are added to a model while it serves, of which there is none by default.
///
/// It is of all matrices that an adapter may change, so what it takes is `adapters * rank * 4` bytes for each row and column of each
/// ([`MemoryPlan::adapters`](crate::model::MemoryPlan::adapters) counts it): 45 MB for one of rank 16 beside a 1B model. A CPU packs
/// ranks in sixteens, so that one of rank 4 takes more than a quarter of that.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AdapterRoom {
    /// How many, beside those that the model is loaded with.
    pub adapters: usize,
    /// The most ranks that one may have for a matrix.
    pub rank: usize,
}

impl AdapterRoom {
    /// That it is one, for at most so many adapters.
    pub(super) fn check(self, most: usize) -> Result<()> {
        let AdapterRoom { adapters, rank } = self;
        if adapters > most {
            return Err(Error::parameter("room.adapters", adapters, format!("must be at most {most}")));
        }
        match self == AdapterRoom::default() || (1..=MOST_RANKS).contains(&rank) {
            true => Ok(()),
            false => Err(Error::parameter("room.rank", rank, format!("must be 1 to {MOST_RANKS}"))),
        }
    }
}

/// Memory for one adapter.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// Ranks for every matrix.
    all: usize,
    /// More of them, for what the place was made with.
    some: BTreeMap<Name, usize>,
}

impl Place {
    /// One of a room.
    pub fn empty(room: AdapterRoom) -> Self {
        Place { all: room.rank, some: BTreeMap::new() }
    }

    /// One for `named`, and for what a room is for.
    pub fn of(named: &Named, room: AdapterRoom) -> Self {
        Place { some: named.names().map(|name| (name, named.rank(name))).collect(), ..Place::empty(room) }
    }

    /// Ranks for `name`.
    fn rank(&self, name: Name) -> usize {
        self.some.get(&name).map_or(self.all, |&rank| rank.max(self.all))
    }

    /// `(rows, rank)` for each of a fused weight's `matrices` that what is here may change; none where it may change none.
    pub fn shapes(&self, matrices: &[Name], base: &Config) -> Vec<(usize, usize)> {
        let shapes = matrices.iter().map(|&name| (name.shape(base).0, self.rank(name)));
        shapes.filter(|&(_, rank)| rank > 0).collect()
    }

    /// That `named` fits.
    ///
    /// # Errors
    /// [`Error::Parameter`] with the matrix of which it has too many ranks.
    pub fn check(&self, named: &Named) -> Result<()> {
        let Some(name) = named.names().find(|&name| named.rank(name) > self.rank(name)) else { return Ok(()) };
        let (rank, most) = (named.rank(name), self.rank(name));
        let problem = format!(
            "has rank {rank} for {}, and there is room for rank {most}: load the model with room for rank {rank}",
            name.gguf()
        );
        Err(Error::parameter("adapter", &named.loaded().name, problem))
    }
}
