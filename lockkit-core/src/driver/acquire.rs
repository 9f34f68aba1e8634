//! The acquire of one caller, until it has a grant or an answer: it drives the [`Attempt`], calls the
//! provider and keeps the caller's time limit.

use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{FutureExt, TryFutureExt};
use tokio::sync::oneshot;

use super::attempt::{self, Attempt, Step};
use super::lease::Machine;
use super::patience::Patience;
use super::reaper::{Call, CleanUp};
use super::rest::without_delay;
use super::room::Counted;
use super::runtime::Runtime;
use super::shared::{Acquire, Shared, Wait};
use crate::guard::Answer;
use crate::{Applied, Error, Grant, Instant, LockName, Request, Result, StoreSays};

/// An attempt that has begun, with its first call: a store that answers at once needs no task.
pub(super) struct Begun {
    pub(super) request: Request,
    stage: Stage,
    /// When the first call was sent.
    sent: Instant,
}

/// An attempt that has begun, and whose it is.
pub(super) struct Open {
    pub(super) wanted: Acquire,
    pub(super) begun: Begun,
    pub(super) active: Counted,
}

/// What came of the first call so far.
pub(super) enum First {
    Granted(Request, Grant, Machine),
    Held,
    /// Neither yet: a task is to go on.
    Open(Begun),
}

/// Sends the first call, and polls it once in the caller's task.
pub(super) async fn begin(shared: &Shared, runtime: &Runtime, wanted: &Acquire) -> Result<First> {
    let (request, sent) = (new_request(shared, wanted)?, shared.clock.now());
    if !shared.reaper.has_room(&wanted.name) {
        return Ok(First::Open(Begun { request, stage: Stage::Admission, sent }));
    }
    let stage = Stage::Calling(call(shared, &request, wanted));
    let mut begun = Begun { request, stage, sent };
    let polled = poll_fn(|cx| Poll::Ready(begun.poll(runtime, cx))).await;
    Ok(match polled {
        Poll::Pending => First::Open(begun),
        Poll::Ready(outcome) => first_of(shared, wanted, begun, outcome),
    })
}

/// What the first call came to, where it ended in the caller's task.
pub(super) fn first_of(
    shared: &Shared,
    wanted: &Acquire,
    begun: Begun,
    outcome: Result<Option<Grant>>,
) -> First {
    let Begun { request, sent, .. } = begun;
    let open = |request, outcome| {
        First::Open(Begun { request, stage: Stage::Answered(Some(outcome)), sent })
    };
    match outcome {
        // What `close` releases must not be granted to those it ends.
        outcome if shared.closing.is_set() => open(request, outcome),
        Ok(None) => First::Held,
        Ok(Some(grant)) => match machine(shared, wanted, &request, &grant) {
            Some(machine) => {
                shared.measured(wanted.wait, sent);
                First::Granted(request, grant, machine)
            }
            None => open(request, Ok(Some(grant))),
        },
        error => open(request, error),
    }
}

impl Begun {
    /// Whether the first call is under way.
    pub(super) const fn is_calling(&self) -> bool {
        matches!(self.stage, Stage::Calling(_))
    }

    /// Polls the first call; pending where none is under way.
    pub(super) fn poll(
        &mut self,
        runtime: &Runtime,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Grant>>> {
        match &mut self.stage {
            Stage::Calling(call) => runtime.inside(call).poll_unpin(cx),
            Stage::Admission | Stage::Answered(_) | Stage::Pausing(_) => Poll::Pending,
        }
    }

    /// The request, and the call that is under way.
    pub(super) fn into_call(self) -> (Request, Option<Call>) {
        (self.request, self.stage.into_call())
    }
}

/// Asks on until there is a grant to hold, or an answer.
pub(super) async fn acquire(
    shared: &Shared,
    runtime: &Runtime,
    wanted: &Acquire,
    begun: Begun,
    caller: &mut oneshot::Sender<Answer>,
) -> Result<(Request, Grant, Machine), Answer> {
    let clock = &shared.clock;
    let Begun { mut request, mut stage, mut sent } = begun;
    let mut patience = Patience::new(shared, wanted, sent);
    let mut attempt = Attempt::new(wanted.wait != Wait::No, request.id());
    if !matches!(stage, Stage::Admission) {
        // The call that it asks for is under way.
        let _ = attempt.on(attempt::Event::Admitted);
    }
    let mut failure = None;
    loop {
        let event = tokio::select! {
            biased;
            () = caller.closed() => Happened::Event(attempt::Event::Left),
            // Before the call: what `close` releases must not be granted to those it ends.
            () = shared.closing.closed() => Happened::Event(attempt::Event::Closing),
            event = stage.next(shared, &wanted.name) => event,
            () = patience.ends(&request, failure.as_ref()) => Happened::Event(attempt::Event::TimeUp),
        };
        // A call that has ended is not handed on: it must not be polled again.
        let ended = matches!(event, Happened::Ended(_));
        let event = match event {
            Happened::Event(event) => event,
            Happened::Ended(Ok(Some(grant))) => {
                shared.measured(wanted.wait, sent);
                match believed(shared, runtime, wanted, &request, grant) {
                    Ok((grant, machine)) => return Ok((request, grant, machine)),
                    Err(late) => attempt::Event::GrantedLate(late),
                }
            }
            Happened::Ended(Ok(None)) => attempt::Event::Held,
            Happened::Ended(Err(error)) => attempt::Event::Failed(error),
        };
        if let attempt::Event::Failed(error) | attempt::Event::GrantedLate(error) = &event {
            note_failure(&request, &event, error);
            failure = Some(error.clone());
        }
        match attempt.on(event) {
            Step::Call { fresh } => {
                if fresh {
                    request = new_request(shared, wanted).map_err(Err)?;
                }
                sent = clock.now();
                stage = Stage::Calling(call(shared, &request, wanted));
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
                return Err(answer_of(answer, wanted.wait, &request, applied, failure));
            }
        }
    }
}

fn note_failure(request: &Request, event: &attempt::Event, error: &Error) {
    if matches!((event, error), (attempt::Event::Failed(_), Error::Unavailable { .. })) {
        request.report(StoreSays::Unreachable);
    }
    tracing::debug!(
        target: "lockkit", event = "attempt_failed", name = %request.name(),
        request = %request.id(), error = %error,
    );
}

/// The grant, and the machine that keeps it. A grant that came after its deadline is released: an error.
fn believed(
    shared: &Shared,
    runtime: &Runtime,
    wanted: &Acquire,
    request: &Request,
    grant: Grant,
) -> Result<(Grant, Machine)> {
    match machine(shared, wanted, request, &grant) {
        Some(machine) => Ok((grant, machine)),
        None => {
            let ttl = wanted.timing.ttl;
            shared.reaper.take(CleanUp::Release { lease: grant.lease, ttl, until: None }, runtime);
            Err(too_late(ttl))
        }
    }
}

/// `None`: it came too late.
fn machine(shared: &Shared, wanted: &Acquire, request: &Request, grant: &Grant) -> Option<Machine> {
    let spread = request.id().to_bytes()[0];
    Machine::granted(wanted.timing, grant.term, shared.clock.now(), spread)
}

/// Where an attempt stands.
enum Stage {
    Admission,
    Calling(Call),
    /// The first call was answered at once.
    Answered(Option<Result<Option<Grant>>>),
    Pausing(Instant),
}

enum Happened {
    Event(attempt::Event),
    Ended(Result<Option<Grant>>),
}

impl Stage {
    async fn next(&mut self, shared: &Shared, name: &LockName) -> Happened {
        match self {
            Self::Admission => {
                shared.reaper.room(name).await;
                Happened::Event(attempt::Event::Admitted)
            }
            Self::Calling(call) => Happened::Ended(call.await),
            Self::Answered(answer) => match answer.take() {
                Some(answer) => Happened::Ended(answer),
                None => std::future::pending().await,
            },
            Self::Pausing(until) => {
                shared.clock.sleep_until(*until).await;
                Happened::Event(attempt::Event::Rested)
            }
        }
    }

    fn into_call(self) -> Option<Call> {
        match self {
            Self::Calling(call) => Some(call),
            Self::Admission | Self::Answered(_) | Self::Pausing(_) => None,
        }
    }
}

fn new_request(shared: &Shared, wanted: &Acquire) -> Result<Request> {
    let (name, clock) = (wanted.name.clone(), shared.clock.clone());
    let (id, label) = (shared.ids.next()?, Arc::clone(&wanted.label));
    let request = Request::labelled(id, name, wanted.timing.ttl, clock, label, wanted.kind);
    Ok(match wanted.permits {
        Some(permits) => request.counted(permits),
        None => request,
    })
}

/// A call that owns what it needs, so that it can outlive its caller. A bug in the provider is an
/// ambiguous failure, which is withdrawn.
fn call(shared: &Shared, request: &Request, wanted: &Acquire) -> Call {
    let (wait, delay) = (wanted.wait, wanted.rests.after_loss);
    let (provider, request) = (Arc::clone(&shared.provider), request.clone());
    let call = async move {
        let granted = match wait {
            Wait::No => provider.try_acquire(&request).await,
            Wait::Unlimited | Wait::AtMost(_) => provider.acquire(&request).await.map(Some),
        };
        granted.map(|grant| grant.map(|grant| without_delay(grant, delay)))
    };
    let panicked = |_| Err(Error::unavailable(Applied::Maybe, "the store's provider panicked"));
    Box::pin(AssertUnwindSafe(call).catch_unwind().unwrap_or_else(panicked))
}

fn answer_of(
    answer: attempt::Answer,
    wait: Wait,
    request: &Request,
    applied: Applied,
    failure: Option<Error>,
) -> Answer {
    match answer {
        attempt::Answer::Held => Ok(None),
        attempt::Answer::Failed(error) => Err(error),
        attempt::Answer::TimeUp => match (wait, request.last_word()) {
            (Wait::AtMost(_), Some(StoreSays::Held(holder))) => Err(Error::timed_out(holder)),
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
