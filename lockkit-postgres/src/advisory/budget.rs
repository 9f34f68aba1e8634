//! How many locks a server may hold: they are counted because a full lock table keeps all clients out.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lockkit_core::{Error, Result};

/// A part of the lock table for all advisory locks: what is left serves the other clients.
const SHARE: usize = 4;
/// How many clients may grow at the same time before a client checks the count again.
const GROWING: usize = 16;

/// What a full budget is told.
pub(crate) const MORE_LOCKS: &str = "raise max_locks_per_transaction on the server (the budget is a quarter of the \
    locks that it has room for, unless `budget` is set), or use the strategy \"table\"";

#[derive(Debug)]
pub(super) struct Budget {
    limit: usize,
    counts: Mutex<Counts>,
}

#[derive(Debug)]
struct Counts {
    ours: usize,
    /// What the server had at the last check, and what of it was ours.
    seen: usize,
    ours_then: usize,
}

/// One lock that is counted, until this is dropped.
#[derive(Debug)]
pub(super) struct Reserved(Arc<Budget>);

impl Budget {
    pub(super) fn new(limit: Option<usize>, lock_table: usize, seen: usize) -> Self {
        let limit = budget_of(limit, lock_table);
        Self { limit, counts: Mutex::new(Counts { ours: 0, seen, ours_then: 0 }) }
    }

    /// Counts one more, before it is asked for.
    pub(super) fn take(self: &Arc<Self>) -> Reserved {
        self.counts().ours += 1;
        Reserved(Arc::clone(self))
    }

    /// Whether so many have come since the last check that the server must be asked again.
    pub(super) fn is_stale(&self) -> bool {
        let counts = self.counts();
        let more = counts.ours.saturating_sub(counts.ours_then);
        more > self.limit.saturating_sub(counts.seen) / GROWING
    }

    /// Takes in what the server has now, without what is only asked for.
    pub(super) fn saw(&self, locks: usize) {
        let mut counts = self.counts();
        counts.seen = locks;
        counts.ours_then = counts.ours;
    }

    /// Refuses one more where there are too many.
    pub(super) fn check(&self) -> Result<()> {
        check_budget(self.counts().seen, self.limit)
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many advisory locks there may be on a server with a lock table for so many.
pub(crate) fn budget_of(limit: Option<usize>, lock_table: usize) -> usize {
    limit.unwrap_or(lock_table / SHARE)
}

/// Refuses one more lock where the server has so many.
pub(crate) fn check_budget(seen: usize, limit: usize) -> Result<()> {
    if seen < limit {
        return Ok(());
    }
    Err(Error::rejected(
        format!("one more advisory lock: the server has {seen}, and the budget is {limit}"),
        MORE_LOCKS,
    ))
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let mut counts = self.0.counts();
        counts.ours -= 1;
        counts.ours_then = counts.ours_then.min(counts.ours);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_is_looked_at_more_often_the_fuller_it_is() {
        let budget = Arc::new(Budget::new(None, 6_400, 0));
        let mut reserved: Vec<_> = (0..100).map(|_| budget.take()).collect();
        assert!(!budget.is_stale());
        reserved.push(budget.take());
        assert!(budget.is_stale());
        budget.saw(1_590);
        assert!(!budget.is_stale());
        reserved.push(budget.take());
        assert!(budget.is_stale());
        budget.check().expect("some are left");
        budget.saw(1_600);
        let refused = budget.check().expect_err("none is left").to_string();
        assert!(refused.contains("max_locks_per_transaction"), "{refused}");
        drop(reserved);
        budget.saw(3);
        budget.check().expect("all are left");
    }
}
