//! Zeroed memory that starts on a cache line and whose absence is an error.
//!
//! Large buffers come from the system's zero pages: what is never touched costs nothing, and a KV cache fills its
//! memory as sequences grow.

use std::ops::{Deref, DerefMut};

use bytemuck::Zeroable;
use llama_core::{Error, Result};

/// Bytes of a cache line, and of the widest vector.
const LINE: usize = 64;

/// A fixed slice of zeros at the start, aligned to a cache line.
pub struct Buffer<T> {
    data: Vec<T>,
    start: usize,
    len: usize,
}

impl<T: Zeroable> Buffer<T> {
    /// `len` zeros for `what`; if they cannot be had, the error advises to lower `advice`.
    pub fn zeroed(len: usize, what: &'static str, advice: &'static str) -> Result<Self> {
        let refused = || Error::Memory { what, needed: Self::bytes(len as u64), limit: isize::MAX as u64, advice };
        let slack = LINE / size_of::<T>();
        let total = len.checked_add(slack).ok_or_else(refused)?;
        let data: Vec<T> = bytemuck::allocation::try_zeroed_vec(total).map_err(|()| refused())?;
        let start = data.as_ptr().align_offset(LINE).min(slack);
        Ok(Buffer { data, start, len })
    }

    /// Bytes that a buffer of `len` holds.
    pub fn bytes(len: u64) -> u64 {
        len.saturating_mul(size_of::<T>() as u64).saturating_add(LINE as u64)
    }
}

impl<T> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.data[self.start..self.start + self.len]
    }
}

impl<T> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.data[self.start..self.start + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_zeros() {
        for len in [0, 1, 100] {
            let buffer = Buffer::<f32>::zeroed(len, "a test", "the length").expect("memory");
            assert_eq!(*buffer, *vec![0.0; len]);
            assert!(buffer.as_ptr().addr().is_multiple_of(LINE));
        }
    }

    #[test]
    fn too_much_is_an_error() {
        for len in [usize::MAX, usize::MAX / 4 - 100, 1 << 58] {
            assert!(matches!(Buffer::<f32>::zeroed(len, "a test", "the length"), Err(Error::Memory { .. })), "{len}");
        }
    }
}
