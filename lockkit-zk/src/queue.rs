//! Taking a place in a name's queue.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use futures_util::future::join_all;
use lockkit_core::kit::{self, Answer, Asking};
use lockkit_core::{Applied, Error, Request, Result};
use zookeeper_client::{
    Acl, Acls, AuthId, Client, CreateMode, CreateOptions, Error as ZkError, MultiWriteResult,
    Permission,
};

use crate::cleanup::{Asked, Removal, children, children_in_sync, remove};
use crate::error::{Outcome, is_ambiguous, to_error};
use crate::parents;
use crate::place::{Known, Node, Place};
use crate::protocol::{self, Ahead, data, is_of, prefixes};
use crate::session::Session;
use crate::tokens;
use crate::usage::InUse;
use crate::{Access, Layout};

/// The bytes of a node's name at most, with a slash before it.
const NODE: usize = 63;

/// How the nodes of all requests are made.
#[derive(Clone)]
pub(crate) struct Form {
    pub(crate) layout: Layout,
    acls: Option<Arc<[Acl]>>,
    is_open: bool,
}

/// A node in its queue, as of one look.
pub(crate) struct Entered {
    pub(crate) node: Node,
    /// Who is before it; `None`: it is gone.
    pub(crate) ahead: Option<Ahead>,
}

impl Entered {
    fn new(node: Node, children: Vec<String>) -> Self {
        let ahead = node.ahead(children);
        Self { node, ahead }
    }
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
        parent.len() + (self.nodes() + 1) * (parent.len() + NODE)
    }

    /// How many nodes a request has.
    const fn nodes(&self) -> usize {
        match self.layout {
            Layout::Curator | Layout::Kazoo => 1,
            Layout::Both => 2,
        }
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
                Some((node, children.map_err(|error| to_error(&error))?))
            }
            Known::Sent(asked) if asked.session.id == session.id => {
                let found = find(&client, request, session, parent, in_use).await;
                found.map_err(|error| to_error(&error))?
            }
            Known::Withdrawn(_) => return Err(Error::withdrawn()),
            Known::Nothing | Known::Sent(_) | Known::Taken(_) => None,
        };
        if let Some((node, children)) = found {
            let is_whole = node.names.len() == self.nodes();
            let entered = Entered::new(node, children);
            if entered.ahead.is_some() && is_whole {
                place.take(entered.node.clone())?;
                return Ok(entered);
            }
            // An operator has removed it. What is left of a pair would keep its own request waiting.
            if self.layout == Layout::Both {
                remove(session, Removal::Nodes(entered.node.paths())).await?;
            }
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
            let made = session.make();
            let (names, answer) = kit::Asked::under_way();
            let asked = Asked { session: Arc::clone(session), names };
            let call = self.clone().ask(client.clone(), parent.to_owned(), request.clone(), answer);
            let mut asking = pin!(Asking::new(call, |call| session.see_to(call)));
            // The first poll sends: a withdrawal comes before it, or behind what was sent.
            let first = poll_fn(|cx| Poll::Ready(place.send(&asked, || asking.as_mut().poll(cx))));
            let created = match first.await? {
                Poll::Ready(created) => created,
                Poll::Pending => asking.await,
            };
            let (names, seen) = match created {
                Ok(Created { names, seen }) => (names, seen),
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
            session.proven(made);
            let (czxid, children) = match seen {
                Some(seen) => seen,
                None => look_at_pair(client, parent, &names[0]).await?,
            };
            let sequence = protocol::sequence_of(&names[0]).ok_or_else(|| {
                Error::unavailable(Applied::Maybe, format!("a node without sequence: {}", names[0]))
            })?;
            let parent = parent.to_owned();
            let (session, _in_use) = (Arc::clone(session), in_use.clone());
            let node = Node { session, _in_use, parent, names, sequence, czxid };
            place.take(node.clone())?;
            return Ok(Entered::new(node, children.map_err(|error| to_error(&error))?));
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

    /// Creates the request's nodes, and says so by `answer`.
    async fn ask(
        self,
        client: Client,
        parent: String,
        request: Request,
        answer: Answer<Vec<String>>,
    ) -> Outcome<Created> {
        let prefixes = prefixes(self.layout, request.id(), request.kind());
        let data = data(request.label());
        let options = CreateMode::EphemeralSequential.with_acls(self.acls());
        let paths: Vec<_> = prefixes.iter().map(|prefix| format!("{parent}/{prefix}")).collect();
        let [path] = &*paths else {
            let names = create_all(&client, &paths, &data, &options).await;
            tell(answer, &names);
            return names.map(|names| Created { names, seen: None });
        };
        let created = async {
            let created = client.create(path, &data, &options).await;
            let name = |sequence| format!("{}{sequence}", prefixes[0]);
            let created = created.map(|(stat, sequence)| (stat.czxid, vec![name(sequence)]));
            tell(answer, &created.as_ref().map(|(_, names)| names.clone()).map_err(ZkError::clone));
            created
        };
        // Both are sent at once, in this order, and served in it.
        let (created, looked) = tokio::join!(created, children(&client, &parent));
        let (czxid, names) = created?;
        Ok(Created { names, seen: Some((czxid, looked)) })
    }
}

/// Says what was created, if that is known.
fn tell(answer: Answer<Vec<String>>, created: &Outcome<Vec<String>>) {
    match created {
        Ok(names) => answer.is(names.clone()),
        Err(error) if !is_ambiguous(error) => answer.is(Vec::new()),
        Err(_) => {}
    }
}

/// Creates all of these nodes at once; their names.
async fn create_all(
    client: &Client,
    paths: &[String],
    data: &[u8],
    options: &CreateOptions<'_>,
) -> Outcome<Vec<String>> {
    let mut multi = client.new_multi_writer();
    for path in paths {
        multi.add_create(path, data, options)?;
    }
    let name = |result| match result {
        MultiWriteResult::Create { path, .. } => path.rsplit('/').next().map(str::to_owned),
        _ => None,
    };
    let created = multi.commit().await.map_err(ZkError::from)?;
    Ok(created.into_iter().filter_map(name).collect())
}

/// What the creation of a pair does not tell: its transaction, and the queue.
async fn look_at_pair(client: &Client, parent: &str, first: &str) -> Result<Seen> {
    let path = format!("{parent}/{first}");
    let (stat, looked) = tokio::join!(client.check_stat(&path), children(client, parent));
    // They are there, whatever this look ran into.
    let stat = stat.map_err(|error| Error::unavailable(Applied::Maybe, error))?;
    // Gone already, it is not in the queue either.
    Ok((stat.map_or(0, |stat| stat.czxid), looked))
}

/// The base that a name's node lies directly below.
fn base_of(parent: &str) -> &str {
    parent.rsplit_once('/').map_or("", |(base, _)| base)
}

/// What was created.
struct Created {
    names: Vec<String>,
    seen: Option<Seen>,
}

/// The transaction that created them, and what a look at the queue gave.
type Seen = (i64, Outcome<Vec<String>>);

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
