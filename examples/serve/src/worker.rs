//! The thread that owns the engine: it takes orders in, steps, and puts what happened into mailboxes. It waits for nobody but
//! new orders, and only when there is nothing to do.
//!
//! Before each step it cancels what nobody wants any more, so whoever goes away frees his blocks within a step. A step that
//! fails ends what was on its way; the next step is free to succeed. A panic leaves an engine that nobody can vouch for: it is let
//! go, all orders from then on are refused, and `/health` says why.

use std::any::Any;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::thread;

use llama_core::engine::{Embed, Engine, Event, Request, SequenceId, Stats};

use tokio::sync::oneshot;

use crate::adapters::Change;
use crate::board::{Board, Count};
use crate::error::{ApiError, Result};
use crate::mailbox::Sender;
use crate::served::Served;

/// What one sequence is to do.
pub enum Task {
    /// Continue a prompt.
    Generate(Box<Request>),
    /// Give a prompt's vector.
    Embed(Embed),
    /// Give the scores of the model's labels for a prompt.
    Classify(Vec<u32>),
}

/// What comes to the engine's thread.
pub enum Order {
    /// A request.
    Job(Job),
    /// An adapter that comes or goes, and where to tell whether it did.
    Change(Change, oneshot::Sender<Result<()>>),
}

/// A request on its way to the engine.
pub struct Job {
    /// Its sequences.
    pub tasks: Vec<Task>,
    /// Where to tell of them.
    pub sender: Sender,
}

/// The engine and what it is at.
pub struct Worker {
    engine: Engine,
    orders: Receiver<Order>,
    served: Arc<Served>,
    active: HashMap<SequenceId, Active>,
    board: Arc<Board>,
    /// Empty between steps.
    events: Vec<Event>,
}

/// A sequence in the engine.
struct Active {
    sender: Arc<Sender>,
    /// Which of its request's sequences.
    index: usize,
}

impl Task {
    /// Tokens of the prompt.
    pub fn prompt_tokens(&self) -> usize {
        match self {
            Task::Generate(request) => request.prompt.len(),
            Task::Embed(embed) => embed.prompt.len(),
            Task::Classify(prompt) => prompt.len(),
        }
    }
}

impl Worker {
    /// A worker that takes orders from `orders`, writes its figures on `board`, and in `served` which adapters there are.
    pub fn new(engine: Engine, orders: Receiver<Order>, board: Arc<Board>, served: Arc<Served>) -> Self {
        board.stepped(engine.stats());
        Worker { engine, orders, served, active: HashMap::new(), board, events: Vec::new() }
    }

    /// Works until nobody can send orders any more and all are done.
    pub fn run(mut self) {
        loop {
            match catch_unwind(AssertUnwindSafe(|| self.turn())) {
                Ok(true) => {}
                Ok(false) => return,
                Err(panic) => return self.refuse_all(&*panic),
            }
        }
    }

    /// Takes in what has come, drops what has gone, and steps. False if there will be nothing more to do.
    fn turn(&mut self) -> bool {
        if !self.take_orders() {
            return false;
        }
        if self.board.abort.load(Ordering::Relaxed) {
            self.fail_all(&ApiError::unavailable("the server is shutting down"));
        }
        self.drop_the_gone();
        self.step();
        true
    }

    /// Waits for an order only where nothing else is to be done.
    fn take_orders(&mut self) -> bool {
        if self.active.is_empty() && self.engine.is_idle() {
            match self.orders.recv() {
                Ok(order) => self.take(order),
                Err(_) => return false,
            }
        }
        while let Ok(order) = self.orders.try_recv() {
            self.take(order);
        }
        true
    }

    fn take(&mut self, order: Order) {
        match order {
            Order::Job(job) => self.start(job),
            Order::Change(change, reply) => {
                let done = change.apply(&mut self.engine);
                self.served.update(&self.engine);
                // Whoever asked may be gone; it is done all the same.
                let _ = reply.send(done);
            }
        }
    }

    /// Submits all of a job, or nothing of it.
    fn start(&mut self, Job { tasks, sender }: Job) {
        let sender = Arc::new(sender);
        let prompts = tasks.iter().map(Task::prompt_tokens).sum();
        let mut ids = Vec::with_capacity(tasks.len());
        for task in tasks {
            let id = match task {
                Task::Generate(request) => self.engine.submit(*request),
                Task::Embed(embed) => self.engine.submit_embed(embed),
                Task::Classify(prompt) => self.engine.submit_classify(prompt),
            };
            match id {
                Ok(id) => ids.push(id),
                Err(error) => {
                    for id in ids {
                        self.engine.cancel(id);
                    }
                    return sender.fail(error.into());
                }
            }
        }
        self.board.count(Count::PromptTokens, prompts);
        sender.accept();
        let active = ids.into_iter().enumerate().map(|(index, id)| (id, Active { sender: sender.clone(), index }));
        self.active.extend(active);
    }

    fn drop_the_gone(&mut self) {
        let (engine, board) = (&mut self.engine, &self.board);
        self.active.retain(|&id, active| {
            let over = active.sender.is_over();
            if over {
                engine.cancel(id);
                board.count(Count::Cancelled, 1);
            }
            !over
        });
    }

    /// Runs a step and tells of it: on the board first, so that whoever has an answer finds it counted there. What a step
    /// failed with ends everything on its way.
    fn step(&mut self) {
        let step = self.engine.step().map(|events| self.events.extend(events));
        match step {
            Ok(()) => {
                self.board.stepped(self.engine.stats());
                self.events.drain(..).for_each(|event| tell(&mut self.active, &self.board, event));
            }
            Err(error) => self.end_all(&format!("a step of the engine failed: {error}")),
        }
    }

    fn end_all(&mut self, trouble: &str) {
        self.board.count(Count::StepsFailed, 1);
        for &id in self.active.keys() {
            self.engine.cancel(id);
        }
        self.board.failed(self.engine.stats(), trouble);
        self.fail_all(&ApiError::internal(trouble));
    }

    fn fail_all(&mut self, error: &ApiError) {
        for (id, active) in self.active.drain() {
            self.engine.cancel(id);
            active.sender.fail(error.clone());
        }
    }

    /// Lets the engine go and answers every job with an error.
    fn refuse_all(self, panic: &(dyn Any + Send)) {
        let why = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        let trouble = format!("the engine panicked ({}); restart the server", why.unwrap_or("without a message"));
        let Worker { engine, orders, active, board, .. } = self;
        let stats = Stats { running: 0, waiting: 0, blocks_used: 0, ..board.stats() };
        board.failed(stats, &trouble);
        let error = ApiError::internal(&trouble);
        active.into_values().for_each(|active| active.sender.fail(error.clone()));
        let_go(engine);
        while let Ok(order) = orders.recv() {
            let error = ApiError::unavailable(&trouble);
            match order {
                Order::Job(job) => job.sender.fail(error),
                Order::Change(_, reply) => drop(reply.send(Err(error))),
            }
        }
    }
}

/// Other ranks that the engine leads wait until it is gone. Whether it goes nobody can vouch for either, so nobody waits for that.
fn let_go(engine: Engine) {
    // Where there is no thread to be had, the engine is dropped with what the thread would have done.
    let _ = thread::Builder::new().name("engine's end".into()).spawn(move || drop(engine));
}

/// Puts an event where it belongs. One of a sequence that was cancelled belongs nowhere.
fn tell(active: &mut HashMap<SequenceId, Active>, board: &Board, event: Event) {
    let id = event.id;
    let Some(Active { sender, index }) = active.get(&id) else { return };
    board.count(Count::GeneratedTokens, usize::from(event.token.is_some()));
    let ended = event.finish.is_some();
    if !sender.put(*index, event) {
        board.count(Count::Overrun, 1);
    }
    if ended {
        active.remove(&id);
    }
}
