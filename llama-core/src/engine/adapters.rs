//! Adapters that come and go while the engine serves.
//!
//! A model has places for adapters, and what is in a place changes only while no sequence is computed with it: who asked for an
//! adapter has it to the end, though its name is gone for everybody else the moment that it is removed. So a place is free when
//! requests may not ask for what is in it and the last sequence that did has ended.

use super::Engine;
use super::scheduler::Scheduler;
use crate::adapter::{Adapter, Loaded, Named};
use crate::batch::AdapterId;
use crate::error::{Error, Result};
use crate::kv::{BlockPool, Prefix};
use crate::model::Model;

/// Which model a sequence is computed by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Variant {
    /// Its adapter, if it is with one.
    pub adapter: Option<AdapterId>,
    /// What its first block follows: not what another adapter's does that was in the same place before.
    pub start: Prefix,
}

/// The adapters that requests may ask for: at each place's number what its sequences' first block follows, if they may.
pub(super) struct Offered(Vec<Option<Prefix>>);

impl Offered {
    /// All that `model` has.
    pub fn all(model: &dyn Model, pool: &mut BlockPool) -> Self {
        Offered(model.adapters().iter().map(|loaded| loaded.as_ref().map(|_| pool.another_empty())).collect())
    }

    /// Those of `model`, with their numbers.
    fn of<'a>(&'a self, model: &'a dyn Model) -> impl Iterator<Item = (AdapterId, &'a Loaded)> {
        let offered =
            self.0.iter().zip(model.adapters()).map(|(start, loaded)| loaded.as_ref().filter(|_| start.is_some()));
        offered.zip(0..).filter_map(|(loaded, id)| Some((id, loaded?)))
    }

    /// The model with the adapter in a place; as it is where none is named.
    pub fn variant(&self, adapter: Option<AdapterId>) -> Variant {
        let start = adapter.and_then(|id| self.0[id as usize]);
        Variant { adapter, start: start.unwrap_or(Prefix::EMPTY) }
    }
}

impl Engine {
    /// Names of the adapters that requests may ask for.
    pub fn adapters(&self) -> impl Iterator<Item = &str> {
        self.loaded_adapters().map(|loaded| loaded.name.as_str())
    }

    /// The same with their identities.
    pub fn loaded_adapters(&self) -> impl Iterator<Item = &Loaded> {
        self.offered().map(|(_, loaded)| loaded)
    }

    /// Has requests ask for `strength` times `adapter` by `name` from now on, in memory that the engine has had since it was loaded
    /// ([`Loader::adapter_room`](crate::Loader::adapter_room)). Sequences on their way get the bits that they would have got. It takes
    /// as long as to read the adapter twice; [`Engine::add_named`] once.
    ///
    /// # Errors
    /// As [`Named::new`] and [`Engine::add_named`].
    pub fn add_adapter(&mut self, name: &str, adapter: Adapter, strength: f32) -> Result<()> {
        self.add_named(&Named::new(name, adapter, strength, self.model.config())?)
    }

    /// The same of what another thread may have read and checked meanwhile.
    ///
    /// # Errors
    /// [`Error::Parameter`] that says what to do: there is one of that name, all places are taken, or its rank is too high for those
    /// that are not. [`Error::Unsupported`] where several ranks are one model. [`Error::Io`] and [`Error::File`] if its file cannot be
    /// read any more, or has changed. Nothing is added then, and everything else is as it was.
    pub fn add_named(&mut self, named: &Named) -> Result<()> {
        let name = &named.loaded().name;
        if self.adapters().any(|known| known == name) {
            let problem = "is the name of another, which is loaded: remove that first, or give this one another name";
            return Err(Error::parameter("adapter", name, problem));
        }
        let id = self.place(named)?;
        self.offered.0[id as usize] = Some(self.scheduler.pool_mut().another_empty());
        Ok(())
    }

    /// Has requests that ask for the name from now on computed with this adapter, in the stead of one that goes by it already and is
    /// removed, if there is one.
    ///
    /// # Errors
    /// As [`Engine::add_named`], but for the name; both need a place meanwhile.
    pub fn replace_named(&mut self, named: &Named) -> Result<()> {
        let old = self.find(&named.loaded().name);
        let id = self.place(named)?;
        old.into_iter().for_each(|old| self.offered.0[old as usize] = None);
        self.offered.0[id as usize] = Some(self.scheduler.pool_mut().another_empty());
        Ok(())
    }

    /// Has no request ask for the adapter any more. Sequences that are computed with it go on; when the last of them has ended, its
    /// place is free for another.
    ///
    /// # Errors
    /// [`Error::Parameter`] if there is none of that name.
    pub fn remove_adapter(&mut self, name: &str) -> Result<()> {
        let id = self.find(name).ok_or_else(|| self.no_such_adapter(name))?;
        self.offered.0[id as usize] = None;
        Ok(())
    }

    /// The model as it is, or with the adapter that a request names.
    pub(super) fn variant(&self, name: Option<&str>) -> Result<Variant> {
        let Some(name) = name else { return Ok(self.offered.variant(None)) };
        let id = self.find(name).ok_or_else(|| self.no_such_adapter(name))?;
        Ok(self.offered.variant(Some(id)))
    }

    /// The model as it is, or with the adapter of that identity, if requests may ask for it.
    pub(super) fn variant_of(&self, identity: Option<u64>) -> Option<Variant> {
        let Some(identity) = identity else { return Some(self.offered.variant(None)) };
        let (id, _) = self.offered().find(|(_, loaded)| loaded.identity == identity)?;
        Some(self.offered.variant(Some(id)))
    }

    fn offered(&self) -> impl Iterator<Item = (AdapterId, &Loaded)> {
        self.offered.of(&*self.model)
    }

    fn find(&self, name: &str) -> Option<AdapterId> {
        self.offered().find(|(_, loaded)| loaded.name == name).map(|(id, _)| id)
    }

    fn no_such_adapter(&self, name: &str) -> Error {
        let known: Vec<_> = self.adapters().collect();
        Error::parameter("adapter", name, format!("is none of those loaded: {known:?}"))
    }

    /// Puts an adapter into a place that is free.
    fn place(&mut self, named: &Named) -> Result<AdapterId> {
        let taken = |id: AdapterId| self.offered.0[id as usize].is_some() || self.scheduler.sequences_with(id) > 0;
        let places = self.offered.0.len() as AdapterId;
        let free: Vec<_> = (0..places).filter(|&id| !taken(id)).collect();
        match free.is_empty() && places > 0 {
            true => Err(self.full(named)),
            false => self.model.add_adapter(named, &free),
        }
    }

    /// That all places are taken, and what to do about it.
    fn full(&self, named: &Named) -> Error {
        let (loaded, running) = (self.adapters().collect::<Vec<_>>(), self.leaving());
        let problem = match running.is_empty() {
            true => format!("finds no place beside {loaded:?}: remove one of them first"),
            false => format!(
                "finds no place beside {loaded:?}, while {}: try again later, or remove another",
                running.join(" and ")
            ),
        };
        Error::parameter("adapter", &named.loaded().name, problem)
    }

    /// Who still has what was removed.
    fn leaving(&self) -> Vec<String> {
        let is_leaving = |&(id, _): &(usize, _)| self.offered.0[id].is_none();
        let places = self.model.adapters().iter().enumerate().filter(is_leaving);
        let told = |(id, loaded): (usize, &Option<Loaded>)| {
            let (count, name) = (self.scheduler.sequences_with(id as AdapterId), &loaded.as_ref()?.name);
            (count > 0).then(|| format!("{name:?}, which was removed, is still used by {count} sequences"))
        };
        places.filter_map(told).collect()
    }
}

impl Scheduler {
    /// Sequences that are computed with the adapter in a place, or will be.
    fn sequences_with(&self, adapter: AdapterId) -> usize {
        self.all().filter(|sequence| sequence.adapter() == Some(adapter)).count()
    }
}
