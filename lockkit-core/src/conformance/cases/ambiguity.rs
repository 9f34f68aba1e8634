//! Atomicity: replies that are lost, requests that come late, and everything at once.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;

use crate::conformance::case::Case;
use crate::conformance::case::Challenge::{Atomicity, Safety};
use crate::conformance::context::Context;
use crate::conformance::stop::{Verdict, require};
use crate::conformance::tap::Tap;
use crate::{Applied, Error, Expiry, Guard, GuardWatch, Lock};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "AT-06",
        Atomicity,
        "C15",
        "a grant whose reply was lost is withdrawn, or found again by a replay of its request",
        |cx| Box::pin(lost_replies(cx)),
    ),
    Case::new(
        "AT-07",
        Atomicity,
        "C9",
        "an attempt that arrives after its withdrawal leaves no lock held",
        |cx| Box::pin(late_attempt(cx)),
    ),
    Case::new(
        "C1-01",
        Safety,
        "C1",
        "while clients take, wait, drop, time out and fall silent, no two believe at once",
        |cx| Box::pin(everything_at_once(cx)),
    ),
];

async fn lost_replies(cx: Context) -> Verdict {
    let tap = Tap::on(cx.connect().await?, &cx.clock);
    // So long that no expiry comes to the rescue.
    let lock = cx.locks_of(tap.clone()).lock(cx.name("ambiguous")).ttl(cx.long_ttl());
    let probe = cx.lock("ambiguous").await?;
    for _ in 0..5 {
        tap.lose_replies(true);
        let tried = lock.try_acquire().await;
        let ambiguous = matches!(&tried, Err(Error::Unavailable { applied: Applied::Maybe, .. }));
        require!(ambiguous, "an attempt whose reply was lost answered {tried:?}");
        cx.is_free_for(&probe).await?;
        cx.no_residue("ambiguous").await?;

        let before = tap.lost();
        let waiting = tokio::spawn(lock.acquire());
        cx.until(Duration::from_secs(2), || tap.lost() > before).await?;
        let other = probe.try_acquire().await?;
        require!(other.is_none(), "granted to another while a waiter replays its request");
        tap.lose_replies(false);
        let bound = Duration::from_secs(2) + cx.wake_up();
        let guard = cx.by(bound, "a replay finds the grant", waiting).await???;
        require!(guard.is_held(), "a replayed grant is not held");
        guard.release().await?;
        cx.is_free_for(&probe).await?;
        cx.no_residue("ambiguous").await?;
    }
    Ok(())
}

async fn late_attempt(cx: Context) -> Verdict {
    let ttl = cx.ttl();
    let tap = Tap::on(cx.connect().await?, &cx.clock);
    let lock = cx.locks_of(tap.clone()).lock(cx.name("late"));
    for waits in [false, true] {
        tap.hold_up_attempts(ttl / 2);
        let limit = cx.arrival();
        let given_up = if waits {
            lock.acquire_within(limit).await.map(Some)
        } else {
            tokio::time::timeout(limit, lock.try_acquire()).await.unwrap_or(Err(Error::Closed))
        };
        require!(given_up.is_err(), "granted before the request was sent: {given_up:?}");
        require!(tap.withdrawals() > 0 || !waits, "given up without a withdrawal");
        // The request arrives now, long after the first withdrawal.
        cx.sleep(ttl / 2 + cx.moment()).await;
        cx.is_free("late").await?;
        cx.no_residue("late").await?;
    }
    Ok(())
}

/// The last grant, and who believes in it.
type Last = Arc<Mutex<Option<GuardWatch>>>;

async fn everything_at_once(cx: Context) -> Verdict {
    const TASKS: u64 = 12;
    let most = if cx.is_virtual() { 150 } else { 60 };
    let budget = cx.budget();
    let last = Last::default();
    let silent = matches!(cx.guarantees.expiry, Expiry::Ttl(_));
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let tap = Tap::on(cx.connect().await?, &cx.clock);
        let lock = cx.locks_of(tap.clone()).lock(cx.name("busy")).ttl(cx.short_ttl());
        let (clock, last, budget) = (cx.clock.clone(), Arc::clone(&last), budget.clone());
        let mut random = Random(task + 1);
        tasks.spawn(async move {
            for round in 0..most {
                if round >= 3 && budget.is_spent() {
                    break;
                }
                let turn = Duration::from_micros(random.below(3000));
                match random.below(if silent { 25 } else { 24 }) {
                    0..8 => release(take(&lock, &last).await?, clock.sleep(turn)).await?,
                    8..12 => drop(take(&lock, &last).await?),
                    12..16 => drop(tokio::time::timeout(turn, lock.acquire()).await),
                    16..20 => match lock.acquire_within(turn).await {
                        Ok(guard) => check(&guard, &last)?,
                        Err(Error::TimedOut { .. } | Error::Unavailable { .. }) => {}
                        Err(error) => return Err(error.into()),
                    },
                    20..24 => match lock.try_acquire().await {
                        Ok(Some(guard)) => {
                            check(&guard, &last)?;
                            release(guard, clock.sleep(turn)).await?;
                        }
                        Ok(None) | Err(Error::Unavailable { .. }) => {}
                        Err(error) => return Err(error.into()),
                    },
                    // It neither renews nor releases: only the store's expiry ends this one.
                    _ => {
                        let guard = take(&lock, &last).await?;
                        tap.cut();
                        guard.lost().await;
                        tap.mend();
                    }
                }
            }
            Verdict::Ok(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    cx.sleep(cx.short_ttl() + cx.expiry_slack()).await;
    cx.is_free("busy").await?;
    cx.no_residue("busy").await
}

async fn take(lock: &Lock, last: &Last) -> Verdict<Guard> {
    let guard = lock.acquire().await?;
    check(&guard, last)?;
    Ok(guard)
}

async fn release(guard: Guard, after: impl Future<Output = ()>) -> Verdict {
    after.await;
    match guard.release().await {
        // With so short a ttl, a busy machine may let it run out.
        Ok(()) | Err(Error::Lost { .. } | Error::Unavailable { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// A grant is newer than the last one, whose holder no longer believes in it.
fn check(guard: &Guard, last: &Last) -> Verdict {
    let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(last) = &*last {
        // Two that learned of their grants in the other order are no matter: the older one knows.
        if last.token() > guard.token() {
            require!(!guard.is_held(), "{guard:?} is held beside the newer {last:?}");
            return Ok(());
        }
        require!(last.token() < guard.token(), "{guard:?} has the token of {last:?}");
        require!(!(last.is_held() && guard.is_held()), "{guard:?} is held beside {last:?}");
    }
    *last = Some(guard.watch());
    Ok(())
}

/// A sequence that looks random, and is the same in every run (Marsaglia, "Xorshift RNGs", 2003).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}
