//! Streams and their capture.

use std::ffi::{c_int, c_uint, c_void};

use crate::arguments::{HostFunction, HostMemory, Out};
use crate::call::exports;
use crate::capture::Mode;
use crate::handle::{Handle, fresh};
use crate::status::{Result, Status};
use crate::work::Work;

/// Whether flags ask for a stream that takes turns with the default one.
fn is_blocking(flags: c_uint) -> Result<bool> {
    match flags {
        0 => Ok(true),
        1 => Ok(false),
        _ => Err(Status::CUDA_ERROR_INVALID_VALUE),
    }
}

exports! {
    /// Makes a stream.
    fn cuStreamCreate(stream: Out<Handle>, flags: c_uint) |driver| {
        let blocking = is_blocking(flags)?;
        stream.set(Handle::of(driver.here(|state| Ok(state.create_stream(blocking)))?))
    }

    /// Makes a stream with a priority, which changes nothing here.
    fn cuStreamCreateWithPriority(stream: Out<Handle>, flags: c_uint, _priority: c_int) |driver| {
        let blocking = is_blocking(flags)?;
        stream.set(Handle::of(driver.here(|state| Ok(state.create_stream(blocking)))?))
    }

    /// The priorities there are.
    fn cuCtxGetStreamPriorityRange(least: Out<c_int>, greatest: Out<c_int>) |driver| {
        driver.current_device()?;
        least.offer(0);
        greatest.offer(-5);
        Ok(())
    }

    /// Destroys a stream, once its work is done.
    fn cuStreamDestroy_v2(stream: Handle) |driver| driver.on(stream, |state, stream| state.destroy_stream(stream))

    /// Waits for a stream.
    fn cuStreamSynchronize(stream: Handle) |driver| driver.on(stream, |state, stream| {
        state.uncaptured(stream)?;
        state.finish(stream)
    })

    /// Asks whether a stream has done its work.
    fn cuStreamQuery(stream: Handle) |driver| driver.on(stream, |state, stream| {
        state.uncaptured(stream)?;
        let end = state.end_of(stream)?;
        let done = state.is_done(end);
        state.advance(end);
        state.check_failure()?;
        if done { Ok(()) } else { Err(Status::CUDA_ERROR_NOT_READY) }
    })

    /// Makes a stream wait for an event.
    fn cuStreamWaitEvent(stream: Handle, event: Handle, _flags: c_uint) |driver| {
        driver.on(stream, |state, stream| state.wait_event(stream, event.id()))
    }

    /// Calls a function of the host's in stream order.
    fn cuLaunchHostFunc(stream: Handle, f: Option<unsafe extern "C" fn(*mut c_void)>, data: HostMemory) |driver| {
        let function = HostFunction::new(f, data)?;
        driver.on(stream, |state, stream| state.submit(stream, Work::Call(function)))
    }

    /// Begins to record a stream's work.
    fn cuStreamBeginCapture_v2(stream: Handle, mode: c_uint) |driver| {
        let mode = Mode::from_number(mode)?;
        driver.on(stream, |state, stream| state.begin_capture(stream, mode))
    }

    /// Ends that and makes a graph of it.
    fn cuStreamEndCapture(stream: Handle, graph: Out<Handle>) |driver| {
        graph.set(Handle::of(0))?;
        let id = driver.on(stream, |state, stream| {
            let recorded = state.end_capture(stream)?;
            let id = fresh(state.ordinal);
            state.graphs.insert(id, recorded);
            Ok(id)
        })?;
        graph.set(Handle::of(id))
    }

    /// Whether a stream's work is being recorded.
    fn cuStreamIsCapturing(stream: Handle, status: Out<c_uint>) |driver| {
        status.set(driver.on(stream, |state, stream| state.capture_status(stream))?)
    }
}
