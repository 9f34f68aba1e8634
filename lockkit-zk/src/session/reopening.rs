//! What a reconnection does to a session: a server reopens it, for as long as its limits allow now.

use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lockkit_core::Instant;
use zookeeper_client::{Client, SessionState};

use super::life::Life;
use crate::limits::Limits;
use crate::proof::Proof;

/// Before servers that have not answered are asked again.
const PAUSE: Duration = Duration::from_millis(250);

type Asking = Pin<Box<dyn Future<Output = Option<Duration>> + Send>>;

/// The reconnections of one session, and what the servers are asked after each.
pub(super) struct Reopening {
    limits: Arc<Limits>,
    /// How long the servers kept the session when that was sure last.
    timeout: Duration,
    /// When the driver had told of no change since the one that was dealt with.
    seen: Instant,
    /// As above, and the link was up.
    up: Instant,
    down_since: Option<Instant>,
    /// How long the last one lasted.
    outage: Duration,
    asking: Option<Asking>,
}

impl Reopening {
    /// Of a session that was asked for at this instant.
    pub(super) const fn new(limits: Arc<Limits>, timeout: Duration, asked: Instant) -> Self {
        let ([seen, up], outage) = ([asked; 2], Duration::ZERO);
        Self { limits, timeout, seen, up, down_since: None, outage, asking: None }
    }

    /// By this instant the driver has told of no change since the one that was dealt with.
    pub(super) fn unchanged(&mut self, at: Instant, state: SessionState) {
        self.seen = at;
        if state == SessionState::SyncConnected {
            self.up = at;
        }
    }

    /// How long after a heartbeat the next one is sent: while it is not known how long the session
    /// lasts, it is proven as often as the shortest one must be.
    pub(super) fn interval(&self, proof: &Proof) -> Duration {
        if proof.is_sure() { proof.pace().interval() } else { self.limits.tick() / 8 }
    }

    /// When it is to be seen again that the session is not reopened yet.
    pub(super) fn looks_at(&self) -> Instant {
        self.seen.saturating_add(self.limits.tick() / 8)
    }

    /// While the session is not reopened, certificates may be replaced: the driver's next try takes them.
    pub(super) fn look(&self, state: SessionState) {
        if state == SessionState::Disconnected {
            self.limits.connector.read_certificates();
        }
    }

    /// The driver tells of a change: it comes back to the same state too, and each time it is
    /// connected is a reconnection.
    pub(super) fn changed(&mut self, life: &Life, client: &Client, state: SessionState) {
        self.asking = None;
        let now = life.clock.now();
        if state != SessionState::SyncConnected {
            self.down_since.get_or_insert(now);
            return self.look(state);
        }
        self.reopened(life);
        let outage = self.down_since.take().map(|since| now.saturating_since(since));
        self.outage = outage.unwrap_or_default();
        self.ask(life, client, Duration::ZERO);
    }

    /// A server has reopened the session. It may have done so long before its answer was read: at any time since
    /// the link was known up last.
    pub(super) fn reopened(&self, life: &Life) {
        let least = self.limits.least();
        life.proof.send_modify(|proof| proof.reopen(self.up, self.seen, least));
        life.reopenings.send_replace(());
    }

    /// The most that the servers grant, once they have answered; pending where they are not asked.
    pub(super) async fn most(&mut self) -> Option<Duration> {
        match &mut self.asking {
            Some(asking) => asking.await,
            None => pending().await,
        }
    }

    /// Takes in what the servers grant: the session lasts no longer, and never longer again.
    pub(super) fn answered(&mut self, life: &Life, client: &Client, most: Option<Duration>) {
        self.asking = None;
        // Until one answers the session is worth the least, and no new term is given.
        let Some(most) = most else { return self.ask(life, client, PAUSE) };
        let timeout = self.timeout.min(most);
        if timeout < self.timeout {
            tracing::warn!(
                target: "lockkit", event = "session_shortened", session = client.session_id().0,
                from = ?self.timeout, to = ?timeout,
                "the servers keep the session for less than they had granted: raise their \
                 maxSessionTimeout, or take shorter ttls",
            );
            life.is_shortened.store(true, Ordering::SeqCst);
        }
        self.timeout = timeout;
        life.proof.send_modify(|proof| proof.settle(timeout));
    }

    fn ask(&mut self, life: &Life, client: &Client, pause: Duration) {
        let (limits, clock) = (Arc::clone(&self.limits), life.clock.clone());
        let (id, outage) = (client.session_id().0, self.outage);
        self.asking = Some(Box::pin(async move {
            clock.sleep(pause).await;
            limits.most(clock.now(), id, outage).await
        }));
    }
}
