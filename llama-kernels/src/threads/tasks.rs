//! Which thread does what of a region.
//!
//! Tasks next to each other read memory that is next to each other. So each thread begins with a run of its own, the same
//! for the same region in every step, and takes the tasks of it in order: one stream of memory a thread. Whoever has finished
//! its run takes over the second half of another's.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// The tasks of a region that are left of a thread's run: the first in the low half of a word, the end in the high one.
#[derive(Default)]
pub(super) struct Run(AtomicU64);

/// Cuts `0 .. tasks` into runs of nearly the same length.
///
/// # Panics
/// If there are 2^32 or more.
pub(super) fn cut(tasks: usize, runs: &[Run]) {
    assert!(u32::try_from(tasks).is_ok(), "{tasks} tasks");
    for (i, run) in runs.iter().enumerate() {
        run.0.store(pack(i * tasks / runs.len(), (i + 1) * tasks / runs.len()), SeqCst);
    }
}

/// Leaves no tasks but those that threads are about to do.
pub(super) fn clear(runs: &[Run]) {
    runs.iter().for_each(|run| run.0.store(0, SeqCst));
}

fn pack(first: usize, end: usize) -> u64 {
    first as u64 | (end as u64) << 32
}

fn unpack(run: u64) -> (usize, usize) {
    (run as u32 as usize, (run >> 32) as usize)
}

/// The tasks of a region, as one thread takes them: each of them once over all threads.
pub struct Tasks<'a> {
    runs: &'a [Run],
    own: usize,
}

impl<'a> Tasks<'a> {
    /// What the thread whose run is `own` takes of `runs`.
    pub(super) fn of(runs: &'a [Run], own: usize) -> Self {
        Tasks { runs, own }
    }

    /// The first of this thread's run.
    fn first_left(&self) -> Option<usize> {
        let rest = |run| {
            let (first, end) = unpack(run);
            (first < end).then(|| pack(first + 1, end))
        };
        self.runs[self.own].0.fetch_update(SeqCst, SeqCst, rest).ok().map(|run| unpack(run).0)
    }

    /// Takes over the second half of the next run that has tasks. Nobody else writes a run that is empty but its own thread,
    /// so that what is taken over here is not lost.
    fn take_over(&self) -> bool {
        let half = |run| {
            let (first, end) = unpack(run);
            (first < end).then(|| pack(first, first.midpoint(end)))
        };
        let others = (1..self.runs.len()).map(|i| &self.runs[(self.own + i) % self.runs.len()]);
        let Some(run) = others.filter_map(|run| run.0.fetch_update(SeqCst, SeqCst, half).ok()).next() else {
            return false;
        };
        let (first, end) = unpack(run);
        self.runs[self.own].0.store(pack(first.midpoint(end), end), SeqCst);
        true
    }
}

impl Iterator for Tasks<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        loop {
            if let Some(task) = self.first_left() {
                return Some(task);
            }
            if !self.take_over() {
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whoever takes when: each task once, and until the first thread runs out of its own, each its own in order.
        #[test]
        fn every_task_is_taken_once(threads in 1usize..7, count in 0usize..100, turns in prop::collection::vec(0usize..7, 0..200)) {
            let runs: Vec<Run> = (0..threads).map(|_| Run::default()).collect();
            cut(count, &runs);
            let mut takers: Vec<Tasks<'_>> = (0..threads).map(|own| Tasks::of(&runs, own)).collect();
            let mut next: Vec<usize> = (0..threads).map(|i| i * count / threads).collect();
            let (mut taken, mut own) = (vec![0; count], true);
            for thread in turns.into_iter().filter(|&thread| thread < threads).chain((0..threads).flat_map(|i| vec![i; count + 1])) {
                let task = takers[thread].next();
                own &= next[thread] < (thread + 1) * count / threads;
                if own {
                    prop_assert_eq!(task, Some(next[thread]));
                    next[thread] += 1;
                }
                task.into_iter().for_each(|task| taken[task] += 1);
            }
            prop_assert!(taken.iter().all(|&times| times == 1), "{taken:?}");
        }
    }

    #[test]
    fn nothing_is_left_when_a_region_was_cleared() {
        let runs = [Run::default(), Run::default()];
        cut(10, &runs);
        let mut tasks = Tasks::of(&runs, 1);
        assert_eq!(tasks.next(), Some(5));
        clear(&runs);
        assert_eq!(tasks.next(), None);
    }
}
