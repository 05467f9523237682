//! One engine's model on all ranks: the leader tells its followers each step before it takes it, and they take it, too.
//!
//! What a rank fails at once it was told leaves the ranks at different places, and what one of them sends next would be taken
//! for another step's numbers. So it ends the group, whoever it is.

use std::net::{Shutdown, TcpStream};

use super::meet::{Follower, Leader};
use super::setup::{SETUP, Setup};
use super::sharded::Sharded;
use super::wire::{Message, Wire, Words, words_of};
use crate::adapter::{AdapterRoom, Adapters, Loaded};
use crate::backend::{Backend, Limits};
use crate::batch::{AdapterId, BLOCK, Batch, BlockId};
use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::model::{Llama, Model, Progress, check};

const READY: u32 = 11;
const FAILED: u32 = 12;
const STEP: u32 = 13;
const COPY: u32 = 14;
const READ_BLOCK: u32 = 15;
const WRITE_BLOCK: u32 = 16;
const BYE: u32 = 17;

const GIVE_ALL: &str = "give all of them to every rank when the model is loaded (Loader::adapter)";
/// The number of no adapter.
const NO_ADAPTER: AdapterId = AdapterId::MAX;

/// Words of the longest message that is no step.
const LONGEST: usize = 1 << 16;

impl Leader {
    /// Prepares this rank's share of the weights on `backend`, as [`Llama::load`] does, and has the followers prepare theirs.
    /// `limits` may plan with the backend that this rank is.
    ///
    /// # Errors
    /// [`Parameter`](crate::Error::Parameter) if the model cannot be divided among so many ranks;
    /// [`Unsupported`](crate::Error::Unsupported) where there is to be room for more adapters;
    /// [`Peer`](crate::Error::Peer) about a rank that goes away or cannot load; otherwise as [`Llama::load`].
    pub fn load<B: Backend>(
        self,
        backend: B,
        checkpoint: &Checkpoint,
        adapters: &Adapters,
        limits: impl FnOnce(&Sharded<B>) -> Result<Limits>,
        memory_limit: Option<u64>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Box<dyn Model>> {
        no_room(adapters)?;
        let Leader { mesh, followers } = self;
        let mut followers = Followers { wires: followers, mesh: mesh.connections()?, lost: None };
        let backend = Sharded::new(backend, mesh, checkpoint.config())?;
        let limits = limits(&backend)?;
        followers.tell(&Setup::new(checkpoint, adapters, &backend, limits))?;
        let model = Llama::load_with(backend, checkpoint, adapters, limits, memory_limit, progress)?;
        followers.are_ready()?;
        Ok(Box::new(Led { model, batches: check::Batches::new(&limits)?, followers, message: Message::default() }))
    }
}

impl Follower {
    /// Prepares this rank's share of the weights on `backend` and takes part in every step until the leader leaves.
    ///
    /// # Errors
    /// [`Parameter`](crate::Error::Parameter) if the leader has another model or computes otherwise;
    /// [`Peer`](crate::Error::Peer) if a rank goes away; otherwise as [`Llama::load`] and what a backend says.
    pub fn serve<B: Backend>(
        self,
        backend: B,
        checkpoint: &Checkpoint,
        adapters: &Adapters,
        memory_limit: Option<u64>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<()> {
        no_room(adapters)?;
        let Follower { mesh, mut leader } = self;
        let setup = match leader.receive(LONGEST)? {
            (SETUP, words) => Setup::read(words),
            _ => None,
        };
        let setup = setup.ok_or_else(|| leader.error("does not say what to load"))?;
        let load = || {
            setup.check(checkpoint, adapters, &backend)?;
            let backend = Sharded::new(backend, mesh, checkpoint.config())?;
            Llama::load_with(backend, checkpoint, adapters, setup.limits, memory_limit, progress)
        };
        let mut message = Message::default();
        match load() {
            Ok(mut model) => {
                leader.send(message.begin(READY))?;
                follow(&mut model, &mut leader)
            }
            Err(error) => {
                // Whether the leader hears of it or not, this is what went wrong.
                let _ = leader.send(message.begin(FAILED).text(&error.to_string()));
                Err(error)
            }
        }
    }
}

/// The followers' adapters are those that they were loaded with: they are not told of others.
fn no_room(adapters: &Adapters) -> Result<()> {
    match adapters.room() == AdapterRoom::default() {
        true => Ok(()),
        false => Err(Error::unsupported("room for more adapters on several ranks", GIVE_ALL)),
    }
}

/// The leader's connections to all others.
#[derive(Debug)]
struct Followers {
    wires: Vec<Wire>,
    /// Those by which numbers go.
    mesh: Vec<TcpStream>,
    /// Why there is no group any more.
    lost: Option<String>,
}

impl Followers {
    /// Says what to load. Then all load at once.
    fn tell(&mut self, setup: &Setup) -> Result<()> {
        let mut message = Message::default();
        setup.write(&mut message);
        self.send(&mut message)
    }

    /// Waits until all have loaded.
    ///
    /// # Errors
    /// [`Peer`](crate::Error::Peer) with what a follower says.
    fn are_ready(&mut self) -> Result<()> {
        self.wires.iter_mut().try_for_each(|follower| match follower.receive(LONGEST)? {
            (READY, _) => Ok(()),
            (FAILED, mut words) => {
                let why = words.text().unwrap_or_default();
                Err(follower.error(why))
            }
            (kind, _) => Err(follower.error(format!("answers with a message of kind {kind}"))),
        })
    }

    fn send(&mut self, message: &mut Message) -> Result<()> {
        if let Some(lost) = &self.lost {
            return Err(Error::peer(format!("the group of {} ranks", self.wires.len() + 1), lost));
        }
        self.wires.iter_mut().try_for_each(|follower| follower.send(message))
    }

    /// Ends the group: all others notice, whatever they wait for.
    fn leave(&mut self, why: &Error) {
        self.lost.get_or_insert_with(|| format!("has ended ({why}): start all ranks again"));
        for stream in self.wires.iter().map(Wire::stream).chain(&self.mesh) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// The leader's model: its own share, and the followers'.
struct Led<M> {
    model: M,
    batches: check::Batches,
    followers: Followers,
    message: Message,
}

impl<M: Model> Led<M> {
    /// Has all ranks do what the message says; `own` is this rank's part.
    fn together(&mut self, own: impl FnOnce(&mut M) -> Result<()>) -> Result<()> {
        let done = self.followers.send(&mut self.message).and_then(|()| own(&mut self.model));
        done.inspect_err(|error| self.followers.leave(error))
    }
}

impl<M: Model> Model for Led<M> {
    fn config(&self) -> &Config {
        self.model.config()
    }

    fn limits(&self) -> &Limits {
        self.model.limits()
    }

    /// What this rank refuses is not told to the others, so that all are at the same step.
    fn forward(&mut self, batch: &Batch, logits: &mut Vec<f32>) -> Result<()> {
        self.batches.check(batch, self.model.config(), self.model.limits(), self.model.adapters())?;
        if batch.rows() == 0 {
            return self.model.forward(batch, logits);
        }
        write_step(&mut self.message, batch);
        self.together(|model| model.forward(batch, logits))
    }

    /// Every rank has the whole residual.
    fn states(&mut self, states: &mut Vec<f32>) -> Result<()> {
        self.model.states(states)
    }

    fn copy_blocks(&mut self, pairs: &[(BlockId, BlockId)]) -> Result<()> {
        check::blocks(pairs.iter().flat_map(|&(from, to)| [from, to]), self.model.limits())?;
        write_pairs(&mut self.message, pairs);
        self.together(|model| model.copy_blocks(pairs))
    }

    fn identity(&self) -> u64 {
        self.model.identity()
    }

    fn adapters(&self) -> &[Option<Loaded>] {
        self.model.adapters()
    }

    fn read_block(&mut self, block: BlockId, out: &mut Vec<u8>) -> Result<()> {
        check::blocks([block].into_iter(), self.model.limits())?;
        self.message.begin(READ_BLOCK).word(block);
        self.together(|model| model.read_block(block, out))
    }

    fn write_block(&mut self, block: BlockId, bytes: &[u8]) -> Result<()> {
        check::blocks([block].into_iter(), self.model.limits())?;
        self.message.begin(WRITE_BLOCK).word(block).list(&words_of(bytes));
        self.together(|model| model.write_block(block, bytes))
    }

    fn backend(&self) -> String {
        self.model.backend()
    }
}

impl<M> Drop for Led<M> {
    fn drop(&mut self) {
        self.message.begin(BYE);
        for follower in &mut self.followers.wires {
            let _ = follower.send(&mut self.message);
        }
    }
}

/// Does everything that the leader says, until it says that it leaves.
fn follow(model: &mut impl Model, leader: &mut Wire) -> Result<()> {
    let most = longest(model.config(), model.limits());
    let (mut batch, mut pairs, mut logits, mut block) = (Batch::new(), Vec::new(), Vec::new(), Vec::new());
    loop {
        let (kind, words) = leader.receive(most)?;
        let done = match kind {
            STEP => read_step(words, &mut batch).map(|()| model.forward(&batch, &mut logits)),
            COPY => read_pairs(words, &mut pairs).map(|()| model.copy_blocks(&pairs)),
            READ_BLOCK => read_id(words).map(|id| model.read_block(id, &mut block)),
            WRITE_BLOCK => write_block(words, model),
            BYE => return Ok(()),
            _ => None,
        };
        done.ok_or_else(|| leader.error(format!("sent a message of kind {kind} that is no such thing")))??;
    }
}

/// Words of the longest step within `limits`, or of the longest copy, or of a block of the cache.
fn longest(config: &Config, limits: &Limits) -> usize {
    let tables = limits.sequences.saturating_mul(limits.context.div_ceil(BLOCK));
    let step = [limits.tokens.saturating_mul(2), limits.sequences.saturating_mul(3), tables, limits.outputs];
    // In any format and with any padding a head's row takes less than so many words.
    let row = config.head_dim.next_multiple_of(256).saturating_mul(2);
    let block = [config.layers, config.kv_heads, 2 * BLOCK].into_iter().fold(row, usize::saturating_mul);
    step.into_iter().chain([limits.blocks.saturating_mul(2), block, 64]).fold(0, usize::saturating_add)
}

fn read_id(mut words: Words<'_>) -> Option<BlockId> {
    let id = words.word()?;
    words.end().map(|()| id)
}

fn write_block(mut words: Words<'_>, model: &mut impl Model) -> Option<Result<()>> {
    let (block, bytes) = (words.word()?, words.list()?);
    words.end()?;
    Some(model.write_block(block, bytemuck::cast_slice(bytes)))
}

fn write_step(message: &mut Message, batch: &Batch) {
    let Batch { tokens, positions, q_indptr, kv_indptr, block_ids, outputs, adapters } = batch;
    message.begin(STEP);
    for list in [tokens, positions, q_indptr, kv_indptr, block_ids, outputs] {
        message.list(list);
    }
    message.word(adapters.len() as u32);
    for adapter in adapters {
        message.word(adapter.unwrap_or(NO_ADAPTER));
    }
}

fn read_step(mut words: Words<'_>, batch: &mut Batch) -> Option<()> {
    let Batch { tokens, positions, q_indptr, kv_indptr, block_ids, outputs, adapters } = batch;
    for list in [tokens, positions, q_indptr, kv_indptr, block_ids, outputs] {
        list.clear();
        list.extend_from_slice(words.list()?);
    }
    adapters.clear();
    adapters.extend(words.list()?.iter().map(|&id| (id != NO_ADAPTER).then_some(id)));
    words.end()
}

fn write_pairs(message: &mut Message, pairs: &[(BlockId, BlockId)]) {
    message.begin(COPY).word(pairs.len() as u32);
    for &(from, to) in pairs {
        message.word(from).word(to);
    }
}

fn read_pairs(mut words: Words<'_>, pairs: &mut Vec<(BlockId, BlockId)>) -> Option<()> {
    pairs.clear();
    for _ in 0..words.word()? {
        pairs.push((words.word()?, words.word()?));
    }
    words.end()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn batch() -> impl Strategy<Value = Batch> {
        let list = || prop::collection::vec(any::<u32>(), 0..20);
        let adapters = prop::collection::vec(prop::option::of(0..NO_ADAPTER), 0..20);
        (list(), list(), list(), list(), list(), list(), adapters).prop_map(
            |(tokens, positions, q_indptr, kv_indptr, block_ids, outputs, adapters)| Batch {
                tokens,
                positions,
                q_indptr,
                kv_indptr,
                block_ids,
                outputs,
                adapters,
            },
        )
    }

    proptest! {
        #[test]
        fn followers_read_what_the_leader_wrote(
            batch in batch(),
            pairs: Vec<(BlockId, BlockId)>,
        ) {
            let (mut message, mut read, mut read_to) = (Message::default(), Batch::new(), vec![(1, 2)]);
            write_step(&mut message, &batch);
            prop_assert_eq!(read_step(message.words(), &mut read), Some(()));
            prop_assert_eq!(read, batch);
            write_pairs(&mut message, &pairs);
            prop_assert_eq!(read_pairs(message.words(), &mut read_to), Some(()));
            prop_assert_eq!(read_to, pairs);
        }

        #[test]
        fn any_words_are_read_without_a_panic(words in prop::collection::vec(0u32..9, 0..60)) {
            let _ = read_step(Words(&words), &mut Batch::new());
            let _ = read_pairs(Words(&words), &mut Vec::new());
        }
    }
}
