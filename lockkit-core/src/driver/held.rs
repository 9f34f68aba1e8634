//! What a guard, its watches and its driver share while a lease is held.

use std::any::Any;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

use super::kept::Kept;
use super::lease::{Actions, Event, Machine, State};
use super::rests::Resting;
use super::runtime::{Entered, Runtime};
use super::timing::call_limit;
use crate::{
    Applied, Clock, Error, FencingToken, Instant, Kind, LockName, LossReason, Result, Term,
};

/// One held lease, seen from both sides. The machine decides; all others read its state by the clock.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) name: LockName,
    pub(crate) token: FencingToken,
    pub(crate) kind: Kind,
    pub(crate) slot: Option<u32>,
    pub(crate) native: Option<Arc<dyn Any + Send + Sync>>,
    clock: Clock,
    pub(super) runtime: Runtime,
    inner: Mutex<Inner>,
    /// The process that took it.
    process: u32,
    /// Wakes the watchers: the state has changed, or when it will.
    changed: Notify,
    /// Wakes the driver: the guard wants something.
    wanted: Notify,
}

#[derive(Debug)]
struct Inner {
    machine: Machine,
    renewals_wanted: Vec<oneshot::Sender<Result<()>>>,
    renew_now: bool,
    release_wanted: Option<oneshot::Sender<Result<()>>>,
    /// What keeps the lease, while no task has it.
    parked: Option<Kept>,
}

impl Held {
    pub(crate) fn new(
        name: LockName,
        (token, kind, slot): (FencingToken, Kind, Option<u32>),
        native: Option<Arc<dyn Any + Send + Sync>>,
        machine: Machine,
        clock: Clock,
        runtime: Runtime,
    ) -> Self {
        let inner = Inner {
            machine,
            renewals_wanted: Vec::new(),
            renew_now: false,
            release_wanted: None,
            parked: None,
        };
        Self {
            name,
            token,
            kind,
            slot,
            native,
            clock,
            runtime,
            inner: Mutex::new(inner),
            process: std::process::id(),
            changed: Notify::new(),
            wanted: Notify::new(),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // What users see.

    pub(crate) fn state(&self) -> State {
        self.state_at(&self.inner(), self.clock.now())
    }

    /// In a process that was forked from the one that took it, no task renews it.
    fn state_at(&self, inner: &Inner, now: Instant) -> State {
        if std::process::id() == self.process {
            inner.machine.state(now)
        } else {
            State::Lost(LossReason::Forked)
        }
    }

    pub(crate) fn is_held(&self) -> bool {
        !matches!(self.state(), State::Lost(_))
    }

    pub(crate) fn remaining(&self) -> Option<Duration> {
        let inner = self.inner();
        let now = self.clock.now();
        match self.state_at(&inner, now) {
            State::Lost(_) => Some(Duration::ZERO),
            State::Held | State::AtRisk => inner.machine.end().map(|end| end.saturating_since(now)),
        }
    }

    pub(crate) fn ttl(&self) -> Option<Duration> {
        self.inner().machine.ttl()
    }

    pub(crate) fn ensure(&self, at_least: Duration) -> Result<FencingToken> {
        let inner = self.inner();
        let now = self.clock.now();
        if let State::Lost(reason) = self.state_at(&inner, now) {
            return Err(Error::lost(reason));
        }
        let left = inner.machine.end().map(|end| end.saturating_since(now));
        match (left, inner.machine.most_left(now)) {
            (Some(left), Some(most)) if left < at_least && most < at_least => Err(Error::invalid(
                format!("ensuring {at_least:?} on a lease that never has more than {most:?} left"),
                "take the lock with a longer ttl or max_hold, or ensure a shorter step of work",
            )),
            (Some(left), _) if left < at_least => Err(Error::unavailable(
                Applied::No,
                format!(
                    "it has not renewed the lease lately: {left:?} are left, of {at_least:?} needed"
                ),
            )),
            _ => Ok(self.token),
        }
    }

    /// Ends belief after so long at the latest, counted from now.
    pub(crate) fn hold_at_most(&self, max_hold: Duration) {
        self.inner().machine.end_by(self.clock.now().saturating_add(max_hold));
        // All that sleep until a change look for the next one again.
        self.changed.notify_waiters();
        self.wanted.notify_one();
    }

    pub(crate) fn lost(self: &Arc<Self>) -> impl Future<Output = LossReason> + Send + use<> {
        self.until(|state| match state {
            State::Lost(reason) => Some(reason),
            State::Held | State::AtRisk => None,
        })
    }

    pub(crate) fn at_risk(self: &Arc<Self>) -> impl Future<Output = ()> + Send + use<> {
        self.until(|state| (state != State::Held).then_some(()))
    }

    /// Completes with what `pick` finds in the state, woken by the driver and by its own timer: a
    /// driver that hangs does not hide a deadline that has passed (C7).
    fn until<R: Send + 'static>(
        self: &Arc<Self>,
        pick: impl Fn(State) -> Option<R> + Send + 'static,
    ) -> Entered<Pin<Box<dyn Future<Output = R> + Send>>> {
        let hold = Arc::clone(self);
        self.runtime.enter(Box::pin(async move {
            loop {
                let changed = hold.changed.notified();
                let now = hold.clock.now();
                let (state, next) = {
                    let inner = hold.inner();
                    (hold.state_at(&inner, now), inner.machine.next_change(now))
                };
                if let Some(found) = pick(state) {
                    return found;
                }
                match next {
                    Some(at) => tokio::select! {
                        biased;
                        () = changed => {}
                        () = hold.clock.sleep_until(at) => {}
                    },
                    None => changed.await,
                }
            }
        }))
    }

    // What the guard orders.

    /// Ends belief at once; the driver ends the lease in the store.
    pub(crate) fn let_go(self: &Arc<Self>) {
        // Released already, as a rule.
        if self.inner().machine.has_ended() || std::process::id() != self.process {
            return;
        }
        let actions = self.inner().machine.on(self.clock.now(), Event::Release);
        self.announce(actions);
        self.wanted.notify_one();
        self.unpark();
    }

    pub(crate) async fn release(self: &Arc<Self>) -> Result<()> {
        let (parked, answer) = {
            // Looked at and let go in one: an `Ok` says that it was held until here.
            let mut inner = self.inner();
            let now = self.clock.now();
            if let State::Lost(reason) = self.state_at(&inner, now) {
                return Err(Error::lost(reason));
            }
            let actions = inner.machine.on(now, Event::Release);
            // What rests gets a task, which outlives its caller.
            let parked = inner.parked.take_if(|kept| kept.resting.is_none());
            let answer = parked.is_none().then(|| {
                let (reply, answer) = oneshot::channel();
                inner.release_wanted = Some(reply);
                answer
            });
            drop(inner);
            self.announce(actions);
            (parked, answer)
        };
        if let Some(kept) = parked {
            kept.shared.parking.leave(&**self);
            return kept.release(self).await;
        }
        self.wanted.notify_one();
        self.unpark();
        match answer {
            Some(answer) => answer.await.unwrap_or(Err(Error::NoRuntime)),
            None => Err(Error::NoRuntime),
        }
    }

    pub(crate) async fn renew(self: &Arc<Self>) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        {
            let mut inner = self.inner();
            if let State::Lost(reason) = self.state_at(&inner, self.clock.now()) {
                return Err(Error::lost(reason));
            }
            if inner.machine.ttl().is_none() {
                return Ok(());
            }
            inner.renew_now = true;
            inner.renewals_wanted.push(reply);
        }
        self.wanted.notify_one();
        self.unpark();
        answer.await.unwrap_or(Err(Error::NoRuntime))
    }

    // What the driver does.

    /// Notes what keeps the lease, while no task has it.
    pub(super) fn put_parked(&self, kept: Kept) {
        self.inner().parked = Some(kept);
    }

    /// What keeps the lease, if no task has it.
    pub(super) fn take_parked(&self) -> Option<Kept> {
        self.inner().parked.take()
    }

    /// The longest that one call about it may take.
    pub(super) fn call_limit(&self) -> Duration {
        let inner = self.inner();
        call_limit(inner.machine.ttl().unwrap_or(inner.machine.asked_ttl()))
    }

    /// How long the store keeps a grant of which it hears nothing.
    pub(super) fn kept_for(&self) -> Duration {
        let (granted, asked) = {
            let inner = self.inner();
            (inner.machine.ttl(), inner.machine.asked_ttl())
        };
        granted.map_or(call_limit(asked), |granted| granted.max(asked))
    }

    pub(super) fn term(&self) -> Term {
        self.inner().machine.term()
    }

    /// Until when the name stays taken, now that the guard has ended; `None`: it is free.
    pub(super) fn rests_until(&self, resting: &Resting) -> Option<Instant> {
        let inner = self.inner();
        let now = self.clock.now();
        let State::Lost(reason) = inner.machine.state(now) else { return None };
        let Term { sent, ttl } = inner.machine.term();
        resting.until(reason, now, ttl.map(|ttl| sent.saturating_add(ttl)))
    }

    /// Takes an event in, answers the callers that waited for it, and tells the driver what to do.
    pub(crate) fn on(&self, event: Event, failure: Option<&Error>) -> Actions {
        let actions = {
            let mut inner = self.inner();
            let now = self.clock.now();
            let actions = inner.machine.on(now, event);
            let answer = match (inner.machine.state(now), event) {
                (State::Lost(reason), _) => Some(Err(Error::lost(reason))),
                (_, Event::Renewed(_)) => Some(Ok(())),
                (_, Event::RenewalFailed) => failure.map(|error| Err(error.clone())),
                _ => None,
            };
            if let Some(answer) = answer {
                for reply in inner.renewals_wanted.drain(..) {
                    // A caller that has left needs no answer.
                    let _ = reply.send(answer.clone());
                }
            }
            actions
        };
        self.announce(actions);
        actions
    }

    /// Completes when the guard wants something.
    pub(crate) async fn order(&self) -> Event {
        self.wanted.notified().await;
        if std::mem::take(&mut self.inner().renew_now) { Event::RenewNow } else { Event::Tick }
    }

    /// Completes when the machine wants a `Tick`.
    pub(crate) async fn due(&self) {
        let next = self.inner().machine.wake_at(self.clock.now());
        match next {
            Some(at) => self.clock.sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    pub(crate) fn may_be_in_reach(&self) -> bool {
        self.inner().machine.may_be_in_reach()
    }

    /// Answers the guard's `release`.
    pub(crate) fn released(&self, outcome: &Result<()>) {
        if let Some(reply) = self.inner().release_wanted.take() {
            let _ = reply.send(outcome.clone());
        }
    }

    /// The driver has ended, whatever ended it: no caller may wait for it any more.
    pub(crate) fn driver_stopped(&self) {
        self.on(Event::Ended(LossReason::DriverStopped), None);
        let orphans = {
            let mut inner = self.inner();
            (inner.release_wanted.take(), std::mem::take(&mut inner.renewals_wanted))
        };
        drop(orphans);
    }

    fn announce(&self, actions: Actions) {
        if actions.tell {
            self.changed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Instant;
    use crate::driver::timing::{Renewal, Timing};

    #[tokio::test]
    async fn in_a_forked_process_a_guard_is_lost_and_lets_nothing_go() {
        let (clock, ttl) = (Clock::system(), Duration::from_secs(15));
        let timing = Timing { ttl, margin: None, renewal: Renewal::Automatic, max_hold: None };
        let now: Instant = clock.now();
        let machine = Machine::granted(timing, Term { sent: now, ttl: Some(ttl) }, now, 0);
        let name = LockName::new("a").expect("a name");
        let grant = (FencingToken::new(1).expect("a token"), Kind::Exclusive, None);
        let runtime = Runtime::of_caller(None).expect("one");
        let machine = machine.expect("granted in time");
        let mut held = Held::new(name, grant, None, machine, clock.clone(), runtime);
        assert!(held.is_held());
        held.process ^= 1;
        let held = Arc::new(held);
        assert!(!held.is_held() && held.remaining() == Some(Duration::ZERO));
        assert_eq!(held.lost().await, LossReason::Forked);
        let lost = |answer| matches!(answer, Err(Error::Lost { reason: LossReason::Forked, .. }));
        assert!(lost(held.ensure(Duration::ZERO).map(drop)));
        assert!(lost(held.renew().await) && lost(held.release().await));
        held.let_go();
        assert_eq!(
            held.inner().machine.state(clock.now()),
            State::Held,
            "the parent's is untouched"
        );
    }
}
