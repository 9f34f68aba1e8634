//! The connection for commands: made when needed, replaced when it is stuck or gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lockkit_core::kit::{Connection, LONGEST_CALL, Live, within};
use lockkit_core::{Applied, Clock, Error, Result};
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo,
    RedisResult, Value,
};

use crate::config::{RedisConfig, Server};
use crate::error::{is_gone, is_replica, to_error, unless_expired};
use crate::role::Role;
use crate::scripts::Script;

/// So many calls may wait to be sent; each more waits for room first.
const CALLS: usize = 1_024;

#[derive(Debug)]
pub(crate) struct Commands {
    config: RedisConfig,
    connection: Connection<MultiplexedConnection>,
    role: Arc<Role>,
}

/// What became of a script.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) value: Result<Value>,
    /// Whether a sending of it was never answered, and may still arrive.
    pub(crate) may_arrive: bool,
}

impl Commands {
    pub(crate) fn new(config: RedisConfig) -> Result<Self> {
        client(&config)?;
        let role = Arc::<Role>::default();
        let (connects, seen) = (config.clone(), Arc::clone(&role));
        let connected = Arc::new(AtomicBool::new(false));
        let connection = Connection::new(move || {
            let (config, seen) = (connects.clone(), Arc::clone(&seen));
            let connected = Arc::clone(&connected);
            Box::pin(async move {
                seen.pause().await;
                let made = connect(&config).await;
                match made {
                    Err(error) if connected.load(Ordering::SeqCst) => Err(unless_expired(error)),
                    made => {
                        connected.fetch_or(made.is_ok(), Ordering::SeqCst);
                        if made.is_ok() {
                            seen.is_made();
                        }
                        made
                    }
                }
            })
        });
        Ok(Self { config, connection, role })
    }

    pub(crate) const fn config(&self) -> &RedisConfig {
        &self.config
    }

    pub(crate) const fn role(&self) -> &Arc<Role> {
        &self.role
    }

    /// Runs a script within `limit`. Every script is a replay of itself, so if its connection is
    /// found dead, or leads to a replica, it is sent once more over a new one.
    pub(crate) async fn script(
        &self,
        clock: &Clock,
        limit: Duration,
        script: &Script,
        locks: &[&str],
        args: &[&str],
    ) -> Answered {
        let (mut sent, mut is_replay, mut is_second) = (None, false, false);
        let call = async {
            loop {
                let Live { mut connection, generation } = self.connection.get().await?;
                sent = Some(generation);
                let outcome = script.run(&mut connection, locks, args).await;
                let is_dead = outcome.as_ref().is_err_and(is_gone);
                let is_refused = outcome.as_ref().is_err_and(is_replica);
                let outcome = self.checked(generation, outcome);
                if is_second || !(is_dead || is_refused) {
                    return outcome;
                }
                // A replica's refusal is an answer: nothing was written.
                (is_second, is_replay) = (true, is_dead);
                sent = None;
            }
        };
        let outcome = within(clock, limit, call).await;
        let value = outcome.unwrap_or_else(|| Err(self.silent(sent, limit)));
        let may_arrive = is_replay || value.as_ref().is_err_and(Error::is_ambiguous);
        // Whatever became of the second sending, the first may have arrived.
        let replayed = |error: Error| error.with_applied(Applied::Maybe);
        Answered { value: if is_replay { value.map_err(replayed) } else { value }, may_arrive }
    }

    /// Runs a command within `limit`.
    pub(crate) async fn command<T: redis::FromRedisValue>(
        &self,
        clock: &Clock,
        limit: Duration,
        command: &redis::Cmd,
    ) -> Result<T> {
        let run = async |mut connection| command.query_async(&mut connection).await;
        self.call(clock, limit, run).await
    }

    /// Which of these keys exist, in one round trip.
    pub(crate) async fn exist<'a>(
        &self,
        clock: &Clock,
        limit: Duration,
        keys: impl Iterator<Item = &'a str>,
    ) -> Result<Vec<bool>> {
        let mut pipe = redis::pipe();
        for key in keys {
            pipe.exists(key);
        }
        if pipe.is_empty() {
            return Ok(Vec::new());
        }
        let run = async |mut connection| pipe.query_async(&mut connection).await;
        self.call(clock, limit, run).await
    }

    /// Loads scripts ahead of their first use, so that it takes one round trip too.
    pub(crate) async fn load(&self, clock: &Clock, scripts: &[&Script]) -> Result<()> {
        let load = async |mut connection| {
            for script in scripts {
                script.load(&mut connection).await?;
            }
            Ok(())
        };
        self.call(clock, LONGEST_CALL, load).await
    }

    /// Lets the connection go; calls under way on it still get their answers.
    pub(crate) fn close(&self) {
        self.connection.close();
    }

    async fn call<T>(
        &self,
        clock: &Clock,
        limit: Duration,
        run: impl AsyncFnOnce(MultiplexedConnection) -> RedisResult<T>,
    ) -> Result<T> {
        let mut sent = None;
        let call = async {
            let Live { connection, generation } = self.connection.get().await?;
            sent = Some(generation);
            self.checked(generation, run(connection).await)
        };
        let outcome = within(clock, limit, call).await;
        outcome.unwrap_or_else(|| Err(self.silent(sent, limit)))
    }

    /// What the driver's outcome means; a connection that is of no more use is given up.
    fn checked<T>(&self, generation: u64, outcome: RedisResult<T>) -> Result<T> {
        match outcome {
            Ok(value) => {
                self.role.is_primary();
                Ok(value)
            }
            Err(error) => {
                if is_replica(&error) {
                    self.role.is_replica(generation);
                    self.connection.give_up(generation);
                } else if is_gone(&error) {
                    self.connection.give_up(generation);
                }
                Err(to_error(&error))
            }
        }
    }

    /// What it means that a call took too long, which was sent over this connection, if any.
    fn silent(&self, sent: Option<u64>, limit: Duration) -> Error {
        let applied = sent.map_or(Applied::No, |generation| {
            // Stuck or slow: the next call gets a connection of its own.
            self.connection.give_up(generation);
            self.role.is_silent();
            Applied::Maybe
        });
        Error::unavailable(applied, format!("Redis gave no answer within {limit:?}"))
    }
}

async fn connect(config: &RedisConfig) -> Result<MultiplexedConnection> {
    let settings = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(LONGEST_CALL))
        // Each call has a limit of its own.
        .set_response_timeout(None)
        .set_pipeline_buffer_size(CALLS);
    let client = client_again(config)?;
    let made = client.get_multiplexed_async_connection_with_config(&settings).await;
    let mut connection = made.map_err(|error| to_error(&error))?;
    if config.password.is_none() {
        // A server that wants a password by now says so to a short command. To a script it says that its
        // words are too many, and closes the connection.
        let ping = redis::cmd("PING");
        let ping = ping.query_async::<Value>(&mut connection);
        let said = tokio::time::timeout(LONGEST_CALL, ping).await;
        let silent = |_| Err(Error::unavailable(Applied::No, "Redis answers no PING"));
        said.map_or_else(silent, |said| said.map_err(|error| to_error(&error)))?;
    }
    Ok(connection)
}

/// The driver's client for one connection, with the certificates that are on the disk now. It was good
/// once: if it is not now, they are being replaced, and the next one may be.
pub(crate) fn client_again(config: &RedisConfig) -> Result<Client> {
    client(config).map_err(|error| Error::unavailable(Applied::No, error))
}

fn client(config: &RedisConfig) -> Result<Client> {
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
    let info = address.into_connection_info().map_err(|error| to_error(&error))?;
    let info = info.set_redis_settings(login).set_tcp_settings(tcp);
    #[cfg(feature = "tls")]
    if let Some(tls) = &config.tls {
        return with_tls(info, tls);
    }
    Client::open(info).map_err(|error| to_error(&error))
}

#[cfg(feature = "tls")]
fn with_tls(info: redis::ConnectionInfo, tls: &crate::RedisTls) -> Result<Client> {
    // Without a process-wide provider the client panics as soon as another crate enables a second
    // one; a provider that is installed already is respected.
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    let (root_cert, client) = tls.read()?;
    let client_tls =
        client.map(|(client_cert, client_key)| redis::ClientTlsConfig { client_cert, client_key });
    let certificates = redis::TlsCertificates { client_tls, root_cert };
    Client::build_with_tls(info, certificates).map_err(|error| tls.unusable(error))
}
