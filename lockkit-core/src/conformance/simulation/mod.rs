//! Level 2: whole clusters of processes in virtual time, with faults that follow from a seed.
//!
//! A run has a store, some processes with the real driver of this crate, and workers in them that
//! take locks and update what the locks protect. Between each process and the store lies a
//! decorator: every call is delayed, and some are lost before or after their effect, duplicated,
//! held, reordered or refused. Processes are frozen, their renewals with them while the clock goes
//! on, and killed; links are cut in one direction or both; the store stalls. When the faults end,
//! every worker must be granted every name, every client must close, and the store must be empty.
//!
//! The [`history`](super::history) of each run is checked, and at every grant nobody else may
//! believe, frozen or not. Beside the fenced resource lie two controls, one without a fence and
//! one whose reads do not raise it: they must lose updates in the same runs, or the runs show
//! nothing. Time is tokio's paused clock, so hours pass in a moment, and a seed always runs the
//! same way.
//!
//! ```
//! use std::time::Duration;
//! use lockkit_core::conformance::simulation::Simulation;
//!
//! let tally = Simulation::of_memory().run(7).expect("no fault of lockkit");
//! assert!(tally.virtual_time > Duration::from_secs(600));
//! ```

mod nemesis;
mod permit_work;
mod permits;
mod process;
mod random;
mod resource;
mod tally;
mod weather;
mod wire;
mod worker;
mod world;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use nemesis::{ClientOf, Cluster};
pub(crate) use random::Random;
pub use tally::Tally;
use tokio::runtime::Builder;
use wire::Server;
use world::World;

use crate::{LockName, LockProvider, Memory};

type StoreOf = Arc<dyn Fn() -> Arc<dyn LockProvider> + Send + Sync>;

/// A simulation of one kind of store.
#[derive(Clone)]
pub struct Simulation {
    store: StoreOf,
    /// How many of them there are, and their quorum is under test.
    members: usize,
    client: Option<ClientOf>,
}

/// A run that showed a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Failure {
    /// The seed that leads to it.
    pub seed: u64,
    /// What was wrong.
    pub what: String,
}

impl Simulation {
    /// Of the memory store.
    pub fn of_memory() -> Self {
        Self::of(|| Arc::new(Memory::new()))
    }

    /// Of any store that lives by the request's clock alone, fresh for each run.
    pub fn of(store: impl Fn() -> Arc<dyn LockProvider> + Send + Sync + 'static) -> Self {
        Self { store: Arc::new(store), members: 1, client: None }
    }

    /// Of a quorum of so many memory stores, an odd number from 3 to 9: each process asks each of them over its own
    /// messages.
    ///
    /// A seed gives the same weather, but does not run the same way each time: the order in which the tasks of a quorum
    /// are woken does not follow from it.
    pub fn of_quorum(members: usize) -> Self {
        Self { members, ..Self::of_memory() }
    }

    /// The same with a client of its own around the way to the store: the suite's own tests break
    /// it there.
    #[must_use]
    pub fn with_client(
        mut self,
        client: impl Fn(Arc<dyn LockProvider>) -> Arc<dyn LockProvider> + Send + Sync + 'static,
    ) -> Self {
        self.client = Some(Arc::new(client));
        self
    }

    /// Runs one seed, always the same way.
    ///
    /// It takes no runtime, and may run in any thread.
    ///
    /// # Errors
    /// [`Failure`]: something that must not happen has happened.
    pub fn run(&self, seed: u64) -> Result<Tally, Failure> {
        self.run_seed(seed, false)
    }

    /// The same, with a line on the standard error output for everything that happens.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn trace(&self, seed: u64) -> Result<Tally, Failure> {
        self.run_seed(seed, true)
    }

    /// Runs one seed after the other from `first` on, in `threads` threads, until they have lasted
    /// for `virtual_time` together; stops at the first failure.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn campaign(
        &self,
        first: u64,
        virtual_time: Duration,
        threads: usize,
    ) -> Result<Tally, Failure> {
        let next = AtomicU64::new(first);
        let whole = Mutex::new((Tally::default(), None::<Failure>));
        thread::scope(|scope| {
            for _ in 0..threads.max(1) {
                scope.spawn(|| {
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        let run = self.run(seed);
                        let mut whole = whole.lock().unwrap_or_else(PoisonError::into_inner);
                        match run {
                            Ok(tally) => whole.0.add(&tally),
                            Err(failure) => whole.1 = whole.1.take().or(Some(failure)),
                        }
                        if whole.1.is_some() || whole.0.virtual_time >= virtual_time {
                            return;
                        }
                    }
                });
            }
        });
        let (tally, failure) = whole.into_inner().unwrap_or_else(PoisonError::into_inner);
        failure.map_or(Ok(tally), Err)
    }

    fn run_seed(&self, seed: u64, trace: bool) -> Result<Tally, Failure> {
        let failed = |what: String| Failure { seed, what };
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.map_err(|error| failed(error.to_string()))?;
        runtime.block_on(self.live(seed, trace)).map_err(failed)
    }

    async fn live(&self, seed: u64, trace: bool) -> Result<Tally, String> {
        let world = World::new(Random::new(seed), trace);
        let servers = (0..self.members).map(|_| Server::new(Arc::clone(&world), (self.store)()));
        let servers: Arc<[_]> = servers.collect();
        let names = (1..=world.weather.names).map(|number| LockName::new(format!("name {number}")));
        let names: Vec<LockName> =
            names.collect::<crate::Result<_>>().map_err(|error| error.to_string())?;
        let cluster = Cluster::start(self.client.clone(), &world, &servers, names);
        let nemesis = tokio::spawn(Arc::clone(&cluster).nemesis());
        world.clock.sleep(world.weather.span).await;
        cluster.heal().await;
        cluster.close().await;
        nemesis.abort();
        world.end()
    }
}

impl fmt::Debug for Simulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulation").finish_non_exhaustive()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}: {}", self.seed, self.what)
    }
}

impl std::error::Error for Failure {}
