//! An etcd server for one test.

mod cluster;

use std::fs;
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::PathBuf;
use std::process::Command;

pub use cluster::EtcdCluster;
use cluster::Member;
use serde_json::Value;
use tempfile::TempDir;

use crate::certificates::Certificates;
use crate::command::run;
use crate::port::is_listened_at;
use crate::{ClientCertificate, Error, Place, Program, Result, Server, http};

/// The testbed's own user, whom etcd wants to have this name.
const ROOT: &str = "root:testbed";
/// The indices of its ports.
const PLAIN: usize = 0;
const PEER: usize = 1;
const TLS: usize = 2;
/// The name of a cluster's only member.
const ALONE: &str = "testbed";

/// A running etcd server, and all that a [`Server`] can do.
#[derive(Debug)]
pub struct EtcdServer {
    server: Server,
    has_users: bool,
    has_tls: bool,
}

impl EtcdServer {
    /// Starts a cluster of one.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start() -> Result<Self> {
        Self::builder().start()
    }

    /// One with settings of its own.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// `etcdctl` for this server, past every link and with all rights; the arguments come next.
    #[must_use]
    pub fn etcdctl(&self) -> Command {
        etcdctl(&[self.address()], self.has_users)
    }

    /// What `etcdctl` prints for these arguments.
    ///
    /// # Errors
    /// [`Error::Missing`] where it is not installed; [`Error::Command`] where it fails.
    pub fn cli(&self, arguments: &[&str]) -> Result<String> {
        run(self.etcdctl().args(arguments))
    }

    /// The revision of its last change.
    ///
    /// # Errors
    /// [`Error::Answer`] where it does not answer.
    pub fn revision(&self) -> Result<i64> {
        revision(self.address())
    }

    /// Forgets all revisions before the last one, which it gives.
    ///
    /// # Errors
    /// As [`revision`](Self::revision) and [`cli`](Self::cli).
    pub fn compact(&self) -> Result<i64> {
        let revision = self.revision()?;
        self.cli(&["compaction", "--physical", &revision.to_string()])?;
        Ok(revision)
    }

    /// A backup of all its data, as `etcdctl snapshot save` makes one.
    ///
    /// # Errors
    /// As [`cli`](Self::cli).
    pub fn snapshot(&self) -> Result<EtcdSnapshot> {
        EtcdSnapshot::by(self.etcdctl())
    }

    /// Kills it, and starts it again at the same ports with the data of a backup, as
    /// `etcdctl snapshot restore` lays them out.
    ///
    /// # Errors
    /// As [`cli`](Self::cli) and [`Server::restart`].
    pub fn restore(&self, snapshot: &EtcdSnapshot) -> Result<()> {
        self.restart_after(|place| snapshot.lay_out(place, None))
    }

    /// The server's version, such as `3.4.23`.
    ///
    /// # Errors
    /// [`Error::Answer`] where it does not answer.
    pub fn version(&self) -> Result<String> {
        let status = status(self.address()).map_err(Error::Answer)?;
        Ok(status["version"].as_str().unwrap_or_default().to_owned())
    }

    /// The address of its TLS port; `None` without [`tls`](Builder::tls).
    #[must_use]
    pub fn tls_address(&self) -> Option<SocketAddr> {
        self.has_tls.then(|| self.place().address(TLS))
    }
}

impl Deref for EtcdServer {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

/// A backup of a server's data.
#[derive(Debug)]
pub struct EtcdSnapshot {
    directory: TempDir,
}

impl EtcdSnapshot {
    /// Of the one server that this `etcdctl` is for.
    fn by(mut etcdctl: Command) -> Result<Self> {
        let directory = tempfile::tempdir().map_err(Error::system("making a directory"))?;
        let snapshot = Self { directory };
        run(etcdctl.args(["snapshot", "save"]).arg(snapshot.file()))?;
        Ok(snapshot)
    }

    /// Replaces the data of a server that does not run.
    fn lay_out(&self, place: &Place, member: Option<Member>) -> Result<()> {
        // The tool makes the directory itself, and refuses one that is there.
        fs::remove_dir_all(place.data()).map_err(Error::system("deleting the data"))?;
        let Identity { name, advertised, all } = Identity::of(member, place);
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["snapshot", "restore"]).arg(self.file());
        command
            .arg(format!("--data-dir={}", place.data().display()))
            .arg(format!("--name={name}"))
            .arg(format!("--initial-advertise-peer-urls={advertised}"))
            .arg(format!("--initial-cluster={all}"));
        run(&mut command).map(drop)
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("snapshot.db")
    }
}

/// The settings of an etcd server.
#[derive(Debug, Default, Clone)]
pub struct Builder {
    arguments: Vec<String>,
    users: Vec<User>,
    tls: Vec<String>,
}

#[derive(Debug, Clone)]
struct User {
    name: String,
    password: Option<String>,
    prefix: String,
}

impl Builder {
    /// One more argument of its command line, such as `--quota-backend-bytes=1000000`.
    #[must_use]
    pub fn argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// One more user, who may read and write the keys with this prefix; from the first one on
    /// nobody may do anything without a login.
    #[must_use]
    pub fn user(self, name: &str, password: &str, prefix: &str) -> Self {
        self.with_user(name, Some(password), prefix)
    }

    /// The same for whoever shows the client's certificate of [`Certificates`], without a password.
    #[must_use]
    pub fn user_by_certificate(self, prefix: &str) -> Self {
        self.with_user(Certificates::CLIENT, None, prefix)
    }

    fn with_user(mut self, name: &str, password: Option<&str>, prefix: &str) -> Self {
        let password = password.map(str::to_owned);
        self.users.push(User { name: name.to_owned(), password, prefix: prefix.to_owned() });
        self
    }

    /// One more port for TLS with the server's certificate of `certificates`.
    #[must_use]
    pub fn tls(mut self, certificates: &Certificates, clients: ClientCertificate) -> Self {
        self.tls = vec![
            format!("--cert-file={}", certificates.server_certificate().display()),
            format!("--key-file={}", certificates.server_key().display()),
        ];
        if clients == ClientCertificate::Required {
            self.tls.push("--client-cert-auth".to_owned());
            self.tls.push(format!("--trusted-ca-file={}", certificates.ca().display()));
        }
        self
    }

    /// Starts the server, and returns once it answers.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start(self) -> Result<EtcdServer> {
        let (has_users, has_tls) = (self.has_users(), self.has_tls());
        let server = Server::start(Etcd { builder: self, member: None })?;
        Ok(EtcdServer { server, has_users, has_tls })
    }

    /// Starts a cluster of so many members, and returns once all follow a leader; users that its
    /// restart without data loses stay lost.
    ///
    /// # Errors
    /// As [`EtcdCluster::start`].
    pub fn start_cluster(self, size: usize) -> Result<EtcdCluster> {
        EtcdCluster::with(self, size)
    }

    fn has_users(&self) -> bool {
        !self.users.is_empty()
    }

    fn has_tls(&self) -> bool {
        !self.tls.is_empty()
    }

    /// Users are data: those of the last run are there unless it was lost.
    fn add_users(&self, endpoints: &[SocketAddr]) -> Result<()> {
        let cli = |arguments: &[&str], is_enabled: bool| {
            run(etcdctl(endpoints, is_enabled).args(arguments))
        };
        if !self.has_users() || cli(&["user", "get", "root"], true).is_ok() {
            return Ok(());
        }
        cli(&["user", "add", ROOT], false)?;
        cli(&["user", "grant-role", "root", "root"], false)?;
        for User { name, password, prefix } in &self.users {
            match password {
                Some(password) => cli(&["user", "add", &format!("{name}:{password}")], false)?,
                None => cli(&["user", "add", "--no-password", name], false)?,
            };
            cli(&["role", "add", name], false)?;
            let permission = ["role", "grant-permission", "--prefix", name, "readwrite", prefix];
            cli(&permission, false)?;
            cli(&["user", "grant-role", name, name], false)?;
        }
        cli(&["auth", "enable"], false).map(drop)
    }
}

struct Etcd {
    builder: Builder,
    member: Option<Member>,
}

impl Program for Etcd {
    fn name(&self) -> &'static str {
        "etcd"
    }

    fn ports(&self) -> usize {
        2 + usize::from(self.builder.has_tls())
    }

    fn command(&self, place: &Place) -> Result<Command> {
        let mut clients = format!("http://{}", place.address(PLAIN));
        if self.builder.has_tls() {
            clients += &format!(",https://{}", place.address(TLS));
        }
        let peer = peer_url(place);
        let mut command = Command::new(self.name());
        if self.member.is_some() {
            command.current_dir(Member::directory(place));
        }
        let Identity { name, advertised, all } = Identity::of(self.member, place);
        command
            .arg(format!("--name={name}"))
            .arg(format!("--data-dir={}", place.data().display()))
            .arg(format!("--listen-client-urls={clients}"))
            .arg(format!("--advertise-client-urls={clients}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={advertised}"))
            .arg(format!("--initial-cluster={all}"))
            .args(["--logger=zap", "--log-outputs=stderr"])
            .args(&self.builder.tls)
            .args(&self.builder.arguments);
        Ok(command)
    }

    fn is_ready(&self, place: &Place, _: u32) -> Result<(), String> {
        // Without the others, which may not be there yet, a member listens and does not answer.
        if self.member.is_some() {
            let is_there = is_listened_at(place.address(PLAIN));
            return is_there.then_some(()).ok_or_else(|| "it does not listen".to_owned());
        }
        let status = status(place.address(PLAIN))?;
        if !is_own(&status, place) {
            return Err("another process answers at its port".to_owned());
        }
        if number(&status["leader"]) == 0 {
            return Err("it has no leader".to_owned());
        }
        Ok(())
    }

    fn prepare(&self, place: &Place) -> Result<()> {
        match self.member {
            None => self.builder.add_users(&[place.address(PLAIN)]),
            Some(_) => Ok(()),
        }
    }
}

/// What a server calls itself, and which others its cluster has.
struct Identity {
    name: String,
    /// Where the others find it.
    advertised: String,
    all: String,
}

impl Identity {
    fn of(member: Option<Member>, place: &Place) -> Self {
        if let Some(member) = member {
            return Self { name: member.name(), advertised: member.url(), all: member.all() };
        }
        let advertised = peer_url(place);
        let all = format!("{ALONE}={advertised}");
        Self { name: ALONE.to_owned(), advertised, all }
    }
}

fn peer_url(place: &Place) -> String {
    format!("http://{}", place.address(PEER))
}

fn etcdctl(endpoints: &[SocketAddr], has_users: bool) -> Command {
    let endpoints: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
    let mut command = Command::new("etcdctl");
    command.env("ETCDCTL_API", "3").env("ETCDCTL_ENDPOINTS", endpoints.join(","));
    if has_users {
        command.env("ETCDCTL_USER", ROOT);
    }
    command
}

/// What the member itself says, without asking the others.
fn status(address: SocketAddr) -> Result<Value, String> {
    http::post(address, "/v3/maintenance/status", "{}")
}

fn revision(address: SocketAddr) -> Result<i64> {
    let status = status(address).map_err(Error::Answer)?;
    let revision = status["header"]["revision"].as_str().unwrap_or_default();
    revision.parse().map_err(|_| Error::Answer(format!("no revision in {status}")))
}

/// Whether the log that this process writes is of the member that answered.
fn is_own(status: &Value, place: &Place) -> bool {
    let member = number(&status["header"]["member_id"]);
    place.log().contains(&format!("{member:x}"))
}

/// Numbers of 64 bits are texts here; one that is absent is 0.
fn number(value: &Value) -> u64 {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_default()
}
