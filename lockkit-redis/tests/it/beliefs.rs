//! Every way in which an operator ends a grant early, and for how long two then believe at once,
//! beside what is declared. The table in `docs/redis.md` is what this prints.

mod pairs;

use std::time::Duration;

use crate::common::{SLACK, client, join, ms, report, waiter};
use lockkit_core::{Guard, Locks};
use lockkit_redis::RedisProvider;
use pairs::{Pair, Seen, TTL, held};
use testbed::{Data, Fault, Link, RedisServer, Way as Flow, in_time, timing};

/// Until when both may believe, and which declaration says so.
#[derive(Clone, Copy, Debug)]
enum Declared {
    Never,
    /// Until the next renewal, which comes within three eighths of the ttl.
    NextRenewal(&'static str),
    /// Until the deadline, which comes within the ttl.
    Deadline(&'static str),
    /// As long as the servers are left so.
    Always(&'static str),
}

const REMOVAL: &str = "removal of the lock's key by others";
const REVOCATION: &str = "a revocation";
const CRASH: &str = "a crash of a server that does not keep every write";
const FAILOVER: &str = "a failover to a replica";

impl Declared {
    fn text(self) -> String {
        match self {
            Self::Never => "none".to_owned(),
            Self::NextRenewal(why) => format!("{why}: until the next renewal"),
            Self::Deadline(why) => format!("{why}: until the deadline"),
            Self::Always(why) => format!("{why}: while the old primary answers"),
        }
    }

    /// Fails where two believed for longer than that, or where it is not declared.
    fn holds(self, way: &str, both: Duration, began: &timing::Stopwatch) {
        let (why, most) = match self {
            Self::Never => return assert_eq!(both, Duration::ZERO, "{way}: two believed"),
            Self::NextRenewal(why) | Self::Deadline(why) => (why, TTL),
            Self::Always(why) => (why, Duration::MAX),
        };
        let declared = RedisProvider::declared().belief_breaks_on;
        assert!(declared.iter().any(|cause| cause.contains(why)), "{way}: {why} is not declared");
        assert!(both <= most, "{way}: two believed for {both:?}, beyond every deadline");
        if matches!(self, Self::NextRenewal(_)) {
            in_time!(began, both <= TTL * 3 / 8 + SLACK, "{way}: two believed for {both:?}");
        }
    }
}

/// A row of the table: what was seen of some pairs, which began together.
async fn row(way: &str, declared: Declared, pairs: Vec<Pair>, ends: bool) {
    let began = timing::start();
    let mut seen: Vec<Seen> = Vec::new();
    for pair in pairs {
        seen.push(pair.seen().await);
    }
    let both = seen.iter().map(|seen| seen.both).max().unwrap_or_default();
    let lost = seen.iter().filter(|seen| seen.lost).count();
    report(&format!(
        "| {way} | {lost} of {} lost | {} ms | {} |",
        seen.len(),
        both.as_millis(),
        declared.text()
    ));
    declared.holds(way, both, &began);
    assert!(!ends || seen.iter().all(|seen| seen.followed), "{way}: never granted again: {seen:?}");
}

/// Holders of one client, and behind each a waiter of another, when `end` happens to their server.
async fn on_one_server(
    way: &str,
    declared: Declared,
    server: fn() -> RedisServer,
    end: impl AsyncFnOnce(&RedisServer),
) {
    let server = server();
    let (ours, other) = (client(&server).await, client(&server).await);
    let (_, pairs) = followed(held(&ours, way).await, &other, TTL * 4).await;
    end(&server).await;
    row(way, declared, pairs, true).await;
}

/// A waiter of the other client behind each holder.
async fn followed(guards: Vec<Guard>, other: &Locks, limit: Duration) -> (Vec<String>, Vec<Pair>) {
    let (mut names, mut pairs) = (Vec::new(), Vec::new());
    for guard in guards {
        let lock = other.lock(guard.name().as_str()).ttl(TTL);
        names.push(guard.name().as_str().to_owned());
        pairs.push(Pair::watch(guard, lock.clone(), limit));
        crate::common::queued(&lock, 1).await;
    }
    (names, pairs)
}

fn plain() -> RedisServer {
    RedisServer::start().unwrap()
}

/// One that copies itself to a replica at once.
fn primary() -> RedisServer {
    RedisServer::builder().line("repl-diskless-sync-delay 0").start().unwrap()
}

fn keeping() -> RedisServer {
    RedisServer::builder().appendonly().start().unwrap()
}

fn cli(server: &RedisServer, words: &[&str]) {
    server.cli(words).unwrap();
}

/// The keys of a client's holders are removed, and another client comes at once.
async fn removed(way: &str, remove: impl AsyncFnOnce(&RedisServer, &[Guard])) {
    let server = plain();
    let (ours, other) = (client(&server).await, client(&server).await);
    let guards = held(&ours, way).await;
    remove(&server, &guards).await;
    let watch = |guard: Guard| {
        let lock = other.lock(guard.name().as_str()).ttl(TTL);
        Pair::watch(guard, lock, TTL * 4)
    };
    let pairs = guards.into_iter().map(watch).collect();
    row(way, Declared::NextRenewal(REMOVAL), pairs, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_removes_a_held_key_lets_two_believe_until_the_next_renewal_as_declared() {
    let delete = removed("`DEL` of the key", async |server, guards| {
        let mut words = vec!["DEL"];
        words.extend(guards.iter().map(|guard| guard.name().as_str()));
        cli(server, &words);
    });
    let flush = removed("`FLUSHALL`", async |server, _| cli(server, &["FLUSHALL"]));
    let way = "eviction: `maxmemory-policy` set after the connect, memory full";
    let evict = removed(way, async |server, _| {
        cli(server, &["CONFIG", "SET", "maxmemory-policy", "allkeys-random"]);
        cli(server, &["CONFIG", "SET", "maxmemory", "1"]);
        tokio::time::sleep(ms(50)).await;
        cli(server, &["CONFIG", "SET", "maxmemory", "0"]);
    });
    tokio::join!(delete, flush, evict);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_revocation_lets_two_believe_until_the_holder_is_told_as_declared() {
    for (way, listens) in [
        ("`revoke`, the holder's client has never waited", false),
        ("`revoke`, the holder's client has waited before", true),
    ] {
        let server = plain();
        let (ours, other) = (client(&server).await, client(&server).await);
        if listens {
            let first = other.lock("first").ttl(TTL).acquire().await.unwrap();
            let next = waiter(&ours.lock("first").ttl(TTL), 0).await;
            first.release().await.unwrap();
            next.await.unwrap().release().await.unwrap();
        }
        let guards = held(&ours, "revoked").await;
        let tokens: Vec<_> = guards.iter().map(Guard::token).collect();
        let (names, pairs) = followed(guards, &other, TTL * 4).await;
        for (name, token) in names.iter().zip(tokens) {
            assert!(other.lock(name.as_str()).revoke(token).await.unwrap());
        }
        row(way, Declared::NextRenewal(REVOCATION), pairs, true).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_restart_lets_two_believe_only_where_the_server_forgot_and_as_declared() {
    let slow = TTL + ms(300);
    let crash = Declared::Deadline(CRASH);
    let lost = on_one_server("killed, data lost, back at once", crash, plain, async |server| {
        restart(server, Data::Lost, ms(0)).await;
    });
    let way = "killed, data lost, back after the ttl";
    let lost_slowly = on_one_server(way, Declared::Never, plain, async |server| {
        restart(server, Data::Lost, slow).await;
    });
    let way = "killed, every write kept, back after the ttl";
    let kept_slowly = on_one_server(way, Declared::Never, keeping, async |server| {
        restart(server, Data::Kept, slow).await;
    });
    tokio::join!(lost, lost_slowly, kept_slowly, older_snapshot(), no_end());
}

/// Kills the server, and starts it again after so long.
async fn restart(server: &RedisServer, data: Data, after: Duration) {
    server.kill().unwrap();
    tokio::time::sleep(after).await;
    server.restart(data).unwrap();
}

/// The server comes back from a snapshot that was taken before the grants.
async fn older_snapshot() {
    let server = plain();
    let ours = client(&server).await;
    ours.lock("before").acquire().await.unwrap().release().await.unwrap();
    cli(&server, &["SAVE"]);
    let other = client(&server).await;
    let (_, pairs) = followed(held(&ours, "restored").await, &other, TTL * 4).await;
    restart(&server, Data::Kept, ms(0)).await;
    let way = "killed, an older snapshot restored, back at once";
    row(way, Declared::Deadline(CRASH), pairs, true).await;
}

/// What ends no grant, or only by chance on a busy machine.
async fn no_end() {
    let server = keeping();
    let (ours, other) = (client(&server).await, client(&server).await);
    let (_, cut) = followed(held(&ours, "cut").await, &other, TTL).await;
    for kind in ["normal", "pubsub"] {
        cli(&server, &["CLIENT", "KILL", "TYPE", kind]);
    }
    row("`CLIENT KILL` of every connection", Declared::Never, cut, false).await;
    let (_, kept) = followed(held(&ours, "kept").await, &other, TTL * 2).await;
    restart(&server, Data::Kept, ms(0)).await;
    row("killed, every write kept, back at once", Declared::Never, kept, false).await;
}

/// A primary, its replica, and a link between them.
async fn replicated() -> (RedisServer, RedisServer, Link) {
    let primary = primary();
    let link = Link::to_redis(primary.address()).unwrap();
    let replica = RedisServer::builder().replica_of(link.address()).start().unwrap();
    timing::until(ms(10_000), "a replica in step", || {
        replica.info("master_link_status").unwrap() == "up"
    })
    .await;
    (primary, replica, link)
}

/// Waits until this server is a primary.
async fn promoted(server: &RedisServer) {
    timing::until(ms(10_000), "a primary", || server.info("role").unwrap() == "master").await;
}

/// Holders at the old primary, and a client of the new one behind each.
async fn at_the_new_one(
    way: &str,
    declared: Declared,
    guards: Vec<Guard>,
    new: &RedisServer,
    limit: Duration,
) {
    promoted(new).await;
    let other = join(new.port()).await;
    let watch = |guard: Guard| {
        let lock = other.lock(guard.name().as_str()).ttl(TTL);
        Pair::watch(guard, lock, limit)
    };
    let pairs = guards.into_iter().map(watch).collect();
    row(way, declared, pairs, true).await;
}

/// A failover in order, which waits for the replica.
async fn failover() {
    let primary = primary();
    let replica = RedisServer::builder().replica_of(primary.address()).start().unwrap();
    timing::until(ms(10_000), "a replica in step", || {
        primary.info("connected_slaves").unwrap() == "1"
            && replica.info("master_link_status").unwrap() == "up"
    })
    .await;
    let guards = held(&client(&primary).await, "failed over").await;
    cli(&primary, &["FAILOVER"]);
    at_the_new_one("`FAILOVER`", Declared::Never, guards, &replica, TTL * 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_promoted_replica_lets_two_believe_only_where_it_was_behind_and_as_declared() {
    let in_step = async {
        let (primary, replica, _link) = replicated().await;
        let guards = held(&client(&primary).await, "in step").await;
        // No renewal may come between the look at the replica and the kill.
        cli(&primary, &["CLIENT", "PAUSE", "60000", "WRITE"]);
        timing::until(ms(10_000), "all writes in the replica", || {
            primary.info("master_repl_offset").unwrap()
                == replica.info("slave_repl_offset").unwrap()
        })
        .await;
        primary.kill().unwrap();
        cli(&replica, &["REPLICAOF", "NO", "ONE"]);
        let way = "primary killed, a replica in step promoted";
        at_the_new_one(way, Declared::Never, guards, &replica, TTL * 4).await;
    };
    let behind = async {
        let (primary, replica, link) = replicated().await;
        link.fault(Flow::ToClient, Fault::Blackhole);
        let guards = held(&client(&primary).await, "behind").await;
        primary.kill().unwrap();
        cli(&replica, &["REPLICAOF", "NO", "ONE"]);
        let way = "primary killed, a replica behind promoted";
        at_the_new_one(way, Declared::Deadline(FAILOVER), guards, &replica, TTL * 4).await;
    };
    let split = async {
        let (primary, replica, _link) = replicated().await;
        cli(&replica, &["REPLICAOF", "NO", "ONE"]);
        let guards = held(&client(&primary).await, "split").await;
        let way = "a replica promoted while the primary goes on";
        at_the_new_one(way, Declared::Always(FAILOVER), guards, &replica, TTL * 2).await;
    };
    tokio::join!(failover(), in_step, behind, split);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_whose_client_never_waited_hears_of_a_revocation_at_once() {
    let server = plain();
    let (ours, other) = (client(&server).await, client(&server).await);
    // No renewal comes before 20 s.
    let (first, second) = (ours.lock("first").ttl(ms(60_000)), ours.lock("second").ttl(ms(60_000)));
    let guards = [first.acquire().await.unwrap(), second.try_acquire().await.unwrap().unwrap()];
    for guard in guards {
        let lock = other.lock(guard.name().as_str());
        assert!(lock.revoke(guard.token()).await.unwrap());
        let reason = crate::common::by(ms(1_000), "the loss", guard.lost()).await;
        assert_eq!(reason, lockkit_core::LossReason::Revoked);
    }
}
