//! Waiting in a queue, and knowing when a node is gone.
//!
//! ```text
//!                 others before it
//! entered --------------------------------> behind --the one before it is gone--> looks at the queue
//!    | none, or                               |                                         |
//!    | none that keeps it out                 | and was the only one          none left | others
//!    v                                        v                                         |   |
//! first <---its own node is there------- alone, it seems                                |   +--> behind
//!    ^                                                                                  |
//!    +----------------------------------------------------------------------------------+
//!
//! any state --its own node is not there--> gone
//! ```
//!
//! The end of the node before proves nothing of the own one, which an operator may have removed. So a look
//! that shows it comes before each grant: at the queue, or at the node itself by a watch, which long waits
//! and long holds need anyway. Short ones do without.

use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join_all, select_all};
use lockkit_core::kit::call_limit;
use lockkit_core::{Error, Holder, Request, Result, StoreSays};
use tokio::sync::{Notify, watch};
use zookeeper_client::{Client, Error as ZkError, EventType, OneshotWatcher};

use crate::error::{Outcome, is_ambiguous, limited, to_error};
use crate::place::Node;
use crate::protocol::{Ahead, kind_of, label};
use crate::queue::Entered;
use crate::session::{Link, Session};

/// Before a watch that could not be set is tried again.
const PAUSE: Duration = Duration::from_millis(50);
/// A hold that lasts so long watches its node: an operator's removal is told within that.
const LONG_HOLD: Duration = Duration::from_millis(100);
/// A wait that lasts so long does.
const LONG_WAIT: Duration = Duration::from_millis(500);

/// A watch on a node, set after a while, or when it is wanted.
pub(crate) struct Watched {
    /// Completes when one of the node's pair, or the node itself, is gone; pending once its session has
    /// ended, which tells of itself.
    pub(crate) gone: Pin<Box<dyn Future<Output = ()> + Send>>,
    wanted: Arc<Notify>,
    /// Whether the node was there as it was set.
    is_set: watch::Receiver<bool>,
}

/// How a look at the queue, or a wait there, ended.
pub(crate) enum Turn {
    /// None before the node keeps it out.
    First(Watched),
    /// Another is before it.
    Behind,
    /// The node is gone: another client removed it.
    Gone,
}

impl Entered {
    /// Looks once whether the node is the first.
    pub(crate) fn look(self) -> Turn {
        match self.ahead {
            None => Turn::Gone,
            Some(ahead) if ahead.count == 0 => Turn::First(Watched::after(LONG_HOLD, &self.node)),
            Some(_) => Turn::Behind,
        }
    }

    /// Waits until none before the node keeps it out, by a watch on the last one that does.
    pub(crate) async fn wait(mut self, request: &Request) -> Result<Turn> {
        let mut own = Watched::after(LONG_WAIT, &self.node);
        let mut holder = None;
        loop {
            let ahead = match &self.ahead {
                Some(ahead) if ahead.count > 0 => ahead,
                _ => {
                    return Ok(match self.look() {
                        // Dropped, it would be told to the servers, and set again.
                        Turn::First(_) if *own.is_set.borrow() => Turn::First(own),
                        turn => turn,
                    });
                }
            };
            let node = &self.node;
            if let Some((data, watch)) = watch_next(request, node, ahead).await? {
                if ahead.is_holder {
                    let kind = kind_of(&ahead.next);
                    holder = data.map(|data| Holder::new(label(&data).0).with_kind(kind));
                }
                let event = tokio::select! {
                    biased;
                    () = &mut own.gone => return Ok(Turn::Gone),
                    event = watch.changed() => event.event_type,
                    error = tell(&node.session, request, holder.as_ref()) => return Err(error),
                };
                // No node comes before ours later: with the only one gone that kept us out, it is our turn.
                if event == EventType::NodeDeleted && ahead.count == 1 {
                    let is_set = own.set();
                    return tokio::select! {
                        biased;
                        () = &mut own.gone => Ok(Turn::Gone),
                        () = is_set => Ok(Turn::First(own)),
                        error = tell(&node.session, request, holder.as_ref()) => Err(error),
                    };
                }
            }
            self.ahead = look_again(request, node).await?;
        }
    }
}

/// Watches the node before ours, with what it holds; `None`: it is gone, or the servers are out of reach for
/// now, and the place in the queue lives as long as the session.
async fn watch_next(
    request: &Request,
    node: &Node,
    ahead: &Ahead,
) -> Result<Option<(Option<Vec<u8>>, OneshotWatcher)>> {
    let client = node.session.client()?;
    let path = format!("{}/{}", node.parent, ahead.next);
    let asked = async { Ok(watched(&client, &path).await) };
    match limited(request.clock(), call_limit(request.ttl()), asked).await {
        Ok(Ok(watched)) => Ok(Some(watched)),
        Ok(Err(ZkError::NoNode)) => Ok(None),
        Ok(Err(error)) if !is_ambiguous(&error) => Err(to_error(&error)),
        Ok(Err(_)) | Err(_) => {
            request.report(StoreSays::Unreachable);
            node.session.client().map(|_| None)
        }
    }
}

/// Watches a node that is there, with what it holds; where we may not read it, each change of its
/// queue is watched: since 3.8.4 servers send no event for a node that the client may not read.
async fn watched(client: &Client, path: &str) -> Outcome<(Option<Vec<u8>>, OneshotWatcher)> {
    match client.get_and_watch_data(path).await {
        Err(ZkError::NoAuth) => {
            let (parent, node) = path.rsplit_once('/').unwrap_or_default();
            let (children, watch) = client.list_and_watch_children(parent).await?;
            let is_there = children.iter().any(|child| child == node);
            is_there.then_some((None, watch)).ok_or(ZkError::NoNode)
        }
        read => read.map(|(data, _, watch)| (Some(data), watch)),
    }
}

/// Who is before the node now, as soon as servers can be reached.
async fn look_again(request: &Request, node: &Node) -> Result<Option<Ahead>> {
    loop {
        node.session.up().await?;
        let client = node.session.client()?;
        let look = async { Ok(client.list_children(&node.parent).await) };
        match limited(request.clock(), call_limit(request.ttl()), look).await {
            Ok(Ok(children)) => return Ok(node.ahead(children)),
            Ok(Err(ZkError::NoNode)) => return Ok(None),
            Ok(Err(error)) if !is_ambiguous(&error) => return Err(to_error(&error)),
            Ok(Err(_)) | Err(_) => {
                request.report(StoreSays::Unreachable);
                request.clock().sleep(PAUSE).await;
            }
        }
    }
}

/// Tells the driver whether the servers can be reached; ends with the session.
async fn tell(session: &Session, request: &Request, holder: Option<&Holder>) -> Error {
    let mut link = session.link();
    loop {
        match *link.borrow_and_update() {
            Link::Up => request.report(StoreSays::Held(holder.cloned())),
            Link::Down => request.report(StoreSays::Unreachable),
            Link::Over => return session.over(),
        }
        if link.changed().await.is_err() {
            return session.over();
        }
    }
}

impl Watched {
    /// A watch on the node that is set after so long.
    pub(crate) fn after(pause: Duration, node: &Node) -> Self {
        let wanted = Arc::<Notify>::default();
        let (sets, is_set) = watch::channel(false);
        let (session, paths, wish) = (Arc::clone(&node.session), node.paths(), Arc::clone(&wanted));
        let gone = Box::pin(async move {
            tokio::select! {
                () = session.clock().sleep(pause) => {}
                () = wish.notified() => {}
            }
            until_gone(&session, &paths, &sets).await;
        });
        Self { gone, wanted, is_set }
    }

    /// Has it set at once; completes when it is, where the node is there, if `gone` is polled meanwhile.
    pub(crate) fn set(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut is_set = self.is_set.clone();
        self.wanted.notify_one();
        async move {
            // Without a sender, the node is gone, which is told otherwise.
            if is_set.wait_for(|is_set| *is_set).await.is_err() {
                pending::<()>().await;
            }
        }
    }
}

/// Completes when one of these paths is gone; `is_set` says whether all are watched.
async fn until_gone(session: &Session, paths: &[String], is_set: &watch::Sender<bool>) {
    loop {
        let mut reopenings = session.reopenings();
        let Ok(client) = session.client() else { return pending().await };
        let set = join_all(paths.iter().map(|path| watched(&client, path))).await;
        match set.into_iter().collect::<Outcome<Vec<_>>>() {
            Ok(watches) => {
                is_set.send_replace(true);
                let changed = watches.into_iter().map(|(_, watch)| Box::pin(watch.changed()));
                tokio::select! {
                    (changed, ..) = select_all(changed) => {
                        if changed.event_type == EventType::NodeDeleted {
                            return;
                        }
                    }
                    () = missing(session, &mut reopenings, paths) => return,
                }
                is_set.send_replace(false);
            }
            Err(ZkError::NoNode) => return,
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Completes when one of them is not there after a reconnection. A watch on their parent does not tell
/// of it where the servers were restored from an older backup.
async fn missing(session: &Session, reopenings: &mut watch::Receiver<()>, paths: &[String]) {
    // The sender lives as long as the session.
    while reopenings.changed().await.is_ok() {
        let Ok(client) = session.client() else { break };
        let stats = join_all(paths.iter().map(|path| client.check_stat(path))).await;
        // Without an answer, another reconnection is near.
        if stats.iter().any(|stat| matches!(stat, Ok(None))) {
            return;
        }
    }
    pending::<()>().await;
}
