//! Many processes on one name: no lost update, and bounded hand-over when some are killed.

use std::collections::HashSet;
use std::fs;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::common::{SLACK, by, client, join, ms, queued, report};
use lockkit_core::{FencingToken, Lock, Locks, LossReason};
use testbed::children::{self, Child};
use testbed::contenders::{count, counted};
use testbed::{RedisServer, in_time, timing};
use tokio::task::JoinSet;

/// A busy machine may take longer than a bound once or twice, and not every time: the best counts,
/// and none may take [`SLACK`] more.
const TRIES: usize = 3;
/// How long an unanswered reservation lasts.
const RESERVATION: Duration = ms(500);

/// In a child: its client of the parent's server.
async fn parents_server() -> Locks {
    join(std::env::var("PORT").unwrap().parse().unwrap()).await
}

fn child(test: &str, role: &str, server: &RedisServer) -> children::Builder {
    Child::test(test, role).env("PORT", server.port().to_string())
}

/// In a child: takes the name and keeps it, or waits for it, until the parent ends it.
async fn take_part(ttl: Duration) {
    let guard = parents_server().await.lock("a").ttl(ttl).acquire().await.unwrap();
    children::say("held");
    guard.lost().await;
    children::wait_for_the_end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_processes_of_eight_tasks_lose_no_update_and_get_growing_tokens() {
    const ROUNDS: u64 = 12;
    if children::role().is_some() {
        let file = std::env::var_os("COUNTER").unwrap();
        return count(&parents_server().await.lock("counter"), file.as_ref(), 8, ROUNDS).await;
    }
    let server = RedisServer::start().unwrap();
    let file = server.place().directory().join("counter");
    fs::write(&file, "0").unwrap();
    let name = "processes::eight_processes_of_eight_tasks_lose_no_update_and_get_growing_tokens";
    let start = |_| child(name, "count", &server).env("COUNTER", &file).start().unwrap();
    let children: Vec<Child> = (0..8).map(start).collect();
    counted(&children, &file, 8 * 8 * ROUNDS, ms(60_000));
    println!("{} grants to 8 processes of 8 tasks, tokens in their order", 8 * 8 * ROUNDS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_holders_name_is_granted_within_its_ttl_and_half_a_second() {
    let ttl = ms(1_500);
    if children::role().is_some() {
        return take_part(ttl).await;
    }
    let server = RedisServer::start().unwrap();
    let locks = client(&server).await;
    let name = "processes::a_killed_holders_name_is_granted_within_its_ttl_and_half_a_second";
    let bound = ttl + ms(500);
    let (mut took, began) = (Vec::new(), timing::start());
    for _ in 0..TRIES {
        let holder = child(name, "holder", &server).start().unwrap();
        assert_eq!(timing::kept(|| holder.line(ms(20_000))), "held");
        let next = tokio::spawn(locks.lock("a").ttl(ttl).acquire());
        queued(&locks.lock("a"), 1).await;
        tokio::time::sleep(ttl / 2).await;
        // A machine that stands still for so long ends its lease.
        in_time!(began, !next.is_finished(), "granted while its holder lives");
        let killed = Instant::now();
        holder.kill().unwrap();
        let guard = by(bound + SLACK, "the next grant", next).await.unwrap().unwrap();
        took.push(killed.elapsed());
        guard.release().await.unwrap();
    }
    report(&format!("redis: ttl {ttl:?}, granted after the kill of its holder within {took:.1?}"));
    in_time!(
        began,
        took.iter().any(|took| *took <= bound),
        "{took:?}, where {bound:?} is promised"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_waiters_delay_the_next_grant_by_no_more_than_declared() {
    let ttl = ms(1_500);
    if children::role().is_some() {
        return take_part(ttl).await;
    }
    let server = RedisServer::start().unwrap();
    let locks = client(&server).await;
    let lock = locks.lock("a").ttl(ttl);
    let name = "processes::killed_waiters_delay_the_next_grant_by_no_more_than_declared";
    // The holder's remaining time is at most its ttl, and a waiter's life is the ttl here.
    let bound = ttl + RESERVATION + ttl / 3;
    for (waiters, kills_holder) in [(1, false), (3, false), (3, true)] {
        let (mut took, began) = (Vec::new(), timing::start());
        while took.len() < TRIES && took.iter().all(|took| *took > bound) {
            took.push(after_a_massacre(name, &server, &lock, waiters, kills_holder, bound).await);
        }
        let holder = if kills_holder { "killed with" } else { "ended by hand after" };
        report(&format!("redis: holder {holder} {waiters} waiters, next after {took:.1?}"));
        in_time!(
            began,
            took.iter().any(|took| *took <= bound),
            "{took:?}, where {bound:?} is promised"
        );
    }
}

/// How long after the end of a holder and so many waiters before it the next one was granted.
async fn after_a_massacre(
    name: &str,
    server: &RedisServer,
    lock: &Lock,
    waiters: usize,
    kills_holder: bool,
    bound: Duration,
) -> Duration {
    let holder = child(name, "holder", server).start().unwrap();
    assert_eq!(timing::kept(|| holder.line(ms(20_000))), "held");
    let mut killed = Vec::new();
    for n in 0..waiters {
        killed.push(child(name, "waiter", server).start().unwrap());
        queued(lock, n + 1).await;
    }
    let next = tokio::spawn(lock.acquire());
    queued(lock, waiters + 1).await;
    killed.iter().for_each(|child| child.kill().unwrap());
    let began = Instant::now();
    if kills_holder {
        holder.kill().unwrap();
    } else {
        // A release at once, so that the reservation goes to a dead waiter.
        let inspection = lock.inspect().await.unwrap();
        let token = inspection.holders[0].token.unwrap();
        assert!(lock.revoke(token).await.unwrap());
    }
    let guard = by(bound + SLACK, "the next grant", next).await.unwrap().unwrap();
    let took = began.elapsed();
    guard.release().await.unwrap();
    took
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_two_waiters_of_four_clients_that_hold_nothing_for_long_get_equal_shares() {
    equal_shares(4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_two_waiters_of_one_client_that_hold_nothing_for_long_get_equal_shares() {
    equal_shares(1).await;
}

/// So many come again at once, each time that they are granted.
const CROWD: usize = 32;

/// Who was granted, in the order of the grants.
#[derive(Default)]
struct Order {
    grants: Vec<(usize, FencingToken, Instant)>,
    /// The grants at which all others were in the queue.
    crowded: HashSet<usize>,
    /// How many rounds that began with such a grant have been checked.
    rounds: usize,
}

impl Order {
    /// Takes in the newest grant, whose number it gives. A round ends with it if all others were in
    /// the queue at the grant that lies one crowd before: then each of them had one turn.
    fn granted(&mut self, waiter: usize, token: FencingToken) -> usize {
        let newest = self.grants.last().map(|grant| grant.1);
        assert!(Some(token) > newest, "{token} came after {newest:?}");
        let number = self.grants.len();
        self.grants.push((waiter, token, Instant::now()));
        let Some(first) = (number + 1).checked_sub(CROWD) else { return number };
        let round = &self.grants[first..];
        // A waiter that does not answer for as long as a reservation lasts misses its turn.
        let is_quick = round[CROWD - 1].2 - round[0].2 < RESERVATION;
        if is_quick && self.crowded.contains(&first) {
            let waiters: Vec<usize> = round.iter().map(|grant| grant.0).collect();
            let each: HashSet<&usize> = waiters.iter().collect();
            assert_eq!(each.len(), CROWD, "not one turn for each: {waiters:?}");
            self.rounds += 1;
        }
        number
    }
}

/// Comes again and again until so many rounds have been checked.
async fn come_again(lock: Lock, waiter: usize, order: Arc<Mutex<Order>>) {
    const ROUNDS: usize = 40;
    loop {
        let guard = lock.acquire().await.unwrap();
        let number = order.lock().unwrap().granted(waiter, guard.token());
        // Now and then: a hold is short.
        if number.is_multiple_of(9) {
            let seen = lock.inspect().await.unwrap();
            let is_ours = seen.holders.first().and_then(|held| held.token) == Some(guard.token());
            if is_ours && seen.waiters == Some(CROWD - 1) {
                order.lock().unwrap().crowded.insert(number);
            }
        }
        guard.release().await.unwrap();
        if order.lock().unwrap().rounds >= ROUNDS {
            return;
        }
    }
}

async fn equal_shares(clients: usize) {
    let server = RedisServer::start().unwrap();
    let order = Arc::<Mutex<Order>>::default();
    let mut crowd = JoinSet::new();
    let held = client(&server).await.lock("a").acquire().await.unwrap();
    for first in 0..clients {
        let lock = client(&server).await.lock("a");
        for waiter in (first..CROWD).step_by(clients) {
            crowd.spawn(come_again(lock.clone(), waiter, Arc::clone(&order)));
        }
    }
    queued(&client(&server).await.lock("a"), CROWD).await;
    held.release().await.unwrap();
    by(ms(60_000), "the last round", crowd.join_all()).await;
    let order = order.lock().unwrap();
    println!("{} grants, {} rounds of one turn each", order.grants.len(), order.rounds);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_was_stopped_past_its_ttl_knows_when_it_wakes() {
    let ttl = ms(600);
    if children::role().is_some() {
        let guard = parents_server().await.lock("a").ttl(ttl).acquire().await.unwrap();
        children::say("held");
        let reason = guard.lost().await;
        assert!(!guard.is_held() && matches!(reason, LossReason::Expired | LossReason::Removed));
        children::say("lost");
        children::wait_for_the_end();
    }
    let server = RedisServer::start().unwrap();
    let locks = client(&server).await;
    let name = "processes::a_holder_that_was_stopped_past_its_ttl_knows_when_it_wakes";
    let holder = child(name, "holder", &server).start().unwrap();
    assert_eq!(timing::kept(|| holder.line(ms(20_000))), "held");
    holder.pause().unwrap();
    let next = locks.lock("a").ttl(ttl).acquire();
    let next = by(ttl + ms(500) + SLACK, "the next grant", next).await.unwrap();
    holder.resume().unwrap();
    assert_eq!(timing::kept(|| holder.line(ms(1_000))), "lost");
    // What it does on waking touches nobody else's grant.
    tokio::time::sleep(ttl * 2).await;
    testbed::held!(next);
    next.release().await.unwrap();
}

/// In a child: one task hands the name on to another, which keeps it.
async fn hand_on(ttl: Duration) {
    let locks = parents_server().await;
    let first = locks.lock("a").ttl(ttl).acquire().await.unwrap();
    let second = tokio::spawn(locks.lock("a").ttl(ttl).acquire());
    queued(&locks.lock("a"), 1).await;
    // By now it rests, subscribed.
    tokio::time::sleep(ms(200)).await;
    let release = tokio::spawn(first.release());
    let guard = second.await.unwrap().unwrap();
    children::say("held");
    release.await.unwrap().unwrap();
    let reason = guard.lost().await;
    assert!(!guard.is_held() && matches!(reason, LossReason::Expired | LossReason::Removed));
    children::say("lost");
    children::wait_for_the_end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_stopped_or_killed_right_after_a_hand_off_among_its_tasks_delays_by_its_ttl() {
    let ttl = ms(900);
    if children::role().is_some() {
        return hand_on(ttl).await;
    }
    let server = RedisServer::start().unwrap();
    let locks = client(&server).await;
    let name = "processes::a_process_stopped_or_killed_right_after_a_hand_off_among_its_tasks_delays_by_its_ttl";
    // Who was handed the name may still be in the queue, dead, for a life of a second.
    let bound = ms(1_000) + RESERVATION + ms(1_000) / 3;
    for kill in [false, true, false, true] {
        let holder = child(name, "holder", &server).start().unwrap();
        assert_eq!(timing::kept(|| holder.line(ms(20_000))), "held");
        if kill {
            holder.kill().unwrap();
        } else {
            holder.pause().unwrap();
        }
        let next = locks.lock("a").ttl(ttl).acquire();
        let next = by(bound + SLACK, "the next grant", next).await.unwrap();
        if !kill {
            holder.resume().unwrap();
            assert_eq!(timing::kept(|| holder.line(ms(1_000))), "lost");
        }
        tokio::time::sleep(ttl * 2).await;
        testbed::held!(next);
        next.release().await.unwrap();
    }
}
