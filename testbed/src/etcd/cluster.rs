//! An etcd cluster for one test.

use std::fs;
use std::net::SocketAddr;
use std::ops::Deref;
use std::os::unix::net::UnixListener;
use std::process::Command;

use super::calls::{etcdctl, number, revision, status};
use super::member::{Member, address};
use super::program::{Etcd, PEER, TLS};
use super::settings::Builder;
use super::snapshot::EtcdSnapshot;
use crate::cluster::{Between, Cluster, Seen, pairs};
use crate::command::run;
use crate::doors::{Door, Doors};
use crate::{Data, Error, Link, Result, Server};

/// A running etcd cluster, and all that a [`Cluster`] can do.
///
/// A member alone restarts with its data only: etcd refuses one that has lost it.
#[derive(Debug)]
pub struct EtcdCluster {
    cluster: Cluster,
    _doors: Doors,
    builder: Builder,
}

impl EtcdCluster {
    /// Starts one of so many members.
    ///
    /// # Errors
    /// As [`Server::start`] and [`Cluster::settled`].
    pub fn start(size: usize) -> Result<Self> {
        Builder::default().start_cluster(size)
    }

    fn with(builder: Builder, size: usize) -> Result<Self> {
        let prepared = || {
            let members: Vec<Server> = (0..size)
                .map(|number| {
                    let member = Some(Member { number, size });
                    Server::stopped(Etcd { builder: builder.clone(), member })
                })
                .collect::<Result<_>>()?;
            let mut links = Vec::new();
            let mut doors = Vec::new();
            for (from, to) in pairs(size) {
                let link = Link::to(members[to].place().address(PEER))?;
                doors.push(Door::Socket(socket(&members[from], to)?, link.address()));
                links.push(Between { from, to, link });
            }
            Ok((members, links, Doors::open(doors)?))
        };
        let (cluster, doors) = Cluster::start(prepared, view)?;
        let cluster = Self { cluster, _doors: doors, builder };
        cluster.builder.add_users(&cluster.addresses())?;
        Ok(cluster)
    }

    /// `etcdctl` for all members, past every link and with all rights; the arguments come next.
    #[must_use]
    pub fn etcdctl(&self) -> Command {
        etcdctl(&self.addresses(), self.builder.has_users())
    }

    /// What `etcdctl` prints for these arguments, asking this member alone.
    ///
    /// # Errors
    /// As [`EtcdServer::cli`](crate::EtcdServer::cli).
    pub fn cli(&self, member: usize, arguments: &[&str]) -> Result<String> {
        let address = self.member(member).address();
        run(etcdctl(&[address], self.builder.has_users()).args(arguments))
    }

    /// The revision of the last change that the leader has seen.
    ///
    /// # Errors
    /// [`Error::Late`] where there is no leader; [`Error::Answer`] where it does not answer.
    pub fn revision(&self) -> Result<i64> {
        revision(self.member(self.leader()?).address())
    }

    /// Forgets all revisions before the last one, which it gives.
    ///
    /// # Errors
    /// As [`revision`](Self::revision) and [`cli`](Self::cli).
    pub fn compact(&self) -> Result<i64> {
        let leader = self.leader()?;
        let revision = revision(self.member(leader).address())?;
        self.cli(leader, &["compaction", "--physical", &revision.to_string()])?;
        Ok(revision)
    }

    /// A backup of the data that this member has, as `etcdctl snapshot save` makes one.
    ///
    /// # Errors
    /// As [`cli`](Self::cli).
    pub fn snapshot(&self, member: usize) -> Result<EtcdSnapshot> {
        EtcdSnapshot::by(etcdctl(&[self.member(member).address()], self.builder.has_users()))
    }

    /// Kills all members, and starts them again at the same ports with the data of one backup, as
    /// `etcdctl snapshot restore` lays them out for each; returns once all follow a leader.
    ///
    /// # Errors
    /// As [`cli`](Self::cli) and [`restart`](Cluster::restart).
    pub fn restore(&self, snapshot: &EtcdSnapshot) -> Result<()> {
        // All are dead before the first one starts: what one has lost it could learn from another.
        self.kill()?;
        let size = self.members().len();
        for (number, member) in self.members().iter().enumerate() {
            snapshot.lay_out(member.place(), Some(Member { number, size }))?;
        }
        self.restart(Data::Kept)
    }

    /// The addresses of all members' TLS ports; `None` without [`tls`](Builder::tls).
    #[must_use]
    pub fn tls_addresses(&self) -> Option<Vec<SocketAddr>> {
        let addresses = self.members().iter().map(|member| member.place().address(TLS));
        self.builder.has_tls().then(|| addresses.collect())
    }
}

impl Deref for EtcdCluster {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

impl Builder {
    /// Starts a cluster of so many members, and returns once all follow a leader; users that its
    /// restart without data loses stay lost.
    ///
    /// # Errors
    /// As [`EtcdCluster::start`].
    pub fn start_cluster(self, size: usize) -> Result<EtcdCluster> {
        EtcdCluster::with(self, size)
    }
}

/// Where one member finds another.
fn socket(from: &Server, to: usize) -> Result<UnixListener> {
    let directory = Member::directory(from.place());
    fs::create_dir_all(&directory).map_err(Error::system("making a directory of sockets"))?;
    let socket = UnixListener::bind(directory.join(address(to)));
    socket.map_err(Error::system("listening at a member's socket"))
}

fn view(member: &Server) -> Option<Seen> {
    let status = status(member.address()).ok()?;
    let leader = number(&status["leader"]);
    let is_leader = status["header"]["member_id"] == status["leader"];
    (leader != 0).then(|| Seen { term: number(&status["raftTerm"]), is_leader, followers: None })
}
