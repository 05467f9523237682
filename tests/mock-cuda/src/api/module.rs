//! Modules and their functions.

use std::ffi::{c_int, c_uint, c_void};

use crate::arguments::{Array, HostMemory, Out, Text};
use crate::call::exports;
use crate::device::find;
use crate::driver::Driver;
use crate::handle::{Handle, Id};
use crate::limits::Limits;
use crate::module::{Function, Refusal, load};
use crate::status::{Result, Status};

/// `CUjit_option`: where to write why a text was refused, and how much.
const ERROR_LOG: c_uint = 5;
const ERROR_LOG_BYTES: c_uint = 6;

fn add(driver: &Driver, image: Text) -> Result<Id, Refusal> {
    let plain = |status| Refusal { status, log: String::new() };
    driver.here(|state| state.outside_captures()).map_err(plain)?;
    let loaded = load(image.bytes().map_err(plain)?, &driver.config)?;
    driver.here(|state| Ok(state.add_module(loaded))).map_err(plain)
}

/// Writes a log where the options want it, terminated, and the number of bytes written over the size that was given.
fn write_log(log: &str, options: &[c_uint], values: &[*mut c_void], places: HostMemory) -> Result {
    let find = |option| options.iter().position(|o| *o == option);
    let (Some(buffer), Some(size)) = (find(ERROR_LOG), find(ERROR_LOG_BYTES)) else { return Ok(()) };
    // The size is passed in place of a pointer, 32 bits of it.
    let room = values[size].addr() as u32 as usize;
    let mut bytes = log.as_bytes()[..log.len().min(room.saturating_sub(1))].to_vec();
    if room > 0 {
        bytes.push(0);
        HostMemory::of(values[buffer]).write(&bytes)?;
    }
    places.at(size * size_of::<usize>()).write(&bytes.len().to_ne_bytes())
}

/// `CUfunction_attribute`. Registers are what `ptxas` decides, so the mock has no number for them.
fn attribute(function: &Function, driver: &Driver, attribute: c_int) -> Result<c_int> {
    let capability = driver.config.capability;
    match attribute {
        0 => Ok(function.most_threads.min(Limits::THREADS_PER_BLOCK) as c_int),
        1 => Ok(function.static_shared as c_int),
        5 => Ok((function.module.version.0 * 10 + function.module.version.1) as c_int),
        6 => Ok((capability.major * 10 + capability.minor) as c_int),
        MOST_DYNAMIC_SHARED => Ok(function.most_dynamic_shared() as c_int),
        _ => Err(Status::CUDA_ERROR_NOT_SUPPORTED),
    }
}

const MOST_DYNAMIC_SHARED: c_int = 8;
/// How to split L1 and shared memory: a hint.
const CARVEOUT: c_int = 9;

exports! {
    /// Loads PTX.
    fn cuModuleLoadData(module: Out<Handle>, image: Text) |driver| match add(driver, image) {
        Ok(id) => module.set(Handle::of(id)),
        Err(refusal) => Err(refusal.status),
    }

    /// Loads PTX with options, of which the error log is heeded.
    fn cuModuleLoadDataEx(
        module: Out<Handle>,
        image: Text,
        count: c_uint,
        options: Array<c_uint>,
        values: HostMemory,
    ) |driver| {
        let options = options.read(count as usize)?;
        let given = values.words(count as usize)?;
        match add(driver, image) {
            Ok(id) => {
                write_log("", &options, &given, values)?;
                module.set(Handle::of(id))
            }
            Err(refusal) => {
                write_log(&refusal.log, &options, &given, values)?;
                Err(refusal.status)
            }
        }
    }

    /// Unloads a module.
    fn cuModuleUnload(module: Handle) |driver| driver.with(module, |state| {
        state.outside_captures()?;
        state.finish_all()?;
        state.unload_module(module.id())
    })

    /// A kernel of a module.
    fn cuModuleGetFunction(function: Out<Handle>, module: Handle, name: Text) |driver| {
        function.set(Handle::of(driver.with(module, |state| state.function(module.id(), name.str()?))?))
    }

    /// A variable of a module: the mock keeps none between launches.
    fn cuModuleGetGlobal_v2(_address: Out<u64>, _bytes: Out<usize>, _module: Handle, _name: Text) |_| {
        Err(Status::CUDA_ERROR_NOT_SUPPORTED)
    }

    /// What a function needs and may have.
    fn cuFuncGetAttribute(value: Out<c_int>, which: c_int, function: Handle) |driver| {
        let found = driver.with(function, |state| find(&state.functions, function.id()).cloned())?;
        value.set(attribute(&found, driver, which)?)
    }

    /// What it may have.
    fn cuFuncSetAttribute(function: Handle, which: c_int, value: c_int) |driver| {
        let found = driver.with(function, |state| find(&state.functions, function.id()).cloned())?;
        match which {
            MOST_DYNAMIC_SHARED => found.allow_dynamic_shared(value, &Limits::of(driver.config.capability)),
            CARVEOUT => Ok(()),
            _ => Err(Status::CUDA_ERROR_INVALID_VALUE),
        }
    }

    /// Prefers L1 or shared memory: a hint.
    fn cuFuncSetCacheConfig(function: Handle, _config: c_uint) |driver| {
        driver.with(function, |state| find(&state.functions, function.id()).map(drop))
    }
}
