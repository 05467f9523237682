//! How a step's launches reach the device: one by one, or, once the same list has been seen before, as a recorded graph.
//!
//! The key of a graph is the list itself: kernels, grids and every byte of their parameters. What changes from step to step
//! of one shape (tokens, positions, block tables, lengths) is read from buffers of the plan, so the list stays equal, and a
//! graph cannot be replayed where it does not fit.

use std::hash::{DefaultHasher, Hash, Hasher};

use llama_core::Result;

use crate::device::Device;
use crate::launch::{Graph, Launch};

/// Graphs kept at most; the one replayed longest ago makes room.
const GRAPHS: usize = 32;
/// Lists remembered to have been seen once.
const SEEN: usize = 64;
/// Launches of the longest list that is recorded. Longer ones are not shorter for it.
const LONGEST: usize = 4096;

/// A recorded list.
struct Recorded {
    launches: Vec<Launch>,
    graph: Graph,
    last_used: u64,
}

/// The graphs of one backend.
#[derive(Default)]
pub(crate) struct Replay {
    recorded: Vec<Recorded>,
    /// Hashes of lists seen once, a ring.
    seen: Vec<u64>,
    step: u64,
}

impl Replay {
    /// Enqueues `launches`.
    pub fn enqueue(&mut self, device: &Device, launches: &[Launch]) -> Result<()> {
        self.step += 1;
        if let Some(known) = self.recorded.iter_mut().find(|known| known.launches == launches) {
            known.last_used = self.step;
            return known.graph.enqueue(device);
        }
        if launches.len() > 1 && launches.len() <= LONGEST && self.seen_before(launches) {
            return self.record(device, launches);
        }
        launches.iter().try_for_each(|launch| launch.enqueue(device))
    }

    /// Graphs recorded so far and still kept.
    pub fn graphs(&self) -> usize {
        self.recorded.len()
    }

    fn record(&mut self, device: &Device, launches: &[Launch]) -> Result<()> {
        let graph = Graph::record(device, launches)?;
        graph.enqueue(device)?;
        if self.recorded.len() == GRAPHS {
            let oldest = (0..GRAPHS).min_by_key(|&i| self.recorded[i].last_used).unwrap_or(0);
            self.recorded.swap_remove(oldest);
        }
        self.recorded.push(Recorded { launches: launches.to_vec(), graph, last_used: self.step });
        Ok(())
    }

    /// Whether the list was seen once; from now on it was.
    fn seen_before(&mut self, launches: &[Launch]) -> bool {
        let mut hasher = DefaultHasher::new();
        for launch in launches {
            (launch.name, launch.grid, launch.params()).hash(&mut hasher);
        }
        let hash = hasher.finish();
        if let Some(at) = self.seen.iter().position(|&seen| seen == hash) {
            self.seen.swap_remove(at);
            return true;
        }
        if self.seen.len() == SEEN {
            self.seen.remove(0);
        }
        self.seen.push(hash);
        false
    }
}
