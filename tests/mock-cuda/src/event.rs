//! Events: points in streams, and the times they were reached.

use std::time::Instant;

use crate::capture::Place;
use crate::device::{State, find, find_mut};
use crate::handle::{Id, fresh};
use crate::status::{Result, Status};
use crate::stream::Marker;
use crate::work::Work;

/// Where an event was last recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Record {
    Never,
    At(Marker),
    Captured(Place),
}

#[derive(Debug)]
pub(crate) struct Event {
    record: Record,
    timed: bool,
    /// How often it was recorded: an earlier record that is reached late says nothing.
    records: u64,
    reached: Option<Instant>,
}

impl State {
    pub fn create_event(&mut self, timed: bool) -> Id {
        let id = fresh(self.ordinal);
        self.events.insert(id, Event { record: Record::Never, timed, records: 0, reached: None });
        id
    }

    pub fn record_event(&mut self, event: Id, stream: Id) -> Result {
        let own = find_mut(&mut self.events, event)?;
        own.reached = None;
        own.records += 1;
        let work = Work::Record { event, records: own.records };
        let record = match find(&self.streams, stream)?.capture {
            Some(capture) => Record::Captured(self.place(capture, stream)?),
            None => Record::At(self.mark(stream, work)?),
        };
        find_mut(&mut self.events, event)?.record = record;
        Ok(())
    }

    /// Its stream has got to an event.
    pub fn reach(&mut self, event: Id, records: u64) {
        if let Some(event) = self.events.get_mut(&event).filter(|event| event.records == records) {
            event.reached = Some(Instant::now());
        }
    }

    /// Makes a stream wait for an event; one never recorded is no reason to wait.
    pub fn wait_event(&mut self, stream: Id, event: Id) -> Result {
        let record = find(&self.events, event)?.record;
        match (record, find(&self.streams, stream)?.capture) {
            (Record::Never, _) => Ok(()),
            (Record::Captured(place), _) => self.join(stream, place),
            (Record::At(marker), None) => self.mark(stream, Work::Wait(marker)).map(drop),
            (Record::At(_), Some(capture)) => {
                self.invalidate(capture);
                Err(Status::CUDA_ERROR_STREAM_CAPTURE_ISOLATION)
            }
        }
    }

    /// Where an event is, for waiting and asking, which captured events do not allow.
    pub fn marker_of(&mut self, event: Id) -> Result<Option<Marker>> {
        match find(&self.events, event)?.record {
            Record::Captured(_) => Err(Status::CUDA_ERROR_CAPTURED_EVENT),
            Record::Never => Ok(None),
            Record::At(marker) => Ok(Some(marker)),
        }
    }

    /// Milliseconds between two events.
    pub fn elapsed(&self, start: Id, end: Id) -> Result<f32> {
        let (start, end) = (find(&self.events, start)?, find(&self.events, end)?);
        let unrecorded = |event: &Event| event.record == Record::Never || !event.timed;
        if unrecorded(start) || unrecorded(end) {
            return Err(Status::CUDA_ERROR_INVALID_HANDLE);
        }
        let (Some(from), Some(to)) = (start.reached, end.reached) else { return Err(Status::CUDA_ERROR_NOT_READY) };
        // Negative if they were reached in the other order, as the driver has it.
        Ok((to.saturating_duration_since(from).as_secs_f64() - from.saturating_duration_since(to).as_secs_f64()) as f32
            * 1e3)
    }
}
