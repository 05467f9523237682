//! Events.

use std::ffi::c_uint;

use crate::arguments::Out;
use crate::call::exports;
use crate::device::{find, take};
use crate::handle::Handle;
use crate::status::Status;

/// `CU_EVENT_DISABLE_TIMING`.
const UNTIMED: c_uint = 2;

exports! {
    /// Makes an event.
    fn cuEventCreate(event: Out<Handle>, flags: c_uint) |driver| {
        event.set(Handle::of(driver.here(|state| Ok(state.create_event(flags & UNTIMED == 0)))?))
    }

    /// Destroys it.
    fn cuEventDestroy_v2(event: Handle) |driver| {
        driver.with(event, |state| take(&mut state.events, event.id()).map(drop))
    }

    /// Records it in a stream.
    fn cuEventRecord(event: Handle, stream: Handle) |driver| {
        driver.on(stream, |state, stream| state.record_event(event.id(), stream))
    }

    /// Waits for it.
    fn cuEventSynchronize(event: Handle) |driver| driver.with(event, |state| {
        find(&state.events, event.id())?;
        state.outside_captures()?;
        if let Some(marker) = state.marker_of(event.id())? {
            state.run(marker);
        }
        state.check_failure()
    })

    /// Asks whether its stream has got there.
    fn cuEventQuery(event: Handle) |driver| driver.with(event, |state| {
        find(&state.events, event.id())?;
        state.outside_captures()?;
        let Some(marker) = state.marker_of(event.id())? else { return Ok(()) };
        let done = state.is_done(marker);
        state.advance(marker);
        state.check_failure()?;
        if done { Ok(()) } else { Err(Status::CUDA_ERROR_NOT_READY) }
    })

    /// Milliseconds between two.
    fn cuEventElapsedTime(milliseconds: Out<f32>, start: Handle, end: Handle) |driver| {
        milliseconds.set(driver.with(start, |state| state.elapsed(start.id(), end.id()))?)
    }

    /// The same.
    fn cuEventElapsedTime_v2(milliseconds: Out<f32>, start: Handle, end: Handle) |driver| {
        milliseconds.set(driver.with(start, |state| state.elapsed(start.id(), end.id()))?)
    }
}
