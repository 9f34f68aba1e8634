//! A whole backend with its suite, on the public API alone: `cargo run --example own_backend`
//!
//! The store is a map in memory. Each name has a queue: the first request in it holds the name, the
//! others wait, and a request that is silent for its ttl loses its place. `docs/writing-a-backend.md`
//! explains each step. With `BROKEN=1` before the command, a release ends the first request of the
//! queue, even if that is another one, and the suite fails.

use std::any::Any;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::{env, future, time::Duration};

use lockkit_core::conformance::{self, Fixture};
use lockkit_core::kit::{Entry, Mailbox, Requests, wait};
use lockkit_core::{
    Error, Exclusion, Expiry, Fairness, FencingToken, Grant, Guarantees, Instant, Lease, LockName,
    LockProvider, LossReason, Operator, Request, RequestId, Result, StoreSays, Term, TtlRange,
    WakeUp, async_trait,
};

// Step 1, the store: what a server would keep, and each of its operations as one atomic step (C1).

#[derive(Debug, Default)]
struct Store {
    queues: Mutex<BTreeMap<LockName, Queue>>,
}

#[derive(Debug, Default)]
struct Queue {
    /// It stays when the queue is empty, because the tokens of a name never begin again (C4).
    last_ticket: u64,
    /// In the order of their tickets (C10).
    places: Vec<Place>,
}

#[derive(Debug)]
struct Place {
    /// Whose place it is: a request's, not a connection's or a client's (C2).
    request: RequestId,
    /// It becomes the fencing token.
    ticket: u64,
    /// When the place is lost, unless the request asks or renews before (C11).
    ends: Instant,
}

enum Answer {
    Granted { ticket: u64 },
    Held,
}

impl Queue {
    /// Gives the request the last place; its position.
    fn add(&mut self, request: RequestId, ends: Instant) -> usize {
        self.last_ticket += 1;
        self.places.push(Place { request, ticket: self.last_ticket, ends });
        self.places.len() - 1
    }
}

impl Store {
    /// Does one step on the queue of the request's name, and tells it where the request stands.
    fn step<T>(&self, request: &Request, step: impl FnOnce(&mut Queue, Option<usize>) -> T) -> T {
        let mut queues = self.queues.lock().expect("no step panics");
        let queue = queues.entry(request.name().clone()).or_default();
        let now = request.clock().now();
        queue.places.retain(|place| now < place.ends);
        let position = queue.places.iter().position(|place| place.request == request.id());
        step(queue, position)
    }

    /// Asks for the name. A request that has a place keeps it, so a replay finds its own grant (C2). One
    /// that has none gets the last place, if it waits or if the queue is empty.
    fn ask(&self, request: &Request, waits: bool) -> Answer {
        let ends = request.clock().now().saturating_add(request.ttl());
        self.step(request, |queue, position| {
            let position = match position {
                Some(position) => position,
                None if waits || queue.places.is_empty() => queue.add(request.id(), ends),
                None => return Answer::Held, // It leaves no trace (C9).
            };
            let place = &mut queue.places[position];
            place.ends = ends;
            if position == 0 { Answer::Granted { ticket: place.ticket } } else { Answer::Held }
        })
    }

    /// Gives a grant another ttl. An ended grant does not come back (C6). `false`: it had ended.
    fn renew(&self, request: &Request) -> bool {
        let ends = request.clock().now().saturating_add(request.ttl());
        self.step(request, |queue, position| {
            let renewed = position.map(|position| queue.places[position].ends = ends);
            renewed.is_some()
        })
    }

    /// Removes the place of this request, and no other (C6). `false`: it had none.
    fn leave(&self, request: &Request) -> bool {
        self.step(request, |queue, position| {
            position.map(|position| queue.places.remove(position)).is_some()
        })
    }

    /// The mistake of `BROKEN=1`: it does not check whose place it removes.
    fn remove_first(&self, request: &Request) -> bool {
        self.step(request, |queue, _| {
            let is_held = !queue.places.is_empty();
            queue.places.drain(..usize::from(is_held));
            is_held
        })
    }
}

// Step 2, the client: the store, and a record of each request that a call or a lease works on.

/// How often a waiter asks again. A store that can tell its waiters would post a `Notice::Ask` instead.
const POLL: Duration = Duration::from_millis(5);

/// One client of the store.
#[derive(Clone, Debug)]
pub struct OwnBackend {
    store: Arc<Store>,
    requests: Arc<Requests<Mailbox<Infallible>>>,
    is_broken: bool,
}

impl OwnBackend {
    /// Step 3: asks once. The kit refuses the sending if the request was withdrawn meanwhile (C9).
    fn ask(&self, entry: &Entry<Mailbox<Infallible>>, waits: bool) -> Result<Option<Grant>> {
        let request = entry.request();
        let sending = entry.send()?;
        // Read before the request leaves: the belief of the holder ends before the grant does (C5).
        let term = request.term();
        let answer = self.store.ask(request, waits);
        sending.answered();
        match answer {
            Answer::Granted { ticket } => {
                entry.granted(ticket);
                let lease = OwnLease { client: self.clone(), entry: entry.clone(), ticket };
                Ok(Some(Grant::new(FencingToken::new(ticket)?, term, lease)))
            }
            Answer::Held => Ok(None),
        }
    }
}

#[async_trait]
impl LockProvider for OwnBackend {
    /// Step 4: what the suite holds this backend to (C13).
    fn guarantees(&self) -> Guarantees {
        let mut guarantees = Guarantees::new(Exclusion::OneProcess, Expiry::Ttl(TtlRange::ANY));
        guarantees.fairness = Fairness::Fifo;
        guarantees.wake_up = WakeUp::Poll(POLL);
        guarantees
    }

    async fn try_acquire(&self, request: &Request) -> Result<Option<Grant>> {
        self.ask(&self.requests.enter(request), false)
    }

    /// Step 5: each turn of the loop asks, and so keeps the place in the queue.
    async fn acquire(&self, request: &Request) -> Result<Grant> {
        let entry = self.requests.enter(request);
        loop {
            if let Some(grant) = self.ask(&entry, true)? {
                return Ok(grant);
            }
            // The driver needs it: a wait that ends now has timed out behind a holder (C8).
            request.report(StoreSays::Held(None));
            wait(&entry, None, POLL).await?;
        }
    }

    /// Step 6: ends the waiting call first, since the call could take a place again after `leave`.
    async fn withdraw(&self, request: &Request) -> Result<()> {
        self.requests.enter(request).withdraw();
        self.store.leave(request);
        Ok(())
    }

    fn operator(&self) -> Option<&dyn Operator> {
        None // This store shows no holders, so the cases of C16 do not count.
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }
}

// Step 7, the lease: one grant's life. The driver decides when to renew and when the lease is lost.

#[derive(Debug)]
struct OwnLease {
    client: OwnBackend,
    entry: Entry<Mailbox<Infallible>>,
    ticket: u64,
}

#[async_trait]
impl Lease for OwnLease {
    async fn renew(&self) -> Result<Term> {
        // The request may have been granted again since: the store goes by its id, and would renew that grant (C6).
        self.entry.is_latest(self.ticket)?;
        let request = self.entry.request();
        let term = request.term();
        let renewed = self.client.store.renew(request);
        if renewed { Ok(term) } else { Err(Error::lost(LossReason::Removed)) }
    }

    async fn lost(&self) -> LossReason {
        future::pending().await // This store tells nothing by itself: a renewal finds the loss (C7).
    }

    async fn release(&self) -> Result<()> {
        self.entry.is_latest(self.ticket)?;
        let (store, request) = (&self.client.store, self.entry.request());
        let is_broken = self.client.is_broken;
        let ended = if is_broken { store.remove_first(request) } else { store.leave(request) };
        if ended { Ok(()) } else { Err(Error::lost(LossReason::Removed)) }
    }

    fn native(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        None
    }
}

// Step 8, the fixture: the suite connects as many clients as a case needs, all to the same store.

/// A store for the suite.
#[derive(Debug)]
pub struct OwnFixture {
    store: Arc<Store>,
    is_broken: bool,
}

impl OwnFixture {
    /// A new store; `is_broken`: with the mistake of `BROKEN=1`.
    pub fn new(is_broken: bool) -> Self {
        Self { store: Arc::default(), is_broken }
    }
}

#[async_trait]
impl Fixture for OwnFixture {
    async fn connect(&self) -> Result<Arc<dyn LockProvider>> {
        let (store, requests) = (Arc::clone(&self.store), Arc::default());
        Ok(Arc::new(OwnBackend { store, requests, is_broken: self.is_broken }))
    }
}

fn main() -> ExitCode {
    conformance::main(OwnFixture::new(env::var_os("BROKEN").is_some()))
}
