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
}

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
        let usage =
            Usage { users: 0, was_used: false, bytes: 0, since: clock.now(), is_closed: false };
        Self { clock, usage: Mutex::new(usage), wanted: Notify::new() }
    }

    /// One more, that may watch so many bytes of paths; `None` where there is no room, or no
    /// session any more. Who `is_in` has its room already.
    pub(crate) fn enter(self: &Arc<Self>, bytes: usize, is_in: bool) -> Option<InUse> {
        let mut usage = self.usage();
        let has_room = is_in || usage.users == 0 || usage.bytes + bytes <= ROOM;
        if usage.is_closed || !has_room {
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

    /// Since when there is none.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        let usage = self.usage();
        (usage.users == 0).then_some(usage.since)
    }

    /// Closes it to new users if there was none for so long.
    pub(crate) fn closes(&self, idle: Duration) -> bool {
        let mut usage = self.usage();
        let is_idle = self.clock.now().saturating_since(usage.since) >= idle;
        usage.is_closed |= usage.users == 0 && is_idle;
        usage.is_closed
    }

    fn usage(&self) -> MutexGuard<'_, Usage> {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
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
        assert!(!users.closes(Duration::ZERO) && users.idle_since().is_none());
        drop(one);
        assert!(!users.closes(Duration::from_secs(60)) && users.idle_since().is_some());
        assert!(users.closes(Duration::ZERO));
        assert!(users.enter(1, false).is_none() && users.enter(1, true).is_none());
    }
}
