//! A grant's life in etcd.

use std::any::Any;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{Client as Driver, Compare, CompareOp, LeaseTimeToLiveOptions};
use lockkit_core::kit::call_limit;
use lockkit_core::{Applied, Error, FencingToken, Grant, Instant, Lease, LossReason, Result, Term};
use tokio::runtime::Handle;

use crate::client::Client;
use crate::endpoints::CallOutcome;
use crate::error::Failure;
use crate::own::Own;
use crate::queue::Position;
use crate::requests::{Entry, is_placed, is_the_only_one, leaving_as};
use crate::session::{Session, Use};
use crate::sight::{Sight, View};

/// How old an acknowledged keep-alive may be to serve one more lock: many locks that are renewed
/// at their own times then share a few keep-alives.
const FRESH: Duration = Duration::from_millis(250);
const PAUSE: Duration = Duration::from_millis(100);
/// A hold that ends sooner is not watched: an operator's deletion of its key is told after so long.
const SHORT: Duration = Duration::from_millis(100);

/// Where a grant lies in etcd: what a guard's `native` gives.
///
/// A transaction that compares it is applied only while the lock is held: a fence inside etcd.
///
/// ```no_run
/// # async fn example(guard: lockkit_core::Guard, client: etcd_client::Client) {
/// use etcd_client::{Txn, TxnOp};
/// use lockkit_etcd::EtcdGrant;
///
/// let grant = guard.native::<EtcdGrant>().expect("a lock in etcd");
/// let write = Txn::new().when([grant.held()]).and_then([TxnOp::put("report", "done", None)]);
/// let answer = client.kv_client().txn(write).await.expect("an answer");
/// assert!(answer.succeeded(), "no longer the holder: nothing was written");
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EtcdGrant {
    /// The holder's key.
    pub key: Vec<u8>,
    /// The revision that created it: the token, without the base of the store's tokens.
    pub create_revision: i64,
    /// The lease that the key lives on, shared by the provider's locks of equal ttl.
    pub lease: i64,
}

impl EtcdGrant {
    /// That the lock is still held by this grant, for a transaction of etcd-client.
    pub fn held(&self) -> Compare {
        Compare::create_revision(&*self.key, CompareOp::Equal, self.create_revision)
    }
}

#[derive(Debug)]
pub(crate) struct EtcdLease {
    client: Arc<Client>,
    entry: Entry,
    session: Arc<Session>,
    /// Until a release is refused.
    in_use: Mutex<Option<Use>>,
    own: Arc<Own>,
    grant: Arc<EtcdGrant>,
    /// When the request was sent that was granted.
    sent: Instant,
    /// When the grant was heard of.
    granted: Instant,
    /// The key's, once the hold has lasted.
    sight: OnceLock<Arc<Sight>>,
    lost: OnceLock<LossReason>,
    /// Whether a release was sent.
    leaving: AtomicBool,
    released: AtomicBool,
}

/// What the store granted, as of this position; `None`: its key has gone since.
pub(crate) async fn grant(
    client: &Arc<Client>,
    entry: &Entry,
    session: Use,
    place: Position,
    sent: Instant,
) -> Result<Option<Grant>> {
    let (clock, ttl) = (entry.request().clock(), session.ttl);
    let native = u64::try_from(place.created).unwrap_or(0);
    let token = FencingToken::with_base(client.token_base, native)?;
    let mut term = session.term(clock);
    // After trouble: what is granted should last.
    if clock.now().saturating_since(term.sent) > ttl / 2 {
        let renewed = session.renewed(&client.keepers, clock, ttl / 2, call_limit(ttl)).await;
        term = renewed.map_err(|error| match error {
            // Of the session: the caller has no lease yet that it could lose.
            Error::Lost { .. } => Error::unavailable(Applied::Maybe, error.to_string()),
            error => error.with_applied(Applied::Maybe),
        })?;
        // The lease lives, but an operator may have removed the key while this took its time.
        let check = place.own.check(place.created);
        if !client.read(entry.request(), &check).await?.succeeded() {
            return Ok(None);
        }
    }
    // Another call of the request may have removed it meanwhile, and a short hold is not watched.
    if !is_placed(entry, &place.own) {
        return Err(Error::unavailable(Applied::Maybe, "the request was withdrawn meanwhile"));
    }
    let lease = EtcdLease::new(Arc::clone(client), entry.clone(), session, place, sent);
    Ok(Some(Grant::new(token, term, lease)))
}

impl EtcdLease {
    fn new(
        client: Arc<Client>,
        entry: Entry,
        session: Use,
        Position { own, created, .. }: Position,
        sent: Instant,
    ) -> Self {
        let (key, lease) = (own.key.clone(), session.lease);
        let granted = entry.request().clock().now();
        Self {
            client,
            entry,
            session: Arc::clone(&session),
            in_use: Mutex::new(Some(session)),
            own,
            grant: Arc::new(EtcdGrant { key, create_revision: created, lease }),
            sent,
            granted,
            sight: OnceLock::new(),
            lost: OnceLock::new(),
            leaving: AtomicBool::new(false),
            released: AtomicBool::new(false),
        }
    }

    /// Reads whether the key is there.
    async fn read(&self) -> Result<bool> {
        let check = self.own.check(self.grant.create_revision);
        Ok(self.client.read(self.entry.request(), &check).await?.succeeded())
    }

    /// Whether the key is there.
    ///
    /// Where the right to read it was taken away, the lease may tell which keys are on it: etcd asks for no
    /// right before 3.4.26 and 3.5.9.
    async fn is_there(&self) -> Result<bool> {
        match self.read().await {
            // The same key put again, also by a sending that is still on its way, may be behind others.
            Err(refusal @ Error::Rejected { .. })
                if is_the_only_one(&self.entry, &self.own, self.grant.create_revision) =>
            {
                let clock = self.entry.request().clock();
                let keys = LeaseTimeToLiveOptions::new().with_keys();
                let lease = self.session.lease;
                let ask = |driver: Driver| {
                    let keys = Some(keys.clone());
                    async move { driver.lease_client().time_to_live(lease, keys).await }
                };
                let limit = call_limit(self.session.ttl);
                let told = self.client.endpoints.call(clock, limit, ask).await.value;
                let told = told.map_err(|_| refusal)?;
                Ok(told.keys().iter().any(|key| *key == self.grant.key))
            }
            read => read,
        }
    }

    /// Waits until the store has ended the grant.
    ///
    /// # Errors
    /// `NoRuntime`: called outside a tokio runtime.
    async fn watch(&self) -> Result<LossReason> {
        Handle::try_current().map_err(|_| Error::NoRuntime)?;
        let removed = async {
            self.entry.request().clock().sleep_until(self.granted.saturating_add(SHORT)).await;
            tokio::select! {
                error = self.client.watch.serve(&self.client.endpoints) => Err(error),
                () = self.gone() => Ok(LossReason::Removed),
            }
        };
        tokio::select! {
            () = self.session.ended(&self.client.keepers) => Ok(LossReason::SessionEnded),
            removed = removed => removed,
        }
    }

    /// Completes when the key is gone.
    async fn gone(&self) {
        let made = || self.client.watch.sight(&self.grant.key, self.grant.create_revision);
        let sight = self.sight.get_or_init(made);
        loop {
            let changed = sight.changed();
            match sight.view() {
                View::Gone => return,
                View::Unseen | View::There => changed.await,
                View::Unread { stream } => tokio::select! {
                    biased;
                    // Told gone: no reading is needed.
                    () = changed => {}
                    read = self.read_in_turn() => match read {
                        Ok(is_there) => sight.read(stream, is_there),
                        Err(_) => self.entry.request().clock().sleep(PAUSE).await,
                    },
                },
            }
        }
    }

    async fn read_in_turn(&self) -> Result<bool> {
        let _turn = self.client.turns.to_read().await;
        self.read().await
    }

    fn lose(&self, reason: LossReason) -> LossReason {
        *self.lost.get_or_init(|| reason)
    }
}

#[async_trait]
impl Lease for EtcdLease {
    async fn renew(&self) -> Result<Term> {
        if let Some(reason) = self.lost.get() {
            return Err(Error::lost(*reason));
        }
        if self.released.load(Ordering::SeqCst) || self.entry.is_withdrawn() {
            return Err(Error::lost(LossReason::Removed));
        }
        let (clock, ttl) = (self.entry.request().clock(), self.session.ttl);
        // Not from before the grant, and hardly from before this call.
        let age = clock.now().saturating_since(self.sent).min(FRESH).min(ttl / 20);
        let renewed = self.session.renewed(&self.client.keepers, clock, age, call_limit(ttl)).await;
        let term = match renewed {
            Err(Error::Lost { reason, .. }) => return Err(Error::lost(self.lose(reason))),
            renewed => renewed?,
        };
        // A lease that lives says nothing of the key: that is the watch's part, while the key is in sight.
        let is_in_sight = self.sight.get().is_some_and(|sight| sight.view() == View::There);
        if !is_in_sight && !self.is_there().await? {
            return Err(Error::lost(self.lose(LossReason::Removed)));
        }
        Ok(term)
    }

    async fn lost(&self) -> LossReason {
        match self.lost.get() {
            Some(reason) => *reason,
            None => match self.watch().await {
                Ok(reason) => self.lose(reason),
                // Outside a runtime no task can tell.
                Err(_) => std::future::pending().await,
            },
        }
    }

    async fn out_of_reach(&self) {
        self.client.watch.away().await;
    }

    async fn release(&self) -> Result<()> {
        if self.released.load(Ordering::SeqCst) {
            return Ok(());
        }
        let asked_before = self.leaving.swap(true, Ordering::SeqCst);
        let client = &self.client;
        let leaving = leaving_as(&self.entry, &self.own, self.grant.create_revision);
        let (mut is_deleted, mut is_late) = (false, false);
        if let Some(mut leaving) = leaving {
            let limit = call_limit(self.entry.request().ttl());
            let outcome = leaving.send(&client.requests, &client.endpoints, limit).await;
            if let Some(CallOutcome { value, late }) = outcome {
                is_late = late;
                match value {
                    Ok(removed) => is_deleted = removed.was_there,
                    Err(Failure::NoLease) => {}
                    Err(failure) => {
                        if failure.is_lasting() {
                            drop(self.in_use.lock().unwrap_or_else(PoisonError::into_inner).take());
                        }
                        return Err(failure.into_error(late));
                    }
                }
            }
        }
        // Gone by an earlier sending of this release, as far as its answers tell.
        if is_deleted || asked_before || is_late {
            self.released.store(true, Ordering::SeqCst);
            return Ok(());
        }
        Err(Error::lost(self.lose(LossReason::Removed)))
    }

    fn native(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        Some(Arc::clone(&self.grant) as Arc<dyn Any + Send + Sync>)
    }
}
