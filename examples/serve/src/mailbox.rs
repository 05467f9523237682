//! What came of one request, on its way from the engine's thread to the connection that asked.
//!
//! A request is one or more sequences. The engine never waits for a reader: what nobody has read yet is joined to one part for
//! each sequence, so a slow reader gets longer pieces and later, not more of them. More than a bound of bytes unread ends the
//! request. The reader learns of an error at once, though parts before it are unread; it gives up by being dropped.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use llama_core::engine::{Completion, Event, Finish};

use crate::budget::Share;
use crate::error::{ApiError, Result};

/// What a reader has not seen yet of one sequence.
#[derive(Debug)]
pub struct Part {
    /// Which of the request's sequences, from 0.
    pub index: usize,
    /// What came since the last part. `finish` holds only where `finished` does.
    pub completion: Completion,
    /// Nothing follows.
    pub finished: bool,
}

/// The end where the engine's thread puts events in.
pub struct Sender(Arc<Shared>);

/// The end where a connection takes parts out.
pub struct Receiver(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Nobody will look at what comes: the reader has gone, or was told of an error.
    over: AtomicBool,
    /// Most bytes unread; `None` for who reads all at once in the end.
    bound: Option<usize>,
}

#[derive(Default)]
struct State {
    /// By sequence; those with news.
    parts: Vec<Option<Part>>,
    /// Sequences that have not ended.
    left: usize,
    /// The request's places in the queue. They are given back when its last sequence is through, and before the reader
    /// learns of that: whoever has an answer may ask again.
    places: Option<[Share; 2]>,
    /// Bytes unread, about.
    bytes: usize,
    accepted: bool,
    failure: Option<ApiError>,
    /// The reader, where it waits.
    waker: Option<Waker>,
}

/// A mailbox for `sequences` sequences. With a bound it is read part by part, and the reader is woken for each step's; without
/// one it is read when all of it is there.
pub fn mailbox(sequences: usize, bound: Option<usize>, places: [Share; 2]) -> (Sender, Receiver) {
    let parts = (0..sequences).map(|_| None).collect();
    let state = State { parts, left: sequences, places: Some(places), ..State::default() };
    let shared = Arc::new(Shared { state: Mutex::new(state), over: AtomicBool::new(false), bound });
    (Sender(shared.clone()), Receiver(shared))
}

impl Sender {
    /// The engine has taken all sequences.
    pub fn accept(&self) {
        self.0.change(|state| state.accepted = true);
    }

    /// Ends the request with an error.
    pub fn fail(&self, error: ApiError) {
        self.0.change(|state| {
            state.failure.get_or_insert(error);
        });
        self.0.over.store(true, Ordering::Release);
    }

    /// Whether the rest of the request's sequences may be cancelled.
    pub fn is_over(&self) -> bool {
        self.0.over.load(Ordering::Acquire)
    }

    /// Puts in what a step did for a sequence. False if the reader has fallen too far behind: then the request has ended.
    pub fn put(&self, index: usize, mut event: Event) -> bool {
        if self.is_over() {
            return true;
        }
        if let Some(Finish::Failed(error)) = event.finish.take_if(|finish| matches!(finish, Finish::Failed(_))) {
            self.fail(error.into());
            return true;
        }
        let mut state = self.0.lock();
        state.absorb(index, event);
        if self.0.bound.is_some_and(|bound| state.bytes > bound) {
            drop(state);
            self.fail(ApiError::unavailable("the answer was not read as fast as it came; too much of it was waiting"));
            return false;
        }
        if self.0.bound.is_some() || state.left == 0 {
            state.wake();
        }
        true
    }
}

impl Drop for Sender {
    /// A sender that leaves sequences behind was dropped by a thread that came to an end.
    fn drop(&mut self) {
        self.0.change(|state| {
            state.places = None;
            if state.left > 0 && state.failure.is_none() {
                state.failure = Some(ApiError::internal("the engine has stopped"));
            }
        });
    }
}

impl Receiver {
    /// Waits until the engine has taken the request.
    ///
    /// # Errors
    /// Why it has not.
    pub async fn accepted(&self) -> Result<()> {
        std::future::poll_fn(|cx| self.0.poll(cx, |state| state.accepted.then_some(()))).await
    }

    /// The news of all sequences, or `None` when all have ended and been read.
    pub fn poll_parts(&self, cx: &mut Context<'_>) -> Poll<Result<Option<Vec<Part>>>> {
        self.0.poll(cx, |state| {
            let parts = state.take();
            match parts.is_empty() {
                true if state.left > 0 => None,
                true => Some(None),
                false => Some(Some(parts)),
            }
        })
    }

    /// Waits for the whole of every sequence, in their order.
    ///
    /// # Errors
    /// Whatever ended one of them too early.
    pub async fn whole(&self) -> Result<Vec<Completion>> {
        let all = |state: &mut State| (state.left == 0).then(|| state.take());
        let parts = std::future::poll_fn(|cx| self.0.poll(cx, all)).await?;
        Ok(parts.into_iter().map(|part| part.completion).collect())
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Release);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        state.wake();
    }

    /// What `ready` finds, or the request's error; otherwise the reader is woken when something has changed.
    fn poll<T>(&self, cx: &Context<'_>, ready: impl FnOnce(&mut State) -> Option<T>) -> Poll<Result<T>> {
        let mut state = self.lock();
        if let Some(failure) = &state.failure {
            return Poll::Ready(Err(failure.clone()));
        }
        match ready(&mut state) {
            Some(found) => Poll::Ready(Ok(found)),
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl State {
    fn absorb(&mut self, index: usize, event: Event) {
        self.bytes += bytes(&event);
        let finished = event.finish.is_some();
        self.left -= usize::from(finished);
        if self.left == 0 {
            self.places = None;
        }
        let new = || Part { index, completion: Completion::new(event.id), finished: false };
        let part = self.parts[index].get_or_insert_with(new);
        part.finished |= finished;
        part.completion.absorb(event);
    }

    fn take(&mut self) -> Vec<Part> {
        self.bytes = 0;
        self.parts.iter_mut().filter_map(Option::take).collect()
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// About what an event takes while it waits.
fn bytes(event: &Event) -> usize {
    let scores = event.prompt.iter().map(|score| 2 + score.top.len()).sum::<usize>() + event.top.len() + 2;
    event.text.len() + scores * size_of::<u64>() + event.vector.len() * size_of::<f32>()
}
