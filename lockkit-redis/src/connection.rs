//! The connection for commands: made when needed, replaced when it is stuck or gone.

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
use crate::error::{is_gone, to_error};
use crate::protocol::Script;

#[derive(Debug)]
pub(crate) struct Commands {
    config: RedisConfig,
    connection: Connection<MultiplexedConnection>,
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
        let connects = config.clone();
        let connection = Connection::new(move || Box::pin(connect(client_again(&connects))));
        Ok(Self { config, connection })
    }

    pub(crate) const fn config(&self) -> &RedisConfig {
        &self.config
    }

    /// Runs a script within `limit`. Every script is a replay of itself, so if its connection is
    /// found dead it is sent once more over a new one.
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
                let Live { mut connection, generation } = self.connection.get().await?;
                sent = Some(generation);
                let outcome = script.run(&mut connection, lock, args).await;
                let may_replay = !is_replay && outcome.as_ref().is_err_and(is_gone);
                let outcome = self.checked(generation, outcome);
                if !may_replay {
                    return outcome;
                }
                is_replay = true;
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
        outcome.map_err(|error| {
            if is_gone(&error) {
                self.connection.give_up(generation);
            }
            to_error(&error)
        })
    }

    /// What it means that a call took too long, which was sent over this connection, if any.
    fn silent(&self, sent: Option<u64>, limit: Duration) -> Error {
        let applied = sent.map_or(Applied::No, |generation| {
            // Stuck or slow: the next call gets a connection of its own.
            self.connection.give_up(generation);
            Applied::Maybe
        });
        Error::unavailable(applied, format!("Redis gave no answer within {limit:?}"))
    }
}

async fn connect(client: Result<Client>) -> Result<MultiplexedConnection> {
    let settings = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(LONGEST_CALL))
        .set_response_timeout(Some(LONGEST_CALL));
    let made = client?.get_multiplexed_async_connection_with_config(&settings).await;
    made.map_err(|error| to_error(&error))
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
