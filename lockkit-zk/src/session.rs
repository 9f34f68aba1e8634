//! One session: its one heartbeat, and its end.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use lockkit_core::{Applied, Clock, Error, Instant, LossReason, Result, Term};
use tokio::sync::{mpsc, oneshot, watch};
use zookeeper_client::{Client, MultiWriteError, SessionState};

use crate::error::Outcome;
use crate::pace::Pace;
use crate::place::Forgets;
use crate::remains::{Remains, Removal, remove};
use crate::usage::{InUse, Users};

/// The longest that anything here waits for a server.
pub(crate) const LIMIT: Duration = Duration::from_secs(2);
/// More heartbeats than this are never unanswered at once: a slow one is not a lost one.
const UNANSWERED: usize = 4;
/// For so many of its timeouts nobody has used it: it is closed.
const IDLE: u32 = 4;
/// The driver tells its callers of a lost connection first, and its state this much later at most.
const LAG: Duration = Duration::from_millis(20);

/// A session with the ensemble, shared by all requests whose ttl it gives.
#[derive(Debug)]
pub(crate) struct Session {
    cleaner: Mutex<Option<mpsc::UnboundedSender<Remains>>>,
    life: Arc<Life>,
    pub(crate) id: i64,
    /// The ttl that it gives.
    pub(crate) ttl: Duration,
    /// How long after a heartbeat the servers keep it, at least.
    kept: Duration,
}

/// What is known of the session's life; read by all, written by its task and by acked writes.
#[derive(Debug)]
struct Life {
    clock: Clock,
    link: watch::Sender<Link>,
    proof: watch::Sender<Proof>,
    /// `None` once it was closed.
    client: Mutex<Option<Client>>,
    users: Arc<Users>,
}

/// Whether the session can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    Up,
    Down,
    /// The session has ended: nothing that was on it is left, or will be within its timeout.
    Over,
}

/// When the last two acked proofs of life were sent.
///
/// Only writes count: the leader had a majority for them, and knew the session. A server that is
/// cut off from its leader answers reads and pings for seconds, and a cut off leader a `sync`.
#[derive(Clone, Copy, Debug)]
struct Proof {
    before: Instant,
    latest: Instant,
}

impl Session {
    /// Takes over a connected client; `asked` was read before it connected.
    pub(crate) fn new(client: Client, clock: Clock, asked: Instant, tick: Duration) -> Arc<Self> {
        let pace = Pace::lasting(client.session_timeout(), tick);
        let (id, kept_alive) = (client.session_id().0, client.clone());
        let users = Arc::new(Users::new(clock.clone()));
        let life = Arc::new(Life {
            clock,
            link: watch::Sender::new(Link::Up),
            proof: watch::Sender::new(Proof { before: asked, latest: asked }),
            client: Mutex::new(Some(client)),
            users,
        });
        let (cleaner, remains) = mpsc::unbounded_channel();
        #[allow(clippy::disallowed_methods)] // it waits for the servers: no lock lives in it
        tokio::spawn(keep(kept_alive, Arc::clone(&life), pace, remains));
        let cleaner = Mutex::new(Some(cleaner));
        let kept = pace.timeout.saturating_sub(tick);
        Arc::new(Self { cleaner, life, id, ttl: pace.ttl(), kept })
    }

    /// Has it in use, if it lives and has room for watches on so many bytes of paths; who `is_in`
    /// has a node on it already. After an idle time, a heartbeat goes out at once.
    pub(crate) fn in_use(&self, bytes: usize, is_in: bool) -> Option<InUse> {
        if self.is_over() { None } else { self.life.users.enter(bytes, is_in) }
    }

    /// The driver's client.
    pub(crate) fn client(&self) -> Result<Client> {
        let client = self.life.client().clone();
        client.filter(|_| !self.is_over()).ok_or_else(|| self.over())
    }

    pub(crate) fn is_over(&self) -> bool {
        *self.life.link.borrow() == Link::Over
    }

    /// The link's state, and its changes.
    pub(crate) fn link(&self) -> watch::Receiver<Link> {
        self.life.link.subscribe()
    }

    /// Completes once servers can be reached.
    pub(crate) async fn up(&self) -> Result<()> {
        let mut link = self.link();
        // The sender lives as long as this session.
        let _ = link.wait_for(|link| *link != Link::Down).await;
        if self.is_over() { Err(self.over()) } else { Ok(()) }
    }

    /// Completes once servers can be reached, after a call has failed for a lost connection.
    pub(crate) async fn up_again(&self) -> Result<()> {
        let mut link = self.link();
        let down = link.wait_for(|link| *link != Link::Up);
        let _ = tokio::time::timeout(LAG, down).await;
        self.up().await
    }

    /// Completes while no server can be reached.
    pub(crate) async fn down(&self) {
        // The sender lives as long as this session.
        let _ = self.link().wait_for(|link| *link != Link::Up).await;
    }

    /// Completes when the session has ended.
    pub(crate) async fn ended(&self) {
        // The sender lives as long as this session.
        let _ = self.link().wait_for(|link| *link == Link::Over).await;
    }

    /// Why nothing can be asked on it any more.
    pub(crate) fn over(&self) -> Error {
        Error::unavailable(Applied::No, format!("the session {:#x} has ended", self.id))
    }

    /// An instant from which a write counts as proof of life, once it is acked.
    pub(crate) fn now(&self) -> Instant {
        self.life.clock.now()
    }

    /// A write that was sent after `sent` was acked.
    pub(crate) fn proven(&self, sent: Instant) {
        self.life.proven(sent);
    }

    /// The term that the proofs give, by this clock.
    ///
    /// It counts from the latest, and lasts no longer than the one before allows.
    pub(crate) fn term(&self, clock: &Clock) -> Term {
        let now = clock.now();
        let Proof { before, latest } = *self.life.proof.borrow();
        let age = self.now().saturating_since(latest);
        let ttl = self.kept.saturating_sub(latest.saturating_since(before)).min(self.ttl);
        Term { sent: now.saturating_sub(age), ttl: Some(ttl) }
    }

    /// The term as soon as it gives the whole ttl.
    pub(crate) async fn whole_term(&self, clock: &Clock) -> Result<Term> {
        self.term_once(clock, |proof| {
            self.kept.saturating_sub(proof.latest.saturating_since(proof.before)) >= self.ttl
        })
        .await
    }

    /// The term that counts from after this call began.
    pub(crate) async fn next_term(&self, clock: &Clock) -> Result<Term> {
        let began = self.now();
        self.term_once(clock, |proof| proof.latest >= began).await
    }

    async fn term_once(&self, clock: &Clock, holds: impl Fn(&Proof) -> bool) -> Result<Term> {
        tokio::select! {
            biased;
            () = self.ended() => Err(Error::lost(LossReason::SessionEnded)),
            () = self.life.proven_once(holds) => Ok(self.term(clock)),
        }
    }

    /// Has something removed, however long it takes while the session lives, and whether or not
    /// somebody waits for it.
    ///
    /// # Cancel safety
    /// Cancel-safe: the removal goes on.
    pub(crate) fn remove(&self, what: Removal) -> impl Future<Output = Result<()>> + Send + use<> {
        self.remove_and(what, None)
    }

    /// The same, and forgets the place once it is done.
    pub(crate) fn remove_and(
        &self,
        what: Removal,
        forgets: Option<Forgets>,
    ) -> impl Future<Output = Result<()>> + Send + use<> {
        let (done, answer) = oneshot::channel();
        let remains = Remains { what, forgets, done };
        let cleaner = self.cleaner.lock().unwrap_or_else(PoisonError::into_inner);
        // A session that is over has nothing left to remove.
        let taken = cleaner.as_ref().is_some_and(|to| to.send(remains).is_ok());
        async move { if taken { answer.await.unwrap_or(Ok(())) } else { Ok(()) } }
    }

    /// Ends the session, and what is left on it.
    pub(crate) async fn close(&self) {
        let client = self.life.client().take();
        drop(self.cleaner.lock().unwrap_or_else(PoisonError::into_inner).take());
        let Some(mut states) = client.map(|client| client.state_watcher()) else { return };
        let ended = async { while !states.changed().await.is_terminated() {} };
        if !self.is_over() {
            let _ = tokio::time::timeout(LIMIT, ended).await;
        }
    }
}

impl Life {
    fn client(&self) -> MutexGuard<'_, Option<Client>> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives no reference away: two at once, and a writer between them, would wait for each other.
    async fn proven_once(&self, holds: impl Fn(&Proof) -> bool) {
        let mut proof = self.proof.subscribe();
        // The sender lives as long as this.
        let _ = proof.wait_for(holds).await;
    }

    fn proven(&self, sent: Instant) {
        self.proof.send_if_modified(|proof| {
            // Acks of two writes may come in either order.
            let Proof { before, latest } = *proof;
            if sent > latest {
                *proof = Proof { before: latest, latest: sent };
            } else if sent > before && sent < latest {
                proof.before = sent;
            }
            sent > before && sent != latest
        });
    }
}

/// Says that the session has ended, also when its runtime drops the task.
struct Ends(Arc<Life>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.link.send_replace(Link::Over);
        drop(self.0.client().take());
    }
}

/// The session's task.
async fn keep(
    client: Client,
    life: Arc<Life>,
    pace: Pace,
    mut remains: mpsc::UnboundedReceiver<Remains>,
) {
    let ends = Ends(Arc::clone(&life));
    let (interval, idle) = (pace.interval(), pace.timeout * IDLE);
    let mut states = client.state_watcher();
    let mut state = client.state();
    let (mut beats, mut removals) = (FuturesUnordered::new(), FuturesUnordered::new());
    let mut due = life.clock.now();
    let mut open = true;
    while open || !removals.is_empty() {
        match state {
            SessionState::SyncConnected => set(&life.link, Link::Up),
            SessionState::Disconnected | SessionState::ConnectedReadOnly => {
                set(&life.link, Link::Down);
            }
            SessionState::Expired | SessionState::Closed | SessionState::AuthFailed => break,
        }
        let is_up = *life.link.borrow() == Link::Up;
        let idle_since = life.users.idle_since();
        let is_idle = is_up && removals.is_empty() && remains.is_empty();
        let closes_at = idle_since.filter(|_| is_idle).map(|since| since.saturating_add(idle));
        let beats_at = (is_up && idle_since.is_none() && beats.len() < UNANSWERED).then_some(due);
        tokio::select! {
            biased;
            changed = states.changed() => {
                state = changed;
                due = life.clock.now();
            }
            Some(beat) = beats.next(), if !beats.is_empty() => match beat {
                Ok(sent) => life.proven(sent),
                Err(zookeeper_client::Error::SessionExpired) => break,
                Err(_) => {}
            },
            item = remains.recv(), if open => match item {
                Some(item) => removals.push(remove(client.clone(), item)),
                None => open = false,
            },
            Some(()) = removals.next(), if !removals.is_empty() => {}
            () = life.users.wanted() => {
                due = life.proof.borrow().latest.saturating_add(interval);
            }
            () = reached(&life.clock, closes_at) => if life.users.closes(idle) { break },
            () = reached(&life.clock, beats_at) => {
                let sent = life.clock.now();
                beats.push(beat(client.clone(), sent));
                // After a silence it takes two to trust the session again.
                let silent = sent.saturating_since(life.proof.borrow().before) > interval * 3;
                due = sent.saturating_add(if silent { interval / 8 } else { interval });
            }
        }
    }
    // Before the removals, which may be waited for, are dropped.
    drop(ends);
}

async fn reached(clock: &Clock, at: Option<Instant>) {
    match at {
        Some(at) => clock.sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn set(link: &watch::Sender<Link>, to: Link) {
    link.send_if_modified(|link| std::mem::replace(link, to) != to);
}

/// One heartbeat: a write that changes nothing, but that takes a majority and a live session.
async fn beat(client: Client, sent: Instant) -> Outcome<Instant> {
    let mut check = client.new_multi_writer();
    check.add_check_version("/", -1)?;
    match check.commit().await {
        Ok(_) => Ok(sent),
        Err(MultiWriteError::RequestFailed { source }) => Err(source),
        Err(MultiWriteError::OperationFailed { source, .. }) => match source {
            zookeeper_client::Error::SessionExpired => Err(source),
            // Without the right to look, it was a write all the same.
            _ => Ok(sent),
        },
    }
}

#[cfg(test)]
mod tests;
