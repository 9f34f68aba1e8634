//! Who holds and who waits in this process, by key.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lockkit_core::{Applied, Error, Grant, Holder, Instant, Request, RequestId, Result, StoreSays};
use tokio::sync::{Notify, oneshot, watch};

use super::held::Held;

/// How often a lock goes from hand to hand in one process before the others' are thought of.
const HAND_OFFS: u32 = 32;

#[derive(Debug, Default)]
pub(super) struct Slots(Mutex<HashMap<i64, Slot>>);

/// One key: its holder here, and the queue behind it.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) held: Option<Arc<Held>>,
    pub(super) queue: VecDeque<Waiter>,
    /// The task that asks the server; there is one at the most.
    pub(super) seeker: Option<Arc<Seeker>>,
    known: Known,
    /// How often the server was asked for this queue.
    round: u64,
    hand_offs: u32,
}

/// What is known of a key that nobody holds here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Known {
    #[default]
    Nothing,
    HeldElsewhere,
    /// The server does not answer.
    Unreachable,
}

/// A request that waits here, or tries.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) request: Request,
    pub(super) waits: bool,
    /// When it asked last, and in which round.
    pub(super) asked: Instant,
    pub(super) round: u64,
    /// One for each attempt of it: a replay may come beside the first.
    pub(super) replies: Vec<Reply>,
}

pub(super) type Reply = oneshot::Sender<Result<Option<Grant>>>;

impl Waiter {
    pub(super) fn new(request: Request, waits: bool, reply: Reply) -> Self {
        let asked = request.clock().now();
        Self { request, waits, asked, round: 0, replies: vec![reply] }
    }

    pub(super) fn is_there(&self) -> bool {
        self.replies.iter().any(|reply| !reply.is_closed())
    }

    /// Answers every attempt; whether one of them took it.
    pub(super) fn answer(self, answer: impl Fn() -> Result<Option<Grant>>) -> bool {
        let sent = self.replies.into_iter().map(|reply| reply.send(answer()).is_ok());
        sent.filter(|sent| *sent).count() > 0
    }
}

/// What the task that asks the server is told, and tells.
#[derive(Debug, Default)]
pub(super) struct Seeker {
    /// Somebody has left the queue.
    pub(super) left: Notify,
    /// Counts its rounds: with each one nothing is left in the server of those before.
    pub(super) rounds: watch::Sender<u64>,
}

impl Slots {
    pub(super) fn lock(&self) -> MutexGuard<'_, HashMap<i64, Slot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with a key's slot, if there is one, which then may be of no more use.
    pub(super) fn change<T>(&self, key: i64, change: impl FnOnce(&mut Slot) -> T) -> Option<T> {
        let mut slots = self.lock();
        let slot = slots.get_mut(&key)?;
        let changed = change(slot);
        if slot.is_free() {
            slots.remove(&key);
        }
        Some(changed)
    }

    /// The first in the queue of this key who still wants it.
    pub(super) fn head(&self, key: i64) -> Option<Request> {
        let mut slots = self.lock();
        let slot = slots.get_mut(&key)?;
        slot.prune();
        slot.queue.front().map(|waiter| waiter.request.clone())
    }

    /// How many wait here.
    pub(super) fn waiting(&self, key: i64) -> usize {
        self.lock().get(&key).map_or(0, |slot| slot.queue.len())
    }

    pub(super) fn is_wanted(&self, key: i64) -> bool {
        self.head(key).is_some()
    }

    /// Whether somebody waits here, and does not only try.
    pub(super) fn is_waited_for(&self, key: i64) -> bool {
        self.lock().get(&key).is_some_and(Slot::is_waited_for)
    }

    /// Tells everybody in the queue why they are not served.
    pub(super) fn fail(&self, key: i64, error: &Error) {
        let waiters = self.lock().get_mut(&key).map(|slot| std::mem::take(&mut slot.queue));
        for waiter in waiters.into_iter().flatten() {
            waiter.answer(|| Err(error.clone()));
        }
    }

    /// Tells those who have had no answer for this long that there is none.
    pub(super) fn time_out(&self, key: i64, limit: Duration) {
        let error = Error::unavailable(Applied::Maybe, "PostgreSQL gave no answer in time");
        let mut slots = self.lock();
        let Some(slot) = slots.get_mut(&key) else { return };
        slot.is_unreachable();
        for waiter in std::mem::take(&mut slot.queue) {
            let asked = waiter.request.clock().now().saturating_since(waiter.asked);
            if asked < limit {
                slot.queue.push_back(waiter);
            } else {
                waiter.answer(|| Err(error.clone()));
            }
        }
    }

    /// Another session holds it: those that only try go, the others wait; whether there are any.
    ///
    /// The word is of the past for a try that has come since the server was asked: unless somebody
    /// waits before it, the server is asked anew.
    pub(super) fn held_elsewhere(&self, key: i64) -> bool {
        let mut slots = self.lock();
        let Some(slot) = slots.get_mut(&key) else { return false };
        slot.known = Known::HeldElsewhere;
        slot.prune();
        let (is_waited_for, round) = (slot.is_waited_for(), slot.round);
        slot.turn_away(|waiter| is_waited_for || waiter.round < round);
        slot.report(&StoreSays::Held(None));
        is_waited_for
    }

    /// The server does not answer: who holds it is not known any more.
    pub(super) fn unreachable(&self, key: i64) {
        if let Some(slot) = self.lock().get_mut(&key) {
            slot.is_unreachable();
        }
    }
}

impl Slot {
    /// Without those who have left, and without a holder whose runtime has ended.
    pub(super) fn prune(&mut self) {
        self.queue.retain(Waiter::is_there);
        let orphaned =
            |held: &Arc<Held>| held.life().as_ref().is_some_and(|life| life.session.is_orphaned());
        if self.held.as_ref().is_some_and(orphaned) {
            self.held = None;
        }
    }

    /// Whether somebody waits here, and does not only try.
    pub(super) fn is_waited_for(&self) -> bool {
        self.queue.iter().any(|waiter| waiter.waits && waiter.is_there())
    }

    /// Whether one who only tries is to be told no: another holds it, or waits before.
    pub(super) fn is_taken(&self) -> bool {
        // One that is lost is still in the way, but not for long.
        let held = self.held.as_ref().is_some_and(|held| !held.is_lost() && !held.is_cut_off());
        held || self.is_waited_for() && self.known != Known::Unreachable
    }

    /// Whether this is the one that asks the server.
    pub(super) fn is_sought_by(&self, seeker: &Arc<Seeker>) -> bool {
        self.seeker.as_ref().is_some_and(|other| Arc::ptr_eq(other, seeker))
    }

    /// The server is asked anew.
    pub(super) fn begin_asking(&mut self) {
        self.round += 1;
        if self.known == Known::HeldElsewhere {
            self.known = Known::Nothing;
        }
    }

    /// Whoever asked for the queue has ended midway.
    pub(super) fn give_up(&mut self) {
        for waiter in std::mem::take(&mut self.queue) {
            let ended = "the runtime that asked PostgreSQL has ended";
            waiter.answer(|| Err(Error::unavailable(Applied::Maybe, ended)));
        }
    }

    fn is_unreachable(&mut self) {
        self.known = Known::Unreachable;
        self.report(&StoreSays::Unreachable);
    }

    pub(super) fn is_free(&self) -> bool {
        self.held.is_none() && self.queue.is_empty() && self.seeker.is_none()
    }

    /// A place in the queue: that of the same request, if it asks again.
    pub(super) fn enqueue(&mut self, mut waiter: Waiter) {
        waiter.round = self.round;
        if let Some(held) = &self.held {
            waiter.request.report(StoreSays::Held(Some(told(held))));
        } else if self.known == Known::HeldElsewhere {
            waiter.request.report(StoreSays::Held(None));
        }
        let id = waiter.request.id();
        match self.queue.iter_mut().find(|other| other.request.id() == id) {
            Some(before) => {
                (before.asked, before.round) = (waiter.asked, waiter.round);
                before.replies.extend(waiter.replies);
            }
            None => self.queue.push_back(waiter),
        }
    }

    /// Takes a request out of the queue, whose attempt ends with that.
    pub(super) fn leave(&mut self, id: RequestId) {
        let withdrawn = || Error::unavailable(Applied::No, "the request was withdrawn");
        if let Some(at) = self.queue.iter().position(|waiter| waiter.request.id() == id)
            && let Some(waiter) = self.queue.remove(at)
        {
            waiter.answer(|| Err(withdrawn()));
        }
    }

    /// The lock is this one's now.
    pub(super) fn hold(&mut self, held: &Arc<Held>) {
        self.held = Some(Arc::clone(held));
        self.known = Known::Nothing;
        self.hand_offs += 1;
        self.turn_away(|_| true);
        self.report(&StoreSays::Held(Some(told(held))));
    }

    /// Whether others' turn has come, if there are any.
    pub(super) const fn has_gone_round(&self) -> bool {
        self.hand_offs >= HAND_OFFS
    }

    /// The lock comes from the server, or nobody else waits there.
    pub(super) const fn begin_round(&mut self) {
        self.hand_offs = 0;
    }

    /// These of those that only try are told that it is another's.
    fn turn_away(&mut self, which: impl Fn(&Waiter) -> bool) {
        for waiter in std::mem::take(&mut self.queue) {
            if waiter.waits || !which(&waiter) {
                self.queue.push_back(waiter);
            } else {
                waiter.answer(|| Ok(None));
            }
        }
    }

    fn report(&self, word: &StoreSays) {
        for waiter in &self.queue {
            waiter.request.report(word.clone());
        }
    }
}

fn told(held: &Held) -> Holder {
    Holder::new(held.request.label().as_ref()).with_token(held.token)
}

#[cfg(test)]
mod tests {
    use lockkit_core::{Clock, LockName};

    use super::*;

    fn asks(slots: &Slots, waits: bool) -> oneshot::Receiver<Result<Option<Grant>>> {
        let name = LockName::new("a").expect("a name");
        let request = Request::new(name, Duration::from_secs(10), Clock::system()).expect("valid");
        let (reply, answer) = oneshot::channel();
        let mut slots = slots.lock();
        let slot = slots.entry(1).or_default();
        slot.seeker.get_or_insert_default();
        slot.enqueue(Waiter::new(request, waits, reply));
        answer
    }

    fn asks_the_server(slots: &Slots) {
        slots.lock().get_mut(&1).expect("a queue").begin_asking();
    }

    fn is_refused(answer: &mut oneshot::Receiver<Result<Option<Grant>>>) -> bool {
        matches!(answer.try_recv(), Ok(Ok(None)))
    }

    #[test]
    fn a_refusal_is_for_those_who_have_asked_before_it() {
        let slots = Slots::default();
        let mut first = asks(&slots, false);
        asks_the_server(&slots);
        assert!(!slots.lock()[&1].is_taken(), "one tries before, and may be refused");
        let mut second = asks(&slots, false);
        assert!(!slots.held_elsewhere(1), "nobody waits");
        assert!(is_refused(&mut first) && !is_refused(&mut second), "one came since it was asked");
        asks_the_server(&slots);
        assert!(!slots.held_elsewhere(1) && is_refused(&mut second));
        // The task that asked the server has not ended yet; the holder may have.
        assert!(!slots.lock()[&1].is_taken(), "the next one asks the server");

        let (waits, mut beside) = (asks(&slots, true), asks(&slots, false));
        assert!(slots.is_waited_for(1) && slots.lock()[&1].is_taken(), "one waits before");
        assert!(slots.held_elsewhere(1) && is_refused(&mut beside));
        drop(waits);
        assert!(!slots.is_waited_for(1) && !slots.held_elsewhere(1), "it has left");
        assert!(!slots.lock()[&1].is_taken());
    }
}
