//! A MariaDB server for one test.

use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::unprivileged::{Account, find};
use crate::{Error, Place, Program, Result, Server};

/// The user with all rights, who needs no password, and the database that every test uses unless it makes one.
const USER: &str = "testbed";
const DATABASE: &str = "test";
/// How long its greeting may take, once it listens.
const GREETING: Duration = Duration::from_secs(1);

/// A running MariaDB server, and all that a [`Server`] can do.
///
/// It keeps every change that it acknowledged over a kill of its process, not over a crash of the machine.
#[derive(Debug)]
pub struct MariadbServer {
    server: Server,
}

impl MariadbServer {
    /// Starts one with MariaDB's own settings.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start() -> Result<Self> {
        Ok(Self { server: Server::start(Mariadb)? })
    }

    /// The URL of its user with all rights, over TCP.
    #[must_use]
    pub fn url(&self) -> String {
        format!("mysql://{USER}@{}/{DATABASE}", self.address())
    }
}

impl Deref for MariadbServer {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

struct Mariadb;

impl Mariadb {
    /// Makes the system's tables, and what the server does at every start before it listens.
    fn make(&self, place: &Place, account: &Account) -> Result<()> {
        let users = format!(
            "CREATE DATABASE IF NOT EXISTS {DATABASE};\n\
             CREATE OR REPLACE USER {USER}@'127.0.0.1';\n\
             GRANT ALL ON *.* TO {USER}@'127.0.0.1' WITH GRANT OPTION;\n"
        );
        let file = init(place);
        fs::write(&file, users).map_err(Error::system("writing MariaDB's first statements"))?;
        account.own(&file, 0o600)?;
        let mut install = account.command(&find("mariadb-install-db")?);
        install.args([
            "--no-defaults",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
        ]);
        install.arg(format!("--datadir={}", place.data().display()));
        install.arg(format!("--tmpdir={}", place.directory().display()));
        let made = install.output().map_err(Error::system("making MariaDB's tables"))?;
        if made.status.success() {
            return Ok(());
        }
        Err(Error::Start {
            program: self.name().to_owned(),
            reason: "its tables could not be made".to_owned(),
            log: String::from_utf8_lossy(&[made.stdout, made.stderr].concat()).into_owned(),
        })
    }
}

impl Program for Mariadb {
    fn name(&self) -> &'static str {
        "mariadbd"
    }

    fn command(&self, place: &Place) -> Result<Command> {
        let (program, account) = (find(self.name())?, Account::unprivileged()?);
        account.own(place.directory(), 0o700)?;
        account.own(&place.data(), 0o700)?;
        if !place.data().join("mysql").exists() {
            self.make(place, &account)?;
        }
        let mut command = account.command(&program);
        let file = |name: &str| place.directory().join(name).display().to_string();
        command.args(["--no-defaults", "--bind-address=127.0.0.1", "--skip-name-resolve"]);
        command.args([
            "--skip-log-bin",
            "--innodb-buffer-pool-size=16M",
            "--innodb-log-file-size=8M",
        ]);
        // Its changes outlive a kill of the process in the system's cache.
        command.args([
            "--innodb-flush-log-at-trx-commit=2",
            "--innodb-flush-method=fsync",
            "--skip-innodb-doublewrite",
        ]);
        command.args([
            format!("--port={}", place.address(0).port()),
            format!("--datadir={}", place.data().display()),
            format!("--tmpdir={}", place.directory().display()),
            format!("--init-file={}", init(place).display()),
            format!("--socket={}", file("socket")),
            format!("--pid-file={}", pid_file(place).display()),
        ]);
        Ok(command)
    }

    /// It writes its process id, and greets a client once it serves.
    fn is_ready(&self, place: &Place, pid: u32) -> Result<(), String> {
        let said = fs::read_to_string(pid_file(place)).map_err(|error| error.to_string())?;
        if said.trim() != pid.to_string() {
            return Err("another process runs on its data".to_owned());
        }
        greeted(place).map_err(|error| error.to_string())
    }
}

fn greeted(place: &Place) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(place.address(0))?;
    stream.set_read_timeout(Some(GREETING))?;
    stream.read_exact(&mut [0; 5])
}

fn init(place: &Place) -> PathBuf {
    place.directory().join("init.sql")
}

fn pid_file(place: &Place) -> PathBuf {
    Path::new(place.directory()).join("pid")
}
