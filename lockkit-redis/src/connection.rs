//! The connection for commands: made when needed, replaced when it is stuck or gone.

use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lockkit_core::{Applied, Clock, Error, Result};
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo,
    RedisConnectionInfo, Value,
};

use crate::config::{RedisConfig, Server};
use crate::error::{after, is_gone, to_error};
use crate::protocol::Script;

/// The longest that anything here waits for the server.
pub(crate) const LIMIT: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct Commands {
    client: Client,
    /// Counted, so that only the connection that failed is given up, and not its successor.
    live: Mutex<(u64, Option<MultiplexedConnection>)>,
    connecting: tokio::sync::Mutex<()>,
}

/// A script's answer.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) value: Value,
    /// Whether it was sent twice, so that the first sending may still arrive.
    pub(crate) replayed: bool,
}

impl Commands {
    pub(crate) fn new(config: &RedisConfig) -> Result<Self> {
        let client = client(config).map_err(|error| {
            Error::invalid(error.to_string(), "correct the address or the certificates")
        })?;
        Ok(Self { client, live: Mutex::new((0, None)), connecting: tokio::sync::Mutex::new(()) })
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
    ) -> Result<Answered> {
        let call = async {
            let mut replayed = false;
            loop {
                let (number, mut connection) =
                    self.connection().await.map_err(|error| after(replayed, error))?;
                let outcome = script.run(&mut connection, lock, args).await;
                match outcome {
                    Ok(value) => return Ok(Answered { value, replayed }),
                    Err(error) if is_gone(&error) && !replayed => {
                        self.give_up(number);
                        replayed = true;
                    }
                    Err(error) => {
                        if is_gone(&error) {
                            self.give_up(number);
                        }
                        return Err(after(replayed, to_error(&error)));
                    }
                }
            }
        };
        self.limited(clock, limit, call).await
    }

    /// Runs a command within `limit`.
    pub(crate) async fn command<T: redis::FromRedisValue>(
        &self,
        clock: &Clock,
        limit: Duration,
        command: &redis::Cmd,
    ) -> Result<T> {
        let call = async {
            let (number, mut connection) = self.connection().await?;
            command.query_async(&mut connection).await.map_err(|error| {
                if is_gone(&error) {
                    self.give_up(number);
                }
                to_error(&error)
            })
        };
        self.limited(clock, limit, call).await
    }

    /// Loads scripts ahead of their first use, so that it takes one round trip too.
    pub(crate) async fn load(&self, clock: &Clock, scripts: &[&Script]) -> Result<()> {
        let load = async {
            let (_, mut connection) = self.connection().await?;
            for script in scripts {
                script.load(&mut connection).await.map_err(|error| to_error(&error))?;
            }
            Ok(())
        };
        self.limited(clock, LIMIT, load).await
    }

    /// Lets the connection go; calls under way on it still get their answers.
    pub(crate) fn close(&self) {
        self.live().1 = None;
    }

    async fn limited<T>(
        &self,
        clock: &Clock,
        limit: Duration,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let number = self.live().0;
        tokio::select! {
            biased;
            outcome = call => outcome,
            () = clock.sleep(limit) => {
                // Stuck or slow: the next call gets a connection of its own.
                self.give_up(number);
                let silence = format!("Redis gave no answer within {limit:?}");
                Err(Error::unavailable(Applied::Maybe, silence))
            }
        }
    }

    async fn connection(&self) -> Result<(u64, MultiplexedConnection)> {
        if let Some(live) = self.current() {
            return Ok(live);
        }
        let _one_at_a_time = self.connecting.lock().await;
        if let Some(live) = self.current() {
            return Ok(live);
        }
        let settings = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(LIMIT))
            .set_response_timeout(Some(LIMIT));
        let made = self.client.get_multiplexed_async_connection_with_config(&settings).await;
        // Nothing of the request has left before there is a connection.
        let made = made.map_err(|error| match to_error(&error) {
            Error::Unavailable { cause, .. } => Error::unavailable(Applied::No, cause),
            other => other,
        })?;
        let mut live = self.live();
        live.0 += 1;
        live.1 = Some(made.clone());
        Ok((live.0, made))
    }

    fn current(&self) -> Option<(u64, MultiplexedConnection)> {
        let live = self.live();
        live.1.clone().map(|connection| (live.0, connection))
    }

    fn give_up(&self, number: u64) {
        let mut live = self.live();
        if live.0 == number {
            live.1 = None;
        }
    }

    fn live(&self) -> MutexGuard<'_, (u64, Option<MultiplexedConnection>)> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
