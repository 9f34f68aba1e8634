//! An attempt whose first call is polled in its caller's task, for a moment: most end before they need one of their own.
//!
//! ```text
//! here --its caller polls the call-------------------------> polled
//!      --its moment passes, its locks close----------------> there, in a task of its own, which answers
//!      --its caller leaves---------------------------------> over, and withdrawn
//! polled --the call ends-----------------------------------> over, with what it came to
//!        --the call goes on--------------------------------> here, or there if that has become due meanwhile
//! there --its task answers, or its caller leaves-----------> over
//! ```
//!
//! A task costs more than the rest of an attempt that is soon answered: to be made, and to be woken for each answer.
//! No lock is held while the call is polled: a provider whose poll blocks holds up its own caller, and no other.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::oneshot;

use super::acquire::{Begun, First, Open, first_of};
use super::drive::drive;
use super::parking::{ATTEMPTS, Park};
use super::reaper::CleanUp;
use super::room::Counted;
use super::runtime::Runtime;
use super::shared::{Acquire, Shared, Wait};
use super::timing::call_limit;
use crate::Error;
use crate::guard::Answer;

/// What an attempt that stayed with its caller comes to.
#[allow(clippy::large_enum_variant)] // the large one is the usual one
pub(super) enum Came {
    /// Its first call ended.
    First(First, Acquire, Counted),
    /// Its task answered.
    Answered(Answer),
}

/// Where an attempt is.
#[allow(clippy::large_enum_variant)] // the large one is the usual one
enum Place {
    Here(Open, Waker),
    /// Its caller polls the call now; whether it is due to have a task by now.
    Polled {
        is_due: bool,
    },
    There(oneshot::Receiver<Answer>),
    Over,
}

struct Moment {
    shared: Arc<Shared>,
    runtime: Runtime,
    place: Mutex<Place>,
}

/// An attempt that stays with its caller; dropped, the caller has left.
struct Stay {
    moment: Arc<Moment>,
    /// Its call was polled a moment ago, in the same turn of the caller's task.
    is_polled: bool,
}

/// Whether an attempt may stay: time goes on by itself, and a limit leaves room for the moment.
pub(super) fn may_stay(
    shared: &Shared,
    runtime: &Runtime,
    wanted: &Acquire,
    begun: &Begun,
) -> bool {
    let limit = match wanted.wait {
        Wait::No => call_limit(wanted.timing.ttl),
        Wait::AtMost(limit) => limit,
        Wait::Unlimited => Duration::MAX,
    };
    let is_roomy = limit >= 4 * ATTEMPTS;
    is_roomy && begun.is_calling() && shared.clock.goes_on() && runtime.host.is_none()
}

/// Leaves an attempt with its caller, for a moment.
pub(super) async fn stay(shared: &Arc<Shared>, runtime: &Runtime, open: Open) -> Came {
    let (shared, runtime) = (Arc::clone(shared), runtime.clone());
    // Polled in the task that polled the call: it is woken where the caller is.
    let caller = poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
    let place = Mutex::new(Place::Here(open, caller));
    let moment = Arc::new(Moment { shared, runtime, place });
    // Before it is parked: that may hand it on at once.
    let stay = Stay { moment: Arc::clone(&moment), is_polled: true };
    let parked: Arc<dyn Park> = Arc::<Moment>::clone(&moment);
    moment.shared.attempts.park(parked, &moment.runtime);
    if moment.shared.closing.is_set() {
        // `close` may have ended what was parked before this was.
        Arc::clone(&moment).unpark();
    }
    drop(moment);
    stay.await
}

impl Moment {
    /// Hands the attempt to a task of its own.
    fn hand_over(&self, open: Open) -> Place {
        let (sender, answer) = oneshot::channel();
        let (shared, runtime) = (Arc::clone(&self.shared), self.runtime.clone());
        self.runtime.spawn(drive(shared, runtime, open, sender));
        Place::There(answer)
    }

    /// Polls the call of an attempt that is `Polled`; the attempt, once the call has ended.
    fn poll_call(&self, mut open: Open, caller: Waker, cx: &mut Context<'_>) -> Poll<Came> {
        let polled = open.begun.poll(&self.runtime, cx);
        let mut place = self.place();
        let is_due = matches!(*place, Place::Polled { is_due: true });
        let outcome = match polled {
            Poll::Ready(outcome) => outcome,
            Poll::Pending if is_due => {
                *place = self.hand_over(open);
                drop(place);
                // Polled again at once: it is to be woken by the answer from now on.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Pending => {
                let is_same = caller.will_wake(cx.waker());
                let caller = if is_same { caller } else { cx.waker().clone() };
                *place = Place::Here(open, caller);
                return Poll::Pending;
            }
        };
        *place = Place::Over;
        drop(place);
        self.shared.attempts.leave(self);
        let Open { wanted, begun, active } = open;
        let first = first_of(&self.shared, &wanted, begun, outcome);
        Poll::Ready(Came::First(first, wanted, active))
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Future for Stay {
    type Output = Came;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Came> {
        let is_polled = std::mem::take(&mut self.is_polled);
        let moment = &*self.moment;
        let mut place = moment.place();
        match std::mem::replace(&mut *place, Place::Over) {
            here @ Place::Here(..) if is_polled => {
                *place = here;
                Poll::Pending
            }
            Place::Here(open, caller) => {
                *place = Place::Polled { is_due: false };
                drop(place);
                moment.poll_call(open, caller, cx)
            }
            Place::There(mut answer) => {
                let answered = Pin::new(&mut answer).poll(cx);
                if answered.is_pending() {
                    *place = Place::There(answer);
                }
                // Without an answer the runtime has ended, and the driver with it.
                answered.map(|answer| Came::Answered(answer.unwrap_or(Err(Error::NoRuntime))))
            }
            // Polled again after its end, or after a panic of a poll.
            Place::Polled { .. } | Place::Over => Poll::Pending,
        }
    }
}

impl Park for Moment {
    fn unpark(self: Arc<Self>) {
        let mut place = self.place();
        match std::mem::replace(&mut *place, Place::Over) {
            Place::Here(open, caller) => {
                *place = self.hand_over(open);
                drop(place);
                caller.wake();
            }
            Place::Polled { .. } => *place = Place::Polled { is_due: true },
            other => *place = other,
        }
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        let moment = &*self.moment;
        let place = std::mem::replace(&mut *moment.place(), Place::Over);
        if let Place::Here(Open { begun, active, .. }, _) = place {
            moment.shared.attempts.leave(moment);
            let (request, call) = begun.into_call();
            moment.shared.reaper.take(CleanUp::Withdraw { request, call }, &moment.runtime);
            // Only now: what closes waits for it, or else for the clean-up.
            drop(active);
        }
    }
}
