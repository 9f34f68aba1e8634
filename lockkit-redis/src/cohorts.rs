//! The latest cohort of each name that the server granted to this client.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use lockkit_core::kit::Record;
use lockkit_core::{Instant, LockName, LossReason, Request, RequestId};

use crate::handoff::{Cohort, HandedOn, Waiters};
use crate::protocol::Ticket;
use crate::waiter::Waiter;

/// Entries whose cohort has ended are removed once the map reaches this size.
const MANY: usize = 256;

#[derive(Debug, Default)]
pub(crate) struct Cohorts(Mutex<Names>);

#[derive(Debug, Default)]
struct Names {
    of: HashMap<LockName, Weak<Cohort>>,
    /// How many there were after the ended ones were last removed.
    left: usize,
}

impl Cohorts {
    /// The latest cohort of this name.
    pub(crate) fn latest(&self, name: &LockName) -> Option<Arc<Cohort>> {
        self.names().latest(name)
    }

    /// The cohort of the server's grant to this request: a new one, unless it is known here.
    pub(crate) fn granted(
        &self,
        record: &Record<Waiter<HandedOn>>,
        token: u64,
        sent: Instant,
        queue_head: Vec<Ticket>,
    ) -> Arc<Cohort> {
        let request: &Request = record.request();
        let mut names = self.names();
        let latest = names.latest(request.name());
        if let Some(known) = latest.filter(|latest| latest.token_of(request.id()) == Some(token)) {
            return known;
        }
        // Its withdrawal did not find this grant, which the server may have taken back and given to
        // others: nothing may be handed on from it.
        if record.is_withdrawn() {
            return Arc::new(Cohort::new(request, token, sent, Vec::new()));
        }
        let cohort = Arc::new(Cohort::new(request, token, sent, queue_head));
        names.insert(request.name(), &cohort);
        cohort
    }

    /// Notes that the server has ended this request's grant: it may have been handed on since.
    pub(crate) fn lost(&self, waiters: &Waiters, id: RequestId, reason: LossReason) {
        let cohorts: Vec<_> = self.names().of.values().filter_map(Weak::upgrade).collect();
        cohorts.iter().for_each(|cohort| cohort.lost(waiters, id, reason));
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Names {
    fn latest(&self, name: &LockName) -> Option<Arc<Cohort>> {
        self.of.get(name).and_then(Weak::upgrade)
    }

    fn insert(&mut self, name: &LockName, cohort: &Arc<Cohort>) {
        // Only at twice as many, so that each entry is looked at once or twice, however many there are.
        if self.of.len() >= MANY.max(self.left * 2) {
            self.of.retain(|_, cohort| cohort.strong_count() > 0);
            self.left = self.of.len();
        }
        self.of.insert(name.clone(), Arc::downgrade(cohort));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lockkit_core::Clock;

    use super::*;

    fn request(name: &str, clock: &Clock) -> Request {
        let name = LockName::new(name).expect("a name");
        Request::new(name, Duration::from_secs(3), clock.clone()).expect("a request")
    }

    #[test]
    fn many_names_that_are_held_are_looked_through_seldom_and_forgotten_once_they_are_not() {
        let (cohorts, clock) = (Cohorts::default(), Clock::manual());
        let waiters = Arc::<Waiters>::default();
        let grant = |n: u32| {
            let record = waiters.enter(&request(&n.to_string(), &clock));
            cohorts.granted(&record, 1, clock.now(), Vec::new())
        };
        let (mut held, mut looks, mut left) = (Vec::new(), 0, 0);
        for n in 0..5_000 {
            held.push(grant(n));
            let now_left = cohorts.names().left;
            looks += u32::from(now_left != left);
            left = now_left;
        }
        assert_eq!(looks, 5, "at 256, and at each doubling up to 4096");
        drop(held);
        (5_000..20_000).for_each(|n| drop(grant(n)));
        assert!(cohorts.names().of.len() <= MANY);
    }

    #[test]
    fn from_a_grant_that_was_withdrawn_on_its_way_nothing_is_handed_on() {
        let (cohorts, clock) = (Cohorts::default(), Clock::manual());
        let request = request("a", &clock);
        let record = Arc::<Waiters>::default().enter(&request);
        let granted = |token| cohorts.granted(&record, token, clock.now(), Vec::new());
        let held = granted(1);
        record.withdraw();
        assert!(Arc::ptr_eq(&granted(1), &held), "its withdrawal has found it");
        let late = granted(2);
        assert_eq!(late.token_of(request.id()), Some(2));
        let latest = cohorts.latest(request.name()).expect("the one before");
        assert!(Arc::ptr_eq(&latest, &held), "no request waits behind the late one");
    }
}
