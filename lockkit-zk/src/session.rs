//! One session: its one heartbeat, and its end.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use lockkit_core::kit::{Gathered, LONGEST_CALL, Refused, session_term};
use lockkit_core::{Applied, Clock, Error, Instant, LossReason, RequestId, Result, Term};
use tokio::sync::{mpsc, watch};
use zookeeper_client::{Client, MultiWriteError};

use crate::error::Outcome;
use crate::limits::Limits;
use crate::proof::{Made, Proof};
use crate::usage::{Beat, InUse, Users};
use life::Life;
pub(crate) use life::Link;
use reopening::Reopening;
use times::Times;

/// More heartbeats than this are never unanswered at once: a slow one is not a lost one.
const UNANSWERED: usize = 4;
/// After so many of its timeouts without a user it is closed.
const IDLE: u32 = 4;
/// The driver tells its callers of a lost connection first, and its state this much later at most.
const LAG: Duration = Duration::from_millis(20);

/// A session with the ensemble, shared by all requests whose ttl it gives.
#[derive(Debug)]
pub(crate) struct Session {
    cleaner: Mutex<Option<mpsc::UnboundedSender<Chore>>>,
    life: Arc<Life>,
    pub(crate) id: i64,
    /// The base of the store's tokens, as it was read last; it counts until the next reopening.
    token_base: Mutex<Option<(watch::Receiver<()>, u64)>>,
    /// Requests in doubt, by the nodes that theirs may be below.
    doubts: Arc<Gathered<String, RequestId, Outcome<()>>>,
}

/// What the session's task does for others.
struct Chore {
    work: Work,
    /// Whether the session stays for it after its last use.
    is_awaited: bool,
}

type Work = Box<dyn FnOnce(Client, Clock) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

impl Session {
    /// Takes over a connected client; `asked` was read before it connected. Its timeout counts for no
    /// more than `most`.
    pub(crate) fn new(
        client: Client,
        clock: Clock,
        asked: Instant,
        most: Duration,
        limits: Arc<Limits>,
    ) -> Arc<Self> {
        let timeout = client.session_timeout().min(most);
        let proof = Proof::new(asked, timeout, limits.tick());
        let (id, kept_alive) = (client.session_id().0, client.clone());
        let users = Arc::new(Users::new(clock.clone()));
        let refused = Arc::<Refused<_>>::default();
        let life = Arc::new(Life {
            clock,
            link: watch::Sender::new(Link::Up),
            reopenings: watch::Sender::new(()),
            proof: watch::Sender::new(proof),
            is_shortened: AtomicBool::new(false),
            is_early: AtomicBool::new(false),
            client: Mutex::new(Some(client)),
            refused: Mutex::new(Some(Arc::clone(&refused))),
            users,
        });
        let (cleaner, chores) = mpsc::unbounded_channel();
        let reopening = Reopening::new(limits, timeout, asked);
        #[allow(clippy::disallowed_methods)] // it waits for the servers: no lock lives in it
        tokio::spawn(keep(kept_alive, Arc::clone(&life), reopening, chores));
        let cleaner = Mutex::new(Some(cleaner));
        let (token_base, doubts) = (Mutex::default(), Arc::default());
        let session = Self { cleaner, life, id, token_base, doubts };
        session.sweep(|client, clock| async move { refused.repeat(&client, &clock).await });
        Arc::new(session)
    }

    /// The base of the store's tokens, unless the session was reopened since it was read.
    pub(crate) fn token_base(&self) -> Option<u64> {
        let known = self.token_base.lock().unwrap_or_else(PoisonError::into_inner);
        let is_fresh = |seen: &watch::Receiver<()>| matches!(seen.has_changed(), Ok(false));
        known.as_ref().filter(|(seen, _)| is_fresh(seen)).map(|(_, base)| *base)
    }

    /// Notes the base of the store's tokens; `seen` is from before it was read.
    pub(crate) fn set_token_base(&self, seen: watch::Receiver<()>, base: u64) {
        let mut known = self.token_base.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Some((seen, base));
    }

    /// The store may have another base of its tokens.
    pub(crate) fn forget_token_base(&self) {
        self.token_base.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Has it in use, if it lives and has room for watches on so many bytes of paths; who `is_in`
    /// has a node on it already. After an idle time, a heartbeat goes out at once.
    ///
    /// A session that was shortened never gets longer again: new requests take another.
    pub(crate) fn in_use(&self, bytes: usize, is_in: bool) -> Option<InUse> {
        let is_shortened = self.life.is_shortened.load(Ordering::SeqCst);
        if self.is_over() || (is_shortened && !is_in) {
            return None;
        }
        self.life.users.enter(bytes, is_in)
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

    /// Changes each time that servers have reopened the session. They may have been restored from an
    /// older backup meanwhile.
    pub(crate) fn reopenings(&self) -> watch::Receiver<()> {
        self.life.reopenings.subscribe()
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

    pub(crate) fn clock(&self) -> &Clock {
        &self.life.clock
    }

    pub(crate) fn now(&self) -> Instant {
        self.life.clock.now()
    }

    /// A write is about to be sent, which proves that the session lives, once it is acked.
    pub(crate) fn make(&self) -> Made {
        self.life.make()
    }

    /// This write was acked.
    pub(crate) fn proven(&self, made: Made) {
        self.life.proven(made);
    }

    /// The term that the proofs give, by this clock, and from when it counts by the session's.
    fn term(&self, clock: &Clock) -> (Instant, Term) {
        let (mut since, mut ttl) = (self.now(), Duration::ZERO);
        self.life.proof.send_if_modified(|proof| {
            (since, ttl) = proof.give();
            false
        });
        (since, session_term(&self.life.clock, since, ttl, clock))
    }

    /// The term as soon as it gives the whole ttl.
    pub(crate) async fn whole_term(&self, clock: &Clock) -> Result<(Instant, Term)> {
        self.term_once(clock, Proof::is_whole).await
    }

    /// The next term that lasts longer than the one since then, by a write from after this call began, once it
    /// is known how long the session lasts.
    pub(crate) async fn next_term(&self, clock: &Clock, since: Instant) -> Result<(Instant, Term)> {
        let began = self.now();
        self.term_once(clock, |proof| proof.latest >= began && proof.renews(since)).await
    }

    async fn term_once(
        &self,
        clock: &Clock,
        holds: impl Fn(&Proof) -> bool,
    ) -> Result<(Instant, Term)> {
        tokio::select! {
            biased;
            () = self.ended() => Err(Error::lost(LossReason::SessionEnded)),
            () = self.life.proven_once(holds) => Ok(self.term(clock)),
        }
    }

    /// Has the session's task do this, which removes something; the session stays until it is done.
    /// `false`: the session is over.
    pub(crate) fn clean_up<F: Future<Output = ()> + Send + 'static>(
        &self,
        work: impl FnOnce(Client, Clock) -> F + Send + 'static,
    ) -> bool {
        self.take(work, true)
    }

    /// Has the session's task wait for this answer, unless the session ends before.
    pub(crate) fn see_to<T>(&self, call: Pin<Box<dyn Future<Output = T> + Send>>)
    where
        T: 'static,
    {
        self.sweep(|_, _| async move { drop(call.await) });
    }

    /// Has the session's task do this unless the session ends before.
    pub(crate) fn sweep<F: Future<Output = ()> + Send + 'static>(
        &self,
        work: impl FnOnce(Client, Clock) -> F + Send + 'static,
    ) {
        // Where the session is over, nothing is left of it.
        self.take(work, false);
    }

    fn take<F: Future<Output = ()> + Send + 'static>(
        &self,
        work: impl FnOnce(Client, Clock) -> F + Send + 'static,
        is_awaited: bool,
    ) -> bool {
        let work: Work = Box::new(|client, clock| Box::pin(work(client, clock)));
        let cleaner = self.cleaner.lock().unwrap_or_else(PoisonError::into_inner);
        cleaner.as_ref().is_some_and(|to| to.send(Chore { work, is_awaited }).is_ok())
    }

    /// What is in doubt on it.
    pub(crate) fn doubts(&self) -> Arc<Gathered<String, RequestId, Outcome<()>>> {
        Arc::clone(&self.doubts)
    }

    /// What its servers refused to remove; `None`: the session has ended, and its nodes with it.
    pub(crate) fn refused(&self) -> Option<Arc<Refused<Client>>> {
        self.life.refused().clone()
    }

    /// Who uses it.
    pub(crate) fn users(&self) -> Arc<Users> {
        Arc::clone(&self.life.users)
    }

    /// What a clean-up comes to that the session's end has cut short.
    pub(crate) fn cut_short(&self) -> impl FnOnce() -> Result<()> + Send + use<> {
        let (life, over) = (Arc::clone(&self.life), self.over());
        move || {
            // Servers may keep what is left on it for longer than it was believed in. Otherwise a
            // session that is over has nothing left to remove.
            if life.is_early.load(Ordering::SeqCst) { Err(over) } else { Ok(()) }
        }
    }

    /// Ends the session, and what is left on it.
    pub(crate) async fn close(&self) {
        let client = self.life.client().take();
        drop(self.cleaner.lock().unwrap_or_else(PoisonError::into_inner).take());
        let Some(mut states) = client.map(|client| client.state_watcher()) else { return };
        let ended = async { while !states.changed().await.is_terminated() {} };
        if !self.is_over() {
            let _ = tokio::time::timeout(LONGEST_CALL, ended).await;
        }
    }
}

/// Says that the session has ended, also when its runtime drops the task.
struct Ends(Arc<Life>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.link.send_replace(Link::Over);
        drop(self.0.client().take());
        // Dropped with no lock held: the records that it keeps may take one, and keep the session themselves.
        let refused = self.0.refused().take();
        drop(refused);
    }
}

/// The session's task.
async fn keep(
    client: Client,
    life: Arc<Life>,
    mut reopening: Reopening,
    mut chores: mpsc::UnboundedReceiver<Chore>,
) {
    let ends = Ends(Arc::clone(&life));
    let idle = life.proof().pace().timeout * IDLE;
    let mut states = client.state_watcher();
    let (mut state, mut told) = (client.state(), None);
    let (mut beats, mut removals) = (FuturesUnordered::new(), FuturesUnordered::new());
    // They end with the session, which does not wait for them.
    let mut sweeps = FuturesUnordered::new();
    let mut due = life.clock.now();
    let mut open = true;
    while open || !removals.is_empty() {
        let now = life.clock.now();
        match told.take().or_else(|| states.changed().now_or_never()) {
            Some(changed) => {
                (state, due) = (changed, now);
                reopening.changed(&life, &client, state);
            }
            None => reopening.unchanged(now, state),
        }
        let is_busy = !removals.is_empty() || !chores.is_empty();
        let Some(times) = Times::of(&life, state, &reopening, idle, is_busy) else { break };
        tokio::select! {
            biased;
            changed = states.changed() => told = Some(changed),
            Some(beat) = beats.next(), if !beats.is_empty() => match beat {
                Ok((Beat::Proof, made)) => life.proven(made),
                Ok((Beat::Touch, made)) => life.touched(made),
                Err(zookeeper_client::Error::SessionExpired) => break,
                Err(_) => {}
            },
            chore = chores.recv(), if open => match chore {
                Some(Chore { work, is_awaited }) => {
                    let work = work(client.clone(), life.clock.clone());
                    if is_awaited { removals.push(work) } else { sweeps.push(work) }
                }
                None => open = false,
            },
            Some(()) = removals.next(), if !removals.is_empty() => {}
            Some(()) = sweeps.next(), if !sweeps.is_empty() => {}
            most = reopening.most() => {
                reopening.answered(&life, &client, most);
                due = life.clock.now();
            }
            () = life.users.wanted() => {
                due = life.proof().latest.saturating_add(times.interval);
            }
            () = reached(&life.clock, times.closes) => if life.users.closes(idle) { break },
            () = reached(&life.clock, times.looks) => reopening.look(state),
            () = life.clock.sleep_until(due), if times.beats.is_some() && beats.len() < UNANSWERED => {
                beats.extend(times.beats.map(|kind| beat(client.clone(), kind, life.make())));
                due = life.clock.now().saturating_add(times.interval);
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

/// One heartbeat: a write that changes nothing, but that takes a majority and a live session; or a read.
async fn beat(client: Client, kind: Beat, made: Made) -> Outcome<(Beat, Made)> {
    let answered = Ok((kind, made));
    if kind == Beat::Touch {
        return client.check_stat("/").await.and(answered);
    }
    let mut check = client.new_multi_writer();
    check.add_check_version("/", -1)?;
    match check.commit().await {
        Ok(_) => answered,
        Err(MultiWriteError::RequestFailed { source }) => Err(source),
        Err(MultiWriteError::OperationFailed { source, .. }) => match source {
            zookeeper_client::Error::SessionExpired => Err(source),
            // Without the right to look, it was a write all the same.
            _ => answered,
        },
    }
}

mod life;
mod reopening;
#[cfg(test)]
mod tests;
mod times;
