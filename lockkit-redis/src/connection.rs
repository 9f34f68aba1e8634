//! The connection for commands: made when needed, replaced when it is stuck or gone.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lockkit_core::{Applied, Clock, Error, Instant, Result};
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo,
    RedisConnectionInfo, RedisError, Value,
};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::config::{RedisConfig, Server};
use crate::error::{after, is_gone, to_error};
use crate::protocol::Script;

/// The longest that anything here waits for the server.
pub(crate) const LIMIT: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct Commands {
    client: Client,
    live: Arc<Mutex<Live>>,
}

/// The connection, or the making of one.
#[derive(Debug, Default)]
struct Live {
    /// Of the latest one, so that only what failed is given up, and not its successor.
    number: u64,
    connection: Option<MultiplexedConnection>,
    making: Option<Making>,
}

/// A connection that a task of its own makes: calls wait for it, and one that ends sooner leaves
/// it to those that follow.
#[derive(Debug)]
struct Making {
    since: Instant,
    made: watch::Receiver<Option<Made>>,
}

/// A connection and its number, or why there is none.
type Made = Result<(u64, MultiplexedConnection)>;

/// What became of a script.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) value: Result<Value>,
    /// Whether a sending of it was never answered, and may still arrive.
    pub(crate) may_arrive: bool,
}

impl Commands {
    pub(crate) fn new(config: &RedisConfig) -> Result<Self> {
        let client = client(config).map_err(|error| {
            Error::invalid(error.to_string(), "correct the address or the certificates")
        })?;
        Ok(Self { client, live: Arc::default() })
    }

    pub(crate) const fn client(&self) -> &Client {
        &self.client
    }

    /// Runs a script within `limit`. Every script is a replay of itself, so one whose connection
    /// is found dead is sent once more over a new one.
    pub(crate) async fn script(
        &self,
        clock: &Clock,
        limit: Duration,
        script: &Script,
        lock: &[String; 5],
        args: &[&str],
    ) -> Answered {
        let (mut sent, mut is_replay) = (None, false);
        let call = async {
            loop {
                let (number, mut connection) = self.connection().await?;
                sent = Some(number);
                let outcome = script.run(&mut connection, lock, args).await;
                let Err(error) = outcome else { return outcome.map_err(|error| to_error(&error)) };
                let failed = self.failed(number, &error);
                if is_replay || !is_gone(&error) {
                    return Err(failed);
                }
                is_replay = true;
            }
        };
        let outcome = limited(clock, limit, call).await;
        let value = outcome.unwrap_or_else(|| Err(self.silent(sent, limit)));
        // Whatever became of the second sending, the first may have arrived.
        let value = value.map_err(|error| after(is_replay, error));
        let is_unclear = matches!(&value, Err(Error::Unavailable { applied: Applied::Maybe, .. }));
        Answered { value, may_arrive: is_replay || is_unclear }
    }

    /// Runs a command within `limit`.
    pub(crate) async fn command<T: redis::FromRedisValue>(
        &self,
        clock: &Clock,
        limit: Duration,
        command: &redis::Cmd,
    ) -> Result<T> {
        let mut sent = None;
        let call = async {
            let (number, mut connection) = self.connection().await?;
            sent = Some(number);
            let outcome = command.query_async(&mut connection).await;
            outcome.map_err(|error| self.failed(number, &error))
        };
        let outcome = limited(clock, limit, call).await;
        outcome.unwrap_or_else(|| Err(self.silent(sent, limit)))
    }

    /// Loads scripts ahead of their first use, so that it takes one round trip too.
    pub(crate) async fn load(&self, clock: &Clock, scripts: &[&Script]) -> Result<()> {
        let mut sent = None;
        let load = async {
            let (number, mut connection) = self.connection().await?;
            sent = Some(number);
            for script in scripts {
                script.load(&mut connection).await.map_err(|error| self.failed(number, &error))?;
            }
            Ok(())
        };
        let outcome = limited(clock, LIMIT, load).await;
        outcome.unwrap_or_else(|| Err(self.silent(sent, LIMIT)))
    }

    /// Lets the connection go; calls under way on it still get their answers.
    pub(crate) fn close(&self) {
        let mut live = lock(&self.live);
        (live.connection, live.making) = (None, None);
    }

    async fn connection(&self) -> Made {
        loop {
            let (mut made, is_ours) = {
                let mut live = lock(&self.live);
                if let Some(connection) = &live.connection {
                    return Ok((live.number, connection.clone()));
                }
                match live.making.as_ref().filter(|making| making.goes_on()) {
                    Some(making) => (making.made.clone(), false),
                    None => (self.make(&mut live)?, true),
                }
            };
            let made = made.wait_for(Option::is_some).await.map(|made| made.clone());
            match made {
                Ok(Some(made)) => return made,
                // The runtime of its task has ended.
                _ if is_ours => return Err(Error::NoRuntime),
                _ => {}
            }
        }
    }

    /// Begins to make a connection, in the current runtime.
    fn make(&self, live: &mut Live) -> Result<watch::Receiver<Option<Made>>> {
        let runtime = Handle::try_current().map_err(|_| Error::NoRuntime)?;
        live.number += 1;
        let (number, client) = (live.number, self.client.clone());
        let place = Arc::downgrade(&self.live);
        let (made, receiver) = watch::channel(None);
        #[allow(clippy::disallowed_methods)] // it waits for the server: no lock lives in it
        runtime.spawn(async move {
            let outcome = connect(&client).await.map(|connection| (number, connection));
            if let Some(place) = place.upgrade() {
                lock(&place).made(number, &outcome);
            }
            made.send_replace(Some(outcome));
        });
        let since = Clock::system().now();
        live.making = Some(Making { since, made: receiver.clone() });
        Ok(receiver)
    }

    /// What an error over this connection means; one that is of no more use is given up.
    fn failed(&self, number: u64, error: &RedisError) -> Error {
        if is_gone(error) {
            self.give_up(number);
        }
        to_error(error)
    }

    /// What it means that a call took too long, which was sent over this connection, if any.
    fn silent(&self, sent: Option<u64>, limit: Duration) -> Error {
        let applied = sent.map_or(Applied::No, |number| {
            // Stuck or slow: the next call gets a connection of its own.
            self.give_up(number);
            Applied::Maybe
        });
        Error::unavailable(applied, format!("Redis gave no answer within {limit:?}"))
    }

    fn give_up(&self, number: u64) {
        let mut live = lock(&self.live);
        if live.number == number {
            live.connection = None;
        }
    }
}

impl Live {
    /// Takes what came of the making with this number, unless another followed it.
    fn made(&mut self, number: u64, outcome: &Made) {
        if self.number == number && self.making.take().is_some() {
            self.connection = outcome.as_ref().ok().map(|(_, connection)| connection.clone());
        }
    }
}

impl Making {
    /// Whether it is worth waiting for: a runtime may have ended, or stand still for ever.
    fn goes_on(&self) -> bool {
        let age = Clock::system().now().saturating_since(self.since);
        age <= LIMIT && self.made.has_changed().is_ok()
    }
}

/// What the call gives within `limit`.
async fn limited<T>(clock: &Clock, limit: Duration, call: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        outcome = call => Some(outcome),
        () = clock.sleep(limit) => None,
    }
}

async fn connect(client: &Client) -> Result<MultiplexedConnection> {
    let settings = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(LIMIT))
        .set_response_timeout(Some(LIMIT));
    let made = client.get_multiplexed_async_connection_with_config(&settings).await;
    // Nothing of a request has left before there is a connection.
    made.map_err(|error| match to_error(&error) {
        Error::Unavailable { cause, .. } => Error::unavailable(Applied::No, cause),
        other => other,
    })
}

fn lock(live: &Mutex<Live>) -> MutexGuard<'_, Live> {
    live.lock().unwrap_or_else(PoisonError::into_inner)
}

fn client(config: &RedisConfig) -> redis::RedisResult<Client> {
    let address = match &config.server {
        Server::Unix(path) => ConnectionAddr::Unix(path.clone()),
        Server::Tcp(host, port) if config.tls.is_none() => ConnectionAddr::Tcp(host.clone(), *port),
        Server::Tcp(host, port) => ConnectionAddr::TcpTls {
            host: host.clone(),
            port: *port,
            insecure: false,
            tls_params: None,
        },
    };
    let mut login = RedisConnectionInfo::default()
        .set_db(config.database)
        .set_lib_name("lockkit", env!("CARGO_PKG_VERSION"));
    if let Some(username) = &config.username {
        login = login.set_username(username);
    }
    if let Some(password) = &config.password {
        login = login.set_password(password);
    }
    // Off by default in the client: it doubles the time of a round trip.
    let tcp = TcpSettings::default().set_nodelay(true);
    let info: ConnectionInfo = address.into_connection_info()?;
    let info = info.set_redis_settings(login).set_tcp_settings(tcp);
    match &config.tls {
        None => Client::open(info),
        Some(tls) => with_tls(info, tls),
    }
}

#[cfg(feature = "tls")]
fn with_tls(info: ConnectionInfo, tls: &crate::RedisTls) -> redis::RedisResult<Client> {
    // Without a process-wide provider the client panics as soon as another crate enables a second
    // one; whoever installed one first is respected.
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    let client_tls = tls
        .client
        .clone()
        .map(|(client_cert, client_key)| redis::ClientTlsConfig { client_cert, client_key });
    let root_cert = tls.authority.clone();
    Client::build_with_tls(info, redis::TlsCertificates { client_tls, root_cert })
}

#[cfg(not(feature = "tls"))]
fn with_tls(info: ConnectionInfo, _: &crate::RedisTls) -> redis::RedisResult<Client> {
    Client::open(info)
}
