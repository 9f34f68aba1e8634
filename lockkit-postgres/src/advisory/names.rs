//! A name's key, by which the requests of this client stand in line and talk to the server about it.
//!
//! ```text
//!            a request takes the turn        the server says held        the server grants
//! (no turn) ------------------------> open ------------------> held elsewhere --------> held
//!     ^                                 |  the server grants                             ^  |
//!     |                                 +------------------------------------------------+  |
//!     +--------- the turn is dropped, when the server holds nothing for it ------------------+
//! ```
//!
//! Session-level locks may be taken twice by one session, so the turn is what excludes the requests of one client from
//! each other. It is passed on in the order of arrival. Shared requests at the front of the line have their turns at
//! once, and ask the server one after the other; those that hold make a name *shared*, whatever its stage. A request
//! that only tries waits for the turn while the name is *open*, and is told that the name is held where it would not
//! be granted.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use lockkit_core::{Holder, Kind, LockName, Request, StoreSays};
use sqlx::postgres::{PgAdvisoryLock, PgAdvisoryLockKey};
use tokio::sync::{OwnedMutexGuard, OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock, watch};

use super::budget::Reserved;
use super::session::LockSession;

/// How many names are remembered as contended.
const REMEMBERED: usize = 1024;

/// The key that a name is locked by under the strategy
/// [`Strategy::Advisory`](crate::Strategy::Advisory): the one that sqlx's `PgAdvisoryLock` derives
/// from the same text.
///
/// A client that calls `pg_advisory_lock` with it excludes lockkit's clients, and is excluded by them. Two names
/// whose keys are the same exclude each other; with 64 bits that takes some billions of names.
pub fn key(name: &LockName) -> i64 {
    match PgAdvisoryLock::new(name.as_str()).key() {
        PgAdvisoryLockKey::BigInt(key) => *key,
        // It derives no others.
        other => unreachable!("{other:?}"),
    }
}

/// The key of a name: the one that it was given, or [`key`].
pub(crate) fn key_of(given: &HashMap<LockName, i64>, name: &LockName) -> i64 {
    given.get(name).copied().unwrap_or_else(|| key(name))
}

/// The names that requests of this client are about.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// The keys that the configuration gives.
    given: HashMap<LockName, i64>,
    all: Mutex<HashMap<i64, Arc<Name>>>,
}

#[derive(Debug)]
struct Name {
    turn: Arc<RwLock<()>>,
    /// One shared request at a time asks the server; made for the first.
    asks: OnceLock<Arc<tokio::sync::Mutex<()>>>,
    known: watch::Sender<Known>,
    /// The locks that the server holds for shared requests of ours.
    groups: Mutex<Vec<Weak<Group>>>,
    /// The last request that asked had to wait for another client.
    is_contended: AtomicBool,
}

/// What is known of a name.
#[derive(Clone, Debug, Default)]
pub(super) enum Stage {
    #[default]
    Open,
    HeldElsewhere,
    Held(Holder),
}

/// What is known of a name, and of the requests of ours that are about it.
#[derive(Debug, Default)]
struct Known {
    stage: Stage,
    /// How many share the name, and the last that came to them.
    sharing: usize,
    holder: Option<Holder>,
    /// How many wait to hold it alone.
    writers: usize,
}

impl Known {
    /// Whether a request of this kind would have to wait for others that hold, or wait for another client.
    const fn keeps_out(&self, kind: Kind) -> bool {
        let is_taken = !matches!(self.stage, Stage::Open);
        let is_shared = self.sharing > 0;
        is_taken || is_shared && (!matches!(kind, Kind::Shared) || self.writers > 0)
    }

    fn report(&self, request: &Request) {
        let holder = match &self.stage {
            Stage::Open if self.sharing == 0 => return,
            Stage::Open => self.holder.clone(),
            Stage::HeldElsewhere => None,
            Stage::Held(holder) => Some(holder.clone()),
        };
        request.report(StoreSays::Held(holder));
    }
}

/// A lock that the server holds, or may hold, for those of our requests that share it, on one session.
#[derive(Debug)]
pub(super) struct Group {
    session: Arc<LockSession>,
    /// No request joins once all have left.
    members: AtomicUsize,
    _reserved: Reserved,
}

impl Group {
    /// One with a first member.
    pub(super) fn of(session: &Arc<LockSession>, reserved: Reserved) -> Arc<Self> {
        let (session, members) = (Arc::clone(session), AtomicUsize::new(1));
        Arc::new(Self { session, members, _reserved: reserved })
    }

    pub(super) const fn session(&self) -> &Arc<LockSession> {
        &self.session
    }

    fn join(&self) -> bool {
        let more = |members| (members > 0).then_some(members + 1);
        self.members.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok()
    }

    /// Whether it was the last member that leaves.
    pub(super) fn leave(&self) -> bool {
        self.members.fetch_sub(1, Ordering::SeqCst) == 1
    }
}

/// A name that a request of ours is about, until dropped.
#[derive(Clone, Debug)]
pub(super) struct Visit {
    names: Arc<Names>,
    key: i64,
    name: Arc<Name>,
}

/// The right to ask the server about a name, until dropped.
#[derive(Debug)]
pub(super) struct Turn {
    visit: Visit,
    right: Right,
    /// It shares the name with others now.
    is_sharing: AtomicBool,
}

/// What excludes the requests of this client from each other.
#[derive(Debug)]
enum Right {
    Alone {
        _line: OwnedRwLockWriteGuard<()>,
    },
    /// With others; until it is granted, it alone asks.
    Shared {
        _line: OwnedRwLockReadGuard<()>,
        asks: Mutex<Option<OwnedMutexGuard<()>>>,
    },
}

/// Counts a request that waits to hold a name alone, until dropped.
struct Writer<'a>(&'a Name);

impl<'a> Writer<'a> {
    fn of(name: &'a Name) -> Self {
        // Only the first and the last matter to others.
        name.known.send_if_modified(|known| {
            known.writers += 1;
            known.writers == 1
        });
        Self(name)
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        self.0.known.send_if_modified(|known| {
            known.writers -= 1;
            known.writers == 0
        });
    }
}

impl Names {
    pub(super) fn new(given: HashMap<LockName, i64>) -> Arc<Self> {
        Arc::new(Self { given, all: Mutex::default() })
    }

    /// Two names with one key are one here.
    pub(super) fn visit(self: &Arc<Self>, name: &LockName) -> Visit {
        let key = key_of(&self.given, name);
        let name = Arc::clone(self.all().entry(key).or_insert_with(|| {
            let (turn, asks, groups) = Default::default();
            let (known, is_contended) = (watch::Sender::default(), AtomicBool::new(false));
            Arc::new(Name { turn, asks, known, groups, is_contended })
        }));
        Visit { names: Arc::clone(self), key, name }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<i64, Arc<Name>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut all = self.names.all();
        // The map's and this one.
        let is_last = Arc::strong_count(&self.name) <= 2;
        let is_forgotten =
            !self.name.is_contended.load(Ordering::Relaxed) || all.len() > REMEMBERED;
        if is_last && is_forgotten {
            all.remove(&self.key);
        }
    }
}

impl Visit {
    /// Completes with the turn, in the order of arrival; a request that waits hears meanwhile who holds the name.
    pub(super) async fn turn(self, kind: Kind, waits: Option<&Request>) -> Turn {
        let name = Arc::clone(&self.name);
        let is_shared = kind == Kind::Shared;
        let _writer = (waits.is_some() && !is_shared).then(|| Writer::of(&name));
        let right = async {
            if !is_shared {
                return Right::Alone { _line: Arc::clone(&name.turn).write_owned().await };
            }
            let line = Arc::clone(&name.turn).read_owned().await;
            let asks = Arc::clone(name.asks.get_or_init(Arc::default)).lock_owned().await;
            Right::Shared { _line: line, asks: Mutex::new(Some(asks)) }
        };
        let mut right = std::pin::pin!(right);
        let mut known = name.known.subscribe();
        loop {
            if let Some(request) = waits {
                known.borrow_and_update().report(request);
            }
            tokio::select! {
                biased;
                right = &mut right => {
                    return Turn { visit: self, right, is_sharing: AtomicBool::new(false) };
                }
                _ = known.changed() => {}
            }
        }
    }

    /// The request whose turn it is leaves: what the server said to it holds no more.
    pub(super) fn reopen(&self) {
        self.name.known.send_modify(|known| known.stage = Stage::Open);
    }

    /// Completes when requests of ours hold the name that keep out one of this kind, or wait for another client that
    /// does.
    pub(super) async fn taken(&self, kind: Kind) {
        let is_taken = |known: &Known| known.keeps_out(kind);
        // The sender lives as long as this.
        self.name.known.subscribe().wait_for(is_taken).await.ok();
    }
}

impl Turn {
    pub(super) const fn key(&self) -> i64 {
        self.visit.key
    }

    pub(super) fn kind(&self) -> Kind {
        match self.right {
            Right::Alone { .. } => Kind::Exclusive,
            Right::Shared { .. } => Kind::Shared,
        }
    }

    /// Of a request that asks, or holds alone; of those that share, none speaks for the name.
    pub(super) fn enter(&self, stage: Stage) {
        if self.asks().is_none_or(|asks| asks.is_some()) {
            self.visit.name.known.send_modify(|known| known.stage = stage);
        }
    }

    /// The server has granted.
    pub(super) fn holds(&self, holder: Holder) {
        let Some(mut asks) = self.asks() else { return self.enter(Stage::Held(holder)) };
        self.is_sharing.store(true, Ordering::SeqCst);
        self.visit.name.known.send_modify(|known| {
            known.stage = Stage::Open;
            known.sharing += 1;
            known.holder = Some(holder.with_kind(Kind::Shared));
        });
        // The next one may ask.
        *asks = None;
    }

    /// The request does not hold any more.
    pub(super) fn leaves(&self) {
        if self.is_sharing.swap(false, Ordering::SeqCst) {
            self.visit.name.known.send_modify(|known| known.sharing -= 1);
        }
        self.enter(Stage::Open);
    }

    /// The right of a shared request to ask.
    fn asks(&self) -> Option<MutexGuard<'_, Option<OwnedMutexGuard<()>>>> {
        match &self.right {
            Right::Alone { .. } => None,
            Right::Shared { asks, .. } => Some(asks.lock().unwrap_or_else(PoisonError::into_inner)),
        }
    }

    /// A group that is joined now, of those that fit; its member must leave it.
    pub(super) fn join(&self, fits: impl Fn(&LockSession) -> bool) -> Option<Arc<Group>> {
        let mut groups = self.groups();
        groups.retain(|group| group.strong_count() > 0);
        let mut all = groups.iter().filter_map(Weak::upgrade);
        all.find(|group| !group.session().is_ended() && fits(group.session()) && group.join())
    }

    /// Whether this session holds the lock for those that share it.
    pub(super) fn is_held_on(&self, session: &LockSession) -> bool {
        let all = self.groups();
        all.iter().filter_map(Weak::upgrade).any(|group| std::ptr::eq(&**group.session(), session))
    }

    /// Others may join this group.
    pub(super) fn opens(&self, group: &Arc<Group>) {
        self.groups().push(Arc::downgrade(group));
    }

    fn groups(&self) -> MutexGuard<'_, Vec<Weak<Group>>> {
        self.visit.name.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the last request had to wait for another client.
    pub(super) fn is_contended(&self) -> bool {
        self.visit.name.is_contended.load(Ordering::Relaxed)
    }

    pub(super) fn contended(&self, is_contended: bool) {
        self.visit.name.is_contended.store(is_contended, Ordering::Relaxed);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.leaves();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_turn_passes_on_in_order_and_a_try_is_told_of_a_holder_and_not_of_a_question() {
        const ALONE: Kind = Kind::Exclusive;
        let names = Arc::<Names>::default();
        let [one, other] = ["one", "other"].map(|name| LockName::new(name).expect("a name"));
        let first = names.visit(&one).turn(ALONE, None).await;
        let mut second = pin!(names.visit(&one).turn(ALONE, None));
        let mut third = pin!(names.visit(&one).turn(ALONE, None));
        let beside = names.visit(&one);
        assert!((&mut second).now_or_never().is_none() && (&mut third).now_or_never().is_none());
        assert!(beside.taken(ALONE).now_or_never().is_none(), "nothing is known yet");
        first.enter(Stage::HeldElsewhere);
        assert!(beside.taken(ALONE).now_or_never().is_some());
        assert!(beside.taken(Kind::Shared).now_or_never().is_some());
        first.holds(Holder::new("a"));
        assert!(beside.taken(ALONE).now_or_never().is_some());
        assert!(beside.taken(Kind::Shared).now_or_never().is_some());
        assert!(names.visit(&other).turn(ALONE, None).now_or_never().is_some(), "another name");
        drop(first);
        assert!(beside.taken(ALONE).now_or_never().is_none(), "it is the next request's turn");
        let second = second.now_or_never().expect("its turn");
        assert!((&mut third).now_or_never().is_none());
        second.contended(true);
        drop(second);
        let third = third.now_or_never().expect("its turn");
        assert!(third.is_contended());
        third.contended(false);
        drop((third, beside));
        assert!(names.all().is_empty(), "{names:?}");
    }

    #[tokio::test]
    async fn shared_requests_ask_one_after_the_other_and_none_passes_a_writer_of_its_client() {
        const SHARED: Kind = Kind::Shared;
        let names = Arc::<Names>::default();
        let name = LockName::new("one").expect("a name");
        let (clock, ttl) = (lockkit_core::Clock::system(), std::time::Duration::from_secs(3));
        let request = Request::new(name.clone(), ttl, clock).expect("random numbers");
        let first = names.visit(&name).turn(SHARED, None).await;
        let mut second = pin!(names.visit(&name).turn(SHARED, None));
        assert!((&mut second).now_or_never().is_none(), "while another one asks");
        let beside = names.visit(&name);
        assert!(beside.taken(SHARED).now_or_never().is_none(), "nothing is known yet");
        first.holds(Holder::new("a"));
        assert!(beside.taken(SHARED).now_or_never().is_none(), "it may join");
        assert!(beside.taken(Kind::Exclusive).now_or_never().is_some());
        let second = second.now_or_never().expect("the first has its answer");
        second.enter(Stage::HeldElsewhere);
        assert!(beside.taken(SHARED).now_or_never().is_some(), "another client waits");
        second.holds(Holder::new("b"));
        let mut writer = Box::pin(names.visit(&name).turn(Kind::Exclusive, Some(&request)));
        assert!((&mut writer).now_or_never().is_none());
        let mut third = pin!(names.visit(&name).turn(SHARED, None));
        assert!((&mut third).now_or_never().is_none(), "behind the writer");
        assert!(beside.taken(SHARED).now_or_never().is_some());
        drop(writer);
        assert!(third.now_or_never().is_some(), "the writer has left");
        assert!(beside.taken(SHARED).now_or_never().is_none());
        drop(first);
        assert!(beside.taken(Kind::Exclusive).now_or_never().is_some(), "one still shares");
        drop(second);
        assert!(beside.taken(Kind::Exclusive).now_or_never().is_none());
        drop(beside);
        assert!(names.all().is_empty(), "{names:?}");
    }
}
