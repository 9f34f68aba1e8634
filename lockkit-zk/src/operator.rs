//! What an operator can see and do in ZooKeeper.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::join_all;
use lockkit_core::kit::LONGEST_CALL;
use lockkit_core::{Clock, FencingToken, Holder, Inspection, Kind, LockName, Operator, Result};
use zookeeper_client::{Error as ZkError, Stat};

use crate::cleanup::{Removal, children_in_sync, removed};
use crate::client::Client;
use crate::error::{Outcome, limited, to_error};
use crate::protocol::{Contender, identity, kinds, label, name_of, queue};
use crate::session::Session;
use crate::tokens;
use crate::usage::InUse;

/// How many names are looked at in one round trip.
const AT_ONCE: usize = 64;

/// A name's queue, and what stands in the nodes of those that hold.
struct Look {
    session: Arc<Session>,
    _in_use: InUse,
    parent: String,
    /// One node of each request, in their order, and how many of them hold.
    queue: Vec<Contender>,
    holding: usize,
    /// All nodes, also the second ones of pairs.
    nodes: Vec<Contender>,
    /// What stands in the first node of each that holds.
    held: Vec<(Vec<u8>, Stat)>,
    /// The base of the store's tokens.
    tokens: u64,
}

impl Client {
    async fn look(&self, name: &LockName) -> Result<Look> {
        let call = async {
            let (session, _in_use) = self.sessions.any().await?;
            let client = session.client()?;
            let parent = self.parent(name);
            loop {
                let children = children_in_sync(&client, &parent).await;
                let nodes = queue(children.map_err(|error| to_error(&error))?);
                let (mut queue, mut seen) = (nodes.clone(), HashSet::new());
                queue.retain(|contender| seen.insert(identity(&contender.node)));
                let holding = Kind::holding(kinds(&queue));
                let path = |held: &Contender| format!("{parent}/{}", held.node);
                let paths: Vec<_> = queue[..holding].iter().map(path).collect();
                let mut read = Vec::new();
                for paths in paths.chunks(AT_ONCE) {
                    read.extend(join_all(paths.iter().map(|path| client.get_data(path))).await);
                }
                let held = match read.into_iter().collect::<Outcome<Vec<_>>>() {
                    // One has left in between: others may hold now.
                    Err(ZkError::NoNode) => continue,
                    held => held.map_err(|error| to_error(&error))?,
                };
                // Without one, no client has been granted that knows of it.
                let tokens = tokens::read(&session, &self.base).await?.unwrap_or_default();
                return Ok(Look { session, _in_use, parent, queue, holding, nodes, held, tokens });
            }
        };
        self.servers.name(limited(&Clock::system(), LONGEST_CALL, call).await)
    }

    async fn elements(&self) -> Result<Vec<String>> {
        let call = async {
            let (session, _in_use) = self.sessions.any().await?;
            let client = session.client()?;
            let elements: Outcome<_> = children_in_sync(&client, &self.base).await;
            elements.map_err(|error| to_error(&error))
        };
        self.servers.name(limited(&Clock::system(), LONGEST_CALL, call).await)
    }
}

impl Look {
    /// The nodes that the request with this node has in the queue: one, or a pair.
    fn nodes_of(&self, node: &str) -> Vec<String> {
        let nodes = self.nodes.iter().filter(|it| identity(&it.node) == identity(node));
        nodes.map(|contender| format!("{}/{}", self.parent, contender.node)).collect()
    }
}

#[async_trait]
impl Operator for Client {
    async fn inspect(&self, name: &LockName) -> Result<Inspection> {
        let look = self.look(name).await?;
        let holder = |(held, (data, stat)): (&Contender, &(Vec<u8>, Stat))| {
            let (label, is_ours) = label(data);
            let mut holder = Holder::new(label).with_kind(held.kind);
            holder.token = self.token(look.tokens, stat.czxid).ok().filter(|_| is_ours);
            holder
        };
        let holders = look.queue.iter().zip(&look.held).map(holder).collect();
        Ok(Inspection::new(name.clone(), holders, Some(look.queue.len() - look.holding)))
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&LockName>,
        limit: usize,
    ) -> Result<Vec<Inspection>> {
        let names = self.elements().await?;
        let names = names.iter().filter_map(|element| name_of(element)).filter(|name| {
            name.as_str().starts_with(prefix) && after.is_none_or(|past| name > past)
        });
        let names: Vec<_> = names.collect::<BTreeSet<_>>().into_iter().collect();
        let mut seen = Vec::new();
        for names in names.chunks(AT_ONCE) {
            for found in join_all(names.iter().map(|name| self.inspect(name))).await {
                let found = found?;
                // An empty parent stays until the servers remove it.
                if !found.holders.is_empty() && seen.len() < limit {
                    seen.push(found);
                }
            }
            if seen.len() >= limit {
                break;
            }
        }
        Ok(seen)
    }

    async fn revoke(&self, name: &LockName, token: FencingToken) -> Result<bool> {
        let look = self.look(name).await?;
        let is_it = |(_, (data, stat)): &(&Contender, &(Vec<u8>, Stat))| {
            label(data).1 && self.token(look.tokens, stat.czxid).is_ok_and(|held| held == token)
        };
        let Some((held, _)) = look.queue.iter().zip(&look.held).find(is_it) else {
            return Ok(false);
        };
        // Refused, it is not asked for again: the operator is told.
        let client = look.session.client()?;
        let nodes = Removal::Nodes(look.nodes_of(&held.node));
        let removed = limited(&Clock::system(), LONGEST_CALL, removed(&client, &nodes)).await;
        self.servers.name(removed)?;
        Ok(true)
    }
}
