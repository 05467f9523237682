//! Blocking conveniences for one request. They step the whole engine; other sequences' events wait for the next step.

use std::collections::VecDeque;

use crate::error::{Error, Result};

use super::Engine;
use super::event::{Completion, Event, Finish, SequenceId};
use super::request::Request;

/// An iterator over one request's events. It steps the engine as it needs to. Dropped before its end, it cancels.
pub struct Generation<'a> {
    engine: &'a mut Engine,
    id: SequenceId,
    ready: VecDeque<Event>,
    /// What ended it, where something came before it in the same step.
    failure: Option<Error>,
    ended: bool,
}

impl Engine {
    /// Submits a request and returns its events one by one, the last with its `finish`.
    ///
    /// What goes wrong is the iterator's last item: an error of the model, which cancels the request, or the
    /// [`Finish::Failed`] of this request.
    ///
    /// ```
    /// # use llama_core::engine::{Engine, Request};
    /// # fn show(engine: &mut Engine, prompt: Vec<u32>) -> llama_core::Result<()> {
    /// for event in engine.generate(Request::new(prompt))? {
    ///     print!("{}", event?.text);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn generate(&mut self, request: Request) -> Result<Generation<'_>> {
        let id = self.submit(request)?;
        Ok(self.events_of(id))
    }

    fn events_of(&mut self, id: SequenceId) -> Generation<'_> {
        Generation { engine: self, id, ready: VecDeque::new(), failure: None, ended: false }
    }

    /// Submits a request and returns all of it.
    ///
    /// # Errors
    /// As [`Engine::submit`]; and whatever ended the request too early, so that a [`Completion`] is always complete.
    pub fn complete(&mut self, request: Request) -> Result<Completion> {
        self.complete_with(request, |_| ())
    }

    /// Submits a request, shows each of its events as it comes, and returns all of it.
    pub fn complete_with(&mut self, request: Request, mut on_event: impl FnMut(&Event)) -> Result<Completion> {
        let id = self.submit(request)?;
        self.completed(id, &mut on_event)
    }

    /// All of one sequence that was just submitted.
    pub(super) fn completed(&mut self, id: SequenceId, on_event: &mut dyn FnMut(&Event)) -> Result<Completion> {
        let mut completion = Completion::new(id);
        for event in self.events_of(id) {
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
            if let Some(mut event) = self.ready.pop_front() {
                self.ended = event.finish.is_some();
                if let Some(Finish::Failed(error)) = event.finish.take_if(|finish| matches!(finish, Finish::Failed(_)))
                {
                    self.failure = Some(error);
                    if event.is_empty() {
                        break;
                    }
                }
                return Some(Ok(event));
            }
            if let Err(error) = self.advance() {
                self.abandon();
                return Some(Err(error));
            }
        }
        self.failure.take().map(Err)
    }
}

impl Generation<'_> {
    /// Cancels without a report: nobody is left to read it.
    fn abandon(&mut self) {
        if !self.ended {
            self.ended = true;
            self.ready.clear();
            self.engine.withdraw(self.id);
        }
    }
}

impl Drop for Generation<'_> {
    fn drop(&mut self) {
        self.abandon();
    }
}
