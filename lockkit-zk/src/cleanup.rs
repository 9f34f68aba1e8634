//! What must not stay in the store, and its removal.

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join, join_all};
use lockkit_core::kit::{self, Kept};
use lockkit_core::{RequestId, Result};
use tokio::sync::oneshot;
use zookeeper_client::{Client, Error as ZkError};

use crate::error::{Outcome, is_ambiguous, to_error};
use crate::protocol::identity;
use crate::session::Session;
use crate::usage::Refusal;

/// Between two tries to remove what was left.
const PAUSE: Duration = Duration::from_millis(20);

/// A node that was asked for: the names that it got, once they are known; none where it was refused.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) session: Arc<Session>,
    pub(crate) names: kit::Asked<Vec<String>>,
}

/// What is to be removed.
#[derive(Clone, Debug)]
pub(crate) enum Removal {
    /// These nodes.
    Nodes(Vec<String>),
    /// All nodes of this request below this parent: those that it turns out to have been given, and where
    /// that stays in doubt, all that a look at the queue shows.
    Request(String, RequestId, Asked),
}

impl Removal {
    /// What tells it from others of its session.
    pub(crate) fn key(&self) -> String {
        match self {
            Self::Nodes(nodes) => nodes.first().cloned().unwrap_or_default(),
            Self::Request(_, id, _) => id.to_string(),
        }
    }
}

/// What is kept of a refused removal.
struct UntilDone<K> {
    kept: K,
    _refusal: Refusal,
}

impl<K: Kept> Kept for UntilDone<K> {
    fn stays(self) {
        self.kept.stays();
    }
}

/// Has something removed, however long it takes while the session lives, and whether or not a call
/// waits for it. A refusal is told, and the session asks again, takes no new users, and is closed once it has
/// none: servers ask for no right to remove what goes with its session.
///
/// # Cancel safety
/// Cancel-safe: the removal goes on.
pub(crate) fn remove(
    session: &Session,
    what: Removal,
) -> impl Future<Output = Result<()>> + Send + use<> {
    remove_and(session, what, ())
}

/// As [`remove`], and drops what is kept as soon as it is done, or the session has ended.
pub(crate) fn remove_and<K: Kept>(
    session: &Session,
    what: Removal,
    kept: K,
) -> impl Future<Output = Result<()>> + Send + use<K> {
    let (done, answer) = oneshot::channel();
    let (refused, users) = (session.refused(), session.users());
    let is_taken = session.clean_up(move |client, _| async move {
        let outcome = removed(&client, &what).await;
        match (&outcome, refused) {
            (Err(_), Some(refused)) => {
                let kept = UntilDone { kept, _refusal: users.refused() };
                refused.keep(what.key(), kept, move |client| {
                    let what = what.clone();
                    async move { removed(&client, &what).await.is_ok() }
                });
            }
            _ => drop(kept),
        }
        // Perhaps no call waits any more.
        let _ = done.send(outcome);
    });
    let cut_short = session.cut_short();
    async move {
        match answer.await {
            Ok(outcome) if is_taken => outcome,
            _ => cut_short(),
        }
    }
}

/// Removes until it is done, refused for good, or the session is over.
pub(crate) async fn removed(client: &Client, what: &Removal) -> Result<()> {
    loop {
        let tried = match what {
            Removal::Nodes(nodes) => remove_nodes(client, nodes).await,
            Removal::Request(parent, id, asked) => remove_request(client, parent, *id, asked).await,
        };
        match tried {
            Ok(()) => return Ok(()),
            Err(error) if is_final(&error) => return Err(to_error(&error)),
            // Its nodes have gone with it.
            Err(_) if client.state().is_terminated() => return Ok(()),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Whether no further try can do better.
fn is_final(error: &ZkError) -> bool {
    // A busy server turns requests away undone, for now.
    !is_ambiguous(error) && *error != ZkError::Throttled
}

async fn remove_nodes(client: &Client, nodes: &[String]) -> Outcome<()> {
    let deletes: Vec<_> = nodes.iter().map(|node| client.delete(node, None)).collect();
    for deleted in join_all(deletes).await {
        match deleted {
            Ok(()) | Err(ZkError::NoNode) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Removes these nodes and tells who is left in their queue, in one round trip.
pub(crate) async fn remove_and_look(
    client: &Client,
    nodes: &[String],
    parent: &str,
) -> Outcome<Vec<String>> {
    // Both are sent at once, in this order, and served in it.
    let (removed, left) = join(remove_nodes(client, nodes), children(client, parent)).await;
    removed?;
    left
}

async fn remove_request(
    client: &Client,
    parent: &str,
    id: RequestId,
    asked: &Asked,
) -> Outcome<()> {
    if let Some(names) = asked.names.answer().await {
        return remove_nodes(client, &below(parent, names)).await;
    }
    // One look for all that are in doubt there by then.
    let look = |ids: Vec<RequestId>| async move {
        let ids: HashSet<_> = ids.iter().map(RequestId::to_string).collect();
        let mut nodes = children_in_sync(client, parent).await?;
        nodes.retain(|node| ids.contains(&identity(node)));
        remove_nodes(client, &below(parent, nodes)).await
    };
    asked.session.doubts().run(parent.to_owned(), id, look).await
}

/// The paths of these nodes.
pub(crate) fn below(parent: &str, names: Vec<String>) -> Vec<String> {
    names.into_iter().map(|name| format!("{parent}/{name}")).collect()
}

/// The children as the leader knows them: a server that we have just moved to may lag behind.
///
/// One after the other: a leader answers a read before its own tree holds what it has committed, and
/// only followers keep a read behind the `sync` before it.
pub(crate) async fn children_in_sync(client: &Client, parent: &str) -> Outcome<Vec<String>> {
    match client.sync(parent).await {
        Err(error) if error != ZkError::NoNode => return Err(error),
        _ => {}
    }
    children(client, parent).await
}

/// The children as this server knows them; asked for with the first poll.
pub(crate) async fn children(client: &Client, parent: &str) -> Outcome<Vec<String>> {
    match client.list_children(parent).await {
        Err(ZkError::NoNode) => Ok(Vec::new()),
        children => children,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stays_refused_ends_a_removal() {
        for error in [ZkError::ConnectionLoss, ZkError::Timeout, ZkError::Throttled] {
            assert!(!is_final(&error), "{error}");
        }
        assert!(is_final(&ZkError::NoAuth));
    }
}
