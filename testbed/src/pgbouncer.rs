//! A connection pooler in front of a PostgreSQL server.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::ops::Deref;
use std::process::Command;
use std::time::Duration;

use crate::unprivileged::{Account, find};
use crate::{Error, Place, PostgresServer, Program, Result, Server};

/// A running pgbouncer, and all that a [`Server`] can do.
#[derive(Debug)]
pub struct Pgbouncer {
    server: Server,
    user: &'static str,
}

/// For how long a client of a pooler keeps one of its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// Until it leaves.
    Session,
    /// For a transaction.
    Transaction,
}

impl Pgbouncer {
    /// Starts one in front of `server`, for its superuser; `lines` are added to its settings.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start(server: &PostgresServer, pooling: Pooling, lines: &[&str]) -> Result<Self> {
        let (to, user) = (server.address(), server.user());
        let lines = lines.iter().map(|line| format!("{line}\n")).collect();
        Ok(Self { server: Server::start(Pooler { to, user, pooling, lines })?, user })
    }

    /// The URL of the server's superuser, through the pooler.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres://{}@{}/postgres", self.user, self.address())
    }
}

impl Deref for Pgbouncer {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

struct Pooler {
    to: SocketAddr,
    user: &'static str,
    pooling: Pooling,
    lines: String,
}

impl Program for Pooler {
    fn name(&self) -> &'static str {
        "pgbouncer"
    }

    fn command(&self, place: &Place) -> Result<Command> {
        let (program, account) = (find(self.name())?, Account::unprivileged()?);
        let (address, user, to) = (place.address(0), self.user, self.to);
        let directory = place.directory();
        let mode = match self.pooling {
            Pooling::Session => "session",
            Pooling::Transaction => "transaction",
        };
        let text = format!(
            "[databases]\n* = host={} port={} user={user}\n[pgbouncer]\nlisten_addr = {}\n\
             listen_port = {}\nunix_socket_dir =\nauth_type = any\npool_mode = {mode}\n\
             pidfile = {}\nlogfile =\n{}",
            to.ip(),
            to.port(),
            address.ip(),
            address.port(),
            directory.join("pid").display(),
            self.lines,
        );
        let file = directory.join("pgbouncer.ini");
        fs::write(&file, text).map_err(Error::system("writing pgbouncer.ini"))?;
        account.own(directory, 0o700)?;
        account.own(&file, 0o600)?;
        let mut command = account.command(&program);
        command.arg(file);
        Ok(command)
    }

    fn is_ready(&self, place: &Place, pid: u32) -> Result<(), String> {
        let read = fs::read_to_string(place.directory().join("pid"));
        if read.map_err(|error| error.to_string())?.trim() != pid.to_string() {
            return Err("another process wrote its file".to_owned());
        }
        TcpStream::connect_timeout(&place.address(0), Duration::from_secs(1))
            .map(drop)
            .map_err(|error| error.to_string())
    }
}
