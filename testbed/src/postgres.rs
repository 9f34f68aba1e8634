//! A PostgreSQL server for one test.

use std::fmt::Display;
use std::fs;
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;

use crate::certificates::Certificates;
use crate::unprivileged::{Account, find};
use crate::{Error, Place, Program, Result, Server};

/// The superuser, and the database that every test uses unless it makes one.
const USER: &str = "testbed";
const DATABASE: &str = "postgres";

/// A running PostgreSQL server, and all that a [`Server`] can do.
///
/// It keeps every change that it acknowledged over a kill of its processes, not over a crash of the
/// machine: it calls no `fsync`.
#[derive(Debug)]
pub struct PostgresServer {
    server: Server,
}

impl PostgresServer {
    /// Starts one with PostgreSQL's own settings, where everybody of this machine may log in.
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

    /// Stops it in order, as `pg_ctl stop` does: its clients are told, and all that they committed is kept. After
    /// [`stop`](Server::stop) it recovers as after a crash.
    ///
    /// # Errors
    /// As [`Server::stop`].
    pub fn shut_down(&self) -> Result<()> {
        self.server.stop_by(Signal::INT)
    }

    /// What `psql` prints for these statements, run by the superuser past every link; rows are
    /// lines, and columns are parted by `|`.
    ///
    /// # Errors
    /// [`Error::Answer`] where a statement fails, with the server's words.
    pub fn sql(&self, statements: &str) -> Result<String> {
        let mut psql = self.psql()?;
        psql.args(["-v", "ON_ERROR_STOP=1", "-c", statements]);
        let ended = psql.output().map_err(Error::system("running psql"))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        if ended.status.success() {
            Ok(text(&ended.stdout))
        } else {
            Err(Error::Answer(text(&ended.stderr)))
        }
    }

    /// `psql` as the superuser past every link, bare and quiet, with no command yet.
    ///
    /// # Errors
    /// [`Error::Missing`] where it is not installed.
    pub fn psql(&self) -> Result<Command> {
        let mut command = Command::new(find("psql")?);
        command
            .args(["-X", "-q", "-A", "-t", "-h"])
            .arg(self.place().directory())
            .args(["-p", &self.port().to_string(), "-U", USER, "-d", DATABASE])
            .env("PGCONNECT_TIMEOUT", "10");
        Ok(command)
    }

    /// The URL of its superuser, over TCP.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_at(self.address())
    }

    /// The same with another address, for a link or a pooler in front of it.
    #[must_use]
    pub fn url_at(&self, address: SocketAddr) -> String {
        format!("postgres://{USER}@{address}/{DATABASE}")
    }

    /// Its user with all rights, who needs no password.
    #[must_use]
    pub const fn user(&self) -> &'static str {
        USER
    }
}

impl Deref for PostgresServer {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        // Killed, it would leave its segment of shared memory to the machine.
        self.server.stop().ok();
    }
}

/// The settings of a PostgreSQL server.
#[derive(Debug, Default, Clone)]
pub struct Builder {
    settings: String,
    hba: String,
    tls: Option<Tls>,
    primary: Option<SocketAddr>,
    on_disk: bool,
}

#[derive(Debug, Clone)]
struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    ca: PathBuf,
}

impl Builder {
    /// One line of `postgresql.conf`, such as `max_connections` and `20`.
    #[must_use]
    pub fn setting(mut self, name: &str, value: impl Display) -> Self {
        self.settings += &format!("{name} = '{value}'\n");
        self
    }

    /// One line of `pg_hba.conf`, before the one that lets everybody in over TCP, such as
    /// `host all alice 127.0.0.1/32 scram-sha-256`.
    #[must_use]
    pub fn hba(mut self, line: &str) -> Self {
        self.hba += &format!("{line}\n");
        self
    }

    /// Speaks TLS too, with the server's certificate of `certificates`, and believes those that
    /// their authority signed.
    #[must_use]
    pub fn tls(mut self, certificates: &Certificates) -> Self {
        self.tls = Some(Tls {
            certificate: certificates.server_certificate(),
            key: certificates.server_key(),
            ca: certificates.ca(),
        });
        self
    }

    /// A standby that follows another server, straight or through a link in front of it; what it
    /// starts with is copied from there.
    #[must_use]
    pub fn standby_of(mut self, primary: SocketAddr) -> Self {
        self.primary = Some(primary);
        self
    }

    /// Keeps its data in the directory for temporary files, and waits for the disk as PostgreSQL's own settings
    /// have it.
    #[must_use]
    pub fn on_disk(mut self) -> Self {
        self.on_disk = true;
        self.setting("fsync", "on").setting("full_page_writes", "on")
    }

    /// Starts the server, and returns once it answers.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start(self) -> Result<PostgresServer> {
        Ok(PostgresServer { server: Server::start(Postgres(self))? })
    }
}

struct Postgres(Builder);

impl Postgres {
    /// Makes the cluster: anew, or as a copy of the primary.
    fn make(&self, data: &Path, account: &Account) -> Result<()> {
        let mut command = match self.0.primary {
            None => {
                let mut initdb = account.command(&find("initdb")?);
                initdb.args(["--no-sync", "--auth=trust", "--encoding=UTF8", "--no-locale"]);
                initdb.args(["-U", USER, "-D"]).arg(data);
                initdb
            }
            Some(primary) => {
                let mut copy = account.command(&find("pg_basebackup")?);
                let (host, port) = (primary.ip().to_string(), primary.port().to_string());
                copy.args(["--no-sync", "--checkpoint=fast", "--write-recovery-conf"]);
                copy.args(["-h", &host, "-p", &port, "-U", USER, "-D"]).arg(data);
                copy
            }
        };
        let made = command.output().map_err(Error::system("making a cluster"))?;
        if made.status.success() {
            return Ok(());
        }
        Err(Error::Start {
            program: self.name().to_owned(),
            reason: "no cluster could be made".to_owned(),
            log: String::from_utf8_lossy(&made.stderr).into_owned(),
        })
    }

    fn settings(&self, place: &Place, account: &Account) -> Result<String> {
        let mut text = format!(
            "listen_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = '{}'\n\
             hba_file = '{}'\nfsync = off\nfull_page_writes = off\nshared_buffers = 16MB\n\
             dynamic_shared_memory_type = mmap\nautovacuum = off\nmax_wal_senders = 4\n\
             log_min_duration_statement = 500ms\nlog_lock_waits = on\n",
            place.address(0).port(),
            place.directory().display(),
            hba(place).display(),
        );
        if let Some(tls) = &self.0.tls {
            text += "ssl = on\n";
            let files = [
                ("ssl_cert_file", &tls.certificate),
                ("ssl_key_file", &tls.key),
                ("ssl_ca_file", &tls.ca),
            ];
            for (setting, from) in files {
                // The server takes a key only from its own user or from root, and nobody else's.
                let file = place.directory().join(setting);
                fs::copy(from, &file).map_err(Error::system("copying a certificate"))?;
                account.own(&file, 0o600)?;
                text += &format!("{setting} = '{}'\n", file.display());
            }
        }
        Ok(text + &self.0.settings)
    }
}

impl Program for Postgres {
    fn name(&self) -> &'static str {
        "postgres"
    }

    fn command(&self, place: &Place) -> Result<Command> {
        let (program, account) = (find(self.name())?, Account::unprivileged()?);
        account.own(place.directory(), 0o700)?;
        account.own(&place.data(), 0o700)?;
        if !place.data().join("PG_VERSION").exists() {
            self.make(&place.data(), &account)?;
        }
        let open = "local all all trust\n";
        let all = "host all all 127.0.0.1/32 trust\nhost replication all 127.0.0.1/32 trust\n";
        let settings = self.settings(place, &account)?;
        let file = place.directory().join("postgresql.conf");
        for (file, text) in [(&file, settings), (&hba(place), [open, &self.0.hba, all].concat())] {
            fs::write(file, text).map_err(Error::system("writing the server's settings"))?;
            account.own(file, 0o600)?;
        }
        let mut command = account.command(&program);
        // In the cluster's own file `pg_basebackup` and ALTER SYSTEM have their say.
        command.arg("-D").arg(place.data()).arg(format!("--config-file={}", file.display()));
        Ok(command)
    }

    fn needs_disk(&self) -> bool {
        self.0.on_disk
    }

    /// Each backend makes a session of its own.
    fn spreads(&self) -> bool {
        true
    }

    /// At once, as after a crash, but cleaning up behind itself.
    fn end(&self) -> Signal {
        Signal::QUIT
    }

    /// The server writes its state to the last line of this file, as `pg_ctl` expects it.
    fn is_ready(&self, place: &Place, pid: u32) -> Result<(), String> {
        let read = fs::read_to_string(place.data().join("postmaster.pid"));
        let state = read.map_err(|error| error.to_string())?;
        let mut lines = state.lines();
        if lines.next() != Some(&pid.to_string()) {
            return Err("another process runs on its data".to_owned());
        }
        match lines.nth(6).map(str::trim) {
            Some("ready") => Ok(()),
            Some("standby") if self.0.primary.is_some() => Ok(()),
            other => Err(format!("its state is {other:?}")),
        }
    }
}

fn hba(place: &Place) -> PathBuf {
    place.directory().join("pg_hba.conf")
}
