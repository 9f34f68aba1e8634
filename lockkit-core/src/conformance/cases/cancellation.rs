//! Atomicity: futures dropped at any point leave nothing behind.

use std::time::Duration;

use futures_util::future::join;

use crate::conformance::case::Challenge::Atomicity;
use crate::conformance::case::{Case, Need};
use crate::conformance::context::Context;
use crate::conformance::poll::{for_turns, pass, polled};
use crate::conformance::stop::{Stop, Verdict, all, require, require_held};
use crate::conformance::tap::Tap;
use crate::{Error, Lock};

/// More polls than any provider needs for one call.
const POLLS: u32 = 64;

pub(super) const CASES: &[Case] = &[
    Case::new(
        "AT-09",
        Atomicity,
        "C9",
        "an attempt on a free name, dropped at any poll and withdrawn, leaves nothing",
        |cx| Box::pin(dropped_at_any_poll(cx)),
    ),
    Case::new(
        "AT-10",
        Atomicity,
        "C9",
        "a waiting attempt, dropped at any poll and withdrawn, leaves nothing and blocks nobody",
        |cx| Box::pin(dropped_in_the_queue(cx)),
    ),
    Case::new(
        "AT-11",
        Atomicity,
        "C9",
        "an acquisition dropped in the very turn of its grant leaks no lock",
        |cx| Box::pin(dropped_when_granted(cx)),
    ),
    Case::new(
        "AT-12",
        Atomicity,
        "C9",
        "a time-out that races the grant gives a guard or an error, and never loses the lock",
        |cx| Box::pin(time_out_races_grant(cx)),
    ),
    Case::new(
        "AT-16",
        Atomicity,
        "C9",
        "a release dropped at any poll goes on, and is not held from its first poll",
        |cx| Box::pin(dropped_release(cx)),
    ),
    Case::new(
        "AT-17",
        Atomicity,
        "C5",
        "a renewal dropped at any poll never makes the holder believe longer than the store",
        |cx| Box::pin(dropped_renewal(cx)),
    )
    .needs(&[Need::LeaseTtl]),
    Case::new(
        "C9-01",
        Atomicity,
        "C9",
        "an acquisition dropped after any number of scheduler turns leaves nothing",
        |cx| Box::pin(dropped_after_turns(cx)),
    ),
    Case::new(
        "C9-02",
        Atomicity,
        "C9",
        "an acquisition dropped after any number of microseconds leaves nothing",
        |cx| Box::pin(dropped_after_micros(cx)),
    )
    .needs(&[Need::RealTime]),
];

async fn dropped_at_any_poll(cx: Context) -> Verdict {
    let client = cx.connect().await?;
    let probe = cx.lock("polled").await?;
    for waits in [false, true] {
        for polls in 0..POLLS {
            // So long that no expiry comes to the rescue.
            let request = cx.request_with_ttl("polled", cx.long_ttl())?;
            // The grant of a call that ended is dropped too: only the withdrawal cleans up.
            let ended = if waits {
                polled(client.acquire(&request), polls).await.transpose()?.is_some()
            } else {
                polled(client.try_acquire(&request), polls).await.transpose()?.is_some()
            };
            client.withdraw(&request).await?;
            cx.is_free_for(&probe).await?;
            cx.no_residue("polled").await?;
            if ended {
                break;
            }
        }
    }
    Ok(())
}

async fn dropped_in_the_queue(cx: Context) -> Verdict {
    let client = cx.connect().await?;
    let (ours, follower) = (cx.lock("polled").await?, cx.lock("polled").await?);
    for withdrawn_first in [true, false] {
        for polls in 0..POLLS {
            let holder = ours.acquire().await?;
            // So long that no expiry comes to the rescue.
            let request = cx.request_with_ttl("polled", cx.long_ttl())?;
            let attempt = async {
                let ended = polled(client.acquire(&request), polls).await.transpose()?.is_some();
                if withdrawn_first {
                    client.withdraw(&request).await?;
                }
                Ok::<_, Error>(ended)
            };
            // Releases at once: where the order is not promised, it may come before the attempt.
            let (lock, clock) = (follower.clone(), cx.clock.clone());
            let following = tokio::spawn(async move {
                clock.sleep(Duration::from_millis(2)).await;
                lock.acquire().await?.release().await
            });
            let release = async {
                cx.sleep(Duration::from_millis(6)).await;
                holder.release().await
            };
            let both = cx.by(3 * cx.wake_up(), "a waiter is granted", join(attempt, release));
            let (ended, released) = both.await?;
            released?;
            client.withdraw(&request).await?;
            let what = "the follower of a dropped waiter is granted";
            match cx.by(cx.wake_up(), what, following).await {
                Ok(followed) => followed??,
                Err(late) => {
                    // All but the follower have ended.
                    let entries = cx.entries("polled").await?.unwrap_or(1);
                    require!(entries <= 1, "{entries} entries, where only the follower waits");
                    return Err(late);
                }
            }
            cx.no_residue("polled").await?;
            if ended? {
                break;
            }
        }
    }
    Ok(())
}

async fn dropped_when_granted(cx: Context) -> Verdict {
    let (ours, theirs) = (cx.lock("dropped").await?, cx.lock("dropped").await?);
    for turns in 0..60 {
        let holder = ours.acquire().await?;
        let acquire = theirs.acquire();
        let release = async {
            pass(4).await;
            let released = holder.release().await;
            pass(turns % 30).await;
            released
        };
        tokio::select! {
            biased;
            released = release => released?,
            // Granted first: dropped as it comes.
            granted = acquire => drop(granted?),
        }
        cx.is_free_for(&ours).await?;
        cx.no_residue("dropped").await?;
    }
    Ok(())
}

async fn time_out_races_grant(cx: Context) -> Verdict {
    const LANES: usize = 4;
    /// Either end comes in more than one of so many rounds.
    const A_PART: u32 = 20;
    let lanes = (0..LANES).map(|lane| race_time_out(&cx, lane));
    let ended = futures_util::future::join_all(lanes).await;
    let (mut granted, mut timed_out) = (0, 0);
    for (guards, time_outs) in all(ended)? {
        granted += guards;
        timed_out += time_outs;
    }
    let least = (granted + timed_out) / A_PART;
    require!(
        granted >= least && timed_out >= least,
        "C9: the limit of a wait moved around the instant of its grant, and must meet either end {least} \
         times at the least; it met {granted} grants and {timed_out} time-outs"
    );
    Ok(())
}

/// Moves the limit around the instant of the grant: back after a grant, on after a time-out, in steps
/// that double until the other end comes, however long the store takes.
async fn race_time_out(cx: &Context, lane: usize) -> Verdict<(u32, u32)> {
    const ROUNDS: u32 = 500;
    /// A store that takes its time does so many at the least.
    const LEAST: u32 = 40;
    // Where a waiter polls, the instant of its grant lies by as much later.
    let longest_step = Duration::from_millis(2).max(cx.poll() / 50).max(cx.call / 10);
    let budget = cx.budget();
    let tail = format!("swept-{lane}");
    let [ours, theirs] =
        [cx.lock(&tail).await?, cx.lock(&tail).await?].map(|lock| lock.ttl(cx.long_ttl()));
    let held_for = Duration::from_millis(3);
    let first_step = Duration::from_micros(if cx.is_virtual() { 250 } else { 50 });
    let (mut limit, mut step) = (held_for + cx.poll() + cx.call, first_step);
    let (mut granted, mut timed_out, mut was_granted) = (0, 0, false);
    for round in 0..ROUNDS {
        if round >= LEAST && budget.is_spent() {
            break;
        }
        let holder = ours.acquire().await?;
        let release = async {
            cx.sleep(held_for).await;
            pass(round % 3).await;
            holder.release().await
        };
        let (ended, released) = join(theirs.acquire_within(limit), release).await;
        released?;
        let turned = was_granted != ended.is_ok();
        step = if turned { first_step } else { (step * 2).min(longest_step) };
        was_granted = ended.is_ok();
        match ended {
            Ok(guard) => {
                granted += 1;
                require!(guard.is_held(), "a guard that was lost on arrival");
                let other = ours.try_acquire().await?;
                require!(other.is_none(), "granted to another beside the guard");
                guard.release().await?;
                limit = limit.saturating_sub(step);
            }
            Err(Error::TimedOut { .. } | Error::Unavailable { .. }) => {
                timed_out += 1;
                cx.is_free_for(&ours).await?;
                limit += step;
            }
            Err(error) => return Err(error.into()),
        }
    }
    cx.no_residue(&tail).await?;
    Ok((granted, timed_out))
}

async fn dropped_release(cx: Context) -> Verdict {
    let lock = cx.lock("released").await?;
    let probe = cx.lock("released").await?;
    for polls in 0..POLLS {
        let guard = lock.acquire().await?;
        let watch = guard.watch();
        let ended = polled(guard.release(), polls).await.transpose()?.is_some();
        require!(!watch.is_held(), "held after {polls} polls of its release");
        cx.is_free_for(&probe).await?;
        if ended {
            return cx.no_residue("released").await;
        }
    }
    Err(Stop::failed(format!("a release did not end within {POLLS} polls")))
}

async fn dropped_renewal(cx: Context) -> Verdict {
    let ttl = cx.short_ttl();
    for polls in 0..POLLS {
        let tap = Tap::on(cx.connect().await?, &cx.clock);
        let lock = cx.locks_of(tap.clone()).lock(cx.name("renewed")).ttl(ttl).renew_manually();
        let guard = lock.acquire().await?;
        cx.sleep(ttl / 4).await;
        // A busy machine may have let the lease run out by now: that is not the point here.
        let ended = match polled(guard.renew(), polls).await {
            Some(Err(Error::Lost { .. })) | None => false,
            Some(renewed) => renewed.map(|()| true)?,
        };
        tap.cut();
        let left = guard.remaining();
        require!(left < Some(ttl), "{left:?} left of a ttl of {ttl:?}");
        let next = cx.lock("renewed").await?.acquire().await?;
        require!(!guard.is_held(), "two holders after a renewal dropped at poll {polls}");
        next.release().await?;
        if ended {
            return Ok(());
        }
    }
    Err(Stop::failed(format!("a renewal did not end within {POLLS} polls")))
}

async fn dropped_after_turns(cx: Context) -> Verdict {
    let (ours, theirs) = (cx.lock("dropped").await?, cx.lock("dropped").await?);
    for turns in 0..40 {
        let free = for_turns(theirs.acquire(), turns).await.transpose()?;
        drop(free);
        drop(for_turns(theirs.try_acquire(), turns).await.transpose()?);
        cx.is_free_for(&ours).await?;
        dropped_behind_a_holder(&cx, &ours, for_turns(theirs.acquire(), turns)).await?;
    }
    Ok(())
}

async fn dropped_after_micros(cx: Context) -> Verdict {
    let (ours, theirs) = (cx.lock("dropped").await?, cx.lock("dropped").await?);
    let budget = cx.budget();
    for round in 0..200 {
        if round >= 10 && budget.is_spent() {
            break;
        }
        let limit = Duration::from_micros(round * 13 % 1000);
        drop(tokio::time::timeout(limit, theirs.acquire()).await);
        cx.is_free_for(&ours).await?;
        let waiting = tokio::time::timeout(limit, theirs.acquire());
        dropped_behind_a_holder(&cx, &ours, waiting).await?;
    }
    Ok(())
}

/// Has `attempt` come and go while `lock` is held; then nothing of it is left.
async fn dropped_behind_a_holder<T>(
    cx: &Context,
    lock: &Lock,
    attempt: impl Future<Output = T>,
) -> Verdict {
    let holder = lock.acquire().await?;
    drop(attempt.await);
    require_held(&holder, "a waiter that came and went ended the holder's lease")?;
    holder.release().await?;
    cx.is_free_for(lock).await?;
    cx.no_residue("dropped").await
}
