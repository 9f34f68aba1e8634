//! What is proven of a session's life, and for how long the servers keep it by that.
//!
//! ```text
//! client    made(t) ........ answered(t) -- at least WORD --> made(w) ................ acked(w)
//! follower      ... touched(t) ...........  answers a ping  ... passes w on ...
//! leader                                    hears of t           takes w: the session lives
//! ```
//!
//! A leader counts a session's timeout from when it last heard of it. Of a follower's clients it hears in the
//! answers to its pings, every half tick; a write that a follower passes on tells it nothing. All that a follower
//! tells, the leader hears in order. So for a request t, a read or a write, and a later write w that is acked:
//!
//! 1. made(t) <= touched(t) <= answered(t), and made(w) <= passed on(w) <= acked(w). A client knows the outer
//!    instants alone: it may stand still between the making and the sending, and before it reads an answer.
//! 2. The follower answers a ping between touched(t) and passed on(w) if they are WORD apart: half a tick, and
//!    what a ping may be late by. They are if answered(t) + WORD <= made(w).
//! 3. Then the leader hears of t before it takes w. w is acked: the session lives by then, and the leader keeps
//!    it for its timeout after touched(t) at least. made(t) is no later: that is `told`.
//! 4. A server that reopens a session asks the leader, which hears of it then. The driver tells that its link is
//!    down before it sends the next server anything. So an instant at which the link was up, and no change told, is
//!    no later than the reopening: `told` too. An instant at which it was down is: the answer may be read late.
//! 5. What was answered on another connection before is covered by 4: the reopening came after that answer.
//!
//! So a term ends by told + timeout, and by made(w) + ttl. One link is weaker: where servers have *lowered* their
//! limits, a term from before ends by the shorter timeout after the reopening was told, which may be late.

use std::time::Duration;

use lockkit_core::Instant;

use crate::pace::Pace;

/// A tick has so many parts.
const PARTS: u32 = 16;
/// After so many of them a follower has told its leader of a touch: half a tick, and a late ping.
const WORD: u32 = 9;
/// Kept are so many parts in which answers came: they reach back further than that.
const KEPT: usize = 12;

/// A request, as it is made: it is sent then, or later.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Made {
    at: Instant,
    /// When the session was touched last by what the leader has surely heard of once it acks this one.
    told: Instant,
}

/// Requests that were answered within one part of a tick.
#[derive(Clone, Copy, Debug)]
struct Answered {
    first: Instant,
    last: Instant,
    /// When the last of them was made.
    made: Instant,
}

/// When a session was last proven, and the timeout that it counts with.
///
/// Only writes prove it: the leader had a majority for them, and knew the session. A server that is cut off
/// from its leader answers reads and pings for seconds, and a cut off leader a `sync`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Proof {
    /// When the latest acked write was made.
    pub(crate) latest: Instant,
    /// How long its ack took.
    took: Duration,
    /// When the session was touched last by what the leader has surely heard of.
    told: Instant,
    /// When the last reopening was told of, less than a look before.
    reopened: Instant,
    /// What was answered, reads too; the latest first.
    answered: [Answered; KEPT],
    tick: Duration,
    /// The servers keep the session for as long as this, at least.
    timeout: Duration,
    /// As it was made.
    granted: Duration,
    /// Whether the servers were asked for it since the last reconnection.
    is_sure: bool,
    /// Until when the terms last that were given.
    given: Instant,
}

impl Proof {
    /// Of a session that was asked for at this instant: its leader has made it.
    pub(crate) const fn new(asked: Instant, timeout: Duration, tick: Duration) -> Self {
        let [latest, told, reopened, given] = [asked; 4];
        let answered = [Answered { first: asked, last: asked, made: asked }; KEPT];
        let (took, granted, is_sure) = (Duration::ZERO, timeout, true);
        Self { latest, took, told, reopened, answered, tick, timeout, granted, is_sure, given }
    }

    /// A request is made now, and sent later.
    pub(crate) fn make(&self, now: Instant) -> Made {
        let word = self.tick / PARTS * WORD;
        let was_told = |answered: &&Answered| answered.last.saturating_add(word) <= now;
        let told = self.answered.iter().filter(was_told).map(|answered| answered.made).max();
        Made { at: now, told: told.unwrap_or(self.told) }
    }

    /// A request is answered by now, by whichever server.
    pub(crate) fn touched(&mut self, made: Made, now: Instant) {
        let [latest, ..] = &mut self.answered;
        // Within one part of a tick they count as one, from the last answer on.
        if now < latest.first.saturating_add(self.tick / PARTS) {
            (latest.last, latest.made) = (latest.last.max(now), latest.made.max(made.at));
        } else {
            self.answered.rotate_right(1);
            self.answered[0] = Answered { first: now, last: now, made: made.at };
        }
    }

    /// A write is acked by now; whether that is news. Acks of two writes may come in either order.
    pub(crate) fn acked(&mut self, made: Made, now: Instant) -> bool {
        self.touched(made, now);
        self.told = self.told.max(made.told);
        let is_news = made.at > self.latest;
        if is_news {
            (self.latest, self.took) = (made.at, now.saturating_since(made.at));
        }
        is_news
    }

    /// The term that is given now: from when it counts, and its ttl.
    pub(crate) fn give(&mut self) -> (Instant, Duration) {
        let (since, ttl) = self.term();
        let ends = since.saturating_add(ttl);
        if ends > self.latest {
            self.given = self.given.max(ends);
        }
        (since, ttl)
    }

    /// The term counts from the latest write, and ends with the session at the latest.
    fn term(&self) -> (Instant, Duration) {
        let (left, ttl) = (self.left(), self.ttl());
        match left < ttl && self.is_shortened() {
            true => (self.latest, left),
            false => (self.latest.saturating_add(left.min(ttl)).saturating_sub(ttl), ttl),
        }
    }

    /// Whether a term that is given now renews one that counts from `since`.
    pub(crate) fn renews(&self, since: Instant) -> bool {
        match self.is_shortened() {
            // It replaces a longer one, which has its end by `ends_early` until the leader has heard more.
            true => self.is_whole(),
            false => self.is_sure && self.term().0 > since,
        }
    }

    fn is_shortened(&self) -> bool {
        self.timeout < self.granted
    }

    /// Whether a term has the whole ttl ahead of it now. Over a slow link, what the leader has surely heard of is always
    /// older, by a round trip: there it has that much less.
    pub(crate) fn is_whole(&self) -> bool {
        let is_slow = self.took > self.tick / 8;
        let less = if is_slow { self.took } else { Duration::ZERO };
        self.is_sure && self.left() >= self.ttl().saturating_sub(less)
    }

    pub(crate) const fn is_sure(&self) -> bool {
        self.is_sure
    }

    pub(crate) const fn pace(&self) -> Pace {
        Pace::lasting(self.timeout, self.tick)
    }

    /// A server has reopened the session, after the link was `up`; that was not told by `seen`. It keeps the
    /// session for `least`, or for what it had: the driver does not tell.
    pub(crate) fn reopen(&mut self, up: Instant, seen: Instant, least: Duration) {
        self.told = self.told.max(up);
        self.reopened = self.reopened.max(seen);
        self.timeout = self.timeout.min(least);
        self.is_sure = false;
    }

    /// The servers were asked: they keep it so long.
    pub(crate) const fn settle(&mut self, timeout: Duration) {
        self.timeout = timeout;
        self.is_sure = true;
    }

    /// When the session may end before a term that was given does; `None`: not before. Only a timeout that
    /// became shorter does that: it counts from when its reopening was told.
    pub(crate) fn ends_early(&self) -> Option<Instant> {
        let end = self.told.max(self.reopened).saturating_add(self.timeout);
        (end < self.given).then_some(end)
    }

    fn ttl(&self) -> Duration {
        self.pace().ttl()
    }

    /// How long after the latest write the servers keep the session, at least.
    fn left(&self) -> Duration {
        self.told.saturating_add(self.timeout).saturating_since(self.latest)
    }
}

#[cfg(test)]
mod tests;
