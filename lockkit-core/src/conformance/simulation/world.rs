//! What the parts of one run share: chance, time, the history, and who believes.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::random::Random;
use super::tally::Tally;
use super::weather::Weather;
use crate::conformance::history::{AttemptId, Event, History, What};
use crate::{Clock, GuardWatch, Instant, Kind, LockName};

/// Everything of one run that is not a client's own.
pub(super) struct World {
    pub(super) clock: Clock,
    pub(super) weather: Weather,
    started: Instant,
    trace: bool,
    inner: Mutex<Inner>,
}

struct Inner {
    random: Random,
    calm: bool,
    stalled_until: Option<Instant>,
    history: History,
    attempts: HashMap<u64, u64>,
    /// Whoever may believe, by name: looked at whenever somebody is granted.
    believers: HashMap<LockName, Vec<(AttemptId, Kind, GuardWatch)>>,
    tally: Tally,
    faults: Vec<String>,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("World")
    }
}

impl World {
    pub(super) fn new(mut random: Random, trace: bool) -> Arc<Self> {
        let weather = Weather::of(&mut random);
        let clock = Clock::tokio();
        let inner = Inner {
            random,
            calm: false,
            stalled_until: None,
            history: History::new(),
            attempts: HashMap::new(),
            believers: HashMap::new(),
            tally: Tally::default(),
            faults: Vec::new(),
        };
        let started = clock.now();
        let world = Self { clock, weather, started, trace, inner: Mutex::new(inner) };
        if trace {
            eprintln!("{:#?}", world.weather);
        }
        Arc::new(world)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn draw<T>(&self, draw: impl FnOnce(&mut Random) -> T) -> T {
        draw(&mut self.inner().random)
    }

    /// How long the run has lasted.
    pub(super) fn elapsed(&self) -> Duration {
        self.clock.now().saturating_since(self.started)
    }

    pub(super) fn sleep_up_to(&self, longest: Duration) -> impl Future<Output = ()> + Send + use<> {
        let by = self.draw(|random| random.up_to(longest));
        self.clock.sleep(by)
    }

    /// Whether faults have ended.
    pub(super) fn is_calm(&self) -> bool {
        self.inner().calm
    }

    /// Ends all faults.
    pub(super) fn calm_down(&self) {
        let mut inner = self.inner();
        inner.calm = true;
        inner.stalled_until = None;
    }

    /// The store answers nothing for this long.
    pub(super) fn stall(&self, lasting: Duration) {
        self.inner().stalled_until = Some(self.clock.now().saturating_add(lasting));
    }

    pub(super) fn stalled_until(&self) -> Option<Instant> {
        self.inner().stalled_until
    }

    pub(super) fn did(&self, operation: &'static str) {
        *self.inner().tally.operations.entry(operation).or_default() += 1;
    }

    pub(super) fn fault(&self, kind: &'static str) {
        *self.inner().tally.faults.entry(kind).or_default() += 1;
        if self.trace {
            eprintln!("{:>12.3?} {kind}", self.elapsed());
        }
    }

    pub(super) fn lost_update(&self, control: &'static str) {
        *self.inner().tally.losses.entry(control).or_default() += 1;
    }

    /// Something that must not happen has happened.
    pub(super) fn wrong(&self, what: &str) {
        if self.trace {
            eprintln!("{:>12.3?} WRONG: {what}", self.elapsed());
        }
        self.inner().faults.push(format!("after {:?}: {what}", self.elapsed()));
    }

    /// A new attempt of this process.
    pub(super) fn asks(&self, process: u64, name: &LockName, kind: Kind) -> AttemptId {
        self.asked(process, name, kind, self.elapsed())
    }

    /// The same, which began when the run had lasted so long.
    pub(super) fn asked(
        &self,
        process: u64,
        name: &LockName,
        kind: Kind,
        since: Duration,
    ) -> AttemptId {
        let attempt = {
            let mut inner = self.inner();
            let next = inner.attempts.entry(process).or_default();
            *next += 1;
            AttemptId { process, number: *next - 1 }
        };
        let name = name.clone();
        let what = if kind == Kind::Shared { What::AsksShared(name) } else { What::Asks(name) };
        self.saw_at(since, attempt, what);
        attempt
    }

    /// Records an event, now.
    pub(super) fn saw(&self, attempt: AttemptId, what: What) {
        self.saw_at(self.elapsed(), attempt, what);
    }

    fn saw_at(&self, since: Duration, attempt: AttemptId, what: What) {
        let event = Event { at: Instant::from_origin(since), attempt, what };
        let line = event.to_string();
        if self.trace {
            eprintln!("{since:>12.3?} {attempt} {}", line.splitn(3, ' ').last().unwrap_or(""));
        }
        let mut inner = self.inner();
        inner.tally.digest = line.bytes().fold(inner.tally.digest, |digest, byte| {
            // FNV-1a, with a start that is not lost on a digest of zero.
            ((digest ^ 0xcbf2_9ce4_8422_2325) ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        inner.history.push(event);
    }

    /// An attempt was granted `name`: no other may believe at this instant, frozen or not, that it excludes.
    pub(super) fn granted(
        &self,
        attempt: AttemptId,
        name: &LockName,
        kind: Kind,
        guard: GuardWatch,
    ) {
        self.saw(attempt, What::Granted(guard.token()));
        self.did("granted");
        let believers: Vec<AttemptId> = {
            let mut inner = self.inner();
            let all = inner.believers.entry(name.clone()).or_default();
            all.retain(|(_, _, watch)| watch.is_held());
            let excluded = all.iter().filter(|(_, other, _)| !kind.admits([*other]));
            let others = excluded.map(|(other, _, _)| *other).collect();
            all.push((attempt, kind, guard));
            others
        };
        for other in believers {
            self.wrong(&format!("{other} still believes in {name} as {attempt} is granted"));
        }
    }

    /// Forgets what a process believed that was killed.
    pub(super) fn killed(&self, process: u64) {
        for believers in self.inner().believers.values_mut() {
            believers.retain(|(attempt, _, _)| attempt.process != process);
        }
    }

    /// The end of the run: what it did, or what went wrong.
    pub(super) fn end(&self) -> Result<Tally, String> {
        let virtual_time = self.elapsed();
        let mut inner = self.inner();
        let verdict = inner.history.check();
        let mut wrong = std::mem::take(&mut inner.faults);
        let mut tally = std::mem::take(&mut inner.tally);
        match verdict {
            Ok(summary) => tally.smallest_gap = summary.smallest_gap,
            Err(violations) => wrong.push(violations.to_string()),
        }
        tally.seeds = 1;
        tally.virtual_time = virtual_time;
        if wrong.is_empty() { Ok(tally) } else { Err(wrong.join("; ")) }
    }
}
