//! The client: what all calls of a provider share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_client::{Txn, TxnResponse};
use lockkit_core::kit::{call_limit, within};
use lockkit_core::{Applied, Error, LockName, Request, Result, TtlRange};

use crate::endpoints::{CallOutcome, Endpoints};
use crate::keeper::Keepers;
use crate::mark::Mark;
use crate::protocol::{Keys, Seen, send};
use crate::requests::{self, Record, Requests, Sending, clear, live_sessions, prune, session_of};
use crate::session::{Session, Use};
use crate::turns::Turns;
use crate::watch::Watch;

/// Of how many names a contender is kept in mind.
const MANY: usize = 1024;

#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) endpoints: Arc<Endpoints>,
    pub(crate) keys: Keys,
    pub(crate) mark: Mark,
    pub(crate) token_base: u64,
    /// What the cluster grants.
    pub(crate) ttls: TtlRange,
    /// By the ttl that was asked for.
    sessions: tokio::sync::Mutex<HashMap<Duration, Arc<Session>>>,
    /// Those whose end the store has not acknowledged, from a close on.
    ending: Mutex<Vec<Arc<Session>>>,
    pub(crate) requests: Arc<Requests>,
    pub(crate) keepers: Keepers,
    pub(crate) watch: Arc<Watch>,
    pub(crate) seen: SeenLast,
    pub(crate) turns: Turns,
}

impl Client {
    pub(crate) fn new(
        endpoints: Endpoints,
        keys: Keys,
        mark: Mark,
        ttls: TtlRange,
        token_base: u64,
    ) -> Self {
        let (endpoints, requests) = (Arc::new(endpoints), Arc::default());
        Self {
            keepers: Keepers::new(&endpoints, &requests),
            endpoints,
            requests,
            watch: Watch::new(keys.clone()),
            seen: SeenLast::default(),
            keys,
            mark,
            token_base,
            ttls,
            sessions: tokio::sync::Mutex::default(),
            ending: Mutex::default(),
            turns: Turns::default(),
        }
    }

    /// The session on which the request has its place, or that of its ttl; opened where there is none.
    pub(crate) async fn session(&self, request: &Request, record: &Record) -> Result<Use> {
        if let Some(session) = session_of(record) {
            session.keep(&self.keepers)?;
            return Ok(session);
        }
        let (clock, ttl) = (request.clock(), request.ttl());
        let limit = call_limit(ttl);
        let end = clock.now().saturating_add(limit);
        let session = async {
            let mut sessions = self.sessions.lock().await;
            if let Some(session) = sessions.get(&ttl).and_then(Session::join) {
                // Its keeper may have ended with another runtime.
                session.keep(&self.keepers)?;
                return Ok(session);
            }
            let session = loop {
                let age = self.endpoints.history.age();
                let opened = Session::open(&self.endpoints, clock, ttl, end).await;
                // Its own answer may be the one that shows that the history went back.
                if age == self.endpoints.history.age() || clock.now() >= end {
                    break opened?;
                }
            };
            session.keep(&self.keepers)?;
            sessions.insert(ttl, Arc::clone(&session));
            prune(&self.requests);
            Ok(session)
        };
        // Its calls end earlier by themselves, and give up a client that is stuck.
        let session = within(clock, limit + limit / 20, session);
        tokio::select! {
            biased;
            () = record.withdrawn() => Err(Error::withdrawn()),
            session = session => session.unwrap_or_else(|| {
                let names = self.endpoints.names();
                let silence = format!("{names} granted no lease within {limit:.1?}");
                Err(Error::unavailable(Applied::No, silence))
            }),
        }
    }

    /// Counts a sending of what puts the request's key; `None`: another session is to be asked for.
    pub(crate) async fn sending<'a>(
        &self,
        record: &'a Record,
        session: &Use,
    ) -> Result<Option<Sending<'a>>> {
        requests::sending(&self.requests, &self.endpoints, &self.keys, record, session).await
    }

    /// Removes what the request has in the store, and has refused what may still come of it.
    pub(crate) async fn clear(&self, record: &Record) -> Result<()> {
        clear(&self.requests, &self.endpoints, record).await
    }

    /// Ends every session, also those that an earlier call has not; whether the store has acknowledged all of it.
    pub(crate) async fn end_sessions(&self) -> Result<()> {
        let current = std::mem::take(&mut *self.sessions.lock().await);
        let sessions = {
            let mut ending = self.ending();
            ending.extend(current.into_values().chain(live_sessions(&self.requests)));
            ending.sort_unstable_by_key(|session| session.lease);
            ending.dedup_by_key(|session| session.lease);
            ending.clone()
        };
        let ended = sessions.into_iter().map(async |session| {
            session.revoke(&self.endpoints).await?;
            self.ending().retain(|other| other.lease != session.lease);
            Ok(())
        });
        futures_util::future::join_all(ended).await.into_iter().collect()
    }

    fn ending(&self) -> MutexGuard<'_, Vec<Arc<Session>>> {
        self.ending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends what leaves nothing.
    pub(crate) async fn read(&self, request: &Request, txn: &Txn) -> Result<TxnResponse> {
        // Whatever this read says, the key may be there.
        self.txn(request, txn).await.value.map_err(|failure| failure.into_error(true))
    }

    pub(crate) async fn txn(&self, request: &Request, txn: &Txn) -> CallOutcome<TxnResponse> {
        self.endpoints.call(request.clock(), call_limit(request.ttl()), send(txn)).await
    }
}

/// For each name the contender that an attempt found last. It is compared before it counts.
#[derive(Debug, Default)]
pub(crate) struct SeenLast(Mutex<HashMap<LockName, Seen>>);

impl SeenLast {
    pub(crate) fn get(&self, name: &LockName) -> Option<Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    pub(crate) fn keep(&self, name: &LockName, seen: Seen) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MANY {
            all.clear();
        }
        all.insert(name.clone(), seen);
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.watch.close();
    }
}
