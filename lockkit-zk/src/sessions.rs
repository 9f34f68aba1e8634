//! The sessions of a provider: one for each ttl that is in use.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use lockkit_core::{Applied, Clock, Error, Result, TtlRange};
use zookeeper_client::Client;

use crate::ZkConfig;
use crate::error::{limited, to_error};
use crate::pace::Pace;
use crate::session::{LIMIT, Session};

/// More than any server grants: what it grants instead is its maximum.
const MOST: Duration = Duration::from_secs(24 * 3600);
/// After so long without an answer another try is made beside the first.
const HEDGE: Duration = Duration::from_millis(250);
/// How many tries there are where there are several servers. Each takes them in an order that the
/// driver draws, so all but one in thousands meet one that answers among three with a silent one.
const TRIES: usize = 8;

#[derive(Debug)]
pub(crate) struct Sessions {
    config: ZkConfig,
    clock: Clock,
    pub(crate) range: TtlRange,
    classes: Mutex<HashMap<Duration, Arc<Class>>>,
    closed: AtomicBool,
}

/// The session for one ttl, made when it is needed and replaced when it has ended.
#[derive(Debug, Default)]
struct Class {
    live: Mutex<Option<Arc<Session>>>,
    connecting: tokio::sync::Mutex<()>,
}

impl Class {
    fn current(&self) -> Option<Arc<Session>> {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.clone().filter(|session| !session.is_over())
    }
}

impl Sessions {
    /// Connects once, to learn which timeouts the servers grant and whether they let us in.
    pub(crate) async fn connect(config: ZkConfig) -> Result<Self> {
        let clock = Clock::system();
        let asked = clock.now();
        let connected = limited(&clock, LIMIT, connect(&config, MOST)).await;
        let client = match connected {
            Ok(client) => client,
            Err(error) => return Err(explained(&config, error).await),
        };
        let tick = config.tick;
        let most = client.session_timeout();
        let looked = async {
            match client.list_children(&config.base).await {
                Ok(_) | Err(zookeeper_client::Error::NoNode) => Ok(()),
                Err(error) => Err(to_error(&error)),
            }
        };
        limited(&clock, LIMIT, looked).await?;
        let ticks = u32::try_from(Pace::lasting(most, tick).ttl().as_nanos() / tick.as_nanos());
        let max = tick.saturating_mul(ticks.unwrap_or(u32::MAX)).min(TtlRange::ANY.max);
        if max.is_zero() {
            return Err(Error::invalid(
                format!("a tick of {tick:?} where servers grant sessions of at most {most:?}"),
                "give the servers' own tickTime",
            ));
        }
        let range = TtlRange { min: tick, max, granularity: tick };
        // The longest session there is serves operators and the longest ttl.
        let session = Session::new(client, clock.clone(), asked, tick);
        let class = Class { live: Mutex::new(Some(session)), ..Class::default() };
        let classes = Mutex::new(HashMap::from([(max, Arc::new(class))]));
        Ok(Self { config, clock, range, classes, closed: AtomicBool::new(false) })
    }

    /// The session that gives this ttl.
    pub(crate) async fn at(&self, ttl: Duration) -> Result<Arc<Session>> {
        let class = Arc::clone(self.classes().entry(ttl).or_default());
        if let Some(session) = class.current() {
            return Ok(session);
        }
        let _one_at_a_time = class.connecting.lock().await;
        if let Some(session) = class.current() {
            return Ok(session);
        }
        let asked = self.clock.now();
        let timeout = Pace::of(ttl, self.config.tick).timeout;
        let client = connect(&self.config, timeout).await?;
        let session = Session::new(client, self.clock.clone(), asked, self.config.tick);
        // Held while it is looked at, so that `close` misses none.
        let mut live = class.live.lock().unwrap_or_else(PoisonError::into_inner);
        if self.closed.load(Ordering::SeqCst) {
            return Err(Error::Closed);
        }
        *live = Some(Arc::clone(&session));
        Ok(session)
    }

    /// Any session, for reading.
    pub(crate) async fn any(&self) -> Result<Arc<Session>> {
        let live = self.classes().values().find_map(|class| class.current());
        match live {
            Some(session) => Ok(session),
            None => self.at(self.range.max).await,
        }
    }

    /// Ends all sessions.
    pub(crate) async fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        let classes: Vec<_> = self.classes().drain().map(|(_, class)| class).collect();
        let take =
            |class: Arc<Class>| class.live.lock().unwrap_or_else(PoisonError::into_inner).take();
        let sessions: Vec<_> = classes.into_iter().filter_map(take).collect();
        futures_util::future::join_all(sessions.iter().map(|session| session.close())).await;
    }

    fn classes(&self) -> MutexGuard<'_, HashMap<Duration, Arc<Class>>> {
        self.classes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client with a session of its own, at whichever server answers first.
async fn connect(config: &ZkConfig, timeout: Duration) -> Result<Client> {
    let mut tries = FuturesUnordered::new();
    let mut left = if config.servers.len() > 1 { TRIES } else { 2 };
    loop {
        if left > 0 {
            left -= 1;
            tries.push(connect_once(config, timeout)?);
        }
        tokio::select! {
            Some(tried) = tries.next() => match tried {
                Ok(client) => return Ok(client),
                Err(error) => {
                    // Each server was tried.
                    return Err(match to_error(&error) {
                        Error::Unavailable { cause, .. } => Error::unavailable(Applied::No, cause),
                        error => error,
                    });
                }
            },
            () = tokio::time::sleep(HEDGE), if left > 0 => {}
        }
    }
}

/// One try at each server, in an order of the driver's own.
fn connect_once(
    config: &ZkConfig,
    timeout: Duration,
) -> Result<impl Future<Output = std::result::Result<Client, zookeeper_client::Error>> + use<>> {
    let mut connector = Client::connector()
        .with_session_timeout(timeout)
        .with_connection_timeout(Pace::lasting(timeout, config.tick).silence())
        .with_fail_eagerly();
    for (scheme, secret) in &config.logins {
        connector = connector.with_auth(scheme, secret);
    }
    let servers = config.addresses().join(",");
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
async fn explained(config: &ZkConfig, error: Error) -> Error {
    match &config.tls {
        Some(tls) if error.is_retryable() => {
            crate::tls::refusal(config, tls).await.unwrap_or(error)
        }
        _ => error,
    }
}

#[cfg(not(feature = "tls"))]
async fn explained(_: &ZkConfig, error: Error) -> Error {
    error
}
