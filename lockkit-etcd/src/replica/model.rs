//! A model of a store, its stream and the readings of one replica: whatever comes between, no waiter is first
//! beside one before it.

use std::collections::BTreeSet;

use testbed::fuzz::Sequence;

use super::tests::{contender, deleted, place, replica};
use super::*;

const RUNS: u64 = 400;
const STEPS: usize = 300;

/// Two of five are shared.
const fn kind(created: i64) -> Kind {
    if created % 5 < 2 { Kind::Shared } else { Kind::Exclusive }
}

fn contender_of_kind(created: i64) -> Contender {
    Contender { kind: kind(created), ..contender(created) }
}

fn put(created: i64) -> Change {
    let contender = contender_of_kind(created);
    Change { key: contender.key.clone(), now: created, contender: Some(contender) }
}

/// What the replica does otherwise than it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    None,
    /// The queue of before a break is believed after it.
    KeepsTheQueue,
    /// The directory is read before the watch stands.
    ReadsTooEarly,
    /// A reading that began before a break counts after it.
    TakesAnOldReading,
}

/// The store, and what is on its way to the replica.
struct World {
    mistake: Mistake,
    random: Sequence,
    replica: Arc<Replica>,
    now: i64,
    alive: BTreeSet<i64>,
    log: Vec<Change>,
    /// How far the stream has told the log, where there is one.
    told: Option<usize>,
    is_asked: bool,
    /// The stream that each began on, what it found, and when.
    readings: Vec<(u64, Vec<Contender>, i64)>,
    waiting: Vec<(i64, Place)>,
}

impl World {
    fn new(mistake: Mistake, seed: u64) -> Self {
        Self {
            mistake,
            random: Sequence::new(seed),
            replica: replica(),
            now: 0,
            alive: BTreeSet::new(),
            log: Vec::new(),
            told: None,
            is_asked: false,
            readings: Vec::new(),
            waiting: Vec::new(),
        }
    }

    fn some(&mut self, end: usize) -> usize {
        usize::try_from(self.random.below(end.max(1) as u64)).expect("small")
    }

    fn read(&mut self, stream: u64) {
        let queue = self.alive.iter().map(|created| contender_of_kind(*created)).collect();
        self.readings.push((stream, queue, self.now));
    }

    fn step(&mut self) {
        match self.some(16) {
            0..3 => {
                self.now += 1;
                self.alive.insert(self.now);
                self.log.push(put(self.now));
                if self.some(2) == 0 {
                    self.waiting.push((self.now, place(&self.replica, self.now)));
                }
            }
            3..6 => {
                let at = self.some(self.alive.len());
                if let Some(gone) = self.alive.iter().nth(at).copied() {
                    self.now += 1;
                    self.alive.remove(&gone);
                    self.log.push(deleted(gone, self.now));
                }
            }
            6 => self.break_up(),
            7 if self.told.is_none() && !self.is_asked => {
                self.is_asked = self.replica.asks() || self.mistake == Mistake::KeepsTheQueue;
                if self.mistake == Mistake::ReadsTooEarly && self.is_asked {
                    let stream = self.replica.state().stream;
                    self.read(stream);
                }
            }
            8 if self.is_asked => {
                (self.told, self.is_asked) = (Some(self.log.len()), false);
                self.replica.stands();
            }
            9..11 => {
                let standing = self.waiting.last().map(|(at, place)| place.standing(kind(*at)));
                if let (Some(Standing::Unread { stream }), false) =
                    (standing, self.mistake == Mistake::ReadsTooEarly)
                {
                    self.read(stream);
                }
            }
            11..13 if !self.readings.is_empty() => {
                let at = self.some(self.readings.len());
                let (mut stream, queue, now) = self.readings.swap_remove(at);
                if self.mistake == Mistake::TakesAnOldReading {
                    stream = self.replica.state().stream;
                }
                self.replica.take_in(stream, queue, now);
            }
            _ => self.deliver(),
        }
    }

    fn break_up(&mut self) {
        (self.told, self.is_asked) = (None, false);
        let is_kept = self.mistake == Mistake::KeepsTheQueue;
        if !(is_kept && self.replica.state().phase == Phase::InStep) {
            self.replica.close();
        }
    }

    fn deliver(&mut self) {
        if let Some(told) = &mut self.told
            && let Some(change) = self.log.get(*told)
        {
            *told += 1;
            self.replica.follow([change.clone()]);
        }
    }

    /// Whether nothing that is there before it keeps it out.
    fn is_admitted(&self, created: i64) -> bool {
        kind(created).admits(self.alive.range(..created).map(|before| kind(*before)))
    }

    /// How many are rightly first, or why the standings are wrong.
    fn check(&mut self) -> Result<usize, String> {
        let mut first = 0;
        for (created, place) in &self.waiting {
            let is_alive = self.alive.contains(created);
            match place.standing(kind(*created)) {
                Standing::First { .. } => {
                    if !self.is_admitted(*created) {
                        return Err(format!("{created} is first beside one before it"));
                    }
                    first += 1;
                }
                Standing::Gone if is_alive => return Err(format!("{created} is there")),
                _ => {}
            }
        }
        // Those that were told that they are gone do not ask again.
        self.waiting.retain(|(created, _)| self.alive.contains(created) || created % 3 == 0);
        Ok(first)
    }

    /// Lets all arrive, and checks that the standings are those of the store.
    fn settle(&mut self) -> Result<(), String> {
        self.break_up();
        self.readings.clear();
        assert!(self.replica.asks());
        self.replica.stands();
        self.told = Some(self.log.len());
        let stream = self.replica.state().stream;
        self.read(stream);
        let (stream, queue, now) = self.readings.remove(0);
        self.replica.take_in(stream, queue, now);
        for (created, place) in self.waiting.iter().filter(|(at, _)| self.alive.contains(at)) {
            let standing = place.standing(kind(*created));
            if matches!(standing, Standing::First { .. }) != self.is_admitted(*created) {
                return Err(format!("{created}: {standing:?}"));
            }
        }
        Ok(())
    }
}

/// How often a waiter was first, over all runs; or what went wrong in one.
fn run(mistake: Mistake) -> Result<usize, String> {
    let mut first = 0;
    for seed in 0..RUNS {
        let mut world = World::new(mistake, seed);
        for _ in 0..STEPS {
            world.step();
            first += world.check()?;
        }
        if mistake == Mistake::None {
            world.settle()?;
        }
    }
    Ok(first)
}

#[test]
fn no_waiter_is_first_beside_one_before_it_whatever_breaks_and_each_mistake_is_convicted() {
    let first = run(Mistake::None).expect("no waiter beside another");
    assert!(first > 1_000, "{first} times first");
    for mistake in [Mistake::KeepsTheQueue, Mistake::ReadsTooEarly, Mistake::TakesAnOldReading] {
        run(mistake).expect_err(&format!("{mistake:?} is not convicted"));
    }
}
