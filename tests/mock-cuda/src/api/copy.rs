//! Copies and fills, in stream order and at once.
//!
//! From memory that is not pinned the driver takes the bytes before it returns, and it does not return before bytes are in memory that
//! is not pinned (CUDA driver API, "API synchronization behavior"). Only pinned memory is read and written in the stream's time;
//! and a copy in a graph reads and writes when the graph is launched, whatever the memory.

use std::ffi::c_uint;

use crate::arguments::HostMemory;
use crate::call::exports;
use crate::device::{State, find};
use crate::driver::Driver;
use crate::handle::{Handle, Id};
use crate::status::{Result, Status};
use crate::work::{Pattern, Source, Work};

/// The null stream.
const DEFAULT: Handle = Handle(std::ptr::null_mut());

fn upload(driver: &Driver, to: u64, from: HostMemory, bytes: usize, stream: Handle) -> Result {
    from.check(bytes)?;
    let pinned = driver.pinned().holds(from, bytes);
    driver.on(stream, |state, stream| {
        check_device(state, to, bytes)?;
        let captured = find(&state.streams, stream)?.capture.is_some();
        let from = if pinned || captured { Source::Later(from, bytes) } else { Source::Now(from.read(bytes)?) };
        state.submit(stream, Work::Upload { to, from })
    })
}

fn download(driver: &Driver, to: HostMemory, from: u64, bytes: usize, stream: Handle) -> Result {
    to.check(bytes)?;
    let pinned = driver.pinned().holds(to, bytes);
    driver.on(stream, |state, stream| {
        check_device(state, from, bytes)?;
        state.submit(stream, Work::Download { to, from, bytes })?;
        let captured = find(&state.streams, stream)?.capture.is_some();
        if pinned || captured { Ok(()) } else { state.finish(stream) }
    })
}

fn copy(state: &mut State, stream: Id, to: u64, from: u64, bytes: usize) -> Result {
    check_device(state, to, bytes)?;
    check_device(state, from, bytes)?;
    state.submit(stream, Work::Copy { to, from, bytes })
}

fn fill(driver: &Driver, at: u64, pattern: Pattern, count: usize, stream: Handle) -> Result {
    let bytes = count.checked_mul(pattern.width()).ok_or(Status::CUDA_ERROR_INVALID_VALUE)?;
    driver.on(stream, |state, stream| {
        check_device(state, at, bytes)?;
        if !at.is_multiple_of(pattern.width() as u64) {
            return Err(Status::CUDA_ERROR_INVALID_VALUE);
        }
        state.submit(stream, Work::Fill { at, pattern, count })
    })
}

/// Copies outside every allocation, or past the end of one, are refused at once.
fn check_device(state: &State, address: u64, bytes: usize) -> Result {
    if state.memory.holds(address, bytes) { Ok(()) } else { Err(Status::CUDA_ERROR_INVALID_VALUE) }
}

/// Does something in the default stream and waits for it.
fn at_once(driver: &Driver, work: impl FnOnce() -> Result) -> Result {
    driver.here(State::outside_captures)?;
    work()?;
    driver.on(DEFAULT, State::finish)
}

exports! {
    /// Host to device.
    fn cuMemcpyHtoD_v2(to: u64, from: HostMemory, bytes: usize) |driver| {
        at_once(driver, || upload(driver, to, from, bytes, DEFAULT))
    }

    /// The same in stream order.
    fn cuMemcpyHtoDAsync_v2(to: u64, from: HostMemory, bytes: usize, stream: Handle) |driver| {
        upload(driver, to, from, bytes, stream)
    }

    /// Device to host.
    fn cuMemcpyDtoH_v2(to: HostMemory, from: u64, bytes: usize) |driver| {
        at_once(driver, || download(driver, to, from, bytes, DEFAULT))
    }

    /// The same in stream order.
    fn cuMemcpyDtoHAsync_v2(to: HostMemory, from: u64, bytes: usize, stream: Handle) |driver| {
        download(driver, to, from, bytes, stream)
    }

    /// Device to device, in stream order even so.
    fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) |driver| {
        driver.here(State::outside_captures)?;
        driver.on(DEFAULT, |state, stream| copy(state, stream, to, from, bytes))
    }

    /// The same.
    fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: Handle) |driver| {
        driver.on(stream, |state, stream| copy(state, stream, to, from, bytes))
    }

    /// Fills with bytes.
    fn cuMemsetD8_v2(at: u64, value: u8, count: usize) |driver| {
        at_once(driver, || fill(driver, at, Pattern::new(value.into(), 1), count, DEFAULT))
    }

    /// The same in stream order.
    fn cuMemsetD8Async(at: u64, value: u8, count: usize, stream: Handle) |driver| {
        fill(driver, at, Pattern::new(value.into(), 1), count, stream)
    }

    /// Fills with pairs of bytes, in stream order.
    fn cuMemsetD16Async(at: u64, value: u16, count: usize, stream: Handle) |driver| {
        fill(driver, at, Pattern::new(value.into(), 2), count, stream)
    }

    /// Fills with words.
    fn cuMemsetD32_v2(at: u64, value: c_uint, count: usize) |driver| {
        at_once(driver, || fill(driver, at, Pattern::new(value, 4), count, DEFAULT))
    }

    /// The same in stream order.
    fn cuMemsetD32Async(at: u64, value: c_uint, count: usize, stream: Handle) |driver| {
        fill(driver, at, Pattern::new(value, 4), count, stream)
    }
}
