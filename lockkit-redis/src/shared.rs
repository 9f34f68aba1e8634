//! What the calls of a client share with the tasks that beat and listen for it.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lockkit_core::kit::{Awaited, Mailbox, Notes, Notice, Record, Requests};
use lockkit_core::{
    Clock, Error, Instant, LossReason, Request, RequestId, Result, Term, kit::session_term,
};

use crate::connection::Commands;
use crate::protocol::{LIFE, Word, entry, key_of};
use crate::scripts::OfFamily;

/// The clock by which a client's heartbeats are read.
pub(crate) fn now() -> Instant {
    Clock::system().now()
}

/// A grant that the server told without being asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Granted {
    pub(crate) token: u64,
    /// Of a counted grant.
    pub(crate) slot: Option<u32>,
    /// When its term began, by the clock of the heartbeats.
    pub(crate) began: Instant,
}

impl Granted {
    /// Its term; `None` where so little of it is left that the server is to be asked for all of it.
    pub(crate) fn term(&self, request: &Request) -> Option<Term> {
        let ttl = request.ttl();
        let is_worth = now().saturating_since(self.began) < ttl * 7 / 10;
        is_worth.then(|| session_term(&Clock::system(), self.began, ttl, request.clock()))
    }
}

/// What a client notes of a request.
#[derive(Debug, Default)]
pub(crate) struct Waiter {
    pub(crate) mailbox: Mailbox<Granted>,
    /// It was granted: there is nothing more to ask.
    pub(crate) holds: bool,
}

impl Notes for Waiter {}

impl std::borrow::Borrow<Mailbox<Granted>> for Waiter {
    fn borrow(&self) -> &Mailbox<Granted> {
        &self.mailbox
    }
}

impl std::borrow::BorrowMut<Mailbox<Granted>> for Waiter {
    fn borrow_mut(&mut self) -> &mut Mailbox<Granted> {
        &mut self.mailbox
    }
}

/// So many requests that were left behind are withdrawn at a time, and so many are remembered.
const AT_A_TIME: usize = 16;
const REMEMBERED: usize = 10_000;
/// How long one of them may take: beats wait for it.
const LEFT_LIMIT: Duration = Duration::from_millis(300);

/// The requests whose withdrawal failed.
#[derive(Debug, Default)]
pub(crate) struct LeftBehind(Mutex<Vec<Request>>);

impl LeftBehind {
    fn requests(&self) -> MutexGuard<'_, Vec<Request>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, request: &Request) {
        let mut requests = self.requests();
        if requests.len() < REMEMBERED && requests.iter().all(|left| left.id() != request.id()) {
            requests.push(request.clone());
        }
    }

    fn forget(&self, id: RequestId) {
        self.requests().retain(|left| left.id() != id);
    }

    fn some(&self) -> Vec<Request> {
        self.requests().iter().take(AT_A_TIME).cloned().collect()
    }
}

/// The instant of the last proof that the client lives.
#[derive(Debug)]
pub(crate) struct Heard(Mutex<Instant>);

impl Default for Heard {
    fn default() -> Self {
        Self(Mutex::new(now()))
    }
}

impl Heard {
    fn last(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a proof that was sent at this instant, and answered.
    pub(crate) fn note(&self, sent: Instant) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *last = sent.max(*last);
    }
}

/// What the calls share with the tasks.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) commands: Commands,
    pub(crate) prefix: String,
    /// What this client's channel ends in; its name in the store.
    pub(crate) address: String,
    pub(crate) waiters: Arc<Requests<Waiter>>,
    pub(crate) awaited: Awaited,
    /// Requests whose withdrawal the server has not answered: they are queued as long as this client lives.
    pub(crate) left: LeftBehind,
    /// When the client last proved that it lives: a beat or an ask of a waiter was answered.
    pub(crate) heard: Heard,
    /// Whether the client hears what is pushed. Each time that it does again, all its requests ask.
    pub(crate) listens: AtomicBool,
}

impl Shared {
    /// Withdraws a request; `late`: whether it leaves a tombstone.
    pub(crate) async fn withdraw(
        &self,
        clock: &Clock,
        limit: Duration,
        request: &Request,
        late: &str,
    ) -> Result<()> {
        let lock = key_of(&self.prefix, request.name());
        let script = OfFamily::of(request.name()).withdraw;
        let args = [&*entry(request, &self.address), late];
        let outcome = self.commands.script(clock, limit, script, &[&lock], &args).await;
        match outcome.value {
            // It may be queued for as long as this client lives, though its driver has given up.
            Err(Error::Unavailable { .. }) => self.left.note(request),
            // A refused withdrawal holds up no other.
            _ => self.left.forget(request.id()),
        }
        outcome.value.map(drop)
    }

    /// Withdraws again what was left behind, before the client proves once more that it lives.
    pub(crate) async fn withdraw_left(&self) {
        for request in self.left.some() {
            let again = self.withdraw(&Clock::system(), LEFT_LIMIT, &request, "1").await;
            if matches!(again, Err(Error::Unavailable { .. })) {
                return;
            }
        }
    }

    /// Completes when nothing has proved for half a life that the client lives.
    pub(crate) async fn unheard(&self) {
        loop {
            let heard = self.heard.last();
            Clock::system().sleep_until(heard.saturating_add(LIFE / 2)).await;
            if self.heard.last() <= heard {
                return;
            }
        }
    }

    /// Has every request that waits ask again.
    pub(crate) fn ask_all(&self) {
        self.ask_those(|_| true);
    }

    /// Has those requests that wait ask again of which this holds.
    pub(crate) fn ask_those(&self, which: impl Fn(&Request) -> bool) {
        for waiter in self.waiters.in_use() {
            if which(waiter.request()) {
                ask(&waiter);
            }
        }
    }

    /// Has a request ask again, if it waits.
    pub(crate) fn ask_one(&self, id: RequestId) {
        if let Some(waiter) = self.waiters.find(id) {
            ask(&waiter);
        }
    }

    /// Tells a request of its grant.
    pub(crate) fn granted(&self, word: &Word) {
        if let Some(waiter) = self.waiters.find(word.id) {
            let granted = Granted { token: word.token, slot: word.slot, began: word.began() };
            waiter.data().mailbox.post(Notice::Granted(granted));
        }
    }

    /// Tells a request that its grant has ended.
    pub(crate) fn lost(&self, id: RequestId, reason: LossReason) {
        if let Some(waiter) = self.waiters.find(id) {
            waiter.data().mailbox.post(Notice::Lost(reason));
        }
    }
}

fn ask(waiter: &Record<Waiter>) {
    let mut data = waiter.data();
    if !data.holds {
        data.mailbox.post(Notice::Ask);
    }
}
