//! A name's key, by which one request of this client at a time talks to the server about it.
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
//! each other. It is passed on in the order of arrival. A request that only tries waits for the turn while
//! it is *open*, and is told that the name is held in the other stages.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lockkit_core::{Holder, LockName, Request, StoreSays};
use sqlx::postgres::{PgAdvisoryLock, PgAdvisoryLockKey};
use tokio::sync::{OwnedMutexGuard, watch};

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
    turn: Arc<tokio::sync::Mutex<()>>,
    stage: watch::Sender<Stage>,
    /// The last request that asked had to wait for another client.
    is_contended: AtomicBool,
}

/// What is known of a name.
#[derive(Clone, Debug)]
pub(super) enum Stage {
    Open,
    HeldElsewhere,
    Held(Holder),
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
    _exclusive: OwnedMutexGuard<()>,
}

impl Names {
    pub(super) fn new(given: HashMap<LockName, i64>) -> Arc<Self> {
        Arc::new(Self { given, all: Mutex::default() })
    }

    /// Two names with one key are one here.
    pub(super) fn visit(self: &Arc<Self>, name: &LockName) -> Visit {
        let key = key_of(&self.given, name);
        let name = Arc::clone(self.all().entry(key).or_insert_with(|| {
            let (turn, stage) = (Arc::default(), watch::Sender::new(Stage::Open));
            Arc::new(Name { turn, stage, is_contended: AtomicBool::new(false) })
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
    pub(super) async fn turn(self, waits: Option<&Request>) -> Turn {
        let mut turn = std::pin::pin!(Arc::clone(&self.name.turn).lock_owned());
        let mut stage = self.name.stage.subscribe();
        loop {
            if let Some(request) = waits {
                match &*stage.borrow_and_update() {
                    Stage::Open => {}
                    Stage::HeldElsewhere => request.report(StoreSays::Held(None)),
                    Stage::Held(holder) => request.report(StoreSays::Held(Some(holder.clone()))),
                }
            }
            tokio::select! {
                biased;
                exclusive = &mut turn => return Turn { visit: self, _exclusive: exclusive },
                _ = stage.changed() => {}
            }
        }
    }

    /// The request whose turn it is leaves: what the server said to it holds no more.
    pub(super) fn reopen(&self) {
        self.name.stage.send_replace(Stage::Open);
    }

    /// Completes when a request of ours holds the name, or waits for another client that does.
    pub(super) async fn taken(&self) {
        let is_taken = |stage: &Stage| !matches!(stage, Stage::Open);
        // The sender lives as long as this.
        self.name.stage.subscribe().wait_for(is_taken).await.ok();
    }
}

impl Turn {
    pub(super) const fn key(&self) -> i64 {
        self.visit.key
    }

    pub(super) fn enter(&self, stage: Stage) {
        self.visit.name.stage.send_replace(stage);
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
        self.enter(Stage::Open);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_turn_passes_on_in_order_and_a_try_is_told_of_a_holder_and_not_of_a_question() {
        let names = Arc::<Names>::default();
        let [one, other] = ["one", "other"].map(|name| LockName::new(name).expect("a name"));
        let first = names.visit(&one).turn(None).await;
        let mut second = pin!(names.visit(&one).turn(None));
        let mut third = pin!(names.visit(&one).turn(None));
        let beside = names.visit(&one);
        assert!((&mut second).now_or_never().is_none() && (&mut third).now_or_never().is_none());
        assert!(beside.taken().now_or_never().is_none(), "nothing is known yet");
        for stage in [Stage::HeldElsewhere, Stage::Held(Holder::new("a"))] {
            first.enter(stage);
            assert!(beside.taken().now_or_never().is_some());
        }
        assert!(names.visit(&other).turn(None).now_or_never().is_some(), "another name");
        drop(first);
        assert!(beside.taken().now_or_never().is_none(), "it is the next request's turn");
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
}
