//! A ZooKeeper ensemble for one test.

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;

use super::calls::{ask, field};
use super::member::{Member, Peer};
use super::program::{ELECTION, Later, QUORUM, TLS, Zk};
use super::settings::Builder;
use crate::cluster::{Between, Cluster, Seen, pairs};
use crate::doors::{Door, Doors};
use crate::link::bind;
use crate::{Error, Link, Result, Server};

/// A running ZooKeeper ensemble, and all that a [`Cluster`] can do.
///
/// A member that was cut off looks for a leader every second, not less and less often.
#[derive(Debug)]
pub struct ZkEnsemble {
    cluster: Cluster,
    _doors: Doors,
    has_tls: bool,
    /// One for each member.
    later: Vec<Later>,
}

impl ZkEnsemble {
    /// Starts one of so many members.
    ///
    /// # Errors
    /// As [`Server::start`] and [`Cluster::settled`].
    pub fn start(size: usize) -> Result<Self> {
        Builder::default().start_ensemble(size)
    }

    fn with(builder: &Builder, size: usize) -> Result<Self> {
        let prepared = || {
            let peers = Arc::default();
            let later: Vec<Later> = (0..size).map(|_| Later::default()).collect();
            let members: Vec<Server> = later
                .iter()
                .enumerate()
                .map(|(number, later)| {
                    let member = Some(Member { number, peers: Arc::clone(&peers) });
                    let later = later.clone();
                    Server::stopped(Zk { builder: builder.clone(), member, later })
                })
                .collect::<Result<_>>()?;
            let mut links = Vec::new();
            let mut doors = vec![HashMap::new(); size];
            for (from, to) in pairs(size) {
                for port in [QUORUM, ELECTION] {
                    let target = members[to].place().address(port);
                    let link = Link::to(target)?;
                    doors[from].insert(target.port(), link.address());
                    links.push(Between { from, to, link });
                }
            }
            let mut proxies = Vec::new();
            let mut known = Vec::new();
            for (member, links) in members.iter().zip(doors) {
                let (port, listener) = bind()?;
                let [quorum, election] =
                    [QUORUM, ELECTION].map(|port| member.place().address(port).port());
                known.push(Peer { quorum, election, proxy: port.number() });
                proxies.push(Door::Proxy(port, listener, links));
            }
            // Nobody else sets it.
            peers.set(known).ok();
            Ok((members, links, (Doors::open(proxies)?, later)))
        };
        let (cluster, (doors, later)) = Cluster::start(prepared, view)?;
        Ok(Self { cluster, _doors: doors, has_tls: builder.tls.is_some(), later })
    }

    /// One more line of a member's configuration from its next start on, such as `tickTime=1000`; it
    /// wins over earlier lines for the same setting.
    ///
    /// # Panics
    /// Where there are not so many members.
    pub fn set_line(&self, member: usize, line: impl Into<String>) {
        self.later[member].add(line.into());
    }

    /// A member's answer to a command of four letters, such as `srvr`, past every link.
    ///
    /// # Errors
    /// [`Error::Answer`] where there is none.
    pub fn ask(&self, member: usize, word: &str) -> Result<String> {
        ask(self.member(member).address(), word).map_err(Error::Answer)
    }

    /// The addresses of all members' TLS ports; `None` without [`tls`](Builder::tls).
    #[must_use]
    pub fn tls_addresses(&self) -> Option<Vec<SocketAddr>> {
        let addresses = self.members().iter().map(|member| member.place().address(TLS));
        self.has_tls.then(|| addresses.collect())
    }
}

impl Deref for ZkEnsemble {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

impl Builder {
    /// Starts an ensemble of so many members, and returns once all follow a leader.
    ///
    /// # Errors
    /// As [`ZkEnsemble::start`].
    pub fn start_ensemble(self, size: usize) -> Result<ZkEnsemble> {
        ZkEnsemble::with(&self, size)
    }
}

fn view(member: &Server) -> Option<Seen> {
    let answer = ask(member.address(), "srvr").ok()?;
    let mode = field(&answer, "Mode: ")?;
    // The server writes it when it follows a new leader, and before it leads.
    let epoch = member.place().data().join("version-2/currentEpoch");
    let term = fs::read_to_string(epoch).ok()?.trim().parse().ok()?;
    if mode != "leader" {
        return Some(Seen { term, is_leader: false, followers: None });
    }
    let known = ask(member.address(), "mntr").ok()?;
    let followers = field(&known, "zk_synced_followers")?.trim().parse().ok()?;
    Some(Seen { term, is_leader: true, followers: Some(followers) })
}
