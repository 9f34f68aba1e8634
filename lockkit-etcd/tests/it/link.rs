//! What goes over the link: how many requests each thing takes, and how long a hand-off.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::common::{by, client, idle, join, link_to, ms, queued, since};
use etcd_client::{Client, LockOptions};
use lockkit_core::{Guard, Lock, Locks};
use testbed::{EtcdServer, Fault, Link, Way, in_time, timing};
use tokio::task::JoinSet;

/// Longer than any of these tests: no keep-alive comes in between.
const TTL: Duration = Duration::from_secs(90);

/// A client behind a link of its own, after its first lock.
async fn linked(server: &EtcdServer) -> (Locks, Link) {
    let link = link_to(server.address());
    let locks = join(&[link.port()]).await;
    locks.lock("first").ttl(TTL).acquire().await.unwrap().release().await.unwrap();
    idle(&link).await;
    (locks, link)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_a_renewal_and_a_release_take_one_request_each() {
    let server = EtcdServer::start().unwrap();
    let (locks, link) = linked(&server).await;
    let lock = locks.lock("a").ttl(TTL);
    let mut seen = Vec::new();
    for _ in 0..3 {
        idle(&link).await;
        let before = link.counts();
        let guard = lock.acquire().await.unwrap();
        let acquire = since(&before, &link).0;
        // Once a hold has lasted, its key is in sight.
        idle(&link).await;
        let before = link.counts();
        guard.renew().await.unwrap();
        let renew = since(&before, &link).0;
        idle(&link).await;
        let before = link.counts();
        guard.release().await.unwrap();
        let release = since(&before, &link).0;
        let before = link.counts();
        let guard = lock.try_acquire().await.unwrap().unwrap();
        let of_a_free_name = since(&before, &link).0;
        let before = link.counts();
        assert!(lock.try_acquire().await.unwrap().is_none());
        seen.push([acquire, renew, release, of_a_free_name, since(&before, &link).0]);
        guard.release().await.unwrap();
    }
    // A stall may have one asked again, but not in each round.
    assert!(seen.contains(&[1; 5]), "{seen:?}");
    assert_eq!(link.counts().accepted, 1, "connections");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_lasts_asks_for_its_watch_and_one_reading_and_a_short_one_for_nothing() {
    let server = EtcdServer::start().unwrap();
    let (locks, link) = linked(&server).await;
    let mut short = 0;
    while short < 20 {
        let (before, began) = (link.counts(), Instant::now());
        locks.lock("a").ttl(TTL).acquire().await.unwrap().release().await.unwrap();
        let asked = since(&before, &link);
        if began.elapsed() < ms(50) {
            assert_eq!(asked, (2, 2, 2), "an acquire and a release, and no push");
            short += 1;
        } else {
            // On a busy machine a hold lasts.
            idle(&link).await;
        }
    }
    let mut guards = vec![locks.lock("a").ttl(TTL).acquire().await.unwrap()];
    idle(&link).await;
    // The stream is open, and the look at it is behind us.
    for (number, releases) in [(1, false), (2, true)] {
        let before = link.counts();
        guards.push(locks.lock(format!("a{number}")).ttl(TTL).acquire().await.unwrap());
        idle(&link).await;
        assert_eq!(since(&before, &link).0, 2, "the acquire, and one reading");
        if releases {
            // Nothing is told of another's release.
            let before = link.counts();
            guards.swap_remove(1).release().await.unwrap();
            idle(&link).await;
            let (calls, _, told) = since(&before, &link);
            // And a push that its watch has ended, if that falls in here.
            assert!(calls == 1 && (2..=3).contains(&told), "{calls} calls, {told} told");
        }
    }
    for guard in guards {
        guard.release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_locks_share_their_keep_alives() {
    const LOCKS: u64 = 100;
    let server = EtcdServer::start().unwrap();
    let link = link_to(server.address());
    let locks = join(&[link.port()]).await;
    let connected = link.counts().requests["call"];
    let ttl = ms(3_000);
    let mut guards = Vec::new();
    for name in 0..LOCKS {
        guards.push(locks.lock(format!("a{name}")).ttl(ttl).acquire().await.unwrap());
    }
    // Each has lasted, and its key was read.
    let all_read = link.until(|now| now.requests["call"] >= connected + LOCKS * 2);
    by(ms(5_000), "a reading for each", all_read).await;
    idle(&link).await;
    let (before, began) = (link.counts(), Instant::now());
    tokio::time::sleep(ttl * 2).await;
    let (calls, ..) = since(&before, &link);
    // One for all locks that are due within a twentieth of the ttl.
    let most = began.elapsed().as_millis() / (ttl / 20).as_millis() + 2;
    println!("{LOCKS} locks, two ttls: {calls} calls");
    assert!(u128::from(calls) <= most, "{calls} calls, {most} at the most");
    for guard in guards {
        testbed::held!(guard);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_many_names_asks_once_for_them_and_once_for_each_lease() {
    let server = EtcdServer::start().unwrap();
    let (others, (locks, link)) = (client(&server).await, linked(&server).await);
    let mut guards = Vec::new();
    for number in 0..40 {
        // Two leases, of two providers.
        let locks = if number % 2 == 0 { &locks } else { &others };
        guards.push(locks.lock(format!("a-{number:02}")).ttl(TTL).acquire().await.unwrap());
    }
    idle(&link).await;
    let before = link.counts();
    let listed = locks.list("a-", None, 100).await.unwrap();
    assert_eq!(since(&before, &link).0, 1 + 2, "calls");
    assert!(listed.iter().zip(&guards).all(|(seen, guard)| {
        let [holder] = &seen.holders[..] else { return false };
        seen.name == *guard.name() && holder.token == Some(guard.token())
    }));
    let after = listed[29].name.clone();
    let rest = locks.list("a-", Some(&after), 100).await.unwrap();
    assert!(rest.iter().map(|seen| &seen.name).eq(listed[30..].iter().map(|seen| &seen.name)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hand_off_takes_the_release_and_a_push_and_asks_nothing() {
    let server = EtcdServer::start().unwrap();
    let watcher = client(&server).await;
    let ((holders, holders_link), (waiters, waiters_link)) =
        (linked(&server).await, linked(&server).await);
    let mut seen = Vec::new();
    for number in 0..3 {
        let name = format!("a{number}");
        let holder = holders.lock(&name).ttl(TTL).acquire().await.unwrap();
        let waiter = tokio::spawn(waiters.lock(&name).ttl(TTL).acquire());
        queued(&watcher.lock(&name), 1).await;
        idle(&waiters_link).await;
        idle(&holders_link).await;
        let (holders_before, waiters_before) = (holders_link.counts(), waiters_link.counts());
        holder.release().await.unwrap();
        let guard = by(ms(5_000), "the waiter's grant", waiter).await.unwrap().unwrap();
        let (released, ..) = since(&holders_before, &holders_link);
        let (asked, _, told) = since(&waiters_before, &waiters_link);
        seen.push((released, asked, told));
        guard.release().await.unwrap();
    }
    // The release, nothing of the waiter, and the push of the name's watch. In a stall a watch is asked whether it
    // lives, but not in each round.
    assert!(seen.contains(&(1, 0, 1)), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_idle_waiters_ask_nothing() {
    const WAITERS: usize = 100;
    let server = EtcdServer::start().unwrap();
    let holder = client(&server).await.lock("a").ttl(TTL).acquire().await.unwrap();
    let (locks, link) = linked(&server).await;
    let mut waiters = JoinSet::new();
    for _ in 0..WAITERS {
        waiters.spawn(locks.lock("a").ttl(TTL).acquire());
    }
    queued(&client(&server).await.lock("a"), WAITERS).await;
    idle(&link).await;
    let (before, began) = (link.counts(), Instant::now());
    tokio::time::sleep(ms(6_000)).await;
    let (calls, messages, _) = since(&before, &link);
    let most = began.elapsed().as_secs() / 2;
    // The one watch is asked whether it lives after each 2 s of silence.
    assert_eq!(calls, 0, "calls of waiters that wait");
    assert!(messages <= most, "{messages} messages of waiters that wait, {most} at most");
    assert!(waiters.try_join_next().is_none(), "granted beside a holder");
    holder.release().await.unwrap();
    for _ in 0..WAITERS {
        let granted = by(ms(5_000), "the next waiter's grant", waiters.join_next()).await;
        granted.unwrap().unwrap().unwrap().release().await.unwrap();
    }
}

/// The calls of the waiters' client and the messages to it that one release causes.
async fn caused_by_a_release(server: &EtcdServer, waiters: usize) -> (u64, u64) {
    let name = format!("of-{waiters}");
    let holder = client(server).await.lock(&name).ttl(TTL).acquire().await.unwrap();
    let watcher = client(server).await.lock(&name);
    let (locks, link) = linked(server).await;
    let mut waiting = JoinSet::new();
    for _ in 0..waiters {
        waiting.spawn(locks.lock(&name).ttl(TTL).acquire());
    }
    let all_wait = async {
        while !watcher.inspect().await.is_ok_and(|seen| seen.waiters == Some(waiters)) {
            tokio::time::sleep(ms(50)).await;
        }
        // In the store they are; one whose answer did not come in time asks again within a second.
        link.idle(ms(1_200)).await;
    };
    by(ms(60_000), "waiters in the queue", all_wait).await;
    let before = link.counts();
    let (joined, most) = (before.requests["call"], waiters as u64 * 11 / 10 + 20);
    println!("{waiters} newcomers: {joined} calls on {} connection", before.accepted);
    assert!(joined <= most && before.accepted == 1, "a crowd asked again, or anew: {before:?}");
    holder.release().await.unwrap();
    let granted = by(ms(5_000), "the first waiter's grant", waiting.join_next()).await;
    let _granted = granted.unwrap().unwrap().unwrap();
    idle(&link).await;
    let (calls, messages, told) = since(&before, &link);
    assert!(waiting.try_join_next().is_none(), "two were granted");
    // A message that begins no call asks whether the watch lives, and is answered.
    (calls, told - (messages - calls))
}

#[tokio::test(flavor = "multi_thread")]
async fn one_release_among_a_thousand_waiters_causes_as_much_as_among_ten() {
    let server = EtcdServer::start().unwrap();
    // One push; the guard of the one that was behind the holder then asks for a fresh keep-alive, if the last one is
    // older than a third of the ttl, and has its key watched and read.
    for waiters in [10, 1000] {
        let (calls, told) = caused_by_a_release(&server, waiters).await;
        println!("among {waiters} waiters: {calls} calls, {told} messages from etcd");
        assert!(calls <= 2 && (1..=4).contains(&told), "{calls} calls, {told} told");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_few_of_a_crowd_ask_at_once_and_a_release_waits_for_none_of_them() {
    const CROWD: usize = 100;
    // The first four are no crowd.
    const AT_ONCE: u64 = 4 + 16;
    let server = EtcdServer::start().unwrap();
    let watcher = client(&server).await.lock("a");
    let (locks, link) = linked(&server).await;
    let guard = locks.lock("b").ttl(TTL).acquire().await.unwrap();
    idle(&link).await;
    link.fault(Way::ToClient, Fault::Hold);
    let before = link.counts();
    let mut crowd = JoinSet::new();
    for _ in 0..CROWD {
        crowd.spawn(locks.lock("a").ttl(TTL).acquire());
    }
    idle(&link).await;
    assert_eq!(since(&before, &link).0, AT_ONCE, "calls without an answer");
    let releasing = tokio::spawn(guard.release());
    idle(&link).await;
    assert_eq!(since(&before, &link).0, AT_ONCE + 1, "a release beside them");
    let beside = tokio::spawn(locks.lock("c").ttl(TTL).acquire());
    idle(&link).await;
    assert_eq!(since(&before, &link).0, AT_ONCE + 2, "a request at another name");
    link.deliver();
    by(ms(2_000), "the release", releasing).await.unwrap().unwrap();
    by(ms(2_000), "the grant", beside).await.unwrap().unwrap().release().await.unwrap();
    queued(&watcher, CROWD - 1).await;
    for _ in 0..CROWD {
        let granted = by(ms(5_000), "the next one's grant", crowd.join_next()).await;
        granted.unwrap().unwrap().unwrap().release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leavers_wait_for_their_answers_and_have_no_other_request_refused() {
    const LEAVERS: u64 = 16;
    let server = EtcdServer::start().unwrap();
    let (other, (locks, link)) = (client(&server).await, linked(&server).await);
    let held = other.lock("a").ttl(TTL).acquire().await.unwrap();
    let (before, began) = (link.counts(), timing::start());
    link.fault(Way::ToClient, Fault::Hold);
    let mut leavers = JoinSet::new();
    for _ in 0..LEAVERS {
        leavers.spawn(locks.lock("a").ttl(TTL).acquire_within(ms(20)));
    }
    tokio::time::sleep(ms(150)).await;
    let asked = since(&before, &link).0;
    // In a stall one leaves before it has asked, or has waited for long.
    in_time!(began, asked == LEAVERS, "{asked} calls: a withdrawal before the answer");
    link.pass().unwrap();
    assert!(leavers.join_all().await.iter().all(Result::is_err));
    queued(&other.lock("a"), 0).await;
    idle(&link).await;
    // None was touched that others compare: each takes the one request that it takes alone.
    let before = link.counts();
    locks.lock("b").ttl(TTL).acquire().await.unwrap().release().await.unwrap();
    assert_eq!(since(&before, &link).0, 2, "an acquire and a release");
    held.release().await.unwrap();
}

/// A client of its own: lockkit's, or the driver's with its `lock()`.
#[derive(Clone)]
enum Peer {
    Lockkit(Locks),
    Driver(Box<Client>, i64),
}

enum Held {
    Lockkit(Guard),
    Driver(Box<Client>, Vec<u8>),
}

impl Peer {
    async fn lockkit(server: &EtcdServer) -> Self {
        Self::Lockkit(client(server).await)
    }

    async fn driver(server: &EtcdServer) -> Self {
        let url = format!("http://{}", server.address());
        let client = Client::connect([url], None).await.unwrap();
        let lease = client.lease_client().grant(60, None).await.unwrap().id();
        Self::Driver(Box::new(client), lease)
    }

    async fn acquire(&self, name: &str) -> Held {
        match self {
            Self::Lockkit(locks) => Held::Lockkit(locks.lock(name).acquire().await.unwrap()),
            Self::Driver(client, lease) => {
                let (name, options) =
                    (format!("lockkit/{name}"), LockOptions::new().with_lease(*lease));
                let held = client.lock_client().lock(name, Some(options)).await.unwrap();
                Held::Driver(client.clone(), held.key().to_vec())
            }
        }
    }
}

impl Held {
    async fn release(self) {
        match self {
            Self::Lockkit(guard) => guard.release().await.unwrap(),
            Self::Driver(client, key) => drop(client.lock_client().unlock(key).await.unwrap()),
        }
    }
}

/// The median and the mean of hand-offs, each from the beginning of the release to the next grant.
fn middle(mut took: Vec<Duration>) -> (Duration, Duration) {
    took.sort_unstable();
    (took[took.len() / 2], took.iter().sum::<Duration>() / u32::try_from(took.len()).unwrap())
}

/// Eight peers that come again at once, until the first of them has had its turns.
async fn in_a_crowd(peers: &[Peer], name: &'static str) -> (Duration, Duration) {
    const TURNS: usize = 8;
    let took = Arc::new(Mutex::new((None::<Instant>, Vec::new())));
    let mut running = JoinSet::new();
    for peer in peers {
        let (peer, took) = (peer.clone(), Arc::clone(&took));
        running.spawn(async move {
            for _ in 0..TURNS {
                let held = peer.acquire(name).await;
                {
                    let mut took = took.lock().unwrap();
                    let last = took.0.replace(Instant::now());
                    took.1.extend(last.map(|began| began.elapsed()));
                }
                held.release().await;
            }
        });
    }
    running.join_next().await.unwrap().unwrap();
    let took = std::mem::take(&mut took.lock().unwrap().1);
    running.join_all().await;
    middle(took)
}

/// Eight peers one after another, each of which has just come when the one before it releases.
async fn in_a_chain(peers: &[Peer], name: &'static str, queue: &Lock) -> (Duration, Duration) {
    let mut took = Vec::new();
    let mut held = peers[peers.len() - 1].acquire(name).await;
    for peer in peers {
        let peer = peer.clone();
        let next = tokio::spawn(async move { (peer.acquire(name).await, Instant::now()) });
        queued(queue, 1).await;
        let began = Instant::now();
        held.release().await;
        let (next, granted) = next.await.unwrap();
        took.push(granted - began);
        held = next;
    }
    held.release().await;
    middle(took)
}

/// The driver's server-side lock opens a watch for each wait. Until that one is up to 100 ms old, a
/// loop of the server serves it: what is deleted meanwhile is told at the loop's next turn.
#[tokio::test(flavor = "multi_thread")]
async fn a_hand_off_takes_under_ten_milliseconds_and_the_drivers_own_a_turn_of_the_servers_loop() {
    let server = EtcdServer::start().unwrap();
    let watcher = client(&server).await;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..8 {
        ours.push(Peer::lockkit(&server).await);
        theirs.push(Peer::driver(&server).await);
    }
    // The best of some rounds, for both: the machine is busy with other things.
    let mut best = [[(Duration::MAX, Duration::MAX); 2]; 2];
    let first = timing::start();
    for _ in 0..4 {
        for (best, (peers, name)) in best.iter_mut().zip([(&ours, "ours"), (&theirs, "theirs")]) {
            let crowd = in_a_crowd(peers, name).await;
            let chain = in_a_chain(peers, name, &watcher.lock(name)).await;
            for (best, now) in best.iter_mut().zip([crowd, chain]) {
                *best = (best.0.min(now.0), best.1.min(now.1));
            }
        }
    }
    let [ours, theirs] = best;
    for (number, what) in
        ["eight that come again at once", "eight that have just come"].into_iter().enumerate()
    {
        let ((median, mean), (their_median, their_mean)) = (ours[number], theirs[number]);
        println!(
            "hand-off among {what}: lockkit {median:?} in the median, {mean:?} in the mean; the \
             driver's lock() {their_median:?} and {their_mean:?}"
        );
        in_time!(first, median < ms(10), "{median:?} among {what}");
    }
    let (median, theirs) = (ours[1].0, theirs[1].0);
    assert!(theirs > ms(40), "{median:?} in the median, the driver's {theirs:?}");
}
