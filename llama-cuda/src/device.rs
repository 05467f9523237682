//! The wall to the driver: a context with one stream, memory, copies and events, as safe calls that return errors.
//!
//! libcuda is opened when it is asked for and not before, so a program that links this crate starts anywhere. Everything
//! runs on one stream in the order it was enqueued; [`Device::wait`] waits for all of it.

use std::ffi::c_void;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::{result, sys};
use llama_core::{Error, Result};

use crate::error::{driver, failed};

/// The oldest driver this crate works with: CUDA 12.0, which loads PTX 8.0.
pub const OLDEST_DRIVER: i32 = 12_000;

/// The first driver whose graphs know kernels that begin early: CUDA 12.3.
const GRAPHS_OF_EARLY_LAUNCHES: i32 = 12_030;

/// compute_90a is for Hopper alone: later devices take compute_80.
pub(crate) fn is_hopper(capability: (u32, u32)) -> bool {
    capability == (9, 0)
}

/// A GPU, as [`crate::Cuda::devices`] lists them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Number of the device, from 0.
    pub ordinal: usize,
    /// What its maker calls it.
    pub name: String,
    /// Compute capability, major and minor.
    pub capability: (u32, u32),
    /// Bytes of memory.
    pub memory: u64,
}

/// Whether libcuda is there.
pub(crate) fn has_driver() -> bool {
    // SAFETY: opening libcuda runs its initialisers, which is what asking for a GPU means.
    unsafe { sys::is_culib_present() }
}

/// Every device, or none where there is no driver.
pub(crate) fn list() -> Result<Vec<DeviceInfo>> {
    if !has_driver() {
        return Ok(Vec::new());
    }
    match result::init() {
        Err(error) if error.0 == sys::CUresult::CUDA_ERROR_NO_DEVICE => return Ok(Vec::new()),
        other => other.map_err(driver("devices"))?,
    }
    let count = result::device::get_count().map_err(driver("devices"))?;
    (0..count).map(|ordinal| info(ordinal as usize)).collect()
}

fn info(ordinal: usize) -> Result<DeviceInfo> {
    let device = result::device::get(ordinal as i32).map_err(driver("devices"))?;
    Ok(DeviceInfo {
        ordinal,
        name: result::device::get_name(device).map_err(driver("devices"))?,
        capability: capability(device)?,
        // SAFETY: `device` came from `device::get`.
        memory: unsafe { result::device::total_mem(device) }.map_err(driver("devices"))? as u64,
    })
}

fn attribute(device: sys::CUdevice, which: sys::CUdevice_attribute) -> Result<u32> {
    // SAFETY: `device` came from `device::get`.
    let value = unsafe { result::device::get_attribute(device, which) }.map_err(driver("devices"))?;
    Ok(value.max(0) as u32)
}

fn capability(device: sys::CUdevice) -> Result<(u32, u32)> {
    use sys::CUdevice_attribute_enum::{
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
    };
    Ok((attribute(device, MAJOR)?, attribute(device, MINOR)?))
}

/// What a device can do, asked once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Abilities {
    pub capability: (u32, u32),
    pub multiprocessors: u32,
    /// Whether a kernel may begin before the one ahead of it has ended: the kernels must wait by themselves, which only
    /// Hopper's set does, and a graph must be able to say so, which it can from CUDA 12.3 on.
    pub early_launch: bool,
    /// Bytes of shared memory that a block can have.
    pub shared: u32,
    /// Whether blocks of a launch may wait for each other.
    pub cooperative: bool,
}

/// A device's context and stream.
pub(crate) struct Device {
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    pub abilities: Abilities,
    /// Loaded PTX. It goes when the device does, after every graph of its kernels.
    modules: Mutex<Vec<sys::CUmodule>>,
    /// Held while launches are recorded: to wait for the stream would spoil the recording.
    recording: Mutex<()>,
}

// SAFETY: context and stream are handles that the driver lets any thread use, at once too; every call that needs the context
// makes it the calling thread's first.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

impl Device {
    /// Opens device `ordinal`.
    pub fn open(ordinal: usize) -> Result<Arc<Self>> {
        if !has_driver() {
            return Err(failed("open", "there is no NVIDIA driver (libcuda) on this machine; use the CPU backend"));
        }
        let devices = list()?;
        if ordinal >= devices.len() {
            return Err(Error::parameter(
                "CUDA device",
                ordinal,
                format!("this machine has {} of them", devices.len()),
            ));
        }
        let driver_version = driver_version()?;
        let device = result::device::get(ordinal as i32).map_err(driver("open"))?;
        let abilities = abilities(device, driver_version)?;
        if abilities.capability < (8, 0) {
            let (major, minor) = abilities.capability;
            let problem = format!("{} has compute capability {major}.{minor}; 8.0 is needed", devices[ordinal].name);
            return Err(failed("open", problem));
        }
        // SAFETY: `device` came from `device::get`; the context is released once, when this is dropped.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(driver("open"))?;
        let mut opened = Device {
            device,
            context,
            stream: std::ptr::null_mut(),
            abilities,
            modules: Mutex::default(),
            recording: Mutex::default(),
        };
        opened.enter()?;
        opened.stream = result::stream::create(result::stream::StreamKind::NonBlocking).map_err(driver("open"))?;
        Ok(Arc::new(opened))
    }

    /// Makes this the calling thread's context.
    pub fn enter(&self) -> Result<()> {
        // SAFETY: the context is retained until this is dropped.
        unsafe { result::ctx::set_current(self.context) }.map_err(driver("context"))
    }

    pub fn stream(&self) -> sys::CUstream {
        self.stream
    }

    /// Waits until everything enqueued has run; an error of any of it shows here at the latest.
    pub fn wait(&self, verb: &'static str) -> Result<()> {
        // SAFETY: the stream lives as long as this.
        unsafe { result::stream::synchronize(self.stream) }.map_err(driver(verb))
    }

    /// Keeps anybody who drops memory waiting until the guard is dropped.
    pub fn recording(&self) -> MutexGuard<'_, ()> {
        self.recording.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a module over, to unload it when nothing can use it any more.
    pub fn keep_module(&self, module: sys::CUmodule) {
        self.modules.lock().unwrap_or_else(PoisonError::into_inner).push(module);
    }

    /// Waits until nothing enqueued uses what is about to be dropped. An error has nobody left to tell.
    fn settle(&self) {
        let _recording = self.recording();
        let _ = self.enter();
        let _ = self.wait("drop");
    }

    /// Bytes of device memory that are free.
    pub fn free_memory(&self) -> Result<u64> {
        self.enter()?;
        result::mem_get_info().map(|(free, _)| free as u64).map_err(driver("memory"))
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.settle();
        let modules = std::mem::take(self.modules.get_mut().unwrap_or_else(PoisonError::into_inner));
        // SAFETY: modules and stream were made once and go once, after everything that uses them; so is the context
        // released.
        unsafe {
            for module in modules {
                let _ = result::module::unload(module);
            }
            if !self.stream.is_null() {
                let _ = result::stream::destroy(self.stream);
            }
            let _ = result::primary_ctx::release(self.device);
        }
    }
}

/// The driver's version, if it is not too old.
fn driver_version() -> Result<i32> {
    let mut version = 0;
    // SAFETY: the library is present and `version` outlives the call.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result().map_err(driver("open"))?;
    if version < OLDEST_DRIVER {
        let (major, minor) = (version / 1000, version % 1000 / 10);
        return Err(failed("open", format!("the driver is for CUDA {major}.{minor}; 12.0 or later is needed (R525)")));
    }
    Ok(version)
}

fn abilities(device: sys::CUdevice, driver_version: i32) -> Result<Abilities> {
    use sys::CUdevice_attribute_enum as Ask;
    let capability = capability(device)?;
    Ok(Abilities {
        capability,
        early_launch: is_hopper(capability) && driver_version >= GRAPHS_OF_EARLY_LAUNCHES,
        multiprocessors: attribute(device, Ask::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        shared: attribute(device, Ask::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        cooperative: attribute(device, Ask::CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH)? != 0,
    })
}

/// A block of device memory, freed when its last user is gone.
pub(crate) struct Block {
    device: Arc<Device>,
    address: u64,
    bytes: u64,
}

impl Block {
    /// `bytes` of memory, or `None` where the device has not so much.
    pub fn new(device: &Arc<Device>, bytes: u64) -> Result<Option<Self>> {
        device.enter()?;
        // SAFETY: nothing reads the memory before somebody has written it, and it is freed once.
        match unsafe { result::malloc_sync(bytes.max(1) as usize) } {
            Ok(address) => Ok(Some(Block { device: device.clone(), address, bytes })),
            Err(error) if error.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => Ok(None),
            Err(error) => Err(driver("memory")(error)),
        }
    }

    pub fn address(&self) -> u64 {
        self.address
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.device.settle();
        // SAFETY: allocated by `new`, freed once, and nothing enqueued uses it any more.
        let _ = unsafe { result::free_sync(self.address) };
    }
}

/// Part of a [`Block`]: where tensors, weights and caches lie.
#[derive(Clone)]
pub(crate) struct Span {
    block: Arc<Block>,
    address: u64,
    bytes: u64,
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..{:#x}", self.address, self.address + self.bytes)
    }
}

impl Span {
    /// `bytes` of `block`, `offset` bytes into it.
    pub fn new(block: &Arc<Block>, offset: u64, bytes: u64) -> Self {
        assert!(offset + bytes <= block.bytes(), "{offset} + {bytes} bytes of {}", block.bytes());
        Span { block: block.clone(), address: block.address() + offset, bytes }
    }

    pub fn address(&self) -> u64 {
        self.address
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn device(&self) -> &Device {
        &self.block.device
    }

    fn check(&self, offset: u64, bytes: usize) {
        assert!(offset + bytes as u64 <= self.bytes, "{offset} + {bytes} bytes of {}", self.bytes);
    }

    /// Sets every byte to zero, in stream order.
    pub fn clear(&self) -> Result<()> {
        self.device().enter()?;
        // SAFETY: the span lies inside a living block.
        unsafe { result::memset_d8_async(self.address, 0, self.bytes as usize, self.device().stream) }
            .map_err(driver("memory"))
    }

    /// Copies `data` to `offset` and waits for it.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.check(offset, data.len());
        self.device().enter()?;
        let stream = self.device().stream;
        // SAFETY: the bytes lie inside a living block, and `data` outlives the copy, which is waited for.
        unsafe { result::memcpy_htod_async(self.address + offset, data, stream) }.map_err(driver("write"))?;
        self.device().wait("write")
    }

    /// Starts to copy the first `bytes` of `from` to `offset`. `from` is left alone until an [`Event`] after it has passed.
    pub fn write_from(&self, offset: u64, from: &Pinned, bytes: usize) -> Result<()> {
        self.check(offset, bytes);
        self.device().enter()?;
        let data = &from.bytes()[..bytes];
        // SAFETY: the bytes lie inside a living block; pinned memory is freed only after the stream is through.
        unsafe { result::memcpy_htod_async(self.address + offset, data, self.device().stream) }.map_err(driver("write"))
    }

    /// Reads `out` from `offset` after everything enqueued before.
    pub fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.check(offset, out.len());
        self.device().enter()?;
        let stream = self.device().stream;
        // SAFETY: the bytes lie inside a living block, and `out` outlives the copy, which is waited for.
        unsafe { result::memcpy_dtoh_async(out, self.address + offset, stream) }.map_err(driver("read"))?;
        self.device().wait("read")
    }
}

/// Page-locked memory of the host, which the device copies from on its own.
pub(crate) struct Pinned {
    device: Arc<Device>,
    data: *mut u8,
    bytes: usize,
}

// SAFETY: the memory belongs to this value alone, whichever thread has it.
unsafe impl Send for Pinned {}

impl Pinned {
    pub fn new(device: &Arc<Device>, bytes: usize) -> Result<Self> {
        device.enter()?;
        // SAFETY: freed once, by drop; zeroed below, so that it may be lent as a slice.
        let data = unsafe { result::malloc_host(bytes.max(1), 0) }.map_err(|error| match error.0 {
            sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                Error::refused("page-locked memory", bytes as u64, "the tokens of a step (chunk)")
            }
            _ => driver("memory")(error),
        })?;
        // SAFETY: the allocation has at least `bytes` bytes.
        unsafe { std::ptr::write_bytes(data.cast::<u8>(), 0, bytes) };
        Ok(Pinned { device: device.clone(), data: data.cast(), bytes })
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `bytes` initialised bytes that live until drop; the device only reads them.
        unsafe { std::slice::from_raw_parts(self.data, self.bytes) }
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` makes it the only slice.
        unsafe { std::slice::from_raw_parts_mut(self.data, self.bytes) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.device.settle();
        // SAFETY: allocated by `new`, freed once, and no copy from it is under way.
        let _ = unsafe { result::free_host(self.data.cast::<c_void>()) };
    }
}

/// A point in the stream that the host can wait for.
pub(crate) struct Event {
    device: Arc<Device>,
    event: sys::CUevent,
}

// SAFETY: a handle that the driver lets any thread use.
unsafe impl Send for Event {}

impl Event {
    pub fn new(device: &Arc<Device>) -> Result<Self> {
        device.enter()?;
        let event = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING).map_err(driver("event"))?;
        Ok(Event { device: device.clone(), event })
    }

    /// Moves the event to the end of what is enqueued.
    pub fn record(&self) -> Result<()> {
        self.device.enter()?;
        // SAFETY: event and stream live.
        unsafe { result::event::record(self.event, self.device.stream) }.map_err(driver("event"))
    }

    /// Waits until the stream has passed it; at once if it was never recorded.
    pub fn wait(&self) -> Result<()> {
        self.device.enter()?;
        // SAFETY: the event lives.
        unsafe { result::event::synchronize(self.event) }.map_err(driver("event"))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        let _ = self.device.enter();
        // SAFETY: made by `new`, destroyed once.
        let _ = unsafe { result::event::destroy(self.event) };
    }
}
