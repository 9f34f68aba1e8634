//! A grant's life in ZooKeeper.

use std::any::Any;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures_util::FutureExt;
use futures_util::future::{join_all, poll_fn};
use lockkit_core::kit::call_limit;
use lockkit_core::{Error, Grant, Instant, Lease, LossReason, Request, Result, Term};
use zookeeper_client::Error as ZkError;

use crate::cleanup::{Removal, remove};
use crate::client::Client;
use crate::error::{is_ambiguous, limited, to_error};
use crate::place::{Held, Node, Place};
use crate::wait::Watched;

/// The node of a grant, for callers that write into the same ensemble.
///
/// A check of it in the caller's own `multi` lets ZooKeeper itself refuse a stale holder's write:
///
/// ```no_run
/// # async fn write(client: &zookeeper_client::Client, guard: lockkit_core::Guard) {
/// use lockkit_zk::ZkNode;
///
/// let held = guard.native::<ZkNode>().expect("a lock of ZooKeeper's");
/// let mut multi = client.new_multi_writer();
/// multi.add_check_version(&held.path, held.version).expect("a path");
/// multi.add_set_data("/app/state", b"new", None).expect("a path");
/// multi.commit().await.expect("still held when it was written");
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ZkNode {
    /// Its full path; no other node ever has the same.
    pub path: String,
    /// The version of its data, which nothing changes while the grant lives.
    pub version: i32,
    /// The transaction that created it: the token without the store's base and `token_base`.
    pub czxid: i64,
}

struct ZkLease {
    client: Arc<Client>,
    request: Request,
    place: Arc<Place>,
    held: Arc<Held>,
    watched: Mutex<Watched>,
    /// From when its latest term counts, by the session's clock.
    since: Mutex<Instant>,
    /// What that last said.
    removed: AtomicBool,
    /// Whether a release may have been done without an answer.
    unanswered: AtomicBool,
}

/// What the queue granted.
pub(crate) async fn grant(
    client: &Arc<Client>,
    request: &Request,
    place: &Arc<Place>,
    node: Node,
    watched: Watched,
) -> Result<Grant> {
    let (clock, limit) = (request.clock(), call_limit(request.ttl()));
    // Known by now, unless the session was reopened meanwhile.
    let store = limited(clock, limit, client.tokens(&node.session)).await?;
    let token = client.token(store, node.czxid)?;
    // After a silence, belief begins once the leader has heard of the session again.
    let term = node.session.whole_term(clock);
    let (since, term) = limited(clock, limit, term).await.map_err(|error| match error {
        Error::Lost { .. } => node.session.over(),
        error => error,
    })?;
    let (client, place) = (Arc::clone(client), Arc::clone(place));
    let lease = ZkLease::new(client, request.clone(), place, node, watched, since);
    Ok(Grant::new(token, term, lease))
}

impl ZkLease {
    fn new(
        client: Arc<Client>,
        request: Request,
        place: Arc<Place>,
        node: Node,
        watched: Watched,
        since: Instant,
    ) -> Self {
        let held = place.hold(node, client.places.forgets(request.id(), &place));
        let (removed, unanswered) = (AtomicBool::new(false), AtomicBool::new(false));
        let (watched, since) = (Mutex::new(watched), Mutex::new(since));
        Self { client, request, place, held, watched, since, removed, unanswered }
    }

    /// Completes when the node is gone; sticky.
    async fn removed(&self) {
        poll_fn(|cx| {
            // A renewal and a holder may poll it at once; it keeps its watch when neither does.
            let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
            if self.removed.load(Ordering::SeqCst) {
                return std::task::Poll::Ready(());
            }
            let gone = watched.gone.as_mut().poll(cx);
            if gone.is_ready() {
                self.removed.store(true, Ordering::SeqCst);
            }
            gone
        })
        .await;
    }

    /// The next term that lasts longer than those before.
    async fn next_term(&self) -> Result<Term> {
        let known = || self.since.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *known();
        let next = self.held.node.session.next_term(self.request.clock(), before);
        let (since, term) = next.await?;
        let mut known = known();
        *known = since.max(*known);
        Ok(term)
    }

    /// Nothing of the request is in the store any more.
    fn over(&self) {
        self.held.released.store(true, Ordering::SeqCst);
        self.place.clear();
        self.client.places.forget(self.request.id(), &self.place);
    }
}

#[async_trait]
impl Lease for ZkLease {
    /// Sends nothing once the node is watched: the next heartbeat renews all leases of its session.
    async fn renew(&self) -> Result<Term> {
        if self.held.released.load(Ordering::SeqCst) {
            return Err(Error::lost(LossReason::Released));
        }
        let clock = self.request.clock();
        // A node that is gone renews nothing: it is watched before the heartbeat counts.
        let is_set = self.watched.lock().unwrap_or_else(PoisonError::into_inner).set();
        let term = is_set.then(|()| self.next_term());
        let next = async {
            tokio::select! {
                biased;
                reason = self.lost() => Err(Error::lost(reason)),
                term = term => term,
            }
        };
        self.client.servers.name(limited(clock, call_limit(self.request.ttl()), next).await)
    }

    async fn lost(&self) -> LossReason {
        tokio::select! {
            biased;
            () = self.held.node.session.ended() => LossReason::SessionEnded,
            () = self.removed() => LossReason::Removed,
        }
    }

    async fn out_of_reach(&self) {
        self.held.node.session.down().await;
    }

    async fn release(&self) -> Result<()> {
        self.client.servers.name(self.release_once().await)
    }

    fn native(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        let path = self.held.node.paths().swap_remove(0);
        Some(Arc::new(ZkNode { path, version: 0, czxid: self.held.node.czxid }))
    }
}

impl ZkLease {
    async fn release_once(&self) -> Result<()> {
        if self.held.released.load(Ordering::SeqCst) {
            return Ok(());
        }
        let client = self.held.node.session.client().map_err(|_| {
            self.over();
            Error::lost(LossReason::SessionEnded)
        })?;
        let paths = self.held.node.paths();
        let deletes =
            async { Ok(join_all(paths.iter().map(|path| client.delete(path, None))).await) };
        let deletes = limited(self.request.clock(), call_limit(self.request.ttl()), deletes).await;
        let outcome: std::result::Result<Vec<()>, _> = match deletes {
            Ok(deletes) => deletes.into_iter().collect(),
            Err(error) => {
                self.leave_to_session();
                return Err(error);
            }
        };
        match outcome {
            Ok(_) => {}
            // An earlier call may have done it.
            Err(ZkError::NoNode) if self.unanswered.load(Ordering::SeqCst) => {}
            Err(ZkError::NoNode) => {
                self.leave_to_session();
                self.over();
                return Err(Error::lost(LossReason::Removed));
            }
            Err(error) => {
                if is_ambiguous(&error) {
                    self.leave_to_session();
                }
                return Err(to_error(&error));
            }
        }
        self.over();
        Ok(())
    }

    /// This call gives up; the session goes on until the node is gone.
    fn leave_to_session(&self) {
        self.unanswered.store(true, Ordering::SeqCst);
        drop(remove(&self.held.node.session, Removal::Nodes(self.held.node.paths())));
    }
}

impl std::fmt::Debug for ZkLease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ZkLease")
            .field("request", &self.request.id())
            .field("path", &self.held.node.paths().first())
            .finish_non_exhaustive()
    }
}
