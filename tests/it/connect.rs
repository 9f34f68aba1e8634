//! What `connect` takes and what it refuses, each refusal with its remedy.

use std::time::Duration;

use lockkit::{Error, Locks, LossReason, connect, connect_with};

async fn refusal(url: &str) -> String {
    match connect(url).await {
        Err(error @ Error::Invalid { .. }) => error.to_string(),
        other => panic!("{url} is not refused as invalid: {other:?}"),
    }
}

async fn ttl_of(locks: &Locks) -> Option<Duration> {
    locks.lock("a").acquire().await.expect("the name is free").ttl()
}

#[tokio::test]
async fn every_bad_url_is_refused_with_its_remedy() {
    for (url, words) in [
        ("", ["without a scheme", "memory:, file:/path"]),
        ("locks", ["without a scheme", "memory:, file:/path"]),
        (":memory", ["without a scheme", "memory:, file:/path"]),
        ("/tmp/locks", ["without a scheme", "memory:, file:/path"]),
        ("1file:/tmp/locks", ["without a scheme", "memory:, file:/path"]),
        ("consul://localhost", ["consul:", "memory:, file:"]),
        ("memory://", ["a slash", "memory:NAME"]),
        ("memory:/shared", ["a slash", "memory:NAME"]),
        ("memory:a#b", ["a #", "%23"]),
        ("memory:100%", ["percent-encoded", "%25"]),
        ("memory:%2", ["percent-encoded", "%25"]),
        ("memory:%+1", ["percent-encoded", "%25"]),
        ("memory:%ff", ["percent-encoded", "%25"]),
        ("memory:?tll=1s", ["tll is unknown", "ttl, token_base"]),
        ("memory:?TTL=1s", ["TTL is unknown", "ttl, token_base"]),
        ("memory:?ttl=1s&ttl=1s", ["ttl is given twice", "once"]),
        ("memory:?ttl", ["ttl=", "50ms to 24h"]),
        ("memory:?ttl=15", ["ttl=15", "50ms to 24h"]),
        ("memory:?ttl=-15s", ["ttl=-15s", "50ms to 24h"]),
        ("memory:?ttl=0s", ["ttl=0s", "50ms to 24h"]),
        ("memory:?ttl=49ms", ["ttl=49ms", "50ms to 24h"]),
        ("memory:?ttl=24h1ms", ["ttl=24h1ms", "50ms to 24h"]),
        ("memory:?ttl=99999999999999999999h", ["ttl=9", "50ms to 24h"]),
        ("memory:?token_base=", ["token_base=", "whole number"]),
        ("memory:?token_base=-1", ["token_base=-1", "whole number"]),
        ("memory:?token_base=1.5", ["token_base=1.5", "whole number"]),
        ("memory:?token_base=9223372036854775807", ["token_base=9", "9223372036854775807"]),
    ] {
        let text = refusal(url).await;
        assert!(words.iter().all(|word| text.contains(word)), "{url}: {text}");
    }
}

#[tokio::test]
async fn no_refusal_repeats_a_password() {
    for url in [
        "redis://user:hunter2@127.0.0.1:99999/",
        "zk://user:hunter2@127.0.0.1:99999/",
        "zk://user:hunter2@127.0.0.1/a//b",
        "zk://user:hunter2@127.0.0.1/?layout=none",
        "redis://user:hunter2@host/#",
        "postgres://user:hunter2@127.0.0.1/locks?strategy=none",
        "file://user:hunter2@127.0.0.1/locks",
        "memory://user:hunter2@127.0.0.1/#",
        "http://user:hunter2@127.0.0.1/%",
        "//user:hunter2@127.0.0.1/",
    ] {
        let text = refusal(url).await;
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[tokio::test]
async fn a_ttl_is_read_in_every_way_that_the_docs_name() {
    for (text, millis) in [
        ("50ms", 50),
        ("500ms", 500),
        ("15s", 15_000),
        ("2m", 120_000),
        ("1m30s", 90_000),
        ("1m+30s", 90_000),
        ("1h", 3_600_000),
        ("24h", 86_400_000),
    ] {
        let locks = connect(&format!("memory:?ttl={text}")).await.expect(text);
        assert_eq!(ttl_of(&locks).await, Some(Duration::from_millis(millis)), "{text}");
    }
}

#[tokio::test]
async fn the_deployments_ttl_wins_over_the_programs() {
    let program = || Locks::builder().ttl(Duration::from_secs(30));
    for (url, seconds) in [("memory:", 30), ("memory:?ttl=60s", 60)] {
        let locks = connect_with(url, program()).await.expect(url);
        assert_eq!(ttl_of(&locks).await, Some(Duration::from_secs(seconds)), "{url}");
    }
}

#[tokio::test]
async fn memory_is_private_without_a_name_and_shared_with_one() {
    for (first, second, meet) in [
        ("memory:", "memory:", false),
        ("memory:a", "memory:b", false),
        ("memory:a", "memory:a", true),
        ("MEMORY:a/b%3F?ttl=60s", "memory:a%2fb%3f", true),
    ] {
        let one = connect(first).await.expect(first);
        let other = connect(second).await.expect(second);
        let _held = one.lock("a").acquire().await.expect("the name is free");
        let answer = other.lock("a").try_acquire().await.expect("memory answers");
        assert_eq!(answer.is_none(), meet, "{first} and {second}");
    }
}

#[test]
fn locks_by_a_url_allocate_no_more_than_those_of_the_provider_itself() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("one");
    let cycle = async |locks: &Locks| {
        let guard = locks.lock("a").acquire().await.expect("the name is free");
        guard.release().await.expect("it is held");
    };
    let allocations = |locks: &Locks| {
        runtime.block_on(cycle(locks));
        let cycles = async {
            for _ in 0..100 {
                cycle(locks).await;
            }
        };
        allocation_counter::measure(|| runtime.block_on(cycles)).count_total
    };
    let direct = allocations(&Locks::memory());
    let by_url = allocations(&runtime.block_on(connect("memory:")).expect("it is valid"));
    assert_eq!(by_url / 100, direct / 100, "{by_url} and {direct} in 100 cycles");
    // The request, its call, the provider's own call, the lease, its guard, and the call that releases.
    assert!(direct / 100 <= 6, "{direct} allocations in 100 cycles");
}

#[test]
fn ten_thousand_leases_take_less_than_four_kibibytes_each() {
    const LEASES: usize = 10_000;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("one");
    let locks = Locks::memory();
    let mut guards = Vec::with_capacity(LEASES);
    let taken = allocation_counter::measure(|| {
        runtime.block_on(async {
            for n in 0..LEASES {
                let lock = locks.lock(format!("a/name/of/usual/length/{n}"));
                guards.push(lock.acquire().await.expect("the name is free"));
            }
            // Each lease gets a task of its own after a moment, which a stall of the machine can make longer.
            let metrics = tokio::runtime::Handle::current().metrics();
            let all_have_tasks = async {
                while metrics.num_alive_tasks() < LEASES {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(20), all_have_tasks)
                .await
                .expect("each lease has its task");
        });
    });
    let each = taken.bytes_current / i64::try_from(LEASES).expect("few");
    assert!(each <= 4 * 1024, "{each} bytes for each lease");
}

#[tokio::test]
async fn a_program_can_add_a_scheme_and_replace_one() {
    let of_seven = |mut url: lockkit_core::kit::Url| async move {
        let is_based = url.take("based").is_some();
        url.finish(&["based"])?;
        Ok(lockkit::Memory::with_token_base(if is_based { 7_000 } else { 0 }))
    };
    let schemes = lockkit::Schemes::new().with("Own+Store", of_seven).with("redis", of_seven);
    for url in
        ["own+store://a/b?based=1&ttl=60s", "OWN+STORE:?ttl=60s&based=", "redis:?based=1&ttl=60s"]
    {
        let locks = schemes.connect(url).await.expect(url);
        let guard = locks.lock("a").acquire().await.expect("the name is free");
        assert!(guard.token().as_u64() > 7_000, "{url}");
        assert_eq!(guard.ttl(), Some(Duration::from_secs(60)), "{url}");
    }
    for (url, words) in [
        ("own+store:?based=1&prefix=x", ["prefix is unknown", "ttl, token_base, based"]),
        ("consul://a", ["no store has the scheme consul:", "etcds:, own+store:"]),
    ] {
        let text = schemes.connect(url).await.map(drop).expect_err(url).to_string();
        assert!(words.iter().all(|word| text.contains(word)), "{url}: {text}");
    }
    assert!(schemes.connect("memory:").await.is_ok(), "lockkit's own schemes stay");
}

#[tokio::test]
async fn a_token_base_moves_the_tokens_up() {
    let locks = connect("memory:?token_base=1000").await.expect("a good URL");
    let guard = locks.lock("a").acquire().await.expect("the name is free");
    assert!(guard.token().as_u64() > 1000);
}

#[tokio::test]
async fn a_shared_store_has_one_token_base() {
    let _first = connect("memory:based?token_base=7").await.expect("a good URL");
    let text = refusal("memory:based?token_base=8").await;
    assert!(text.contains("opened with 7"), "{text}");
}

#[tokio::test]
async fn closed_locks_leave_a_shared_store_to_the_others() {
    let first = connect("memory:closing").await.expect("a good URL");
    let second = connect("memory:closing").await.expect("a good URL");
    let guard = first.lock("a").acquire().await.expect("the name is free");
    first.close(Duration::from_secs(5)).await.expect("memory answers");
    assert_eq!(guard.lost().await, LossReason::Closed);
    let _guard = second.lock("a").acquire().await.expect("the name was released");
}

#[cfg(feature = "file")]
mod file {
    use super::*;

    #[tokio::test]
    async fn a_directory_is_named_in_every_way_that_the_docs_name() {
        let made = tempfile::tempdir().expect("a temporary directory");
        let path = made.path().to_str().expect("a path in UTF-8");
        let encoded = path.replace('/', "%2F");
        let one = connect(&format!("file:{path}/some%20locks")).await.expect("a good URL");
        assert_eq!(one.guarantees().expiry, lockkit::Expiry::HolderDeath);
        let _held = one.lock("a").acquire().await.expect("the name is free");
        for url in [
            format!("file://{path}/some%20locks"),
            format!("file:{path}/some locks?ttl=1s"),
            format!("FILE:{encoded}/some%20locks/"),
        ] {
            let other = connect(&url).await.expect(&url);
            let answer = other.lock("a").try_acquire().await.expect("the file store answers");
            assert!(answer.is_none(), "{url}");
        }
    }

    #[tokio::test]
    async fn a_relative_path_starts_at_the_working_directory() {
        let here = std::env::current_dir().expect("a working directory");
        let made = tempfile::tempdir_in(&here).expect("a temporary directory");
        let name = made.path().file_name().and_then(|name| name.to_str()).expect("a name");
        let relative = connect(&format!("file:{name}/locks")).await.expect("a good URL");
        let _held = relative.lock("a").acquire().await.expect("the name is free");
        let absolute = format!("file:{}/locks", made.path().display());
        let absolute = connect(&absolute).await.expect("a good URL");
        let answer = absolute.lock("a").try_acquire().await.expect("the file store answers");
        assert!(answer.is_none());
    }

    #[tokio::test]
    async fn a_bad_file_url_is_refused_with_its_remedy() {
        for (url, words) in [
            ("file:", ["no directory", "file:/path"]),
            ("file:?ttl=1s", ["no directory", "file:/path"]),
            ("file:/tmp/%00", ["no directory", "file:/path"]),
            ("file://server/locks", ["a host", "file:///path"]),
            ("file://", ["a host", "file:///path"]),
            ("file:/tmp/locks?wait=1s", ["wait is unknown", "ttl, token_base"]),
            ("file:/tmp/locks?ttl=1ms", ["ttl=1ms", "50ms to 24h"]),
        ] {
            let text = refusal(url).await;
            assert!(words.iter().all(|word| text.contains(word)), "{url}: {text}");
        }
    }
}

#[cfg(feature = "redis")]
#[tokio::test]
async fn a_bad_redis_url_is_refused_with_its_remedy() {
    for (url, words) in [
        ("redis:", ["no host", "redis://"]),
        ("redis://", ["no host", "redis://"]),
        ("redis:///0", ["no host", "redis://"]),
        ("redis://host:port/", ["port", "redis://"]),
        ("redis://host:99999/", ["port", "redis://"]),
        ("redis://:%ff@host/", ["percent-encoded", "redis://"]),
        ("redis://one,two/", ["several hosts", "one server"]),
        ("redis://host/zero", ["\"zero\"", "its number"]),
        ("redis://host/-1", ["\"-1\"", "its number"]),
        ("redis://host/#", ["a #", "%23"]),
        ("redis://host/?ttl=1ms", ["ttl=1ms", "50ms to 24h"]),
        ("redis://host/?tll=1s", ["tll is unknown", "ttl, token_base, prefix"]),
        ("redis://host/?ca=/ca.pem", ["ca is unknown", "ttl, token_base, prefix"]),
        ("redis://host/?prefix=%7Ba%7D", ["braces", "hash tag"]),
        #[cfg(feature = "tls")]
        ("rediss://host/?ca=/missing.pem", ["/missing.pem", "PEM"]),
        ("rediss://host/?cert=/missing.pem", ["only one", "both, or neither"]),
        ("redis+unix:", ["path of a socket", "redis+unix:///"]),
        ("redis+unix:redis.sock", ["path of a socket", "redis+unix:///"]),
        ("redis+unix:///redis.sock?database=x", ["\"x\"", "its number"]),
    ] {
        let text = refusal(url).await;
        assert!(words.iter().all(|word| text.contains(word)), "{url}: {text}");
    }
}

#[cfg(all(feature = "redis", not(feature = "tls")))]
#[tokio::test]
async fn redis_over_tls_names_its_feature() {
    let text = refusal("rediss://localhost/").await;
    assert!(text.contains("the feature \"tls\""), "{text}");
}

#[cfg(not(feature = "redis"))]
#[tokio::test]
async fn redis_that_is_not_built_in_names_its_feature() {
    for scheme in ["redis", "rediss", "redis+unix"] {
        let text = refusal(&format!("{scheme}://user:hunter2@localhost/")).await;
        assert!(text.contains("the feature \"redis\""), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[cfg(feature = "etcd")]
#[tokio::test]
async fn a_bad_etcd_url_is_refused_with_its_remedy() {
    for (url, words) in [
        ("etcd:", ["no host", "etcd://"]),
        ("etcd:host", ["no host", "etcd://"]),
        ("etcd://", ["no host", "etcd://"]),
        ("etcd://host,", ["no host", "etcd://"]),
        ("etcd://host:port/", ["a port", "etcd://"]),
        ("etcd://host,other:99999/", ["a port", "etcd://"]),
        ("etcd://somebody:%ff@host/", ["percent-encoded", "etcd://"]),
        ("etcd://ho%20st/", ["host", "without scheme"]),
        ("etcd://host/%ff", ["percent-encoded", "etcd://"]),
        ("etcd://host/#", ["a #", "%23"]),
        ("etcd://host/?ttl=1ms", ["ttl=1ms", "50ms to 24h"]),
        ("etcd://host/?tll=1s", ["tll is unknown", "ttl, token_base"]),
        ("etcd://host/?ca=/ca.pem", ["ca is unknown", "ttl, token_base"]),
        #[cfg(feature = "tls")]
        ("etcds://host/?ca=/missing.pem", ["/missing.pem", "PEM"]),
        ("etcds://host/?cert=/missing.pem", ["only one", "both, or neither"]),
    ] {
        let text = refusal(url).await;
        assert!(words.iter().all(|word| text.contains(word)), "{url}: {text}");
        assert!(!text.contains("somebody"), "{url}: {text}");
    }
}

#[cfg(all(feature = "etcd", not(feature = "tls")))]
#[tokio::test]
async fn etcd_over_tls_names_its_feature() {
    let text = refusal("etcds://localhost/").await;
    assert!(text.contains("the feature \"tls\""), "{text}");
}

#[cfg(not(feature = "etcd"))]
#[tokio::test]
async fn etcd_that_is_not_built_in_names_its_feature() {
    let text = refusal("etcd://user:hunter2@localhost/").await;
    assert!(text.contains("the feature \"etcd\""), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
}

#[cfg(not(feature = "file"))]
#[tokio::test]
async fn a_store_that_is_not_built_in_names_its_feature() {
    let text = refusal("file:/tmp/locks").await;
    assert!(text.contains("the feature \"file\""), "{text}");
}

#[cfg(feature = "zk")]
#[tokio::test]
async fn a_bad_zk_url_is_refused_with_its_remedy() {
    for (url, words) in [
        ("zk:", ["no host", "zk://"]),
        ("zk:host", ["no host", "zk://"]),
        ("zk://", ["no host", "host[:port]"]),
        ("zk://a,,b/", ["no host", "host[:port]"]),
        ("zk://a:b/", ["a port", "host[:port]"]),
        ("zk://a:0/", ["a:0", "host:port"]),
        ("zk://:%ff@a/", ["percent-encoded", "zk://"]),
        ("zk://a/b#", ["a #", "%23"]),
        ("zk://a/b/", ["/b/", "/locks"]),
        ("zk://a/zookeeper", ["/zookeeper", "/locks"]),
        ("zookeeper://a/?layout=zk", ["layout=zk", "curator, kazoo or both"]),
        ("zk://a/?access=all", ["access=all", "open or creator"]),
        ("zk://a/?access=creator", ["without a login", "open access"]),
        ("zk://a/?tick=2", ["tick=2", "500ms"]),
        ("zk://a/?tick=0s", ["0ns", "tickTime"]),
        ("zk://a/?cert=x", ["only one", "both, or neither"]),
        #[cfg(feature = "tls")]
        ("zk://a/?ca=/nowhere", ["/nowhere", "PEM file"]),
        #[cfg(feature = "tls")]
        ("zk://a/?cert=x&key=x", ["without an authority", "give ca"]),
        ("zk://a/?prefix=x", ["prefix is unknown", "layout"]),
    ] {
        let text = refusal(url).await;
        assert!(words.iter().all(|word| text.contains(word)), "{url}: {text}");
    }
}

#[cfg(not(feature = "zk"))]
#[tokio::test]
async fn zk_needs_its_feature() {
    for url in ["zk://127.0.0.1:2181", "zookeeper://127.0.0.1:2181"] {
        let text = refusal(url).await;
        assert!(text.contains("without") && text.contains("\"zk\""), "{url}: {text}");
    }
}
