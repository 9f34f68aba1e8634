//! Why no server lets a client in: the driver only says that none does.

use std::error::Error as StdError;
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use lockkit_core::{Applied, Error, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use crate::ZkConfig;

/// How long a step of a look may take.
const STEP: Duration = Duration::from_millis(400);
/// A server at its limit of connections closes the next one within this, unasked; another waits for a question.
const UNASKED: Duration = Duration::from_millis(100);
/// Thousands of connections take no more.
const LONGEST_ANSWER: u64 = 4 * 1024 * 1024;

/// What a look at one server shows.
#[derive(Debug)]
pub(crate) enum Sight {
    NoAddress(Option<io::Error>),
    NoConnection(Option<io::Error>),
    /// It ended the connection before it was asked.
    Turned,
    /// It does not understand a question without TLS.
    NotPlain,
    Silent,
    /// Its answer to `srvr`, a question without TLS.
    Plain(String),
    /// It answers, and has no majority.
    NotServing,
}

/// Why `error` came about, by a look at each server.
pub(crate) async fn explained(config: &ZkConfig, error: Error) -> Error {
    let addresses = config.addresses();
    let found = join_all(addresses.iter().map(|address| look(address))).await;
    let is_tls = config.tls.is_some();
    let mismatch = addresses.iter().zip(&found).find(|(_, found)| found.is_mismatch(is_tls));
    let all_fail = found.iter().all(|found| found.is_mismatch(is_tls) || found.is_away());
    if let Some((address, _)) = mismatch.filter(|_| all_fail) {
        let (what, remedy) = if is_tls {
            (
                format!("{address} speaks ZooKeeper without TLS, and was spoken to with TLS"),
                "name the servers' secureClientPort, or leave out ca, cert and key",
            )
        } else {
            (
                format!("{address} does not speak ZooKeeper without TLS"),
                "name the servers' clientPort, or give ca for TLS if this is their secureClientPort",
            )
        };
        return Error::rejected(what, remedy);
    }
    let told = addresses.iter().zip(&found).map(|(address, found)| match found {
        // As it should be.
        Sight::NotPlain if is_tls => format!("{address}: {}", Sight::Plain(String::new())),
        found => format!("{address}: {found}"),
    });
    let text = format!("no server lets this client in: {}", told.collect::<Vec<_>>().join("; "));
    let source = found.into_iter().find_map(Sight::source);
    let Error::Unavailable { .. } = error else { return error };
    Error::unavailable(Applied::No, NoServer { text, source })
}

pub(crate) async fn look(address: &str) -> Sight {
    let mut stream = match reach(address).await {
        Ok(stream) => stream,
        Err(sight) => return sight,
    };
    let mut answer = [0; 512];
    // A command that all servers answer, and that ends the connection.
    match ask(&mut stream, b"srvr", &mut answer).await {
        Some(0) => return Sight::NotPlain,
        Some(length) => return Sight::of(&answer[..length]),
        None => {}
    }
    // With less than a whole header, TLS waits on.
    match ask(&mut stream, b"\n\n\n\n", &mut answer).await {
        Some(_) => Sight::NotPlain,
        None => Sight::Silent,
    }
}

fn was_ended(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
}

/// How many bytes it answers, none where it ends the connection; `None`: it says nothing.
async fn ask(stream: &mut TcpStream, question: &[u8], answer: &mut [u8]) -> Option<usize> {
    let asked = async {
        stream.write_all(question).await?;
        stream.read(answer).await
    };
    timeout(STEP, asked).await.ok().map(io::Result::unwrap_or_default)
}

/// A connection that stays open, or what is seen of a server without one.
pub(crate) async fn reach(address: &str) -> std::result::Result<TcpStream, Sight> {
    let addresses: Vec<_> = match timeout(STEP, lookup_host(address)).await {
        Ok(Ok(found)) => found.collect(),
        Ok(Err(error)) => return Err(Sight::NoAddress(Some(error))),
        Err(_) => return Err(Sight::NoAddress(None)),
    };
    let mut stream = match timeout(STEP, TcpStream::connect(&*addresses)).await {
        Ok(Ok(stream)) => stream,
        // It took the connection, and ended it before we looked at its outcome.
        Ok(Err(error)) if was_ended(&error) => return Err(Sight::Turned),
        Ok(Err(error)) => return Err(Sight::NoConnection(Some(error))),
        Err(_) => return Err(Sight::NoConnection(None)),
    };
    let is_ended = timeout(UNASKED, stream.read(&mut [0; 512])).await.is_ok();
    if is_ended { Err(Sight::Turned) } else { Ok(stream) }
}

/// What a server answers to a longer question without TLS, and the address that it sees us at.
pub(crate) async fn asked(address: &str, question: &str) -> Option<(String, IpAddr)> {
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        let ours = stream.local_addr()?.ip();
        stream.write_all(question.as_bytes()).await?;
        let mut answer = String::new();
        stream.take(LONGEST_ANSWER).read_to_string(&mut answer).await?;
        Ok::<_, io::Error>((answer, ours))
    };
    timeout(STEP, asked).await.ok()?.ok()
}

impl Sight {
    fn of(answer: &[u8]) -> Self {
        let answer = String::from_utf8_lossy(answer);
        if answer.contains("not currently serving") {
            Self::NotServing
        } else if answer.starts_with("Zookeeper") || answer.starts_with("srvr is not executed") {
            Self::Plain(answer.into_owned())
        } else {
            Self::NotPlain
        }
    }

    /// Whether the two sides do not speak the same.
    const fn is_mismatch(&self, is_tls: bool) -> bool {
        match self {
            Self::NotPlain => !is_tls,
            Self::Plain(_) | Self::NotServing => is_tls,
            _ => false,
        }
    }

    /// Whether it tells nothing of what the server speaks.
    const fn is_away(&self) -> bool {
        matches!(self, Self::NoAddress(_) | Self::NoConnection(_) | Self::Silent)
    }

    fn source(self) -> Option<io::Error> {
        match self {
            Self::NoAddress(error) | Self::NoConnection(error) => error,
            _ => None,
        }
    }
}

impl fmt::Display for Sight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAddress(Some(error)) => write!(f, "no address for this host ({error})"),
            Self::NoAddress(None) => f.write_str("no address for this host in time"),
            Self::NoConnection(Some(error)) => write!(f, "no connection ({error})"),
            Self::NoConnection(None) => f.write_str("no connection in time"),
            Self::Turned => f.write_str(
                "it closes each new connection: maxClientCnxns, its limit for one client host, or \
                 maxCnxns may be reached, or the servers are electing a leader",
            ),
            Self::NotPlain => f.write_str("it does not speak ZooKeeper without TLS"),
            Self::Silent => f.write_str("it takes connections and does not answer"),
            Self::Plain(_) => f.write_str("it answers, and gave no session in time"),
            Self::NotServing => {
                f.write_str("it serves no client: a majority of the servers is missing")
            }
        }
    }
}

/// What a look at all servers shows.
#[derive(Debug)]
struct NoServer {
    text: String,
    source: Option<io::Error>,
}

impl fmt::Display for NoServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl StdError for NoServer {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|error| error as _)
    }
}

/// The servers that a call was for, as errors name them.
#[derive(Clone, Debug)]
pub(crate) struct Servers(Arc<str>);

/// What went wrong, and where.
#[derive(Debug)]
struct At {
    servers: Servers,
    cause: lockkit_core::Cause,
}

impl Servers {
    pub(crate) fn of(config: &ZkConfig) -> Self {
        Self(config.addresses().join(",").into())
    }

    /// This outcome, whose error names the servers.
    pub(crate) fn name<T>(&self, outcome: Result<T>) -> Result<T> {
        outcome.map_err(|error| match error {
            Error::Unavailable { applied, cause, .. } if !self.are_named(&cause.to_string()) => {
                Error::unavailable(applied, At { servers: self.clone(), cause })
            }
            error => error,
        })
    }

    fn are_named(&self, text: &str) -> bool {
        self.0.split(',').all(|server| text.contains(server))
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ZooKeeper at {}: {}", self.servers.0, self.cause)
    }
}

impl StdError for At {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.cause)
    }
}
