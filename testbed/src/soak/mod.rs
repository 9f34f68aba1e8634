//! Turns for minutes or hours under a fixed script of faults, on any store, judged as one history.
//!
//! Several clients take a few names in turns while the script's faults follow each other. What each
//! client saw is recorded, and checked at the end:
//!
//! - tokens of a name grow in the order of its grants, and no update of a fenced value is lost;
//! - no two holders believe at the same time, unless the fault that ended the first one's grant
//!   [declares](Fixture::declared) for how long they may;
//! - after each fault every name is granted again;
//! - every client closes, and nothing is left in the store.

#[cfg(test)]
mod tests;
mod turns;
mod verdict;

use std::env;
use std::fmt::Debug;
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use lockkit_core::{Clock, GuardWatch, Instant, Locks, async_trait};

use crate::contenders::by;
use crate::timing::{self, Stopwatch};
pub use turns::Holders;
use turns::{Turns, Worker};

/// The variable that sets how long a soak runs, in seconds.
const SECONDS: &str = "LOCKKIT_SOAK_SECONDS";
/// How long it runs otherwise.
const TIME: Duration = Duration::from_secs(15 * 60);
/// At least so many grants and faults in [`TIME`], and their part in a shorter run.
const GRANTS: usize = 1_000;
const FAULTS: usize = 50;
/// How many clients there are, how many tasks each has, and how many names they take.
const CLIENTS: usize = 6;
const TASKS: usize = 2;
const NAMES: usize = 4;
/// By when every name is granted again after a fault, and by when all tasks end after the last one.
const BACK: Duration = Duration::from_secs(60);
/// How long a client may take to close.
const CLOSE: Duration = Duration::from_secs(20);
/// By when nothing is left in the store after that.
const GONE: Duration = Duration::from_secs(20);
/// By when one of the clients holds a name.
const HELD: Duration = Duration::from_secs(20);

/// A store, and the faults that it is to stand.
#[async_trait]
pub trait Fixture: Send + Sync + 'static {
    /// One fault.
    type Fault: Copy + Debug + Send + 'static;

    /// The faults in their order; after the last one the first one comes again.
    fn script(&self) -> Vec<Self::Fault>;

    /// For how long two may believe at once when this fault ends a grant early.
    fn declared(&self, fault: Self::Fault) -> Duration;

    /// Whether this fault may end grants of any client early, and not only those of the client that
    /// [`happens`](Self::happens) gives.
    fn may_end_any(&self, _: Self::Fault) -> bool {
        false
    }

    /// The ttl of every lock.
    fn ttl(&self) -> Duration;

    /// Connects a new client; their numbers begin with 0.
    async fn connect(&self, number: usize) -> lockkit_core::Result<Locks>;

    /// Has the fault happen, and heals what it has broken. It runs in a thread that may block and
    /// knows the runtime. Gives the client whose grants it has ended early, if the fault does that.
    fn happens(&self, fault: Self::Fault, holders: &Holders) -> Option<usize>;

    /// What is left in the store once all clients have closed, as text to be shown.
    async fn left(&self) -> Vec<String>;
}

/// A grant that is held while a fault begins.
#[derive(Clone, Debug)]
pub struct Held {
    /// The number of its client.
    pub client: usize,
    /// What the holder sees.
    pub watch: GuardWatch,
}

/// A fault that has happened.
#[derive(Debug)]
struct Happened {
    what: String,
    began: Instant,
    ended: Instant,
    /// The client whose grants it has ended early.
    client: Option<usize>,
    /// Whether it may have ended any other client's.
    may_end_any: bool,
    declared: Duration,
    stopwatch: Stopwatch,
}

/// Runs the script for 15 minutes, or for as many seconds as `LOCKKIT_SOAK_SECONDS` says.
///
/// # Panics
/// Where the store breaks what it promises, or the run met too few grants or faults.
pub async fn run(fixture: Arc<impl Fixture>) {
    let time = env::var(SECONDS).map_or(TIME, |text| {
        let seconds = text.parse().unwrap_or_else(|_| panic!("{SECONDS} is no number: {text}"));
        Duration::from_secs(seconds)
    });
    run_for(fixture, time).await;
}

async fn run_for(fixture: Arc<impl Fixture>, time: Duration) {
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let client = fixture.connect(number).await;
        clients.push(client.unwrap_or_else(|error| panic!("client {number}: {error}")));
    }
    let turns = Arc::new(Turns::new(fixture.ttl(), NAMES));
    let workers = (0..CLIENTS * TASKS).map(|number| {
        let client = number % CLIENTS;
        let worker = Worker::new(&turns, clients[client].clone(), client, number);
        tokio::spawn(worker.work())
    });
    let workers: Vec<_> = workers.collect();
    let happened = follow(&fixture, &turns, time).await;
    turns.end();
    let mut seen = Vec::new();
    for worker in workers {
        let attempts = by(BACK, "the last turn of a task", worker).await;
        seen.extend(attempts.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())));
    }
    for (number, client) in clients.into_iter().enumerate() {
        let closed = client.close(CLOSE).await;
        closed.unwrap_or_else(|error| panic!("client {number} does not close: {error}"));
    }
    timing::gone(GONE, "an empty store", async || fixture.left().await.is_empty()).await;
    let grants = verdict::check(seen, &happened);
    for (what, count, all) in [("grants", grants, GRANTS), ("faults", happened.len(), FAULTS)] {
        let part = time.min(TIME).as_secs_f64() / TIME.as_secs_f64();
        assert!(count as f64 >= all as f64 * part, "only {count} {what} in {time:?}");
    }
}

/// The faults, one after the other, until the time is up. After each of them every name is granted.
async fn follow<F: Fixture>(fixture: &Arc<F>, turns: &Arc<Turns>, time: Duration) -> Vec<Happened> {
    let clock = Clock::system();
    let mut happened = Vec::new();
    let run = timing::start();
    for fault in fixture.script().into_iter().cycle() {
        if run.elapsed() >= time {
            break;
        }
        let (began, stopwatch) = (clock.now(), timing::start());
        let happens = {
            let (fixture, turns) = (Arc::clone(fixture), Arc::clone(turns));
            tokio::task::spawn_blocking(move || fixture.happens(fault, turns.holders()))
        };
        let client = happens.await;
        let client = client.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        let healed = turns.grants();
        let are_back = || turns.all_since(&healed);
        timing::until(BACK, &format!("a grant of each name after {fault:?}"), are_back).await;
        println!(
            "{:5.1} s: {fault:?}: {:?} until each name was granted again",
            run.elapsed().as_secs_f64(),
            stopwatch.elapsed(),
        );
        let (what, declared) = (format!("{fault:?}"), fixture.declared(fault));
        let ended = clock.now();
        let may_end_any = fixture.may_end_any(fault);
        let fault = Happened { what, began, ended, client, may_end_any, declared, stopwatch };
        happened.push(fault);
    }
    happened
}

impl Holders {
    /// A grant that is held now; blocks until there is such a grant.
    ///
    /// # Panics
    /// Where none comes within 20 seconds.
    #[must_use]
    pub fn one(&self) -> Held {
        let began = timing::start();
        loop {
            if let Some(held) = self.now().pop() {
                return held;
            }
            if began.elapsed() > HELD {
                began.missed(format_args!("no holder within {HELD:?}"));
            }
            sleep(Duration::from_millis(1));
        }
    }
}
