//! Names taken together by processes that are killed: no two wait for each other, and nothing is left.

use std::any::Any;
use std::collections::HashMap;
use std::future::{Future, pending};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lockkit_core::{
    Clock, Error, FencingToken, Grant, Guarantees, Lease, LockProvider, Locks, LossReason,
    MultiGuard, Operator, Request, Result, Term, async_trait,
};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::many_names::is_cleared;
use crate::support::Remote;

const SECOND: Duration = Duration::from_secs(1);

/// A process's way to the store: once it is dead, none of its calls is heard any more, and nothing that it
/// holds is released.
#[derive(Clone, Debug)]
struct Mortal {
    remote: Remote,
    dead: watch::Sender<bool>,
}

impl Mortal {
    async fn while_alive<T>(&self, call: impl Future<Output = T>) -> T {
        let mut dead = self.dead.subscribe();
        tokio::select! {
            biased;
            () = async { drop(dead.wait_for(|dead| *dead).await) } => pending().await,
            done = call => done,
        }
    }

    fn wrapped(&self, grant: Grant) -> Grant {
        let lease = MortalLease { process: self.clone(), lease: grant.lease };
        Grant::new(grant.token, grant.term, lease)
    }
}

#[async_trait]
impl LockProvider for Mortal {
    fn guarantees(&self) -> Guarantees {
        self.remote.guarantees()
    }

    async fn try_acquire(&self, request: &Request) -> Result<Option<Grant>> {
        let grant = self.while_alive(self.remote.try_acquire(request)).await?;
        Ok(grant.map(|grant| self.wrapped(grant)))
    }

    async fn acquire(&self, request: &Request) -> Result<Grant> {
        Ok(self.wrapped(self.while_alive(self.remote.acquire(request)).await?))
    }

    async fn withdraw(&self, request: &Request) -> Result<()> {
        self.while_alive(self.remote.withdraw(request)).await
    }

    fn operator(&self) -> Option<&dyn Operator> {
        self.remote.operator()
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
struct MortalLease {
    process: Mortal,
    lease: Box<dyn Lease>,
}

#[async_trait]
impl Lease for MortalLease {
    async fn renew(&self) -> Result<Term> {
        self.process.while_alive(self.lease.renew()).await
    }

    async fn lost(&self) -> LossReason {
        self.process.while_alive(self.lease.lost()).await
    }

    async fn release(&self) -> Result<()> {
        self.process.while_alive(self.lease.release()).await
    }

    fn native(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        self.lease.native()
    }
}

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
/// How often names are taken together by all processes.
const TAKEN: usize = 1000;

/// What all processes see of the names.
struct Town {
    remote: Remote,
    left: AtomicUsize,
    /// The holder that works, and the newest token, of each name.
    names: Mutex<HashMap<&'static str, (bool, Option<FencingToken>)>>,
    killed: AtomicUsize,
    given_up: AtomicUsize,
}

/// A hold that is worked under, until it is dropped.
struct Work<'a>(&'a Town, Vec<&'static str>);

impl Town {
    fn below(&self, end: u64) -> u64 {
        self.remote.random() % end
    }

    fn place(&self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).expect("below a length")
    }

    /// Two or three names, in any order.
    fn some(&self) -> Vec<&'static str> {
        let (mut names, count) = (NAMES.to_vec(), 2 + self.below(2));
        (0..count).map(|_| names.swap_remove(self.place(names.len()))).collect()
    }

    fn begin<'a>(&'a self, guard: &MultiGuard, chosen: &[&'static str]) -> Work<'a> {
        let mut names = self.names.lock().unwrap();
        for name in chosen {
            let token = guard.token(name).unwrap();
            let (is_held, newest) = names.entry(name).or_default();
            assert!(!*is_held, "two hold {name}");
            assert!(newest.is_none_or(|newest| newest < token), "{name}: {newest:?}, then {token}");
            (*is_held, *newest) = (true, Some(token));
        }
        Work(self, chosen.to_vec())
    }

    /// One process after the other, each until it is killed or all is done.
    async fn processes(&self) {
        loop {
            let process = Mortal { remote: self.remote.clone(), dead: watch::Sender::new(false) };
            let locks = Locks::builder().clock(Clock::tokio()).ttl(SECOND).build(process.clone());
            let life = Duration::from_millis(self.below(20_000));
            let ended = tokio::time::timeout(life, self.work(&locks)).await;
            if ended.is_ok() {
                return locks.close(SECOND).await.unwrap();
            }
            process.dead.send_replace(true);
            self.killed.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn work(&self, locks: &Locks) {
        while self.left.load(Ordering::Relaxed) > 0 {
            let chosen = self.some();
            let all = locks.all(&chosen);
            let taken = match self.below(4) {
                0 => all.acquire_within(SECOND).await.ok(),
                1 => {
                    tokio::time::timeout(SECOND / 2, all.acquire()).await.ok().transpose().unwrap()
                }
                _ => Some(all.acquire().await.unwrap()),
            };
            let Some(guard) = taken else {
                self.given_up.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            let work = self.begin(&guard, &chosen);
            let held = Duration::from_millis(self.below(200));
            // This client counts a term from when it asked: after a long wait little may be left of it.
            let is_lost = tokio::time::timeout(held, guard.lost()).await.is_ok();
            drop(work);
            for (name, released) in guard.release().await {
                let is_lost = is_lost && matches!(released, Err(Error::Lost { .. }));
                assert!(is_lost || released.is_ok(), "{name}: {released:?}");
            }
            self.left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                .ok();
        }
    }
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        let mut names = self.0.names.lock().unwrap();
        for name in &self.1 {
            names.entry(name).or_default().0 = false;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_pairs_and_triples_in_any_order_with_holders_killed_never_lock_up() {
    let town = Arc::new(Town {
        remote: Remote::with_delay(SECOND / 200, 7),
        left: AtomicUsize::new(TAKEN),
        names: Mutex::default(),
        killed: AtomicUsize::default(),
        given_up: AtomicUsize::default(),
    });
    let began = Instant::now();
    let processes: Vec<_> = (0..5)
        .map(|_| {
            let town = Arc::clone(&town);
            tokio::spawn(async move { town.processes().await })
        })
        .collect();
    for process in processes {
        let ended = tokio::time::timeout(10_000 * SECOND, process).await;
        ended.expect("all wait for each other").unwrap();
    }
    let (killed, given_up) =
        (town.killed.load(Ordering::Relaxed), town.given_up.load(Ordering::Relaxed));
    println!(
        "{TAKEN} taken, {killed} processes killed, {given_up} waits given up in {:?}",
        began.elapsed()
    );
    assert!(killed > 20 && given_up > 20, "{killed} killed, {given_up} given up");
    // What the dead held and waited for ends with its ttl, one after the other.
    is_cleared(&town.remote, &NAMES, 600 * SECOND).await;
}
