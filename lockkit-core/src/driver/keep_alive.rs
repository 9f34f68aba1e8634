//! The second half of a driver's task: keeps a lease until it is over, then ends it.

use std::future::{Future, poll_fn};
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::{FutureExt, TryFutureExt};

use super::held::Held;
use super::kept::Kept;
use super::lease::{Actions, Event, State};
use super::parking::Park;
use super::reaper::{CleanUp, is_over, limited};
use super::rest::rest;
use super::shared::Shared;
use crate::{Applied, Error, Instant, Lease, LossReason, Result, Term};

/// Tells the hold that its driver has ended, also when the runtime drops the driver.
struct Alive(Arc<Held>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.driver_stopped();
    }
}

/// Keeps the lease until its guard lets go or it is lost, then ends it in the store.
pub(crate) struct Keeping {
    // Dropped before the lease: where dropping the lease frees the name, the guard is told first.
    alive: Alive,
    kept: Kept,
}

impl Keeping {
    pub(crate) fn new(hold: Arc<Held>, kept: Kept) -> Self {
        Self { alive: Alive(hold), kept }
    }

    pub(crate) async fn run(self) {
        let Self { alive, kept } = self;
        let Kept { lease, shared, resting, active: _active } = kept;
        let hold = Arc::clone(&alive.0);
        // Dropped in this order, for the same reason.
        let (lease, alive) = (lease, alive);
        let call_limit = hold.call_limit();
        until_over(&shared, &hold, &*lease, call_limit).await;
        let rests = resting.as_deref().and_then(|rest| Some((rest, hold.rests_until(rest)?)));
        let outcome = match rests {
            // Boxed: most tasks need no room for it.
            Some(rests) => Box::pin(rest(&shared, &hold, &*lease, call_limit, rests)).await,
            None => {
                let release = shared.round_trips.measured(&shared.clock, lease.release());
                limited(&shared.clock, call_limit, release).await
            }
        };
        hold.released(&outcome);
        drop(alive);
        over(&shared, &hold, lease, rests.map(|(_, until)| until), &outcome);
    }
}

impl Held {
    /// Leaves the lease without a task for a moment.
    pub(super) fn park(self: &Arc<Self>, kept: Kept) {
        let parking = Arc::clone(&kept.shared.parking);
        self.put_parked(kept);
        let parked: Arc<dyn Park> = Arc::<Self>::clone(self);
        parking.park(parked, &self.runtime);
    }

    /// Gives the lease its task.
    pub(super) fn keep(self: &Arc<Self>, kept: Kept) {
        self.runtime.spawn(Keeping::new(Arc::clone(self), kept).run());
    }

    /// Gives a lease that has none the task that keeps it.
    pub(super) fn unpark(self: &Arc<Self>) {
        if let Some(kept) = self.take_parked() {
            kept.shared.parking.leave(&**self);
            self.keep(kept);
        }
    }
}

impl Park for Held {
    fn unpark(self: Arc<Self>) {
        Self::unpark(&self);
    }
}

impl Kept {
    /// Ends the lease in the store, in the task of the guard's caller; the reaper goes on if the caller leaves.
    pub(super) async fn release(self, hold: &Held) -> Result<()> {
        let Self { lease, shared, resting: _, active: _active } = self;
        let call_limit = hold.call_limit();
        let mut left = Left { hold, shared: &shared, lease: Some(lease) };
        let outcome = match &left.lease {
            Some(lease) => {
                let release = shared.round_trips.measured(&shared.clock, lease.release());
                let panicked =
                    |_| Err(Error::unavailable(Applied::Maybe, "the store's provider panicked"));
                let release = AssertUnwindSafe(release).catch_unwind().unwrap_or_else(panicked);
                let release = pin!(limited(&shared.clock, call_limit, release));
                hold.runtime.inside(release).await
            }
            None => Ok(()),
        };
        if let Some(lease) = left.lease.take() {
            over(&shared, hold, lease, None, &outcome);
        }
        outcome
    }
}

/// A release whose caller may leave.
struct Left<'a> {
    hold: &'a Held,
    shared: &'a Shared,
    lease: Option<Box<dyn Lease>>,
}

impl Drop for Left<'_> {
    fn drop(&mut self) {
        if let Some(lease) = self.lease.take() {
            let ttl = self.hold.kept_for();
            let release = CleanUp::Release { lease, ttl, until: None };
            self.shared.reaper.take(release, &self.hold.runtime);
        }
    }
}

/// Tells what came of a release, and has it repeated where the store may keep the grant.
fn over(
    shared: &Shared,
    hold: &Held,
    lease: Box<dyn Lease>,
    until: Option<Instant>,
    outcome: &Result<()>,
) {
    match outcome {
        Ok(()) => tracing::debug!(
            target: "lockkit", event = "released", name = %hold.name, token = hold.token.as_u64(),
        ),
        Err(error) => {
            if !matches!(error, Error::Unavailable { .. }) {
                tracing::debug!(
                    target: "lockkit", event = "release_refused", name = %hold.name,
                    token = hold.token.as_u64(), error = %error,
                );
            }
            if !is_over(error) {
                // A renewal that was never acknowledged may have extended it up to now.
                let ttl = hold.kept_for();
                shared.reaper.take(CleanUp::Release { lease, ttl, until }, &hold.runtime);
            }
        }
    }
}

/// Renews and watches until the machine says that the lease is over.
async fn until_over(shared: &Shared, hold: &Held, lease: &dyn Lease, call_limit: Duration) {
    let mut actions = told(hold, Event::Tick, None);
    if actions.release {
        // Most leases end here, without a look at their signals.
        return;
    }
    let mut renewals: Vec<Renewal<'_>> = Vec::new();
    let mut signal = lease.lost();
    let mut out_of_reach = lease.out_of_reach();
    while !actions.release {
        if actions.renew {
            // An acknowledgement that comes after a whole ttl is of no use (C12).
            let limit = hold.ttl().unwrap_or(call_limit);
            let renewal = shared.round_trips.measured_lately(&shared.clock, lease.renew());
            renewals.push(Box::pin(limited(&shared.clock, limit, renewal)));
        }
        let (event, failure) = tokio::select! {
            biased;
            event = hold.order() => (event, None),
            reason = &mut signal => (Event::Ended(reason), None),
            () = &mut out_of_reach, if hold.may_be_in_reach() => {
                out_of_reach = lease.out_of_reach();
                (Event::OutOfReach, None)
            }
            outcome = first_of(&mut renewals), if !renewals.is_empty() => renewed(hold, outcome),
            () = shared.closing.closed() => (Event::Ended(LossReason::Closed), None),
            () = hold.due() => (Event::Tick, None),
        };
        actions = told(hold, event, failure.as_ref());
    }
}

/// Takes an event in, and tells the log what has changed by it.
fn told(hold: &Held, event: Event, failure: Option<&Error>) -> Actions {
    let actions = hold.on(event, failure);
    if actions.tell {
        trace_state(hold);
    }
    actions
}

/// The next of the renewals under way to end; there are at most four.
async fn first_of(renewals: &mut Vec<Renewal<'_>>) -> Result<Term> {
    poll_fn(|cx| {
        for n in 0..renewals.len() {
            if let Poll::Ready(outcome) = renewals[n].as_mut().poll(cx) {
                drop(renewals.swap_remove(n));
                return Poll::Ready(outcome);
            }
        }
        Poll::Pending
    })
    .await
}

type Renewal<'a> = Pin<Box<dyn Future<Output = Result<Term>> + Send + 'a>>;

fn renewed(hold: &Held, outcome: Result<Term>) -> (Event, Option<Error>) {
    match outcome {
        Ok(term) => {
            tracing::trace!(
                target: "lockkit", event = "renewed", name = %hold.name, token = hold.token.as_u64(),
            );
            (Event::Renewed(term), None)
        }
        Err(Error::Lost { reason, .. }) => (Event::Ended(reason), None),
        Err(error) => {
            tracing::debug!(
                target: "lockkit", event = "renewal_failed", name = %hold.name,
                token = hold.token.as_u64(), error = %error,
            );
            (Event::RenewalFailed, Some(error))
        }
    }
}

fn trace_state(hold: &Held) {
    let (name, token) = (&hold.name, hold.token.as_u64());
    match hold.state() {
        State::Held => {
            tracing::info!(target: "lockkit", event = "recovered", name = %name, token);
        }
        State::AtRisk => {
            tracing::warn!(target: "lockkit", event = "at_risk", name = %name, token);
        }
        State::Lost(LossReason::Released) => {}
        // The program's own doing.
        State::Lost(reason @ LossReason::Closed) => {
            tracing::debug!(
                target: "lockkit", event = "lost", name = %name, token, reason = %reason,
            );
        }
        State::Lost(reason) => {
            tracing::warn!(
                target: "lockkit", event = "lost", name = %name, token, reason = %reason,
            );
        }
    }
}
