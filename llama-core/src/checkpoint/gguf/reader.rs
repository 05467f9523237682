//! A cursor over untrusted bytes that knows what it is reading, so that every error names field and offset.

use std::fmt::Display;
use std::path::Path;

use crate::error::{Error, Result};

/// Reads little-endian values off a header. Nothing is ever read, or allocated, past the end of `bytes`.
pub(crate) struct Reader<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(path: &'a Path, bytes: &'a [u8]) -> Self {
        Reader { path, bytes, at: 0 }
    }

    /// The file.
    pub(crate) fn path(&self) -> &'a Path {
        self.path
    }

    /// Bytes from the start of the file.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// Bytes not read yet.
    pub(crate) fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// An error about `field`, which starts at byte `at`.
    pub(crate) fn error(&self, field: &dyn Display, at: usize, problem: impl Into<String>) -> Error {
        Error::file(self.path, field.to_string(), at as u64, problem)
    }

    /// The next `count` elements of `size` bytes; `at` is where the field that claims them starts.
    pub(crate) fn take(&mut self, count: u64, size: usize, field: &dyn Display, at: usize) -> Result<&'a [u8]> {
        let wanted = usize::try_from(count).ok().and_then(|count| count.checked_mul(size));
        match wanted.filter(|&wanted| wanted <= self.remaining()) {
            Some(wanted) => {
                let taken = &self.bytes[self.at..self.at + wanted];
                self.at += wanted;
                Ok(taken)
            }
            None => {
                let more = self.remaining();
                let problem = format!(
                    "{count} x {size} bytes are needed and the file has {more} more; it is cut off or damaged, so fetch it again"
                );
                Err(self.error(field, at, problem))
            }
        }
    }

    /// The next `N` bytes.
    pub(crate) fn array<const N: usize>(&mut self, field: &dyn Display) -> Result<[u8; N]> {
        let taken = self.take(N as u64, 1, field, self.at)?;
        Ok(taken.try_into().expect("take returns what it was asked for"))
    }

    /// A 32-bit unsigned integer.
    pub(crate) fn u32(&mut self, field: &dyn Display) -> Result<u32> {
        self.array(field).map(u32::from_le_bytes)
    }

    /// A 64-bit unsigned integer.
    pub(crate) fn u64(&mut self, field: &dyn Display) -> Result<u64> {
        self.array(field).map(u64::from_le_bytes)
    }

    /// A 64-bit count of things that occupy at least `least` bytes each, so that it may size an allocation.
    pub(crate) fn count(&mut self, least: usize, field: &dyn Display) -> Result<usize> {
        let at = self.at;
        let count = self.u64(field)?;
        let most = self.remaining() / least;
        match usize::try_from(count).ok().filter(|&count| count <= most) {
            Some(count) => Ok(count),
            None => Err(self.error(field, at, format!("claims {count}; the rest of the file holds at most {most}"))),
        }
    }

    /// A UTF-8 string after its 64-bit length, which is at most `most` bytes.
    pub(crate) fn string(&mut self, most: usize, field: &dyn Display) -> Result<&'a str> {
        let at = self.at;
        let length = self.u64(field)?;
        if length > most as u64 && length <= self.remaining() as u64 {
            return Err(self.error(field, at, format!("has {length} bytes; at most {most} are allowed")));
        }
        let bytes = self.take(length, 1, field, at)?;
        std::str::from_utf8(bytes).map_err(|bad| {
            self.error(
                field,
                at,
                format!("is not UTF-8, which was expected, after byte {} of the string", bad.valid_up_to()),
            )
        })
    }
}
