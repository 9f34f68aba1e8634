//! What a store refused to remove: asked for again until it does.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::Clock;

/// Before what was refused is asked for again: an operator gives the right back, not a machine.
pub const REFUSED_FOR: Duration = Duration::from_secs(1);

/// What is kept until a removal is done, such as the record of its request.
pub trait Kept: Send + Sync + 'static {
    /// It stays after all: the same removal is asked for again already.
    fn stays(self);
}

impl Kept for () {
    fn stays(self) {}
}

impl<K: Kept> Kept for Option<K> {
    fn stays(self) {
        if let Some(kept) = self {
            kept.stays();
        }
    }
}

/// Asks once; whether it is done. It is dropped then, with all that it keeps.
type Ask<C> = Arc<dyn Fn(C) -> Pin<Box<dyn Future<Output = bool> + Send>> + Send + Sync>;

/// The removals of one session that its store refused, each by the key of what is removed.
///
/// Other locks keep such a session alive, and with it what was left on it: a name would be held for as long.
/// `C` is what a removal asks the store by.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use std::sync::atomic::{AtomicUsize, Ordering};
///
/// use lockkit_core::{Clock, kit::Refused};
///
/// static ASKED: AtomicUsize = AtomicUsize::new(0);
/// let refused = Refused::<()>::default();
/// refused.keep("node".to_owned(), (), |()| async { ASKED.fetch_add(1, Ordering::SeqCst) == 1 });
/// assert!(refused.has("node"));
/// let clock = Clock::manual();
/// tokio::select! {
///     () = refused.repeat(&(), &clock) => {}
///     () = async {
///         while refused.has("node") {
///             clock.advance(std::time::Duration::from_secs(1));
///             tokio::task::yield_now().await;
///         }
///     } => {}
/// }
/// assert_eq!(ASKED.load(Ordering::SeqCst), 2);
/// # }
/// ```
pub struct Refused<C> {
    removals: Mutex<HashMap<String, Ask<C>>>,
    added: Notify,
}

impl<C> Default for Refused<C> {
    fn default() -> Self {
        Self { removals: Mutex::default(), added: Notify::new() }
    }
}

impl<C: Clone + Send + Sync> Refused<C> {
    /// Whether the removal of this is asked for again already.
    pub fn has(&self, key: &str) -> bool {
        self.removals().contains_key(key)
    }

    /// Asks for a removal again that was refused, and keeps something until it is done, unless it is asked for
    /// already.
    pub fn keep<F>(
        &self,
        key: String,
        kept: impl Kept,
        ask: impl Fn(C) -> F + Send + Sync + 'static,
    ) where
        F: Future<Output = bool> + Send + 'static,
    {
        let mut removals = self.removals();
        if removals.contains_key(&key) {
            // With no lock held: what is kept may take another one.
            drop(removals);
            return kept.stays();
        }
        let ask = move |client: C| {
            let _kept = &kept;
            Box::pin(ask(client)) as _
        };
        removals.insert(key, Arc::new(ask));
        drop(removals);
        self.added.notify_one();
    }

    /// Asks for all of them again and again.
    ///
    /// # Cancel safety
    /// Cancel-safe: what is left is still there for the next call.
    pub async fn repeat(&self, client: &C, clock: &Clock) {
        loop {
            let asked: Vec<_> = self.copies();
            if asked.is_empty() {
                self.added.notified().await;
            }
            for (key, ask) in asked {
                if ask(client.clone()).await {
                    // Dropped with no lock held: what it keeps takes another one.
                    drop(self.taken(&key));
                }
            }
            clock.sleep(REFUSED_FOR).await;
        }
    }

    fn copies(&self) -> Vec<(String, Ask<C>)> {
        self.removals().iter().map(|(key, ask)| (key.clone(), Arc::clone(ask))).collect()
    }

    fn taken(&self, key: &str) -> Option<Ask<C>> {
        self.removals().remove(key)
    }
}

impl<C> Refused<C> {
    fn removals(&self) -> MutexGuard<'_, HashMap<String, Ask<C>>> {
        self.removals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C> std::fmt::Debug for Refused<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.removals().keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts how it ends.
    struct Record(Arc<Mutex<[usize; 2]>>, bool);

    impl Kept for Record {
        fn stays(mut self) {
            self.1 = true;
        }
    }

    impl Drop for Record {
        fn drop(&mut self) {
            self.0.lock().expect("no panic")[usize::from(self.1)] += 1;
        }
    }

    #[tokio::test]
    async fn what_is_kept_goes_once_it_is_done_and_a_second_refusal_of_the_same_keeps_nothing() {
        let (refused, ended) = (Refused::default(), Arc::new(Mutex::new([0; 2])));
        let record = || Record(Arc::clone(&ended), false);
        refused.keep("a".to_owned(), record(), |allowed: Arc<Mutex<bool>>| async move {
            *allowed.lock().expect("no panic")
        });
        refused.keep("a".to_owned(), record(), |_| std::future::ready(false));
        assert_eq!(*ended.lock().expect("no panic"), [0, 1]);
        let (allowed, clock) = (Arc::new(Mutex::new(false)), Clock::manual());
        let check = async {
            for round in 0..10 {
                *allowed.lock().expect("no panic") = round > 5;
                assert_eq!(refused.has("a"), round <= 6, "{round}");
                clock.advance(REFUSED_FOR);
                for _ in 0..5 {
                    tokio::task::yield_now().await;
                }
            }
        };
        tokio::select! {
            () = refused.repeat(&allowed, &clock) => {}
            () = check => {}
        }
        assert_eq!(*ended.lock().expect("no panic"), [1, 1]);
    }
}
