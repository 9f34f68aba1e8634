//! With a server of its own: pauses, kills and restarts.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;

use crate::conformance::case::Challenge::{Liveness, Safety};
use crate::conformance::case::{Case, Need};
use crate::conformance::context::Context;
use crate::conformance::hook::Hook;
use crate::conformance::stop::{Stop, Verdict, require, require_in_time};
use crate::{Error, Guard, Result};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "LV-09",
        Liveness,
        "C8",
        "a restart while one holds and five wait ends no wait, and no two believe at once",
        |cx| Box::pin(restarted(cx)),
    )
    .needs(&[Need::Hook(Hook::Server), Need::Ttl])
    .within(60)
    .faults(4),
    Case::new(
        "LV-09-loss",
        Liveness,
        "C7",
        "a server that comes back empty costs the holder its lease, and the waiters nothing",
        |cx| Box::pin(restarted_empty(cx)),
    )
    .needs(&[Need::Hook(Hook::Server), Need::Hook(Hook::ServerLoss), Need::DataLoss, Need::Ttl])
    .faults(2),
    Case::new(
        "LV-10",
        Liveness,
        "C12",
        "an outage of three ttls ends holds and calls in time; after it all goes on",
        |cx| Box::pin(outage(cx)),
    )
    .needs(&[Need::Hook(Hook::Server), Need::Ttl])
    .faults(2),
    Case::new(
        "SF-08-server",
        Safety,
        "C7",
        "where the server stands still, holders are lost before any other is granted",
        |cx| Box::pin(paused(cx)),
    )
    .needs(&[Need::Hook(Hook::Server), Need::Ttl])
    .within(60)
    .faults(5),
    Case::new(
        "SF-16",
        Safety,
        "C4",
        "tokens grow over restarts of the server, after releases and while held",
        |cx| Box::pin(tokens(cx)),
    )
    .needs(&[Need::Hook(Hook::Server), Need::ServerRestart, Need::Ttl])
    .within(60)
    .faults(6),
];

/// The next end of a wait.
async fn next<T: 'static>(cx: &Context, waiters: &mut JoinSet<Result<T>>) -> Verdict<T> {
    let ended = cx.by(cx.healed(), "a waiter is granted after a restart", waiters.join_next());
    Ok(ended.await?.ok_or_else(|| Stop::failed("nobody waits any more"))???)
}

/// Released, lost in the meantime, or left to the clean-up.
async fn end(guard: Guard) -> Verdict {
    match guard.release().await {
        Ok(()) | Err(Error::Lost { .. } | Error::Unavailable { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

async fn restarted(cx: Context) -> Verdict {
    const WAITERS: usize = 5;
    let (cx, server) = cx.served().await?;
    let holder = cx.lock("restarted").await?.ttl(5 * cx.ttl()).acquire().await?;
    let lock = cx.lock("restarted").await?.ttl(5 * cx.ttl());
    let newest = Arc::new(Mutex::new(holder.watch()));
    let mut waiters = JoinSet::new();
    for _ in 0..WAITERS {
        let (waiting, newest) = (lock.acquire(), Arc::clone(&newest));
        waiters.spawn(async move {
            let guard = waiting.await?;
            // Now: a moment later the one before may have learned of its loss.
            let mut newest = newest.lock().unwrap_or_else(PoisonError::into_inner);
            let before = std::mem::replace(&mut *newest, guard.watch());
            Ok((before.is_held(), guard))
        });
    }
    cx.have_come("restarted", 1 + WAITERS).await?;
    let mut current = holder;
    for granted in 0..WAITERS {
        if granted < 2 {
            server.kill().await?;
            cx.sleep(cx.ttl() / 2).await;
            server.restart().await?;
            // Long enough for renewals and replays to come.
            cx.sleep(2 * cx.ttl()).await;
        }
        let token = current.token();
        let (believed, granted) = match waiters.try_join_next() {
            Some(early) => {
                let early = early??;
                end(current).await?;
                early
            }
            None => {
                end(current).await?;
                next(&cx, &mut waiters).await?
            }
        };
        require!(!believed, "two guards held after a restart");
        require!(granted.token() > token, "token {} came after {token}", granted.token());
        current = granted;
    }
    current.release().await?;
    cx.is_free("restarted").await?;
    cx.no_residue("restarted").await
}

async fn restarted_empty(cx: Context) -> Verdict {
    const WAITERS: usize = 5;
    let (cx, server) = cx.served().await?;
    let ttl = 3 * cx.ttl();
    let guard = cx.lock("emptied").await?.ttl(ttl).acquire().await?;
    let lock = cx.lock("emptied").await?.ttl(ttl);
    let mut waiters = JoinSet::new();
    for _ in 0..WAITERS {
        waiters.spawn(lock.acquire());
    }
    cx.have_come("emptied", 1 + WAITERS).await?;
    server.kill().await?;
    server.restart_empty().await?;
    cx.by(ttl + cx.slack(), "a holder that the store forgot is told", guard.lost()).await?;
    let mut last = guard.token();
    for _ in 0..WAITERS {
        let next = next(&cx, &mut waiters).await?;
        require!(next.token() > last, "token {} came after {last}", next.token());
        last = next.token();
        next.release().await?;
    }
    cx.is_free("emptied").await?;
    cx.no_residue("emptied").await
}

async fn outage(cx: Context) -> Verdict {
    const NAMES: usize = 5;
    let (cx, server) = cx.served().await?;
    let (ttl, locks) = (cx.ttl(), cx.locks().await?);
    let waiting = cx.locks().await?;
    let (mut guards, mut waiters) = (Vec::new(), Vec::new());
    for number in 0..NAMES {
        let name = cx.name(&number.to_string());
        guards.push(locks.lock(&name).acquire().await?);
        waiters.push(tokio::spawn(waiting.lock(&name).acquire()));
    }
    for number in 0..NAMES {
        cx.have_come(&number.to_string(), 2).await?;
    }
    server.kill().await?;
    let down = cx.clock.now();
    for guard in &guards {
        cx.by(ttl + cx.slack(), "a holder without a server is lost", guard.lost()).await?;
    }
    let lost = cx.clock.now().saturating_since(down);
    require_in_time!(lost < ttl + cx.slack(), "the last holder was lost only after {lost:?}");
    let lock = locks.lock(cx.name("other"));
    let tried = cx.by(cx.call_limit(), "an attempt has a limit", lock.try_acquire()).await?;
    require!(matches!(tried, Err(Error::Unavailable { .. })), "without a server: {tried:?}");
    let within = cx.slack() / 2;
    let waited = cx.by(within + cx.slack(), "a wait has its limit", lock.acquire_within(within));
    let waited = waited.await?;
    require!(matches!(waited, Err(Error::Unavailable { .. })), "without a server: {waited:?}");
    cx.clock.sleep_until(down.saturating_add(3 * ttl)).await;
    for waiter in &waiters {
        require!(!waiter.is_finished(), "a waiter did not go through the outage");
    }
    server.restart().await?;
    for (waiter, guard) in waiters.into_iter().zip(&guards) {
        let next = cx.by(cx.healed(), "a waiter is granted after the outage", waiter).await???;
        require!(!guard.is_held(), "two guards held after an outage");
        require!(next.token() > guard.token(), "token {} came again", next.token());
        next.release().await?;
    }
    drop(guards);
    lock.acquire_within(cx.healed()).await?.release().await?;
    for tail in (0..NAMES).map(|number| number.to_string()).chain(["other".to_owned()]) {
        cx.is_free(&tail).await?;
        cx.no_residue(&tail).await?;
    }
    locks.close(cx.call_limit()).await?;
    Ok(waiting.close(cx.call_limit()).await?)
}

async fn paused(cx: Context) -> Verdict {
    const NAMES: usize = 12;
    let (cx, server) = cx.served().await?;
    let (ttl, locks, waiting) = (cx.ttl(), cx.locks().await?, cx.locks().await?);
    // Around the ttl, where the store's end and the holder's meet; then well beyond it.
    for tenths in [7, 9, 10, 11, 20] {
        let (mut guards, mut waiters) = (Vec::new(), Vec::new());
        for number in 0..NAMES {
            let name = cx.name(&number.to_string());
            let guard = locks.lock(&name).acquire_within(cx.healed()).await?;
            let (watch, waiter) = (guard.watch(), waiting.lock(&name));
            waiters.push(tokio::spawn(async move {
                let guard = waiter.acquire().await?;
                Ok::<_, Error>((watch.is_held(), guard))
            }));
            guards.push(guard);
        }
        cx.sleep(ttl / 4).await;
        server.pause().await?;
        let paused = cx.clock.now();
        if tenths > 10 {
            for guard in &guards {
                let bound = ttl + cx.slack();
                cx.by(bound, "a holder whose server stands still is lost", guard.lost()).await?;
                require!(!guard.is_held(), "held after its loss");
            }
        }
        cx.clock.sleep_until(paused.saturating_add(ttl * tenths / 10)).await;
        server.resume().await?;
        cx.sleep(Duration::from_millis(50)).await;
        for guard in guards {
            end(guard).await?;
        }
        for waiter in waiters {
            let granted = cx.by(cx.healed(), "a waiter is granted after a pause", waiter);
            let (believed, guard) = granted.await???;
            require!(!believed, "two guards held after a pause of {tenths} tenths of the ttl");
            end(guard).await?;
        }
    }
    cx.no_residue("0").await
}

async fn tokens(cx: Context) -> Verdict {
    let (cx, server) = cx.served().await?;
    let lock = cx.lock("tokens").await?;
    let mut last = None;
    for round in 0..6 {
        let guard = cx.by(cx.healed(), "granted after a restart", lock.acquire()).await??;
        let token = guard.token();
        require!(Some(token) > last, "token {token} came after {last:?}, over a restart");
        last = Some(token);
        if round % 2 == 0 {
            guard.release().await?;
            // A store may clear away what it keeps of a free name, and a counter with it.
            cx.sleep(cx.slack() / 2).await;
            server.restart().await?;
        } else {
            // Its holder does not outlast the server: the end is the store's.
            server.kill().await?;
            cx.by(cx.ttl() + cx.slack(), "a holder without a server is lost", guard.lost()).await?;
            server.restart().await?;
        }
    }
    Ok(())
}
