//! A ZooKeeper server for one test.

mod backup;
mod ensemble;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub use backup::ZkBackup;
use ensemble::Member;
pub use ensemble::ZkEnsemble;

use crate::certificates::Certificates;
use crate::port::is_listened_at;
use crate::{ClientCertificate, Error, Place, Program, Result, Server, java};

/// A server that is paused does not answer: better an error than a test that hangs.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// ZooKeeper's own default of 2 s makes tests of expiry slow.
const TICK: Duration = Duration::from_millis(500);
/// What it needs; its own jar does not name Netty's codec, which TLS needs.
const JARS: [&str; 3] = ["zookeeper", "slf4j-simple", "netty-codec"];
/// The indices of its ports.
const PLAIN: usize = 0;
const TLS: usize = 1;
const QUORUM: usize = 2;
const ELECTION: usize = 3;

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

/// The settings of a ZooKeeper server.
#[derive(Debug, Clone)]
pub struct Builder {
    tick: Duration,
    lines: Vec<String>,
    properties: Vec<String>,
    tls: Option<Tls>,
}

impl Default for Builder {
    fn default() -> Self {
        Self { tick: TICK, lines: Vec::new(), properties: Vec::new(), tls: None }
    }
}

#[derive(Debug, Clone)]
struct Tls {
    identity: String,
    lines: String,
}

impl Builder {
    /// The unit of its time, 500 ms unless set: sessions end within one more tick than their
    /// timeout, which is of 2 ticks at least, and of 40 s at most.
    #[must_use]
    pub fn tick(mut self, tick: Duration) -> Self {
        self.tick = tick;
        self
    }

    /// One more line of its configuration, such as `maxSessionTimeout=5000`.
    #[must_use]
    pub fn line(mut self, line: impl Into<String>) -> Self {
        self.lines.push(line.into());
        self
    }

    /// One more property of its process, such as `znode.container.checkIntervalMs` and `500`.
    #[must_use]
    pub fn property(mut self, name: &str, value: &str) -> Self {
        self.properties.push(format!("-D{name}={value}"));
        self
    }

    /// One more port for TLS with the server's certificate of `certificates`.
    ///
    /// # Errors
    /// [`Error::System`] where the certificate cannot be read.
    pub fn tls(mut self, certificates: &Certificates, clients: ClientCertificate) -> Result<Self> {
        let read = |file: &Path| {
            fs::read_to_string(file).map_err(Error::system(format!("reading {}", file.display())))
        };
        let identity =
            read(&certificates.server_key())? + &read(&certificates.server_certificate())?;
        let asked = match clients {
            ClientCertificate::Required => "need",
            ClientCertificate::NotAsked => "none",
        };
        let lines = format!(
            "serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory\n\
             ssl.keyStore.type=PEM\nssl.trustStore.type=PEM\nssl.trustStore.location={}\n\
             ssl.clientAuth={asked}\n",
            certificates.ca().display(),
        );
        self.tls = Some(Tls { identity, lines });
        Ok(self)
    }

    /// Starts the server, and returns once it answers.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start(self) -> Result<ZkServer> {
        let (has_tls, later) = (self.tls.is_some(), Later::default());
        let zk = Zk { builder: self, member: None, later: later.clone() };
        Ok(ZkServer { server: Server::start(zk)?, has_tls, later })
    }

    /// Starts an ensemble of so many members, and returns once all follow a leader.
    ///
    /// # Errors
    /// As [`ZkEnsemble::start`].
    pub fn start_ensemble(self, size: usize) -> Result<ZkEnsemble> {
        ZkEnsemble::with(&self, size)
    }
}

/// The lines of a server's configuration that were added after its first start.
#[derive(Debug, Clone, Default)]
struct Later(Arc<Mutex<Vec<String>>>);

impl Later {
    fn add(&self, line: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

struct Zk {
    builder: Builder,
    member: Option<Member>,
    later: Later,
}

impl Program for Zk {
    fn name(&self) -> &'static str {
        "zookeeper"
    }

    fn ports(&self) -> usize {
        match self.member {
            None => 1 + usize::from(self.builder.tls.is_some()),
            Some(_) => 4,
        }
    }

    fn command(&self, place: &Place) -> Result<Command> {
        let write = |name: &str, text: &str| -> Result<PathBuf> {
            let file = place.directory().join(name);
            fs::write(&file, text).map_err(Error::system(format!("writing {name}")))?;
            Ok(file)
        };
        let mut text = format!(
            "tickTime={}\nmaxSessionTimeout=40000\ndataDir={}\nclientPortAddress=127.0.0.1\n\
             clientPort={}\nadmin.enableServer=false\n4lw.commands.whitelist=*\n",
            self.builder.tick.as_millis(),
            place.data().display(),
            place.address(PLAIN).port(),
        );
        if let Some(tls) = &self.builder.tls {
            let identity = write("identity.pem", &tls.identity)?;
            text += &format!(
                "secureClientPortAddress=127.0.0.1\nsecureClientPort={}\n\
                 ssl.keyStore.location={}\n{}",
                place.address(TLS).port(),
                identity.display(),
                tls.lines,
            );
        }
        if let Some(member) = &self.member {
            text += &member.lines(place)?;
        }
        for line in self.builder.lines.iter().chain(&self.later.lines()) {
            text += line;
            text.push('\n');
        }
        let file = write("zoo.cfg", &text)?;
        let mut command = java::command(&JARS)?;
        command
            .args([
                "-Dorg.slf4j.simpleLogger.showDateTime=true",
                "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
                "-Dzookeeper.forceSync=no",
            ])
            // The log of changes takes 64 MiB of disk at once otherwise.
            .arg("-Dzookeeper.preAllocSize=1024")
            .args(self.member.iter().flat_map(Member::properties))
            .args(&self.builder.properties)
            .arg("org.apache.zookeeper.server.quorum.QuorumPeerMain")
            .arg(file);
        Ok(command)
    }

    fn is_ready(&self, place: &Place, _: u32) -> Result<(), String> {
        let address = place.address(PLAIN);
        if self.builder.tls.is_some() && !is_listened_at(place.address(TLS)) {
            return Err("it does not listen at its TLS port".to_owned());
        }
        if self.member.is_some() {
            // It says more once it has a leader, and the others may not be there yet.
            return ask(address, "ruok")
                .and_then(|said| if said == "imok" { Ok(()) } else { Err(said) });
        }
        // The directory is of this place alone.
        let settings = ask(address, "conf")?;
        if !settings.contains(&*place.data().to_string_lossy()) {
            return Err(format!("what answers at its port has these settings: {settings:?}"));
        }
        let answer = ask(address, "srvr")?;
        field(&answer, "Mode: ").map(drop).ok_or(answer)
    }
}

fn ask(address: SocketAddr, word: &str) -> Result<String, String> {
    let ask = || {
        let mut stream = TcpStream::connect_timeout(&address, ANSWER_WITHIN)?;
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        stream.write_all(word.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().map_err(|error: std::io::Error| error.to_string())
}

fn field<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    answer.lines().find_map(|line| line.strip_prefix(name))
}
