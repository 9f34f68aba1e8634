//! What a client leaves behind: withdrawals that an outage kept from the server, and a runtime that stands still
//! with the task that beats.

use std::sync::Arc;
use std::time::Duration;

use crate::common::{by, client, ms};
use lockkit_core::{Clock, LockName, LockProvider, Locks, Request};
use lockkit_redis::{RedisConfig, RedisProvider};
use testbed::{Link, RedisServer};
use tokio::runtime::Builder;

/// Longer than the outage by far: a grant that nothing takes would be seen.
const TTL: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_whose_withdrawal_met_an_outage_is_withdrawn_once_its_client_lives_again() {
    let server = RedisServer::start().unwrap();
    let link = Link::to_redis(server.address()).unwrap();
    let config = RedisConfig::tcp("127.0.0.1", link.port());
    let provider = Arc::new(RedisProvider::connect(config).await.unwrap());
    let others = client(&server).await;
    let held = others.lock("a").ttl(TTL).acquire().await.unwrap();
    let request =
        |name: &str| Request::new(LockName::new(name).unwrap(), TTL, Clock::system()).unwrap();
    let asked = request("a");
    let waiting = tokio::spawn({
        let (provider, asked) = (Arc::clone(&provider), asked.clone());
        async move { provider.acquire(&asked).await }
    });
    let waiters = async |count: usize| {
        while others.lock("a").inspect().await.unwrap().waiters != Some(count) {
            tokio::time::sleep(ms(10)).await;
        }
    };
    by(ms(5_000), "a waiter in the queue", waiters(1)).await;
    link.refuse().unwrap();
    link.reset().unwrap();
    waiting.abort();
    // As a driver that gives up after a while: it is not told again that it is to be withdrawn.
    provider.withdraw(&asked).await.unwrap_err();
    link.accept().unwrap();
    link.pass().unwrap();
    // The client lives again for another name.
    let kept = others.lock("b").ttl(TTL).acquire().await.unwrap();
    let other = tokio::spawn({
        let provider = Arc::clone(&provider);
        let asked = request("b");
        async move { provider.acquire(&asked).await }
    });
    by(ms(5_000), "no waiter in the queue", waiters(0)).await;
    held.release().await.unwrap();
    let next = others.lock("a").ttl(TTL).acquire();
    by(ms(5_000), "the name is free", next).await.unwrap().release().await.unwrap();
    kept.release().await.unwrap();
    by(ms(5_000), "a grant", other).await.unwrap().unwrap().lease.release().await.unwrap();
}

#[test]
fn a_waiter_keeps_its_place_while_the_runtime_stands_still_in_which_its_client_beats() {
    let server = RedisServer::start().unwrap();
    let ours = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let still = Builder::new_current_thread().enable_all().build().unwrap();
    let (locks, others): (Locks, Locks) =
        ours.block_on(async { (client(&server).await, client(&server).await) });
    let short = ours.block_on(others.lock("short").ttl(TTL).acquire()).unwrap();
    // The task that beats begins in a runtime that nothing polls afterwards.
    still.block_on(async {
        let waiting = locks.lock("short").ttl(TTL).acquire();
        assert!(tokio::time::timeout(ms(500), waiting).await.is_err());
    });
    ours.block_on(async {
        let held = others.lock("a").ttl(TTL).acquire().await.unwrap();
        let waiting = tokio::spawn(locks.lock("a").ttl(TTL).acquire());
        // Longer than a client lives without a word.
        tokio::time::sleep(ms(5_000)).await;
        held.release().await.unwrap();
        by(ms(3_000), "a grant", waiting).await.unwrap().unwrap().release().await.unwrap();
        drop(short);
    });
    drop(still);
}
