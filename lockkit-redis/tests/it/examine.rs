//! What is told of a server at any time: each fault that a server can be given, and nothing of one that is fine.

use crate::common::{SLACK, by, ms};
use lockkit_core::{Error, Finding, LockProvider, Severity};
use lockkit_redis::{RedisConfig, RedisProvider};
use testbed::{Connections, Fault, Link, RedisServer, Way, timing};

/// The rights that our errors ask for.
const RIGHTS: &str = "on >secret resetchannels ~app:* ~{app:* ~{lockkit}:* &lockkit:* \
    -@all +@read +@write +@scripting +@connection +publish +subscribe +pubsub +info +time";
/// What examining may take: less than the driver gives it.
const LIMIT: std::time::Duration = ms(2_000);

fn at(server: &RedisServer) -> RedisConfig {
    RedisConfig::tcp("127.0.0.1", server.port())
}

fn set(server: &RedisServer, words: &[&str]) {
    assert_eq!(server.cli(words).unwrap().text().as_deref(), Some("OK"), "{words:?}");
}

/// A server that keeps every write, and has nothing amiss.
fn fine() -> RedisServer {
    RedisServer::builder().appendonly().start().unwrap()
}

async fn connected(config: RedisConfig) -> RedisProvider {
    RedisProvider::connect(config).await.unwrap()
}

/// What is found, the worst first.
async fn examined(provider: &RedisProvider) -> Vec<Finding> {
    let found = by(LIMIT + SLACK, "an answer", provider.examine()).await.unwrap();
    assert!(found.is_sorted_by(|a, b| a.severity >= b.severity), "{found:?}");
    found
}

/// That one of the findings has this severity and these words.
#[track_caller]
fn shows(found: &[Finding], severity: Severity, words: &[&str]) {
    let has = |finding: &&Finding| words.iter().all(|word| finding.to_string().contains(word));
    let told = found.iter().find(has).unwrap_or_else(|| panic!("{words:?} not in {found:#?}"));
    assert_eq!(told.severity, severity, "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_fine_gives_no_finding_and_is_not_changed() {
    let server = fine();
    let provider = connected(at(&server)).await;
    let held = lockkit_core::Locks::new(connected(at(&server)).await);
    let guard = held.lock("a").ttl(ms(60_000)).acquire().await.unwrap();
    let keys = server.cli(&["DBSIZE"]).unwrap().integer();
    let changes = server.info("rdb_changes_since_last_save").unwrap();
    assert_eq!(examined(&provider).await, []);
    // A script that a restart forgot is no fault.
    server.cli(&["SCRIPT", "FLUSH"]).unwrap();
    assert_eq!(examined(&provider).await, []);
    assert_eq!(server.cli(&["DBSIZE"]).unwrap().integer(), keys);
    assert_eq!(server.info("rdb_changes_since_last_save").unwrap(), changes);
    testbed::held!(guard);
    guard.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_with_the_rights_of_the_page_gets_no_more_than_a_note_of_what_it_may_not_read() {
    let server = RedisServer::builder().appendonly().user("app", RIGHTS).start().unwrap();
    let config = at(&server).username("app").password("secret").prefix("app:");
    let found = examined(&connected(config).await).await;
    shows(&found, Severity::Note, &["CONFIG GET", "+config|get"]);
    assert_eq!(found.len(), 1, "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_setting_that_harms_locks_is_told_of_with_its_remedy_and_no_longer_once_it_is_mended()
{
    use Severity::{Danger, Note, Warning};
    let server = fine();
    let provider = connected(at(&server)).await;
    let used: u64 = server.info("used_memory").unwrap().parse().unwrap();
    // The server's use of it moves a little.
    let nearly = (used * 21 / 20).to_string();
    let cases: [(&str, &str, &str, Severity, &[&str]); 8] = [
        ("maxmemory-policy", "allkeys-lru", "noeviction", Danger, &["allkeys-lru", "noeviction"]),
        ("maxmemory", "1", "0", Danger, &["takes no writes", "OOM", "raise maxmemory"]),
        ("maxmemory", &nearly, "0", Warning, &["bytes of maxmemory", "raise maxmemory"]),
        ("min-replicas-to-write", "1", "0", Danger, &["NOREPLICAS", "lower min-replicas-to-write"]),
        ("appendonly", "no", "yes", Warning, &["frees every lock", "appendonly yes"]),
        ("appendfsync", "everysec", "always", Warning, &["is everysec", "appendfsync always"]),
        ("appendfsync", "no", "always", Warning, &["is no:", "appendfsync always"]),
        ("save", "3600 1", "", Note, &["stop-writes-on-bgsave-error", "set it to no"]),
    ];
    for (name, bad, good, severity, words) in cases {
        set(&server, &["CONFIG", "SET", name, bad]);
        let found = examined(&provider).await;
        shows(&found, severity, words);
        assert_eq!(found.len(), 1, "{name} {bad}: {found:#?}");
        set(&server, &["CONFIG", "SET", name, good]);
        assert_eq!(examined(&provider).await, [], "{name} {good}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_failed_is_told_of_as_what_ends_every_lock() {
    let server = RedisServer::builder().appendonly().line("save 3600 1").start().unwrap();
    let provider = connected(at(&server)).await;
    // Nothing can be renamed to the path of a directory.
    std::fs::create_dir(server.place().data().join("dump.rdb")).unwrap();
    server.cli(&["BGSAVE"]).unwrap();
    timing::until(ms(10_000), "the end of a snapshot", || {
        server.info("rdb_last_bgsave_status").unwrap() == "err"
    })
    .await;
    let found = examined(&provider).await;
    shows(&found[..1], Severity::Danger, &["MISCONF", "stop-writes-on-bgsave-error no", "disk"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_loads_its_data_is_told_of() {
    let server = RedisServer::builder()
        .appendonly()
        .line("enable-debug-command yes")
        .line("loading-process-events-interval-bytes 1024")
        .line("rdbcompression no")
        .start()
        .unwrap();
    let provider = connected(at(&server).prefix("app:")).await;
    for n in 0..20 {
        set(&server, &["SET", &n.to_string(), &"x".repeat(4_096)]);
    }
    // Microseconds for each key.
    set(&server, &["CONFIG", "SET", "key-load-delay", "100000"]);
    let mut reloads = server.client().unwrap();
    let reloaded = std::thread::spawn(move || reloads.command(&["DEBUG", "RELOAD"]));
    timing::until(ms(2_000), "the start", || server.info("loading").unwrap() == "1").await;
    let found = examined(&provider).await;
    shows(&found, Severity::Danger, &["loads its data", "wait"]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(reloaded.join().unwrap().unwrap().text().as_deref(), Some("OK"));
    assert_eq!(examined(&provider).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_or_a_right_that_was_taken_away_since_is_told_of() {
    let server = RedisServer::builder().appendonly().user("app", RIGHTS).start().unwrap();
    let config = at(&server).username("app").password("secret").prefix("app:");
    let provider = connected(config).await;
    for command in crate::setups::COMMANDS {
        let (denied, granted) =
            (format!("-{}", command.to_lowercase()), format!("+{}", command.to_lowercase()));
        set(&server, &["ACL", "SETUSER", "app", &denied]);
        let found = examined(&provider).await;
        shows(&found[..1], Severity::Danger, &["+@read +@write +@scripting"]);
        set(&server, &["ACL", "SETUSER", "app", &granted]);
        let found = examined(&provider).await;
        assert!(found[0].severity < Severity::Warning, "{command}: {found:?}");
    }
    for (rules, words) in [
        (["-info", "+get"], &["'info'", "+info"] as &[&str]),
        (["resetchannels", "+info"], &["channel", "&lockkit:*"]),
        (["allchannels", "resetkeys"], &["{app:}:layout"]),
    ] {
        set(&server, &["ACL", "SETUSER", "app", rules[0], rules[1]]);
        let found = examined(&provider).await;
        assert!(words.iter().all(|word| format!("{found:?}").contains(word)), "{found:#?}");
    }
    set(&server, &["ACL", "SETUSER", "app", "~app:*"]);
    let found = examined(&provider).await;
    shows(&found, Severity::Danger, &["key", "~*"]);
    shows(&found, Severity::Warning, &["mark of the layout", "let it read"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_command_that_is_met_later_is_told_of() {
    let (plain, renamed) = (
        fine(),
        RedisServer::builder().appendonly().line("rename-command ZADD zadd2").start().unwrap(),
    );
    let link = Link::to_redis(plain.address()).unwrap();
    let provider = connected(RedisConfig::tcp("127.0.0.1", link.port())).await;
    link.lead_to(renamed.address());
    link.reset().unwrap();
    let found = after_a_reset(&provider).await;
    shows(&found, Severity::Danger, &["rename-command"]);
}

/// The connection that was reset is found out by the first call.
async fn after_a_reset(provider: &RedisProvider) -> Vec<Finding> {
    drop(by(LIMIT + SLACK, "an answer", provider.examine()).await);
    examined(provider).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_a_node_of_a_cluster_and_a_missing_password_that_are_met_later_are_told_of() {
    let server = fine();
    let link = Link::to_redis(server.address()).unwrap();
    let provider = connected(RedisConfig::tcp("127.0.0.1", link.port())).await;
    set(&server, &["REPLICAOF", "127.0.0.1", "1"]);
    let found = examined(&provider).await;
    shows(&found, Severity::Danger, &["replica", "connect to its primary"]);
    assert_eq!(found.len(), 1, "{found:?}");
    set(&server, &["REPLICAOF", "NO", "ONE"]);
    assert_eq!(examined(&provider).await, []);
    let node = RedisServer::builder().appendonly().line("cluster-enabled yes").start().unwrap();
    link.lead_to(node.address());
    link.reset().unwrap();
    shows(&after_a_reset(&provider).await, Severity::Danger, &["Cluster", "one server"]);
    link.lead_to(server.address());
    set(&server, &["CONFIG", "SET", "requirepass", "secret"]);
    link.reset().unwrap();
    let found = after_a_reset(&provider).await;
    shows(&found, Severity::Danger, &["password in the URL"]);
    assert_eq!(found.len(), 1, "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_are_noted_and_one_out_of_step_is_warned_of() {
    let server = fine();
    let provider = connected(at(&server)).await;
    let replica = RedisServer::builder().replica_of(server.address()).start().unwrap();
    let is_online = || server.info("slave0").unwrap().contains("state=online");
    timing::until(ms(20_000), "a replica in step", is_online).await;
    let found = examined(&provider).await;
    shows(&found, Severity::Note, &["a replica follows", "FAILOVER"]);
    assert_eq!(found.len(), 1, "{found:?}");
    replica.pause().unwrap();
    let is_late = || !server.info("slave0").unwrap().ends_with(&['0', '1', '2', '3', '4', '5'][..]);
    timing::until(ms(20_000), "a replica out of step", is_late).await;
    let found = examined(&provider).await;
    let port = replica.port().to_string();
    shows(&found, Severity::Warning, &[&port, "has not answered", "once it is in step"]);
    replica.resume().unwrap();
}

/// Waits until the server has so many, and no more that are ending.
async fn connections(client: &mut testbed::resp::Client, count: usize) {
    let line = format!("connected_clients:{count}\r\n");
    let mut has = || client.command(&["INFO", "clients"]).unwrap().text().unwrap().contains(&line);
    timing::until(ms(5_000), &line, &mut has).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_run_out_are_told_of_before_and_at_the_end() {
    let server = RedisServer::builder().appendonly().line("maxclients 20").start().unwrap();
    let provider = connected(at(&server)).await;
    assert_eq!(examined(&provider).await, []);
    // Two are the client's, and a third is made for a moment to see whether it may subscribe.
    let mut first = server.client().unwrap();
    connections(&mut first, 3).await;
    let mut others: Vec<_> = (0..16).map(|_| server.client().unwrap()).collect();
    let found = examined(&provider).await;
    shows(&found, Severity::Warning, &["1 of the 20 connections", "raise maxclients"]);
    connections(&mut first, 19).await;
    others.push(server.client().unwrap());
    let found = examined(&provider).await;
    shows(&found, Severity::Danger, &["0 of the 20 connections", "raise maxclients"]);
    assert_eq!(found.len(), 1, "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_layout_and_keys_that_are_no_locks_are_told_of() {
    let server = fine();
    let (bare, prefixed) =
        (connected(at(&server)).await, connected(at(&server).prefix("app:")).await);
    server.cli(&["SET", "session:7", "theirs"]).unwrap();
    let found = examined(&bare).await;
    shows(&found, Severity::Warning, &["session:7", "prefix=locks:"]);
    assert_eq!(examined(&prefixed).await, []);
    server.cli(&["SET", "{app:}:layout", "2"]).unwrap();
    shows(&examined(&prefixed).await, Severity::Danger, &["layout 2", "upgrade this program"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_leaves_the_machine_without_tls_is_warned_of() {
    let server = RedisServer::builder().appendonly().password("s3cret").start().unwrap();
    assert_eq!(examined(&connected(at(&server).password("s3cret")).await).await, []);
    let socket = RedisConfig::unix(server.socket()).password("s3cret");
    assert_eq!(examined(&connected(socket).await).await, []);
    // Not written as this machine's, though it leads there.
    let far = RedisConfig::tcp("0.0.0.0", server.port()).password("s3cret");
    let found = examined(&connected(far).await).await;
    shows(&found, Severity::Warning, &["goes to 0.0.0.0 without TLS", "rediss:"]);
    assert!(!format!("{found:?}").contains("s3cret"), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_link_ends_an_examination_within_its_limit_wherever_it_falls_silent() {
    let server = fine();
    let link = Link::to_redis(server.address()).unwrap();
    let provider = connected(RedisConfig::tcp("127.0.0.1", link.port())).await;
    link.fault(Way::Both, Fault::Blackhole);
    let error = by(LIMIT + SLACK, "an end", provider.examine()).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    link.pass().unwrap();
    assert_eq!(after_a_reset(&provider).await, []);
    // The connection for commands answers, and no other does.
    link.fault_on(Connections::New, Way::Both, Fault::Blackhole);
    let error = by(LIMIT + SLACK, "an end", provider.examine()).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    link.pass().unwrap();
    assert_eq!(examined(&provider).await, []);
}
