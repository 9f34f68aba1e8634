//! Proofs one by one, and many random sessions beside what their leader knows.

use lockkit_core::Clock;
use testbed::fuzz::Sequence;

use super::*;

const TICK: Duration = Duration::from_secs(2);
const TIMEOUT: Duration = Duration::from_secs(32);

const fn s(count: u64) -> Duration {
    Duration::from_secs(count)
}

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// A session that was made at the start, which is given too.
fn proven() -> (Proof, Instant) {
    let start = Clock::system().now();
    (Proof::new(start, TIMEOUT, TICK), start)
}

/// How long a term lasts after the latest write.
fn given(proof: &mut Proof) -> Duration {
    let (since, ttl) = proof.give();
    since.saturating_add(ttl).saturating_since(proof.latest)
}

/// A write that is made and acked at one instant.
fn ack(proof: &mut Proof, at: Instant) {
    let made = proof.make(at);
    proof.acked(made, at);
}

#[test]
fn a_session_that_is_not_shortened_never_ends_before_its_terms() {
    let (mut proof, start) = proven();
    assert_eq!(given(&mut proof), s(30));
    assert_eq!(proof.ends_early(), None);
    ack(&mut proof, start.saturating_add(s(1)));
    assert_eq!(given(&mut proof), s(30));
    assert_eq!(proof.ends_early(), None);
    // The leader may have heard nothing since the first.
    ack(&mut proof, start.saturating_add(s(20)));
    assert!(!proof.is_whole());
    assert_eq!(given(&mut proof), s(13));
    assert_eq!(proof.ends_early(), None);
}

#[test]
fn after_a_silence_two_writes_close_together_prove_no_more_than_the_first() {
    let (mut proof, start) = proven();
    let at = |millis| start.saturating_add(ms(millis));
    for millis in [20_000, 20_125, 20_900, 21_124] {
        ack(&mut proof, at(millis));
        assert!(!proof.is_whole(), "at {millis} ms");
    }
    // A session that may have ended gives no term, and no such term ends it.
    let mut late = proof;
    ack(&mut late, start.saturating_add(s(60)));
    assert_eq!(given(&mut late), Duration::ZERO);
    assert_eq!(late.ends_early(), None);
    // Its follower has told the leader of the first by then, also where a ping was late.
    ack(&mut proof, at(21_125));
    assert!(proof.is_whole());
}

#[test]
fn what_is_told_counts_from_its_making_and_from_its_answer_on() {
    let (mut proof, start) = proven();
    let at = |millis| start.saturating_add(ms(millis));
    // It may have been sent at any time until its answer came.
    let slow = proof.make(at(20_000));
    proof.touched(slow, at(21_000));
    for millis in [21_200, 21_500, 22_124] {
        ack(&mut proof, at(millis));
        assert_eq!(proof.told, start, "at {millis} ms");
    }
    ack(&mut proof, at(22_125));
    assert_eq!(proof.told, at(20_000));
}

#[test]
fn a_write_tells_of_what_was_answered_before_it_was_made_however_late_it_is_acked() {
    let (mut proof, start) = proven();
    let at = |millis| start.saturating_add(ms(millis));
    let early = proof.make(at(20_500));
    let read = proof.make(at(20_000));
    proof.touched(read, at(20_000));
    proof.acked(early, at(29_000));
    assert_eq!(proof.told, start);
    ack(&mut proof, at(29_000));
    assert_eq!(proof.told, at(20_000));
}

#[test]
fn reads_before_a_write_are_told_with_it_and_prove_nothing_by_themselves() {
    let (mut proof, start) = proven();
    let at = |millis| start.saturating_add(ms(millis));
    for quarters in 1..=40 {
        proof.touched(proof.make(at(quarters * 500)), at(quarters * 500));
    }
    assert_eq!(proof.latest, start);
    ack(&mut proof, at(20_100));
    assert!(proof.is_whole());
    assert_eq!(given(&mut proof), s(30));
    // Many writes at once push none of what was told out of mind.
    for millis in 20_100..24_000 {
        ack(&mut proof, at(millis));
        assert!(proof.is_whole(), "at {millis} ms");
    }
}

#[test]
fn over_a_slow_link_a_term_is_shorter_by_a_round_trip_at_most() {
    let (mut proof, start) = proven();
    let (round_trip, interval) = (ms(1_500), ms(500));
    let mut under_way = std::collections::VecDeque::new();
    for beat in 0..100 {
        let now = start.saturating_add(interval * beat);
        under_way.push_back(proof.make(now));
        if beat < 3 {
            continue;
        }
        proof.acked(under_way.pop_front().expect("a heartbeat"), now);
        assert_eq!(now.saturating_since(proof.latest), round_trip);
        let least = s(30).saturating_sub(round_trip);
        assert!(beat < 10 || (proof.is_whole() && given(&mut proof) >= least), "{beat}: {proof:?}");
    }
}

#[test]
fn a_reopened_session_is_worth_two_ticks_until_the_servers_have_answered() {
    let (mut proof, start) = proven();
    proof.give();
    proof.reopen(start, start.saturating_add(s(10)), 2 * TICK);
    assert!(!proof.is_sure() && !proof.is_whole());
    assert_eq!(proof.ends_early(), Some(start.saturating_add(s(14))));
    proof.settle(TIMEOUT);
    assert!(proof.is_sure());
    assert_eq!(proof.ends_early(), None);
}

#[test]
fn a_reopening_counts_from_when_the_link_was_known_up_last_for_what_is_given_after_it() {
    let (mut proof, start) = proven();
    proof.reopen(start.saturating_add(s(4)), start.saturating_add(s(9)), 2 * TICK);
    proof.settle(TIMEOUT);
    ack(&mut proof, start.saturating_add(s(9)));
    assert!(!proof.is_whole());
    assert_eq!(given(&mut proof), s(4 + 32 - 9));
    assert_eq!(proof.ends_early(), None);
}

#[test]
fn a_shortened_session_ends_by_its_new_timeout_and_so_do_its_terms() {
    let (mut proof, start) = proven();
    proof.give();
    proof.reopen(start, start.saturating_add(s(1)), 2 * TICK);
    proof.settle(s(10));
    assert_eq!(proof.ends_early(), Some(start.saturating_add(s(11))));
    for at in [2, 4] {
        ack(&mut proof, start.saturating_add(s(at)));
    }
    // From the latest write on, so that it replaces the longer term from before.
    assert_eq!(proof.give(), (start.saturating_add(s(4)), s(8)));
    // Ten seconds after the last but one, of which the leader has heard.
    assert_eq!(proof.ends_early(), Some(start.saturating_add(s(12))));
    // The terms from before its shortening have passed.
    for at in [25, 27] {
        ack(&mut proof, start.saturating_add(s(at)));
    }
    assert_eq!(proof.ends_early(), None);
}

#[test]
fn a_renewal_gives_more_than_before_and_replaces_a_longer_term_only_by_a_whole_one() {
    let (mut proof, start) = proven();
    let at = |count| start.saturating_add(s(count));
    let (before, _) = proof.give();
    ack(&mut proof, at(9));
    assert!(proof.renews(before), "up to the session's end");
    let (since, _) = proof.give();
    ack(&mut proof, at(10));
    assert!(!proof.renews(since), "the leader may have heard no more");
    ack(&mut proof, at(11));
    assert!(proof.renews(since));
    assert_eq!(proof.give(), (at(11), s(30)));
    // After a reopening that took longer than the new timeout, by what is known.
    proof.reopen(at(11), at(30), 2 * TICK);
    proof.settle(s(10));
    ack(&mut proof, at(30));
    assert!(!proof.renews(before) && proof.ends_early() == Some(at(40)));
    ack(&mut proof, at(32));
    assert!(proof.renews(at(60)));
    assert_eq!(proof.give(), (at(32), s(8)));
}

/// What a client may take for the end of its session, from its acked writes and answered reads.
trait Belief {
    fn new(start: Instant) -> Self;
    fn make(&mut self, at: Instant) -> Made;
    fn read(&mut self, made: Made, at: Instant);
    fn write(&mut self, made: Made, at: Instant);
    /// The link was up last at an instant, and down at another before it was told that it is up again.
    fn reopen(&mut self, up: Instant, seen: Instant);
    fn ends(&mut self) -> Instant;
}

impl Belief for Proof {
    fn new(start: Instant) -> Self {
        Self::new(start, TIMEOUT, TICK)
    }

    fn make(&mut self, at: Instant) -> Made {
        Self::make(self, at)
    }

    fn read(&mut self, made: Made, at: Instant) {
        self.touched(made, at);
    }

    fn write(&mut self, made: Made, at: Instant) {
        self.acked(made, at);
    }

    fn reopen(&mut self, up: Instant, seen: Instant) {
        Self::reopen(self, up, seen, TICK * 2);
        self.settle(TIMEOUT);
    }

    fn ends(&mut self) -> Instant {
        let (since, ttl) = self.give();
        since.saturating_add(ttl)
    }
}

/// What the rules below do instead: each is the real one but for one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weaker {
    /// The ttl after the latest write, whatever came before.
    LatestAlone,
    /// The write before the latest is taken for told, however short before.
    OneBefore,
    /// Reads prove as much as writes.
    AnyAnswer,
    /// What was made half a tick before a write is taken for told, whenever it was answered.
    ByMaking,
    /// A session is taken to be reopened when that is told.
    ReopenedAsTold,
}

/// A rule that is weaker than the real one.
struct Weak<const RULE: usize> {
    proof: Proof,
    made: Vec<Instant>,
}

const RULES: [Weaker; 5] = [
    Weaker::LatestAlone,
    Weaker::OneBefore,
    Weaker::AnyAnswer,
    Weaker::ByMaking,
    Weaker::ReopenedAsTold,
];

impl<const RULE: usize> Belief for Weak<RULE> {
    fn new(start: Instant) -> Self {
        Self { proof: Belief::new(start), made: vec![start] }
    }

    fn make(&mut self, at: Instant) -> Made {
        self.proof.make(at)
    }

    fn read(&mut self, made: Made, at: Instant) {
        self.made.push(made.at);
        match RULES[RULE] {
            Weaker::AnyAnswer => self.write(made, at),
            _ => self.proof.touched(made, at),
        }
    }

    fn write(&mut self, made: Made, at: Instant) {
        let before = self.proof.latest;
        self.made.push(made.at);
        self.proof.acked(made, at);
        let latest = self.proof.latest;
        self.proof.told = match RULES[RULE] {
            Weaker::LatestAlone => latest,
            Weaker::OneBefore => before,
            Weaker::ByMaking => {
                let was_told = |made: &&Instant| made.saturating_add(TICK / 2) <= latest;
                self.made.iter().filter(was_told).max().copied().unwrap_or(self.proof.told)
            }
            Weaker::AnyAnswer | Weaker::ReopenedAsTold => return,
        };
    }

    fn reopen(&mut self, up: Instant, seen: Instant) {
        let is_late = RULES[RULE] == Weaker::ReopenedAsTold;
        Belief::reopen(&mut self.proof, if is_late { seen } else { up }, seen);
    }

    fn ends(&mut self) -> Instant {
        self.proof.ends()
    }
}

/// A random session on a follower that tells its leader of its clients every half tick, sometimes a little late,
/// and is cut off at a random instant. It answers reads for a while then, and no write. The client, or its link,
/// stands still at times: before it sends what was made, before it reads an answer, and before it reads that a
/// server has reopened the session.
struct Story<B> {
    random: Sequence,
    belief: B,
    /// The latest end that was believed in.
    ends: u64,
    cut: u64,
    /// When it tells its leader next.
    tells: u64,
    /// When the follower was touched, and the leader had last heard of.
    touched: u64,
    heard: u64,
    /// When the last request had come to the follower, and its answer to the client.
    served: u64,
    answered: u64,
    /// The requests whose answers are not read: when they are, and whether they are acked writes.
    unread: Vec<(u64, Made, bool)>,
}

impl<B: Belief> Story<B> {
    fn at(ms: u64) -> Instant {
        Instant::from_origin(Duration::from_millis(ms))
    }

    fn new(seed: u64) -> Self {
        let mut random = Sequence::new(seed);
        let (tells, cut) = (random.below(1_000), random.below(30_000));
        let (belief, unread) = (B::new(Self::at(0)), Vec::new());
        let [ends, touched, heard, served, answered] = [0; 5];
        Self { random, belief, ends, cut, tells, touched, heard, served, answered, unread }
    }

    /// A while that is long at times.
    fn pause(&mut self) -> u64 {
        match self.random.below(8) {
            0 => self.random.below(3_000),
            _ => self.random.below(100),
        }
    }

    /// What the follower tells its leader by then.
    fn tell(&mut self, now: u64) {
        while self.tells <= now.min(self.cut) {
            self.heard = self.heard.max(self.touched);
            self.tells += 1_000 + self.random.below(100);
        }
    }

    /// The client reads what was answered by then.
    fn read(&mut self, now: u64) {
        let (read, unread) =
            std::mem::take(&mut self.unread).into_iter().partition(|it| it.0 <= now);
        self.unread = unread;
        let read: Vec<(u64, Made, bool)> = read;
        for (at, made, is_write) in read {
            match is_write {
                true => self.belief.write(made, Self::at(at)),
                false => self.belief.read(made, Self::at(at)),
            }
            self.believe();
        }
    }

    fn believe(&mut self) {
        let ends = self.belief.ends().saturating_since(Self::at(0));
        self.ends = self.ends.max(u64::try_from(ends.as_millis()).expect("short"));
    }

    fn ask(&mut self, now: u64) {
        let made = self.belief.make(Self::at(now));
        self.served = (now + self.pause()).max(self.served);
        self.tell(self.served);
        self.touched = self.served;
        let is_write = self.random.below(3) > 0;
        self.answered = (self.served + self.pause()).max(self.answered);
        if !is_write || self.served <= self.cut {
            self.unread.push((self.answered, made, is_write));
        }
    }

    /// The link is down for a while; when it is up again.
    fn reopen(&mut self, now: u64) -> u64 {
        self.unread.clear();
        let reopened = now.max(self.served) + self.random.below(1_000);
        let told = reopened + self.pause();
        self.tell(reopened);
        if reopened > self.cut {
            return told;
        }
        (self.touched, self.heard, self.served, self.answered) = (reopened, reopened, told, told);
        self.belief.reopen(Self::at(now), Self::at(told));
        told
    }

    /// For how long the client believes in it longer than its leader keeps it.
    fn told(mut self) -> u64 {
        let mut now = 0;
        self.believe();
        while now < self.cut + 4_000 {
            // Heartbeats mostly, and callers' writes between them, or a long silence.
            let pause =
                [500, 1, 100, 500, 9_000][usize::try_from(self.random.below(5)).unwrap_or(0)];
            now += pause;
            self.read(now);
            match self.random.below(12) {
                0 => now = self.reopen(now),
                _ => self.ask(now),
            }
        }
        self.read(u64::MAX);
        let kept = self.heard + u64::try_from(TIMEOUT.as_millis()).expect("short");
        self.ends.saturating_sub(kept)
    }
}

/// How many of many random sessions a client believes in for longer than their leader keeps them.
fn outlasting<B: Belief>() -> usize {
    (0..20_000).filter(|seed| Story::<B>::new(*seed).told() > 0).count()
}

#[test]
fn no_belief_outlasts_what_a_leader_knows_and_each_weaker_rule_does() {
    assert_eq!(outlasting::<Proof>(), 0);
    let weak = [
        outlasting::<Weak<0>>(),
        outlasting::<Weak<1>>(),
        outlasting::<Weak<2>>(),
        outlasting::<Weak<3>>(),
        outlasting::<Weak<4>>(),
    ];
    println!("{:?}", RULES.iter().zip(weak).collect::<Vec<_>>());
    assert!(weak.iter().all(|count| *count > 0), "{weak:?}");
}
