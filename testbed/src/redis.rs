//! A Redis server for one test.

use std::fs;
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::PathBuf;
use std::process::Command;

use crate::certificates::Certificates;
use crate::resp::{Client, Reply};
use crate::{Error, Place, Program, Result, Server};

/// The testbed's own user, so that a test may do with the others what it likes.
const USER: &str = "testbed";
const PASSWORD: &str = "testbed";

/// A running Redis server, and all that a [`Server`] can do.
#[derive(Debug)]
pub struct RedisServer {
    server: Server,
    has_tls: bool,
}

impl RedisServer {
    /// Starts one that keeps nothing on its disk.
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

    /// Sends a command past every link, and gives the reply.
    ///
    /// # Errors
    /// [`Error::System`] where the server does not run, is paused or takes 5 seconds.
    pub fn cli(&self, words: &[&str]) -> Result<Reply> {
        self.client()?.command(words)
    }

    /// A connection past every link, with all rights.
    ///
    /// # Errors
    /// As [`cli`](Self::cli).
    pub fn client(&self) -> Result<Client> {
        client(self.address())
    }

    /// A field of what `INFO` says; empty where there is none.
    ///
    /// # Errors
    /// As [`cli`](Self::cli).
    pub fn info(&self, field: &str) -> Result<String> {
        let info = self.cli(&["INFO", "everything"])?.text().unwrap_or_default();
        Ok(self::field(&info, field).unwrap_or_default().to_owned())
    }

    /// The server's version, such as `7.0.15`.
    ///
    /// # Errors
    /// As [`cli`](Self::cli).
    pub fn version(&self) -> Result<String> {
        self.info("redis_version")
    }

    /// The URL of its plain port.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    /// The socket in its directory that it listens at too.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        socket(self.place())
    }

    /// The address of its TLS port; `None` without [`tls`](Builder::tls).
    #[must_use]
    pub fn tls_address(&self) -> Option<SocketAddr> {
        self.has_tls.then(|| self.place().address(1))
    }
}

impl Deref for RedisServer {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

/// The settings of a Redis server.
#[derive(Debug, Default, Clone)]
pub struct Builder {
    lines: Vec<String>,
    tls: Option<Tls>,
}

#[derive(Debug, Clone)]
struct Tls {
    lines: String,
}

impl Builder {
    /// One more line of its configuration, such as `maxmemory-policy allkeys-lru`.
    #[must_use]
    pub fn line(mut self, line: impl Into<String>) -> Self {
        self.lines.push(line.into());
        self
    }

    /// Writes every change to the disk before the reply: [`Data::Kept`](crate::Data::Kept) then
    /// keeps all that was acknowledged, also after a kill.
    #[must_use]
    pub fn appendonly(self) -> Self {
        self.line("appendonly yes").line("appendfsync always")
    }

    /// The password of the default user.
    #[must_use]
    pub fn password(self, password: &str) -> Self {
        self.line(format!("requirepass {password}"))
    }

    /// One more user with these rules, such as `on >secret ~lock:* +@all`.
    #[must_use]
    pub fn user(self, name: &str, rules: &str) -> Self {
        self.line(format!("user {name} {rules}"))
    }

    /// Copies from another server, straight or through a link in front of it.
    #[must_use]
    pub fn replica_of(self, primary: SocketAddr) -> Self {
        self.line(format!("replicaof {} {}", primary.ip(), primary.port()))
            .line(format!("masteruser {USER}"))
            .line(format!("masterauth {PASSWORD}"))
    }

    /// A second port for TLS with the server's certificate of `certificates`.
    #[must_use]
    pub fn tls(mut self, certificates: &Certificates, clients: ClientCertificate) -> Self {
        let asked = match clients {
            ClientCertificate::Required => "yes",
            ClientCertificate::NotAsked => "no",
        };
        let lines = format!(
            "tls-cert-file {}\ntls-key-file {}\ntls-ca-cert-file {}\ntls-auth-clients {asked}\n",
            certificates.server_certificate().display(),
            certificates.server_key().display(),
            certificates.ca().display(),
        );
        self.tls = Some(Tls { lines });
        self
    }

    /// Starts the server, and returns once it answers.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start(self) -> Result<RedisServer> {
        let has_tls = self.tls.is_some();
        Ok(RedisServer { server: Server::start(Redis(self))?, has_tls })
    }
}

/// Whether a TLS server wants to see the client's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientCertificate {
    /// The handshake fails without one.
    Required,
    /// It is not asked for.
    NotAsked,
}

struct Redis(Builder);

impl Program for Redis {
    fn name(&self) -> &'static str {
        "redis-server"
    }

    fn ports(&self) -> usize {
        1 + usize::from(self.0.tls.is_some())
    }

    fn command(&self, place: &Place) -> Result<Command> {
        let mut text = format!(
            "bind 127.0.0.1\nport {}\ndir {}\nunixsocket {}\nsave \"\"\n\
             user {USER} on >{PASSWORD} ~* &* +@all\n",
            place.address(0).port(),
            place.data().display(),
            socket(place).display(),
        );
        if let Some(tls) = &self.0.tls {
            text += &format!("tls-port {}\n{}", place.address(1).port(), tls.lines);
        }
        for line in &self.0.lines {
            text += line;
            text.push('\n');
        }
        let file = place.directory().join("redis.conf");
        fs::write(&file, text).map_err(Error::system("writing redis.conf"))?;
        let mut command = Command::new(self.name());
        command.arg(file);
        Ok(command)
    }

    fn is_ready(&self, place: &Place, pid: u32) -> Result<(), String> {
        let reply = client(place.address(0)).and_then(|mut client| client.command(&["INFO"]));
        let info = reply.map_err(|error| error.to_string())?.text().unwrap_or_default();
        if field(&info, "process_id") != Some(&pid.to_string()) {
            return Err("another process answers at its port".to_owned());
        }
        match field(&info, "loading") {
            Some("0") => Ok(()),
            _ => Err("it still loads its data".to_owned()),
        }
    }
}

fn client(address: SocketAddr) -> Result<Client> {
    let mut client = Client::connect(address)?;
    match client.command(&["AUTH", USER, PASSWORD])? {
        Reply::Error(why) => Err(Error::Answer(why)),
        _ => Ok(client),
    }
}

fn socket(place: &Place) -> PathBuf {
    place.directory().join("socket")
}

fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}
