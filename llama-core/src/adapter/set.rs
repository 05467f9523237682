//! The adapters that a model is loaded with, each under a name that requests ask for it by, and room for more.

use super::room::{AdapterRoom, Place};
use super::{Adapter, Loaded, Named};
use crate::batch::AdapterId;
use crate::checkpoint::checksum;
use crate::config::Config;
use crate::error::{Error, Result};

/// More than any server keeps beside one model.
const MOST: usize = 1 << 12;

/// Adapters by their names, in the order in which they were named first, and the room for those that come later.
#[derive(Debug, Default)]
pub struct Adapters {
    all: Vec<Named>,
    room: AdapterRoom,
}

impl Adapters {
    /// None.
    pub fn new() -> Self {
        Adapters::default()
    }

    /// Has `strength` times `adapter` go by `name`, on top of what goes by it already.
    ///
    /// # Errors
    /// [`Error::Parameter`] for too many names; otherwise as [`Named::new`].
    pub fn add(&mut self, name: &str, adapter: Adapter, strength: f32, base: &Config) -> Result<()> {
        if let Some(known) = self.all.iter_mut().find(|named| named.loaded().name == name) {
            return known.add(adapter, strength, base);
        }
        if self.places() == MOST {
            return Err(Error::parameter("adapter", name, format!("is one more than {MOST}, which is the most")));
        }
        self.all.push(Named::new(name, adapter, strength, base)?);
        Ok(())
    }

    /// Keeps `room` for adapters that are added while the model serves
    /// ([`Engine::add_adapter`](crate::engine::Engine::add_adapter)), beside those that it is loaded with. Each of these has a place
    /// of the room's rank, too, which another may have when it was removed.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a room for some adapters of no rank, or of too high a rank, or for too many.
    pub fn set_room(&mut self, room: AdapterRoom) -> Result<()> {
        room.check(MOST - self.all.len())?;
        self.room = room;
        Ok(())
    }

    /// The room for more.
    pub fn room(&self) -> AdapterRoom {
        self.room
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The number of `name`.
    pub fn find(&self, name: &str) -> Option<AdapterId> {
        self.loaded().position(|loaded| loaded.name == name).map(|id| id as AdapterId)
    }

    /// Names and identities, each at its number's place.
    pub fn loaded(&self) -> impl ExactSizeIterator<Item = &Loaded> {
        self.all.iter().map(Named::loaded)
    }

    /// How many may be there at once.
    fn places(&self) -> usize {
        self.all.len() + self.room.adapters
    }

    /// The places, those of the adapters that there are before the others.
    pub(crate) fn all_places(&self) -> Vec<Place> {
        let given = self.all.iter().map(|named| Place::of(named, self.room));
        given.chain(std::iter::repeat_n(Place::empty(self.room), self.room.adapters)).collect()
    }

    /// The adapters, each at its number's place.
    pub(crate) fn all(&self) -> &[Named] {
        &self.all
    }

    /// That the files are as they were when they were opened.
    pub(crate) fn verify(&self) -> Result<()> {
        self.all.iter().try_for_each(Named::verify)
    }

    /// A number that other adapters, or the same in another order, hardly have.
    pub(crate) fn identity(&self) -> u64 {
        self.loaded().fold(0, |sum, loaded| checksum(sum, &loaded.identity.to_le_bytes()))
    }
}
