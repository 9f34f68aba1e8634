//! Beside other clients: etcdctl, which is Go's `concurrency.Mutex`, and operators with their tools.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crate::common::{SLACK, by, client, ms, queued, tokens, waiter};
use etcd_client::{Client, Txn, TxnOp};
use lockkit_core::{Error, FencingToken, Locks, LossReason};
use lockkit_etcd::{EtcdConfig, EtcdGrant, EtcdProvider};
use testbed::EtcdServer;
use testbed::contenders::held_by_another;

const TTL: Duration = Duration::from_secs(10);

/// `etcdctl lock NAME`, which holds until it is told to end.
struct Other {
    process: Child,
    lines: Receiver<String>,
    end: PathBuf,
}

impl Other {
    /// Asks for the name; it may have to wait.
    fn ask(server: &EtcdServer, name: &str, number: u32) -> Self {
        let place = server.place().directory();
        let (end, place) = (place.join(format!("end-{number}")), place.display());
        let holds = format!("[ -d {place} ] && [ ! -e {} ]", end.display());
        let script = format!("echo held; while {holds}; do sleep 0.02; done");
        let mut command = server.etcdctl();
        command.args(["lock", name, "--", "sh", "-c", &script]);
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(process.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                sender.send(line).ok();
            }
        });
        Self { process, lines, end }
    }

    /// Whether it holds within this time.
    fn holds(&self, within: Duration) -> bool {
        self.lines.recv_timeout(within).is_ok_and(|line| line == "held")
    }

    fn release(&mut self) {
        std::fs::write(&self.end, "").unwrap();
        assert!(self.process.wait().unwrap().success());
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn etcdctl_and_lockkit_exclude_each_other_in_the_order_in_which_they_came() {
    let server = EtcdServer::start().unwrap();
    let locks = client(&server).await;
    let lock = locks.lock("job").ttl(TTL);
    let mut first = Other::ask(&server, "lockkit/job", 1);
    assert!(first.holds(ms(5_000)));
    held_by_another(&locks.lock("job"), ms(300)).await;
    let seen = lock.inspect().await.unwrap();
    assert!(seen.holders.len() == 1 && seen.holders[0].token.is_none(), "{seen:?}");
    // Ours behind theirs, and theirs behind ours.
    let ours = waiter(&lock, 0).await;
    let mut third = Other::ask(&server, "lockkit/job", 2);
    queued(&lock, 2).await;
    let last = waiter(&lock, 2).await;
    first.release();
    let guard = by(SLACK, "ours, behind etcdctl", ours).await.unwrap();
    assert!(!third.holds(ms(300)), "etcdctl holds beside us");
    let token = guard.token();
    guard.release().await.unwrap();
    assert!(third.holds(ms(5_000)), "etcdctl, behind ours");
    held_by_another(&locks.lock("job"), ms(300)).await;
    third.release();
    assert!(tokens(vec![last], SLACK).await[0] > token);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_ends_no_grant_of_another_client() {
    let server = EtcdServer::start().unwrap();
    let locks = client(&server).await;
    let lock = locks.lock("job").ttl(TTL);
    let mut other = Other::ask(&server, "lockkit/job", 1);
    assert!(other.holds(ms(5_000)));
    let driver = Client::connect([format!("http://{}", server.address())], None).await.unwrap();
    let key = in_order(&server)[0].clone();
    let found = driver.kv_client().get(&*key, None).await.unwrap();
    let created = u64::try_from(found.kvs()[0].create_revision()).unwrap();
    let before = lock.acquire_within(ms(200)).await.map(drop);
    assert!(matches!(before, Err(Error::TimedOut { .. })), "{before:?}");
    // Whatever base the store's tokens have.
    let free = locks.lock("free").acquire().await.unwrap();
    let native = u64::try_from(free.native::<EtcdGrant>().unwrap().create_revision).unwrap();
    let base = free.token().as_u64() - native;
    let token = FencingToken::new(base + created).unwrap();
    assert!(!lock.revoke(token).await.unwrap(), "it is not a grant of ours");
    assert_eq!(in_order(&server), [key]);
    held_by_another(&lock, ms(300)).await;
    assert!(free.release().await.is_ok());
    other.release();
    lock.acquire_within(SLACK).await.unwrap().release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_go_mutex_named_like_the_prefix_waits_for_a_client_that_holds_nothing() {
    let server = EtcdServer::start().unwrap();
    let first = Other::ask(&server, "lockkit", 1);
    assert!(first.holds(ms(5_000)), "nothing is there yet");
    drop(first);
    let _locks = client(&server).await;
    let second = Other::ask(&server, "lockkit", 2);
    assert!(!second.holds(ms(1_500)), "the page says that it waits");
    // One for a name below it does not.
    let mut third = Other::ask(&server, "lockkit/job", 3);
    assert!(third.holds(ms(5_000)));
    third.release();
}

#[tokio::test(flavor = "multi_thread")]
async fn stray_keys_and_the_names_below_a_name_block_nobody_of_ours() {
    let server = EtcdServer::start().unwrap();
    let locks = client(&server).await;
    // Of no lease, of no contender's shape, deeper; more of them than are looked at first.
    for key in ["config", "b/694d7a1", "694d7a1", "694d7a1-1", "x-1", "y", "z", "zz"] {
        server.cli(&["put", &format!("lockkit/job/{key}"), "x"]).unwrap();
    }
    let lock = locks.lock("job").ttl(TTL);
    for _ in 0..2 {
        let guard = lock.try_acquire().await.unwrap().unwrap();
        assert!(lock.try_acquire().await.unwrap().is_none());
        let waiting = waiter(&lock, 0).await;
        guard.release().await.unwrap();
        let guard = by(SLACK, "a waiter among stray keys", waiting).await.unwrap();
        guard.release().await.unwrap();
        lock.acquire_within(SLACK).await.unwrap().release().await.unwrap();
    }
    let (a, b) = (locks.lock("a").acquire().await.unwrap(), locks.lock("a/b").try_acquire().await);
    let b = b.unwrap().unwrap();
    let listed = locks.list("a", None, 10).await.unwrap();
    let names: Vec<_> = listed.iter().map(|seen| seen.name.as_str()).collect();
    assert_eq!(names, ["a", "a/b"]);
    a.release().await.unwrap();
    b.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_made_again_is_another_one() {
    let server = EtcdServer::start().unwrap();
    let locks = client(&server).await;
    let lock = locks.lock("job").ttl(TTL);
    let guard = lock.acquire().await.unwrap();
    let grant = guard.native::<EtcdGrant>().unwrap().clone();
    let waiting = waiter(&lock, 0).await;
    // The holder's key is deleted and made again at once: behind the waiter, who must not wait for it.
    let driver = Client::connect([format!("http://{}", server.address())], None).await.unwrap();
    let lease = driver.lease_client().grant(60, None).await.unwrap().id();
    driver.kv_client().delete(&*grant.key, None).await.unwrap();
    let options = etcd_client::PutOptions::new().with_lease(lease);
    driver.kv_client().put(&*grant.key, "again", Some(options)).await.unwrap();
    let reason = by(SLACK, "the holder is told", guard.lost()).await;
    assert_eq!(reason, LossReason::Removed);
    let next = by(SLACK, "the waiter behind the first incarnation", waiting).await.unwrap();
    assert!(next.token() > guard.token());
    assert!(guard.release().await.is_err());
    let held = driver.kv_client().get(&*grant.key, None).await.unwrap();
    assert_eq!(held.kvs().len(), 1, "a release deleted another's key");
    next.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_whose_own_key_was_deleted_is_not_granted_on_it_but_comes_again_at_the_end() {
    let server = EtcdServer::start().unwrap();
    let (locks, other) = (client(&server).await, client(&server).await);
    let held = other.lock("job").ttl(TTL).acquire().await.unwrap();
    let first = waiter(&locks.lock("job").ttl(TTL), 0).await;
    let key = in_order(&server)[1].clone();
    let second = waiter(&other.lock("job").ttl(TTL), 1).await;
    server.cli(&["del", &key]).unwrap();
    let behind = async {
        // Its key has the same name again: it is the same request on the same lease.
        while in_order(&server).get(2) != Some(&key) {
            tokio::time::sleep(ms(10)).await;
        }
    };
    by(ms(3_000), "a new place at the end", behind).await;
    held.release().await.unwrap();
    let second = by(SLACK, "who was behind it", second).await.unwrap();
    tokio::time::sleep(ms(300)).await;
    assert!(!first.is_finished(), "granted on a key that is gone");
    let token = second.token();
    second.release().await.unwrap();
    let first = by(SLACK, "its grant", first).await.unwrap();
    assert!(first.token() > token);
    // Alone in the queue, and its key is deleted together with the holder's.
    let waiting = waiter(&other.lock("job").ttl(TTL), 0).await;
    server.cli(&["del", "--prefix", "lockkit/job/"]).unwrap();
    by(SLACK, "the holder is told", first.lost()).await;
    let guard = by(ms(3_000), "a grant on a new key", waiting).await.unwrap();
    assert_eq!(in_order(&server).len(), 1);
    let seen = locks.lock("job").inspect().await.unwrap();
    assert_eq!(seen.holders[0].token, Some(guard.token()), "granted on a key that is gone");
    guard.release().await.unwrap();
}

/// The keys of the queue for `job`, as they were created.
fn in_order(server: &EtcdServer) -> Vec<String> {
    let queue = ["get", "--prefix", "--keys-only", "--sort-by=CREATE", "lockkit/job/"];
    let keys = server.cli(&queue).unwrap();
    keys.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_of_the_callers_own_is_applied_only_while_the_lock_is_held() {
    let server = EtcdServer::start().unwrap();
    let config = EtcdConfig::new([("127.0.0.1", server.port())]).token_base(1_000_000);
    let locks = Locks::new(EtcdProvider::connect(config).await.unwrap());
    let guard = locks.lock("report").ttl(TTL).acquire().await.unwrap();
    let grant = guard.native::<EtcdGrant>().unwrap().clone();
    // A base of its own, which a new store has, is greater.
    assert!(guard.token().as_u64() > 1_000_000 + u64::try_from(grant.create_revision).unwrap());
    let driver = Client::connect([format!("http://{}", server.address())], None).await.unwrap();
    let write = async |value: &str| {
        let put = TxnOp::put("report", value, None);
        let txn = Txn::new().when([grant.held()]).and_then([put]);
        driver.kv_client().txn(txn).await.unwrap().succeeded()
    };
    assert!(write("by the holder").await);
    guard.release().await.unwrap();
    let _next = locks.lock("report").acquire().await.unwrap();
    assert!(!write("late").await, "a stale holder wrote");
    let kept = driver.kv_client().get("report", None).await.unwrap();
    assert_eq!(kept.kvs()[0].value(), b"by the holder");
}

#[tokio::test(flavor = "multi_thread")]
async fn prefixes_are_stores_of_their_own_and_may_be_paths_or_nothing() {
    let server = EtcdServer::start().unwrap();
    let with = async |prefix: &str| {
        let config = EtcdConfig::new([("127.0.0.1", server.port())]).prefix(prefix);
        Locks::new(EtcdProvider::connect(config).await.unwrap())
    };
    let mut guards = Vec::new();
    for ((prefix, key), number) in
        [("", "job"), ("a", "a/job"), ("/a/b/", "/a/b/job")].into_iter().zip(1..)
    {
        let locks = with(prefix).await;
        let guard = locks.lock("job").ttl(TTL).acquire().await.unwrap();
        let other = Other::ask(&server, key, number);
        assert!(!other.holds(ms(300)), "etcdctl lock {key} beside the prefix {prefix:?}");
        // The push comes for every prefix, the empty one too.
        let waiting = tokio::spawn(locks.lock("other").ttl(TTL).acquire());
        by(SLACK, "a grant", waiting).await.unwrap().unwrap().release().await.unwrap();
        drop(other);
        guards.push((locks, guard));
    }
    for (locks, guard) in guards {
        let lock = locks.lock("next").ttl(TTL);
        let holder = lock.acquire().await.unwrap();
        let waiting = waiter(&lock, 0).await;
        holder.release().await.unwrap();
        by(SLACK, "a push", waiting).await.unwrap().release().await.unwrap();
        guard.release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn etcdctl_waits_for_all_that_share_and_shared_requests_wait_for_it() {
    let server = EtcdServer::start().unwrap();
    let (locks, other) = (client(&server).await, client(&server).await);
    let lock = |locks: &Locks| locks.lock("job").ttl(TTL).shared();
    let mut first = Other::ask(&server, "lockkit/job", 1);
    assert!(first.holds(ms(5_000)));
    assert!(lock(&locks).try_acquire().await.unwrap().is_none());
    let waiting = [tokio::spawn(lock(&locks).acquire()), tokio::spawn(lock(&other).acquire())];
    queued(&lock(&locks), 2).await;
    first.release();
    let mut guards = Vec::new();
    for waiting in waiting {
        guards.push(by(SLACK, "both, once etcdctl has left", waiting).await.unwrap().unwrap());
    }
    // A try joins them, whatever else lies there.
    let etcdctl =
        |words: &[&str]| assert!(server.etcdctl().args(words).status().unwrap().success());
    etcdctl(&["put", "lockkit/job/config", "x"]);
    guards.push(lock(&other).try_acquire().await.unwrap().expect("shared"));
    // Go's clients would wait for it.
    etcdctl(&["del", "lockkit/job/config"]);
    let mut next = Other::ask(&server, "lockkit/job", 2);
    queued(&lock(&locks), 1).await;
    assert!(lock(&other).try_acquire().await.unwrap().is_none(), "past etcdctl, which waits");
    let last = tokio::spawn(lock(&locks).acquire());
    queued(&lock(&locks), 2).await;
    for guard in guards {
        assert!(!next.holds(ms(100)), "etcdctl holds beside one that shares");
        guard.release().await.unwrap();
    }
    assert!(next.holds(ms(5_000)));
    assert!(!last.is_finished());
    next.release();
    by(SLACK, "the last", last).await.unwrap().unwrap().release().await.unwrap();
}
