//! Pinned host memory: what the driver allocated, and what callers registered.

use std::collections::BTreeMap;

use crate::arguments::HostMemory;
use crate::status::{Result, Status};

const PAGE: usize = 4096;

/// Memory in pages; starts out as rubbish, since the driver promises nothing about it.
#[repr(align(4096))]
#[derive(Clone)]
struct Page(#[expect(dead_code, reason = "the program's, not the mock's")] [u8; PAGE]);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    Allocated { pages: usize },
    Registered,
}

/// Ranges of pinned memory by address. Memory not freed when the driver starts afresh stays where it is: somebody may hold it.
#[derive(Debug, Default)]
pub(crate) struct Pinned {
    ranges: BTreeMap<usize, (usize, Origin)>,
}

impl Pinned {
    pub fn alloc(&mut self, bytes: usize) -> Result<HostMemory> {
        let pages = bytes.div_ceil(PAGE);
        if pages == 0 {
            return Err(Status::CUDA_ERROR_INVALID_VALUE);
        }
        let mut memory = Vec::new();
        memory.try_reserve_exact(pages).map_err(|_| Status::CUDA_ERROR_OUT_OF_MEMORY)?;
        memory.resize(pages, Page([0xcd; PAGE]));
        let memory: *mut std::ffi::c_void = Box::into_raw(memory.into_boxed_slice()).cast();
        self.ranges.insert(memory.addr(), (bytes, Origin::Allocated { pages }));
        Ok(HostMemory::of(memory))
    }

    pub fn free(&mut self, memory: HostMemory) -> Result {
        match self.ranges.get(&memory.address()) {
            Some((_, Origin::Allocated { pages })) => {
                let slice = std::ptr::slice_from_raw_parts_mut(memory.pointer().cast::<Page>(), *pages);
                // SAFETY: the address is that of a box of so many pages which `alloc` gave away and nobody has freed yet,
                // for then the range would be gone; the caller of the driver gives up its use.
                drop(unsafe { Box::from_raw(slice) });
                self.ranges.remove(&memory.address());
                Ok(())
            }
            _ => Err(Status::CUDA_ERROR_INVALID_VALUE),
        }
    }

    pub fn register(&mut self, memory: HostMemory, bytes: usize) -> Result {
        memory.check(bytes)?;
        let (start, end) = (memory.address(), memory.address().saturating_add(bytes));
        if bytes == 0 {
            return Err(Status::CUDA_ERROR_INVALID_VALUE);
        }
        if self.ranges.range(..end).next_back().is_some_and(|(at, (bytes, _))| at + bytes > start) {
            return Err(Status::CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
        }
        self.ranges.insert(start, (bytes, Origin::Registered));
        Ok(())
    }

    pub fn unregister(&mut self, memory: HostMemory) -> Result {
        match self.ranges.get(&memory.address()) {
            Some((_, Origin::Registered)) => {
                self.ranges.remove(&memory.address());
                Ok(())
            }
            _ => Err(Status::CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED),
        }
    }

    /// Whether a stretch is pinned as a whole.
    pub fn holds(&self, memory: HostMemory, bytes: usize) -> bool {
        let range = self.ranges.range(..=memory.address()).next_back();
        range.is_some_and(|(start, (length, _))| memory.address().saturating_add(bytes) <= start + length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocations_are_pinned_until_freed() {
        let mut pinned = Pinned::default();
        let memory = pinned.alloc(5000).unwrap();
        assert!(memory.address().is_multiple_of(PAGE) && pinned.holds(memory, 5000) && !pinned.holds(memory, 5001));
        memory.write(&[7; 5000]).unwrap();
        assert_eq!(pinned.free(memory), Ok(()));
        assert!(!pinned.holds(memory, 1));
        assert_eq!(pinned.free(memory), Err(Status::CUDA_ERROR_INVALID_VALUE));
    }

    #[test]
    fn registered_ranges_do_not_overlap() {
        let mut pinned = Pinned::default();
        let mut bytes = [0u8; 100];
        let part = |bytes: &mut [u8], at: usize| HostMemory::of(bytes[at..].as_mut_ptr().cast());
        assert_eq!(pinned.register(part(&mut bytes, 10), 50), Ok(()));
        let overlap = Err(Status::CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
        assert_eq!(pinned.register(part(&mut bytes, 0), 11), overlap);
        assert_eq!(pinned.register(part(&mut bytes, 59), 1), overlap);
        assert_eq!(pinned.register(part(&mut bytes, 60), 1), Ok(()));
        assert!(pinned.holds(part(&mut bytes, 20), 40));
        assert_eq!(pinned.free(part(&mut bytes, 10)), Err(Status::CUDA_ERROR_INVALID_VALUE));
        assert_eq!(pinned.unregister(part(&mut bytes, 10)), Ok(()));
        assert!(!pinned.holds(part(&mut bytes, 20), 1));
    }
}
