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

/// What connects all clients of one provider, each with the certificates that are on the disk by then.
#[derive(Debug)]
pub(crate) struct Connector {
    pub(crate) config: ZkConfig,
    #[cfg(feature = "tls")]
    certificates: crate::tls::LastRead,
}

impl Connector {
    pub(crate) fn new(config: ZkConfig) -> Self {
        Self {
            config,
            #[cfg(feature = "tls")]
            certificates: Default::default(),
        }
    }

    /// A client with a session of its own, at whichever server answers first.
    pub(crate) async fn connect(&self, timeout: Duration) -> Result<Client> {
        let mut tries = FuturesUnordered::new();
        let mut left = if self.config.servers.len() > 1 { TRIES } else { 2 };
        loop {
            if left > 0 {
                left -= 1;
                tries.push(self.connect_once(&self.config.addresses().join(","), timeout)?);
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
        &self,
        servers: &str,
        timeout: Duration,
    ) -> Result<impl Future<Output = std::result::Result<Client, zookeeper_client::Error>> + use<>>
    {
        let mut connector = Client::connector()
            .with_session_timeout(timeout)
            .with_connection_timeout(Pace::lasting(timeout, self.config.tick).silence())
            .with_fail_eagerly();
        for (scheme, secret) in &self.config.logins {
            connector = connector.with_auth(scheme, secret);
        }
        let scheme = if self.config.tls.is_some() { "tcp+tls://" } else { "tcp://" };
        let servers = format!("{scheme}{}", servers.replace(',', &format!(",{scheme}")));
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.config.tls {
            connector = connector.with_tls(self.certificates.read(tls)?);
        }
        Ok(async move { connector.connect(&servers).await })
    }

    /// Has the clients that there are take the certificates that are on the disk now, where they connect
    /// again. Where those are no good, for they are being replaced, the last ones stay.
    pub(crate) fn read_certificates(&self) {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.config.tls {
            self.certificates.read(tls).ok();
        }
    }

    /// The driver hides why no server let it in: a look at them tells.
    pub(crate) async fn explained(&self, error: Error) -> Error {
        if !error.is_retryable() {
            return error;
        }
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.config.tls
            && let Err(mistrust) = crate::tls::check_trust(&self.config, tls).await
        {
            return mistrust;
        }
        crate::why::explained(&self.config, error).await
    }
}
