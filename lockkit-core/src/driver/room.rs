//! How much work is left behind at once: the room that clean-ups take from new attempts, and the turns
//! that they take at the store.

use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::round_trips::RoundTrips;
use crate::{Clock, LockName};

/// With this many clean-ups pending, new attempts wait for room before they ask the store. Names of which
/// nothing is cleaned up have as much room again: callers that leave do not keep others waiting.
pub(crate) const ROOM: usize = 1024;
/// So many clean-ups ask a store at once whose answers take no time: what an attempt finds before it there.
const TURNS: usize = 16;
/// A store that is further away has one more call on its way in each such piece of a round trip.
const APART: Duration = Duration::from_micros(50);
/// A call that has had no answer for so long does not keep the store busy: the next may ask.
const LONGEST_TURN: Duration = Duration::from_millis(100);

/// Counts what is under way, and tells when it changes.
#[derive(Debug, Default)]
pub(crate) struct Count {
    number: AtomicUsize,
    fell: Notify,
}

/// One unit of a [`Count`], until dropped.
#[derive(Debug)]
pub(crate) struct Counted(Arc<Count>);

impl Count {
    pub(crate) fn enter(self: &Arc<Self>) -> Counted {
        self.number.fetch_add(1, Ordering::SeqCst);
        Counted(Arc::clone(self))
    }

    /// Completes once fewer than `number` are counted.
    pub(crate) async fn below(&self, number: usize) {
        loop {
            let fell = self.fell.notified();
            if self.number.load(Ordering::SeqCst) < number {
                return;
            }
            fell.await;
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.number.fetch_sub(1, Ordering::SeqCst);
        self.0.fell.notify_waiters();
    }
}

/// The clean-ups that take room, by the name that they are about.
#[derive(Debug, Default)]
pub(crate) struct Rooms {
    taken: Mutex<Taken>,
    /// Clean-ups that the store refuses: they go on, and take no room.
    refused: Arc<Count>,
    fell: Notify,
}

#[derive(Debug, Default)]
struct Taken {
    number: usize,
    of: HashMap<LockName, usize>,
}

impl Taken {
    /// A clean-up of `name` has left; whether it was the last one.
    fn leave(&mut self, name: &LockName) -> bool {
        let Some(of) = self.of.get_mut(name) else { return false };
        *of -= 1;
        if *of > 0 {
            return false;
        }
        self.of.remove(name);
        true
    }
}

/// The room that a clean-up takes: new attempts wait where there is none.
///
/// A clean-up that the store refuses goes on, for an operator may set that right, but takes no room from the
/// attempts on other names.
#[derive(Debug)]
pub(crate) struct Room {
    rooms: Arc<Rooms>,
    /// Of which name, while it takes room.
    takes: Option<Option<LockName>>,
    refused: Option<Counted>,
}

impl Rooms {
    /// Takes room for a clean-up; `name` is what it is about, where that is known.
    pub(crate) fn take(self: &Arc<Self>, name: Option<LockName>) -> Room {
        let mut taken = self.taken();
        taken.number += 1;
        if let Some(name) = &name {
            *taken.of.entry(name.clone()).or_default() += 1;
        }
        drop(taken);
        Room { rooms: Arc::clone(self), takes: Some(name), refused: None }
    }

    /// Whether a new attempt on `name` may ask the store now.
    pub(crate) fn admits(&self, name: &LockName) -> bool {
        let taken = self.taken();
        taken.number < ROOM || (taken.number < 2 * ROOM && !taken.of.contains_key(name))
    }

    /// Completes when a new attempt on `name` may ask the store.
    pub(crate) async fn room(&self, name: &LockName) {
        loop {
            let fell = self.fell.notified();
            if self.admits(name) {
                return;
            }
            fell.await;
        }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Room {
    /// The store refuses; whether the clean-up goes on: at most [`ROOM`] refused ones do.
    pub(crate) fn refused(&mut self) -> bool {
        let refused = &self.rooms.refused;
        if self.refused.is_none() && refused.number.load(Ordering::SeqCst) < ROOM {
            self.refused = Some(refused.enter());
        }
        self.leave();
        self.refused.is_some()
    }

    fn leave(&mut self) {
        let Some(name) = self.takes.take() else { return };
        let admits_more = {
            let mut taken = self.rooms.taken();
            taken.number -= 1;
            let is_last = name.is_some_and(|name| taken.leave(&name));
            // What does not let an attempt go on wakes none of those that wait.
            taken.number < ROOM || taken.number == 2 * ROOM - 1 || is_last
        };
        if admits_more {
            self.rooms.fell.notify_waiters();
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Whose turn it is to ask the store: few clean-ups at a time, so that an attempt does not wait behind
/// all that callers left behind.
#[derive(Debug)]
pub(crate) struct Turns {
    round_trips: Arc<RoundTrips>,
    asking: AtomicUsize,
    over: Notify,
    /// No attempt will come any more.
    all: AtomicBool,
}

/// A clean-up's turn, until dropped.
struct Turn<'a>(&'a Turns);

impl Turns {
    pub(crate) fn new(round_trips: Arc<RoundTrips>) -> Self {
        let (asking, over, all) = Default::default();
        Self { round_trips, asking, over, all }
    }

    /// From now on it is the turn of all.
    pub(crate) fn of_all(&self) {
        self.all.store(true, Ordering::SeqCst);
        self.over.notify_one();
    }

    /// Runs `call` when it is its turn.
    pub(crate) async fn take<T>(&self, clock: &Clock, call: impl Future<Output = T>) -> T {
        let turn = self.turn().await;
        let mut call = pin!(call);
        tokio::select! {
            biased;
            outcome = &mut call => return outcome,
            () = async { clock.sleep(LONGEST_TURN).await } => drop(turn),
        }
        call.await
    }

    async fn turn(&self) -> Turn<'_> {
        loop {
            let over = self.over.notified();
            let most = self.at_once();
            if self.asking.fetch_add(1, Ordering::SeqCst) < most {
                // There may be room for the next one too: the limit changes.
                self.over.notify_one();
                return Turn(self);
            }
            self.asking.fetch_sub(1, Ordering::SeqCst);
            over.await;
        }
    }

    /// How many may ask at once.
    fn at_once(&self) -> usize {
        if self.all.load(Ordering::SeqCst) {
            return usize::MAX;
        }
        let more = self.round_trips.fastest().as_micros() / APART.as_micros();
        TURNS + usize::try_from(more).unwrap_or(ROOM).min(ROOM)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.asking.fetch_sub(1, Ordering::SeqCst);
        self.0.over.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Instant;

    fn name(text: &str) -> LockName {
        LockName::new(text).expect("a name")
    }

    #[test]
    fn names_of_which_nothing_is_cleaned_up_have_as_much_room_again() {
        let rooms = Arc::<Rooms>::default();
        let mut taken: Vec<_> = (0..ROOM).map(|_| rooms.take(Some(name("left")))).collect();
        assert!(!rooms.admits(&name("left")) && rooms.admits(&name("other")));
        taken.extend((0..ROOM).map(|n| rooms.take(Some(name(&format!("{n}"))))));
        assert!(!rooms.admits(&name("other")), "there is an end");
        drop(taken.pop());
        assert!(rooms.admits(&name("other")) && !rooms.admits(&name("7")));
        // What the store refuses takes none.
        assert!(taken.iter_mut().take(ROOM).all(Room::refused));
        assert!(rooms.admits(&name("left")));
        assert!(!taken.last_mut().is_some_and(Room::refused), "as many go on as have room");
        drop(taken);
        assert!(rooms.taken().of.is_empty() && rooms.taken().number == 0);
    }

    #[tokio::test(start_paused = true)]
    async fn few_ask_at_once_more_where_the_store_is_far_away_and_all_in_the_end() {
        let (trips, clock) = (Arc::<RoundTrips>::default(), Clock::tokio());
        let turns = Turns::new(Arc::clone(&trips));
        let asking = async || {
            let never = || turns.take(&clock, std::future::pending::<()>());
            let calls = futures_util::future::join_all((0..3 * ROOM).map(|_| never()));
            tokio::time::timeout(LONGEST_TURN / 2, calls).await.expect_err("they never end");
        };
        let most = async || {
            tokio::join!(asking(), async {
                tokio::time::sleep(LONGEST_TURN / 4).await;
                turns.asking.load(Ordering::SeqCst)
            })
            .1
        };
        assert_eq!(most().await, TURNS);
        let sent = Instant::from_origin(Duration::from_secs(1));
        trips.note(sent, sent.saturating_add(10 * APART));
        trips.note(sent, sent.saturating_add(20 * APART));
        assert_eq!(most().await, TURNS + 10);
        turns.of_all();
        assert_eq!(most().await, 3 * ROOM);
    }
}
