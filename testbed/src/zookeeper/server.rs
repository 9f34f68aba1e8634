//! A ZooKeeper server for one test.

use std::net::SocketAddr;
use std::ops::Deref;

use super::calls::{ask, field};
use super::program::{Later, TLS, Zk};
use super::settings::Builder;
use crate::{Error, Result, Server};

/// A running ZooKeeper server, and all that a [`Server`] can do.
///
/// It keeps what it has acknowledged, also over a kill; it does not wait for the disk.
#[derive(Debug)]
pub struct ZkServer {
    server: Server,
    has_tls: bool,
    later: Later,
}

impl ZkServer {
    /// Starts one that stands alone.
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

    /// The answer to a command of four letters, such as `srvr`, `dump` or `wchp`, past every link.
    ///
    /// # Errors
    /// [`Error::Answer`] where there is none.
    pub fn ask(&self, word: &str) -> Result<String> {
        ask(self.address(), word).map_err(Error::Answer)
    }

    /// One more line of its configuration from its next start on, such as `maxSessionTimeout=5000`;
    /// it wins over earlier lines for the same setting.
    pub fn set_line(&self, line: impl Into<String>) {
        self.later.add(line.into());
    }

    /// The server's version, such as `3.8.0`.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub fn version(&self) -> Result<String> {
        let answer = self.ask("srvr")?;
        let version = field(&answer, "Zookeeper version: ").unwrap_or_default();
        Ok(version.split(['-', ',']).next().unwrap_or_default().to_owned())
    }

    /// The address of its TLS port; `None` without [`tls`](Builder::tls).
    #[must_use]
    pub fn tls_address(&self) -> Option<SocketAddr> {
        self.has_tls.then(|| self.place().address(TLS))
    }
}

impl Deref for ZkServer {
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
    pub fn start(self) -> Result<ZkServer> {
        let (has_tls, later) = (self.tls.is_some(), Later::default());
        let zk = Zk { builder: self, member: None, later: later.clone() };
        Ok(ZkServer { server: Server::start(zk)?, has_tls, later })
    }
}
