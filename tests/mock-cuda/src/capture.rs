//! Stream capture: work recorded instead of executed, and the graphs it becomes (CUDA driver API, "Stream Management").
//!
//! A capture is a list in the order in which the host asked, which is one order the dependencies allow. Other streams join by waiting
//! for an event recorded in the capture, and must be waited for in turn before it ends. What cannot be recorded (waiting,
//! allocating, the default stream) is refused and spoils the capture, which then only its end tells.

use std::collections::BTreeMap;
use std::thread::ThreadId;

use crate::device::{State, find, find_mut};
use crate::handle::{Id, fresh};
use crate::status::{Result, Status};
use crate::work::Work;

/// Who may not make unsafe calls while a capture lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Nobody,
    ThisThread,
    Everybody,
}

impl Mode {
    pub fn from_number(number: u32) -> Result<Self> {
        match number {
            0 => Ok(Mode::Everybody),
            1 => Ok(Mode::ThisThread),
            2 => Ok(Mode::Nobody),
            _ => Err(Status::CUDA_ERROR_INVALID_VALUE),
        }
    }
}

/// A graph: work in an order its dependencies allow.
pub(crate) type Graph = Vec<Work>;

/// A place in a capture: an event recorded there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    capture: Id,
    stream: Id,
    /// Pieces of work of that stream before it.
    pieces: usize,
}

/// A stream's part in a capture.
#[derive(Debug, Clone, Copy, Default)]
struct Branch {
    pieces: usize,
    /// Whether another branch has waited for all of it.
    joined: bool,
}

#[derive(Debug)]
pub(crate) struct Capture {
    graph: Graph,
    origin: Id,
    mode: Mode,
    thread: ThreadId,
    branches: BTreeMap<Id, Branch>,
    spoilt: bool,
}

impl State {
    pub fn begin_capture(&mut self, stream: Id, mode: Mode) -> Result {
        if stream == self.default_stream {
            return Err(Status::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        }
        let id = fresh(self.ordinal);
        match &mut find_mut(&mut self.streams, stream)?.capture {
            Some(_) => return Err(Status::CUDA_ERROR_ILLEGAL_STATE),
            free => *free = Some(id),
        }
        let branches = BTreeMap::from([(stream, Branch::default())]);
        let thread = std::thread::current().id();
        self.captures.insert(id, Capture { graph: Vec::new(), origin: stream, mode, thread, branches, spoilt: false });
        Ok(())
    }

    /// Ends a capture; its graph if nothing spoilt it.
    pub fn end_capture(&mut self, stream: Id) -> Result<Graph> {
        let id = find(&self.streams, stream)?.capture.ok_or(Status::CUDA_ERROR_ILLEGAL_STATE)?;
        let capture = find(&self.captures, id)?;
        if capture.origin != stream {
            return Err(Status::CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
        }
        if capture.mode != Mode::Nobody && capture.thread != std::thread::current().id() {
            return Err(Status::CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD);
        }
        self.streams.values_mut().filter(|s| s.capture == Some(id)).for_each(|s| s.capture = None);
        let capture = crate::device::take(&mut self.captures, id)?;
        if capture.spoilt {
            return Err(Status::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        }
        let unjoined = capture.branches.iter().any(|(branch, state)| *branch != capture.origin && !state.joined);
        if unjoined { Err(Status::CUDA_ERROR_STREAM_CAPTURE_UNJOINED) } else { Ok(capture.graph) }
    }

    /// 0, 1 or 2: not captured, captured, captured in vain.
    pub fn capture_status(&self, stream: Id) -> Result<u32> {
        match find(&self.streams, stream)?.capture {
            None => Ok(0),
            Some(capture) => Ok(1 + u32::from(find(&self.captures, capture)?.spoilt)),
        }
    }

    pub fn invalidate(&mut self, capture: Id) {
        if let Some(capture) = self.captures.get_mut(&capture) {
            capture.spoilt = true;
        }
    }

    fn usable(&mut self, capture: Id) -> Result<&mut Capture> {
        let capture = find_mut(&mut self.captures, capture)?;
        if capture.spoilt { Err(Status::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED) } else { Ok(capture) }
    }

    pub fn record(&mut self, capture: Id, stream: Id, work: Work) -> Result {
        if !work.can_be_recorded() {
            self.invalidate(capture);
            return Err(Status::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        }
        let capture = self.usable(capture)?;
        capture.graph.push(work);
        let branch = capture.branches.entry(stream).or_default();
        branch.pieces += 1;
        branch.joined = false;
        Ok(())
    }

    /// Where a stream is in its capture.
    pub fn place(&mut self, capture: Id, stream: Id) -> Result<Place> {
        let pieces = self.usable(capture)?.branches.entry(stream).or_default().pieces;
        Ok(Place { capture, stream, pieces })
    }

    /// A stream waits for an event of a capture: it joins that capture, and the event's stream has been waited for.
    pub fn join(&mut self, stream: Id, place: Place) -> Result {
        if !self.captures.contains_key(&place.capture) {
            return Err(Status::CUDA_ERROR_CAPTURED_EVENT);
        }
        match find_mut(&mut self.streams, stream)?.capture {
            Some(own) if own != place.capture => {
                self.invalidate(own);
                self.invalidate(place.capture);
                return Err(Status::CUDA_ERROR_STREAM_CAPTURE_MERGE);
            }
            _ => find_mut(&mut self.streams, stream)?.capture = Some(place.capture),
        }
        let capture = self.usable(place.capture)?;
        capture.branches.entry(stream).or_default().joined = false;
        if let Some(branch) = capture.branches.get_mut(&place.stream).filter(|_| place.stream != stream) {
            branch.joined |= branch.pieces == place.pieces;
        }
        Ok(())
    }

    /// Refuses a call that a capture forbids to this thread, and spoils that capture.
    pub fn outside_captures(&mut self) -> Result {
        let here = std::thread::current().id();
        let forbids = |capture: &Capture| match capture.mode {
            Mode::Nobody => false,
            Mode::ThisThread => capture.thread == here,
            Mode::Everybody => true,
        };
        self.spoil_where(forbids)
    }

    /// The same for a wait for the whole device, which no capture allows.
    pub fn without_captures(&mut self) -> Result {
        self.spoil_where(|_| true)
    }

    /// The same for a wait for a stream.
    pub fn uncaptured(&mut self, stream: Id) -> Result {
        match find(&self.streams, stream)?.capture {
            None => self.outside_captures(),
            Some(capture) => {
                self.invalidate(capture);
                Err(Status::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED)
            }
        }
    }

    fn spoil_where(&mut self, forbids: impl Fn(&Capture) -> bool) -> Result {
        let mut outcome = Ok(());
        for capture in self.captures.values_mut().filter(|capture| forbids(capture)) {
            capture.spoilt = true;
            outcome = Err(Status::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        }
        outcome
    }
}
