//! Zeroed memory that starts on a cache line and whose absence is an error.
//!
//! A [`Buffer`] is for everything that lives as long as a model. Large ones come from the system's zero pages: what is
//! never touched costs nothing. [`Pages`] are for weights and for the KV cache, which are streamed: they ask for huge pages,
//! with which a stream crosses a five-hundredth of the page borders (each stops the hardware's prefetcher) and loading takes
//! as few page faults. A model's weights are pieces of one such mapping, for most of them are smaller than a huge page; a KV
//! cache still fills its memory as sequences grow, a huge page at a time.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use bytemuck::Zeroable;
use llama_core::{Error, Result};
use memmap2::{MmapMut, MmapRaw};

/// Bytes of a cache line, and of the widest vector.
const LINE: usize = 64;
/// Bytes of a huge page of x86-64, and of aarch64 with small pages of 4 KiB.
const HUGE: usize = 2 << 20;

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

/// Whole pages of zeros, huge ones where the system has them; or a piece of such, which others share.
pub struct Pages {
    /// Never looked at as a whole: each of the pieces that share it has bytes of its own.
    map: Arc<MmapRaw>,
    start: usize,
    len: usize,
}

impl Pages {
    /// `len` zero bytes for `what`; if they cannot be had, the error advises to lower `advice`.
    pub fn zeroed(len: usize, what: &'static str, advice: &'static str) -> Result<Self> {
        let refused = |_| Error::Memory { what, needed: len as u64, limit: isize::MAX as u64, advice };
        // Addresses without memory until they are written: they let a huge page begin with the first byte.
        let slack = if len < HUGE { 1 } else { HUGE };
        let map = MmapMut::map_anon(len.saturating_add(slack)).map_err(refused)?;
        let start = if len < HUGE { 0 } else { map.as_ptr().align_offset(HUGE).min(slack) };
        // The tail stays in small pages, so that no more memory is used than was asked for. A system without huge pages
        // holds the same bytes in small ones, so its refusal is no error.
        #[cfg(target_os = "linux")]
        let _ = map.advise_range(memmap2::Advice::HugePage, start, len / HUGE * HUGE);
        Ok(Pages { map: Arc::new(MmapRaw::from(map)), start, len })
    }

    /// Takes the first `len` bytes off, and what is left over of their last cache line. None if there are not as many.
    pub fn split(&mut self, len: usize) -> Option<Pages> {
        let whole = len.checked_next_multiple_of(LINE)?;
        let left = self.len.checked_sub(whole)?;
        let front = Pages { map: Arc::clone(&self.map), start: self.start, len };
        (self.start, self.len) = (self.start + whole, left);
        Some(front)
    }
}

impl Deref for Pages {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the bytes lie in the map, which lives as long as this piece, and hold zeros or what was written since.
        // They are this piece's alone: `zeroed` makes the only one, and `split` divides its range among two.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(self.start), self.len) }
    }
}

impl DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; the map is writable, and this piece is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.map.as_mut_ptr().add(self.start), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_aligned_zeros_or_an_error() {
        for len in [0, 1, 5 << 20] {
            let pages = Pages::zeroed(len, "a test", "the length").expect("memory");
            assert!(pages.len() == len && pages.iter().all(|&byte| byte == 0));
            assert!(pages.as_ptr().addr().is_multiple_of(LINE));
        }
        for len in [usize::MAX, isize::MAX as usize, 1 << 62] {
            assert!(matches!(Pages::zeroed(len, "a test", "the length"), Err(Error::Memory { .. })), "{len}");
        }
    }

    #[test]
    fn pieces_of_pages_do_not_overlap() {
        let mut rest = Pages::zeroed(3 << 20, "a test", "the length").expect("memory");
        let mut pieces: Vec<Pages> = [1, 64, 0, 100, 1 << 20].into_iter().filter_map(|len| rest.split(len)).collect();
        pieces.push(rest);
        for (mark, piece) in (1..).zip(&mut pieces) {
            assert!(piece.as_ptr().addr().is_multiple_of(LINE) && piece.iter().all(|&byte| byte == 0), "{mark}");
            piece.fill(mark);
        }
        assert!((1..).zip(&pieces).all(|(mark, piece)| piece.iter().all(|&byte| byte == mark)));
        assert_eq!(
            pieces.iter().map(|piece| piece.len()).collect::<Vec<_>>(),
            [1, 64, 0, 100, 1 << 20, (2 << 20) - 256]
        );
        assert!(pieces[5].split(2 << 20).is_none() && pieces[5].split(usize::MAX).is_none());
        drop(pieces.drain(1..));
        assert_eq!(*pieces[0], [1]);
    }

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
