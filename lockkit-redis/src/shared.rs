//! What the calls of a client share with the tasks that beat and listen for it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use lockkit_core::kit::{Awaited, Mailbox, Notes, Notice, Record, Requests};
use lockkit_core::{Clock, Instant, LossReason, Request, RequestId, Term, kit::session_term};

use crate::connection::Commands;
use crate::protocol::Word;

/// The clock by which a client's heartbeats are read.
pub(crate) fn now() -> Instant {
    Clock::system().now()
}

/// A grant that the server told without being asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Granted {
    pub(crate) token: u64,
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

/// What the calls share with the tasks.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) commands: Commands,
    pub(crate) prefix: String,
    /// What this client's channel ends in; its name in the store.
    pub(crate) address: String,
    pub(crate) waiters: Arc<Requests<Waiter>>,
    pub(crate) awaited: Awaited,
    /// Whether the client hears what is pushed. Each time that it does again, all its requests ask.
    pub(crate) listens: AtomicBool,
}

impl Shared {
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
            let granted = Granted { token: word.token, began: word.began() };
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
