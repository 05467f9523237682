//! Allocations, on the device and pinned on the host.

use std::ffi::{c_int, c_uint, c_void};

use crate::arguments::{HostMemory, Out};
use crate::call::exports;
use crate::device::State;
use crate::driver::Driver;
use crate::handle::{Handle, fresh};
use crate::status::{Result, Status};
use crate::work::Work;

/// An allocation in stream order. The address is there at once; what the stream does before does not matter to a new one.
fn alloc_in_order(driver: &Driver, stream: Handle, bytes: usize) -> Result<u64> {
    driver.on(stream, |state, stream| {
        state.uncaptured(stream)?;
        state.memory.alloc(bytes)
    })
}

fn outside_captures(state: &mut State) -> Result<&mut State> {
    state.outside_captures()?;
    Ok(state)
}

exports! {
    /// Allocates memory of the current device.
    fn cuMemAlloc_v2(address: Out<u64>, bytes: usize) |driver| {
        address.set(driver.here(|state| outside_captures(state)?.memory.alloc(bytes))?)
    }

    /// Frees it, once all work is done.
    fn cuMemFree_v2(address: u64) |driver| driver.here(|state| {
        outside_captures(state)?.finish_all()?;
        if address == 0 { Ok(()) } else { state.memory.free(address) }
    })

    /// Allocates memory when a stream gets there.
    fn cuMemAllocAsync(address: Out<u64>, bytes: usize, stream: Handle) |driver| {
        address.set(alloc_in_order(driver, stream, bytes)?)
    }

    /// Frees it when a stream gets there.
    fn cuMemFreeAsync(address: u64, stream: Handle) |driver| driver.on(stream, |state, stream| {
        if !state.memory.is_allocated(address) {
            return Err(Status::CUDA_ERROR_INVALID_VALUE);
        }
        state.submit(stream, Work::Free(address))
    })

    /// Free and total memory of the current device.
    fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) |driver| {
        free.set(driver.here(|state| Ok(state.memory.free_bytes()))? as usize)?;
        total.set(driver.config.memory as usize)
    }

    /// Allocates pinned memory.
    fn cuMemHostAlloc(memory: Out<*mut c_void>, bytes: usize, _flags: c_uint) |driver| {
        driver.here(|state| outside_captures(state).map(drop))?;
        memory.set(driver.pinned().alloc(bytes)?.pointer())
    }

    /// The same.
    fn cuMemAllocHost_v2(memory: Out<*mut c_void>, bytes: usize) |driver| {
        driver.here(|state| outside_captures(state).map(drop))?;
        memory.set(driver.pinned().alloc(bytes)?.pointer())
    }

    /// Frees it, once all work is done.
    fn cuMemFreeHost(memory: HostMemory) |driver| {
        driver.here(|state| outside_captures(state)?.finish_all())?;
        driver.pinned().free(memory)
    }

    /// Pins memory of the caller's.
    fn cuMemHostRegister_v2(memory: HostMemory, bytes: usize, _flags: c_uint) |driver| {
        driver.here(|state| outside_captures(state).map(drop))?;
        driver.pinned().register(memory, bytes)
    }

    /// Undoes that, once all work is done.
    fn cuMemHostUnregister(memory: HostMemory) |driver| {
        driver.here(|state| outside_captures(state)?.finish_all())?;
        driver.pinned().unregister(memory)
    }

    /// The pool that stream-ordered allocations come from.
    fn cuDeviceGetDefaultMemPool(pool: Out<Handle>, device: c_int) |driver| {
        pool.set(Handle::of(fresh(driver.device(device)?.ordinal)))
    }

    /// The same.
    fn cuDeviceGetMemPool(pool: Out<Handle>, device: c_int) |driver| {
        pool.set(Handle::of(fresh(driver.device(device)?.ordinal)))
    }

    /// Tunes a pool, which changes nothing here.
    fn cuMemPoolSetAttribute(_pool: Handle, _attribute: c_uint, _value: HostMemory) |driver| driver.devices().map(drop)

    /// Gives back what a pool keeps: nothing.
    fn cuMemPoolTrimTo(_pool: Handle, _keep: usize) |driver| driver.devices().map(drop)
}
