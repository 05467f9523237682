//! How a step's launches reach the device: one by one, or, once the same list has been seen before, as a recorded graph, or
//! as a program that one kernel performs.
//!
//! The key of either is the list itself: kernels, grids and every byte of their parameters. What changes from step to step
//! of one shape (tokens, positions, block tables, lengths) is read from buffers of the plan, so the list stays equal, and
//! none can be replayed where it does not fit.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use llama_core::Result;

use crate::device::Device;
use crate::kernels::Kernels;
use crate::launch::{Graph, Launch};
use crate::persistent::{Program, Programs};

/// Lists kept at most; the one replayed longest ago makes room.
const KEPT: usize = 64;
/// Lists remembered to have been seen once.
const SEEN: usize = 64;
/// Launches of the longest list that is recorded. Longer ones are not shorter for it.
const LONGEST: usize = 4096;

/// A kept list.
struct Recorded {
    launches: Vec<Launch>,
    form: Form,
    last_used: u64,
}

/// What a list was made into.
enum Form {
    Graph(Graph),
    Program(Box<Program>),
}

impl Form {
    fn enqueue(&self, device: &Device) -> Result<()> {
        match self {
            Form::Graph(graph) => graph.enqueue(),
            Form::Program(program) => program.enqueue(device),
        }
    }
}

/// The kept lists of one backend.
#[derive(Default)]
pub(crate) struct Replay {
    recorded: Vec<Recorded>,
    /// Hashes of lists seen once, a ring.
    seen: Vec<u64>,
    step: u64,
    /// Where there are to be programs.
    programs: Option<Programs>,
}

impl Replay {
    /// Makes programs of lists from now on, where they can be, in this memory.
    pub fn use_programs(&mut self, programs: Programs) {
        self.recorded.retain(|known| matches!(known.form, Form::Graph(_)));
        self.programs = Some(programs);
    }

    /// Enqueues `launches`.
    pub fn enqueue(&mut self, device: &Arc<Device>, kernels: &Kernels, launches: &[Launch]) -> Result<()> {
        self.step += 1;
        if let Some(known) = self.recorded.iter_mut().find(|known| known.launches == launches) {
            known.last_used = self.step;
            return known.form.enqueue(device);
        }
        if launches.len() > 1 && launches.len() <= LONGEST && self.seen_before(launches) {
            return self.record(device, kernels, launches);
        }
        launches.iter().try_for_each(|launch| launch.enqueue(device))
    }

    /// Graphs recorded so far and still kept.
    pub fn graphs(&self) -> usize {
        self.recorded.iter().filter(|known| matches!(known.form, Form::Graph(_))).count()
    }

    /// Programs made so far and still kept.
    pub fn programs(&self) -> usize {
        self.recorded.len() - self.graphs()
    }

    fn record(&mut self, device: &Arc<Device>, kernels: &Kernels, launches: &[Launch]) -> Result<()> {
        let Ok(form) = self.form(device, kernels, launches) else {
            // No memory for a graph, perhaps: launches one by one need none. What is really wrong shows there as well.
            return launches.iter().try_for_each(|launch| launch.enqueue(device));
        };
        form.enqueue(device)?;
        if self.recorded.len() == KEPT {
            self.forget(|_| true);
        }
        self.recorded.push(Recorded { launches: launches.to_vec(), form, last_used: self.step });
        Ok(())
    }

    fn form(&mut self, device: &Arc<Device>, kernels: &Kernels, launches: &[Launch]) -> Result<Form> {
        if !self.programs.as_ref().is_some_and(|programs| programs.fits(device, launches)) {
            return Graph::record(device, launches).map(Form::Graph);
        }
        if self.programs.as_ref().is_some_and(|programs| !programs.has_room()) {
            self.forget(|form| matches!(form, Form::Program(_)));
        }
        let program = match &mut self.programs {
            Some(programs) => programs.make(device, kernels, launches)?,
            None => None,
        };
        match program {
            Some(program) => Ok(Form::Program(Box::new(program))),
            None => Graph::record(device, launches).map(Form::Graph),
        }
    }

    /// Forgets the list replayed longest ago of those that are `such`.
    fn forget(&mut self, such: impl Fn(&Form) -> bool) {
        let old = self.recorded.iter().enumerate().filter(|(_, known)| such(&known.form));
        let Some((oldest, _)) = old.min_by_key(|(_, known)| known.last_used) else { return };
        let forgotten = self.recorded.swap_remove(oldest);
        if let (Form::Program(program), Some(programs)) = (&forgotten.form, &mut self.programs) {
            programs.give_back(program);
        }
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
