//! The turns of requests that ask where many do.
//!
//! A crowd that asked at once would not be answered in time, and ask again, and other names would wait behind it.
//! So the requests of a crowd stand in a line of their name, and the first of each line waits for one of a few
//! turns. While there is a line at a name, those that come stand behind it: the order in which they are sent is
//! that in which they came.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use lockkit_core::LockName;
use tokio::sync::{OwnedMutexGuard, Semaphore, SemaphorePermit};

/// How many requests of crowds ask at once.
const AT_ONCE: usize = 16;

#[derive(Debug)]
pub(crate) struct Turns {
    lines: Mutex<HashMap<LockName, Line>>,
    to_enter: Semaphore,
    to_read: Semaphore,
}

/// The requests that wait to be sent, or are about to be, at one name.
#[derive(Debug, Default)]
struct Line {
    length: usize,
    /// Of its first one. A mutex of tokio is given to those that wait for it in the order in which they came.
    first: Arc<tokio::sync::Mutex<()>>,
}

/// A turn, until dropped.
#[derive(Debug, Default)]
pub(crate) struct Turn<'a> {
    /// Until it is sent.
    in_line: Option<InLine<'a>>,
    /// Until it is answered.
    _permit: Option<SemaphorePermit<'a>>,
}

#[derive(Debug)]
struct InLine<'a> {
    turns: &'a Turns,
    name: &'a LockName,
    first: Option<OwnedMutexGuard<()>>,
}

impl Default for Turns {
    fn default() -> Self {
        let [to_enter, to_read] = [(); 2].map(|()| Semaphore::new(AT_ONCE));
        Self { lines: Mutex::default(), to_enter, to_read }
    }
}

impl Turns {
    /// Waits for a turn to join a queue; at once where there is no line, and no crowd.
    pub(crate) async fn to_enter<'a>(
        &'a self,
        name: &'a LockName,
        is_crowd: impl Fn() -> bool,
    ) -> Turn<'a> {
        let in_line = self.stand(name, is_crowd()).await;
        // It may have gone while this one stood in the line.
        let waits = in_line.is_some() && is_crowd();
        let permit = if waits { self.to_enter.acquire().await.ok() } else { None };
        Turn { in_line, _permit: permit }
    }

    /// Waits until those that are in line at this name are sent: for a request that would take the name before them.
    pub(crate) async fn to_take<'a>(&'a self, name: &'a LockName) -> Turn<'a> {
        Turn { in_line: self.stand(name, false).await, _permit: None }
    }

    /// Waits for a turn to read. No crowd of requests is before it: what a watch tells is of use only once that
    /// was read which the watch does not tell.
    pub(crate) async fn to_read(&self) -> Option<SemaphorePermit<'_>> {
        self.to_read.acquire().await.ok()
    }

    /// Completes as the first one in line; `None`: there is no line, and none begins.
    async fn stand<'a>(&'a self, name: &'a LockName, begins: bool) -> Option<InLine<'a>> {
        let first = {
            let mut lines = self.lines();
            if !begins && !lines.contains_key(name) {
                return None;
            }
            let line = lines.entry(name.clone()).or_default();
            line.length += 1;
            Arc::clone(&line.first)
        };
        let mut in_line = InLine { turns: self, name, first: None };
        in_line.first = Some(first.lock_owned().await);
        Some(in_line)
    }

    fn lines(&self) -> MutexGuard<'_, HashMap<LockName, Line>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn<'_> {
    /// Makes the call; the next one in line goes once this one's request is on its way.
    pub(crate) async fn send<T>(&mut self, call: impl Future<Output = T>) -> T {
        let mut call = pin!(call);
        // It hands its request to the connection when it is first polled.
        let outcome = poll_fn(|context| Poll::Ready(call.as_mut().poll(context))).await;
        self.in_line = None;
        match outcome {
            Poll::Ready(outcome) => outcome,
            Poll::Pending => call.await,
        }
    }
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        self.first = None;
        let mut lines = self.turns.lines();
        if let Some(line) = lines.get_mut(self.name) {
            line.length -= 1;
            if line.length == 0 {
                lines.remove(self.name);
            }
        }
    }
}

#[cfg(test)]
impl Turns {
    /// Takes all turns to enter.
    pub(crate) async fn all(&self) -> SemaphorePermit<'_> {
        self.to_enter.acquire_many(u32::try_from(AT_ONCE).expect("a few")).await.expect("the turns")
    }

    /// Takes all turns to read.
    pub(crate) async fn all_to_read(&self) -> SemaphorePermit<'_> {
        self.to_read.acquire_many(u32::try_from(AT_ONCE).expect("a few")).await.expect("the turns")
    }

    /// How many stand in line at this name.
    pub(crate) fn in_line(&self, name: &LockName) -> usize {
        self.lines().get(name).map_or(0, |line| line.length)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::task::JoinSet;

    use super::*;

    const SLACK: Duration = Duration::from_secs(5);

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn those_in_line_are_sent_in_the_order_in_which_they_came_and_not_one_after_the_other() {
        const COUNT: usize = 12;
        let [name, other] = ["a", "b"].map(|name| LockName::new(name).expect("a name"));
        let turns = Arc::new(Turns::default());
        let all = turns.all().await;
        let (tell, mut sent) = tokio::sync::mpsc::unbounded_channel();
        let (answer, _) = tokio::sync::broadcast::channel::<()>(1);
        let mut tasks = JoinSet::new();
        for number in 0..COUNT {
            let (turns_of_all, name_of_all) = (Arc::clone(&turns), name.clone());
            let (tell, mut answered) = (tell.clone(), answer.subscribe());
            tasks.spawn(async move {
                // Some are of a crowd, some are none any more when they come, and some only try.
                let mut turn = match number % 3 {
                    2 => turns_of_all.to_take(&name_of_all).await,
                    kind => turns_of_all.to_enter(&name_of_all, || kind == 0).await,
                };
                let call = async {
                    tell.send(number).expect("the test");
                    answered.recv().await.expect("an answer");
                };
                turn.send(call).await;
            });
            let stands = async {
                while turns.in_line(&name) != number + 1 {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(SLACK, stands).await.expect("a place in the line");
        }
        assert!(sent.try_recv().is_err(), "sent without a turn");
        // At another name there is no line, and no crowd.
        turns.to_enter(&other, || false).await.send(async {}).await;
        drop(all);
        let mut numbers = Vec::new();
        sent.recv_many(&mut numbers, 1).await;
        while numbers.len() < COUNT {
            sent.recv_many(&mut numbers, COUNT).await;
        }
        assert!(numbers.is_sorted(), "{numbers:?}");
        // None was answered yet.
        answer.send(()).expect("the tasks");
        tasks.join_all().await;
        assert_eq!(turns.in_line(&name), 0);
    }

    #[tokio::test]
    async fn the_line_goes_on_where_one_leaves_it() {
        let name = LockName::new("a").expect("a name");
        let turns = Turns::default();
        let all = turns.all().await;
        let comes = |is_crowd: bool| Box::pin(turns.to_enter(&name, move || is_crowd));
        let (mut first, mut second, mut third) = (comes(true), comes(true), comes(false));
        for waiting in [&mut first, &mut second, &mut third] {
            assert!(futures_util::FutureExt::now_or_never(waiting).is_none());
        }
        drop((first, second));
        // The crowd is gone: it needs no turn.
        let turn = tokio::time::timeout(SLACK, third).await.expect("its turn");
        drop((turn, all));
        assert_eq!(turns.in_line(&name), 0);
    }
}
