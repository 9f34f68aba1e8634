//! Waiting in a queue, and knowing when a node is gone.

use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join_all, select_all};
use lockkit_core::kit::call_limit;
use lockkit_core::{Error, Holder, Kind, Request, Result, StoreSays};
use tokio::sync::watch;
use zookeeper_client::{Client, Error as ZkError, EventType, OneshotWatcher};

use crate::error::{Outcome, is_ambiguous, limited, to_error};
use crate::place::Node;
use crate::protocol::{Contender, label, queue};
use crate::queue::Entered;
use crate::session::{Link, Session};

/// Before a watch that could not be set is tried again.
const PAUSE: Duration = Duration::from_millis(50);

/// Completes when one of a node's pair, or the node itself, is gone; pending once its session has
/// ended, which tells of itself.
pub(crate) type Gone = Pin<Box<dyn Future<Output = ()> + Send>>;

/// How a look at the queue, or a wait there, ended.
pub(crate) enum Turn {
    /// The node is the first.
    First(Gone),
    /// Another is before it.
    Behind,
    /// The node is gone: another client removed it.
    Gone,
}

impl Entered {
    /// Looks once whether the node is the first.
    pub(crate) fn look(self, kind: Kind) -> Turn {
        match position(&self.queue, &self.node) {
            None => Turn::Gone,
            Some(at) if is_admitted(kind, at) => {
                // Alone, the look's own watch tells of a removal, and nothing more is asked.
                let change = self.change.filter(|_| self.queue.len() == 1);
                Turn::First(gone(&self.node, vec![change]))
            }
            Some(_) => Turn::Behind,
        }
    }

    /// Waits until the node is the first, by watches on the node before it and on itself.
    pub(crate) async fn wait(mut self, request: &Request) -> Result<Turn> {
        let kind = request.kind();
        if position(&self.queue, &self.node).is_none_or(|at| is_admitted(kind, at)) {
            return Ok(self.look(kind));
        }
        // A change behind us is of no interest.
        self.change = None;
        let node = self.node;
        let mut own = None;
        let mut holder = None;
        loop {
            let before = match position(&self.queue, &node) {
                None => return Ok(Turn::Gone),
                Some(at) if is_admitted(kind, at) => {
                    return Ok(Turn::First(own.unwrap_or_else(|| gone(&node, Vec::new()))));
                }
                Some(at) => at - 1,
            };
            let armed = arm(request, &node, &self.queue, before, own.is_none(), holder.is_none());
            match armed.await? {
                Armed::Gone => return Ok(Turn::Gone),
                Armed::Changed => {}
                Armed::Set { watch, own: set, holder: seen } => {
                    if let Some(set) = set {
                        own = Some(gone(&node, set));
                    }
                    holder = seen.or(holder);
                    request.report(StoreSays::Held(holder.clone()));
                    let removed = own.get_or_insert_with(|| Box::pin(pending()));
                    let event = tokio::select! {
                        biased;
                        () = &mut *removed => return Ok(Turn::Gone),
                        event = watch.changed() => event.event_type,
                        error = tell(&node.session, request, holder.as_ref()) => return Err(error),
                    };
                    // No node comes before ours later: with the only one gone, it is our turn.
                    if event == EventType::NodeDeleted && before == 0 {
                        self.queue.remove(0);
                        continue;
                    }
                }
            }
            self.queue = look_again(request, &node).await?;
        }
    }
}

/// What became of watches that were to be set.
enum Armed {
    Set {
        watch: OneshotWatcher,
        own: Option<Vec<Option<OneshotWatcher>>>,
        holder: Option<Holder>,
    },
    /// The queue is no longer as it was.
    Changed,
    /// Our node is gone.
    Gone,
}

/// Sets a watch on the node before ours, and at first on ours; tells who holds.
async fn arm(
    request: &Request,
    node: &Node,
    queue: &[Contender],
    before: usize,
    arms_own: bool,
    asks_holder: bool,
) -> Result<Armed> {
    let client = node.session.client()?;
    let path = |at: usize| format!("{}/{}", node.parent, queue[at].node);
    let (paths, before_path, first_path) = (node.paths(), path(before), path(0));
    let asked = async {
        let watch = watched(&client, &before_path);
        let own = paths.iter().filter(|_| arms_own);
        let own = join_all(own.map(|path| watched(&client, path)));
        let first = async {
            let asks = asks_holder && before > 0;
            if asks { client.get_data(&first_path).await.ok() } else { None }
        };
        Ok(tokio::join!(watch, own, first))
    };
    let asked = limited(request.clock(), call_limit(request.ttl()), asked).await;
    let Ok((watch, own, first)) = asked else { return unsure(request, &node.session) };
    let mut set = Vec::new();
    for own in own {
        match own {
            Ok((_, watch)) => set.push(Some(watch)),
            Err(ZkError::NoNode) => return Ok(Armed::Gone),
            Err(error) if !is_ambiguous(&error) => return Err(to_error(&error)),
            Err(_) => return unsure(request, &node.session),
        }
    }
    match watch {
        Ok((data, watch)) => {
            let data = if before == 0 { data } else { first.map(|(data, _)| data) };
            let holder = data.map(|data| Holder::new(label(&data).0));
            Ok(Armed::Set { watch, own: arms_own.then_some(set), holder })
        }
        Err(ZkError::NoNode) => Ok(Armed::Changed),
        Err(error) if !is_ambiguous(&error) => Err(to_error(&error)),
        Err(_) => unsure(request, &node.session),
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

/// The servers are out of reach for now: the place in the queue lives as long as the session.
fn unsure(request: &Request, session: &Session) -> Result<Armed> {
    request.report(StoreSays::Unreachable);
    session.client().map(|_| Armed::Changed)
}

/// The queue as of now, as soon as servers can be reached.
async fn look_again(request: &Request, node: &Node) -> Result<Vec<Contender>> {
    loop {
        node.session.up().await?;
        let client = node.session.client()?;
        let look = async { Ok(client.list_children(&node.parent).await) };
        match limited(request.clock(), call_limit(request.ttl()), look).await {
            Ok(Ok(children)) => return Ok(queue(children)),
            Ok(Err(ZkError::NoNode)) => return Ok(Vec::new()),
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

/// Completes when one of the node's paths is gone; `armed` are watches that were set on them.
fn gone(node: &Node, armed: Vec<Option<OneshotWatcher>>) -> Gone {
    let session = Arc::clone(&node.session);
    let mut armed = armed.into_iter();
    let paths = node.paths().into_iter();
    let all = paths.map(|path| {
        let (session, reopenings) = (Arc::clone(&session), session.reopenings());
        Box::pin(one_gone(session, reopenings, path, armed.next().flatten()))
    });
    let all: Vec<_> = all.collect();
    Box::pin(async move {
        select_all(all).await;
    })
}

async fn one_gone(
    session: Arc<Session>,
    mut reopenings: watch::Receiver<()>,
    path: String,
    mut armed: Option<OneshotWatcher>,
) {
    loop {
        if let Some(watch) = armed.take() {
            tokio::select! {
                _ = watch.changed() => {}
                () = missing(&session, &mut reopenings, &path) => return,
            }
        }
        let Ok(client) = session.client() else { return pending().await };
        match watched(&client, &path).await {
            Ok((_, watch)) => armed = Some(watch),
            Err(ZkError::NoNode) => return,
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Completes when the node is not there after a reconnection. A watch on its parent does not tell
/// of it where the servers were restored from an older backup.
async fn missing(session: &Session, reopenings: &mut watch::Receiver<()>, path: &str) {
    // The sender lives as long as the session.
    while reopenings.changed().await.is_ok() {
        let Ok(client) = session.client() else { break };
        // Without an answer, another reconnection is near.
        if matches!(client.check_stat(path).await, Ok(None)) {
            return;
        }
    }
    pending::<()>().await;
}

/// Whether a request with this many nodes before its own may hold. All of them are exclusive: other nodes do
/// not enter the queue.
fn is_admitted(kind: Kind, before: usize) -> bool {
    kind.admits(std::iter::repeat_n(Kind::Exclusive, before))
}

fn position(queue: &[Contender], node: &Node) -> Option<usize> {
    queue.iter().position(|contender| contender.node == node.names[0])
}
