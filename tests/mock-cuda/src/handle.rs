//! Handles: what the driver gives out in place of pointers to its objects.
//!
//! A handle is a serial number and, in its low byte, the device it belongs to. Numbers are never reused, so a stale handle
//! is told from a live one, also after [`crate::install`] has started the driver afresh.

use std::ffi::c_void;
use std::sync::atomic::{AtomicUsize, Ordering};

/// An opaque pointer, as the caller sees it.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Handle(pub *mut c_void);

/// The same as a number: a stream, an event, a module, ...; zero is no object.
pub(crate) type Id = usize;

impl Handle {
    pub fn id(self) -> Id {
        self.0.addr()
    }

    pub fn of(id: Id) -> Handle {
        Handle(std::ptr::without_provenance_mut(id))
    }
}

/// A new number for an object of a device.
pub(crate) fn fresh(device: usize) -> Id {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed) << 8 | device
}

/// The device an object belongs to.
pub(crate) fn device_of(id: Id) -> usize {
    id & 0xff
}
