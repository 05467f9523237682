//! Starting, devices, and their primary contexts.

use std::ffi::{CStr, c_char, c_int, c_uint};

use crate::arguments::{HostMemory, Out};
use crate::call::exports;
use crate::driver::set_current;
use crate::handle::Handle;
use crate::limits;
use crate::status::{Status, describe};

exports! {
    /// Starts the driver.
    fn cuInit(flags: c_uint) |driver| match flags {
        0 => driver.init(),
        _ => Err(Status::CUDA_ERROR_INVALID_VALUE),
    }

    /// The newest CUDA it supports.
    fn cuDriverGetVersion(version: Out<c_int>) |driver| version.set(driver.config.driver_version)

    /// Number of devices.
    fn cuDeviceGetCount(count: Out<c_int>) |driver| count.set(driver.devices()?.len() as c_int)

    /// A device by its ordinal.
    fn cuDeviceGet(device: Out<c_int>, ordinal: c_int) |driver| device.set(driver.device(ordinal)?.ordinal as c_int)

    /// Its name.
    fn cuDeviceGetName(name: HostMemory, length: c_int, device: c_int) |driver| {
        driver.device(device)?;
        let capability = driver.config.capability;
        let text = format!("PTX simulator as compute capability {}.{}", capability.major, capability.minor);
        let room = usize::try_from(length).ok().filter(|room| *room > 0).ok_or(Status::CUDA_ERROR_INVALID_VALUE)?;
        let mut bytes = text.into_bytes();
        bytes.truncate(room - 1);
        bytes.push(0);
        name.write(&bytes)
    }

    /// Its identity: made up, but distinct.
    fn cuDeviceGetUuid(uuid: Out<[u8; 16]>, device: c_int) |driver| {
        uuid.set((0x6d6f_636b_0000_0000_0000_0000_0000_0000 + driver.device(device)?.ordinal as u128).to_be_bytes())
    }

    /// The same.
    fn cuDeviceGetUuid_v2(uuid: Out<[u8; 16]>, device: c_int) |driver| {
        uuid.set((0x6d6f_636b_0000_0000_0000_0000_0000_0000 + driver.device(device)?.ordinal as u128).to_be_bytes())
    }

    /// Bytes of its memory.
    fn cuDeviceTotalMem_v2(bytes: Out<usize>, device: c_int) |driver| {
        driver.device(device)?;
        bytes.set(driver.config.memory as usize)
    }

    /// One of its attributes.
    fn cuDeviceGetAttribute(value: Out<c_int>, attribute: c_int, device: c_int) |driver| {
        driver.device(device)?;
        value.set(limits::attribute(attribute, &driver.config)?)
    }

    /// Whether one device can use another's memory: it cannot.
    fn cuDeviceCanAccessPeer(can: Out<c_int>, device: c_int, peer: c_int) |driver| {
        driver.device(device)?;
        driver.device(peer)?;
        can.set(0)
    }

    /// Takes hold of a device's primary context.
    fn cuDevicePrimaryCtxRetain(context: Out<Handle>, device: c_int) |driver| {
        let id = driver.device(device)?.lock().retain();
        context.set(Handle::of(id))
    }

    /// Lets go of it; the last to do so destroys it.
    fn cuDevicePrimaryCtxRelease_v2(device: c_int) |driver| driver.device(device)?.lock().release()

    /// Whether it is there.
    fn cuDevicePrimaryCtxGetState(device: c_int, flags: Out<c_uint>, active: Out<c_int>) |driver| {
        flags.set(0)?;
        active.set(c_int::from(driver.device(device)?.lock().is_active()))
    }

    /// Makes a context the calling thread's.
    fn cuCtxSetCurrent(context: Handle) |driver| set_current(driver, context.id())

    /// The calling thread's context.
    fn cuCtxGetCurrent(context: Out<Handle>) |driver| context.set(Handle::of(driver.current()?))

    /// The device of the calling thread's context.
    fn cuCtxGetDevice(device: Out<c_int>) |driver| device.set(driver.current_device()?.ordinal as c_int)

    /// Waits for all work of the current context.
    fn cuCtxSynchronize() |driver| driver.here(|state| {
        state.without_captures()?;
        state.finish_all()
    })

    /// The name of a status.
    fn cuGetErrorName(error: c_uint, name: Out<*const c_char>) |_| {
        name.set(describe(error).map_or(std::ptr::null(), |(_, name, _)| CStr::as_ptr(name)))
    }

    /// What it means.
    fn cuGetErrorString(error: c_uint, text: Out<*const c_char>) |_| {
        text.set(describe(error).map_or(std::ptr::null(), |(.., text)| CStr::as_ptr(text)))
    }
}
