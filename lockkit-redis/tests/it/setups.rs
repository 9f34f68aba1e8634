//! Servers that are set up wrong: refused with the remedy, when connecting where that can be seen, else at
//! the first use.

use crate::common::{by, ms};
use lockkit_core::{Error, Locks};
use lockkit_redis::{RedisConfig, RedisProvider};
use testbed::log::Log;
use testbed::{Link, RedisServer};

/// What lockkit asks of a server.
pub(crate) const COMMANDS: [&str; 22] = [
    "DEL",
    "EVALSHA",
    "EXISTS",
    "GET",
    "HMGET",
    "MGET",
    "PEXPIRE",
    "PTTL",
    "PUBLISH",
    "PUBSUB",
    "SCRIPT",
    "SET",
    "SUBSCRIBE",
    "TIME",
    "TYPE",
    "ZADD",
    "ZCARD",
    "ZPOPMIN",
    "ZRANGE",
    "ZREM",
    "ZREMRANGEBYSCORE",
    "ZSCORE",
];

fn at(server: &RedisServer) -> RedisConfig {
    RedisConfig::tcp("127.0.0.1", server.port())
}

/// Why a call is refused for good, and what to do about it.
fn refusal<T>(outcome: Result<T, Error>) -> (String, String) {
    match outcome.map(drop).expect_err("a refusal") {
        Error::Rejected { what, remedy, .. } => (what, remedy),
        other => panic!("{other:?}"),
    }
}

async fn refused(config: RedisConfig) -> (String, String) {
    refusal(by(ms(3_000), "an answer", RedisProvider::connect(config)).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_was_renamed_is_told_when_connecting_with_its_name_and_the_remedy() {
    for command in COMMANDS {
        let line = format!("rename-command {command} other-{command}");
        let server = RedisServer::builder().line(line).start().unwrap();
        let (what, remedy) = refused(at(&server)).await;
        assert!(remedy.contains("rename-command"), "{command}: {what}; {remedy}");
        let keys = server.cli(&["DBSIZE"]).unwrap().integer();
        assert!(keys <= Some(1), "{command}: {keys:?} keys are left, more than the mark");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_the_user_may_not_run_is_told_when_connecting() {
    let server = RedisServer::start().unwrap();
    for command in COMMANDS {
        let denied = format!("-{}", command.to_lowercase());
        let rules =
            ["ACL", "SETUSER", "app", "reset", "on", ">secret", "~*", "&*", "+@all", &denied];
        assert_eq!(server.cli(&rules).unwrap().text().as_deref(), Some("OK"));
        let (what, remedy) = refused(at(&server).username("app").password("secret")).await;
        assert!(remedy.contains("+@read"), "{command}: {what}; {remedy}");
    }
    assert_eq!(server.cli(&["DBSIZE"]).unwrap().integer(), Some(1), "keys beside the mark");
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_on_the_names_but_not_on_what_lies_beside_them_are_told_when_connecting() {
    let rules = "on >secret ~app:* &* +@all";
    let server = RedisServer::builder().user("app", rules).start().unwrap();
    let config = at(&server).username("app").password("secret").prefix("app:");
    let (what, remedy) = refused(config).await;
    assert!(what.contains("key") && remedy.contains("~*"), "{what}; {remedy}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_a_cluster_is_refused_when_connecting_and_one_met_later_at_the_first_use() {
    let node = RedisServer::builder().line("cluster-enabled yes").start().unwrap();
    let (what, remedy) = refused(at(&node)).await;
    assert!(what.contains("Cluster") && remedy.contains("one server"), "{what}; {remedy}");
    node.cli(&["CLUSTER", "ADDSLOTSRANGE", "0", "8191"]).unwrap();
    // The other half is another node's.
    let other = RedisServer::builder().line("cluster-enabled yes").start().unwrap();
    other.cli(&["CLUSTER", "ADDSLOTSRANGE", "8192", "16383"]).unwrap();
    other.cli(&["CLUSTER", "MEET", "127.0.0.1", &node.port().to_string()]).unwrap();
    testbed::timing::until(ms(20_000), "a cluster", || {
        let info = node.cli(&["CLUSTER", "INFO"]).unwrap().text().unwrap();
        info.contains("cluster_state:ok")
    })
    .await;
    let plain = RedisServer::start().unwrap();
    let link = Link::to_redis(plain.address()).unwrap();
    let config = RedisConfig::tcp("127.0.0.1", link.port());
    let locks = Locks::new(RedisProvider::connect(config).await.unwrap());
    link.lead_to(node.address());
    link.reset().unwrap();
    let mut refusals = 0;
    for n in 0..20 {
        match by(ms(3_000), "an answer", locks.lock(format!("{n}")).acquire()).await {
            Ok(guard) => guard.release().await.unwrap(),
            Err(error) => {
                let (what, remedy) = refusal(Err::<(), _>(error));
                assert!(remedy.contains("no node of a cluster"), "{what}; {remedy}");
                refusals += 1;
            }
        }
    }
    assert!(refusals > 0, "all names lie on one node");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_the_server_asks_for_by_now_ends_the_wait_with_the_remedy() {
    let server = RedisServer::start().unwrap();
    let locks = Locks::new(RedisProvider::connect(at(&server)).await.unwrap());
    locks.lock("a").acquire().await.unwrap().release().await.unwrap();
    server.cli(&["CONFIG", "SET", "requirepass", "secret"]).unwrap();
    for kind in ["normal", "pubsub"] {
        server.cli(&["CLIENT", "KILL", "TYPE", kind]).unwrap();
    }
    let outcome = by(ms(3_000), "an answer", locks.lock("a").acquire()).await;
    let (what, remedy) = refusal(outcome);
    assert!(remedy.contains("password"), "{what}; {remedy}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_name_that_is_refused_for_good_stalls_no_other() {
    /// More than the clean-ups for which a client waits.
    const TRIES: usize = 1_100;
    let server = RedisServer::start().unwrap();
    let locks = Locks::new(RedisProvider::connect(at(&server)).await.unwrap());
    server.cli(&["RPUSH", "lock", "theirs"]).unwrap();
    server.cli(&["RPUSH", "{queue}:n", "theirs"]).unwrap();
    server.cli(&["SET", "{tombs}:d", "theirs"]).unwrap();
    server.cli(&["RPUSH", "{token}:t", "theirs"]).unwrap();
    for name in ["lock", "queue", "tombs", "token"] {
        let lock = locks.lock(name).ttl(ms(60_000));
        for _ in 0..TRIES / 4 {
            refusal(lock.try_acquire().await);
        }
        refusal(lock.acquire().await);
    }
    let other = locks.lock("other").ttl(ms(60_000));
    let guard = by(ms(2_000), "another name", other.try_acquire()).await.unwrap().expect("free");
    guard.release().await.unwrap();
    // Nothing is left to be cleaned up either.
    by(ms(2_000), "an end", locks.close(ms(1_000))).await.unwrap();
    for key in ["lock", "{queue}:n"] {
        assert_eq!(server.cli(&["LLEN", key]).unwrap().integer(), Some(1), "{key} was changed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_the_user_has_no_rights_on_stalls_no_other() {
    let rules = "on >secret ~app:* ~{app:* ~{lockkit}:* &* +@all";
    let server = RedisServer::builder().user("app", rules).start().unwrap();
    let config = at(&server).username("app").password("secret");
    let locks = Locks::new(RedisProvider::connect(config).await.unwrap());
    let lock = locks.lock("foreign").ttl(ms(60_000));
    for _ in 0..1_100 {
        refusal(by(ms(2_000), "a refusal", lock.try_acquire()).await);
    }
    let other = locks.lock("app:a").ttl(ms(60_000));
    let guard = by(ms(2_000), "another name", other.try_acquire()).await.unwrap().expect("free");
    guard.release().await.unwrap();
}

#[tokio::test]
async fn a_database_with_other_keys_is_warned_of_where_no_prefix_keeps_them_apart() {
    let log = Log::of_this_thread();
    let server = RedisServer::start().unwrap();
    let connect =
        async |config: RedisConfig| Locks::new(RedisProvider::connect(config).await.unwrap());
    // Our own keys are no others.
    let locks = connect(at(&server)).await;
    let held = locks.lock("a").acquire().await.unwrap();
    drop((connect(at(&server)).await, connect(at(&server).prefix("app:")).await));
    let prefixed = connect(at(&server).prefix("app:")).await;
    let also_held = prefixed.lock("b").acquire().await.unwrap();
    drop(connect(at(&server)).await);
    assert!(!log.text().contains("other_keys"), "{}", log.text());
    drop((held, also_held));
    server.cli(&["SET", "session:7", "theirs"]).unwrap();
    drop(connect(at(&server).prefix("app:")).await);
    assert!(!log.text().contains("other_keys"), "{}", log.text());
    drop(connect(at(&server)).await);
    let logged = log.text();
    let told: Vec<_> = logged.lines().filter(|line| line.contains("other_keys")).collect();
    assert_eq!(told.len(), 1, "{logged}");
    for word in ["WARN", "session:7", "prefix=locks:"] {
        assert!(told[0].contains(word), "{word} is missing in: {}", told[0]);
    }
}
