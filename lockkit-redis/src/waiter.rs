//! What this client notes of a request that waits: its notices, and its ticket in the queue.

use std::borrow::{Borrow, BorrowMut};

use lockkit_core::kit::{Mailbox, Notes, Notice, Record};
use lockkit_core::{Instant, Request};

/// The notes of one request; `G` is a grant that another request of this client hands on.
#[derive(Debug)]
pub(crate) struct Waiter<G> {
    pub(crate) mailbox: Mailbox<G>,
    /// How many of its calls rest between two heartbeats.
    resting: u32,
    /// Its ticket by the last answer, and until when it has that for certain.
    ticket: Option<(u64, Instant)>,
}

/// What became of an offer to hand the name on.
#[derive(Debug)]
pub(crate) enum Offered {
    Taken(Request),
    /// The request was withdrawn, or has another ticket by now.
    Left,
    /// It is being sent, does not rest, or needs another term.
    Busy,
}

/// A call that rests until its next heartbeat, until dropped.
#[derive(Debug)]
pub(crate) struct Resting<'a, G>(&'a Record<Waiter<G>>);

/// Notes that a call rests, and that its request has this ticket until then.
pub(crate) fn rest<G>(
    record: &Record<Waiter<G>>,
    ticket: Option<u64>,
    until: Instant,
) -> Resting<'_, G> {
    let mut waiter = record.data();
    waiter.resting += 1;
    waiter.ticket = ticket.map(|ticket| (ticket, until));
    Resting(record)
}

/// Grants what `of` held, if this request waits for just that, with this ticket.
pub(crate) fn offer<G: Clone>(
    record: &Record<Waiter<G>>,
    of: &Request,
    ticket: u64,
    grant: G,
) -> Offered {
    let request = record.request();
    let same_term = request.ttl() == of.ttl() && request.clock().shares_time_with(of.clock());
    let mut waiter = record.data();
    if waiter.is_withdrawn() {
        return Offered::Left;
    }
    let is_idle = waiter.resting > 0 && !waiter.is_sending() && waiter.mailbox.last().is_none();
    match waiter.ticket {
        Some((own, until)) if is_idle && same_term && request.clock().now() < until => {
            if own != ticket {
                return Offered::Left;
            }
        }
        _ => return Offered::Busy,
    }
    waiter.mailbox.post(Notice::Granted(grant));
    Offered::Taken(request.clone())
}

impl<G> Default for Waiter<G> {
    fn default() -> Self {
        Self { mailbox: Mailbox::default(), resting: 0, ticket: None }
    }
}

impl<G> Notes for Waiter<G> {}

impl<G> Borrow<Mailbox<G>> for Waiter<G> {
    fn borrow(&self) -> &Mailbox<G> {
        &self.mailbox
    }
}

impl<G> BorrowMut<Mailbox<G>> for Waiter<G> {
    fn borrow_mut(&mut self) -> &mut Mailbox<G> {
        &mut self.mailbox
    }
}

impl<G> Drop for Resting<'_, G> {
    fn drop(&mut self) {
        self.0.data().resting -= 1;
    }
}
