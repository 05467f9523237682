//! What threads know of each other (see `order`): who a lane is to the race check, and what fences and barriers teach.

use super::block::Block;
use super::warp::{Warp, lanes};
use super::{Checks, WARP};
use crate::order::{Epoch, MOST_ACTORS, Message, Order, Scope, View};
use crate::race::Who;

impl Warp {
    /// The lane as an actor, now.
    pub fn epoch(&self, block: u32, lane: usize) -> Epoch {
        Epoch::new(block, (self.index * WARP + lane) as u32, self.clocks[lane])
    }

    /// Who a lane is to the race check.
    pub fn who(&self, block: u32, threads: u32, lane: usize) -> Who<'_> {
        let me = self.epoch(block, lane);
        Who { me, mark: me, view: &self.views[lane], threads }
    }
}

impl Warp {
    /// Changes what lanes know; those who knew the same before share what they know after.
    pub fn teach(&mut self, mask: u32, act: impl Fn(&mut View)) {
        let mut last: Option<(View, View)> = None;
        for lane in lanes(mask) {
            let view = &mut self.views[lane];
            match &last {
                Some((before, after)) if view.is_same(before) => view.clone_from(after),
                _ => {
                    let before = view.clone();
                    act(view);
                    last = Some((before, view.clone()));
                }
            }
        }
    }
}

impl Block<'_, '_> {
    /// Whether anybody keeps track of accesses.
    pub(super) fn checks_races(&self) -> bool {
        self.machine.launch.checks == Checks::All
    }

    /// Actors from here on are engines.
    pub(super) fn threads(&self) -> u32 {
        (self.state.warps.len() * WARP) as u32
    }

    /// All that meet learn what each of them knows and did.
    pub(super) fn meet(&mut self, warp: usize, mask: u32) {
        let told = self.tell(warp, mask);
        self.learn(warp, mask, &told);
    }

    /// What some threads of a warp know and did; what they do from now on is not part of it.
    pub(super) fn tell(&mut self, warp: usize, mask: u32) -> View {
        let (block, mut told) = (self.state.linear, View::default());
        if !self.checks_races() {
            return told;
        }
        let warp = &mut self.state.warps[warp];
        lanes(mask).for_each(|lane| told.join(&warp.views[lane]));
        for lane in lanes(mask) {
            let me = warp.epoch(block, lane);
            told.seen.raise(block, me.actor(), me.clock());
            warp.clocks[lane] += 1;
        }
        told
    }

    /// Threads of a warp learn what others told, their own knowledge included.
    pub(super) fn learn(&mut self, warp: usize, mask: u32, told: &View) {
        if self.checks_races() {
            let views = &mut self.state.warps[warp].views;
            lanes(mask).for_each(|lane| views[lane].clone_from(told));
        }
    }

    pub(super) fn fence(&mut self, warp: usize, mask: u32, scope: Scope) {
        self.each_view(warp, mask, |view, me| view.fence(me, scope));
    }

    pub(super) fn proxy_fence(&mut self, warp: usize, mask: u32) {
        self.each_view(warp, mask, View::proxy_fence);
        self.announce_mbarriers(warp, mask);
    }

    fn each_view(&mut self, warp: usize, mask: u32, act: impl Fn(&mut View, Epoch)) {
        if !self.checks_races() {
            return;
        }
        let (block, warp) = (self.state.linear, &mut self.state.warps[warp]);
        for lane in lanes(mask) {
            let me = warp.epoch(block, lane);
            act(&mut warp.views[lane], me);
            warp.clocks[lane] += 1;
        }
    }

    /// What a lane tells by releasing; what it does from now on is not part of it.
    pub(super) fn message(&mut self, warp: usize, lane: usize) -> Message {
        if !self.checks_races() {
            return Message::default();
        }
        let (block, warp) = (self.state.linear, &mut self.state.warps[warp]);
        let message = warp.views[lane].message(warp.epoch(block, lane));
        warp.clocks[lane] += 1;
        message
    }

    /// After an ordered write: later accesses are not part of what it released.
    pub(super) fn tick(&mut self, warp: usize, lane: usize, order: Order) {
        self.state.warps[warp].clocks[lane] += u32::from(order.releases());
    }

    /// The actor that stands for asynchronous operations of a thread; `None` if there are too many.
    pub(super) fn engine(&mut self, kind: Engine) -> Option<u32> {
        let (base, issuer) = (self.threads(), kind.thread());
        if let Some(&actor) = self.state.engines.get(&kind) {
            return Some(actor);
        }
        let actor = base + self.state.engines.len() as u32;
        if actor >= MOST_ACTORS {
            return None;
        }
        self.state.engines.insert(kind, actor);
        self.machine.engines.insert((self.state.linear, actor), issuer);
        Some(actor)
    }
}

/// What works asynchronously for a thread, with a clock of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Engine {
    /// `cp.async` of a thread; the clock counts groups.
    Copies(u32),
    /// Bulk stores of a thread, as readers of shared memory and as writers; the clock counts groups.
    BulkReads(u32),
    BulkWrites(u32),
    /// Bulk loads that an mbarrier tells the completion of: its offset and life; the clock counts phases.
    Phases(u64, u32),
    /// `wgmma` of a warp; the clock counts groups.
    Matrices(u32),
}

impl Engine {
    fn thread(self) -> u32 {
        match self {
            Engine::Copies(thread) | Engine::BulkReads(thread) | Engine::BulkWrites(thread) => thread,
            Engine::Matrices(warp) => warp * WARP as u32,
            // Whoever starts a copy is noted then.
            Engine::Phases(..) => 0,
        }
    }
}
