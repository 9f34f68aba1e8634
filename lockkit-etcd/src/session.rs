//! A lease for each ttl, shared by the locks of one provider.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_client::Client as Driver;
use lockkit_core::kit::{LONGEST_CALL, Service, session_term};
use lockkit_core::{Applied, Clock, Error, Instant, Result, Term};
use tokio::sync::Notify;

use crate::endpoints::Endpoints;
use crate::error::Failure;
use crate::history::History;
use crate::slots::Slots;

/// A lease that the locks of equal ttl live on.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) lease: i64,
    /// As granted.
    pub(crate) ttl: Duration,
    slots: Mutex<Slots>,
    history: Arc<History>,
    /// The age of the history that it belongs to.
    pub(crate) age: u64,
    pub(crate) clock: Clock,
    state: Mutex<State>,
    pub(crate) changed: Notify,
    pub(crate) keeper: Service,
    pub(crate) wanted: Arc<Notify>,
}

#[derive(Debug)]
pub(crate) struct State {
    /// When the newest acknowledged keep-alive was sent, or the lease asked for.
    pub(crate) acked: Instant,
    /// A keep-alive sent from here on is wanted.
    pub(crate) wanted: Instant,
    pub(crate) failure: Option<String>,
    pub(crate) ended: bool,
    /// No request joins it any more: it ends with its last user.
    pub(crate) retired: bool,
    /// Copied by each user.
    pub(crate) users: Arc<()>,
}

/// A session in use: as long as one of these exists, it is kept alive.
#[derive(Clone, Debug)]
pub(crate) struct Use {
    session: Arc<Session>,
    _user: Arc<()>,
}

impl Use {
    /// No longer has the session kept alive.
    pub(crate) fn let_go(&mut self) {
        self._user = Arc::default();
    }
}

impl std::ops::Deref for Use {
    type Target = Arc<Session>;

    fn deref(&self) -> &Arc<Session> {
        &self.session
    }
}

impl Session {
    /// Asks for a lease until `end`. No task keeps it alive yet.
    pub(crate) async fn open(
        endpoints: &Endpoints,
        clock: &Clock,
        ttl: Duration,
        end: Instant,
    ) -> Result<Use> {
        let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
        let grant = |driver: Driver| {
            // Each sending counts from its own instant: the first one may be answered last.
            let sent = clock.now();
            async move {
                let granted = driver.lease_client().grant(seconds, None).await?;
                Ok((sent, granted))
            }
        };
        let (history, age) = (Arc::clone(&endpoints.history), endpoints.history.age());
        let left = end.saturating_since(clock.now());
        let granted = endpoints.call(clock, left, grant).await.value;
        // One that is granted twice expires by itself: there is nothing on it.
        let (acked, granted) = granted.map_err(|failure| failure.into_error(false))?;
        let state = State {
            acked,
            wanted: acked,
            failure: None,
            ended: false,
            retired: false,
            users: Arc::default(),
        };
        let session = Arc::new(Self {
            lease: granted.id(),
            ttl: Duration::from_secs(u64::try_from(granted.ttl()).unwrap_or(0)),
            slots: Mutex::default(),
            history,
            age,
            clock: clock.clone(),
            state: Mutex::new(state),
            changed: Notify::new(),
            keeper: Service::default(),
            wanted: Arc::default(),
        });
        let open = session.join();
        open.ok_or_else(|| Error::unavailable(Applied::No, "the session's lease has ended"))
    }

    /// Uses it; `None` where it has ended, or is about to.
    pub(crate) fn join(self: &Arc<Self>) -> Option<Use> {
        if self.is_past() {
            return None;
        }
        let state = self.state();
        let is_open = !state.ended && !state.retired;
        is_open.then(|| Use { session: Arc::clone(self), _user: Arc::clone(&state.users) })
    }

    /// The store refuses to remove a key: that ends with the lease, which no request joins any more, and
    /// which is kept alive for those that use it by now.
    pub(crate) fn retire(&self) {
        self.state().retired = true;
        self.wanted.notify_one();
    }

    /// Whether no request joins it any more; those that have their places on it keep them.
    pub(crate) fn is_retired(&self) -> bool {
        self.state().retired
    }

    /// The slots of its requests.
    pub(crate) fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store no longer has the lease.
    pub(crate) fn end(&self) {
        self.state().ended = true;
        self.changed.notify_waiters();
        self.wanted.notify_one();
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.is_past() || self.state().ended
    }

    /// Whether the cluster's history went back since: the lease may be there again, with keys that
    /// had been removed.
    pub(crate) fn is_past(&self) -> bool {
        self.history.age() != self.age
    }

    /// A guard has an older revision than one that was known: the history went back.
    pub(crate) fn fell_back(&self, known: i64, now: i64) {
        self.history.went_back(self.age, known, now);
    }

    /// From when, and for how long, the lease is granted, on the clock of a request.
    pub(crate) fn term(&self, clock: &Clock) -> Term {
        self.term_from(clock, self.state().acked)
    }

    /// The term that a keep-alive gives which was sent then.
    pub(crate) fn term_from(&self, clock: &Clock, acked: Instant) -> Term {
        session_term(&self.clock, acked, self.ttl, clock)
    }

    /// Has the store end the lease, and with it all that lives on it.
    pub(crate) async fn revoke(&self, endpoints: &Endpoints) -> Result<()> {
        self.end();
        let lease = self.lease;
        let revoke = |driver: Driver| async move { driver.lease_client().revoke(lease).await };
        match endpoints.call(&self.clock, LONGEST_CALL, revoke).await.value {
            Ok(_) | Err(Failure::NoLease) => Ok(()),
            Err(failure) => Err(failure.into_error(true)),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.keeper.stop();
    }
}
