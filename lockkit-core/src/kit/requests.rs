//! A record for each request: what its calls share, and what of it may still reach the store.

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::{Error, Instant, LossReason, Request, RequestId, Result};

/// As long as stores keep a tombstone: nothing is delivered later than that.
const LATEST_DELIVERY: Duration = Duration::from_secs(120);
/// Records that are of no more use are removed once there are this many.
const MANY: usize = 256;

/// The requests of a provider that a call or a lease works on, and those of which a sending may still
/// reach the store.
///
/// ```text
///            enter                  the last entry is dropped
/// (nothing) -------> in use ---------------------------------------> (nothing)
///                      |                                                 ^
///                      | the last entry is dropped, while a sending      | 120 s after the
///                      v has no answer                                   | last such sending
///                    may still arrive -----------------------------------+
/// ```
///
/// One request has one record, whichever of its replays asks. [`withdraw`](Record::withdraw) sets a flag
/// that is never cleared; [`send`](Record::send) refuses after it. So either the withdrawal finds a sending
/// in [`may_still_arrive`](Record::may_still_arrive), or that sending was never made. Upholds C9.
///
/// `T` is what the backend notes of a request besides. It lasts as long as the record, and keeps it where
/// it [says so](Notes::are_kept).
///
/// ```
/// # fn main() -> lockkit_core::Result<()> {
/// use std::sync::Arc;
/// use std::time::Duration;
///
/// use lockkit_core::{Clock, LockName, Request, kit::Requests};
///
/// let requests = Arc::<Requests<()>>::default();
/// let request = Request::new(LockName::new("a")?, Duration::from_secs(3), Clock::system())?;
/// let entry = requests.enter(&request);
/// let sending = entry.send()?;
/// assert!(entry.may_still_arrive());
/// sending.answered();
/// assert!(!entry.may_still_arrive());
///
/// requests.enter(&request).withdraw();
/// assert!(entry.send().is_err());
/// drop(entry);
/// assert!(requests.find(request.id()).is_none());
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Requests<T>(Mutex<Records<T>>);

#[derive(Debug)]
struct Records<T> {
    of: HashMap<RequestId, Arc<Record<T>>>,
    /// How many there were when the useless ones were last removed.
    left: usize,
}

/// One request, as the provider knows it.
#[derive(Debug)]
pub struct Record<T> {
    request: Request,
    state: Mutex<State<T>>,
    changed: Notify,
}

/// What a backend notes of a request.
pub trait Notes: Default {
    /// Whether the record is kept although no call works on it: something of it may be in the store.
    fn are_kept(&self) -> bool {
        false
    }
}

impl Notes for () {}

#[derive(Debug, Default)]
struct State<T> {
    /// The calls and leases that work on it.
    entries: usize,
    /// When the last of them was dropped, if none has come since.
    left_at: Option<Instant>,
    /// Sendings that have no answer yet.
    under_way: usize,
    /// When the last sending was given up without an answer.
    given_up: Option<Instant>,
    is_withdrawn: bool,
    /// The token of its latest grant.
    latest: u64,
    data: T,
}

/// What a backend notes of a request, locked; from [`Record::data`]. The provider's [`Requests`] may not
/// be used while it is.
#[derive(Debug)]
pub struct Data<'a, T> {
    state: MutexGuard<'a, State<T>>,
    changed: &'a Notify,
    is_changed: bool,
}

/// A call or a lease that works on a request, until dropped.
#[derive(Debug)]
pub struct Entry<T: Notes> {
    requests: Arc<Requests<T>>,
    record: Arc<Record<T>>,
}

/// One sending of a request to the store; dropped without [`answered`](Self::answered), it may still
/// arrive.
#[derive(Debug)]
#[must_use = "dropped, the sending counts as unanswered"]
pub struct Sending<'a, T> {
    record: &'a Record<T>,
    is_answered: bool,
}

impl<T> Default for Requests<T> {
    fn default() -> Self {
        Self(Mutex::new(Records { of: HashMap::new(), left: 0 }))
    }
}

impl<T: Notes> Requests<T> {
    /// Begins to work on a request: its record, made if it has none.
    pub fn enter(self: &Arc<Self>, request: &Request) -> Entry<T> {
        let mut records = self.records();
        let record = Arc::clone(records.of.entry(request.id()).or_insert_with(|| {
            let (request, state) = (request.clone(), Mutex::default());
            Arc::new(Record { request, state, changed: Notify::new() })
        }));
        {
            let mut state = record.state();
            state.entries += 1;
            state.left_at = None;
        }
        Entry { requests: Arc::clone(self), record }
    }

    /// Removes the record of this request if nothing needs it any more: for a backend whose notes no
    /// longer keep it.
    pub fn forget(&self, id: RequestId) {
        let mut records = self.records();
        if records.of.get(&id).is_some_and(|record| record.is_useless(record.request.clock().now()))
        {
            records.of.remove(&id);
        }
    }

    /// Removes each record that no call or lease works on and whose notes are over: nothing of the request
    /// is in the store, and the store refuses what is still on its way.
    pub fn prune(&self, is_over: impl Fn(&T) -> bool) {
        self.records().of.retain(|_, record| {
            let state = record.state();
            state.entries > 0 || !is_over(&state.data)
        });
    }

    /// The records that no call or lease has worked on for so long, and that `take` accepts.
    ///
    /// `take` runs while the record is locked: a call that comes back finds what `take` noted, or it came
    /// first, and the record is no orphan.
    pub fn orphans(
        &self,
        age: Duration,
        mut take: impl FnMut(&mut T) -> bool,
    ) -> Vec<Arc<Record<T>>> {
        let mut is_taken = |record: &&Arc<Record<T>>| {
            let now = record.request.clock().now();
            let mut state = record.state();
            let left = state.left_at.map(|at| now.saturating_since(at));
            left >= Some(age) && take(&mut state.data)
        };
        self.records().of.values().filter(&mut is_taken).cloned().collect()
    }
}

impl<T> Requests<T> {
    /// The record of this request, while it has one.
    pub fn find(&self, id: RequestId) -> Option<Arc<Record<T>>> {
        self.records().of.get(&id).cloned()
    }

    /// The records of all requests that a call or a lease works on.
    pub fn in_use(&self) -> Vec<Arc<Record<T>>> {
        let is_in_use = |record: &&Arc<Record<T>>| record.state().entries > 0;
        self.records().of.values().filter(is_in_use).cloned().collect()
    }

    /// All records.
    pub fn all(&self) -> Vec<Arc<Record<T>>> {
        self.records().of.values().cloned().collect()
    }

    /// Whether a sending of this request may still reach the store.
    pub fn may_still_arrive(&self, id: RequestId) -> bool {
        self.find(id).is_some_and(|record| record.may_still_arrive())
    }

    fn records(&self) -> MutexGuard<'_, Records<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Record<T> {
    /// The request, as the first of its calls gave it.
    pub const fn request(&self) -> &Request {
        &self.request
    }

    /// Counts a sending, before it is sent.
    ///
    /// # Errors
    /// `Unavailable` (not applied): the request was withdrawn, and must not be sent any more.
    pub fn send(&self) -> Result<Sending<'_, T>> {
        let mut state = self.state();
        if state.is_withdrawn {
            return Err(Error::withdrawn());
        }
        state.under_way += 1;
        Ok(Sending { record: self, is_answered: false })
    }

    /// Whether a sending of this request may still reach the store: then its end leaves a tombstone.
    pub fn may_still_arrive(&self) -> bool {
        let state = self.state();
        let now = self.request.clock().now();
        state.under_way > 0 || state.given_up.is_some_and(|at| !is_over(at, now))
    }

    /// Whether a sending has no answer and was not [settled](Self::settle), however long ago: for a store
    /// that can refuse what comes late for as long as it likes.
    pub fn is_unsettled(&self) -> bool {
        let state = self.state();
        state.under_way > 0 || state.given_up.is_some()
    }

    /// Notes that the store refuses whatever was sent before and has no answer.
    pub fn settle(&self) {
        self.state().given_up = None;
    }

    /// Notes a grant of the request, with its token as the store counts it.
    pub fn granted(&self, token: u64) {
        let mut state = self.state();
        state.latest = state.latest.max(token);
    }

    /// Fails where the request was granted again since it was granted with this token: that grant has ended, and a
    /// call about it that names the request would renew or end the later one (C6).
    ///
    /// # Errors
    /// `Lost`: it has ended.
    pub fn is_latest(&self, token: u64) -> Result<()> {
        if self.state().latest > token { Err(Error::lost(LossReason::Removed)) } else { Ok(()) }
    }

    /// Notes that the request is withdrawn, and tells its calls. It stays so.
    pub fn withdraw(&self) {
        self.state().is_withdrawn = true;
        self.changed.notify_waiters();
    }

    /// Whether the request was withdrawn.
    pub fn is_withdrawn(&self) -> bool {
        self.state().is_withdrawn
    }

    /// Completes when the request is withdrawn; level-triggered.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub async fn withdrawn(&self) {
        self.until(|state| state.is_withdrawn.then_some(())).await;
    }

    /// What the backend notes of the request, locked. A change made through it wakes those that
    /// [`wait_for`](Self::wait_for) it.
    pub fn data(&self) -> Data<'_, T> {
        Data { state: self.state(), changed: &self.changed, is_changed: false }
    }

    /// Completes with what `pick` finds in the notes, at once or after one of the next changes. `pick`
    /// may take it out.
    ///
    /// # Cancel safety
    /// Cancel-safe: what was not returned was not taken.
    pub async fn wait_for<R>(&self, mut pick: impl FnMut(&mut T) -> Option<R>) -> R {
        self.until(move |state| pick(&mut state.data)).await
    }

    /// As [`wait_for`](Self::wait_for), but fails once the request is withdrawn.
    pub(super) async fn wait_unless_withdrawn<R>(
        &self,
        mut pick: impl FnMut(&mut T) -> Option<R>,
    ) -> Result<R> {
        self.until(move |state| {
            let withdrawn = state.is_withdrawn.then(|| Err(Error::withdrawn()));
            withdrawn.or_else(|| pick(&mut state.data).map(Ok))
        })
        .await
    }

    async fn until<R>(&self, mut pick: impl FnMut(&mut State<T>) -> Option<R>) -> R {
        loop {
            // Made before the check, so that no change between the two is missed.
            let changed = self.changed.notified();
            if let Some(found) = pick(&mut self.state()) {
                return found;
            }
            changed.await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Notes> Record<T> {
    /// Whether nothing needs this record any more.
    fn is_useless(&self, now: Instant) -> bool {
        let state = self.state();
        let is_over = state.given_up.is_none_or(|at| is_over(at, now));
        state.entries == 0 && state.under_way == 0 && is_over && !state.data.are_kept()
    }
}

/// Whether nothing sent before `given_up` is delivered any more.
fn is_over(given_up: Instant, now: Instant) -> bool {
    now.saturating_since(given_up) > LATEST_DELIVERY
}

impl<T> Data<'_, T> {
    /// Whether the request was withdrawn.
    pub fn is_withdrawn(&self) -> bool {
        self.state.is_withdrawn
    }

    /// The notes, for a change that wakes the other calls of the request, where there are any. The call that makes
    /// it is not woken by it.
    pub fn for_others(&mut self) -> &mut T {
        self.is_changed |= self.state.entries > 1;
        &mut self.state.data
    }
}

impl<T> Deref for Data<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.state.data
    }
}

impl<T> DerefMut for Data<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.is_changed = true;
        &mut self.state.data
    }
}

impl<T> Drop for Data<'_, T> {
    fn drop(&mut self) {
        if self.is_changed {
            self.changed.notify_waiters();
        }
    }
}

impl<T: Notes> Deref for Entry<T> {
    type Target = Record<T>;

    fn deref(&self) -> &Record<T> {
        &self.record
    }
}

impl<T: Notes> Clone for Entry<T> {
    fn clone(&self) -> Self {
        self.record.state().entries += 1;
        Self { requests: Arc::clone(&self.requests), record: Arc::clone(&self.record) }
    }
}

impl<T: Notes> Drop for Entry<T> {
    fn drop(&mut self) {
        // Before the record: a call that enters meanwhile finds it, or makes another.
        let mut records = self.requests.records();
        let (id, now) = (self.record.request.id(), self.record.request.clock().now());
        {
            let mut state = self.record.state();
            state.entries -= 1;
            state.left_at = (state.entries == 0).then_some(now);
        }
        if self.record.is_useless(now) {
            records.of.remove(&id);
        }
        // Only at twice as many, so that each record is looked at once or twice, however many there are.
        if records.of.len() >= MANY.max(records.left * 2) {
            records.of.retain(|_, record| !record.is_useless(record.request.clock().now()));
            records.left = records.of.len();
        }
    }
}

impl<T> Sending<'_, T> {
    /// The store has answered: this sending does not arrive any more.
    pub fn answered(mut self) {
        self.is_answered = true;
    }
}

impl<T> Drop for Sending<'_, T> {
    fn drop(&mut self) {
        let now = self.record.request.clock().now();
        let mut state = self.record.state();
        state.under_way -= 1;
        if !self.is_answered {
            state.given_up = Some(now);
        }
    }
}

#[cfg(test)]
mod tests;
