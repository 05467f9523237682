//! Blocking conveniences for one request. They step the whole engine; other sequences' events wait for the next step.

use std::collections::VecDeque;

use crate::error::Result;

use super::Engine;
use super::event::{Completion, Event, SequenceId};
use super::request::Request;

/// An iterator over one request's events. It steps the engine as it needs to. Dropped before its end, it cancels.
pub struct Generation<'a> {
    engine: &'a mut Engine,
    id: SequenceId,
    ready: VecDeque<Event>,
    ended: bool,
}

impl Engine {
    /// Submits a request and returns its events one by one, the last with its `finish`.
    ///
    /// An error of the model is the iterator's last item, and cancels the request.
    pub fn generate(&mut self, request: Request) -> Result<Generation<'_>> {
        let id = self.submit(request)?;
        Ok(Generation { engine: self, id, ready: VecDeque::new(), ended: false })
    }

    /// Submits a request and returns all of it.
    pub fn complete(&mut self, request: Request) -> Result<Completion> {
        self.complete_with(request, |_| ())
    }

    /// Submits a request, shows each of its events as it comes, and returns all of it.
    pub fn complete_with(&mut self, request: Request, mut on_event: impl FnMut(&Event)) -> Result<Completion> {
        let events = self.generate(request)?;
        let mut completion = Completion::new(events.id);
        for event in events {
            let event = event?;
            on_event(&event);
            completion.absorb(event);
        }
        Ok(completion)
    }
}

impl Generation<'_> {
    /// Which sequence this is.
    pub fn id(&self) -> SequenceId {
        self.id
    }

    /// Steps the engine once and takes this sequence's events out of what it reports.
    fn advance(&mut self) -> Result<()> {
        let (id, seen) = (self.id, self.engine.outbox.len());
        self.engine.advance()?;
        self.ready.extend(self.engine.outbox.extract_if(seen.., |event| event.id == id));
        Ok(())
    }
}

impl Iterator for Generation<'_> {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.ended || !self.ready.is_empty() {
            if let Some(event) = self.ready.pop_front() {
                self.ended = event.finish.is_some();
                return Some(Ok(event));
            }
            if let Err(error) = self.advance() {
                self.abandon();
                return Some(Err(error));
            }
        }
        None
    }
}

impl Generation<'_> {
    /// Cancels without a report: nobody is left to read it.
    fn abandon(&mut self) {
        if !self.ended {
            self.ended = true;
            self.ready.clear();
            self.engine.scheduler.remove(self.id);
        }
    }
}

impl Drop for Generation<'_> {
    fn drop(&mut self) {
        self.abandon();
    }
}
