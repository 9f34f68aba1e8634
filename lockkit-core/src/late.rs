//! Which requests may still arrive at a store although nobody waits for their answer.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::{Clock, Instant, RequestId};

/// As long as stores keep a tombstone: nothing is delivered later than that.
const KEPT: Duration = Duration::from_secs(120);
/// Forgetting the old ones is looked after once there are this many.
const MANY: usize = 256;

/// The attempts under way, and those that were given up without an answer; for backends.
///
/// Upholds C9: whoever ends a request of which one may still arrive leaves a tombstone for at least
/// 120 s, so that it is never granted; nobody else does, for each tombstone is kept in the store.
#[derive(Debug, Default)]
pub struct Late(Mutex<Fates>);

#[derive(Debug, Default)]
struct Fates {
    of: HashMap<RequestId, Fate>,
    /// How many there were after the old ones were last forgotten.
    left: usize,
}

#[derive(Debug, Default)]
struct Fate {
    under_way: u32,
    given_up: Option<Instant>,
}

/// One attempt under way; dropped without [`answered`](Self::answered), it may still arrive.
#[derive(Debug)]
#[must_use = "dropped, the attempt counts as unanswered"]
pub struct UnderWay<'a> {
    late: &'a Late,
    id: RequestId,
    clock: &'a Clock,
    answered: bool,
}

impl Late {
    /// Counts an attempt in, before it is sent.
    pub fn sent<'a>(&'a self, id: RequestId, clock: &'a Clock) -> UnderWay<'a> {
        self.fates().of.entry(id).or_default().under_way += 1;
        UnderWay { late: self, id, clock, answered: false }
    }

    /// Whether an attempt of this request may still arrive.
    pub fn may_arrive(&self, id: RequestId) -> bool {
        self.fates().of.contains_key(&id)
    }

    fn fates(&self) -> MutexGuard<'_, Fates> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UnderWay<'_> {
    /// The server has answered: this attempt will not arrive any more.
    pub fn answered(mut self) {
        self.answered = true;
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let now = self.clock.now();
        let mut fates = self.late.fates();
        if let Some(fate) = fates.of.get_mut(&self.id) {
            fate.under_way -= 1;
            if !self.answered {
                fate.given_up = Some(now);
            }
            if fate.under_way == 0 && fate.given_up.is_none() {
                fates.of.remove(&self.id);
            }
        }
        // Only at twice as many, so that each one costs a look or two, however many there are.
        if fates.of.len() >= MANY.max(fates.left * 2) {
            let old = |at: Instant| now.saturating_since(at) > KEPT;
            fates.of.retain(|_, fate| fate.under_way > 0 || !fate.given_up.is_some_and(old));
            fates.left = fates.of.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_never_answered_may_arrive_late() {
        let (late, clock) = (Late::default(), Clock::manual());
        let id = RequestId::from_bytes([1; 16]);
        let first = late.sent(id, &clock);
        assert!(late.may_arrive(id));
        first.answered();
        assert!(!late.may_arrive(id));
        drop(late.sent(id, &clock));
        late.sent(id, &clock).answered();
        assert!(late.may_arrive(id), "the dropped one is still on its way");
    }

    #[test]
    fn what_is_old_is_forgotten() {
        let (late, clock) = (Late::default(), Clock::manual());
        let id = |n: u32| RequestId::from_bytes(u128::from(n).to_be_bytes());
        for n in 0..10_000 {
            drop(late.sent(id(n), &clock));
            clock.advance(Duration::from_secs(1));
        }
        assert!(late.fates().of.len() <= MANY);
        assert!(late.may_arrive(id(9_999)) && !late.may_arrive(id(0)));
    }

    #[test]
    fn many_that_are_all_young_are_looked_through_seldom() {
        let (late, clock) = (Late::default(), Clock::manual());
        let id = |n: u32| RequestId::from_bytes(u128::from(n).to_be_bytes());
        let (mut looks, mut left) = (0, 0);
        for n in 0..10_000 {
            drop(late.sent(id(n), &clock));
            let now_left = late.fates().left;
            looks += u32::from(now_left != left);
            left = now_left;
        }
        assert_eq!(looks, 6, "at 256, and at each doubling up to 8192");
        assert_eq!(late.fates().of.len(), 10_000);
    }
}
