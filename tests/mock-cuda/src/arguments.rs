//! Arguments of the driver's functions, as types. All that the mock ever reads or writes through a caller's pointer is
//! read or written here.
//!
//! The exported functions are unsafe and their caller, as with the real driver, owes valid pointers. A value of one
//! of these types is only ever made by such a caller; that is what every block below rests on. Null is told apart.

use std::ffi::{CStr, c_char, c_void};

use crate::status::{Result, Status};

/// A place for a result.
#[repr(transparent)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Out<T>(*mut T);

impl<T> Out<T> {
    pub fn set(self, value: T) -> Result {
        if self.0.is_null() {
            return Err(Status::CUDA_ERROR_INVALID_VALUE);
        }
        // SAFETY: the caller of the driver owes a place to write a `T` to.
        unsafe { self.0.write(value) };
        Ok(())
    }

    /// The same for a result the caller may not want.
    pub fn offer(self, value: T) {
        if !self.0.is_null() {
            // SAFETY: as above.
            unsafe { self.0.write(value) };
        }
    }
}

/// Some elements to read.
#[repr(transparent)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Array<T>(*const T);

impl<T: Copy> Array<T> {
    pub fn read(self, count: usize) -> Result<Vec<T>> {
        if count == 0 {
            return Ok(Vec::new());
        }
        if self.0.is_null() {
            return Err(Status::CUDA_ERROR_INVALID_VALUE);
        }
        // SAFETY: the caller of the driver owes `count` elements; unaligned reads ask for nothing more.
        Ok((0..count).map(|i| unsafe { self.0.add(i).read_unaligned() }).collect())
    }

    pub fn is_null(self) -> bool {
        self.0.is_null()
    }
}

impl<T> Array<T> {
    pub const fn none() -> Self {
        Array(std::ptr::null())
    }
}

/// A zero-terminated string.
#[repr(transparent)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Text(*const c_char);

impl Text {
    pub fn bytes(&self) -> Result<&[u8]> {
        if self.0.is_null() {
            return Err(Status::CUDA_ERROR_INVALID_VALUE);
        }
        // SAFETY: the caller of the driver owes a terminated string that lives through the call, as `self` does.
        Ok(unsafe { CStr::from_ptr(self.0) }.to_bytes())
    }

    pub fn str(&self) -> Result<&str> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Status::CUDA_ERROR_INVALID_VALUE)
    }
}

/// Memory of the host that a copy reads or writes, now or when its turn comes.
#[repr(transparent)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct HostMemory(*mut c_void);

// SAFETY: an address; whoever uses it on another thread relies on the caller's promise about the memory, see below.
unsafe impl Send for HostMemory {}
// SAFETY: as above.
unsafe impl Sync for HostMemory {}

impl HostMemory {
    pub fn of(address: *mut c_void) -> Self {
        HostMemory(address)
    }

    pub fn pointer(self) -> *mut c_void {
        self.0
    }

    pub fn address(self) -> usize {
        self.0.addr()
    }

    pub fn check(self, bytes: usize) -> Result {
        if self.0.is_null() && bytes > 0 { Err(Status::CUDA_ERROR_INVALID_VALUE) } else { Ok(()) }
    }

    /// Memory further on.
    pub fn at(self, bytes: usize) -> Self {
        HostMemory(self.0.wrapping_byte_add(bytes))
    }

    /// Pointers that lie there.
    pub fn words(self, count: usize) -> Result<Vec<*mut c_void>> {
        Array(self.0.cast_const().cast::<*mut c_void>()).read(count)
    }

    pub fn read(self, bytes: usize) -> Result<Vec<u8>> {
        self.check(bytes)?;
        let mut data = vec![0; bytes];
        // SAFETY: the caller of the driver owes `bytes` readable bytes until the copy it asked for is done.
        unsafe { std::ptr::copy_nonoverlapping(self.0.cast::<u8>(), data.as_mut_ptr(), bytes) };
        Ok(data)
    }

    pub fn write(self, data: &[u8]) -> Result {
        self.check(data.len())?;
        // SAFETY: the caller of the driver owes that many writable bytes until the copy it asked for is done.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), self.0.cast::<u8>(), data.len()) };
        Ok(())
    }
}

/// A function of the host's that a stream calls when its turn comes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HostFunction {
    function: unsafe extern "C" fn(*mut c_void),
    data: HostMemory,
}

impl HostFunction {
    pub fn new(function: Option<unsafe extern "C" fn(*mut c_void)>, data: HostMemory) -> Result<Self> {
        let function = function.ok_or(Status::CUDA_ERROR_INVALID_VALUE)?;
        Ok(HostFunction { function, data })
    }

    pub fn call(self) {
        // SAFETY: the caller of the driver owes a function that may be called once with this pointer, on any thread.
        unsafe { (self.function)(self.data.0) }
    }
}
