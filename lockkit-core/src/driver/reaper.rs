//! Clean-ups that outlive their callers: one task for all of a provider's.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::room::{Count, Counted, Room, Rooms, Turns};
use super::round_trips::RoundTrips;
use super::runtime::Runtime;
use crate::{
    Applied, Clock, Error, Grant, Instant, Lease, LockName, LockProvider, Request, Result,
};

const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// A call that outlives its acknowledged withdrawal by this much is dropped.
const STUCK: Duration = Duration::from_secs(10);

/// A provider's call, free of its caller: `None` where another holds the name.
pub(crate) type Call = Pin<Box<dyn Future<Output = Result<Option<Grant>>> + Send>>;

/// What is left to do when no caller waits for it any more.
#[must_use]
pub(crate) enum CleanUp {
    /// Have the store forget a request, whose call may be under way.
    Withdraw { request: Request, call: Option<Call> },
    /// End a grant whose first release was not acknowledged.
    /// Its name stays taken until then, if there is such an end.
    Release { lease: Box<dyn Lease>, ttl: Duration, until: Option<Instant> },
}

/// Takes clean-ups, and works on all of them in one task.
#[derive(Debug)]
pub(crate) struct Reaper {
    provider: Arc<dyn LockProvider>,
    clock: Clock,
    pending: Arc<Count>,
    rooms: Arc<Rooms>,
    turns: Arc<Turns>,
    worker: Mutex<Option<Worker>>,
}

/// The task that cleans up, and the way to it.
#[derive(Debug)]
struct Worker {
    queue: mpsc::UnboundedSender<(CleanUp, Counted, Room)>,
    task: AbortHandle,
}

impl Reaper {
    pub(crate) fn new(
        provider: Arc<dyn LockProvider>,
        clock: Clock,
        round_trips: Arc<RoundTrips>,
    ) -> Self {
        let (pending, rooms, worker) = Default::default();
        Self { provider, clock, pending, rooms, turns: Arc::new(Turns::new(round_trips)), worker }
    }

    /// Whether the clean-ups leave room for a new attempt on `name` now.
    pub(crate) fn has_room(&self, name: &LockName) -> bool {
        self.rooms.admits(name)
    }

    /// Completes when the clean-ups leave room for a new attempt on `name`.
    pub(crate) async fn room(&self, name: &LockName) {
        self.rooms.room(name).await;
    }

    /// No new attempt will come: the clean-ups may ask the store all at once.
    pub(crate) fn hurry(&self) {
        self.turns.of_all();
    }

    /// Completes when every clean-up is done.
    pub(crate) async fn drained(&self) {
        self.pending.below(1).await;
    }

    /// Gives up on everything that is pending.
    pub(crate) fn abandon(&self) {
        if let Some(worker) = self.worker().take() {
            worker.task.abort();
        }
    }

    /// Takes `clean_up` over; its task starts in `runtime` if there is none yet.
    pub(crate) fn take(&self, clean_up: CleanUp, runtime: &Runtime) {
        let room = self.rooms.take(match &clean_up {
            CleanUp::Withdraw { request, .. } => Some(request.name().clone()),
            CleanUp::Release { .. } => None,
        });
        let mut item = (clean_up, self.pending.enter(), room);
        let mut worker = self.worker();
        if let Some(worker) = &*worker {
            match worker.queue.send(item) {
                Ok(()) => return,
                // The runtime of the last task has ended.
                Err(back) => item = back.0,
            }
        }
        let (queue, receiver) = mpsc::unbounded_channel();
        // Sent before the task starts, so never refused. A dead runtime drops it, and with it the
        // call: that runtime's end does the same to every other call.
        let _ = queue.send(item);
        let (provider, clock) = (Arc::clone(&self.provider), self.clock.clone());
        let turns = Arc::clone(&self.turns);
        let task = runtime.spawn(work(provider, clock, turns, receiver));
        *worker = Some(Worker { queue, task });
    }

    fn worker(&self) -> MutexGuard<'_, Option<Worker>> {
        self.worker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn work(
    provider: Arc<dyn LockProvider>,
    clock: Clock,
    turns: Arc<Turns>,
    mut queue: mpsc::UnboundedReceiver<(CleanUp, Counted, Room)>,
) {
    let mut pending = FuturesUnordered::new();
    let mut open = true;
    while open || !pending.is_empty() {
        tokio::select! {
            biased;
            item = queue.recv(), if open => match item {
                Some((clean_up, counted, room)) => {
                    let (provider, clock) = (Arc::clone(&provider), clock.clone());
                    let turns = Arc::clone(&turns);
                    pending.push(async move {
                        let _counted = counted;
                        // A bug in one call must not end the other clean-ups.
                        let run = AssertUnwindSafe(clean_up.run(&*provider, &clock, &turns, room));
                        drop(run.catch_unwind().await);
                    });
                }
                None => open = false,
            },
            _ = pending.next(), if !pending.is_empty() => {}
        }
    }
}

impl CleanUp {
    async fn run(self, provider: &dyn LockProvider, clock: &Clock, turns: &Turns, room: Room) {
        let outcome = match self {
            Self::Withdraw { request, call } => {
                let outcome = withdraw(provider, (clock, turns), &request, call, room).await;
                let what = || format!("withdraw request {} for {}", request.id(), request.name());
                outcome.map_err(|error| (what(), error))
            }
            Self::Release { lease, ttl, until } => {
                let mut limits = Limits::new(clock, ttl, room);
                let outcome = release(&*lease, until, clock, &mut limits).await;
                outcome.map_err(|error| (format!("release {lease:?}"), error))
            }
        };
        if let Err((what, error)) = outcome {
            tracing::warn!(
                target: "lockkit", event = "clean_up_failed", what, error = %error,
                "gave up cleaning up; what is left ends with its ttl, or with this client's session",
            );
        }
    }
}

/// How long a clean-up goes on, and each of its calls.
struct Limits {
    call: Duration,
    until: Instant,
    room: Room,
}

impl Limits {
    /// After one more ttl, the store has forgotten by itself.
    fn new(clock: &Clock, ttl: Duration, room: Room) -> Self {
        let call = super::timing::call_limit(ttl);
        Self { call, until: clock.now().saturating_add(ttl.max(call)), room }
    }
}

/// Withdraws while it polls the call on: aborted first, the call's request could arrive after its
/// withdrawal. Goes on until the store has acknowledged a withdrawal after the call's end.
async fn withdraw(
    provider: &dyn LockProvider,
    (clock, turns): (&Clock, &Turns),
    request: &Request,
    mut call: Option<Call>,
    room: Room,
) -> Result<()> {
    let mut limits = Limits::new(clock, request.ttl(), room);
    let mut stuck_at = None;
    let mut pause = FIRST_PAUSE;
    loop {
        let withdrawal = limited(clock, limits.call, provider.withdraw(request));
        let withdrawal = turns.take(clock, withdrawal);
        let (outcome, ended) = beside(&mut call, withdrawal).await;
        let ambiguous = settle(ended, clock, &mut limits).await?;
        if outcome.is_ok() && call.is_none() && !ambiguous {
            return Ok(());
        }
        if outcome.as_ref().is_err_and(is_refused) && !limits.room.refused() {
            return outcome;
        }
        if clock.now() >= limits.until {
            return outcome.and(Err(no_answer(limits.call)));
        }
        let ended = rest(&mut call, clock.sleep(pause)).await;
        let definite = ended.is_some() && !settle(ended, clock, &mut limits).await?;
        if outcome.is_ok() && definite {
            return Ok(());
        }
        // The store has forgotten the request, and still its call does not end: a bug in the
        // provider, which must not cost the room of a clean-up for a whole ttl.
        if outcome.is_ok()
            && clock.now() >= *stuck_at.get_or_insert(clock.now().saturating_add(STUCK))
        {
            call = None;
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Polls `work` to its end, and the call beside it; the call's end, if it came.
async fn beside<T>(
    call: &mut Option<Call>,
    work: impl Future<Output = T>,
) -> (T, Option<Result<Option<Grant>>>) {
    let mut work = std::pin::pin!(work);
    let mut ended = None;
    loop {
        tokio::select! {
            biased;
            end = finished(call) => {
                *call = None;
                ended = Some(end);
            }
            done = &mut work => return (done, ended),
        }
    }
}

/// Sleeps, but no longer than the call lasts: a grant that comes late is given back at once.
async fn rest(
    call: &mut Option<Call>,
    sleep: impl Future<Output = ()>,
) -> Option<Result<Option<Grant>>> {
    let ended = tokio::select! {
        biased;
        end = finished(call) => Some(end),
        () = sleep => None,
    };
    if ended.is_some() {
        *call = None;
    }
    ended
}

/// Deals with the end of an abandoned call; whether one more withdrawal is needed.
async fn settle(
    ended: Option<Result<Option<Grant>>>,
    clock: &Clock,
    limits: &mut Limits,
) -> Result<bool> {
    match ended {
        Some(Ok(Some(grant))) => release(&*grant.lease, None, clock, limits).await.map(|()| false),
        Some(Err(error)) => Ok(error.is_ambiguous()),
        Some(Ok(None)) | None => Ok(false),
    }
}

/// Releases until the store has, or the lease has ended by itself; the name stays taken `until` then.
async fn release(
    lease: &dyn Lease,
    until: Option<Instant>,
    clock: &Clock,
    limits: &mut Limits,
) -> Result<()> {
    let mut pause = FIRST_PAUSE;
    loop {
        let until = until.unwrap_or_else(|| clock.now());
        let error = match release_after(lease, (clock, limits.call), until).await {
            Ok(true) => return Ok(()),
            // The lease is kept for so long.
            Ok(false) => {
                clock.sleep_until(until).await;
                continue;
            }
            Err(error) if is_over(&error) => return Ok(()),
            Err(error) if clock.now() >= limits.until => return Err(error),
            Err(error) => error,
        };
        if is_refused(&error) && !limits.room.refused() {
            return Err(error);
        }
        clock.sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

const fn is_refused(error: &Error) -> bool {
    matches!(error, Error::Rejected { .. })
}

/// Whether this error of a release means that the grant is gone. A refusal does not: the store still
/// keeps the grant, and may release it once the remedy was followed.
pub(crate) const fn is_over(error: &Error) -> bool {
    matches!(error, Error::Lost { .. } | Error::Closed)
}

/// The outcome of `work`; never, where there is none.
pub(crate) async fn finished<F: Future + Unpin>(work: &mut Option<F>) -> F::Output {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}

/// Asks the store to free the name by itself then; whether it will, or it is time already and it has.
pub(super) async fn release_after(
    lease: &dyn Lease,
    (clock, call_limit): (&Clock, Duration),
    until: Instant,
) -> Result<bool> {
    let left = until.saturating_since(clock.now());
    if left.is_zero() {
        return limited(clock, call_limit, lease.release()).await.map(|()| true);
    }
    limited(clock, call_limit, lease.release_after(left)).await
}

/// Every await on a store has a limit set here: no client crate gives a safe default (C12).
pub(crate) async fn limited<T>(
    clock: &Clock,
    limit: Duration,
    call: impl Future<Output = Result<T>>,
) -> Result<T> {
    tokio::select! {
        biased;
        outcome = call => outcome,
        // Not made for a call that ends at once.
        () = async { clock.sleep(limit).await } => Err(no_answer(limit)),
    }
}

fn no_answer(limit: Duration) -> Error {
    Error::unavailable(Applied::Maybe, format!("no answer within {limit:?}"))
}
