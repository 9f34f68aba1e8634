//! The leaders of an election, as an observer sees them.
//!
//! ```text
//! idle --polled--> seeking --a newer leader is seen--> idle
//!                          --closed, refused--> ended
//! ```

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;

use crate::{Error, FencingToken, Holder, Inspection, Instant, Kind, Lock, Result};

/// No observer asks its store more often than a delay of this allows.
const LEAST_DELAY: Duration = Duration::from_millis(10);

/// The leaders of an election, in the order of their tokens, each once; see [`Election::observe`](crate::Election::observe).
///
/// It is a stream too. It asks the store only while it is polled.
#[must_use = "it looks at nothing before it is polled"]
pub struct Leaders(State);

enum State {
    Idle(Box<Observer>),
    Seeking(Seeking),
    Ended,
}

type Seeking = Pin<Box<dyn Future<Output = (Box<Observer>, Result<Holder>)> + Send>>;

/// What an observer knows, between two leaders.
struct Observer {
    lock: Lock,
    /// By when it is to see a leader.
    within: Duration,
    newest: Option<FencingToken>,
    /// When it last asked the store.
    asked: Option<Instant>,
}

impl Leaders {
    pub(crate) fn new(lock: Lock, within: Duration) -> Self {
        let observer = Observer { lock, within, newest: None, asked: None };
        Self(State::Idle(Box::new(observer)))
    }

    /// The next leader, whose token is greater than that of every leader before; `None`: it has ended with an error.
    ///
    /// # Errors
    /// `Rejected`: this store cannot tell who holds. `Invalid`: the name or the delay. `Closed`, `NoRuntime`: no task
    /// is left to look.
    ///
    /// # Cancel safety
    /// Cancel-safe: dropped midway it loses nothing; call it again.
    pub async fn next(&mut self) -> Option<Result<Holder>> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl Stream for Leaders {
    type Item = Result<Holder>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut seeking: Seeking = match std::mem::replace(&mut self.0, State::Ended) {
            State::Idle(observer) => Box::pin(observer.seek()),
            State::Seeking(seeking) => seeking,
            State::Ended => return Poll::Ready(None),
        };
        match seeking.as_mut().poll(cx) {
            Poll::Pending => {
                self.0 = State::Seeking(seeking);
                Poll::Pending
            }
            Poll::Ready((observer, Ok(leader))) => {
                self.0 = State::Idle(observer);
                Poll::Ready(Some(Ok(leader)))
            }
            Poll::Ready((_, Err(error))) => Poll::Ready(Some(Err(error))),
        }
    }
}

impl Observer {
    async fn seek(mut self: Box<Self>) -> (Box<Self>, Result<Holder>) {
        let leader = self.newer().await;
        (self, leader)
    }

    /// The next leader with a greater token than all that were seen.
    async fn newer(&mut self) -> Result<Holder> {
        if self.within < LEAST_DELAY {
            let what = format!("seeing a leader within {:?}", self.within);
            return Err(Error::invalid(what, format!("give at least {LEAST_DELAY:?}")));
        }
        let store = Arc::clone(&self.lock.store);
        let (clock, closing) = (&store.shared.clock, &store.shared.closing);
        // A store that told of a grant, and shows none, is asked again in its time only.
        let mut was_told = false;
        loop {
            if let Some(asked) = self.asked {
                let again = asked.saturating_add(self.pause()?);
                was_told = tokio::select! {
                    biased;
                    () = closing.closed() => false,
                    () = told(&self.lock, self.newest), if !was_told => true,
                    slept = store.sleep_until(again) => slept.map(|()| false)?,
                };
            }
            if closing.is_set() {
                return Err(Error::Closed);
            }
            self.asked = Some(clock.now());
            let leader = match self.lock.inspect().await {
                Ok(seen) => newest(seen),
                Err(error) if error.is_retryable() => None,
                Err(error) => return Err(error),
            };
            // What an outdated replica shows is not newer.
            if let Some(leader) = leader.filter(|leader| leader.token > self.newest) {
                self.newest = leader.token;
                return Ok(leader);
            }
        }
    }

    /// From half to three quarters of the delay, so that observers that came together do not ask together; the rest of
    /// it is for the answer.
    fn pause(&self) -> Result<Duration> {
        let spread = u32::from(self.lock.store.shared.ids.next()?.to_bytes()[0]);
        Ok(self.within / 2 + self.within / 4 / 256 * spread)
    }
}

/// Completes when the store tells of a newer grant, where it does.
async fn told(lock: &Lock, newest: Option<FencingToken>) {
    match (lock.store.operator(), &lock.name) {
        (Ok(operator), Ok(name)) => operator.granted_after(name, newest).await,
        _ => std::future::pending().await,
    }
}

/// Who was granted last of those that hold alone: who shares the name does not stand.
pub(crate) fn newest(seen: Inspection) -> Option<Holder> {
    let alone = seen.holders.into_iter().filter(|holder| holder.kind == Kind::Exclusive);
    alone.max_by_key(|holder| holder.token)
}

impl fmt::Debug for Leaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaders").finish_non_exhaustive()
    }
}
