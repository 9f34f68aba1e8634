//! Semaphores: limits, slots, and what an operator does to them.

use std::time::Duration;

use lockkit_core::{
    Clock, Error, Family, FencingToken, Grant, Guard, Kind, LockName, LockProvider, LossReason,
    Permits, Request, Semaphore,
};
use lockkit_redis::{RedisConfig, RedisProvider};
use testbed::resp::Reply;
use testbed::{RedisServer, timing};
use tokio::task::JoinHandle;

use crate::common::{SLACK, by, client, ms};

const TTL: Duration = ms(15_000);

async fn provider(server: &RedisServer) -> RedisProvider {
    RedisProvider::connect(RedisConfig::tcp("127.0.0.1", server.port())).await.unwrap()
}

/// A request for one of `permits` of the semaphore `a`.
fn request(permits: u32, ttl: Duration) -> Request {
    let request = Request::new(LockName::new("a").unwrap(), ttl, Clock::system()).unwrap();
    request.counted(Permits::new(permits).unwrap())
}

/// A caller that waits, behind `before` others.
async fn waiter(semaphore: &Semaphore, before: usize) -> JoinHandle<Guard> {
    let acquire = semaphore.acquire();
    let waiter = tokio::spawn(async move { acquire.await.expect("a permit") });
    waiting(semaphore, before + 1).await;
    waiter
}

/// Waits until so many wait.
async fn waiting(semaphore: &Semaphore, count: usize) {
    let seen = async || semaphore.inspect().await.unwrap().waiters == Some(count);
    timing::gone(ms(5_000), "waiters of another number", seen).await;
}

async fn granted(waiter: JoinHandle<Guard>) -> Guard {
    by(ms(5_000), "a permit", waiter).await.unwrap()
}

/// The keys in the server, but for the mark of the layout.
fn keys(server: &RedisServer) -> Vec<String> {
    let keys = server.cli(&["KEYS", "*"]).unwrap();
    let mut keys: Vec<_> = keys.items().iter().filter_map(Reply::text).collect();
    keys.retain(|key| key != "{}:layout" && !key.starts_with("{lockkit}:client:"));
    keys.sort();
    keys
}

fn slots(guards: &[Guard]) -> Vec<u32> {
    guards.iter().map(|guard| guard.slot().expect("a slot")).collect()
}

async fn release_all(guards: Vec<Guard>) {
    for guard in guards {
        guard.release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_request_notes_the_limit_and_it_applies_to_all() {
    let server = RedisServer::start().unwrap();
    let (locks, other) = (client(&server).await, client(&server).await);
    assert_eq!(locks.semaphore("a", 7).inspect().await.unwrap().permits, None);
    let two = locks.semaphore("a", 2).ttl(TTL);
    let five = other.semaphore("a", 5).ttl(TTL);
    let held = vec![two.acquire().await.unwrap(), five.acquire().await.unwrap()];
    assert!(five.try_acquire().await.unwrap().is_none());
    for _ in 0..2 {
        let refused = five.clone().exact_limit().acquire().await.unwrap_err();
        assert!(matches!(refused, Error::Rejected { .. }), "{refused}");
        let refused = five.clone().exact_limit().try_acquire().await.unwrap_err();
        assert!(matches!(refused, Error::Rejected { .. }), "{refused}");
    }
    let seen = five.inspect().await.unwrap();
    assert_eq!((seen.permits, seen.waiters, seen.holders.len()), (Some(2), Some(0), 2));
    // The lock of the same text is another name.
    let lock = locks.lock("a").acquire().await.unwrap();
    assert_eq!(locks.lock("a").inspect().await.unwrap().permits, None);
    lock.release().await.unwrap();
    held.into_iter().next().unwrap().release().await.unwrap();
    two.clone().exact_limit().acquire().await.unwrap().release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_are_the_smallest_that_are_free_and_tokens_grow() {
    let server = RedisServer::start().unwrap();
    let semaphore = client(&server).await.semaphore("a", 20).ttl(TTL);
    let mut held = Vec::new();
    for _ in 0..20 {
        held.push(semaphore.acquire().await.unwrap());
    }
    assert_eq!(slots(&held), (0..20).collect::<Vec<_>>());
    let mut last = held.iter().map(Guard::token).max();
    assert_eq!(last, held.last().map(Guard::token));
    for slot in [0, 19, 7, 8, 3] {
        let at = held.iter().position(|guard| guard.slot() == Some(slot)).unwrap();
        held.remove(at).release().await.unwrap();
    }
    for slot in [0, 3, 7, 8, 19] {
        let next = semaphore.acquire().await.unwrap();
        assert!(next.slot() == Some(slot) && Some(next.token()) > last, "{slot}: {next:?}");
        last = Some(next.token());
        held.push(next);
    }
    let seen = semaphore.inspect().await.unwrap();
    let mut seen: Vec<_> = seen.holders.iter().map(|it| (it.token, it.slot, it.kind)).collect();
    let told = |guard: &Guard| (Some(guard.token()), guard.slot(), Kind::Counted);
    let mut told: Vec<_> = held.iter().map(told).collect();
    seen.sort_by_key(|it| it.0);
    told.sort_by_key(|it| it.0);
    assert_eq!(seen, told);
    release_all(held).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn permits_are_granted_in_the_order_of_the_requests_of_all_clients() {
    let server = RedisServer::start().unwrap();
    let (locks, other) = (client(&server).await, client(&server).await);
    let (ours, theirs) = (locks.semaphore("a", 2).ttl(TTL), other.semaphore("a", 2).ttl(TTL));
    let mut held = vec![ours.acquire().await.unwrap(), theirs.acquire().await.unwrap()];
    let mut line = Vec::new();
    for (before, semaphore) in [&ours, &theirs, &theirs, &ours, &ours].into_iter().enumerate() {
        line.push(waiter(semaphore, before).await);
    }
    assert!(ours.try_acquire().await.unwrap().is_none());
    let leaves = line.remove(2);
    leaves.abort();
    waiting(&ours, 4).await;
    for next in line {
        let ended = held.remove(0);
        let (slot, token) = (ended.slot(), held[0].token());
        ended.release().await.unwrap();
        let next = granted(next).await;
        assert!(next.slot() == slot && next.token() > token, "{next:?}");
        next.renew().await.unwrap();
        held.push(next);
    }
    release_all(held).await;
    locks.close(ms(5_000)).await.unwrap();
    other.close(ms(5_000)).await.unwrap();
    // The limit stays, with the last token.
    assert_eq!(keys(&server), ["{a}:p"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_greater_limit_grants_waiters_at_once_and_a_smaller_one_ends_no_grant() {
    let server = RedisServer::start().unwrap();
    let (locks, other) = (client(&server).await, client(&server).await);
    let semaphore = locks.semaphore("a", 1).ttl(TTL);
    assert_eq!(semaphore.resize(1).await.unwrap(), 0);
    let mut held = vec![semaphore.acquire().await.unwrap()];
    let mut line = Vec::new();
    for before in 0..4 {
        line.push(waiter(&other.semaphore("a", 1).ttl(TTL), before).await);
    }
    assert_eq!(semaphore.resize(4).await.unwrap(), 1);
    let last = line.pop().unwrap();
    for next in line {
        held.push(granted(next).await);
    }
    assert_eq!(slots(&held), [0, 1, 2, 3]);
    waiting(&semaphore, 1).await;
    assert_eq!(semaphore.resize(2).await.unwrap(), 4);
    let seen = semaphore.inspect().await.unwrap();
    assert_eq!((seen.permits, seen.holders.len(), seen.waiters), (Some(2), 4, Some(1)));
    // Two more than the limit, then one more, then as many: the waiter waits on.
    held.remove(0).release().await.unwrap();
    held.remove(0).release().await.unwrap();
    assert_eq!(semaphore.inspect().await.unwrap().waiters, Some(1));
    assert!(!last.is_finished());
    for guard in &held {
        guard.renew().await.unwrap();
    }
    held.pop().unwrap().release().await.unwrap();
    let last = granted(last).await;
    assert_eq!((last.slot(), held[0].slot()), (Some(0), Some(2)));
    held.push(last);
    release_all(held).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_that_rolls_from_5_to_10_and_back_keeps_to_the_stored_limit() {
    let server = RedisServer::start().unwrap();
    let (old, new) = (client(&server).await, client(&server).await);
    let (five, ten) = (old.semaphore("a", 5).ttl(TTL), new.semaphore("a", 10).ttl(TTL));
    let mut held = Vec::new();
    for semaphore in [&five, &ten, &five, &ten, &five] {
        held.push(semaphore.acquire().await.unwrap());
    }
    assert!(ten.try_acquire().await.unwrap().is_none());
    assert_eq!(ten.resize(10).await.unwrap(), 5);
    for semaphore in [&five, &ten, &five, &ten, &five] {
        held.push(semaphore.acquire().await.unwrap());
    }
    assert_eq!(slots(&held), (0..10).collect::<Vec<_>>());
    assert!(five.try_acquire().await.unwrap().is_none());
    assert_eq!(five.resize(5).await.unwrap(), 10);
    for _ in 0..5 {
        assert!(ten.try_acquire().await.unwrap().is_none());
        held.remove(0).release().await.unwrap();
    }
    assert!(five.try_acquire().await.unwrap().is_none());
    held.remove(0).release().await.unwrap();
    held.push(ten.acquire().await.unwrap());
    assert_eq!(slots(&held), [6, 7, 8, 9, 0]);
    assert!(five.try_acquire().await.unwrap().is_none());
    release_all(held).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_permit_expires_by_itself_and_a_waiter_follows_its_holder() {
    let server = RedisServer::start().unwrap();
    let (ours, other) = (provider(&server).await, client(&server).await);
    let short = ms(1_500);
    let stays = other.semaphore("a", 2).ttl(TTL).acquire().await.unwrap();
    // As a holder that crashes: nothing renews it.
    let crashed = ours.acquire(&request(2, short)).await.unwrap();
    let began = std::time::Instant::now();
    let next = waiter(&other.semaphore("a", 2).ttl(TTL), 0).await;
    let next = by(short + SLACK, "its permit", next).await.unwrap();
    assert!(began.elapsed() + ms(50) >= short, "after {:?}", began.elapsed());
    assert_eq!((crashed.slot, next.slot(), stays.slot()), (Some(1), Some(1), Some(0)));
    assert!(next.token() > crashed.token);
    // What has ended does not come back.
    assert!(matches!(crashed.lease.renew().await, Err(Error::Lost { .. })));
    assert!(matches!(crashed.lease.release().await, Err(Error::Lost { .. })));
    stays.renew().await.unwrap();
    release_all(vec![stays, next]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permit_that_rests_stays_taken_for_so_long_and_no_longer() {
    let server = RedisServer::start().unwrap();
    let (ours, other) = (provider(&server).await, client(&server).await);
    let (rest, semaphore) = (ms(1_500), other.semaphore("a", 1).ttl(TTL));
    let held = ours.acquire(&request(1, TTL)).await.unwrap();
    let began = std::time::Instant::now();
    assert!(held.lease.release_after(rest).await.unwrap());
    // Repeated, it makes the rest no longer.
    assert!(held.lease.release_after(TTL).await.unwrap());
    assert!(matches!(held.lease.renew().await, Err(Error::Lost { .. })));
    let seen = semaphore.inspect().await.unwrap();
    let holder = seen.holders.first().expect("it rests");
    assert_eq!((holder.slot, holder.token), (Some(0), Some(held.token)));
    let next = by(rest + SLACK, "its permit", semaphore.acquire()).await.unwrap();
    assert!(began.elapsed() + ms(50) >= rest, "after {:?}", began.elapsed());
    assert!(next.slot() == Some(0) && next.token() > held.token);
    assert!(matches!(held.lease.release_after(rest).await, Err(Error::Lost { .. })));
    next.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_and_a_renewal_keep_token_and_slot() {
    let server = RedisServer::start().unwrap();
    let provider = provider(&server).await;
    let told = |grant: &Grant| (grant.token, grant.slot);
    let first = provider.acquire(&request(3, TTL)).await.unwrap();
    let asked = request(3, TTL);
    let second = provider.acquire(&asked).await.unwrap();
    first.lease.release().await.unwrap();
    // Slot 0 is free by now.
    let again = provider.acquire(&asked).await.unwrap();
    assert_eq!((told(&again), again.slot), (told(&second), Some(1)));
    let again = provider.try_acquire(&asked).await.unwrap().unwrap();
    assert_eq!(told(&again), told(&second));
    again.lease.renew().await.unwrap();
    let third = provider.acquire(&request(3, TTL)).await.unwrap();
    assert!(third.slot == Some(0) && third.token > second.token);
    provider.withdraw(&asked).await.unwrap();
    assert!(matches!(again.lease.renew().await, Err(Error::Lost { .. })));
    // It comes behind its withdrawal, and has no tombstone: nothing was unanswered.
    let later = provider.acquire(&request(3, TTL)).await.unwrap();
    assert!(later.slot == Some(1) && later.token > third.token);
    later.lease.release().await.unwrap();
    third.lease.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_ends_one_permit_and_grants_it_to_the_next() {
    let server = RedisServer::start().unwrap();
    let (locks, other) = (client(&server).await, client(&server).await);
    let semaphore = locks.semaphore("a", 2).ttl(TTL).label("holder");
    let held = [semaphore.acquire().await.unwrap(), semaphore.acquire().await.unwrap()];
    let theirs = other.semaphore("a", 2).ttl(TTL);
    let next = waiter(&theirs, 0).await;
    let never = FencingToken::new(held[1].token().as_u64() + 1).unwrap();
    assert!(!theirs.revoke(never).await.unwrap());
    assert!(theirs.revoke(held[0].token()).await.unwrap());
    assert_eq!(by(ms(5_000), "its loss", held[0].lost()).await, LossReason::Revoked);
    let next = granted(next).await;
    assert!(next.slot() == Some(0) && next.token() > held[1].token());
    assert!(held[1].is_held() && !theirs.revoke(held[0].token()).await.unwrap());
    held[1].renew().await.unwrap();
    let seen = theirs.inspect().await.unwrap();
    let labels: Vec<_> = seen.holders.iter().map(|it| (it.slot, it.label == "holder")).collect();
    assert_eq!(labels, [(Some(1), true), (Some(0), false)]);
    assert!(seen.holders.iter().all(|it| it.age.is_some() && it.expires_in <= Some(TTL)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_shows_locks_then_semaphores_and_forgetting_leaves_the_last_token() {
    let server = RedisServer::start().unwrap();
    let locks = client(&server).await;
    let semaphore = locks.semaphore("a", 2).ttl(TTL);
    let held = semaphore.acquire().await.unwrap();
    let other = locks.semaphore("b", 1).acquire().await.unwrap();
    let lock = locks.lock("b").acquire().await.unwrap();
    locks.semaphore("past", 1).acquire().await.unwrap().release().await.unwrap();
    let names = async |prefix: &str, after: Option<&LockName>| {
        let seen = locks.list(prefix, after, 10).await.unwrap();
        let told = |name: &LockName| (name.family(), name.as_str().to_owned());
        seen.iter().map(|seen| told(&seen.name)).collect::<Vec<_>>()
    };
    let [in_lock, in_a, in_b] =
        [(Family::Lock, "b"), (Family::Semaphore, "a"), (Family::Semaphore, "b")]
            .map(|(family, name)| (family, name.to_owned()));
    assert_eq!(names("", None).await, [in_lock.clone(), in_a, in_b.clone()]);
    assert_eq!(names("b", None).await, [in_lock, in_b.clone()]);
    let after = LockName::semaphore("a").unwrap();
    assert_eq!(names("", Some(&after)).await, [in_b]);
    assert_eq!(locks.forget("a", ms(0)).await.unwrap(), 0);
    let token = held.token();
    held.release().await.unwrap();
    assert_eq!(locks.forget("a", ms(60_000)).await.unwrap(), 0);
    assert_eq!(semaphore.inspect().await.unwrap().permits, Some(2));
    assert_eq!(locks.forget("a", ms(0)).await.unwrap(), 1);
    assert_eq!(semaphore.inspect().await.unwrap().permits, None);
    assert!(server.cli(&["PTTL", "{a}:p"]).unwrap().integer() > Some(0));
    assert_eq!(locks.forget("", ms(0)).await.unwrap(), 1, "the one of the past");
    // The clock of the server was set back meanwhile.
    let (before, ahead) = (format!(".{token}."), "9".repeat(15));
    let value = server.cli(&["GET", "{a}:p"]).unwrap().text().unwrap();
    let later = value.replace(&before, &format!(".2{ahead}."));
    assert_ne!(value, later);
    server.cli(&["SET", "{a}:p", &later, "KEEPTTL"]).unwrap();
    let next = locks.semaphore("a", 9).acquire().await.unwrap();
    assert_eq!(next.token().as_u64(), 3_000_000_000_000_000);
    assert_eq!(semaphore.inspect().await.unwrap().permits, Some(9));
    assert_eq!(server.cli(&["PTTL", "{a}:p"]).unwrap().integer(), Some(-1));
    release_all(vec![next, other, lock]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_memory_permits_are_renewed_and_handed_on() {
    let server = RedisServer::start().unwrap();
    let (locks, other) = (client(&server).await, client(&server).await);
    let held = locks.semaphore("a", 1).ttl(TTL).acquire().await.unwrap();
    let next = waiter(&other.semaphore("a", 1).ttl(TTL), 0).await;
    server.cli(&["CONFIG", "SET", "maxmemory", "1"]).unwrap();
    held.renew().await.expect("a renewal needs no memory");
    held.release().await.expect("nor does a release");
    let next = granted(next).await;
    next.renew().await.unwrap();
    next.release().await.unwrap();
    assert_eq!(keys(&server), ["{a}:p"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_data_in_a_semaphores_place_is_refused_and_stays() {
    let server = RedisServer::start().unwrap();
    let locks = client(&server).await;
    let semaphore = locks.semaphore("a", 1);
    for data in [["SET", "{a}:p", "theirs"], ["SADD", "{a}:ps", "theirs"]] {
        server.cli(&data).unwrap();
        for _ in 0..2 {
            let refused = semaphore.acquire().await.unwrap_err();
            assert!(matches!(refused, Error::Rejected { .. }), "{refused}");
        }
        assert_eq!(keys(&server), [data[1]]);
        server.cli(&["DEL", data[1]]).unwrap();
    }
    semaphore.acquire().await.unwrap().release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn waiters_and_holders_outlive_the_loss_of_the_limit() {
    let server = RedisServer::start().unwrap();
    let (locks, other) = (client(&server).await, client(&server).await);
    let held = locks.semaphore("a", 1).ttl(TTL).acquire().await.unwrap();
    let next = waiter(&other.semaphore("a", 1).ttl(TTL), 0).await;
    server.cli(&["DEL", "{a}:p"]).unwrap();
    held.renew().await.unwrap();
    let (token, slot) = (held.token(), held.slot());
    held.release().await.unwrap();
    let next = granted(next).await;
    assert!(next.token() > token && next.slot() == slot);
    next.release().await.unwrap();
}

/// The commands that the server has run since `CONFIG RESETSTAT`, those of scripts too, and how often each.
fn commands(server: &RedisServer) -> Vec<(String, usize)> {
    let stats = server.cli(&["INFO", "commandstats"]).unwrap().text().unwrap();
    let call = |line: &str| {
        let (command, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        let calls = rest.split(',').next()?.parse().unwrap();
        // The test's own, and what runs the scripts.
        let is_counted = !["config|resetstat", "auth", "evalsha"].contains(&command);
        is_counted.then(|| (command.to_owned(), calls))
    };
    stats.lines().filter_map(call).collect()
}

#[tokio::test]
async fn a_lock_costs_7_commands_shared_30_and_a_permit_24() {
    let server = RedisServer::start().unwrap();
    let provider = provider(&server).await;
    let exclusive = Request::new(LockName::new("a").unwrap(), TTL, Clock::system()).unwrap();
    let shared = exclusive.with_kind(Kind::Shared);
    for (asked, declared) in [(exclusive, 7), (shared, 30), (request(1, TTL), 24)] {
        let cycle = async || {
            provider.acquire(&asked).await.unwrap().lease.release().await.unwrap();
        };
        // The first one makes the last token.
        cycle().await;
        server.cli(&["CONFIG", "RESETSTAT"]).unwrap();
        cycle().await;
        let (stats, kind) = (commands(&server), asked.kind());
        let count: usize = stats.iter().map(|it| it.1).sum();
        assert_eq!(count, declared, "{kind}: {stats:?}");
    }
}
