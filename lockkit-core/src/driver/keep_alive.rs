//! The second half of a driver's task: keeps a lease until it is over, then ends it.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use super::held::Held;
use super::lease::{Event, State};
use super::reaper::{CleanUp, is_over, limited};
use super::runtime::Runtime;
use super::shared::Shared;
use crate::{Error, Lease, LossReason, Result, Term};

/// Tells the hold that its driver has ended, also when the runtime drops the driver.
struct Alive<'a>(&'a Held);

impl Drop for Alive<'_> {
    fn drop(&mut self) {
        self.0.driver_stopped();
    }
}

/// Keeps the lease until its guard lets go or it is lost, then ends it in the store.
pub(crate) async fn keep(
    shared: &Shared,
    runtime: &Runtime,
    hold: &Held,
    lease: Box<dyn Lease>,
    call_limit: Duration,
) {
    // Declared after the lease, so dropped before it: where dropping the lease frees the name, the
    // guard is told first.
    let alive = Alive(hold);
    until_over(shared, hold, &*lease, call_limit).await;
    let release = shared.round_trips.measured(&shared.clock, lease.release());
    let outcome = limited(&shared.clock, call_limit, release).await;
    hold.released(&outcome);
    drop(alive);
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
            if !is_over(&error) {
                // A renewal that was never acknowledged may have extended it up to now.
                let ttl = hold.ttl().unwrap_or(call_limit);
                shared.reaper.take(CleanUp::Release { lease, ttl }, runtime);
            }
        }
    }
}

/// Renews and watches until the machine says that the lease is over.
async fn until_over(shared: &Shared, hold: &Held, lease: &dyn Lease, call_limit: Duration) {
    let mut renewals: Vec<Renewal<'_>> = Vec::new();
    let mut signal = lease.lost();
    let mut out_of_reach = lease.out_of_reach();
    let mut happened = (Event::Tick, None);
    loop {
        let (event, failure) = happened;
        let actions = hold.on(event, failure.as_ref());
        if actions.tell {
            trace_state(hold);
        }
        if actions.release {
            return;
        }
        if actions.renew {
            // An acknowledgement that comes after a whole ttl is of no use (C12).
            let limit = hold.ttl().unwrap_or(call_limit);
            let renewal = shared.round_trips.measured(&shared.clock, lease.renew());
            renewals.push(Box::pin(limited(&shared.clock, limit, renewal)));
        }
        happened = tokio::select! {
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
    }
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
