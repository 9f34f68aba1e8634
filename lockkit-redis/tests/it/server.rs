//! What a server's troubles do to holders and waiters: flushes, cut connections, restarts, pauses.

use std::time::{Duration, Instant};

use crate::common::{SLACK, by, client, ms, queued, report, tokens, tokens_in_any_order, waiter};
use futures_util::FutureExt;
use lockkit_core::{Guard, LossReason};
use testbed::{Data, RedisServer, in_time, timing};

const TTL: Duration = ms(1_500);

#[tokio::test(flavor = "multi_thread")]
async fn script_flush_is_noticed_by_nobody() {
    let server = RedisServer::start().unwrap();
    let (holder, other) = (client(&server).await, client(&server).await);
    let guard = holder.lock("a").ttl(TTL).acquire().await.unwrap();
    let lock = other.lock("a").ttl(TTL);
    let waiters = vec![waiter(&lock, 0).await, waiter(&lock, 1).await];
    let end = Instant::now() + TTL * 2;
    while Instant::now() < end {
        server.cli(&["SCRIPT", "FLUSH"]).unwrap();
        testbed::held!(guard);
        tokio::time::sleep(ms(20)).await;
    }
    let token = guard.token();
    server.cli(&["SCRIPT", "FLUSH"]).unwrap();
    guard.release().await.unwrap();
    let tokens = tokens(waiters, SLACK).await;
    assert!(token < tokens[0] && tokens[0] < tokens[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn flushall_is_a_loss_and_the_waiters_go_on_with_greater_tokens() {
    // No stall of the machine makes it an expiry.
    const TTL: Duration = ms(5_000);
    let server = RedisServer::start().unwrap();
    let (holder, other) = (client(&server).await, client(&server).await);
    for round in 0..3 {
        let guard = holder.lock("a").ttl(TTL).acquire().await.unwrap();
        let lock = other.lock("a").ttl(TTL);
        let waiters = vec![waiter(&lock, 0).await, waiter(&lock, 1).await, waiter(&lock, 2).await];
        let token = guard.token();
        server.cli(&["FLUSHALL"]).unwrap();
        let watch = guard.watch();
        let reason = by(TTL / 2 + SLACK, "the holder is told", watch.lost()).await;
        assert_eq!(reason, LossReason::Removed, "round {round}");
        assert!(!guard.is_held());
        // In any order: their places are gone.
        let tokens = tokens_in_any_order(waiters, ms(2_000)).await;
        assert!(tokens.iter().all(|next| *next > token), "{token} before {tokens:?}");
        assert!(guard.release().await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_connections_are_no_loss_and_cost_no_waiter_its_place() {
    let server = RedisServer::start().unwrap();
    let (holder, other) = (client(&server).await, client(&server).await);
    for kinds in [&["normal"] as &[&str], &["pubsub"], &["normal", "pubsub"]] {
        let guard = holder.lock("a").ttl(TTL).acquire().await.unwrap();
        let lock = other.lock("a").ttl(TTL);
        let waiters = vec![waiter(&lock, 0).await, waiter(&lock, 1).await, waiter(&lock, 2).await];
        testbed::held!(guard, "{kinds:?}");
        let cut = || {
            for kind in kinds {
                server.cli(&["CLIENT", "KILL", "TYPE", kind]).unwrap();
            }
        };
        let end = Instant::now() + TTL * 2;
        while Instant::now() < end {
            cut();
            testbed::held!(guard, "{kinds:?}");
            tokio::time::sleep(ms(60)).await;
        }
        queued(&lock, 3).await;
        let token = guard.token();
        cut();
        // The wake-up of the first one may be lost: it asks again once it listens again.
        guard.release().await.unwrap();
        let tokens = tokens(waiters, SLACK).await;
        assert!(token < tokens[0] && tokens[0] < tokens[1] && tokens[1] < tokens[2], "{kinds:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_that_kept_its_data_loses_neither_holder_nor_waiters() {
    let server = RedisServer::builder().appendonly().start().unwrap();
    let (holder, other) = (client(&server).await, client(&server).await);
    // Longer than a restart on a busy machine takes.
    let ttl = ms(5_000);
    let guard = holder.lock("a").ttl(ttl).acquire().await.unwrap();
    let lock = other.lock("a").ttl(ttl);
    let waiters = vec![waiter(&lock, 0).await, waiter(&lock, 1).await];
    for _ in 0..2 {
        server.restart(Data::Kept).unwrap();
        tokio::time::sleep(ms(1_000)).await;
    }
    testbed::held!(guard);
    queued(&lock, 2).await;
    let token = guard.token();
    guard.release().await.unwrap();
    // Whose driver still pauses misses its turn: the order is kept among those who answer.
    let tokens = tokens_in_any_order(waiters, ms(3_000)).await;
    assert!(tokens.iter().all(|next| *next > token), "{token} before {tokens:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_that_lost_its_data_lets_the_waiters_in_with_greater_tokens() {
    let server = RedisServer::start().unwrap();
    let (holder, other) = (client(&server).await, client(&server).await);
    let guard = holder.lock("a").ttl(TTL).acquire().await.unwrap();
    let lock = other.lock("a").ttl(TTL);
    let waiters = vec![waiter(&lock, 0).await, waiter(&lock, 1).await];
    let token = guard.token();
    server.kill().unwrap();
    // Past the ttl: by now the holder knows by itself.
    tokio::time::sleep(TTL + ms(100)).await;
    assert!(!guard.is_held());
    let reason = by(ms(100), "the holder's deadline", guard.lost()).await;
    assert_eq!(reason, LossReason::Expired);
    server.restart(Data::Lost).unwrap();
    // A driver pauses for a second at the most between two attempts.
    let tokens = tokens_in_any_order(waiters, ms(3_000)).await;
    assert!(tokens.iter().all(|next| *next > token), "{token} before {tokens:?}");
}

/// The margin between the end of a holder's belief and the next grant, for one name.
async fn margin(guard: Guard, next: impl Future<Output = Guard>) -> Option<Duration> {
    let watch = guard.watch();
    let lost = tokio::spawn(async move {
        watch.lost().await;
        Instant::now()
    });
    let next = next.await;
    let granted = Instant::now();
    assert!(!guard.is_held(), "{}: two hold it at once", next.name());
    assert!(guard.lost().now_or_never().is_some(), "{}: lost, and not told", next.name());
    let lost = lost.await.unwrap();
    drop((guard, next));
    Some(granted.saturating_duration_since(lost))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_paused_past_the_ttl_grants_to_nobody_before_the_holder_knows_240_times() {
    const NAMES: usize = 60;
    let server = RedisServer::start().unwrap();
    let (holder, other) = (client(&server).await, client(&server).await);
    let ttl = ms(600);
    let mut margins = Vec::new();
    // Just past the ttl is the hardest: what is left in the store ends as it wakes.
    for (round, pause) in [ms(610), ms(640), ms(700), ms(1_200)].into_iter().enumerate() {
        let mut pairs = Vec::new();
        for n in 0..NAMES {
            let name = format!("{round}/{n}");
            let guard = holder.lock(&name).ttl(ttl).acquire().await.unwrap();
            let next = tokio::spawn(other.lock(&name).ttl(ttl).acquire());
            pairs.push(tokio::spawn(margin(guard, async { next.await.unwrap().unwrap() })));
        }
        // Some are renewed by now.
        tokio::time::sleep(ms(150)).await;
        server.pause().unwrap();
        tokio::time::sleep(pause).await;
        server.resume().unwrap();
        for pair in pairs {
            margins.extend(by(ms(8_000), "a grant after the pause", pair).await.unwrap());
        }
    }
    assert!(margins.len() >= 200);
    let least = margins.iter().min().unwrap();
    report(&format!("redis: {} expiries, smallest margin {least:?}", margins.len()));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_slow_or_failed_renewal_is_not_a_loss() {
    let server = RedisServer::start().unwrap();
    let locks = client(&server).await;
    let ttl = ms(2_000);
    let guard = locks.lock("a").ttl(ttl).acquire().await.unwrap();
    let token = guard.token();
    for _ in 0..3 {
        // Over the time of at least one renewal, and well before the deadline.
        server.pause().unwrap();
        tokio::time::sleep(ttl * 45 / 100).await;
        server.resume().unwrap();
        for _ in 0..10 {
            server.cli(&["CLIENT", "KILL", "TYPE", "normal"]).unwrap();
            tokio::time::sleep(ms(50)).await;
        }
        testbed::held!(guard);
        let began = timing::start();
        tokio::time::sleep(ttl / 2).await;
        in_time!(began, guard.remaining().unwrap() > ttl / 4, "renewals do not go on");
    }
    assert_eq!(guard.token(), token);
    guard.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_name_or_server_holds_up_no_other() {
    let (stalled, well) = (RedisServer::start().unwrap(), RedisServer::start().unwrap());
    let (on_stalled, on_well) = (client(&stalled).await, client(&well).await);
    // One name with a long queue, through the same provider as the names that follow.
    let held = on_well.lock("held").acquire().await.unwrap();
    let queue: Vec<_> = (0..64).map(|_| tokio::spawn(on_well.lock("held").acquire())).collect();
    queued(&on_well.lock("held"), 64).await;
    let _far = on_stalled.lock("far").acquire().await.unwrap();
    stalled.pause().unwrap();
    let waiting: Vec<_> = (0..8).map(|_| tokio::spawn(on_stalled.lock("far").acquire())).collect();
    let (mut slowest, first) = (Duration::ZERO, timing::start());
    for n in 0..100 {
        let began = Instant::now();
        on_well.lock(format!("{n}")).acquire().await.unwrap().release().await.unwrap();
        slowest = slowest.max(began.elapsed());
    }
    println!("slowest of 100 acquires and releases beside a stalled name: {slowest:?}");
    in_time!(first, slowest < ms(1_000), "{slowest:?}");
    stalled.resume().unwrap();
    for waiter in queue.into_iter().chain(waiting) {
        waiter.abort();
    }
    drop(held);
}
