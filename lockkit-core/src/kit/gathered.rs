//! One run of some work for all callers that came before it began.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

/// Work that is done for many callers at once: one look at a store, say, that answers all of them.
///
/// ```text
///         another works on the key            the work that was done meanwhile was for this caller too
/// run ----------------------------> gathered ---------------------------------------------------------> answered
///  |                                   | it was not: it works for all that have gathered by now             ^
///  +--> works, for those beside it <---+                                                                    |
///         +-------------------------------------------------------------------------------------------------+
/// ```
///
/// Work for a key begins after all callers that it answers have come, and no two work on a key at once.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use std::cell::Cell;
///
/// use lockkit_core::kit::Gathered;
///
/// let (looks, gathered) = (Cell::new(0), Gathered::default());
/// let look = |items: Vec<u8>| {
///     looks.set(looks.get() + 1);
///     async move { tokio::task::yield_now().await; items.len() }
/// };
/// let [first, second, third] = [1, 2, 3].map(|item| gathered.run("a", item, look));
/// assert_eq!(tokio::join!(first, second, third), (1, 2, 2));
/// assert_eq!(looks.get(), 2);
/// # }
/// ```
#[derive(Debug)]
pub struct Gathered<K, T, O>(Mutex<HashMap<K, Arc<Round<T, O>>>>);

/// The callers of one key.
#[derive(Debug)]
struct Round<T, O> {
    turn: tokio::sync::Mutex<()>,
    waiting: Mutex<Vec<(T, oneshot::Sender<O>)>>,
}

/// A caller, until it is answered or gives up.
struct Caller<'a, K: Eq + Hash, T, O> {
    gathered: &'a Gathered<K, T, O>,
    key: K,
    round: Arc<Round<T, O>>,
}

impl<K, T, O> Default for Gathered<K, T, O> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Clone + Eq + Hash, T: Clone, O: Clone> Gathered<K, T, O> {
    /// What `work` gives for this item and those that gathered with it, done by this caller or by another.
    ///
    /// # Cancel safety
    /// Cancel-safe, if `work` is: another caller that waits works in its place.
    pub async fn run<F>(&self, key: K, item: T, work: impl FnOnce(Vec<T>) -> F) -> O
    where
        F: Future<Output = O>,
    {
        let round = {
            let empty = || Round { turn: tokio::sync::Mutex::default(), waiting: Mutex::default() };
            Arc::clone(self.rounds().entry(key.clone()).or_insert_with(|| Arc::new(empty())))
        };
        let caller = Caller { gathered: self, key, round };
        let (done, mut answer) = oneshot::channel();
        caller.round.waiting().push((item.clone(), done));
        let _turn = caller.round.turn.lock().await;
        let mut items = Vec::new();
        match answer.try_recv() {
            Ok(outcome) => return outcome,
            Err(TryRecvError::Empty) => {}
            // The caller that worked for it was dropped.
            Err(TryRecvError::Closed) => items.push(item),
        }
        let mut waiting = Vec::new();
        for (item, done) in std::mem::take(&mut *caller.round.waiting()) {
            items.push(item);
            waiting.push(done);
        }
        let outcome = work(items).await;
        for done in waiting {
            // Perhaps it has given up.
            let _ = done.send(outcome.clone());
        }
        outcome
    }
}

impl<K, T, O> Gathered<K, T, O> {
    fn rounds(&self) -> MutexGuard<'_, HashMap<K, Arc<Round<T, O>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T, O> Round<T, O> {
    fn waiting(&self) -> MutexGuard<'_, Vec<(T, oneshot::Sender<O>)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The last caller of a key leaves nothing of it.
impl<K: Eq + Hash, T, O> Drop for Caller<'_, K, T, O> {
    fn drop(&mut self) {
        let mut rounds = self.gathered.rounds();
        // The map's own, and this one.
        if Arc::strong_count(&self.round) <= 2 {
            rounds.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use futures_util::FutureExt;
    use futures_util::future::join_all;

    use super::*;

    #[tokio::test]
    async fn who_comes_while_one_works_is_answered_by_the_next_round_and_nothing_is_kept() {
        let (gathered, rounds) = (Gathered::default(), RefCell::new(Vec::new()));
        let work = |items: Vec<u8>| {
            rounds.borrow_mut().push(items.clone());
            async move {
                tokio::task::yield_now().await;
                items
            }
        };
        let answers = join_all((0..100).map(|item| gathered.run("a", item, work))).await;
        assert_eq!(rounds.borrow().iter().map(Vec::len).collect::<Vec<_>>(), [1, 99]);
        for (item, answer) in (0..100).zip(answers) {
            assert!(answer.contains(&item));
        }
        assert!(gathered.rounds().is_empty());
    }

    #[tokio::test]
    async fn keys_do_not_wait_for_each_other() {
        let gathered = Gathered::default();
        let mut stuck = Box::pin(gathered.run("a", 1, |_| std::future::pending::<usize>()));
        assert!(stuck.as_mut().now_or_never().is_none());
        assert_eq!(gathered.run("b", 2, async |items: Vec<u8>| items.len()).await, 1);
    }

    #[tokio::test]
    async fn a_caller_that_is_dropped_at_work_is_replaced_by_one_that_it_worked_for() {
        let gathered = Gathered::default();
        let mut first = Box::pin(gathered.run("a", 1, async |items| items));
        assert!(first.as_mut().now_or_never().is_some());
        // It has gathered both, and is dropped before it is done.
        let turn = {
            let blocker = gathered.run("a", 2, |_: Vec<u8>| std::future::pending::<Vec<u8>>());
            let mut blocker = Box::pin(blocker);
            assert!(blocker.as_mut().now_or_never().is_none());
            blocker
        };
        let mut second = Box::pin(gathered.run("a", 3, |_| std::future::pending()));
        assert!(second.as_mut().now_or_never().is_none());
        let mut third = Box::pin(gathered.run("a", 4, async |items| items));
        assert!(third.as_mut().now_or_never().is_none());
        drop(turn);
        assert!(second.as_mut().now_or_never().is_none());
        drop(second);
        assert_eq!(third.await, [4]);
        assert!(gathered.rounds().is_empty());
    }
}
