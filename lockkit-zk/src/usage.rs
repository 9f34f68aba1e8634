//! Who uses a session, and how much of its room for watches.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lockkit_core::{Clock, Instant};
use tokio::sync::Notify;

/// How many bytes of paths may be watched. From 128 KiB on the driver sets its watches again in two
/// requests after a reconnection, takes the second answer for an error, and loses the session.
const ROOM: usize = 120 * 1024;

/// What keeps a session alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beat {
    /// A write, which proves that it lives.
    Proof,
    /// A read while it is unused, so that the next user's first write proves enough.
    Touch,
}

/// The users of a session.
#[derive(Debug)]
pub(crate) struct Users {
    clock: Clock,
    usage: Mutex<Usage>,
    /// There is one again.
    wanted: Notify,
}

#[derive(Debug)]
struct Usage {
    users: usize,
    /// Whether there ever was one.
    was_used: bool,
    /// Of the paths that they may watch.
    bytes: usize,
    /// When the last of them left.
    since: Instant,
    is_closed: bool,
    /// How many removals the servers refuse.
    refused: usize,
}

/// A removal that the servers refuse: only the session's end removes what it is for, unless the right comes
/// back. So its session takes no new users, and is closed as soon as it has none.
#[derive(Debug)]
pub(crate) struct Refusal(Arc<Users>);

/// Keeps a session open and its heartbeats going, and some of its room taken.
#[derive(Clone, Debug)]
pub(crate) struct InUse {
    _counted: Arc<Use>,
}

#[derive(Debug)]
struct Use {
    users: Arc<Users>,
    bytes: usize,
}

impl Users {
    pub(crate) fn new(clock: Clock) -> Self {
        let since = clock.now();
        let usage =
            Usage { users: 0, was_used: false, bytes: 0, since, is_closed: false, refused: 0 };
        Self { clock, usage: Mutex::new(usage), wanted: Notify::new() }
    }

    /// One more, that may watch so many bytes of paths; `None` where there is no room, or no
    /// session any more. Who `is_in` has its room already.
    pub(crate) fn enter(self: &Arc<Self>, bytes: usize, is_in: bool) -> Option<InUse> {
        let mut usage = self.usage();
        let has_room = is_in || usage.users == 0 || usage.bytes + bytes <= ROOM;
        let is_ending = usage.refused > 0 && !is_in;
        if usage.is_closed || is_ending || !has_room {
            return None;
        }
        if usage.users == 0 {
            self.wanted.notify_one();
        }
        usage.users += 1;
        usage.was_used = true;
        usage.bytes += bytes;
        Some(InUse { _counted: Arc::new(Use { users: Arc::clone(self), bytes }) })
    }

    /// Completes when there is one again.
    pub(crate) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// What keeps the session alive for those that use it, or may again.
    pub(crate) fn beat(&self) -> Option<Beat> {
        let usage = self.usage();
        match usage.users {
            0 => usage.was_used.then_some(Beat::Touch),
            _ => Some(Beat::Proof),
        }
    }

    /// A removal is refused, until this is dropped.
    pub(crate) fn refused(self: &Arc<Self>) -> Refusal {
        self.usage().refused += 1;
        Refusal(Arc::clone(self))
    }

    /// When the session is closed if there is no user until then; `None`: there is one.
    pub(crate) fn closes_at(&self, idle: Duration) -> Option<Instant> {
        let usage = self.usage();
        (usage.users == 0).then(|| usage.closes_at(idle))
    }

    /// Closes it to new users if there was none for so long.
    pub(crate) fn closes(&self, idle: Duration) -> bool {
        let mut usage = self.usage();
        let is_idle = self.clock.now() >= usage.closes_at(idle);
        usage.is_closed |= usage.users == 0 && is_idle;
        usage.is_closed
    }

    fn usage(&self) -> MutexGuard<'_, Usage> {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Usage {
    fn closes_at(&self, idle: Duration) -> Instant {
        match self.refused {
            0 => self.since.saturating_add(idle),
            _ => self.since,
        }
    }
}

impl Drop for Refusal {
    fn drop(&mut self) {
        self.0.usage().refused -= 1;
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        let mut usage = self.users.usage();
        usage.users -= 1;
        usage.bytes -= self.bytes;
        usage.since = self.users.clock.now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_so_much_and_for_one_of_any_size() {
        let users = Arc::new(Users::new(Clock::system()));
        let large = users.enter(2 * ROOM, false).expect("the first");
        assert!(users.enter(1, false).is_none());
        let again = users.enter(1, true).expect("it is there already");
        drop((large, again));
        let all: Vec<_> = std::iter::from_fn(|| users.enter(ROOM / 10, false)).collect();
        assert_eq!(all.len(), 10);
        drop(all);
        assert!(users.enter(ROOM, false).is_some());
    }

    #[test]
    fn only_what_nobody_uses_is_closed_and_then_for_good() {
        let users = Arc::new(Users::new(Clock::system()));
        let one = users.enter(1, false).expect("the first");
        assert!(!users.closes(Duration::ZERO) && users.closes_at(Duration::ZERO).is_none());
        drop(one);
        let idle = Duration::from_secs(60);
        assert!(!users.closes(idle) && users.closes_at(idle).is_some());
        assert!(users.closes(Duration::ZERO));
        assert!(users.enter(1, false).is_none() && users.enter(1, true).is_none());
    }

    #[test]
    fn what_has_a_refused_removal_takes_no_new_users_and_is_closed_without_one() {
        let users = Arc::new(Users::new(Clock::system()));
        let idle = Duration::from_secs(60);
        let one = users.enter(1, false).expect("the first");
        let refusal = users.refused();
        assert!(users.enter(1, false).is_none() && !users.closes(idle));
        let again = users.enter(1, true).expect("it is there already");
        // The right came back.
        drop(refusal);
        drop(users.enter(1, false).expect("as before"));
        let _refusal = users.refused();
        drop((one, again));
        assert!(users.closes(idle));
    }
}
