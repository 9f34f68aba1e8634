//! What the clients of a soak do, and what they see.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lockkit_core::conformance::history::{AttemptId, Event, What};
use lockkit_core::{Clock, Error, Fenced, FencingToken, Guard, Instant, Lock, LockName, Locks};

use super::Held;

/// How often a holder checks that it still holds.
const LOOK: Duration = Duration::from_millis(2);
/// How long most holders hold, and how long a task rests between two turns.
const SHORT: Duration = Duration::from_millis(20);
/// One turn of so many is long, so that faults meet holders; odd, so that each name has long turns.
const LONG_EVERY: u64 = 9;

/// What all tasks of a run share.
#[derive(Debug)]
pub(super) struct Turns {
    ttl: Duration,
    names: Vec<Name>,
    holders: Holders,
    versions: AtomicU64,
    is_over: AtomicBool,
}

/// A name, how often it was granted, and the fenced value that it protects.
#[derive(Debug)]
struct Name {
    name: LockName,
    grants: AtomicU64,
    value: Fenced<u64>,
}

/// The grants that are held now.
#[derive(Debug, Default)]
pub struct Holders(Mutex<Vec<Held>>);

/// An attempt, and what its client saw of it.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) client: usize,
    pub(super) name: LockName,
    pub(super) events: Vec<Event>,
    /// The token, and when it was granted.
    pub(super) granted: Option<(FencingToken, Instant)>,
    /// Which event tells of its last belief.
    pub(super) believed: Option<usize>,
    id: AttemptId,
    clock: Clock,
}

/// One task of a client.
#[derive(Debug)]
pub(super) struct Worker {
    turns: Arc<Turns>,
    locks: Locks,
    client: usize,
    number: u64,
}

impl Turns {
    pub(super) fn new(ttl: Duration, names: usize) -> Self {
        let name = |number| Name {
            name: LockName::new(format!("soak/{number}")).expect("a name"),
            grants: AtomicU64::new(0),
            value: Fenced::default(),
        };
        let names = (0..names).map(name).collect();
        let (versions, is_over) = (AtomicU64::new(1), AtomicBool::new(false));
        Self { ttl, names, holders: Holders::default(), versions, is_over }
    }

    pub(super) const fn holders(&self) -> &Holders {
        &self.holders
    }

    /// How often each name was granted.
    pub(super) fn grants(&self) -> Vec<u64> {
        self.names.iter().map(|name| name.grants.load(Ordering::SeqCst)).collect()
    }

    /// Whether each name was granted since this count.
    pub(super) fn all_since(&self, before: &[u64]) -> bool {
        self.grants().iter().zip(before).all(|(now, before)| now > before)
    }

    /// No task begins another turn.
    pub(super) fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
    }
}

impl Holders {
    /// All grants that are held now, in their order.
    #[must_use]
    pub fn now(&self) -> Vec<Held> {
        let all = self.all();
        all.iter().filter(|held| held.watch.is_held()).cloned().collect()
    }

    fn enter(&self, held: Held) {
        self.all().push(held);
    }

    fn leave(&self, name: &LockName, token: FencingToken) {
        self.all().retain(|held| held.watch.name() != name || held.watch.token() != token);
    }

    fn all(&self) -> MutexGuard<'_, Vec<Held>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attempt {
    /// The one with this number, from 0 on, of the task with that number.
    pub(super) fn new(client: usize, name: LockName, task: u64, number: u64) -> Self {
        let id = AttemptId { process: task, number };
        let (events, clock) = (Vec::new(), Clock::system());
        Self { client, name, events, granted: None, believed: None, id, clock }
    }

    /// Records what it sees now.
    fn saw(&mut self, what: What) {
        self.saw_at(self.clock.now(), what);
    }

    pub(super) fn saw_at(&mut self, at: Instant, what: What) {
        self.events.push(Event { at, attempt: self.id, what });
    }

    fn was_granted(&mut self, token: FencingToken) {
        let at = self.clock.now();
        self.granted = Some((token, at));
        self.saw_at(at, What::Granted(token));
    }

    /// Looks again and again whether it still holds, for so long, and records the last belief.
    async fn believes(&mut self, guard: &Guard, time: Duration) {
        let began = self.clock.now();
        let mut last = None;
        loop {
            // Read before the look.
            let at = self.clock.now();
            if !guard.is_held() {
                break;
            }
            last = Some(at);
            if at.saturating_since(began) >= time {
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
        if let Some(at) = last {
            self.believed = Some(self.events.len());
            self.saw_at(at, What::Believes);
        }
    }

    /// The version of the fenced value that it reads; `None`: its token is stale.
    fn reads(&mut self, token: FencingToken, value: &Fenced<u64>) -> Option<u64> {
        self.saw(What::Reads);
        let read = value.access(token, |version| *version);
        self.saw(read.map_or(What::Stale, What::Read));
        read.ok()
    }

    fn writes(&mut self, token: FencingToken, value: &Fenced<u64>, seen: u64, wrote: u64) {
        self.saw(What::Writes { seen, wrote });
        let written = value.access(token, |version| *version = wrote);
        self.saw(written.map_or(What::Stale, |()| What::Wrote));
    }
}

impl Worker {
    pub(super) fn new(turns: &Arc<Turns>, locks: Locks, client: usize, number: usize) -> Self {
        Self { turns: Arc::clone(turns), locks, client, number: number as u64 }
    }

    /// Takes turns until the run is over; gives what it saw.
    pub(super) async fn work(self) -> Vec<Attempt> {
        let mut seen = Vec::new();
        for round in 0.. {
            if self.turns.is_over.load(Ordering::SeqCst) {
                break;
            }
            seen.push(self.turn(round).await);
            tokio::time::sleep(SHORT).await;
        }
        seen
    }

    async fn turn(&self, round: u64) -> Attempt {
        let (turns, size) = (&self.turns, self.turns.names.len() as u64);
        let name = &turns.names[usize::try_from((self.number + round) % size).expect("small")];
        let mut attempt = Attempt::new(self.client, name.name.clone(), self.number, round);
        attempt.saw(What::Asks(name.name.clone()));
        let lock = self.locks.lock(name.name.as_str()).ttl(turns.ttl);
        // The way changes once all names had it.
        match self.asks(&lock, round / size).await {
            Ok(Some(guard)) => {
                attempt.was_granted(guard.token());
                name.grants.fetch_add(1, Ordering::SeqCst);
                let is_long = (self.number + round).is_multiple_of(LONG_EVERY);
                let time = if is_long { turns.ttl * 3 / 2 } else { SHORT };
                self.hold(&mut attempt, guard, &name.value, time).await;
            }
            Ok(None) => attempt.saw(What::Refused),
            Err(error) => {
                assert!(error.is_retryable(), "{}: {error}", name.name);
                attempt.saw(What::Unknown);
            }
        }
        attempt
    }

    /// Most wait for as long as it lasts; others try, wait for a time, or give up without a word.
    async fn asks(&self, lock: &Lock, round: u64) -> Result<Option<Guard>, Error> {
        let patience = self.turns.ttl / 2;
        match (self.number + round) % 6 {
            0 => lock.try_acquire().await,
            1 => lock.acquire_within(patience).await.map(Some),
            2 => match tokio::time::timeout(patience, lock.acquire()).await {
                Ok(answer) => answer.map(Some),
                Err(_) => Err(Error::timed_out(None)),
            },
            _ => lock.acquire().await.map(Some),
        }
    }

    /// Holds for so long, or until it is lost, and writes in either case: the fence must refuse a
    /// stale write.
    async fn hold(&self, attempt: &mut Attempt, guard: Guard, value: &Fenced<u64>, time: Duration) {
        let (turns, token) = (&self.turns, guard.token());
        turns.holders.enter(Held { client: self.client, watch: guard.watch() });
        let read = attempt.reads(token, value);
        attempt.believes(&guard, time).await;
        if let Some(seen) = read {
            let wrote = turns.versions.fetch_add(1, Ordering::SeqCst);
            attempt.writes(token, value, seen, wrote);
        }
        turns.holders.leave(guard.name(), token);
        if !guard.is_held() {
            return attempt.saw(What::Lost);
        }
        attempt.saw(What::Releases);
        match guard.release().await {
            Ok(()) => attempt.saw(What::Released),
            Err(Error::Lost { .. }) => attempt.saw(What::Lost),
            // It goes on in the background.
            Err(_) => {}
        }
    }
}
