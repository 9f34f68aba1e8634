//! What is proven of a session's life, and for how long the servers keep it by that.

use std::time::Duration;

use lockkit_core::Instant;

use crate::pace::Pace;

/// The last two acked proofs of life, and the timeout that they count with.
///
/// Only writes count: the leader had a majority for them, and knew the session. A server that is
/// cut off from its leader answers reads and pings for seconds, and a cut off leader a `sync`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Proof {
    /// When they were sent.
    pub(crate) before: Instant,
    pub(crate) latest: Instant,
    tick: Duration,
    /// The servers keep the session for as long as this, at least.
    timeout: Duration,
    /// Whether the servers were asked for it since the last reconnection.
    is_sure: bool,
    /// The session was not reopened before; a server that reopens it counts its timeout from then.
    reopened: Instant,
    /// Until when the terms last that were given.
    given: Instant,
}

impl Proof {
    /// Of a session that was asked for at this instant.
    pub(crate) const fn new(asked: Instant, timeout: Duration, tick: Duration) -> Self {
        let [before, latest, reopened, given] = [asked; 4];
        Self { before, latest, tick, timeout, is_sure: true, reopened, given }
    }

    /// A write that was sent then was acked; whether that is news. Acks of two writes may come in
    /// either order.
    pub(crate) fn acked(&mut self, sent: Instant) -> bool {
        let Self { before, latest, .. } = *self;
        if sent > latest {
            (self.before, self.latest) = (latest, sent);
        } else if sent > before && sent < latest {
            self.before = sent;
        }
        sent > before && sent != latest
    }

    /// The ttl that a term has now: it counts from the latest, and lasts no longer than the one
    /// before allows.
    pub(crate) fn give(&mut self) -> Duration {
        let ttl = self.left().min(self.ttl());
        self.given = self.given.max(self.latest.saturating_add(ttl));
        ttl
    }

    /// Whether a term has the whole ttl now.
    pub(crate) fn is_whole(&self) -> bool {
        self.is_sure && self.left() >= self.ttl()
    }

    pub(crate) const fn is_sure(&self) -> bool {
        self.is_sure
    }

    pub(crate) const fn pace(&self) -> Pace {
        Pace::lasting(self.timeout, self.tick)
    }

    /// A server has reopened the session, not before this instant, and keeps it for `least`, or for
    /// what it had: the driver does not tell.
    pub(crate) fn reopen(&mut self, at: Instant, least: Duration) {
        self.reopened = at;
        self.timeout = self.timeout.min(least);
        self.is_sure = false;
    }

    /// The servers were asked: they keep it so long.
    pub(crate) const fn settle(&mut self, timeout: Duration) {
        self.timeout = timeout;
        self.is_sure = true;
    }

    /// When the session may end before a term that was given does; `None`: not before.
    pub(crate) fn ends_early(&self) -> Option<Instant> {
        let proven = self.before.saturating_add(self.timeout.saturating_sub(self.tick));
        let end = proven.max(self.reopened.saturating_add(self.timeout));
        (end < self.given).then_some(end)
    }

    fn ttl(&self) -> Duration {
        self.pace().ttl()
    }

    /// How long after the latest the servers keep the session, at least: a follower may tell its
    /// leader of it a tick late.
    fn left(&self) -> Duration {
        let kept = self.timeout.saturating_sub(self.tick);
        kept.saturating_sub(self.latest.saturating_since(self.before))
    }
}

#[cfg(test)]
mod tests {
    use lockkit_core::Clock;

    use super::*;

    const TICK: Duration = Duration::from_secs(2);
    const TIMEOUT: Duration = Duration::from_secs(34);

    const fn s(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    /// A session that was proven twice at the start, which is given too.
    fn proven() -> (Proof, Instant) {
        let start = Clock::system().now();
        (Proof::new(start, TIMEOUT, TICK), start)
    }

    #[test]
    fn a_session_that_is_not_shortened_never_ends_before_its_terms() {
        let (mut proof, start) = proven();
        assert_eq!(proof.give(), s(30));
        assert_eq!(proof.ends_early(), None);
        proof.acked(start.saturating_add(s(1)));
        assert_eq!(proof.give(), s(30));
        assert_eq!(proof.ends_early(), None);
        // Of a gap, the term is shorter.
        proof.acked(start.saturating_add(s(20)));
        assert_eq!(proof.give(), s(13));
        assert_eq!(proof.ends_early(), None);
    }

    #[test]
    fn a_reopened_session_is_worth_two_ticks_until_the_servers_have_answered() {
        let (mut proof, start) = proven();
        proof.give();
        proof.reopen(start.saturating_add(s(10)), 2 * TICK);
        assert!(!proof.is_sure() && !proof.is_whole());
        assert_eq!(proof.ends_early(), Some(start.saturating_add(s(14))));
        proof.settle(TIMEOUT);
        assert!(proof.is_sure());
        assert_eq!(proof.ends_early(), None);
    }

    #[test]
    fn a_shortened_session_ends_by_its_new_timeout_and_so_do_its_terms() {
        let (mut proof, start) = proven();
        proof.give();
        proof.reopen(start.saturating_add(s(1)), 2 * TICK);
        proof.settle(s(10));
        assert_eq!(proof.ends_early(), Some(start.saturating_add(s(11))));
        for at in [2, 3] {
            proof.acked(start.saturating_add(s(at)));
        }
        assert_eq!(proof.give(), s(6));
        // Ten seconds after it was reopened, which is later than eight after the last but one.
        assert_eq!(proof.ends_early(), Some(start.saturating_add(s(11))));
        // The terms from before its shortening have passed.
        for at in [25, 26] {
            proof.acked(start.saturating_add(s(at)));
        }
        assert_eq!(proof.ends_early(), None);
    }
}
