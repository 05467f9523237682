//! Something there is only so much of. Whoever takes a share gives it back by dropping it, however that comes about.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// So many units, of which some are taken.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    taken: AtomicUsize,
}

/// Units that somebody has taken.
#[derive(Debug)]
pub struct Share {
    budget: Arc<Budget>,
    units: usize,
}

impl Budget {
    /// `limit` units, none of them taken.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Budget { limit, taken: AtomicUsize::new(0) })
    }

    /// Units that are taken now.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Units there are.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Takes `units`, if so many are left.
    pub fn take(self: &Arc<Self>, units: usize) -> Option<Share> {
        self.take_if(units, |sum| sum <= self.limit)
    }

    /// The same; but who comes first gets what it asks for, though it is more than there is: it could never be had otherwise.
    pub fn take_or_first(self: &Arc<Self>, units: usize) -> Option<Share> {
        self.take_if(units, |sum| sum <= self.limit || sum == units)
    }

    fn take_if(self: &Arc<Self>, units: usize, fits: impl Fn(usize) -> bool) -> Option<Share> {
        let sum = |taken: usize| taken.checked_add(units).filter(|&sum| fits(sum));
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, sum).ok()?;
        Some(Share { budget: self.clone(), units })
    }
}

impl Share {
    /// Takes `units` more. False if there are not so many.
    pub fn grow(&mut self, units: usize) -> bool {
        let Some(mut more) = self.budget.take(units) else { return false };
        self.units += std::mem::take(&mut more.units);
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.taken.fetch_sub(self.units, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_comes_back() {
        let budget = Budget::new(10);
        let mut share = budget.take(4).unwrap();
        assert!(share.grow(6) && !share.grow(1));
        assert_eq!(budget.taken(), 10);
        assert!(budget.take(1).is_none() && budget.take(usize::MAX).is_none());
        drop(share);
        assert_eq!(budget.taken(), 0);
    }

    #[test]
    fn only_the_first_may_take_too_much() {
        let budget = Budget::new(10);
        let share = budget.take_or_first(50).unwrap();
        assert!(budget.take_or_first(1).is_none());
        drop(share);
        let _small = budget.take_or_first(1).unwrap();
        assert!(budget.take_or_first(50).is_none());
    }
}
