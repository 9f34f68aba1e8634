//! One connection for many callers: made when it is needed, given up when it is stuck or gone.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::watch;

use super::calls::LONGEST_CALL;
use crate::{Applied, Clock, Error, Instant, Result};

/// A connection that many callers share.
///
/// ```text
///       get                made
/// none -----> connecting -------> live --give_up of its generation, close--> none
///                 | failed, or nothing within 2 s: the next caller tries again
///                 +------------------------------------------------------> none
/// ```
///
/// A task of its own makes it, so that no caller's limit ends the making, and all callers wait for the
/// same. Each connection has a generation: only the one that failed is given up, never its successor.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> lockkit_core::Result<()> {
/// use lockkit_core::kit::Connection;
///
/// let connection = Connection::new(|| Box::pin(async { Ok("a socket") }));
/// let live = connection.get().await?;
/// assert_eq!(live.connection, "a socket");
/// // It failed: the next caller has another one made.
/// connection.give_up(live.generation);
/// assert_ne!(connection.get().await?.generation, live.generation);
/// # Ok(()) }
/// ```
pub struct Connection<C> {
    connect: Connect<C>,
    state: Arc<Mutex<State<C>>>,
}

type Connect<C> = Box<dyn Fn() -> Pin<Box<dyn Future<Output = Result<C>> + Send>> + Send + Sync>;

/// A connection that was made.
#[derive(Clone, Debug)]
pub struct Live<C> {
    /// The client crate's own.
    pub connection: C,
    /// Its number among those made.
    pub generation: u64,
}

struct State<C> {
    generation: u64,
    live: Option<C>,
    making: Option<Making<C>>,
}

/// A connection that a task makes.
struct Making<C> {
    since: Instant,
    made: watch::Receiver<Option<Result<Live<C>>>>,
}

impl<C: Clone + Send + Sync + 'static> Connection<C> {
    /// None yet; `connect` makes it.
    pub fn new(
        connect: impl Fn() -> Pin<Box<dyn Future<Output = Result<C>> + Send>> + Send + Sync + 'static,
    ) -> Self {
        let state = State { generation: 0, live: None, making: None };
        Self { connect: Box::new(connect), state: Arc::new(Mutex::new(state)) }
    }

    /// The live connection; made now if there is none.
    ///
    /// # Errors
    /// `NoRuntime`: there is none to make it in, or it has ended. Others: as `connect`, but never
    /// ambiguous, since nothing of a request has been sent.
    ///
    /// # Cancel safety
    /// Cancel-safe: the making goes on for the next caller.
    pub async fn get(&self) -> Result<Live<C>> {
        loop {
            let (mut made, is_ours) = {
                let mut state = lock(&self.state);
                if let Some(connection) = state.live.clone() {
                    return Ok(Live { connection, generation: state.generation });
                }
                match state.making.as_ref().filter(|making| making.goes_on()) {
                    Some(making) => (making.made.clone(), false),
                    None => (self.make(&mut state)?, true),
                }
            };
            match made.wait_for(Option::is_some).await.map(|made| made.clone()) {
                Ok(Some(made)) => return made,
                // The runtime of its task has ended.
                _ if is_ours => return Err(Error::NoRuntime),
                _ => {}
            }
        }
    }

    /// Gives up the connection of this generation, if it is still the live one.
    pub fn give_up(&self, generation: u64) {
        let mut state = lock(&self.state);
        if state.generation == generation {
            state.live = None;
        }
    }

    /// Lets the connection go. Calls under way on it still get their answers.
    pub fn close(&self) {
        let mut state = lock(&self.state);
        (state.live, state.making) = (None, None);
    }

    /// Begins to make a connection, in the current runtime.
    fn make(&self, state: &mut State<C>) -> Result<watch::Receiver<Option<Result<Live<C>>>>> {
        let runtime = Handle::try_current().map_err(|_| Error::NoRuntime)?;
        state.generation += 1;
        let generation = state.generation;
        let (connecting, shared) = ((self.connect)(), Arc::downgrade(&self.state));
        let (made, receiver) = watch::channel(None);
        #[allow(clippy::disallowed_methods)] // it waits for the server: no lock lives in it
        runtime.spawn(async move {
            let outcome = connecting.await.map_err(|error| error.with_applied(Applied::No));
            let outcome = outcome.map(|connection| Live { connection, generation });
            if let Some(shared) = shared.upgrade() {
                lock(&shared).made(generation, &outcome);
            }
            made.send_replace(Some(outcome));
        });
        state.making = Some(Making { since: Clock::system().now(), made: receiver.clone() });
        Ok(receiver)
    }
}

impl<C: Clone> State<C> {
    /// Takes what came of the making of this generation, unless another one followed it.
    fn made(&mut self, generation: u64, outcome: &Result<Live<C>>) {
        if self.generation == generation && self.making.take().is_some() {
            self.live = outcome.as_ref().ok().map(|live| live.connection.clone());
        }
    }
}

impl<C> Making<C> {
    /// Whether it is worth waiting for: its runtime may have ended, or stand still for good.
    fn goes_on(&self) -> bool {
        let age = Clock::system().now().saturating_since(self.since);
        age <= LONGEST_CALL && self.made.has_changed().is_ok()
    }
}

impl<C> fmt::Debug for Connection<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = lock(&self.state);
        let (generation, is_live) = (state.generation, state.live.is_some());
        f.debug_struct("Connection")
            .field("generation", &generation)
            .field("is_live", &is_live)
            .finish_non_exhaustive()
    }
}

fn lock<C>(state: &Mutex<State<C>>) -> MutexGuard<'_, State<C>> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::*;

    /// A connection whose number is its generation, and how many were begun.
    fn counted(takes: Duration) -> (Arc<Connection<u32>>, Arc<AtomicU32>) {
        let begun = Arc::<AtomicU32>::default();
        let counts = Arc::clone(&begun);
        let connect = Connection::new(move || {
            let number = counts.fetch_add(1, Ordering::SeqCst) + 1;
            Box::pin(async move {
                tokio::time::sleep(takes).await;
                Ok(number)
            })
        });
        (Arc::new(connect), begun)
    }

    #[tokio::test]
    async fn many_callers_have_one_connection_made_and_a_caller_that_leaves_does_not_end_it() {
        let (connection, begun) = counted(Duration::from_millis(50));
        let left = tokio::time::timeout(Duration::from_millis(1), connection.get()).await;
        assert!(left.is_err());
        let (first, second) = tokio::join!(connection.get(), connection.get());
        assert_eq!((first.expect("made").connection, second.expect("made").connection), (1, 1));
        assert_eq!(begun.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn only_the_generation_that_failed_is_given_up() {
        let (connection, _) = counted(Duration::ZERO);
        let first = connection.get().await.expect("made");
        connection.give_up(first.generation);
        let second = connection.get().await.expect("made");
        connection.give_up(first.generation);
        assert_eq!(connection.get().await.expect("made").generation, second.generation);
        connection.close();
        assert_eq!(connection.get().await.expect("made").connection, 3);
    }

    #[tokio::test]
    async fn a_connection_that_cannot_be_made_has_sent_nothing() {
        let refuse = || -> Pin<Box<dyn Future<Output = Result<u32>> + Send>> {
            Box::pin(async { Err(Error::unavailable(Applied::Maybe, "no route")) })
        };
        let connection = Connection::new(refuse);
        assert!(connection.get().await.is_err_and(|error| !error.is_ambiguous()));
    }

    #[test]
    fn a_connection_whose_runtime_has_ended_is_made_in_another() {
        let (connection, begun) = counted(Duration::from_millis(50));
        let runtime = || {
            tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime")
        };
        runtime().block_on(async {
            let left = tokio::time::timeout(Duration::from_millis(1), connection.get()).await;
            assert!(left.is_err());
        });
        let live = runtime().block_on(connection.get()).expect("made");
        assert_eq!((live.connection, begun.load(Ordering::SeqCst)), (2, 2));
    }
}
