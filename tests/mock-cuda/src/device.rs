//! A device: the state its one lock guards, and the life of its primary context.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use ptx_sim::Coverage;

use crate::capture::{Capture, Graph};
use crate::config::Config;
use crate::driver::lock;
use crate::event::Event;
use crate::handle::{Id, fresh};
use crate::memory::Memory;
use crate::module::{Function, Loaded};
use crate::status::{Result, Status};
use crate::stream::Stream;

pub(crate) struct Device {
    pub ordinal: usize,
    state: Mutex<State>,
}

impl Device {
    pub fn new(ordinal: usize, config: Config) -> Self {
        Device { ordinal, state: Mutex::new(State::new(ordinal, config)) }
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// What happened on the device since the ledger was last written.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    /// Launches that ran to their end.
    pub launches: Vec<(String, Coverage)>,
    /// Why a launch failed.
    pub finding: Option<String>,
}

pub(crate) struct State {
    pub ordinal: usize,
    pub config: Config,
    /// The primary context and how often it was retained; zero if nobody did.
    context: Id,
    retained: usize,
    /// A failure of work on the device. It ends the context: from then on every call returns it.
    failure: Option<Status>,
    pub memory: Memory,
    pub default_stream: Id,
    pub streams: BTreeMap<Id, Stream>,
    pub events: BTreeMap<Id, Event>,
    pub modules: BTreeMap<Id, Arc<Loaded>>,
    pub functions: BTreeMap<Id, Arc<Function>>,
    pub captures: BTreeMap<Id, Capture>,
    pub graphs: BTreeMap<Id, Graph>,
    /// Graphs made ready for launching.
    pub executables: BTreeMap<Id, Graph>,
    pub notes: Notes,
}

impl State {
    fn new(ordinal: usize, config: Config) -> Self {
        State {
            ordinal,
            config,
            context: 0,
            retained: 0,
            failure: None,
            memory: Memory::new(config.memory),
            default_stream: 0,
            streams: BTreeMap::new(),
            events: BTreeMap::new(),
            modules: BTreeMap::new(),
            functions: BTreeMap::new(),
            captures: BTreeMap::new(),
            graphs: BTreeMap::new(),
            executables: BTreeMap::new(),
            notes: Notes::default(),
        }
    }

    /// The primary context, made if it is not there.
    pub fn retain(&mut self) -> Id {
        if self.retained == 0 {
            self.context = fresh(self.ordinal);
            self.default_stream = fresh(self.ordinal);
            self.streams.insert(self.default_stream, Stream::new(true));
        }
        self.retained += 1;
        self.context
    }

    /// The last release destroys the context with all its objects, and with its failure.
    pub fn release(&mut self) -> Result {
        match self.retained {
            0 => return Err(Status::CUDA_ERROR_INVALID_CONTEXT),
            1 => *self = State { notes: std::mem::take(&mut self.notes), ..State::new(self.ordinal, self.config) },
            _ => self.retained -= 1,
        }
        Ok(())
    }

    pub fn is_active(&self) -> bool {
        self.retained > 0
    }

    pub fn check_context(&self, context: Id) -> Result {
        if context == self.context && self.retained > 0 { Ok(()) } else { Err(Status::CUDA_ERROR_CONTEXT_IS_DESTROYED) }
    }

    pub fn check_failure(&self) -> Result {
        self.failure.map_or(Ok(()), Err)
    }

    /// Work failed: the context is lost, and `why` is told.
    pub fn fail(&mut self, status: Status, why: String) {
        eprintln!("mock-cuda: device {}: {why}", self.ordinal);
        self.failure = Some(status);
        self.notes.finding = Some(why);
    }
}

/// The object a handle stands for.
pub(crate) fn find<T>(objects: &BTreeMap<Id, T>, id: Id) -> Result<&T> {
    objects.get(&id).ok_or(Status::CUDA_ERROR_INVALID_HANDLE)
}

/// The same, to change it.
pub(crate) fn find_mut<T>(objects: &mut BTreeMap<Id, T>, id: Id) -> Result<&mut T> {
    objects.get_mut(&id).ok_or(Status::CUDA_ERROR_INVALID_HANDLE)
}

/// Takes an object out.
pub(crate) fn take<T>(objects: &mut BTreeMap<Id, T>, id: Id) -> Result<T> {
    objects.remove(&id).ok_or(Status::CUDA_ERROR_INVALID_HANDLE)
}
