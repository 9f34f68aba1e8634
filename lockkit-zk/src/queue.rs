//! Taking a place in a name's queue.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use futures_util::future::join_all;
use lockkit_core::{Applied, Error, Request, Result};
use zookeeper_client::{
    Acl, Acls, AuthId, Client, CreateMode, Error as ZkError, MultiWriteResult, OneshotWatcher,
    Permission,
};

use crate::cleanup::{Removal, children, children_in_sync, remove};
use crate::error::{Outcome, is_ambiguous, to_error};
use crate::parents;
use crate::place::{Known, Node, Place};
use crate::protocol::{self, Contender, data, is_of, prefixes};
use crate::session::Session;
use crate::tokens;
use crate::usage::InUse;
use crate::{Access, Layout};

/// The bytes of a node's name, with a slash before it.
const NODE: usize = 56;

/// How the nodes of all requests are made.
pub(crate) struct Form {
    pub(crate) layout: Layout,
    acls: Option<Vec<Acl>>,
    is_open: bool,
}

/// A node in its queue, as of one look.
pub(crate) struct Entered {
    pub(crate) node: Node,
    pub(crate) queue: Vec<Contender>,
    /// Fires when anything changes in the queue.
    pub(crate) change: Option<OneshotWatcher>,
}

impl Form {
    pub(crate) fn new(layout: Layout, access: &Access) -> Self {
        let letter = |letter| match letter {
            'c' => Permission::CREATE,
            'd' => Permission::DELETE,
            'r' => Permission::READ,
            'w' => Permission::WRITE,
            _ => Permission::ADMIN,
        };
        let acls = match access {
            Access::Open | Access::Creator => None,
            Access::Only(rights) => Some(
                rights
                    .iter()
                    .map(|right| {
                        let letters = right.permissions.chars().map(letter);
                        let permissions = letters.fold(Permission::NONE, |all, one| all | one);
                        Acl::new(permissions, AuthId::new(&right.scheme, &right.id))
                    })
                    .collect(),
            ),
        };
        Self { layout, acls, is_open: *access == Access::Open }
    }

    /// How many bytes of paths a request may watch below this parent: its own nodes, the one before
    /// them, and the parent.
    pub(crate) fn watched(&self, parent: &str) -> usize {
        let nodes = if self.layout == Layout::Both { 3 } else { 2 };
        parent.len() + nodes * (parent.len() + NODE)
    }

    pub(crate) fn acls(&self) -> Acls<'_> {
        match &self.acls {
            Some(acls) => Acls::new(acls),
            None if self.is_open => Acls::anyone_all(),
            None => Acls::creator_all(),
        }
    }

    /// Finds the request's node on this session, or creates it; one round trip for a new request.
    pub(crate) async fn enter(
        &self,
        request: &Request,
        place: &Place,
        session: &Arc<Session>,
        parent: &str,
        in_use: &InUse,
    ) -> Result<Entered> {
        let _one_at_a_time = place.turn.lock().await;
        let client = session.client()?;
        let found = match place.known() {
            Known::Taken(node) if node.session.id == session.id => {
                let children = children(&client, parent).await;
                let children = children.map_err(|error| to_error(&error))?;
                let is_there = children.contains(&node.names[0]);
                is_there.then_some((node, children))
            }
            Known::Sent(on) if on.id == session.id => {
                let found = find(&client, request, session, parent, in_use).await;
                found.map_err(|error| to_error(&error))?
            }
            Known::Withdrawn(_) => return Err(Error::withdrawn()),
            Known::Nothing | Known::Sent(_) | Known::Taken(_) => None,
        };
        if let Some((node, children)) = found {
            place.take(node.clone())?;
            return Ok(Entered { node, queue: protocol::queue(children), change: None });
        }
        let entered = self.create(&client, request, place, session, parent, in_use).await?;
        if protocol::is_used_up(entered.node.sequence) {
            remove(session, Removal::Nodes(entered.node.paths())).await?;
            place.clear();
            return Err(Error::rejected(
                format!("a queue whose counter is nearly used up ({})", entered.node.sequence),
                format!(
                    "wait until no client holds or waits, then remove {parent}: its counter starts again"
                ),
            ));
        }
        Ok(entered)
    }

    async fn create(
        &self,
        client: &Client,
        request: &Request,
        place: &Place,
        session: &Arc<Session>,
        parent: &str,
        in_use: &InUse,
    ) -> Result<Entered> {
        loop {
            let sent = session.now();
            let prefixes = prefixes(self.layout, request.id());
            let mut creating = pin!(async {
                match &*prefixes {
                    [prefix] => self.create_one(client, prefix, request, parent).await,
                    _ => self.create_pair(client, &prefixes, request, parent).await,
                }
            });
            // The first poll sends: a withdrawal comes before it, or behind what was sent.
            let first =
                poll_fn(|cx| Poll::Ready(place.send(session, || creating.as_mut().poll(cx))));
            let created = match first.await? {
                Poll::Ready(created) => created,
                Poll::Pending => creating.await,
            };
            let (names, czxid, looked) = match created {
                Ok(created) => created,
                Err(ZkError::NoNode) => {
                    place.clear();
                    self.make_parents(client, session, parent).await?;
                    continue;
                }
                Err(error) => {
                    if !is_ambiguous(&error) {
                        place.clear();
                    }
                    return Err(to_error(&error));
                }
            };
            session.proven(sent);
            let sequence = names[0].get(prefixes[0].len()..).and_then(protocol::sequence);
            let sequence = sequence.ok_or_else(|| {
                Error::unavailable(Applied::Maybe, format!("a node without sequence: {}", names[0]))
            })?;
            let parent = parent.to_owned();
            let (session, _in_use) = (Arc::clone(session), in_use.clone());
            let node = Node { session, _in_use, parent, names, sequence, czxid };
            place.take(node.clone())?;
            let (children, change) = looked.map_err(|error| to_error(&error))?;
            return Ok(Entered { node, queue: protocol::queue(children), change: Some(change) });
        }
    }

    /// Makes the node of a name, and the base if it was removed, which begins the tokens again.
    async fn make_parents(&self, client: &Client, session: &Session, parent: &str) -> Result<()> {
        let base = base_of(parent);
        let made = parents::make(client, base, parent, self.layout, self.acls()).await;
        if made.map_err(|error| to_error(&error).with_applied(Applied::No))? {
            session.forget_token_base();
            tokens::base(session, base, self.acls()).await?;
        }
        Ok(())
    }

    /// Creates the node and looks at the queue, in one round trip.
    async fn create_one(
        &self,
        client: &Client,
        prefix: &str,
        request: &Request,
        parent: &str,
    ) -> Outcome<Created> {
        let path = format!("{parent}/{prefix}");
        let options = CreateMode::EphemeralSequential.with_acls(self.acls());
        // Both are sent at once, in this order, and served in it.
        let created = client.create(&path, &data(request.label()), &options);
        let looked = client.list_and_watch_children(parent);
        let (created, looked) = tokio::join!(created, looked);
        let (stat, sequence) = created?;
        Ok((vec![format!("{prefix}{sequence}")], stat.czxid, looked))
    }

    /// Creates both nodes at once. The answer tells no transaction, so it takes one more round trip.
    async fn create_pair(
        &self,
        client: &Client,
        prefixes: &[String],
        request: &Request,
        parent: &str,
    ) -> Outcome<Created> {
        let mut multi = client.new_multi_writer();
        let options = CreateMode::EphemeralSequential.with_acls(self.acls());
        for prefix in prefixes {
            let path = format!("{parent}/{prefix}");
            multi.add_create(&path, &data(request.label()), &options)?;
        }
        let mut paths = Vec::new();
        for result in multi.commit().await.map_err(ZkError::from)? {
            if let MultiWriteResult::Create { path, .. } = result {
                paths.push(path);
            }
        }
        let stat = client.check_stat(&paths[0]);
        let looked = client.list_and_watch_children(parent);
        let (stat, looked) = tokio::join!(stat, looked);
        // They are there, whatever this look ran into.
        let stat = stat.map_err(|error| ZkError::UnexpectedError(error.to_string()))?;
        // Gone already, it is not in the queue either.
        let czxid = stat.map_or(0, |stat| stat.czxid);
        let name = |path: &String| path.rsplit('/').next().unwrap_or_default().to_owned();
        Ok((paths.iter().map(name).collect(), czxid, looked))
    }
}

/// The base that a name's node lies directly below.
fn base_of(parent: &str) -> &str {
    parent.rsplit_once('/').map_or("", |(base, _)| base)
}

/// The names of the nodes, their transaction, and what a look at the queue gave.
type Created = (Vec<String>, i64, Outcome<(Vec<String>, OneshotWatcher)>);

/// The identities of the scheme `digest` hold a password's hash.
impl std::fmt::Debug for Form {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Form").field("layout", &self.layout).finish_non_exhaustive()
    }
}

/// A request's node that was created although its reply was lost. It counts only if its session
/// is ours: another one's is about to go.
async fn find(
    client: &Client,
    request: &Request,
    session: &Arc<Session>,
    parent: &str,
    in_use: &InUse,
) -> Outcome<Option<(Node, Vec<String>)>> {
    let children = children_in_sync(client, parent).await?;
    let named: Vec<_> = children.iter().filter(|child| is_of(child, request.id())).collect();
    let paths: Vec<_> = named.iter().map(|name| format!("{parent}/{name}")).collect();
    let stats = join_all(paths.iter().map(|path| client.check_stat(path))).await;
    let mut own = Vec::new();
    for (name, stat) in named.into_iter().zip(stats) {
        match stat? {
            Some(stat) if stat.ephemeral_owner == session.id => {
                own.push((name.clone(), stat.czxid));
            }
            _ => {}
        }
    }
    let Some(czxid) = own.first().map(|(_, czxid)| *czxid) else { return Ok(None) };
    let queue = protocol::queue(own.into_iter().map(|(name, _)| name).collect());
    let Some(sequence) = queue.first().map(|contender| contender.sequence) else { return Ok(None) };
    let names = queue.into_iter().map(|contender| contender.node).collect();
    let (_in_use, session, parent) = (in_use.clone(), Arc::clone(session), parent.to_owned());
    Ok(Some((Node { session, _in_use, parent, names, sequence, czxid }, children)))
}
