//! An etcd cluster for one test.

use std::fs;
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::{self, JoinHandle};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpStream, UnixListener};
use tokio::sync::oneshot;

use super::{Builder, Etcd, PEER, TLS, etcdctl, number, revision, run, status};
use crate::cluster::{Between, Cluster, Seen, pairs};
use crate::{Error, Link, Place, Result, Server};

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

    pub(super) fn with(builder: Builder, size: usize) -> Result<Self> {
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
                doors.push((directory(members[from].place())?.join(address(to)), link.address()));
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
    /// As [`EtcdServer::cli`](super::EtcdServer::cli).
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

    /// The plain addresses of all members.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.members().iter().map(Server::address).collect()
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

/// Which member of a cluster a server is.
///
/// Members know each other by sockets whose names are relative to the directory that they run in:
/// all have the same list, as etcd wants it, and each has doors of its own behind the names.
#[derive(Debug, Clone, Copy)]
pub(super) struct Member {
    number: usize,
    size: usize,
}

impl Member {
    pub(super) fn name(self) -> String {
        name(self.number)
    }

    pub(super) fn url(self) -> String {
        url(self.number)
    }

    /// The list of all members.
    pub(super) fn all(self) -> String {
        let all = (0..self.size).map(|number| format!("{}={}", name(number), url(number)));
        all.collect::<Vec<_>>().join(",")
    }

    pub(super) fn directory(place: &Place) -> PathBuf {
        place.directory().join("peers")
    }
}

fn name(member: usize) -> String {
    format!("member-{member}")
}

fn url(member: usize) -> String {
    format!("unix://{}", address(member))
}

/// etcd wants a port at the end also of a socket's name.
fn address(member: usize) -> String {
    format!("{}:0", name(member))
}

fn directory(place: &Place) -> Result<PathBuf> {
    let directory = Member::directory(place);
    fs::create_dir_all(&directory).map_err(Error::system("making the directory of doors"))?;
    Ok(directory)
}

fn view(member: &Server) -> Option<Seen> {
    let status = status(member.address()).ok()?;
    let leader = number(&status["leader"]);
    let is_leader = status["header"]["member_id"] == status["leader"];
    (leader != 0).then(|| Seen { term: number(&status["raftTerm"]), is_leader })
}

/// Sockets in directories, each of which leads to a link.
#[derive(Debug)]
struct Doors {
    /// The thread ends when it is dropped.
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Doors {
    fn open(doors: Vec<(PathBuf, SocketAddr)>) -> Result<Self> {
        let refused = || Error::system("opening doors between members");
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(refused())?;
        let (end, ended) = oneshot::channel();
        for (path, link) in doors {
            let _entered = runtime.enter();
            let listener = listen(&path)?;
            runtime.spawn(serve(listener, link));
        }
        let thread = thread::Builder::new()
            .name("doors between members".to_owned())
            .spawn(move || {
                runtime.block_on(ended).ok();
            })
            .map_err(refused())?;
        Ok(Self { end: Some(end), thread: Some(thread) })
    }
}

impl Drop for Doors {
    fn drop(&mut self) {
        self.end.take();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed there.
            thread.join().ok();
        }
    }
}

fn listen(path: &Path) -> Result<UnixListener> {
    UnixListener::bind(path).map_err(Error::system(format!("listening at {}", path.display())))
}

async fn serve(listener: UnixListener, link: SocketAddr) {
    while let Ok((mut from, _)) = listener.accept().await {
        tokio::spawn(async move {
            if let Ok(mut to) = TcpStream::connect(link).await {
                to.set_nodelay(true).ok();
                copy_bidirectional(&mut from, &mut to).await.ok();
            }
        });
    }
}
