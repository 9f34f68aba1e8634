//! Atomicity: one winner, whoever tries how.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::Fairness as Claim;
use crate::conformance::case::Case;
use crate::conformance::case::Challenge::Atomicity;
use crate::conformance::context::Context;
use crate::conformance::poll::{pass, polled};
use crate::conformance::stop::{Verdict, require};

/// More polls than any provider needs for one call.
const POLLS: u32 = 64;

pub(super) const CASES: &[Case] = &[
    Case::new(
        "AT-01",
        Atomicity,
        "C1",
        "sixty-four tasks try at once, and exactly one wins each round",
        |cx| Box::pin(one_of_many_wins(cx)),
    ),
    Case::new(
        "AT-03",
        Atomicity,
        "C1",
        "an unprotected counter that sixteen tasks bump under the lock loses no update",
        |cx| Box::pin(no_update_is_lost(cx)),
    ),
    Case::new(
        "AT-04",
        Atomicity,
        "C1",
        "a release that races an acquisition leaves neither two holders nor none",
        |cx| Box::pin(release_races_acquisition(cx)),
    ),
    Case::new(
        "C1-02",
        Atomicity,
        "C1",
        "an attempt on a name that has just been freed is granted, whatever one before it was told",
        |cx| Box::pin(refused_and_granted(cx)),
    ),
    Case::new(
        "AT-08",
        Atomicity,
        "C2",
        "a replay of one request gets the same grant with the same token",
        |cx| Box::pin(replay_of_a_grant(cx)),
    ),
    Case::new(
        "C2-01",
        Atomicity,
        "C2",
        "a replay of one waiting request keeps one place in the queue and gets one grant",
        |cx| Box::pin(replay_of_a_waiter(cx)),
    ),
    Case::new(
        "C2-02",
        Atomicity,
        "C2",
        "a call that is dropped at any poll ends no other call of its request, be the name free or held",
        |cx| Box::pin(one_call_of_two_is_dropped(cx)),
    ),
];

async fn one_of_many_wins(cx: Context) -> Verdict {
    const TASKS: usize = 64;
    const CLIENTS: usize = 4;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(cx.locks().await?);
    }
    for round in 0..200 {
        let barrier = Arc::new(Barrier::new(TASKS));
        let mut tries = JoinSet::new();
        for task in 0..TASKS {
            let lock = clients[task % CLIENTS].lock(cx.name("contended")).ttl(cx.long_ttl());
            let barrier = Arc::clone(&barrier);
            tries.spawn(async move {
                barrier.wait().await;
                lock.try_acquire().await
            });
        }
        // Kept until everybody has tried.
        let mut winners = Vec::new();
        while let Some(tried) = tries.join_next().await {
            winners.extend(tried??);
        }
        let won = winners.len();
        require!(won == 1, "{won} of {TASKS} tasks won round {round} instead of exactly one");
        for guard in winners {
            guard.release().await?;
        }
    }
    Ok(())
}

async fn no_update_is_lost(cx: Context) -> Verdict {
    const TASKS: u32 = 16;
    const BUMPS: u32 = 100;
    /// A store that takes its time does so many at the least.
    const LEAST: u32 = 2;
    let budget = cx.budget();
    let counter = Arc::new(AtomicU32::new(0));
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let lock = cx.lock("counter").await?.ttl(cx.long_ttl());
        let (counter, clock, budget) = (Arc::clone(&counter), cx.clock.clone(), budget.clone());
        tasks.spawn(async move {
            let mut bumps = 0;
            while bumps < BUMPS && (bumps < LEAST || !budget.is_spent()) {
                bumps += 1;
                let guard = lock.acquire().await?;
                let seen = counter.load(Ordering::SeqCst);
                // Read, leave, write: what any second holder would break.
                match (task + bumps) % 16 {
                    0 => clock.sleep(Duration::from_micros(200)).await,
                    _ => tokio::task::yield_now().await,
                }
                counter.store(seen + 1, Ordering::SeqCst);
                guard.release().await?;
            }
            Ok::<_, crate::Error>(bumps)
        });
    }
    let mut bumps = 0;
    while let Some(ended) = tasks.join_next().await {
        bumps += ended??;
    }
    let counted = counter.load(Ordering::SeqCst);
    require!(
        counted == bumps,
        "C1: {TASKS} tasks bumped a counter {bumps} times, each under the lock; it must be {bumps}, and \
         is {counted}: two held at once"
    );
    Ok(())
}

async fn release_races_acquisition(cx: Context) -> Verdict {
    let most = if cx.is_virtual() { 2000 } else { 500 };
    // Each number of turns once, at the least.
    let (least, budget) = (35, cx.budget());
    let [ours, theirs] =
        [cx.lock("handed").await?, cx.lock("handed").await?].map(|lock| lock.ttl(cx.long_ttl()));
    for round in 0..most {
        if round >= least && budget.is_spent() {
            break;
        }
        let guard = ours.acquire().await?;
        let watch = guard.watch();
        let lock = theirs.clone();
        let waiter = tokio::spawn(async move {
            pass(round % 5).await;
            let guard = lock.acquire().await?;
            Ok::<_, crate::Error>((watch.is_held(), guard))
        });
        pass(round % 7).await;
        guard.release().await?;
        let granted = cx.by(cx.wake_up(), "a released name is granted to its waiter", waiter);
        let (still_held, guard) = granted.await???;
        require!(!still_held, "two guards held in round {round}");
        require!(guard.is_held(), "a guard fresh from its grant is not held in round {round}");
        guard.release().await?;
    }
    Ok(())
}

async fn refused_and_granted(cx: Context) -> Verdict {
    const ROUNDS: u32 = 200;
    let client = cx.connect().await?;
    let budget = cx.budget();
    for round in 0..ROUNDS {
        if round >= 10 && budget.is_spent() {
            break;
        }
        let holder = cx.request_with_ttl("passed", cx.long_ttl())?;
        let holder = cx.granted(&*cx.provider, &holder).await?;
        for attempt in 0..2 {
            let refused = client.try_acquire(&cx.request("passed")?).await?;
            require!(refused.is_none(), "attempt {attempt} of round {round} got {refused:?}");
        }
        holder.lease.release().await?;
        let next = cx.granted(&*client, &cx.request("passed")?).await?;
        require!(next.token > holder.token, "token {} came after {}", next.token, holder.token);
        next.lease.release().await?;
    }
    cx.no_residue("passed").await
}

async fn replay_of_a_grant(cx: Context) -> Verdict {
    let client = cx.connect().await?;
    let request = cx.request_with_ttl("replayed", cx.long_ttl())?;
    let first = cx.granted(&*client, &request).await?;
    let again = cx.granted(&*client, &request).await?;
    let waiting = cx.by(cx.wake_up(), "a replay is answered", client.acquire(&request)).await??;
    for (how, replay) in [("try_acquire", &again), ("acquire", &waiting)] {
        let (token, new) = (first.token, replay.token);
        require!(new == token, "a replay by {how} got token {new} instead of {token}");
    }
    // It is held for as long as one of its leases is.
    drop(waiting);
    cx.sleep(cx.arrival()).await;
    first.lease.renew().await?;
    let other = cx.provider.try_acquire(&cx.request("replayed")?).await?;
    require!(other.is_none(), "a second request was granted beside a replayed one");
    // One grant, so one release ends it.
    first.lease.release().await?;
    let next = cx.is_free("replayed").await?;
    require!(next > first.token, "token {next} came after {}", first.token);
    drop(again);
    client.withdraw(&request).await?;
    cx.no_residue("replayed").await
}

async fn replay_of_a_waiter(cx: Context) -> Verdict {
    let client = cx.connect().await?;
    let holder = cx.lock("replayed").await?.ttl(cx.long_ttl()).acquire().await?;
    let request = cx.request_with_ttl("replayed", cx.long_ttl())?;
    let mut first = pin!(client.acquire(&request));
    let mut again = pin!(client.acquire(&request));
    tokio::select! {
        ended = &mut first => require!(false, "granted beside a holder: {ended:?}"),
        queued = cx.queued(&request) => queued?,
    }
    tokio::select! {
        ended = &mut again => require!(false, "granted beside a holder: {ended:?}"),
        () = cx.sleep(cx.arrival()) => {}
    }
    if let Some(operator) = cx.provider.operator() {
        let waiters = operator.inspect(request.name()).await?.waiters.unwrap_or(1);
        require!(waiters == 1, "one request that was replayed has {waiters} places in the queue");
    }
    let lock = cx.lock("replayed").await?;
    // Releases at once: where the order is not promised, it may come before the replayed one.
    let follower = tokio::spawn(async move {
        let guard = lock.acquire().await?;
        let token = guard.token();
        guard.release().await.map(|()| token)
    });
    pass(20).await;
    // A replay that comes after the follower has the place before it all the same.
    let mut behind = pin!(client.acquire(&request));
    tokio::select! {
        ended = &mut behind => require!(false, "granted beside a holder: {ended:?}"),
        () = cx.sleep(Duration::from_millis(20)) => {}
    }
    holder.release().await?;
    let either = async {
        tokio::select! {
            granted = &mut first => granted,
            granted = &mut again => granted,
            granted = &mut behind => granted,
        }
    };
    let grant = cx.by(cx.wake_up(), "a replayed waiter is granted", either).await??;
    grant.lease.release().await?;
    let followed = cx.by(cx.wake_up(), "its follower is granted", follower).await???;
    let in_order = cx.guarantees.fairness != Claim::Fifo || followed > grant.token;
    require!(in_order, "a waiter that was replayed came after its follower");
    client.withdraw(&request).await?;
    cx.no_residue("replayed").await
}

async fn one_call_of_two_is_dropped(cx: Context) -> Verdict {
    // Dropped as the other call begins, and once that had time to ask.
    for beside in [Duration::ZERO, cx.arrival()] {
        one_of_two_at_a_free_name(&cx, beside).await?;
    }
    for first_leaves in [true, false] {
        one_of_two_behind_others(&cx, first_leaves).await?;
    }
    Ok(())
}

async fn one_of_two_at_a_free_name(cx: &Context, beside: Duration) -> Verdict {
    let client = cx.connect().await?;
    for polls in 0..POLLS {
        let request = cx.request("free")?;
        let mut first = Box::pin(client.acquire(&request));
        if let Some(granted) = polled(first.as_mut(), polls).await {
            granted?.lease.release().await?;
            break;
        }
        let (asker, asked) = (Arc::clone(&client), request.clone());
        let second = tokio::spawn(async move { asker.acquire(&asked).await });
        pass(20).await;
        cx.sleep(beside).await;
        drop(first);
        let grant = cx.by(cx.wake_up(), "the other call is granted", second).await???;
        grant.lease.release().await?;
        client.withdraw(&request).await?;
        cx.no_residue("free").await?;
    }
    Ok(())
}

async fn one_of_two_behind_others(cx: &Context, first_leaves: bool) -> Verdict {
    let client = cx.connect().await?;
    let holder = cx.lock("held").await?.ttl(cx.long_ttl()).acquire().await?;
    // One more wait of this client for the same name, which releases at once: the order may be any.
    let earlier = cx.request_with_ttl("held", cx.patient_ttl())?;
    let (asker, asked) = (Arc::clone(&client), earlier.clone());
    let before = tokio::spawn(async move { asker.acquire(&asked).await?.lease.release().await });
    cx.queued(&earlier).await?;
    let request = cx.request_with_ttl("held", cx.patient_ttl())?;
    let ask = || {
        let (asker, asked) = (Arc::clone(&client), request.clone());
        tokio::spawn(async move { asker.acquire(&asked).await })
    };
    let mut calls = vec![ask()];
    cx.queued(&request).await?;
    calls.push(ask());
    cx.sleep(cx.arrival()).await;
    let leaves = calls.remove(usize::from(!first_leaves));
    leaves.abort();
    require!(leaves.await.is_err_and(|error| error.is_cancelled()), "granted beside a holder");
    cx.sleep(cx.arrival()).await;
    let stays = calls.remove(0);
    require!(!stays.is_finished(), "a call has ended with another one of its request");
    holder.release().await?;
    let grant = cx.by(2 * cx.wake_up(), "the call that stayed is granted", stays).await???;
    grant.lease.release().await?;
    cx.by(cx.wake_up(), "the wait before it is granted", before).await???;
    client.withdraw(&request).await?;
    cx.no_residue("held").await
}
