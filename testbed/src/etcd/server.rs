//! An etcd server for one test.

use std::net::SocketAddr;
use std::ops::Deref;
use std::process::Command;

use super::calls::{etcdctl, revision, status};
use super::program::{Etcd, TLS};
use super::settings::Builder;
use super::snapshot::EtcdSnapshot;
use crate::command::run;
use crate::{Error, Result, Server};

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

impl Builder {
    /// Starts the server, and returns once it answers.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start(self) -> Result<EtcdServer> {
        let (has_users, has_tls) = (self.has_users(), self.has_tls());
        let server = Server::start(Etcd { builder: self, member: None })?;
        Ok(EtcdServer { server, has_users, has_tls })
    }
}
