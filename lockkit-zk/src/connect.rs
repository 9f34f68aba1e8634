//! Connecting: a new session, at whichever server answers first.

use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use lockkit_core::{Applied, Error, Result};
use zookeeper_client::Client;

use crate::ZkConfig;
use crate::error::to_error;
use crate::pace::Pace;

/// After so long without an answer another try is made beside the first.
const HEDGE: Duration = Duration::from_millis(250);
/// How many tries there are where there are several servers. Each takes them in an order that the
/// driver draws, so all but one in thousands meet one that answers among three with a silent one.
const TRIES: usize = 8;

/// A client with a session of its own, at whichever server answers first.
pub(crate) async fn connect(config: &ZkConfig, timeout: Duration) -> Result<Client> {
    let mut tries = FuturesUnordered::new();
    let mut left = if config.servers.len() > 1 { TRIES } else { 2 };
    loop {
        if left > 0 {
            left -= 1;
            tries.push(connect_once(config, &config.addresses().join(","), timeout)?);
        }
        tokio::select! {
            Some(tried) = tries.next() => match tried {
                Ok(client) => return Ok(client),
                Err(error) => {
                    // Each server was tried.
                    return Err(to_error(&error).with_applied(Applied::No));
                }
            },
            () = tokio::time::sleep(HEDGE), if left > 0 => {}
        }
    }
}

/// One try at each of these servers, in an order of the driver's own.
pub(crate) fn connect_once(
    config: &ZkConfig,
    servers: &str,
    timeout: Duration,
) -> Result<impl Future<Output = std::result::Result<Client, zookeeper_client::Error>> + use<>> {
    let mut connector = Client::connector()
        .with_session_timeout(timeout)
        .with_connection_timeout(Pace::lasting(timeout, config.tick).silence())
        .with_fail_eagerly();
    for (scheme, secret) in &config.logins {
        connector = connector.with_auth(scheme, secret);
    }
    let servers = servers.to_owned();
    #[cfg(feature = "tls")]
    if let Some(tls) = &config.tls {
        connector = connector.with_tls(crate::tls::options(tls)?);
    }
    let is_secure = config.tls.is_some();
    Ok(async move {
        #[cfg(feature = "tls")]
        if is_secure {
            return connector.secure_connect(&servers).await;
        }
        let _ = is_secure;
        connector.connect(&servers).await
    })
}

/// The driver hides why no server let it in: a look at them tells.
#[cfg(feature = "tls")]
pub(crate) async fn explained(config: &ZkConfig, error: Error) -> Error {
    match &config.tls {
        Some(tls) if error.is_retryable() => {
            crate::tls::refusal(config, tls).await.unwrap_or(error)
        }
        _ => error,
    }
}

#[cfg(not(feature = "tls"))]
pub(crate) async fn explained(_: &ZkConfig, error: Error) -> Error {
    error
}
