//! The provider: what each call asks of etcd.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{Client, GetOptions, PutOptions, Txn, TxnOp};
use lockkit_core::kit::{LONGEST_CALL, call_limit, within};
use lockkit_core::{
    Applied, Clock, Error, Exclusion, Expiry, Fairness, FencingToken, Grant, Guarantees, Instant,
    LockProvider, Operator, Request, RequestId, Result, TtlRange, WakeUp,
};
use tokio::sync::Semaphore;

use crate::EtcdConfig;
use crate::endpoints::Endpoints;
use crate::failure::Failure;
use crate::lease::EtcdLease;
use crate::protocol::{Keys, Mark, garbled, reads, send};
use crate::queue::Tried;
use crate::seat::{Seat, Seats, Worker};
use crate::session::{Session, Use};
use crate::watch::Watch;

/// A client of one etcd cluster, 3.4 or newer.
///
/// Its locks of equal ttl share a lease, and all of them one watch. It speaks to one member, and to
/// the next when that one fails. The tasks that serve it live in the runtime that made them, and
/// when that ends, in one where somebody waits or holds. See the page `docs/etcd.md` for the
/// algorithm and its bounds.
#[derive(Clone, Debug)]
pub struct EtcdProvider(Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) endpoints: Arc<Endpoints>,
    pub(crate) keys: Keys,
    pub(crate) mark: Mark,
    pub(crate) token_base: u64,
    ttls: TtlRange,
    /// By the ttl that was asked for.
    sessions: tokio::sync::Mutex<HashMap<Duration, Arc<Session>>>,
    pub(crate) seats: Arc<Seats>,
    pub(crate) watch: Arc<Watch>,
    /// Of those who enter a queue, or look for their keys after a disturbance.
    pub(crate) turns: Semaphore,
}

/// How many of a crowd ask at once: each costs the cluster milliseconds in a queue of a thousand.
const AT_ONCE: usize = 32;

/// What a cluster with its settings at their defaults grants.
const TTLS: TtlRange = TtlRange {
    min: Duration::from_secs(2),
    max: TtlRange::ANY.max,
    granularity: Duration::from_secs(1),
};

impl EtcdProvider {
    /// What every store of this kind promises, known before one is connected (C13); the least ttl
    /// follows the cluster's settings.
    pub const fn declared() -> Guarantees {
        let mut guarantees = Guarantees::new(Exclusion::Consensus, Expiry::Session(TTLS));
        guarantees.fairness = Fairness::Fifo;
        guarantees.wake_up = WakeUp::Push;
        guarantees.token_survives.server_restart = true;
        guarantees.token_survives.failover = true;
        guarantees.belief_breaks_on = &[
            "a pause between a check and its use that outlasts the margin",
            "a deposed leader that revokes a lease it did not see renewed (before 3.4.31 and 3.5.13)",
            "an operator who deletes the holder's key, until the holder is told",
            "a restore from an older backup or the loss of all data, until the holder is told",
            "a copy of the cluster, made from a backup, that clients use beside it",
        ];
        guarantees
    }

    /// Connects, and looks whether the cluster is fit for locks and we may take them.
    ///
    /// # Errors
    /// `Invalid`: the configuration. `Rejected`: the login, a certificate, a right that is missing,
    /// or a cluster that is too old; each says what to do. `Unavailable`: no answer.
    ///
    /// # Cancel safety
    /// Cancel-safe: what it has asked for ends by itself within seconds.
    pub async fn connect(config: EtcdConfig) -> Result<Self> {
        config.check()?;
        let endpoints = Endpoints::new(&config);
        let keys = Keys::new(&config.prefix);
        let (ttls, mark) = look_around(&endpoints, &keys, config.tls.is_some()).await?;
        endpoints.know(mark.clone()).await?;
        Ok(Self(Arc::new(Inner {
            endpoints: Arc::new(endpoints),
            watch: Watch::new(keys.clone()),
            keys,
            mark,
            token_base: config.token_base,
            ttls,
            sessions: tokio::sync::Mutex::default(),
            seats: Arc::default(),
            turns: Semaphore::new(AT_ONCE),
        })))
    }
}

/// Refuses what would break what we declare; the ttls that the cluster grants, and its mark.
async fn look_around(endpoints: &Endpoints, keys: &Keys, is_tls: bool) -> Result<(TtlRange, Mark)> {
    let clock = Clock::system();
    // Each of these calls has a limit, and so have they all.
    let end = clock.now().saturating_add(LONGEST_CALL * 2);
    let left = || end.saturating_since(clock.now()).min(LONGEST_CALL);
    let status = |client: Client| async move { client.maintenance_client().status().await };
    let status = loop {
        let answer = endpoints.call(&clock, left(), status).await;
        // Who refuses our certificate says so behind the handshake, and closes: which of the two
        // is seen is chance.
        let is_closed = is_tls && matches!(answer.value, Err(Failure::Unclear(_)));
        if !is_closed || left() < LONGEST_CALL {
            break answer.into_result()?;
        }
        clock.sleep(LONGEST_CALL / 100).await;
    };
    check_version(status.version())?;
    // The shortest lease there is shows the least ttl, and whether we may write and read.
    let grant = |client: Client| async move { client.lease_client().grant(1, None).await };
    let granted = endpoints.call(&clock, left(), grant).await.into_result()?;
    let lease = granted.id();
    let probe = |client: Client| {
        let put = TxnOp::put(keys.session(lease), "", Some(PutOptions::new().with_lease(lease)));
        let get = GetOptions::new().with_prefix().with_limit(1).with_keys_only();
        let get = TxnOp::get(keys.range(), Some(get));
        async move { client.kv_client().txn(Txn::new().and_then([put, get])).await }
    };
    endpoints.call(&clock, left(), probe).await.into_result()?;
    let mark = mark(endpoints, keys, &clock, left()).await?;
    let revoke = |client: Client| async move { client.lease_client().revoke(lease).await };
    let revoked = endpoints.call(&clock, left(), revoke).await;
    // Sent again, it finds what the first sending did.
    if !matches!(revoked.value, Err(Failure::NoLease)) {
        revoked.into_result()?;
    }
    let least = u64::try_from(granted.ttl()).unwrap_or(1).max(1);
    Ok((TtlRange { min: Duration::from_secs(least), ..TTLS }, mark))
}

/// The cluster's mark; the first client of all puts it.
async fn mark(endpoints: &Endpoints, keys: &Keys, clock: &Clock, limit: Duration) -> Result<Mark> {
    let random = u128::from_be_bytes(RequestId::random()?.to_bytes());
    let own = keys.mark(format!("{random:032x}"));
    let answer = endpoints.call(clock, limit, send(&own.put())).await.into_result()?;
    if answer.succeeded() {
        return Ok(own);
    }
    let found = reads(&answer);
    let there = found.first().and_then(|found| found.kvs().first()).ok_or_else(garbled)?;
    Ok(keys.mark(there.value()))
}

impl Inner {
    /// The session of this ttl; opened where there is none.
    async fn session(&self, request: &Request, seat: &Seat) -> Result<Use> {
        let (clock, ttl) = (request.clock(), request.ttl());
        let limit = call_limit(ttl);
        let end = clock.now().saturating_add(limit);
        let session = async {
            let mut sessions = self.sessions.lock().await;
            if let Some(session) = sessions.get(&ttl).and_then(Session::join) {
                // Its keeper may have ended with another runtime.
                session.keep(&self.endpoints)?;
                return Ok(session);
            }
            let session = loop {
                let age = self.endpoints.history.age();
                let opened =
                    Session::open(&self.endpoints, &self.keys, &self.seats, clock, ttl, end).await;
                // Its own answer may be the one that shows that the history went back.
                if age == self.endpoints.history.age() || clock.now() >= end {
                    break opened?;
                }
            };
            sessions.insert(ttl, Arc::clone(&session));
            self.seats.prune();
            Ok(session)
        };
        // Its calls end earlier by themselves, and give up a client that is stuck.
        let session = within(clock, limit + limit / 20, session);
        tokio::select! {
            biased;
            () = seat.withdrawn() => Err(Error::withdrawn()),
            session = session => session.unwrap_or_else(|| {
                let silence = format!("etcd granted no lease within {limit:?}");
                Err(Error::unavailable(Applied::No, silence))
            }),
        }
    }

    async fn grant(
        self: &Arc<Self>,
        request: &Request,
        seat: Worker,
        session: Use,
        place: (i64, i64),
        sent: Instant,
    ) -> Result<Grant> {
        let (clock, ttl) = (request.clock(), session.ttl);
        let native = u64::try_from(place.0).unwrap_or(0);
        let token = FencingToken::with_base(self.token_base, native)?;
        let mut term = session.term(clock);
        // After trouble: what is granted should last.
        if clock.now().saturating_since(term.sent) > ttl / 2 {
            let renewed = session.renewed(&self.endpoints, clock, ttl / 2, call_limit(ttl)).await;
            term = renewed.map_err(|error| match error {
                // Of the session: the caller has no lease yet that it could lose.
                Error::Lost { .. } => Error::unavailable(Applied::Maybe, error.to_string()),
                error => error.with_applied(Applied::Maybe),
            })?;
        }
        let lease = EtcdLease::new(Arc::clone(self), request, seat, session, place, sent);
        Ok(Grant::new(token, term, lease))
    }

    /// Begins an attempt. A sweep may be removing what an earlier one of the same request has left:
    /// nothing is sent that it could still remove.
    async fn attempt(&self, request: &Request) -> Result<Worker> {
        let seat = self.seats.attempt(request);
        let in_doubt = tokio::select! {
            biased;
            () = seat.withdrawn() => return Err(Error::withdrawn()),
            in_doubt = seat.swept() => in_doubt,
        };
        if in_doubt {
            if let Some((session, _)) = seat.place() {
                let limit = call_limit(request.ttl());
                session.bar(&self.endpoints, request.clock(), limit).await?;
            }
            seat.outlived_its_sweep();
        }
        Ok(seat)
    }

    /// Removes what a request has in the store, and has refused what may still come of it.
    async fn clear(&self, request: &Request, seat: &Seat) -> Result<()> {
        let Some((session, key)) = seat.place() else { return Ok(()) };
        let limit = call_limit(request.ttl());
        session.clear(&self.endpoints, request.clock(), limit, seat, &key).await?;
        self.seats.is_clear(seat);
        Ok(())
    }

    /// Ends every session; whether the store has acknowledged all of it.
    async fn end_sessions(&self) -> Result<()> {
        let current = self.sessions.lock().await.drain().collect::<Vec<_>>();
        let current = current.into_iter().map(|(_, session)| session);
        let mut sessions: Vec<_> = current.chain(self.seats.sessions()).collect();
        sessions.sort_unstable_by_key(|session| session.lease);
        sessions.dedup_by_key(|session| session.lease);
        let ended = sessions.iter().map(|session| session.revoke(&self.endpoints));
        futures_util::future::join_all(ended).await.into_iter().collect()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.watch.close();
    }
}

#[async_trait]
impl LockProvider for EtcdProvider {
    fn guarantees(&self) -> Guarantees {
        let mut guarantees = Self::declared();
        guarantees.expiry = Expiry::Session(self.0.ttls);
        guarantees
    }

    async fn try_acquire(&self, request: &Request) -> Result<Option<Grant>> {
        let inner = &self.0;
        let seat = inner.attempt(request).await?;
        loop {
            let session = inner.session(request, &seat).await?;
            let sent = request.clock().now();
            match inner.take(request, &seat, &session).await? {
                Tried::Taken { created, known } => {
                    let grant = inner.grant(request, seat, session, (created, known), sent);
                    return grant.await.map(Some);
                }
                Tried::Held if !seat.may_arrive() => {
                    inner.seats.is_clear(&seat);
                    return Ok(None);
                }
                Tried::Held | Tried::Queued => {
                    // A sending without an answer might still take the name.
                    inner.clear(request, &seat).await?;
                    return Ok(None);
                }
                Tried::Ended => {}
            }
        }
    }

    async fn acquire(&self, request: &Request) -> Result<Grant> {
        let inner = &self.0;
        let seat = inner.attempt(request).await?;
        loop {
            let session = inner.session(request, &seat).await?;
            let sent = request.clock().now();
            let Some(place) = inner.enter(request, &seat, &session).await? else { continue };
            if let Some(place) = inner.wait(request, &seat, &session, place).await?
                && !session.is_past()
            {
                return inner.grant(request, seat, session, place, sent).await;
            }
        }
    }

    async fn withdraw(&self, request: &Request) -> Result<()> {
        let Some(seat) = self.0.seats.find(request.id()) else { return Ok(()) };
        // Told before it is sent: an attempt that asked once more would come back behind it.
        seat.withdraw();
        self.0.clear(request, &seat).await
    }

    fn operator(&self) -> Option<&dyn Operator> {
        Some(&*self.0)
    }

    async fn close(&self) -> Result<()> {
        let ended = self.0.end_sessions().await;
        self.0.watch.close();
        self.0.endpoints.close();
        ended
    }
}

/// Refuses what lacks a request that we send.
fn check_version(version: &str) -> Result<()> {
    let mut numbers = version.split('.').map(|part| part.parse().unwrap_or(0_u32));
    let number = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if number < (3, 4) {
        return Err(Error::rejected(format!("etcd {version}"), "use etcd 3.4 or newer"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_older_than_3_4_is_refused_by_its_version() {
        for version in ["3.4.23", "3.4.0", "3.5.13", "3.6.0-rc.1", "4.0.0"] {
            check_version(version).expect(version);
        }
        for version in ["3.3.27", "3.2.0", "2.3.8", ""] {
            let error = check_version(version).expect_err(version).to_string();
            assert!(error.contains(version) && error.contains("3.4"), "{error}");
        }
    }
}
