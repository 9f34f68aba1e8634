//! The sessions of a provider: one or more for each ttl that is in use.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lockkit_core::kit::{LONGEST_CALL, check};
use lockkit_core::{Applied, Clock, Error, Result, TtlRange};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::ZkConfig;
use crate::connect::Connector;
use crate::error::limited;
use crate::limits::{Limits, MOST};
use crate::pace::Pace;
use crate::parents;
use crate::session::{Link, Session};
use crate::tokens;
use crate::usage::InUse;
use crate::why;

#[derive(Debug)]
pub(crate) struct Sessions {
    pub(crate) connector: Arc<Connector>,
    clock: Clock,
    pub(crate) limits: Arc<Limits>,
    pub(crate) range: TtlRange,
    classes: Mutex<HashMap<Duration, Arc<Class>>>,
    closed: AtomicBool,
}

/// The sessions for one ttl: as many as there must be, made when they are needed.
#[derive(Debug, Default)]
struct Class {
    live: Mutex<Vec<Arc<Session>>>,
    /// How the making of a further one ends, while there is one.
    connecting: Mutex<Option<watch::Receiver<Result<()>>>>,
}

impl Class {
    /// One that has room for watches on so many bytes of paths.
    fn with_room(&self, bytes: usize) -> Option<(Arc<Session>, InUse)> {
        let mut live = self.live();
        live.retain(|session| !session.is_over());
        live.iter().find_map(|session| Some((Arc::clone(session), session.in_use(bytes, false)?)))
    }

    /// One that servers answer on.
    fn up(&self) -> Option<(Arc<Session>, InUse)> {
        let live = self.live();
        let mut up = live.iter().filter(|session| *session.link().borrow() == Link::Up);
        up.find_map(|session| Some((Arc::clone(session), session.in_use(0, true)?)))
    }

    fn live(&self) -> MutexGuard<'_, Vec<Arc<Session>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the base of the tokens before a request needs it, which reads it otherwise.
async fn read_tokens(session: &Session, base: &str) {
    let _ = tokio::time::timeout(LONGEST_CALL / 4, tokens::read(session, base)).await;
}

impl Sessions {
    /// Connects once, to learn which timeouts the servers grant and whether they let us in.
    pub(crate) async fn connect(config: ZkConfig) -> Result<Self> {
        let clock = Clock::system();
        let asked = clock.now();
        let connector = Arc::new(Connector::new(config));
        let client = match limited(&clock, LONGEST_CALL, connector.connect(MOST)).await {
            Ok(client) => client,
            Err(error) => return Err(connector.explained(error).await),
        };
        let tick = connector.config.tick;
        limited(&clock, LONGEST_CALL, parents::check(&client, &connector.config.base)).await?;
        let limits = Arc::new(Limits::new(Arc::clone(&connector), clock.clone()));
        let most = limits.compare(client.session_timeout()).await;
        let ticks = u32::try_from(Pace::lasting(most, tick).ttl().as_nanos() / tick.as_nanos());
        let max = tick.saturating_mul(ticks.unwrap_or(u32::MAX)).min(TtlRange::ANY.max);
        let what = format!("a tick of {tick:?} where servers grant sessions of at most {most:?}");
        check(!max.is_zero(), what, "give the servers' own tickTime")?;
        let range = TtlRange { min: tick, max, granularity: tick };
        // The longest session there is serves operators and the longest ttl.
        let session = Session::new(client, clock.clone(), asked, most, Arc::clone(&limits));
        read_tokens(&session, &connector.config.base).await;
        let class = Class { live: Mutex::new(vec![session]), ..Class::default() };
        let classes = Mutex::new(HashMap::from([(max, Arc::new(class))]));
        Ok(Self { connector, clock, limits, range, classes, closed: AtomicBool::new(false) })
    }

    /// A session that gives this ttl, with room for watches on so many bytes of paths.
    pub(crate) async fn at(
        self: &Arc<Self>,
        ttl: Duration,
        bytes: usize,
    ) -> Result<(Arc<Session>, InUse)> {
        let class = Arc::clone(self.classes().entry(ttl).or_default());
        loop {
            if let Some(session) = class.with_room(bytes) {
                return Ok(session);
            }
            self.made(ttl, &class).await?;
        }
    }

    /// Completes when a further session was made.
    async fn made(self: &Arc<Self>, ttl: Duration, class: &Arc<Class>) -> Result<()> {
        Handle::try_current().map_err(|_| Error::NoRuntime)?;
        let mut made = self.make(ttl, class);
        // The sender goes when it is done.
        while made.changed().await.is_ok() {}
        made.borrow().clone()
    }

    /// Makes a further session, unless one is being made; it goes on without its callers, since on a
    /// slow link none of them may stay as long as it takes.
    fn make(self: &Arc<Self>, ttl: Duration, class: &Arc<Class>) -> watch::Receiver<Result<()>> {
        let mut connecting = class.connecting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = connecting.as_ref().filter(|made| made.has_changed().is_ok()) {
            return made.clone();
        }
        let ended = Error::unavailable(Applied::No, "the runtime that connected has ended");
        let (done, made) = watch::channel(Err(ended));
        *connecting = Some(made.clone());
        let (sessions, class) = (Arc::clone(self), Arc::clone(class));
        #[allow(clippy::disallowed_methods)] // it only connects, for no longer than the limit
        tokio::spawn(async move {
            let opened = limited(&sessions.clock, LONGEST_CALL, sessions.open(ttl, &class)).await;
            let _ = done.send_replace(opened);
        });
        made
    }

    async fn open(&self, ttl: Duration, class: &Class) -> Result<()> {
        let asked = self.clock.now();
        let timeout = Pace::of(ttl, self.connector.config.tick).timeout;
        let client = match self.connector.connect(timeout).await {
            Ok(client) => client,
            // All was good once: certificates are being replaced on the disk, or servers restarted.
            Err(error @ Error::Invalid { .. }) => {
                return Err(Error::unavailable(Applied::No, error));
            }
            Err(error) if error.is_retryable() => {
                return Err(match why::explained(&self.connector.config, error).await {
                    error @ Error::Rejected { .. } => Error::unavailable(Applied::No, error),
                    error => error,
                });
            }
            Err(error) => return Err(error),
        };
        let (clock, limits) = (self.clock.clone(), Arc::clone(&self.limits));
        let session = Session::new(client, clock, asked, MOST, limits);
        {
            // Held while it is looked at, so that `close` misses none.
            let mut live = class.live();
            if self.closed.load(Ordering::SeqCst) {
                return Err(Error::Closed);
            }
            live.push(Arc::clone(&session));
        }
        read_tokens(&session, &self.connector.config.base).await;
        Ok(())
    }

    /// All sessions that live.
    pub(crate) fn live(&self) -> Vec<Arc<Session>> {
        self.classes().values().flat_map(|class| class.live().clone()).collect()
    }

    /// Any session that servers answer on, for reading: after an outage the driver may take long to
    /// come back with an old one.
    pub(crate) async fn any(self: &Arc<Self>) -> Result<(Arc<Session>, InUse)> {
        loop {
            let up = self.classes().values().find_map(|class| class.up());
            if let Some(session) = up {
                return Ok(session);
            }
            let class = Arc::clone(self.classes().entry(self.range.max).or_default());
            self.made(self.range.max, &class).await?;
        }
    }

    /// Ends all sessions.
    pub(crate) async fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        let classes: Vec<_> = self.classes().drain().map(|(_, class)| class).collect();
        let take = |class: Arc<Class>| std::mem::take(&mut *class.live());
        let sessions: Vec<_> = classes.into_iter().flat_map(take).collect();
        futures_util::future::join_all(sessions.iter().map(|session| session.close())).await;
    }

    fn classes(&self) -> MutexGuard<'_, HashMap<Duration, Arc<Class>>> {
        self.classes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
