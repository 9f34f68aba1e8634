//! One task per attempt: it asks and waits, and then keeps the lease it was granted.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::{FutureExt, TryFutureExt};
use tokio::sync::{Notify, oneshot};

use crate::attempt::{self, Attempt, Step};
use crate::guard::Guard;
use crate::hold::Hold;
use crate::keep::keep;
use crate::machine::Machine;
use crate::reaper::{Call, CleanUp, Count, Counted, Reaper, finished, limited};
use crate::request::Ids;
use crate::runtime::Runtime;
use crate::timing::{Timing, call_limit};
use crate::{
    Applied, Clock, Error, Grant, Instant, LockName, LockProvider, Request, Result, StoreSays,
};

/// What every driver of one `Locks` shares.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) provider: Arc<dyn LockProvider>,
    pub(crate) clock: Clock,
    pub(crate) closing: Closing,
    pub(crate) active: Arc<Count>,
    pub(crate) reaper: Reaper,
    pub(crate) ids: Ids,
    /// Whether a difference between a wished and a granted ttl was logged.
    pub(crate) ttl_adjusted: AtomicBool,
}

/// The level-triggered signal that the locks are being closed.
#[derive(Debug, Default)]
pub(crate) struct Closing {
    set: AtomicBool,
    changed: Notify,
}

impl Closing {
    /// Sets it; whether it was unset.
    pub(crate) fn set(&self) -> bool {
        let first = !self.set.swap(true, Ordering::SeqCst);
        self.changed.notify_waiters();
        first
    }

    pub(crate) fn is_set(&self) -> bool {
        self.set.load(Ordering::SeqCst)
    }

    pub(crate) async fn closed(&self) {
        let changed = self.changed.notified();
        if !self.is_set() {
            changed.await;
        }
    }
}

/// How long a caller waits for a name that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// One attempt.
    Try,
    /// Until it is granted.
    Wait,
    /// Until it is granted or this has passed.
    Within(Duration),
}

/// A caller's wish, checked.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) name: LockName,
    pub(crate) label: Arc<str>,
    pub(crate) timing: Timing,
    /// The ttl that the caller wished, before it was fitted to the store.
    pub(crate) wished: Duration,
    pub(crate) patience: Patience,
}

pub(crate) type Answer = Result<Option<Guard>>;

/// The life of one attempt and of the lease it may lead to.
pub(crate) async fn drive(
    shared: Arc<Shared>,
    runtime: Runtime,
    order: Order,
    mut caller: oneshot::Sender<Answer>,
    _active: Counted,
) {
    let (request, grant, machine) = match attempt(&shared, &runtime, &order, &mut caller).await {
        Ok(granted) => granted,
        Err(answer) => {
            // A caller that has left needs no answer.
            drop(caller.send(answer));
            return;
        }
    };
    let Grant { token, term, lease } = grant;
    tracing::debug!(
        target: "lockkit", event = "granted", name = %order.name, token = token.as_u64(),
        ttl = ?term.ttl, request = %request.id(),
    );
    if let Some(granted) = term.ttl.filter(|granted| *granted != order.wished) {
        if !shared.ttl_adjusted.swap(true, Ordering::Relaxed) {
            tracing::info!(
                target: "lockkit", event = "ttl_adjusted", name = %order.name,
                wished = ?order.wished, ?granted, "the store grants another ttl than was wished",
            );
        }
    }
    let hold = Arc::new(Hold::new(
        order.name,
        token,
        lease.native(),
        machine,
        shared.clock.clone(),
        runtime.clone(),
    ));
    // The guard itself travels: if the caller leaves at any point, dropping it releases.
    drop(caller.send(Ok(Some(Guard::new(Arc::clone(&hold))))));
    let call_limit = call_limit(term.ttl.unwrap_or(order.timing.ttl));
    keep(&shared, &runtime, &hold, lease, call_limit).await;
}

/// Asks until there is a grant to hold, or an answer.
async fn attempt(
    shared: &Shared,
    runtime: &Runtime,
    order: &Order,
    caller: &mut oneshot::Sender<Answer>,
) -> Result<(Request, Grant, Machine), Answer> {
    let clock = &shared.clock;
    let started = clock.now();
    let limit = match order.patience {
        Patience::Try => Some(call_limit(order.timing.ttl)),
        Patience::Within(limit) => Some(limit),
        Patience::Wait => None,
    };
    let limit = limit.map(|limit| started.saturating_add(limit));
    let mut warn_at = Some(started.saturating_add(order.timing.ttl));
    let mut request = new_request(shared, order).map_err(Err)?;
    let mut attempt = Attempt::new(order.patience != Patience::Try, request.id());
    let mut stage = Stage::Admission;
    let mut warning = None;
    let mut failure = None;
    loop {
        let event = tokio::select! {
            biased;
            () = caller.closed() => Happened::Event(attempt::Event::Left),
            // Before the call: what `close` releases must not be granted to those it ends.
            () = shared.closing.closed() => Happened::Event(attempt::Event::Closing),
            event = stage.next(shared) => event,
            () = reached(clock, limit) => Happened::Event(attempt::Event::TimeUp),
            () = reached(clock, warn_at) => {
                warn_at = None;
                let wait = warn_of_long_wait(shared, request.clone(), started, failure.clone());
                warning = Some(Box::pin(wait));
                continue;
            }
            () = finished(&mut warning) => {
                warning = None;
                continue;
            }
        };
        // A call that has ended is not handed on: it must not be polled again.
        let ended = matches!(event, Happened::Ended(_));
        let event = match event {
            Happened::Event(event) => event,
            Happened::Ended(Ok(None)) => attempt::Event::Held,
            Happened::Ended(Err(error)) => {
                if matches!(error, Error::Unavailable { .. }) {
                    request.report(StoreSays::Unreachable);
                }
                attempt::Event::Failed(error)
            }
            Happened::Ended(Ok(Some(grant))) => {
                let spread = request.id().to_bytes()[0];
                match Machine::granted(order.timing, grant.term, clock.now(), spread) {
                    Some(machine) => return Ok((request, grant, machine)),
                    None => {
                        let lease = grant.lease;
                        let clean_up = CleanUp::Release { lease, ttl: order.timing.ttl };
                        shared.reaper.take(clean_up, runtime);
                        attempt::Event::GrantedLate(too_late(order.timing.ttl))
                    }
                }
            }
        };
        if let attempt::Event::Failed(error) | attempt::Event::GrantedLate(error) = &event {
            tracing::debug!(
                target: "lockkit", event = "attempt_failed", name = %order.name,
                request = %request.id(), error = %error,
            );
            failure = Some(error.clone());
        }
        match attempt.on(event) {
            Step::Call { fresh } => {
                if fresh {
                    request = new_request(shared, order).map_err(Err)?;
                }
                stage = Stage::Calling(call(shared, &request, order.patience));
            }
            Step::Pause(pause) => stage = Stage::Pausing(clock.now().saturating_add(pause)),
            Step::End { answer, withdraw } => {
                let applied = if withdraw { Applied::Maybe } else { Applied::No };
                if withdraw {
                    let call = stage.into_call().filter(|_| !ended);
                    shared
                        .reaper
                        .take(CleanUp::Withdraw { request: request.clone(), call }, runtime);
                }
                return Err(answer_of(answer, order.patience, &request, applied, failure));
            }
        }
    }
}

/// Where an attempt stands.
enum Stage {
    Admission,
    Calling(Call),
    Pausing(Instant),
}

enum Happened {
    Event(attempt::Event),
    Ended(Result<Option<Grant>>),
}

impl Stage {
    async fn next(&mut self, shared: &Shared) -> Happened {
        match self {
            Self::Admission => {
                shared.reaper.room().await;
                Happened::Event(attempt::Event::Admitted)
            }
            Self::Calling(call) => Happened::Ended(call.await),
            Self::Pausing(until) => {
                shared.clock.sleep_until(*until).await;
                Happened::Event(attempt::Event::Rested)
            }
        }
    }

    fn into_call(self) -> Option<Call> {
        match self {
            Self::Calling(call) => Some(call),
            Self::Admission | Self::Pausing(_) => None,
        }
    }
}

fn new_request(shared: &Shared, order: &Order) -> Result<Request> {
    let (name, clock) = (order.name.clone(), shared.clock.clone());
    let (id, label) = (shared.ids.next()?, Arc::clone(&order.label));
    Ok(Request::labelled(id, name, order.timing.ttl, clock, label))
}

/// A call that owns what it needs, so that it can outlive its caller. A bug in the provider is an
/// ambiguous failure, which is withdrawn.
fn call(shared: &Shared, request: &Request, patience: Patience) -> Call {
    let (provider, request) = (Arc::clone(&shared.provider), request.clone());
    let call = async move {
        match patience {
            Patience::Try => provider.try_acquire(&request).await,
            Patience::Wait | Patience::Within(_) => provider.acquire(&request).await.map(Some),
        }
    };
    let panicked = |_| Err(Error::unavailable(Applied::Maybe, "the store's provider panicked"));
    Box::pin(AssertUnwindSafe(call).catch_unwind().unwrap_or_else(panicked))
}

fn answer_of(
    answer: attempt::Answer,
    patience: Patience,
    request: &Request,
    applied: Applied,
    failure: Option<Error>,
) -> Answer {
    match answer {
        attempt::Answer::Held => Ok(None),
        attempt::Answer::Failed(error) => Err(error),
        attempt::Answer::TimeUp => match (patience, request.last_word()) {
            (Patience::Within(_), Some(StoreSays::Held(holder))) => Err(Error::TimedOut { holder }),
            _ => Err(Error::unavailable(applied, no_grant(failure))),
        },
    }
}

fn no_grant(failure: Option<Error>) -> String {
    let cause = match failure {
        Some(Error::Unavailable { cause, .. }) => cause.to_string(),
        Some(error) => error.to_string(),
        None => return "no answer from the store within the time limit".to_owned(),
    };
    format!("no grant within the time limit, and the last try failed: {cause}")
}

fn too_late(ttl: Duration) -> Error {
    let cause = format!(
        "the store granted, but only after the deadline of that grant: a ttl of {ttl:?} is too \
         short for its round trips, take a longer one"
    );
    Error::unavailable(Applied::No, cause)
}

async fn reached(clock: &Clock, at: Option<Instant>) {
    match at {
        Some(at) => clock.sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// One warning for a wait longer than the ttl: with the holder and its age as far as known, and
/// with the last failure, unless the store has said since that another holds the name.
async fn warn_of_long_wait(
    shared: &Shared,
    request: Request,
    started: Instant,
    failure: Option<Error>,
) {
    let held = matches!(request.last_word(), Some(StoreSays::Held(_)));
    let failure = failure.filter(|_| !held);
    let limit = call_limit(request.ttl());
    let seen = match shared.provider.operator() {
        Some(operator) => {
            limited(&shared.clock, limit, operator.inspect(request.name())).await.ok()
        }
        None => None,
    };
    let holder = seen.and_then(|seen| seen.holders.into_iter().next());
    tracing::warn!(
        target: "lockkit", event = "long_wait", name = %request.name(), request = %request.id(),
        waited = ?shared.clock.now().saturating_since(started),
        holder = holder.as_ref().map(|holder| holder.label.as_str()),
        holder_token = holder.as_ref().and_then(|holder| holder.token).map(crate::FencingToken::as_u64),
        holder_age = ?holder.as_ref().and_then(|holder| holder.age),
        error = failure.as_ref().map(tracing::field::display),
        "still waiting for a lock after a whole ttl",
    );
}
