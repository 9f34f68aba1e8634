//! What servers are refused at the connection, and with which words.

use crate::common::{SLACK, by, client, ms};
use lockkit_core::{Applied, Error, Locks};
use lockkit_redis::{RedisConfig, RedisProvider};
use testbed::log::Log;
use testbed::{RedisServer, contenders, timing};

/// The rights that our errors ask for, on one application's keys.
const RIGHTS: &str =
    "-@all +@read +@write +@scripting +@connection +publish +subscribe +pubsub +info +time";
/// What no error, no Debug and no log may show.
const SECRET: &str = "c0rrect-horse-battery";

fn at(server: &RedisServer) -> RedisConfig {
    RedisConfig::tcp("127.0.0.1", server.port())
}

/// Why a connection is refused for good, and what to do: what was refused, and the remedy.
async fn refused(config: RedisConfig) -> (String, String) {
    let outcome = by(ms(3_000), "an answer", RedisProvider::connect(config)).await;
    match outcome.map(drop).unwrap_err() {
        Error::Rejected { what, remedy, .. } => (what, remedy),
        other => panic!("{other:?}"),
    }
}

/// Every kind of call, over both connections; the waiter is granted by the push, before any
/// heartbeat.
async fn works(config: RedisConfig) {
    contenders::works(RedisProvider::connect(config).await.unwrap(), ms(900)).await;
}

#[tokio::test]
async fn a_replica_is_refused() {
    let primary = RedisServer::start().unwrap();
    let replica = RedisServer::builder().replica_of(primary.address()).start().unwrap();
    let (what, remedy) = refused(at(&replica)).await;
    assert!(what.contains("replica") && remedy.contains("primary"), "{what}; {remedy}");
}

#[tokio::test]
async fn every_eviction_policy_but_noeviction_is_refused() {
    let server = RedisServer::start().unwrap();
    let kinds = ["lru", "lfu", "random"];
    let all = kinds.iter().flat_map(|kind| [format!("allkeys-{kind}"), format!("volatile-{kind}")]);
    for policy in all.chain(["volatile-ttl".to_owned()]) {
        server.cli(&["CONFIG", "SET", "maxmemory-policy", &policy]).unwrap();
        let (what, remedy) = refused(at(&server)).await;
        assert!(what.contains(&policy) && remedy.contains("noeviction"), "{what}; {remedy}");
    }
    server.cli(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]).unwrap();
    works(at(&server)).await;
}

#[tokio::test]
async fn a_user_without_a_right_is_refused_with_what_to_grant() {
    let server = RedisServer::builder()
        .user(
            "enough",
            &format!(
                "on >{SECRET} resetchannels ~app:* ~{{app:*}}:* ~{{lockkit}}:* &lockkit:* {RIGHTS}"
            ),
        )
        .user(
            "no-life",
            &format!("on >{SECRET} resetchannels ~app:* ~{{app:*}}:* &lockkit:* {RIGHTS}"),
        )
        .user("no-channel", &format!("on >{SECRET} resetchannels ~app:* {RIGHTS}"))
        .user("no-publish", &format!("on >{SECRET} allchannels ~* {RIGHTS} -publish"))
        .user("no-subscribe", &format!("on >{SECRET} allchannels ~* {RIGHTS} -subscribe"))
        .user("no-scripts", &format!("on >{SECRET} allchannels ~* {RIGHTS} -@scripting"))
        .user("no-time", &format!("on >{SECRET} allchannels ~* {RIGHTS} -time"))
        .user("no-info", &format!("on >{SECRET} allchannels ~* {RIGHTS} -info"))
        .start()
        .unwrap();
    let user = |name: &str| at(&server).username(name).password(SECRET);
    works(user("enough")).await;
    for (name, granted) in [
        ("no-life", "~{lockkit}:*"),
        ("no-channel", "&lockkit:*"),
        ("no-publish", "+publish"),
        ("no-subscribe", "+subscribe"),
        ("no-scripts", "+@scripting"),
        ("no-time", "+time"),
        ("no-info", "+info"),
    ] {
        let (what, remedy) = refused(user(name)).await;
        assert!(remedy.contains(granted), "{name}: {what}; {remedy}");
        assert!(!what.contains(SECRET), "{name}: {what}");
        for right in RIGHTS.split(' ').skip(1) {
            assert!(remedy.contains(right), "{right} is missing in: {remedy}");
        }
    }
}

#[tokio::test]
async fn a_unix_socket_that_is_not_there_is_an_error() {
    let error = RedisProvider::connect(RedisConfig::unix("/nowhere/socket")).await;
    assert!(matches!(error.map(drop), Err(Error::Unavailable { applied: Applied::No, .. })));
}

#[tokio::test]
async fn a_unix_socket_and_a_database_number_are_taken() {
    let server = RedisServer::start().unwrap();
    works(RedisConfig::unix(server.socket())).await;
    works(at(&server).database(3)).await;
    let locks = client(&server).await;
    let third = Locks::new(RedisProvider::connect(at(&server).database(3)).await.unwrap());
    // Two databases are two stores.
    let (first, second) = (locks.lock("a").acquire().await, third.lock("a").acquire().await);
    drop((first.unwrap(), second.unwrap()));
    let error = RedisProvider::connect(at(&server).database(99)).await.map(drop).unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
}

#[tokio::test]
async fn a_subscription_that_fails_is_told_of_once_with_the_remedy() {
    let log = Log::of_this_thread();
    let server = RedisServer::builder().user("app", &format!("on >{SECRET} ~* &* +@all")).start();
    let server = server.unwrap();
    let config = at(&server).username("app").password(SECRET);
    let locks = Locks::new(RedisProvider::connect(config).await.unwrap());
    server.cli(&["ACL", "SETUSER", "app", "-subscribe"]).unwrap();
    server.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]).unwrap();
    let lock = locks.lock("a").ttl(ms(3_000));
    let guard = lock.acquire().await.unwrap();
    let next = contenders::waiter(&lock, 0).await;
    let is_told = || log.text().contains("subscription_failed");
    timing::until(ms(5_000), "a warning", is_told).await;
    // Tried again some times by then.
    tokio::time::sleep(ms(500)).await;
    let logged = log.text();
    let told: Vec<_> = logged.lines().filter(|it| it.contains("subscription_failed")).collect();
    assert_eq!(told.len(), 1, "{logged}");
    assert!(told[0].contains("WARN") && told[0].contains("+subscribe"), "{}", told[0]);
    assert!(!logged.contains(SECRET), "{logged}");
    guard.release().await.unwrap();
    let next = by(ms(1_000) + SLACK, "the next one's heartbeat", next).await.unwrap();
    next.release().await.unwrap();
}

#[tokio::test]
async fn a_server_that_keeps_no_file_is_warned_of_with_the_remedy() {
    let log = Log::of_this_thread();
    let kept = RedisServer::builder().appendonly().start().unwrap();
    works(at(&kept)).await;
    assert!(!log.text().contains("no_persistence"), "{}", log.text());
    let server = RedisServer::start().unwrap();
    works(at(&server)).await;
    let logged = log.text();
    let told: Vec<_> = logged.lines().filter(|line| line.contains("no_persistence")).collect();
    assert_eq!(told.len(), 1, "{logged}");
    for word in ["WARN", "appendonly yes", "appendfsync always"] {
        assert!(told[0].contains(word), "{word} is missing in: {}", told[0]);
    }
}

#[tokio::test]
async fn a_token_base_that_leaves_no_room_for_tokens_is_refused_before_anything_is_locked() {
    let server = RedisServer::start().unwrap();
    let most = i64::MAX.unsigned_abs() - (1 << 53);
    works(at(&server).token_base(most)).await;
    for base in [most + 1, i64::MAX.unsigned_abs(), u64::MAX] {
        let error = RedisProvider::connect(at(&server).token_base(base)).await;
        match error.map(drop).unwrap_err() {
            Error::Invalid { what, remedy, .. } => {
                assert!(what.contains(&base.to_string()), "{what}");
                assert!(remedy.contains(&most.to_string()), "{remedy}");
            }
            other => panic!("{other:?}"),
        }
    }
}
