//! Keys are used again: as many of a name's are ever put as requests were there at once, however many grants.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::common::{client, join, link_to, ms};
use etcd_client::{Client, EventType, WatchOptions};
use lockkit_core::Locks;
use testbed::{EtcdServer, Fault, Way};

const TTL: Duration = ms(30_000);

/// All keys of lockkit's that were ever put.
async fn ever_put(server: &EtcdServer) -> BTreeSet<String> {
    const END: &str = "lockkit/end";
    let driver = Client::connect([format!("http://{}", server.address())], None).await.unwrap();
    driver.kv_client().put(END, "", None).await.unwrap();
    let all = WatchOptions::new().with_prefix().with_start_revision(1);
    let mut stream = driver.watch_client().watch("lockkit/", Some(all)).await.unwrap();
    let mut keys = BTreeSet::new();
    loop {
        let message = stream.message().await.unwrap().unwrap();
        for event in message.events().iter().filter(|event| event.event_type() == EventType::Put) {
            let key = event.kv().unwrap().key_str().unwrap();
            if key == END {
                return keys;
            }
            keys.insert(key.to_owned());
        }
    }
}

fn of<'a>(keys: &'a BTreeSet<String>, below: &'a str) -> impl Iterator<Item = &'a String> {
    keys.iter().filter(move |key| key.starts_with(below))
}

async fn grants(locks: &Locks, name: &str, count: usize) -> Duration {
    let lock = locks.lock(name).ttl(TTL);
    let mut took = Vec::new();
    for number in 0..count {
        let began = Instant::now();
        let guard = match number % 4 {
            0 => lock.try_acquire().await.unwrap().unwrap(),
            _ => lock.acquire().await.unwrap(),
        };
        guard.release().await.unwrap();
        took.push(began.elapsed());
    }
    took.sort_unstable();
    took[took.len() / 2]
}

async fn one_key_for(count: usize) {
    let server = EtcdServer::start().unwrap();
    let locks = client(&server).await;
    let first = grants(&locks, "a", count / 10).await;
    grants(&locks, "a", count * 8 / 10).await;
    let last = grants(&locks, "a", count / 10).await;
    println!("{count} grants: {first:?} in the median at first, {last:?} at last");
    let keys = ever_put(&server).await;
    assert_eq!(of(&keys, "lockkit/a/").count(), 1, "{keys:?}");
    // The mark and the guard that the client tried its rights on.
    assert_eq!(of(&keys, "lockkit/%/").count(), 2, "{keys:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_serves_four_hundred_grants() {
    one_key_for(400).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "half a minute of one core; `cargo xtask soak` runs it"]
async fn one_key_serves_twenty_thousand_grants() {
    one_key_for(20_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_puts_as_many_keys_as_it_has_requests_at_once_and_as_many_guards_as_were_in_doubt()
{
    const TASKS: usize = 8;
    let server = EtcdServer::start().unwrap();
    let link = link_to(server.address());
    let locks = join(&[link.port()]).await;
    for round in 0..6 {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..TASKS {
            let locks = locks.clone();
            tasks.spawn(async move {
                for _ in 0..5 {
                    let lock = locks.lock("a").ttl(TTL);
                    lock.acquire().await.unwrap().release().await.unwrap();
                }
            });
        }
        tasks.join_all().await;
        // Each name is used once: its guards are those of the session.
        let held = locks.lock(format!("b{round}")).ttl(TTL).acquire().await.unwrap();
        link.fault(Way::ToClient, Fault::Hold);
        let lock = locks.lock(format!("b{round}")).ttl(TTL);
        let limited = [lock.acquire_within(ms(30)), lock.acquire_within(ms(30))];
        let left = futures_util::future::join_all(limited).await;
        assert!(left.iter().all(Result::is_err));
        // A quarter of a call's limit later what is under way is refused.
        tokio::time::sleep(ms(600)).await;
        link.pass().unwrap();
        held.release().await.unwrap();
        locks.lock(format!("b{round}")).ttl(TTL).acquire().await.unwrap().release().await.unwrap();
    }
    let keys = ever_put(&server).await;
    assert!(of(&keys, "lockkit/a/").count() <= TASKS, "{keys:?}");
    let guards = of(&keys, "lockkit/%/").count();
    println!("{guards} guards and marks");
    // The mark, that of the rights, and those of two requests beside a holder.
    assert!((4..=5).contains(&guards), "{keys:?}");
}
