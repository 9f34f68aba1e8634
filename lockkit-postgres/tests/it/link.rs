//! What goes over the link: how many round trips each thing takes, and what a cut one leaves.

use std::time::Duration;

use crate::common::{SLACK, advisory, by, config, join, key_of, ms, until};
use futures_util::future::join_all;
use lockkit_core::{Clock, Error, Guard, Lock, LockName, LockProvider, Locks, Request};
use lockkit_postgres::{PostgresProvider, Strategy};
use testbed::{Connections, Fault, Link, PostgresServer, Way, in_time, timing};

/// Longer than any of these tests: no renewal comes in between.
const TTL: Duration = Duration::from_secs(60);

/// A client behind a link of its own.
async fn linked(server: &PostgresServer, strategy: Strategy) -> (Locks, Link) {
    let link = Link::to_postgres(server.address()).unwrap();
    let url = format!("{}?sslmode=disable", server.url_at(link.address()));
    let provider = PostgresProvider::connect(config(&url, strategy)).await.unwrap();
    (Locks::new(provider), link)
}

/// How many messages have gone to the server, without those that only show that we live.
fn sent(link: &Link) -> u64 {
    let requests = link.counts().requests;
    requests.iter().filter(|(name, _)| *name != "S").map(|(_, count)| count).sum()
}

/// How often the server said that it is done.
fn round_trips(link: &Link) -> u64 {
    link.counts().answers.get("Z").copied().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_a_renewal_and_a_release_take_one_round_trip_each() {
    let server = PostgresServer::start().unwrap();
    for strategy in crate::common::BOTH {
        let (locks, link) = linked(&server, strategy).await;
        let lock = locks.lock("a").ttl(TTL);
        drop(lock.acquire().await.unwrap().release().await);
        let mut seen = Vec::new();
        for _ in 0..3 {
            tokio::time::sleep(ms(100)).await;
            let (before, made) = (sent(&link), link.counts().accepted);
            let guard = lock.acquire().await.unwrap();
            let granted = sent(&link);
            guard.renew().await.unwrap();
            let renewed = sent(&link);
            guard.release().await.unwrap();
            let sent = [granted - before, renewed - granted, sent(&link) - renewed];
            seen.push((sent, link.counts().accepted - made));
        }
        // On a session that is only asked for an answer, a renewal is no statement at all.
        let renewal = u64::from(strategy == Strategy::Table);
        // A stall may have one asked again, but not one in each round.
        let exact = ([1, renewal, 1], 0);
        assert!(seen.contains(&exact), "{strategy:?}: {seen:?}, and {exact:?} is expected");
        let letters: Vec<_> = link.counts().requests.into_keys().collect();
        assert!(
            letters.iter().all(|letter| ["Q", "S", "X", "startup"].contains(&letter.as_str())),
            "only the simple protocol and Sync: {letters:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn advisory_locks_that_are_asked_for_and_released_at_once_share_their_messages() {
    let server = PostgresServer::start().unwrap();
    let (locks, link) = linked(&server, Strategy::Advisory).await;
    let all: Vec<_> = (0..16).map(|n| locks.lock(format!("name-{n}")).ttl(TTL)).collect();
    // The session is told its ttl alone.
    drop(all[0].acquire().await.unwrap().release().await);
    let accepted = link.counts().accepted;
    let mut seen = Vec::new();
    for _ in 0..3 {
        let before = sent(&link);
        let acquired = join_all(all.iter().map(Lock::acquire)).await;
        let guards: Vec<_> = acquired.into_iter().map(Result::unwrap).collect();
        let granted = sent(&link);
        assert_eq!(advisory(&server), all.len());
        for released in join_all(guards.into_iter().map(Guard::release)).await {
            released.unwrap();
        }
        assert_eq!(advisory(&server), 0);
        seen.push([granted - before, sent(&link) - granted]);
    }
    // The first statement goes alone, and those that come meanwhile go together.
    let is_shared = |[asked, released]: &[u64; 2]| *asked <= 3 && *released <= 3;
    assert!(seen.iter().any(is_shared), "messages for 16 names: {seen:?}");
    assert_eq!(link.counts().accepted, accepted, "one session is enough");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_is_one_sync_and_its_answer() {
    let server = PostgresServer::start().unwrap();
    let (locks, link) = linked(&server, Strategy::Advisory).await;
    // The watch over a session speaks at most every 500 ms: a burst of renewals goes in between.
    let guard = locks.lock("a").ttl(TTL).acquire().await.unwrap();
    let before = round_trips(&link);
    for _ in 0..10 {
        guard.renew().await.unwrap();
    }
    let took = round_trips(&link) - before;
    assert!((10..=11).contains(&took), "{took} round trips for 10 renewals");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_contended_acquire_takes_two_round_trips_from_its_beginning_to_its_token() {
    let server = PostgresServer::start().unwrap();
    let holder = join(&server.url(), Strategy::Advisory).await;
    let (locks, link) = linked(&server, Strategy::Advisory).await;
    let mut seen = Vec::new();
    for _ in 0..4 {
        let guard = holder.lock("a").ttl(TTL).acquire().await.unwrap();
        let before = (sent(&link), link.counts().accepted);
        let waiter = tokio::spawn(locks.lock("a").ttl(TTL).acquire());
        until(SLACK, "it waits in the server", || advisory(&server) == 2).await;
        tokio::time::sleep(ms(300)).await;
        let token = guard.token();
        guard.release().await.unwrap();
        let guard = by(SLACK, "the waiter is granted", waiter).await.unwrap().unwrap();
        let after = (sent(&link), link.counts().accepted);
        assert!(guard.token() > token);
        seen.push((after.0 - before.0, after.1 - before.1));
        guard.release().await.unwrap();
    }
    // The attempt, and the wait, whose answer is the token. The first one makes the session that it waits on;
    // a stall may have a wait asked again, but not each.
    assert!(seen[1..].contains(&(2, 0)), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_term_of_a_wait_begins_when_it_was_last_seen_to_go_on_or_with_one_more_statement() {
    let server = PostgresServer::start().unwrap();
    let holder = join(&server.url(), Strategy::Advisory).await;
    let locks = join(&server.url(), Strategy::Advisory).await;
    for ttl in [ms(400), ms(3_000)] {
        let guard = holder.lock("a").ttl(TTL).acquire().await.unwrap();
        let waiter = tokio::spawn(locks.lock("a").ttl(ttl).acquire());
        // Many times the ttl of the one, half of the other's.
        tokio::time::sleep(ms(1_500)).await;
        let released = timing::start();
        guard.release().await.unwrap();
        let guard = by(SLACK, "the waiter is granted", waiter).await.unwrap().unwrap();
        let left = guard.remaining().unwrap();
        assert_eq!(guard.ttl(), Some(ttl));
        in_time!(released, left > ttl / 2, "{left:?} of {ttl:?}");
        guard.release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_was_delivered_on_a_link_that_falls_silent_holds_for_a_ttl_at_most() {
    let server = PostgresServer::start().unwrap();
    let ttl = ms(1_500);
    let free = format!("SELECT pg_try_advisory_lock({})", key_of("a"));
    // Silent before the answer, or after it and before the next Sync.
    for is_answered in [false, true] {
        let (locks, link) = linked(&server, Strategy::Advisory).await;
        // One lock holds the session: it cannot be given up for the other's sake.
        let guard = locks.lock("other").ttl(ttl).acquire().await.unwrap();
        let began = timing::start();
        if !is_answered {
            link.fault(Way::ToClient, Fault::Blackhole);
        }
        let trying = tokio::spawn(locks.lock("a").ttl(ttl).try_acquire());
        until(ttl / 2, "the server has granted it", || advisory(&server) == 2).await;
        let tried = if is_answered { Ok(trying.await.unwrap().unwrap()) } else { Err(trying) };
        link.fault_on(Connections::All, Way::Both, Fault::Blackhole);
        link.refuse().unwrap();
        let silent = timing::start();
        in_time!(began, advisory(&server) == 2, "it was silent too late");
        match tried {
            Ok(tried) => {
                let tried = tried.expect("it was free");
                by(ttl + SLACK, "its holder is told", tried.lost()).await;
            }
            Err(trying) => {
                assert!(by(ms(2_500), "the caller is told", trying).await.unwrap().is_err());
            }
        }
        by(ttl + SLACK, "the holder is told", guard.lost()).await;
        until(ttl + SLACK, "the server frees what nobody renews", || advisory(&server) == 0).await;
        println!("answered: {is_answered}; freed after {:?}", silent.elapsed());
        in_time!(silent, silent.elapsed() < ttl + SLACK);
        assert_eq!(server.sql(&free).unwrap(), "t");
        drop(locks);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_goes_on_to_a_waiter_of_another_ttl_has_that_ttl_in_the_server_too() {
    let server = PostgresServer::start().unwrap();
    let (locks, link) = linked(&server, Strategy::Advisory).await;
    let (short, long) = (ms(1_000), ms(6_000));
    let first = locks.lock("a").ttl(short).acquire().await.unwrap();
    let second = tokio::spawn(locks.lock("a").ttl(short).acquire());
    tokio::time::sleep(ms(100)).await;
    let third = tokio::spawn(locks.lock("a").ttl(long).acquire());
    tokio::time::sleep(ms(100)).await;
    // Brings tokens for all that wait.
    first.release().await.unwrap();
    let second = by(SLACK, "the second is granted", second).await.unwrap().unwrap();
    second.release().await.unwrap();
    let third = by(SLACK, "the third is granted", third).await.unwrap().unwrap();
    link.fault(Way::Both, Fault::Blackhole);
    assert_eq!(third.ttl(), Some(long));
    let other = join(&server.url(), Strategy::Advisory).await;
    let next = by(long + SLACK, "it is freed", other.lock("a").acquire()).await.unwrap();
    assert!(!third.is_held(), "two hold it");
    assert!(next.token() > third.token());
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_told_that_a_name_is_held_once_the_server_is_out_of_reach() {
    let server = PostgresServer::start().unwrap();
    let other = join(&server.url(), Strategy::Advisory).await;
    let (locks, link) = linked(&server, Strategy::Advisory).await;
    let lock = locks.lock("a").ttl(TTL);
    let held = other.lock("a").ttl(TTL).acquire().await.unwrap();
    let waiter = tokio::spawn(lock.acquire());
    until(SLACK, "it waits in the server", || advisory(&server) == 2).await;
    assert!(lock.try_acquire().await.unwrap().is_none());
    let late = lock.acquire_within(ms(300)).await;
    assert!(matches!(late, Err(Error::TimedOut { .. })), "{late:?}");
    link.refuse().unwrap();
    link.reset().unwrap();
    // The wait has ended, and nobody knows who holds the name.
    tokio::time::sleep(ms(100)).await;
    for _ in 0..3 {
        let tried = lock.try_acquire().await;
        assert!(matches!(tried, Err(Error::Unavailable { .. })), "{tried:?}");
        let late = lock.acquire_within(ms(300)).await;
        assert!(matches!(late, Err(Error::Unavailable { .. })), "{late:?}");
    }
    link.pass().unwrap();
    tokio::time::sleep(ms(2_000)).await;
    assert!(!waiter.is_finished() && lock.try_acquire().await.unwrap().is_none());
    held.release().await.unwrap();
    drop(by(ms(1_000) + SLACK, "the waiter is granted", waiter).await.unwrap().unwrap());
}

/// As many turns as the waiters of one process take before they ask who else waits.
const TURNS: usize = 32;

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_whether_others_wait_and_hears_nothing_leaves_the_lock_to_them() {
    let server = PostgresServer::start().unwrap();
    let other = join(&server.url(), Strategy::Advisory).await;
    let (locks, link) = linked(&server, Strategy::Advisory).await;
    let ttl = ms(1_500);
    let (granted, mut guards) = tokio::sync::mpsc::unbounded_channel();
    for _ in 0..2 * TURNS {
        let (lock, granted) = (locks.lock("a").ttl(ttl), granted.clone());
        tokio::spawn(async move {
            // At the end of the test nobody listens.
            granted.send(lock.acquire().await.unwrap()).ok();
        });
    }
    let mut guard = guards.recv().await.unwrap();
    // The queue is never empty in these turns.
    tokio::time::sleep(ms(200)).await;
    for _ in 1..TURNS {
        guard.release().await.unwrap();
        guard = by(SLACK, "the next in the queue", guards.recv()).await.unwrap();
    }
    let stranger = tokio::spawn(other.lock("a").ttl(ttl).acquire());
    until(SLACK, "the other waits in the server", || advisory(&server) == 2).await;
    link.fault(Way::ToClient, Fault::Blackhole);
    let (before, last) = (sent(&link), guard.token());
    let releasing = tokio::spawn(guard.release());
    until(SLACK, "it asks who else waits", || sent(&link) > before).await;
    let stranger = by(ttl + SLACK, "the other is granted", stranger).await.unwrap().unwrap();
    assert!(stranger.token() > last);
    assert!(guards.try_recv().is_err(), "one of the queue was granted beside the other");
    by(ttl + SLACK, "the release is told of its end", releasing).await.unwrap().ok();
    link.pass().unwrap();
    let held = stranger.token();
    stranger.release().await.unwrap();
    let next = by(ttl + SLACK, "the queue goes on", guards.recv()).await.unwrap();
    assert!(next.token() > held);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_an_answer_serves_no_other_call_also_where_its_caller_left_first() {
    let server = PostgresServer::start().unwrap();
    let link = Link::to_postgres(server.address()).unwrap();
    let url = format!("{}?sslmode=disable", server.url_at(link.address()));
    for strategy in crate::common::BOTH {
        let provider = PostgresProvider::connect(config(&url, strategy)).await.unwrap();
        let request =
            |ttl| Request::new(LockName::new("a").unwrap(), ttl, Clock::system()).unwrap();
        let ttl = Duration::from_secs(2);
        let limit = lockkit_core::kit::call_limit(ttl);
        for left_at in [limit / 2, TTL] {
            let granted = provider.try_acquire(&request(ttl)).await.unwrap().unwrap();
            granted.lease.release().await.unwrap();
            link.fault_on(Connections::Existing, Way::Both, Fault::Blackhole);
            let stuck = request(ttl);
            match tokio::time::timeout(left_at, provider.try_acquire(&stuck)).await {
                // Its answer is not overdue yet.
                Err(_) if left_at < limit => tokio::time::sleep(limit / 2).await,
                Ok(Err(Error::Unavailable { .. })) if left_at > limit => {}
                other => panic!("{strategy:?}, left after {left_at:?}: {other:?}"),
            }
            let next = provider.try_acquire(&request(ttl)).await;
            let next = next.unwrap_or_else(|error| panic!("{strategy:?}, {left_at:?}: {error}"));
            next.expect("free").lease.release().await.unwrap();
            provider.withdraw(&stuck).await.unwrap();
            link.pass().unwrap();
        }
    }
}
