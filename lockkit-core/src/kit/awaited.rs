//! The names that the requests of a client wait for, for a task that keeps them in the store.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::{Instant, LockName, Request};

/// The names that requests wait for, each with when the store is to be asked about it.
///
/// A store whose clients send one heartbeat for all their waiters needs to know what they wait for, how short
/// the shortest of their ttls is, and when the term of a holder ends of which the store told.
///
/// ```
/// # fn main() -> lockkit_core::Result<()> {
/// use std::time::Duration;
///
/// use lockkit_core::{Clock, LockName, Request, kit::Awaited};
///
/// let (awaited, clock) = (Awaited::default(), Clock::manual());
/// let name = LockName::new("a")?;
/// let request = Request::new(name.clone(), Duration::from_secs(3), clock.clone())?;
/// let waits = awaited.enter(&request);
/// assert_eq!(awaited.names(), [name.clone()]);
/// assert_eq!(awaited.shortest_ttl(), Some(Duration::from_secs(3)));
/// let soon = clock.now().saturating_add(Duration::from_millis(5));
/// awaited.ask_at(&name, soon);
/// assert_eq!(awaited.next_due(), Some(soon));
/// assert!(awaited.take_due(clock.now()).is_empty());
/// assert_eq!(awaited.take_due(soon), [name]);
/// drop(waits);
/// assert!(awaited.is_empty());
/// # Ok(()) }
/// ```
#[derive(Debug, Default)]
pub struct Awaited {
    state: Mutex<State>,
    sooner: Notify,
}

#[derive(Debug, Default)]
struct State {
    names: HashMap<LockName, Waited>,
    /// The requests' ttls, each with how many have it.
    ttls: BTreeMap<Duration, usize>,
}

#[derive(Debug, Default)]
struct Waited {
    count: usize,
    due: Option<Instant>,
}

/// A request that waits, or is about to, until dropped.
#[derive(Debug)]
pub struct Waits<'a> {
    awaited: &'a Awaited,
    name: &'a LockName,
    ttl: Duration,
}

impl Awaited {
    /// A request waits from now on, until what this gives is dropped.
    pub fn enter<'a>(&'a self, request: &'a Request) -> Waits<'a> {
        let (name, ttl) = (request.name(), request.ttl());
        let mut state = self.state();
        *state.ttls.entry(ttl).or_default() += 1;
        match state.names.get_mut(name) {
            Some(waited) => waited.count += 1,
            None => drop(state.names.insert(name.clone(), Waited { count: 1, due: None })),
        }
        drop(state);
        Waits { awaited: self, name, ttl }
    }

    /// Whether no request waits.
    pub fn is_empty(&self) -> bool {
        self.state().names.is_empty()
    }

    /// The names that are waited for.
    pub fn names(&self) -> Vec<LockName> {
        self.state().names.keys().cloned().collect()
    }

    /// The shortest ttl of those that wait.
    pub fn shortest_ttl(&self) -> Option<Duration> {
        self.state().ttls.keys().next().copied()
    }

    /// The store is to be asked about a name at this instant, unless it is before; nothing where no request
    /// waits for it.
    pub fn ask_at(&self, name: &LockName, at: Instant) {
        let mut state = self.state();
        let Some(waited) = state.names.get_mut(name) else { return };
        if waited.due.is_none_or(|due| at < due) {
            waited.due = Some(at);
            drop(state);
            self.sooner.notify_one();
        }
    }

    /// When the store is to be asked about the first of them.
    pub fn next_due(&self) -> Option<Instant> {
        self.state().names.values().filter_map(|waited| waited.due).min()
    }

    /// The names about which the store is to be asked by `now`; each is given once.
    pub fn take_due(&self, now: Instant) -> Vec<LockName> {
        let mut state = self.state();
        let due = state.names.iter_mut().filter(|(_, waited)| waited.due <= Some(now));
        let due = due.filter_map(|(name, waited)| waited.due.take().map(|_| name.clone()));
        due.collect()
    }

    /// Completes when the store is to be asked about a name sooner than before.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub async fn sooner(&self) {
        self.sooner.notified().await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        let mut state = self.awaited.state();
        if let Some(count) = state.ttls.get_mut(&self.ttl) {
            *count -= 1;
            if *count == 0 {
                state.ttls.remove(&self.ttl);
            }
        }
        if let Some(waited) = state.names.get_mut(self.name) {
            waited.count -= 1;
            if waited.count == 0 {
                state.names.remove(self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Clock;

    fn request(name: &str, ttl: Duration) -> Request {
        let name = LockName::new(name).expect("a name");
        Request::new(name, ttl, Clock::manual()).expect("a request")
    }

    #[test]
    fn a_name_is_there_while_the_last_of_its_requests_waits_and_so_is_a_ttl() {
        let [ms, sec] = [Duration::from_millis(100), Duration::from_secs(1)];
        let (awaited, short, long) = (Awaited::default(), request("a", ms), request("a", sec));
        let first = awaited.enter(&short);
        let second = awaited.enter(&long);
        assert_eq!(awaited.shortest_ttl(), Some(ms));
        drop(first);
        assert_eq!((awaited.names().len(), awaited.shortest_ttl()), (1, Some(sec)));
        drop(second);
        assert!(awaited.is_empty() && awaited.shortest_ttl().is_none());
    }

    #[test]
    fn a_name_that_is_due_is_given_once_and_only_a_sooner_instant_counts() {
        let (awaited, waiting) = (Awaited::default(), request("a", Duration::from_secs(1)));
        let at = |ms: u64| Instant::from_origin(Duration::from_millis(ms));
        awaited.ask_at(waiting.name(), at(1));
        let _waits = awaited.enter(&waiting);
        assert_eq!(awaited.next_due(), None, "no request waited for it then");
        awaited.ask_at(waiting.name(), at(7));
        awaited.ask_at(waiting.name(), at(9));
        assert_eq!(awaited.next_due(), Some(at(7)));
        assert!(awaited.take_due(at(6)).is_empty());
        assert_eq!(awaited.take_due(at(7)).len(), 1);
        assert!(awaited.take_due(at(7)).is_empty() && awaited.next_due().is_none());
    }
}
