//! The driver: the machine's devices, and a ledger of what was asked of them.
//!
//! A process has one driver, and its functions take no argument that could carry it; tests of one program run side by side
//! and want one each. So a thread that configures one has it to itself, a thread that makes a context current gets the driver
//! of that context, and all others share one. Hence the only statics of this package: these, and the thread's current context.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};

use ptx_sim::Coverage;

use crate::config::Config;
use crate::device::{Device, State};
use crate::handle::{Handle, Id, device_of};
use crate::pinned::Pinned;
use crate::status::{Result, Status, describe};

/// Of threads that have none of their own: the default machine.
static SHARED: LazyLock<Arc<Driver>> = LazyLock::new(|| Arc::new(Driver::new(Config::default())));
/// Those that were configured and are in use.
static CONFIGURED: Mutex<Vec<Weak<Driver>>> = Mutex::new(Vec::new());

thread_local! {
    static OWN: RefCell<Option<Arc<Driver>>> = const { RefCell::new(None) };
    /// The context that calls without a handle are about; zero if there is none.
    static CURRENT: Cell<Id> = const { Cell::new(0) };
}

/// The driver at work on this thread.
pub(crate) fn driver() -> Arc<Driver> {
    own().unwrap_or_else(|| SHARED.clone())
}

/// A thread that is ending has none any more.
fn own() -> Option<Arc<Driver>> {
    OWN.try_with(|own| own.borrow().clone()).ok().flatten()
}

/// Starts a driver for this thread: everything made with the one it had is void.
pub(crate) fn configure(config: Config) {
    let driver = Arc::new(Driver::new(config));
    let mut configured = lock(&CONFIGURED);
    configured.retain(|driver| driver.strong_count() > 0);
    configured.push(Arc::downgrade(&driver));
    OWN.set(Some(driver));
}

fn configured() -> Vec<Arc<Driver>> {
    lock(&CONFIGURED).iter().filter_map(Weak::upgrade).collect()
}

/// Makes a context current, and its driver that of a thread without one.
pub(crate) fn set_current(driver: &Driver, context: Id) -> Result {
    if own().is_some() {
        return driver.set_current(context);
    }
    match configured().into_iter().find(|driver| driver.has(context)) {
        Some(driver) => {
            driver.set_current(context)?;
            OWN.set(Some(driver));
            Ok(())
        }
        None => driver.set_current(context),
    }
}

/// Locks even if another call panicked with the lock held: the mock's bugs are reported there, once.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) struct Driver {
    pub config: Config,
    devices: Vec<Device>,
    ready: AtomicBool,
    ledger: Mutex<Ledger>,
    pinned: Mutex<Pinned>,
}

impl Driver {
    fn new(config: Config) -> Self {
        // A handle has a byte for its device.
        let devices = (0..config.devices.min(255) as usize).map(|ordinal| Device::new(ordinal, config)).collect();
        Driver { config, devices, ready: AtomicBool::new(false), ledger: Mutex::default(), pinned: Mutex::default() }
    }

    pub fn init(&self) -> Result {
        if self.devices.is_empty() {
            return Err(Status::CUDA_ERROR_NO_DEVICE);
        }
        self.ready.store(true, Ordering::Relaxed);
        Ok(())
    }

    pub fn devices(&self) -> Result<&[Device]> {
        if !self.ready.load(Ordering::Relaxed) {
            return Err(Status::CUDA_ERROR_NOT_INITIALIZED);
        }
        Ok(&self.devices)
    }

    pub fn device(&self, ordinal: i32) -> Result<&Device> {
        let ordinal = usize::try_from(ordinal).map_err(|_| Status::CUDA_ERROR_INVALID_DEVICE)?;
        self.devices()?.get(ordinal).ok_or(Status::CUDA_ERROR_INVALID_DEVICE)
    }

    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }

    pub fn pinned(&self) -> MutexGuard<'_, Pinned> {
        lock(&self.pinned)
    }

    /// The current context, or none. A thread that has no driver yet may ask as soon as any was started.
    pub fn current(&self) -> Result<Id> {
        let started = own().is_none() && configured().iter().any(|driver| driver.devices().is_ok());
        if !started {
            self.devices()?;
        }
        Ok(CURRENT.get())
    }

    /// Whether a context is one of its devices'.
    fn has(&self, context: Id) -> bool {
        self.owner(context).is_ok_and(|device| device.lock().check_context(context).is_ok())
    }

    fn set_current(&self, context: Id) -> Result {
        if context != 0 {
            self.owner(context)?.lock().check_context(context)?;
        }
        CURRENT.set(context);
        Ok(())
    }

    /// The device a handle belongs to.
    pub fn owner(&self, id: Id) -> Result<&Device> {
        self.devices()?.get(device_of(id)).filter(|_| id != 0).ok_or(Status::CUDA_ERROR_INVALID_HANDLE)
    }

    /// The device of the current context.
    pub fn current_device(&self) -> Result<&Device> {
        match self.current()? {
            0 => Err(Status::CUDA_ERROR_INVALID_CONTEXT),
            context => self.owner(context),
        }
    }

    /// Works on the state of the current context, unless an earlier failure has ended it.
    pub fn here<T>(&self, f: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        let mut state = self.current_device()?.lock();
        state.check_context(self.current()?)?;
        self.within(&mut state, f)
    }

    /// Works on the state of the context that an object belongs to.
    pub fn with<T>(&self, object: Handle, f: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        self.devices()?;
        let mut state = self.owner(object.id())?.lock();
        self.within(&mut state, f)
    }

    /// The same for a stream, where null and the small numbers stand for the current context's default streams.
    pub fn on<T>(&self, stream: Handle, f: impl FnOnce(&mut State, Id) -> Result<T>) -> Result<T> {
        match stream.id() {
            0..=2 => self.here(|state| f(state, state.default_stream)),
            id => self.with(stream, |state| f(state, id)),
        }
    }

    fn within<T>(&self, state: &mut State, f: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        state.check_failure()?;
        let outcome = f(state);
        self.ledger().take(state);
        outcome
    }
}

/// A failure to come.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Planned {
    function: String,
    /// Calls until then.
    calls: u64,
    status: Status,
}

/// What was asked of the driver.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Calls of each function.
    pub calls: BTreeMap<&'static str, u64>,
    /// Launches of each kernel that ran to their end.
    pub launches: BTreeMap<String, u64>,
    /// Lines that launches executed, by kernel.
    pub coverage: BTreeMap<String, Coverage>,
    /// Why the last launch failed, as the simulator tells it.
    pub finding: Option<String>,
    planned: Vec<Planned>,
}

impl Ledger {
    /// Counts a call; an error if it was to fail.
    pub fn count(&mut self, function: &'static str) -> Result {
        *self.calls.entry(function).or_default() += 1;
        let mut outcome = Ok(());
        self.planned.retain_mut(|planned| {
            if planned.function == function {
                planned.calls -= 1;
            }
            if planned.calls == 0 {
                outcome = Err(planned.status);
            }
            planned.calls > 0
        });
        outcome
    }

    /// Makes a call of a function fail: the next one if `calls` is 1.
    pub fn plan(&mut self, function: &str, calls: u64, status: u32) -> Result {
        let (status, ..) = describe(status).filter(|_| calls > 0).ok_or(Status::CUDA_ERROR_INVALID_VALUE)?;
        self.planned.push(Planned { function: function.to_owned(), calls, status });
        Ok(())
    }

    /// Takes over what a device has noted.
    fn take(&mut self, state: &mut State) {
        for (kernel, coverage) in state.notes.launches.drain(..) {
            *self.launches.entry(kernel.clone()).or_default() += 1;
            self.coverage.entry(kernel).or_default().merge(&coverage);
        }
        if let Some(finding) = state.notes.finding.take() {
            self.finding = Some(finding);
        }
    }

    /// Forgets calls, launches, coverage and the finding, not the failures to come.
    pub fn clear(&mut self) {
        *self = Ledger { planned: std::mem::take(&mut self.planned), ..Ledger::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nth_call_fails_once() {
        let mut ledger = Ledger::default();
        ledger.plan("cuMemAlloc_v2", 2, Status::CUDA_ERROR_OUT_OF_MEMORY as u32).unwrap();
        assert_eq!(ledger.count("cuMemAlloc_v2"), Ok(()));
        assert_eq!(ledger.count("cuMemFree_v2"), Ok(()));
        assert_eq!(ledger.count("cuMemAlloc_v2"), Err(Status::CUDA_ERROR_OUT_OF_MEMORY));
        assert_eq!(ledger.count("cuMemAlloc_v2"), Ok(()));
        assert_eq!(ledger.calls["cuMemAlloc_v2"], 3);
    }

    #[test]
    fn unknown_codes_and_the_zeroth_call_are_refused() {
        let mut ledger = Ledger::default();
        assert!(ledger.plan("cuInit", 1, 123_456).is_err());
        assert!(ledger.plan("cuInit", 0, 2).is_err());
    }
}
