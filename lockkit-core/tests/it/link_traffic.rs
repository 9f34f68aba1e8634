//! The cases about what waiting costs on a link, on the memory store behind a link that counts and
//! delays calls: the reference passes them, and each mistake fails the one that is about it.

use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lockkit_core::conformance::{Fixture, Hook, Link, Linked, Outcome, Time, Traffic, Way, check};
use lockkit_core::{
    Applied, Error, Grant, Guarantees, Lease, LockProvider, LossReason, Memory, Operator, Request,
    Result, StoreSays, Term, async_trait,
};
use tokio::sync::{Notify, watch};

/// What is wrong with the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    None,
    /// It says that waiters are told, and they ask again and again.
    Polls,
    /// Each release wakes every waiter, and all of them ask.
    Herd,
    /// One call at a time.
    OneAtATime,
    /// It does not notice that its store is out of reach.
    NoSignal,
}

/// A client and its link in one.
#[derive(Debug)]
struct Wire {
    store: Memory,
    flaw: Flaw,
    sent: AtomicU64,
    delay: Mutex<Duration>,
    down: watch::Sender<bool>,
    turn: tokio::sync::Mutex<()>,
    /// Of all clients together.
    released: Arc<Notify>,
}

impl Wire {
    fn new(of: &Wired) -> Self {
        Self {
            store: of.store.clone(),
            flaw: of.flaw,
            sent: AtomicU64::new(0),
            delay: Mutex::default(),
            down: watch::Sender::new(false),
            turn: tokio::sync::Mutex::default(),
            released: Arc::clone(&of.released),
        }
    }

    /// One call on the store, there and back.
    async fn call(&self, request: &Request) -> Result<()> {
        const BYTES: u64 = 100;
        if *self.down.borrow() {
            return Err(Error::unavailable(Applied::No, "the link is down"));
        }
        self.sent.fetch_add(BYTES, Ordering::SeqCst);
        let _turn = match self.flaw {
            Flaw::OneAtATime => Some(self.turn.lock().await),
            _ => None,
        };
        let delay = *self.delay.lock().expect("no panic");
        request.clock().sleep(2 * delay).await;
        Ok(())
    }
}

/// A client at its wire.
#[derive(Clone, Debug)]
struct Client(Arc<Wire>);

impl Client {
    fn on_wire(&self, grant: Grant, request: &Request) -> Grant {
        let Grant { token, term, lease, .. } = grant;
        Grant::new(token, term, OnWire { client: self.clone(), request: request.clone(), lease })
    }
}

#[async_trait]
impl LockProvider for Client {
    fn guarantees(&self) -> Guarantees {
        self.0.store.guarantees()
    }

    async fn try_acquire(&self, request: &Request) -> Result<Option<Grant>> {
        self.0.call(request).await?;
        let grant = self.0.store.try_acquire(request).await?;
        Ok(grant.map(|grant| self.on_wire(grant, request)))
    }

    async fn acquire(&self, request: &Request) -> Result<Grant> {
        if !matches!(self.0.flaw, Flaw::Polls | Flaw::Herd) {
            self.0.call(request).await?;
            return Ok(self.on_wire(self.0.store.acquire(request).await?, request));
        }
        loop {
            let released = self.0.released.notified();
            if let Some(grant) = self.try_acquire(request).await? {
                return Ok(grant);
            }
            request.report(StoreSays::Held(None));
            match self.0.flaw {
                Flaw::Herd => released.await,
                _ => request.clock().sleep(Duration::from_millis(300)).await,
            }
        }
    }

    async fn withdraw(&self, request: &Request) -> Result<()> {
        self.0.call(request).await?;
        self.0.store.withdraw(request).await
    }

    /// The waiters of a flaw are not the store's.
    fn operator(&self) -> Option<&dyn Operator> {
        None
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
struct OnWire {
    client: Client,
    request: Request,
    lease: Box<dyn Lease>,
}

#[async_trait]
impl Lease for OnWire {
    async fn renew(&self) -> Result<Term> {
        self.client.0.call(&self.request).await?;
        self.lease.renew().await
    }

    async fn lost(&self) -> LossReason {
        self.lease.lost().await
    }

    async fn out_of_reach(&self) {
        if self.client.0.flaw == Flaw::NoSignal {
            std::future::pending::<()>().await;
        }
        drop(self.client.0.down.subscribe().wait_for(|down| *down).await);
    }

    async fn release(&self) -> Result<()> {
        self.client.0.call(&self.request).await?;
        let released = self.lease.release().await;
        self.client.0.released.notify_waiters();
        released
    }

    fn native(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        self.lease.native()
    }
}

/// What the cases of this test do not ask for.
fn other<T>() -> Result<T> {
    Err(Error::rejected("this fault", "write it in this test"))
}

#[async_trait]
impl Link for Client {
    async fn pass(&self) -> Result<()> {
        *self.0.delay.lock().expect("no panic") = Duration::ZERO;
        self.0.down.send_replace(false);
        Ok(())
    }

    async fn refuse(&self) -> Result<()> {
        self.0.down.send_replace(true);
        Ok(())
    }

    /// There are no connections but those that it refuses.
    async fn reset(&self) -> Result<()> {
        Ok(())
    }

    async fn blackhole(&self) -> Result<()> {
        other()
    }

    async fn blackhole_old(&self) -> Result<()> {
        other()
    }

    async fn lose(&self, _: Way) -> Result<()> {
        other()
    }

    async fn hold(&self, _: Way) -> Result<()> {
        other()
    }

    async fn hold_old(&self, _: Way) -> Result<()> {
        other()
    }

    async fn deliver(&self) -> Result<()> {
        other()
    }

    async fn delay(&self, by: Duration) -> Result<()> {
        *self.0.delay.lock().expect("no panic") = by;
        Ok(())
    }

    async fn cut(&self, _: Way, _: u64) -> Result<()> {
        other()
    }

    async fn traffic(&self) -> Result<Traffic> {
        let mut traffic = Traffic::default();
        traffic.sent = self.0.sent.load(Ordering::SeqCst);
        Ok(traffic)
    }
}

struct Wired {
    store: Memory,
    flaw: Flaw,
    released: Arc<Notify>,
}

impl Wired {
    fn new(flaw: Flaw) -> Self {
        Self { store: Memory::new(), flaw, released: Arc::default() }
    }
}

#[async_trait]
impl Fixture for Wired {
    async fn connect(&self) -> Result<Arc<dyn LockProvider>> {
        Ok(Arc::new(Client(Arc::new(Wire::new(self)))))
    }

    fn time(&self) -> Time {
        Time::Virtual
    }

    fn fresh(&self) -> Option<Arc<dyn Fixture>> {
        Some(Arc::new(Self::new(self.flaw)))
    }

    fn hooks(&self) -> &[Hook] {
        &[Hook::Link]
    }

    async fn linked(&self) -> Result<Linked> {
        let client = Client(Arc::new(Wire::new(self)));
        Ok(Linked::new(Arc::new(client.clone()), client))
    }
}

fn outcome(id: &str, flaw: Flaw) -> Outcome {
    check(id, Arc::new(Wired::new(flaw)))
}

#[test]
fn the_reference_passes() {
    for id in ["PF-03", "PF-04", "PF-10-names", "C7-04"] {
        assert_eq!(outcome(id, Flaw::None), Outcome::Passed, "{id}");
    }
}

#[test]
fn each_mistake_fails_the_case_that_is_about_it() {
    for (id, flaw, why) in [
        ("PF-03", Flaw::Herd, "bytes among 60"),
        ("PF-04", Flaw::Polls, "waiters sent"),
        ("PF-10-names", Flaw::OneAtATime, "a slow link is made use of"),
    ] {
        let outcome = outcome(id, flaw);
        let Outcome::Failed(said) = &outcome else { panic!("{flaw:?} survived {id}: {outcome:?}") };
        assert!(said.contains(why), "{flaw:?} failed {id}: {said}");
    }
}

#[test]
fn a_client_without_a_signal_is_not_said_to_have_one() {
    let outcome = outcome("C7-04", Flaw::NoSignal);
    assert!(matches!(outcome, Outcome::NotClaimed(_)), "{outcome:?}");
}
