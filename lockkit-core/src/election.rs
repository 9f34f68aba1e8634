//! Elections: many stand for one name, who holds its lock leads, and all can see who does.

use std::future::Future;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use crate::kit::Backoff;
use crate::leaders::{Leaders, newest};
use crate::{Error, Holder, Leadership, Lock, LossReason, Result};

/// The pause of [`Election::run`] before it campaigns again; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// When an observer hears of a leader at the latest, unless set.
const SEEN_WITHIN: Duration = Duration::from_secs(1);

/// An election: candidates stand for one name, one of them leads, and all can see who.
///
/// It is the lock of this name: the leader holds it, the other candidates wait for it, in the store's declared order.
/// So [`Locks::lock`](crate::Locks::lock) of the same name inspects it, and revokes its leader, and every store has
/// elections. A leader gives its orders with its token; what takes the orders keeps a [`Fence`](crate::Fence), since
/// no election can keep a paused leader from sending one more.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> lockkit_core::Result<()> {
/// use std::ops::ControlFlow;
///
/// let locks = lockkit_core::Locks::memory();
/// let election = locks.election("cluster/leader").candidate("web-3");
/// let served = election.run(async |leadership| {
///     println!("leading with token {}", leadership.token());
///     ControlFlow::Break("served") // or Continue(()): step down, and stand again
/// }).await?;
/// assert_eq!(served, "served");
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use = "no candidate stands before campaign()"]
pub struct Election {
    lock: Lock,
    seen_within: Duration,
}

impl Election {
    pub(crate) const fn new(lock: Lock) -> Self {
        Self { lock, seen_within: SEEN_WITHIN }
    }

    /// What all see of this candidate once it leads: the label of its lock. `host/pid/program` unless set here or with
    /// [`Builder::label`](crate::Builder::label).
    pub fn candidate(mut self, text: impl Into<Arc<str>>) -> Self {
        self.lock = self.lock.label(text);
        self
    }

    /// As [`Lock::ttl`]: how long the store waits for a leader that it does not hear of, before the next one leads.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.lock = self.lock.ttl(ttl);
        self
    }

    /// As [`Lock::margin`]: how long before its ttl ends the leader's own work is stopped.
    pub fn margin(mut self, margin: Duration) -> Self {
        self.lock = self.lock.margin(margin);
        self
    }

    /// As [`Lock::max_hold`]: the longest that one leads without a new election.
    pub fn max_hold(mut self, max_hold: Duration) -> Self {
        self.lock = self.lock.max_hold(max_hold);
        self
    }

    /// The longest delay before [`observe`](Self::observe) reports a new leader: 1 s unless set here, and at least 10 ms.
    ///
    /// Each observer asks the store again after half to three quarters of this. The memory store wakes observers at a
    /// grant, too.
    pub const fn seen_within(mut self, delay: Duration) -> Self {
        self.seen_within = delay;
        self
    }

    /// Stands, waiting as long as it takes to be elected, through outages of the store too.
    ///
    /// Upholds C1, C8 and C10, as [`Lock::acquire`] does.
    ///
    /// # Errors
    /// As [`Lock::acquire`].
    ///
    /// # Cancel safety
    /// Cancel-safe: dropped at any point, the candidate no longer stands (C9), and does not lead.
    pub fn campaign(&self) -> impl Future<Output = Result<Leadership>> + Send + use<> {
        let acquire = self.lock.acquire();
        async move { acquire.await.map(Leadership::new) }
    }

    /// Stands for at most `limit`; with a limit of zero, only where no candidate leads or stands.
    ///
    /// # Errors
    /// As [`Lock::acquire_within`].
    ///
    /// # Cancel safety
    /// Cancel-safe, as [`campaign`](Self::campaign).
    pub fn campaign_within(
        &self,
        limit: Duration,
    ) -> impl Future<Output = Result<Leadership>> + Send + use<> {
        let acquire = self.lock.acquire_within(limit);
        async move { acquire.await.map(Leadership::new) }
    }

    /// Stands, leads by running `work`, and stands again, until `work` says that it is done.
    ///
    /// `work` is polled in the caller's own task. It is dropped when the leadership is lost, at the deadline at the
    /// latest. The store elects no other before the deadline, unless an operator revokes the leader, or what
    /// `guarantees().belief_breaks_on` names happens. Work that blocks its thread, and tasks that it has spawned, are not
    /// stopped: let them check [`Leadership::ensure`].
    ///
    /// Where `work` gives `ControlFlow::Continue`, it resigns; another candidate is elected, if there is one. After a loss
    /// or `Continue` it campaigns again, after a pause of 50 ms. The pause doubles up to 5 s, and is 50 ms again after a
    /// leader that led for a whole ttl, or up to its `max_hold`. `ControlFlow::Break` ends it: it resigns, and gives the
    /// value.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> lockkit_core::Result<()> {
    /// use std::ops::ControlFlow;
    ///
    /// let mut terms = 0;
    /// let election = lockkit_core::Locks::memory().election("cluster/leader");
    /// election.run(async |_| {
    ///     terms += 1;
    ///     if terms < 3 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    /// }).await?;
    /// assert_eq!(terms, 3);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// `Rejected`, `Invalid`: standing is useless. `Closed`, `NoRuntime`: no task is left to lead. A lost leadership is
    /// no error: it stands again.
    ///
    /// # Cancel safety
    /// Dropping it drops `work`, and resigns in the background.
    pub fn run<T, F>(&self, mut work: F) -> impl Future<Output = Result<T>> + use<T, F>
    where
        F: AsyncFnMut(&Leadership) -> ControlFlow<T>,
    {
        let election = self.clone();
        async move {
            let store = &election.lock.store;
            let clock = &store.shared.clock;
            let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
            loop {
                let (led, outcome) = match election.campaign().await {
                    Ok(leadership) => {
                        let since = clock.now();
                        let outcome = leadership.run(&mut work).await;
                        (clock.now().saturating_since(since), outcome)
                    }
                    Err(error) => (Duration::ZERO, Err(error)),
                };
                let was_whole_term = led >= election.lock.wished_ttl()
                    || matches!(outcome, Err(Error::Lost { reason: LossReason::MaxHold, .. }));
                match outcome {
                    Ok(ControlFlow::Break(value)) => return Ok(value),
                    Ok(ControlFlow::Continue(())) => {}
                    Err(error) => election.stands_again(error)?,
                }
                if was_whole_term {
                    backoff.reset();
                }
                let again = clock.now().saturating_add(backoff.next_pause());
                store.sleep_until(again).await?;
            }
        }
    }

    /// The present leader, as the store knows it; `None`: no candidate leads.
    ///
    /// # Errors
    /// As [`Lock::inspect`].
    ///
    /// # Cancel safety
    /// Cancel-safe: it only reads.
    pub async fn leader(&self) -> Result<Option<Holder>> {
        Ok(newest(self.lock.inspect().await?))
    }

    /// The leaders from now on, beginning with the present one, each with its candidate's text and its token.
    ///
    /// They come in the order of their tokens, none twice. Every leader that leads for longer than
    /// [`seen_within`](Self::seen_within) is reported, if the stream is polled and the store answers within a quarter of
    /// that. It goes on through outages of the store. While no candidate leads it reports nothing:
    /// [`leader`](Self::leader) says so. A holder without a token, as clients of another kind are on some stores, and one
    /// that shares the name, are not reported. Where tokens went back, since the store lost its data, begin a new stream.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> lockkit_core::Result<()> {
    /// let election = lockkit_core::Locks::memory().election("cluster/leader").candidate("web-3");
    /// let leadership = election.campaign().await?;
    /// let mut leaders = election.observe();
    /// let leader = leaders.next().await.expect("it goes on")?;
    /// assert_eq!((leader.label.as_str(), leader.token), ("web-3", Some(leadership.token())));
    /// # Ok(()) }
    /// ```
    pub fn observe(&self) -> Leaders {
        Leaders::new(self.lock.clone(), self.seen_within)
    }

    /// `Ok`: another campaign can succeed after this error.
    fn stands_again(&self, error: Error) -> Result<()> {
        match error {
            _ if self.lock.store.shared.closing.is_set() => Err(Error::Closed),
            Error::Lost { reason, .. } => Error::after_loss(reason).map_or(Ok(()), Err),
            Error::TimedOut { .. } | Error::Unavailable { .. } => Ok(()),
            error => Err(error),
        }
    }
}
