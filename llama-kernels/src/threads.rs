//! The worker threads of one backend.

use std::marker::PhantomData;
use std::ops::Range;

/// A fixed team of threads; the caller is one of them.
pub struct Threads {
    pool: Option<rayon::ThreadPool>,
    count: usize,
}

impl Threads {
    /// A team of `count` threads.
    pub fn new(count: usize) -> Result<Self, rayon::ThreadPoolBuildError> {
        let pool = (count > 1).then(|| rayon::ThreadPoolBuilder::new().num_threads(count).build()).transpose()?;
        Ok(Threads { pool, count })
    }

    /// Threads in the team.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Calls `task(i)` for every `i` in `0 .. tasks`, each once, on any thread, and returns when all are done.
    pub fn for_each(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        match &self.pool {
            Some(pool) if tasks > 1 => pool.install(|| {
                use rayon::prelude::*;
                (0..tasks).into_par_iter().for_each(task);
            }),
            _ => (0..tasks).for_each(task),
        }
    }

    /// Runs one step: inside `ops` the team stays awake between calls of [`Threads::for_each`].
    pub fn step<R>(&self, ops: impl FnOnce() -> R) -> R {
        ops()
    }
}

/// A mutable slice that the tasks of one [`Threads::for_each`] write in disjoint parts.
pub struct Disjoint<'a, T> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: a `Disjoint` only gives out parts through `part`, whose caller promises that no two overlap; so sharing it is
// sharing nothing but an address. Moving parts to other threads needs `T: Send`.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    /// Takes the slice over for `'a`.
    pub fn new(slice: &'a mut [T]) -> Self {
        Disjoint { start: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// The elements `range`.
    ///
    /// # Panics
    /// If the range is out of bounds.
    ///
    /// # Safety
    /// No other part that overlaps `range` is alive.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "part {range:?} of {}", self.len);
        // SAFETY: in bounds by the assertion, exclusive by the caller's promise, borrowed for no longer than 'a.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}
