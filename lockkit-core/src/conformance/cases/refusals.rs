//! A store that refuses: all that would change one name, or any name for a while.

use crate::Error;
use crate::conformance::case::Challenge::Liveness;
use crate::conformance::case::{Case, Need};
use crate::conformance::context::Context;
use crate::conformance::hook::Hook;
use crate::conformance::stop::{Stop, Verdict, require};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "C9-06",
        Liveness,
        "C9",
        "a clean-up that the store refuses for one name holds up no other name of its client",
        |cx| Box::pin(refused_clean_ups(cx)),
    )
    .needs(&[Need::Hook(Hook::Refuse)]),
    Case::new(
        "LV-23",
        Liveness,
        "C8",
        "a server that takes only reads for a while, as its role changes, ends no wait; after it all goes on",
        |cx| Box::pin(read_only(cx)),
    )
    .needs(&[Need::Hook(Hook::Server), Need::Hook(Hook::ReadOnly)])
    .faults(1),
];

async fn refused_clean_ups(cx: Context) -> Verdict {
    const OTHERS: usize = 4;
    const REFUSED: [&str; 2] = ["held", "waited"];
    let (locks, others_locks) = (cx.locks().await?, cx.locks().await?);
    // So long that the clean-ups are tried again for as long as the other names are used.
    let ttl = 5 * cx.ttl();
    let lock = |tail: &str| locks.lock(cx.name(tail)).ttl(ttl);
    let held = lock("held").acquire().await?;
    let holder = others_locks.lock(cx.name("waited")).ttl(ttl).acquire().await?;
    let waiter = tokio::spawn(lock("waited").acquire());
    cx.have_come("waited", 2).await?;
    cx.sleep(cx.arrival()).await;
    let mut others = Vec::new();
    for number in 0..OTHERS {
        others.push(lock(&number.to_string()).acquire().await?);
    }
    for tail in REFUSED {
        cx.fixture.refuse(&cx.lock_name(tail)?, true).await?;
    }
    waiter.abort();
    let released = cx.by(cx.call_limit(), "a release that is refused ends", held.release()).await?;
    require!(released.is_err(), "a release was acknowledged that the store refuses");
    cx.sleep(cx.arrival()).await;
    for (number, guard) in others.into_iter().enumerate() {
        let tail = number.to_string();
        if number % 2 == 0 {
            let released = cx.by(cx.call_limit(), "a release beside it ends", guard.release());
            released.await?.map_err(|error| Stop::error(&error, "a release beside it"))?;
        } else {
            drop(guard);
        }
        cx.is_free_for(&others_locks.lock(cx.name(&tail))).await?;
        let granted = cx.by(cx.call_limit(), "another name is granted", lock(&tail).acquire());
        granted.await??.release().await?;
        cx.no_residue(&tail).await?;
    }
    for tail in REFUSED {
        cx.fixture.refuse(&cx.lock_name(tail)?, false).await?;
    }
    holder.release().await?;
    for tail in REFUSED {
        // The clean-up is tried again, or its time is over.
        let again = others_locks.lock(cx.name(tail)).acquire_within(ttl + cx.expiry_slack());
        again.await?.release().await?;
        cx.no_residue(tail).await?;
    }
    Ok(())
}

async fn read_only(cx: Context) -> Verdict {
    let (cx, _server) = cx.served().await?;
    // Connected before: a client may refuse to begin at such a server.
    let (locks, looks) = (cx.locks().await?, cx.locks().await?);
    let mut holder = Some(cx.lock("held").await?.acquire().await?);
    let before = holder.as_ref().map(|guard| (guard.token(), guard.watch()));
    looks.lock(cx.name("other")).acquire().await?.release().await?;
    let waiter = tokio::spawn(locks.lock(cx.name("held")).acquire());
    cx.have_come("held", 2).await?;
    cx.sleep(cx.arrival()).await;
    cx.fixture.read_only(true).await?;
    cx.notes.fault();
    let newcomer = tokio::spawn(locks.lock(cx.name("free")).acquire());
    let tried = looks.lock(cx.name("other")).try_acquire();
    let tried = cx.by(cx.call_limit(), "an attempt has a limit", tried).await?;
    require!(
        matches!(tried, Err(Error::Unavailable { .. })),
        "an attempt at a server that takes no writes: {tried:?}"
    );
    cx.sleep(2 * cx.ttl()).await;
    let mut granted = Vec::new();
    for (what, wait) in [("a newcomer's wait", newcomer), ("a wait behind a holder", waiter)] {
        if wait.is_finished() {
            let ended = wait.await?.map(|guard| guard.token());
            return Err(Stop::failed(format!(
                "{what} ended while no writes were taken: {ended:?}"
            )));
        }
        granted.push(wait);
    }
    cx.fixture.read_only(false).await?;
    for wait in granted {
        let guard = cx.by(cx.healed(), "a wait is granted once writes are taken", wait).await???;
        if let Some(holder) = holder.take() {
            // A newcomer is granted. The holder holds on where a lease needs no writes.
            drop(holder.release().await);
        } else if let Some((token, watch)) = &before {
            require!(guard.token() > *token, "token {} came after {token}", guard.token());
            require!(!watch.is_held(), "two guards held");
        }
        guard.release().await?;
    }
    for tail in ["held", "free", "other"] {
        cx.is_free_for(&looks.lock(cx.name(tail))).await?;
        cx.no_residue(tail).await?;
    }
    Ok(())
}
