//! An allocator that counts, for promises about memory.
//!
//! A test program makes one its `#[global_allocator]`; the counts are of the whole process.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

/// The system's allocator, counting.
#[derive(Debug, Default)]
pub struct Counting {
    allocations: AtomicUsize,
    held: AtomicUsize,
}

impl Counting {
    /// An allocator that has counted nothing yet.
    pub const fn new() -> Self {
        Counting { allocations: AtomicUsize::new(0), held: AtomicUsize::new(0) }
    }

    /// Allocations so far.
    pub fn allocations(&self) -> usize {
        self.allocations.load(SeqCst)
    }

    /// Bytes allocated and not freed.
    pub fn held(&self) -> usize {
        self.held.load(SeqCst)
    }
}

// SAFETY: every call is passed on to the system's allocator unchanged; counting touches no memory of the caller's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.allocations.fetch_add(1, SeqCst);
        self.held.fetch_add(layout.size(), SeqCst);
        // SAFETY: the caller's obligations are the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        self.held.fetch_sub(layout.size(), SeqCst);
        // SAFETY: the caller's obligations are the system allocator's.
        unsafe { System.dealloc(pointer, layout) }
    }
}
