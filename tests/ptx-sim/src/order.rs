//! Happens-before: who knows of which accesses (PTX ISA 8, the memory consistency model).
//!
//! Every thread numbers its accesses by a *clock* that goes up whenever it tells others what it did. What a thread knows of
//! the others is a [`Vector`] of such clocks; it learns by synchronising: a barrier joins the vectors of all who meet there,
//! a release leaves a [`Message`] at an address (or an mbarrier), an acquire takes it along. An access is ordered after an
//! earlier one if its thread knows the earlier one's clock. These are the vector clocks of FastTrack (Flanagan and Freund,
//! 2009); vectors are shared between the threads of a block, because after a barrier they are all the same.
//!
//! Asynchronous operations (copies, `wgmma`) are *engines*: actors of their own, whose clock is a group's or a phase's number
//! and which only those know who waited for it.
//!
//! Three rules of the ISA are read generously, because hardware and all existing code agree on them: a fence counts for a
//! later relaxed operation even if a barrier lies between and another thread executes it, likewise for an earlier one and a
//! proxy fence.

use std::sync::Arc;

/// An access as the race check remembers it: block, actor, the actor's clock, and what kind of access it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Epoch(u64);

const CLOCK: u32 = 26;
const STRONG: u64 = 1 << CLOCK;
const ASYNC: u64 = 1 << (CLOCK + 1);
const ACTOR: u32 = CLOCK + 2;
const BLOCK: u32 = 40;
/// Blocks and actors that can be told apart.
pub(crate) const MOST_BLOCKS: u64 = (1 << 24) - 1;
pub(crate) const MOST_ACTORS: u32 = 1 << 12;

impl Epoch {
    /// No access at all.
    pub const NONE: Epoch = Epoch(u64::MAX);

    pub fn new(block: u32, actor: u32, clock: u32) -> Self {
        Epoch(u64::from(block) << BLOCK | u64::from(actor) << ACTOR | u64::from(clock) & (STRONG - 1))
    }

    /// The same access, atomic, volatile or with an ordering: two such do not race with each other.
    pub fn strong(self) -> Self {
        Epoch(self.0 | STRONG)
    }

    /// The same access through the asynchronous proxy.
    pub fn asynchronous(self) -> Self {
        Epoch(self.0 | ASYNC)
    }

    pub fn is_strong(self) -> bool {
        self.0 & STRONG != 0
    }

    pub fn is_asynchronous(self) -> bool {
        self.0 & ASYNC != 0
    }

    pub fn block(self) -> u32 {
        (self.0 >> BLOCK) as u32
    }

    pub fn actor(self) -> u32 {
        (self.0 >> ACTOR) as u32 & (MOST_ACTORS - 1)
    }

    pub fn clock(self) -> u32 {
        (self.0 & (STRONG - 1)) as u32
    }

    pub fn same_actor(self, other: Epoch) -> bool {
        self.0 >> ACTOR == other.0 >> ACTOR
    }

    pub fn same_warp(self, other: Epoch) -> bool {
        self.0 >> (ACTOR + 5) == other.0 >> (ACTOR + 5)
    }

    /// The same moment of another thread of the warp.
    pub fn of_lane(self, lane: u32) -> Epoch {
        Epoch(self.0 & !(31 << ACTOR) | u64::from(lane) << ACTOR)
    }
}

/// Clocks of one block's actors; the missing ones are zero.
type Clocks = Arc<Vec<u32>>;

/// Clocks of the actors of some blocks, in the order of the blocks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Vector(Option<Arc<Vec<(u32, Clocks)>>>);

impl Vector {
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Whether it is the same vector, not only an equal one.
    pub fn is_same(&self, other: &Vector) -> bool {
        match (&self.0, &other.0) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (a, b) => a.is_none() && b.is_none(),
        }
    }

    pub fn get(&self, block: u32, actor: u32) -> u32 {
        let clocks = self.0.as_ref().and_then(|all| match all.as_slice() {
            [(only, clocks)] => (*only == block).then_some(clocks),
            many => many.binary_search_by_key(&block, |entry| entry.0).ok().map(|i| &many[i].1),
        });
        clocks.and_then(|clocks| clocks.get(actor as usize)).copied().unwrap_or(0)
    }

    pub fn knows(&self, epoch: Epoch) -> bool {
        self.get(epoch.block(), epoch.actor()) >= epoch.clock()
    }

    /// Learns an actor's clock.
    pub fn raise(&mut self, block: u32, actor: u32, clock: u32) {
        let clocks = self.entry(block);
        let at = actor as usize;
        if clocks.len() <= at {
            clocks.resize(at + 1, 0);
        }
        clocks[at] = clocks[at].max(clock);
    }

    fn entry(&mut self, block: u32) -> &mut Vec<u32> {
        let all = Arc::make_mut(self.0.get_or_insert_with(Arc::default));
        let at = match all.binary_search_by_key(&block, |entry| entry.0) {
            Ok(at) => at,
            Err(at) => {
                all.insert(at, (block, Arc::default()));
                at
            }
        };
        Arc::make_mut(&mut all[at].1)
    }

    /// Learns all that another vector knows.
    pub fn join(&mut self, other: &Vector) {
        let Some(theirs) = &other.0 else { return };
        let Some(own) = &mut self.0 else {
            self.0 = Some(theirs.clone());
            return;
        };
        if Arc::ptr_eq(own, theirs) || covers(own, theirs) {
            return;
        }
        if covers(theirs, own) {
            *own = theirs.clone();
            return;
        }
        let own = Arc::make_mut(own);
        for (block, clocks) in theirs.iter() {
            match own.binary_search_by_key(block, |entry| entry.0) {
                Err(at) => own.insert(at, (*block, clocks.clone())),
                Ok(at) => join_clocks(&mut own[at].1, clocks),
            }
        }
    }
}

fn covers(all: &[(u32, Clocks)], part: &[(u32, Clocks)]) -> bool {
    let has = |(block, clocks): &(u32, Clocks)| {
        all.binary_search_by_key(block, |entry| entry.0).is_ok_and(|at| cover(&all[at].1, clocks))
    };
    part.len() <= all.len() && part.iter().all(has)
}

fn cover(all: &Clocks, part: &Clocks) -> bool {
    Arc::ptr_eq(all, part) || (part.len() <= all.len() && part.iter().zip(all.iter()).all(|(part, all)| part <= all))
}

fn join_clocks(own: &mut Clocks, theirs: &Clocks) {
    if cover(own, theirs) {
        return;
    }
    let own = Arc::make_mut(own);
    if own.len() < theirs.len() {
        own.resize(theirs.len(), 0);
    }
    own.iter_mut().zip(theirs.iter()).for_each(|(own, theirs)| *own = (*own).max(*theirs));
}

/// How far a fence or an ordered access reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    /// The block.
    Block,
    /// The device, or more.
    Device,
}

/// What an access orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Weak,
    Relaxed,
    Acquire,
    Release,
    Both,
}

impl Order {
    pub fn acquires(self) -> bool {
        matches!(self, Order::Acquire | Order::Both)
    }

    pub fn releases(self) -> bool {
        matches!(self, Order::Release | Order::Both)
    }
}

/// What a release tells: accesses that came before, and which of them the asynchronous proxy sees.
#[derive(Debug, Clone, Default)]
pub(crate) struct Message {
    pub seen: Vector,
    pub proxied: Vector,
}

impl Message {
    pub fn join(&mut self, other: &Message) {
        self.seen.join(&other.seen);
        self.proxied.join(&other.proxied);
    }
}

/// What a thread knows.
#[derive(Debug, Clone, Default)]
pub(crate) struct View {
    /// Accesses that come before whatever the thread does next.
    pub seen: Vector,
    /// Those of them that a proxy fence made visible to asynchronous operations.
    pub proxied: Vector,
    /// Those that a fence of each scope lets a relaxed operation publish.
    pub fenced: [Vector; 2],
    /// What relaxed operations of each scope found, for a fence to turn into knowledge.
    pub pending: [Vector; 2],
}

impl View {
    pub fn join(&mut self, other: &View) {
        self.seen.join(&other.seen);
        self.proxied.join(&other.proxied);
        for scope in 0..2 {
            self.fenced[scope].join(&other.fenced[scope]);
            self.pending[scope].join(&other.pending[scope]);
        }
    }

    /// Whether it is the same knowledge, not only equal.
    pub fn is_same(&self, other: &View) -> bool {
        let scopes = |own: &[Vector; 2], other: &[Vector; 2]| own[0].is_same(&other[0]) && own[1].is_same(&other[1]);
        self.seen.is_same(&other.seen)
            && self.proxied.is_same(&other.proxied)
            && scopes(&self.fenced, &other.fenced)
            && scopes(&self.pending, &other.pending)
    }

    pub fn learn(&mut self, message: &Message) {
        self.seen.join(&message.seen);
        self.proxied.join(&message.proxied);
    }

    /// A fence by an actor at its clock, which goes up after it.
    pub fn fence(&mut self, me: Epoch, scope: Scope) {
        for reached in 0..=scope as usize {
            let found = std::mem::take(&mut self.pending[reached]);
            self.seen.join(&found);
        }
        let mut all = self.seen.clone();
        all.raise(me.block(), me.actor(), me.clock());
        for reached in 0..=scope as usize {
            self.fenced[reached].join(&all);
        }
    }

    /// A proxy fence: asynchronous operations see all that is known and the thread's own accesses.
    pub fn proxy_fence(&mut self, me: Epoch) {
        let seen = self.seen.clone();
        self.proxied.join(&seen);
        self.proxied.raise(me.block(), me.actor(), me.clock());
    }

    /// Everything known and done so far, for a release.
    pub fn message(&self, me: Epoch) -> Message {
        let mut message = Message { seen: self.seen.clone(), proxied: self.proxied.clone() };
        message.seen.raise(me.block(), me.actor(), me.clock());
        message
    }
}

/// What releases left at an address: for the whole device, and for the threads of single blocks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Released {
    device: Message,
    blocks: Vec<(u32, Message)>,
}

impl Released {
    /// What an ordered write or atomic by a thread leaves; `None` if nothing.
    pub fn by(view: &View, me: Epoch, order: Order, scope: Scope) -> Option<Released> {
        let own = |seen: &Vector| Message { seen: seen.clone(), proxied: view.proxied.clone() };
        let (device, block) = match order {
            _ if order.releases() => (view.message(me), view.message(me)),
            _ => (own(&view.fenced[1]), own(&view.fenced[0])),
        };
        let device = if scope == Scope::Device { device } else { Message::default() };
        let empty = device.seen.is_empty() && block.seen.is_empty();
        (!empty).then(|| Released { device, blocks: vec![(me.block(), block)] })
    }

    /// Adds what a further atomic left there.
    pub fn join(&mut self, other: &Released) {
        self.device.join(&other.device);
        for (block, message) in &other.blocks {
            match self.blocks.iter_mut().find(|(own, _)| own == block) {
                Some((_, own)) => own.join(message),
                None => self.blocks.push((*block, message.clone())),
            }
        }
    }

    /// A thread reads what was left there.
    pub fn observe(&self, view: &mut View, block: u32, order: Order, scope: Scope) {
        let near = self.blocks.iter().find(|(own, _)| *own == block).map(|(_, message)| message);
        let far = (scope == Scope::Device).then_some(&self.device);
        for (reach, message) in [(0, near), (1, far)] {
            let Some(message) = message else { continue };
            if order.acquires() {
                view.seen.join(&message.seen);
            } else {
                view.pending[reach].join(&message.seen);
            }
            view.proxied.join(&message.proxied);
        }
    }
}
