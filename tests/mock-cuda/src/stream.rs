//! Streams: queues of work, executed in order.
//!
//! Every piece of work has a number in its stream. Waiting for another stream is itself work: a [`Marker`] names the stream and
//! the last number that must be done. Markers only ever name work queued earlier, so running what a marker names first
//! always ends. Unless the driver is configured to defer, a stream runs as soon as something is queued.
//!
//! The default ("legacy") stream waits for all blocking streams and they wait for it (CUDA C programming guide, "Implicit
//! synchronization"); streams made with `CU_STREAM_NON_BLOCKING` do neither.

use std::collections::VecDeque;

use crate::device::{State, find, find_mut, take};
use crate::handle::{Id, fresh};
use crate::status::{Result, Status};
use crate::work::Work;

/// A point in a stream: everything up to this number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Marker {
    pub stream: Id,
    pub number: u64,
}

#[derive(Debug)]
pub(crate) struct Stream {
    queue: VecDeque<(u64, Work)>,
    /// The number of the last piece queued.
    queued: u64,
    /// Whether it takes turns with the default stream.
    blocking: bool,
    /// The capture it takes part in.
    pub capture: Option<Id>,
}

impl Stream {
    pub fn new(blocking: bool) -> Self {
        Stream { queue: VecDeque::new(), queued: 0, blocking, capture: None }
    }

    fn push(&mut self, work: Work) -> u64 {
        self.queued += 1;
        self.queue.push_back((self.queued, work));
        self.queued
    }

    fn next_up_to(&mut self, number: u64) -> Option<Work> {
        self.queue.pop_front_if(|(next, _)| *next <= number).map(|(_, work)| work)
    }

    /// Whether everything up to a number is done.
    fn has_done(&self, number: u64) -> bool {
        self.queue.front().is_none_or(|(next, _)| *next > number)
    }
}

impl State {
    pub fn create_stream(&mut self, blocking: bool) -> Id {
        let id = fresh(self.ordinal);
        self.streams.insert(id, Stream::new(blocking));
        id
    }

    /// The stream goes once its work is done.
    pub fn destroy_stream(&mut self, id: Id) -> Result {
        if id == self.default_stream {
            return Err(Status::CUDA_ERROR_INVALID_VALUE);
        }
        if let Some(capture) = find(&self.streams, id)?.capture {
            self.invalidate(capture);
        }
        self.finish(id)?;
        take(&mut self.streams, id).map(drop)
    }

    /// Queues work, or records it if the stream is being captured.
    pub fn submit(&mut self, stream: Id, work: Work) -> Result {
        if let Some(capture) = find(&self.streams, stream)?.capture {
            return self.record(capture, stream, work);
        }
        self.take_turns(stream)?;
        self.push(stream, work)?;
        Ok(())
    }

    /// Queues a point to wait for, which no capture sees.
    pub fn mark(&mut self, stream: Id, work: Work) -> Result<Marker> {
        self.take_turns(stream)?;
        let number = self.push(stream, work)?;
        Ok(Marker { stream, number })
    }

    fn push(&mut self, stream: Id, work: Work) -> Result<u64> {
        let number = find_mut(&mut self.streams, stream)?.push(work);
        if !self.config.deferred {
            self.run(Marker { stream, number });
        }
        Ok(number)
    }

    /// Makes a stream wait for the default stream, or the default stream for all that are blocking.
    fn take_turns(&mut self, stream: Id) -> Result {
        let legacy = self.default_stream;
        if stream == legacy {
            self.refuse_while_blocking_streams_are_captured()?;
        }
        let own = find(&self.streams, stream)?;
        let is_other = |id: Id, other: &Stream| id != stream && other.blocking && (stream == legacy || id == legacy);
        let others = self.streams.iter().filter(|(id, other)| own.blocking && is_other(**id, other));
        let waiting = others.filter(|(_, other)| !other.has_done(other.queued));
        let markers: Vec<Marker> = waiting.map(|(id, other)| Marker { stream: *id, number: other.queued }).collect();
        for marker in markers {
            find_mut(&mut self.streams, stream)?.push(Work::Wait(marker));
        }
        Ok(())
    }

    fn refuse_while_blocking_streams_are_captured(&mut self) -> Result {
        let captured = self.streams.values().filter(|stream| stream.blocking).find_map(|stream| stream.capture);
        match captured {
            None => Ok(()),
            Some(capture) => {
                self.invalidate(capture);
                Err(Status::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT)
            }
        }
    }

    /// Whether everything up to a marker is done; a stream that is gone has done all of its work.
    pub fn is_done(&self, marker: Marker) -> bool {
        self.streams.get(&marker.stream).is_none_or(|stream| stream.has_done(marker.number))
    }

    /// Executes a stream's work up to a marker, and first what that work waits for. After a failure nothing is executed any
    /// more.
    pub fn run(&mut self, marker: Marker) {
        while let Some(work) = self.streams.get_mut(&marker.stream).and_then(|s| s.next_up_to(marker.number)) {
            if self.check_failure().is_err() {
                continue;
            }
            match work {
                Work::Wait(other) => self.run(other),
                work => self.execute(work),
            }
        }
    }

    /// Executes the next piece of work up to a marker: what a GPU would have got to by the time somebody asks again.
    pub fn advance(&mut self, marker: Marker) {
        let next = self.streams.get(&marker.stream).and_then(|stream| stream.queue.front()).map(|(number, _)| *number);
        if let Some(number) = next.filter(|number| *number <= marker.number) {
            self.run(Marker { number, ..marker });
        }
    }

    /// Where a stream ends now.
    pub fn end_of(&self, stream: Id) -> Result<Marker> {
        Ok(Marker { stream, number: find(&self.streams, stream)?.queued })
    }

    /// Waits for a stream.
    pub fn finish(&mut self, stream: Id) -> Result {
        let marker = self.end_of(stream)?;
        self.run(marker);
        self.check_failure()
    }

    /// Waits for everything.
    pub fn finish_all(&mut self) -> Result {
        let streams: Vec<Id> = self.streams.keys().copied().collect();
        streams.into_iter().try_for_each(|stream| self.finish(stream))
    }
}
