//! Wake-ups: one subscription per provider, made at the first wait, re-made when it ends.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::StreamExt;
use lockkit_core::{Applied, Error, Instant, LockName, LossReason, Request, RequestId, Result};
use redis::aio::PubSub;
use redis::{Client, RedisError};
use tokio::sync::Notify;

use crate::cohort::Cohort;
use crate::connection::LIMIT;
use crate::error::to_error;
use crate::protocol::{CHANNELS, Place, request_of};
use crate::seat::{Seat, Word};

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// How often a silent subscription is asked whether it lives.
const PROBE: Duration = Duration::from_secs(5);
/// The cohorts that have ended are looked for once there are this many.
const MANY: usize = 256;

/// The seats of a provider, and whether its subscription is up.
#[derive(Debug, Default)]
pub(crate) struct Wake {
    seats: Mutex<HashMap<RequestId, Weak<Seat>>>,
    cohorts: Mutex<Cohorts>,
    subscribed: AtomicBool,
    closed: AtomicBool,
    closing: Notify,
}

/// The latest cohort of each name that was granted to us.
#[derive(Debug, Default)]
struct Cohorts {
    of: HashMap<LockName, Weak<Cohort>>,
    /// How many there were after those that have ended were last forgotten.
    left: usize,
}

impl Cohorts {
    fn latest(&self, name: &LockName) -> Option<Arc<Cohort>> {
        self.of.get(name).and_then(Weak::upgrade)
    }

    fn insert(&mut self, name: &LockName, cohort: &Arc<Cohort>) {
        // Only at twice as many, so that each one costs a look or two, however many there are.
        if self.of.len() >= MANY.max(self.left * 2) {
            self.of.retain(|_, cohort| cohort.strong_count() > 0);
            self.left = self.of.len();
        }
        self.of.insert(name.clone(), Arc::downgrade(cohort));
    }
}

impl Wake {
    /// The seat of this request.
    pub(crate) fn seat(self: &Arc<Self>, request: &Request) -> Arc<Seat> {
        let mut seats = self.seats();
        if let Some(seat) = seats.get(&request.id()).and_then(Weak::upgrade) {
            return seat;
        }
        let seat = Arc::new(Seat::new(request, Arc::clone(self)));
        seats.insert(request.id(), Arc::downgrade(&seat));
        seat
    }

    /// Forgets the seat of this request, which has been dropped.
    pub(crate) fn left(&self, id: RequestId) {
        let mut seats = self.seats();
        // A replay of the same request may have taken its place.
        if seats.get(&id).is_some_and(|seat| seat.strong_count() == 0) {
            seats.remove(&id);
        }
    }

    /// The cohort of the server's grant to this request: a new one, unless it is known here.
    pub(crate) fn granted(
        self: &Arc<Self>,
        request: &Request,
        seat: &Seat,
        token: u64,
        sent: Instant,
        line: Vec<Place>,
    ) -> Arc<Cohort> {
        let mut cohorts = self.cohorts();
        let latest = cohorts.latest(request.name());
        if let Some(known) = latest.filter(|latest| latest.token_of(request.id()) == Some(token)) {
            return known;
        }
        // Its withdrawal did not find this grant, which the server may have taken back and given to
        // others: nothing may be handed on from it.
        if seat.is_withdrawn() {
            return Arc::new(Cohort::new(Arc::clone(self), request, token, sent, Vec::new()));
        }
        let cohort = Arc::new(Cohort::new(Arc::clone(self), request, token, sent, line));
        cohorts.insert(request.name(), &cohort);
        cohort
    }

    /// The latest cohort of this name.
    pub(crate) fn cohort(&self, name: &LockName) -> Option<Arc<Cohort>> {
        self.cohorts().latest(name)
    }

    /// The seat of this request, if somebody sits there.
    pub(crate) fn taken(&self, id: RequestId) -> Option<Arc<Seat>> {
        self.seats().get(&id).and_then(Weak::upgrade)
    }

    /// Subscribes in the current runtime, unless that was done and its task lives.
    pub(crate) fn subscribe(self: &Arc<Self>, client: &Client, provider: &str) {
        if self.subscribed.swap(true, Ordering::SeqCst) {
            return;
        }
        let up = Up(Arc::downgrade(self));
        let (client, channel) = (client.clone(), format!("{CHANNELS}{provider}"));
        #[allow(clippy::disallowed_methods)] // it waits for the server: no lock lives in it
        tokio::spawn(async move {
            let mut pause = FIRST_PAUSE;
            let mut told = String::new();
            while let Some(wake) = up.0.upgrade() {
                let closing = wake.closing.notified();
                if wake.closed.load(Ordering::SeqCst) {
                    return;
                }
                tokio::select! {
                    ended = listen(&wake, &client, &channel) => match ended {
                        Ok(()) => (pause, told) = (FIRST_PAUSE, String::new()),
                        Err(error) => tell(&error, &mut told),
                    },
                    () = closing => return,
                }
                drop(wake);
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        });
    }

    /// Ends the subscription.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.closing.notify_waiters();
    }

    /// A message: what to do, for whom, and a time in milliseconds.
    fn deliver(&self, message: &str) {
        let mut words = message.split(' ');
        let (Some(word), Some(entry)) = (words.next(), words.next()) else { return };
        let after = words.next().and_then(|ms| ms.parse().ok()).map(Duration::from_millis);
        let word = match (word, after) {
            ("go", _) => Word::Ask,
            ("arm", Some(after)) => Word::AskIn(after),
            ("lost", _) => Word::Lost(LossReason::Revoked),
            _ => return,
        };
        let Some(id) = request_of(entry) else { return };
        if let Word::Lost(reason) = word {
            // It may have handed on what the server took from it.
            let cohorts: Vec<_> = self.cohorts().of.values().filter_map(Weak::upgrade).collect();
            cohorts.iter().for_each(|cohort| cohort.lost(id, reason));
        } else if let Some(seat) = self.taken(id) {
            seat.tell(word);
        }
    }

    /// Everybody asks again: what was said while nobody listened is lost.
    fn ask_all(&self) {
        let seats: Vec<_> = self.seats().values().filter_map(Weak::upgrade).collect();
        for seat in seats {
            seat.tell(Word::Ask);
        }
    }

    fn cohorts(&self) -> MutexGuard<'_, Cohorts> {
        self.cohorts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seats(&self) -> MutexGuard<'_, HashMap<RequestId, Weak<Seat>>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says that the subscription's task lives, until its runtime drops it.
struct Up(Weak<Wake>);

impl Drop for Up {
    fn drop(&mut self) {
        if let Some(wake) = self.0.upgrade() {
            wake.subscribed.store(false, Ordering::SeqCst);
        }
    }
}

/// A subscription to this channel.
pub(crate) async fn subscription(client: &Client, channel: &str) -> Result<PubSub> {
    let subscribe = async {
        let mut subscription = client.get_async_pubsub().await?;
        subscription.subscribe(channel).await?;
        Ok(subscription)
    };
    match tokio::time::timeout(LIMIT, subscribe).await {
        Ok(outcome) => outcome.map_err(|error: RedisError| to_error(&error)),
        Err(_) => Err(Error::unavailable(
            Applied::No,
            format!("Redis took no subscription within {LIMIT:?}"),
        )),
    }
}

/// Listens until the subscription ends.
async fn listen(wake: &Wake, client: &Client, channel: &str) -> Result<()> {
    let subscription = subscription(client, channel).await?;
    wake.ask_all();
    let (mut sink, mut messages) = subscription.split();
    loop {
        tokio::select! {
            message = messages.next() => match message {
                Some(message) => wake.deliver(&String::from_utf8_lossy(message.get_payload_bytes())),
                None => return Ok(()),
            },
            () = tokio::time::sleep(PROBE) => {
                let probe = sink.ping::<redis::Value>();
                if !matches!(tokio::time::timeout(LIMIT, probe).await, Ok(Ok(_))) {
                    return Ok(());
                }
            }
        }
    }
}

/// Tells of a subscription that failed, once for each cause in a row.
fn tell(error: &Error, told: &mut String) {
    let cause = error.to_string();
    if cause != *told {
        tracing::warn!(
            target: "lockkit", event = "subscription_failed", error = %cause,
            "no wake-ups from Redis: waiters find a free name by their heartbeats alone",
        );
        *told = cause;
    }
}

#[cfg(test)]
mod tests {
    use lockkit_core::Clock;

    use super::*;

    #[test]
    fn many_names_that_are_held_are_looked_through_seldom_and_forgotten_once_they_are_not() {
        let (wake, clock) = (Arc::<Wake>::default(), Clock::manual());
        let grant = |n: u32| {
            let name = LockName::new(n.to_string()).expect("a name");
            let request = Request::new(name, Duration::from_secs(3), clock.clone());
            let request = request.expect("a request");
            wake.granted(&request, &wake.seat(&request), 1, clock.now(), Vec::new())
        };
        let (mut held, mut looks, mut left) = (Vec::new(), 0, 0);
        for n in 0..5_000 {
            held.push(grant(n));
            let now_left = wake.cohorts().left;
            looks += u32::from(now_left != left);
            left = now_left;
        }
        assert_eq!(looks, 5, "at 256, and at each doubling up to 4096");
        drop(held);
        (5_000..20_000).for_each(|n| drop(grant(n)));
        assert!(wake.cohorts().of.len() <= MANY);
    }

    #[test]
    fn from_a_grant_that_was_withdrawn_on_its_way_nothing_is_handed_on() {
        let (wake, clock) = (Arc::<Wake>::default(), Clock::manual());
        let name = LockName::new("a").expect("a name");
        let request = Request::new(name.clone(), Duration::from_secs(3), clock.clone());
        let request = request.expect("a request");
        let seat = wake.seat(&request);
        let granted = |token| wake.granted(&request, &seat, token, clock.now(), Vec::new());
        let held = granted(1);
        seat.tell(Word::Withdrawn);
        assert!(Arc::ptr_eq(&granted(1), &held), "its withdrawal has found it");
        let late = granted(2);
        assert_eq!(late.token_of(request.id()), Some(2));
        let latest = wake.cohort(&name).expect("the one before");
        assert!(Arc::ptr_eq(&latest, &held), "nobody waits behind the late one");
    }
}
