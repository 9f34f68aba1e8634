//! What is proven of a session's life, and for how long the servers keep it by that.

use std::time::Duration;

use lockkit_core::Instant;

use crate::pace::Pace;

/// A touch waits for so many parts of a tick at most before a follower tells its leader of it.
const TOLD_WITHIN: u32 = 2;
/// Answers that were sent for within this part of a tick count as one.
const GRAIN: u32 = 16;
/// So many of them reach back further than a follower's next word to its leader.
const KEPT: usize = 10;

/// When a session was last proven, and the timeout that it counts with.
///
/// Only writes prove it: the leader had a majority for them, and knew the session. A server that is cut off
/// from its leader answers reads and pings for seconds, and a cut off leader a `sync`.
///
/// A leader counts a session's timeout from when it heard of it last. A follower tells it of its own
/// clients every half tick, and a write that it passes on tells nothing. So a write proves two things: the
/// session lived, and the leader had heard all that its follower had told before. What was answered half
/// a tick before the write was told by then: the session lasts its timeout from there, at least.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Proof {
    /// When the latest acked write was sent.
    pub(crate) latest: Instant,
    /// When the session was touched last by what the leader has surely heard of.
    told: Instant,
    /// When requests were sent that were answered, reads too; the latest first.
    answered: [Instant; KEPT],
    tick: Duration,
    /// The servers keep the session for as long as this, at least.
    timeout: Duration,
    /// Whether the servers were asked for it since the last reconnection.
    is_sure: bool,
    /// Until when the terms last that were given.
    given: Instant,
}

impl Proof {
    /// Of a session that was asked for at this instant: its leader has made it.
    pub(crate) const fn new(asked: Instant, timeout: Duration, tick: Duration) -> Self {
        let [latest, told, given] = [asked; 3];
        let answered = [asked; KEPT];
        Self { latest, told, answered, tick, timeout, is_sure: true, given }
    }

    /// A request that was sent then was answered, by whichever server.
    pub(crate) fn touched(&mut self, sent: Instant) {
        if sent >= self.answered[0].saturating_add(self.tick / GRAIN) {
            self.answered.rotate_right(1);
            self.answered[0] = sent;
        }
    }

    /// A write that was sent then was acked; whether that is news. Acks of two writes may come in
    /// either order.
    pub(crate) fn acked(&mut self, sent: Instant) -> bool {
        self.touched(sent);
        let is_news = sent > self.latest;
        self.latest = self.latest.max(sent);
        let was_told =
            |touch: &&Instant| touch.saturating_add(self.tick / TOLD_WITHIN) <= self.latest;
        let told = self.answered.iter().find(was_told).copied();
        self.told = self.told.max(told.unwrap_or(self.told));
        is_news
    }

    /// The ttl that a term has now: it counts from the latest write, and ends with the session at the latest.
    pub(crate) fn give(&mut self) -> Duration {
        let ttl = self.left().min(self.ttl());
        if !ttl.is_zero() {
            self.given = self.given.max(self.latest.saturating_add(ttl));
        }
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

    /// A server has reopened the session, not before this instant, for which it asks its leader; and keeps it
    /// for `least`, or for what it had: the driver does not tell.
    pub(crate) fn reopen(&mut self, at: Instant, least: Duration) {
        self.told = self.told.max(at);
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
        let end = self.end();
        (end < self.given).then_some(end)
    }

    /// The servers keep the session until then, at least.
    fn end(&self) -> Instant {
        self.told.saturating_add(self.timeout)
    }

    fn ttl(&self) -> Duration {
        self.pace().ttl()
    }

    /// How long after the latest write the servers keep the session, at least.
    fn left(&self) -> Duration {
        self.end().saturating_since(self.latest)
    }
}

#[cfg(test)]
mod tests {
    use lockkit_core::Clock;
    use testbed::fuzz::Sequence;

    use super::*;

    const TICK: Duration = Duration::from_secs(2);
    const TIMEOUT: Duration = Duration::from_secs(32);

    const fn s(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    /// A session that was made at the start, which is given too.
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
        // The leader may have heard nothing since the first.
        proof.acked(start.saturating_add(s(20)));
        assert!(!proof.is_whole());
        assert_eq!(proof.give(), s(13));
        assert_eq!(proof.ends_early(), None);
    }

    #[test]
    fn after_a_silence_two_writes_close_together_prove_no_more_than_the_first() {
        let (mut proof, start) = proven();
        let at = |ms| start.saturating_add(Duration::from_millis(ms));
        for ms in [20_000, 20_125, 20_900] {
            proof.acked(at(ms));
            assert!(!proof.is_whole(), "at {ms} ms");
        }
        // A session that may have ended gives no term, and no such term ends it.
        let mut late = proof;
        late.acked(start.saturating_add(s(60)));
        assert_eq!(late.give(), Duration::ZERO);
        assert_eq!(late.ends_early(), None);
        // Its follower has told the leader of the first by then.
        proof.acked(at(21_000));
        assert!(proof.is_whole());
    }

    #[test]
    fn reads_before_a_write_are_told_with_it_and_prove_nothing_by_themselves() {
        let (mut proof, start) = proven();
        let at = |ms| start.saturating_add(Duration::from_millis(ms));
        for quarters in 1..=40 {
            proof.touched(at(quarters * 500));
        }
        assert_eq!(proof.latest, start);
        proof.acked(at(20_100));
        assert!(proof.is_whole());
        assert_eq!(proof.give(), s(30));
        // Many writes at once push none of what was told out of mind.
        for ms in 20_100..22_000 {
            proof.acked(at(ms));
            assert!(proof.is_whole(), "at {ms} ms");
        }
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
        assert_eq!(proof.give(), s(8));
        // Ten seconds after the last but one, of which the leader has heard.
        assert_eq!(proof.ends_early(), Some(start.saturating_add(s(12))));
        // The terms from before its shortening have passed.
        for at in [25, 26] {
            proof.acked(start.saturating_add(s(at)));
        }
        assert_eq!(proof.ends_early(), None);
    }

    /// What a client may take for the end of its session, from its acked writes and answered reads.
    trait Belief {
        fn new(start: Instant) -> Self;
        fn read(&mut self, sent: Instant);
        fn write(&mut self, sent: Instant);
        fn ends(&mut self) -> Instant;
    }

    impl Belief for Proof {
        fn new(start: Instant) -> Self {
            Self::new(start, TIMEOUT, TICK)
        }

        fn read(&mut self, sent: Instant) {
            self.touched(sent);
        }

        fn write(&mut self, sent: Instant) {
            self.acked(sent);
        }

        fn ends(&mut self) -> Instant {
            let ttl = self.give();
            self.latest.saturating_add(ttl)
        }
    }

    /// The ttl after the latest write, whatever came before.
    struct LatestAlone(Instant);

    impl Belief for LatestAlone {
        fn new(start: Instant) -> Self {
            Self(start)
        }

        fn read(&mut self, _: Instant) {}

        fn write(&mut self, sent: Instant) {
            self.0 = sent;
        }

        fn ends(&mut self) -> Instant {
            self.0.saturating_add(TIMEOUT - TICK)
        }
    }

    /// The write before the latest is taken for told, however short before.
    struct OneBefore(Instant, Instant);

    impl Belief for OneBefore {
        fn new(start: Instant) -> Self {
            Self(start, start)
        }

        fn read(&mut self, _: Instant) {}

        fn write(&mut self, sent: Instant) {
            (self.0, self.1) = (self.1, sent);
        }

        fn ends(&mut self) -> Instant {
            self.0.saturating_add(TIMEOUT - TICK)
        }
    }

    /// Reads prove as much as writes.
    struct AnyAnswer(Proof);

    impl Belief for AnyAnswer {
        fn new(start: Instant) -> Self {
            Self(Belief::new(start))
        }

        fn read(&mut self, sent: Instant) {
            self.0.acked(sent);
        }

        fn write(&mut self, sent: Instant) {
            self.0.acked(sent);
        }

        fn ends(&mut self) -> Instant {
            self.0.ends()
        }
    }

    /// How many of many random sessions a client believes in for longer than their leader keeps them. Each
    /// is on a follower that tells the leader of its clients every half tick, and is cut off at a random instant;
    /// it answers reads for a while then, and no write.
    fn outlasting<B: Belief>() -> usize {
        let outlasts = |seed: &u64| {
            let mut random = Sequence::new(*seed);
            let zero = Clock::manual().now();
            let at = |ms: u64| zero.saturating_add(Duration::from_millis(ms));
            let half_a_tick = 1_000;
            let (delay, phase) = (random.below(300), random.below(half_a_tick));
            let cut = random.below(30_000);
            let (mut belief, mut leader, mut follower, mut told) = (B::new(zero), 0, 0, phase);
            let mut sent = 0;
            let mut ends = belief.ends();
            while sent < cut + 4_000 {
                // Heartbeats mostly, and callers' writes between them, or a long silence.
                sent += [500, 1, 100, 500, 9_000][usize::try_from(random.below(5)).unwrap_or(0)];
                let arrives = sent + delay;
                while told <= arrives.min(cut) {
                    leader = leader.max(follower);
                    told += half_a_tick;
                }
                let is_read = random.below(3) == 0;
                match is_read {
                    true => belief.read(at(sent)),
                    false if arrives <= cut => belief.write(at(sent)),
                    false => {}
                }
                follower = arrives;
                ends = belief.ends().max(ends);
            }
            ends > at(leader).saturating_add(TIMEOUT)
        };
        (0..4_000).filter(outlasts).count()
    }

    #[test]
    fn no_belief_outlasts_what_a_leader_knows_and_each_weaker_rule_does() {
        assert_eq!(outlasting::<Proof>(), 0);
        assert!(outlasting::<LatestAlone>() > 0);
        assert!(outlasting::<OneBefore>() > 0);
        assert!(outlasting::<AnyAnswer>() > 0);
    }
}
