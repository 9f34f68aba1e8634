//! The decorator between a client and its store: each call is a message there and one back.

use std::any::Any;
use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Notify, oneshot, watch};

use super::world::World;
use crate::driver::timing::call_limit;
use crate::{
    Applied, Error, FencingToken, Grant, Guarantees, Instant, Lease, LockProvider, LossReason,
    Operator, Request, RequestId, Result, Term,
};

/// The store's side: what a client does or suffers ends nothing here.
#[derive(Debug)]
pub(super) struct Server {
    world: Arc<World>,
    pub(super) store: Arc<dyn LockProvider>,
    /// Until when it alone answers nothing.
    stalled: Mutex<Option<Instant>>,
    /// A request that was delivered twice has its grant twice.
    leases: Mutex<HashMap<RequestId, Vec<Arc<dyn Lease>>>>,
}

/// A grant, as its client gets it.
#[derive(Debug)]
struct Reached {
    token: FencingToken,
    term: Term,
    lost: watch::Receiver<Option<LossReason>>,
    slot: Option<u32>,
}

impl Server {
    pub(super) fn new(world: Arc<World>, store: Arc<dyn LockProvider>) -> Arc<Self> {
        Arc::new(Self { world, store, stalled: Mutex::default(), leases: Mutex::default() })
    }

    /// It answers nothing for this long, while the others do.
    pub(super) fn stall(&self, lasting: Duration) {
        let until = self.world.clock.now().saturating_add(lasting);
        *self.stalled.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }

    fn stalled_until(&self) -> Option<Instant> {
        let stalled = *self.stalled.lock().unwrap_or_else(PoisonError::into_inner);
        stalled.filter(|_| !self.world.is_calm()).max(self.world.stalled_until())
    }

    fn leases(&self) -> MutexGuard<'_, HashMap<RequestId, Vec<Arc<dyn Lease>>>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a grant until it ends in the store, whoever still knows of it.
    fn keep(self: Arc<Self>, id: RequestId, grant: Grant) -> Reached {
        let Grant { token, term, lease, slot } = grant;
        let lease: Arc<dyn Lease> = Arc::from(lease);
        self.leases().entry(id).or_default().push(Arc::clone(&lease));
        let (tell, lost) = watch::channel(None);
        tokio::spawn(async move {
            let reason = lease.lost().await;
            let ended = self.leases().remove(&id);
            drop((lease, ended));
            let delay = self.world.weather.delay;
            self.world.sleep_up_to(delay).await;
            tell.send_replace(self.world.weather.push.then_some(reason));
            // A store that does not tell leaves the channel open.
            tell.closed().await;
        });
        Reached { token, term, lost, slot }
    }

    fn lease(&self, id: RequestId) -> Result<Arc<dyn Lease>> {
        let leases = self.leases();
        let lease = leases.get(&id).and_then(|leases| leases.last());
        lease.cloned().ok_or(Error::lost(LossReason::Removed))
    }

    async fn release(&self, id: RequestId) -> Result<()> {
        let lease = self.lease(id)?;
        let released = lease.release().await;
        let ended = self.leases().remove(&id);
        drop(ended);
        released
    }
}

/// The way between one process and the store.
#[derive(Debug)]
pub(super) struct Link {
    cut: Mutex<Cut>,
    reset: Notify,
    /// Whether the store has ended the session of a process that died.
    over: watch::Sender<bool>,
}

/// What a link does not let through.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cut {
    pub(super) requests: bool,
    pub(super) replies: bool,
}

impl Link {
    pub(super) fn new() -> Arc<Self> {
        let (cut, reset) = (Mutex::default(), Notify::new());
        Arc::new(Self { cut, reset, over: watch::Sender::new(false) })
    }

    pub(super) fn cut(&self, cut: Cut) {
        *self.cut.lock().unwrap_or_else(PoisonError::into_inner) = cut;
    }

    /// Every call that waits fails at once; what it asked goes on.
    pub(super) fn reset(&self) {
        self.reset.notify_waiters();
    }

    pub(super) fn end(&self) {
        self.over.send_replace(true);
    }

    fn cuts(&self) -> Cut {
        *self.cut.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client's provider.
#[derive(Clone, Debug)]
pub(super) struct Wire {
    pub(super) world: Arc<World>,
    pub(super) server: Arc<Server>,
    pub(super) link: Arc<Link>,
}

type Work<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

/// What becomes of one call.
struct Fate {
    there: Duration,
    back: Duration,
    lost_request: bool,
    lost_reply: bool,
    /// Whether the loss is noticed at once, as a reset, or not at all.
    noticed: bool,
    refused: bool,
    /// When it arrives a second time.
    again: Option<Duration>,
}

impl Wire {
    fn fate(&self, ttl: Duration) -> Fate {
        let calm = self.world.is_calm();
        let faults =
            if calm { super::weather::MessageFaults::default() } else { self.world.weather.faults };
        let usual = if calm { ttl / 1000 } else { self.world.weather.delay };
        let fate = self.world.draw(|random| {
            let mut there = random.up_to(usual);
            let mut back = random.up_to(usual);
            let held = random.often(faults.held);
            if held {
                // Sometimes beyond the limit of the call, and beyond the ttl.
                let longest = ttl * random.one_of(&[1, 1, 3]) / random.one_of(&[1, 4]);
                let by = random.up_to(longest);
                *(if random.often(500) { &mut there } else { &mut back }) += by;
            }
            let again = random.often(faults.duplicated).then(|| random.up_to(ttl * 2));
            let fate = Fate {
                there,
                back,
                lost_request: random.often(faults.lost_request),
                lost_reply: random.often(faults.lost_reply),
                noticed: random.often(500),
                refused: random.often(faults.refused),
                again,
            };
            (fate, held)
        });
        if fate.1 {
            self.world.fault("message held");
        }
        fate.0
    }

    /// One call, which ends within `limit` if there is one.
    async fn call<T: Send + 'static>(
        &self,
        operation: &'static str,
        ttl: Duration,
        limit: Option<Duration>,
        work: impl Fn() -> Work<T> + Send + Sync + 'static,
    ) -> Result<T> {
        let world = &self.world;
        world.did(operation);
        let fate = self.fate(ttl);
        if fate.refused {
            world.fault("call refused");
            return Err(Error::unavailable(Applied::No, "the connection was refused"));
        }
        let reset = self.link.reset.notified();
        let work = Arc::new(work);
        if let Some(again) = fate.again {
            world.fault("message duplicated");
            let (world, work) = (Arc::clone(world), Arc::clone(&work));
            tokio::spawn(async move {
                world.clock.sleep(again).await;
                drop(work().await);
            });
        }
        let (answer, answered) = oneshot::channel();
        // An unnoticed loss is noticed in the end, by a time limit of the connection.
        let unnoticed = if fate.noticed { Duration::ZERO } else { limit.unwrap_or(ttl) };
        let (network, link) = (Arc::clone(world), Arc::clone(&self.link));
        let server = Arc::clone(&self.server);
        tokio::spawn(async move {
            network.clock.sleep(fate.there).await;
            if fate.lost_request || link.cuts().requests {
                if fate.lost_request {
                    network.fault("request lost");
                }
                return network.clock.sleep(unnoticed).await;
            }
            if let Some(until) = server.stalled_until() {
                network.clock.sleep_until(until).await;
            }
            let done = work().await;
            network.clock.sleep(fate.back).await;
            if fate.lost_reply || link.cuts().replies {
                if fate.lost_reply {
                    network.fault("reply lost");
                }
                return network.clock.sleep(unnoticed).await;
            }
            drop(answer.send(done));
        });
        let why = tokio::select! {
            biased;
            answer = answered => match answer {
                Ok(answer) => return answer,
                Err(_) => "the connection was lost",
            },
            () = reset => "the connection was reset",
            () = self.after(limit) => "no answer within the limit",
        };
        Err(Error::unavailable(Applied::Maybe, why))
    }

    async fn after(&self, limit: Option<Duration>) {
        match limit {
            Some(limit) => self.world.clock.sleep(limit).await,
            None => std::future::pending().await,
        }
    }

    fn granted(&self, request: &Request, term: Term, reached: Reached) -> Grant {
        let Reached { token, lost, slot, .. } = reached;
        let lease = WireLease { wire: self.clone(), request: request.clone(), lost };
        Grant::new(token, term, lease).with_slot(slot)
    }
}

#[async_trait]
impl LockProvider for Wire {
    fn guarantees(&self) -> Guarantees {
        self.server.store.guarantees()
    }

    async fn try_acquire(&self, request: &Request) -> Result<Option<Grant>> {
        let (server, asked) = (Arc::clone(&self.server), request.clone());
        let (ttl, sent) = (request.ttl(), request.clock().now());
        let work = move || -> Work<Option<Reached>> {
            let (server, asked) = (Arc::clone(&server), asked.clone());
            Box::pin(async move {
                let grant = server.store.try_acquire(&asked).await?;
                Ok(grant.map(|grant| server.keep(asked.id(), grant)))
            })
        };
        let reached = self.call("try_acquire", ttl, Some(call_limit(ttl)), work).await?;
        let term = |reached: &Reached| Term { sent, ttl: reached.term.ttl };
        Ok(reached.map(|reached| self.granted(request, term(&reached), reached)))
    }

    async fn acquire(&self, request: &Request) -> Result<Grant> {
        let (server, asked) = (Arc::clone(&self.server), request.clone());
        let link = Arc::clone(&self.link);
        let work = move || -> Work<Reached> {
            let (server, asked) = (Arc::clone(&server), asked.clone());
            let mut over = link.over.subscribe();
            Box::pin(async move {
                let grant = tokio::select! {
                    biased;
                    grant = server.store.acquire(&asked) => grant?,
                    _ = over.wait_for(|over| *over) => {
                        return Err(Error::unavailable(Applied::No, "the session has ended"));
                    }
                };
                Ok(server.keep(asked.id(), grant))
            })
        };
        let reached = self.call("acquire", request.ttl(), None, work).await?;
        // Granted long after it was asked: the term counts from the store's own instant, which is
        // read from the same clock, and lies before its answer.
        let term = reached.term;
        Ok(self.granted(request, term, reached))
    }

    async fn withdraw(&self, request: &Request) -> Result<()> {
        let (server, asked) = (Arc::clone(&self.server), request.clone());
        let ttl = request.ttl();
        let work = move || -> Work<()> {
            let (server, asked) = (Arc::clone(&server), asked.clone());
            Box::pin(async move {
                let withdrawn = server.store.withdraw(&asked).await;
                let ended = server.leases().remove(&asked.id());
                drop(ended);
                withdrawn
            })
        };
        self.call("withdraw", ttl, Some(call_limit(ttl)), work).await
    }

    fn operator(&self) -> Option<&dyn Operator> {
        None
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }
}

/// A client's lease: it asks the server, and dropping it ends nothing.
#[derive(Debug)]
struct WireLease {
    wire: Wire,
    request: Request,
    lost: watch::Receiver<Option<LossReason>>,
}

#[async_trait]
impl Lease for WireLease {
    async fn renew(&self) -> Result<Term> {
        let (server, id) = (Arc::clone(&self.wire.server), self.request.id());
        let (ttl, sent) = (self.request.ttl(), self.request.clock().now());
        let work = move || -> Work<Term> {
            let server = Arc::clone(&server);
            Box::pin(async move { server.lease(id)?.renew().await })
        };
        let term = self.wire.call("renew", ttl, Some(call_limit(ttl)), work).await?;
        Ok(Term { sent, ttl: term.ttl })
    }

    async fn lost(&self) -> LossReason {
        let mut lost = self.lost.clone();
        match lost.wait_for(Option::is_some).await.ok().and_then(|reason| *reason) {
            Some(reason) => reason,
            None => std::future::pending().await,
        }
    }

    async fn release(&self) -> Result<()> {
        let (server, id) = (Arc::clone(&self.wire.server), self.request.id());
        let ttl = self.request.ttl();
        let work = move || -> Work<()> {
            let server = Arc::clone(&server);
            Box::pin(async move { server.release(id).await })
        };
        self.wire.call("release", ttl, Some(call_limit(ttl)), work).await
    }

    async fn raise(&self, token: FencingToken) -> Result<bool> {
        let (server, id) = (Arc::clone(&self.wire.server), self.request.id());
        let ttl = self.request.ttl();
        let work = move || -> Work<bool> {
            let server = Arc::clone(&server);
            Box::pin(async move { server.lease(id)?.raise(token).await })
        };
        self.wire.call("raise", ttl, Some(call_limit(ttl)), work).await
    }

    fn native(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        None
    }
}
