//! What is held on the link and delivered after the next grant: it frees nothing, and extends nothing.

use std::time::Duration;

use crate::common::{SLACK, by, client, join, link_to, ms};
use etcd_client::Client;
use lockkit_core::{Guard, Locks};
use lockkit_etcd::EtcdGrant;
use testbed::{Connections, EtcdServer, Fault, Way};

/// The least that etcd grants.
const TTL: Duration = ms(2_000);
/// No keep-alive of its own comes in between.
const LONG_TTL: Duration = ms(90_000);

/// How long the lease of `guard` lives on in the store, in seconds; -1 where it is gone.
async fn left(server: &EtcdServer, guard: &Guard) -> i64 {
    let url = format!("http://{}", server.address());
    let driver = Client::connect([url], None).await.unwrap();
    let lease = guard.native::<EtcdGrant>().unwrap().lease;
    driver.lease_client().time_to_live(lease, None).await.unwrap().ttl()
}

/// Checks that `guard` holds as before, for as long as a third one tries.
async fn holds_on(guard: &Guard, third: &Locks) {
    let name = guard.name().as_str();
    let within = third.lock(name).ttl(TTL).acquire_within(ms(1_000)).await;
    assert!(within.is_err(), "granted beside a holder");
    testbed::held!(guard, "{guard:?}");
    let seen = third.lock(name).inspect().await.unwrap();
    assert_eq!(seen.holders[0].token, Some(guard.token()));
}

#[tokio::test(flavor = "multi_thread")]
async fn keep_alives_and_a_release_of_an_ended_lease_neither_free_nor_extend_the_next_grant() {
    let server = EtcdServer::start().unwrap();
    let (third, other) = (client(&server).await, client(&server).await);
    let link = link_to(server.address());
    let locks = join(&[link.port()]).await;
    let guard = locks.lock("a").ttl(TTL).acquire().await.unwrap();
    link.fault(Way::ToServer, Fault::Hold);
    let before = link.counts().to_server.held;
    // It asks for keep-alives in vain, and for a release once they have been asked for.
    by(TTL, "a keep-alive on the link", link.until(|now| now.to_server.held > before)).await;
    let kept = link.counts().to_server.held;
    guard.renew().await.unwrap_err();
    let lease = guard.native::<EtcdGrant>().unwrap().clone();
    drop(guard.release().await);
    assert!(link.counts().to_server.held > kept, "no release is held");
    let next =
        by(TTL * 3, "the next grant", other.lock("a").ttl(LONG_TTL).acquire()).await.unwrap();
    assert_ne!(next.native::<EtcdGrant>().unwrap().lease, lease.lease);
    tokio::time::sleep(ms(2_000)).await;
    let before = left(&server, &next).await;
    assert!(before > 0 && before < 89, "the next holder's lease: {before} s");
    link.deliver();
    holds_on(&next, &third).await;
    assert!(left(&server, &next).await <= before, "the next holder's lease was extended");
    next.release().await.unwrap();
    by(SLACK, "a free name", third.lock("a").acquire()).await.unwrap().release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_comes_late_spares_the_next_grant_on_the_same_lease() {
    let server = EtcdServer::start().unwrap();
    let third = client(&server).await;
    let link = link_to(server.address());
    let locks = join(&[link.port()]).await;
    let lock = locks.lock("a").ttl(LONG_TTL);
    let guard = lock.acquire().await.unwrap();
    let lease = guard.native::<EtcdGrant>().unwrap().lease;
    // Held on the connection that there is; the next sending takes another one.
    link.fault_on(Connections::Existing, Way::ToServer, Fault::Hold);
    drop(guard.release().await);
    let next = by(ms(6_000), "the next grant", lock.acquire()).await.unwrap();
    assert_eq!(next.native::<EtcdGrant>().unwrap().lease, lease);
    assert!(link.counts().to_server.held > 0, "no release is held");
    let before = left(&server, &next).await;
    link.deliver();
    holds_on(&next, &third).await;
    assert!(left(&server, &next).await <= before, "the next holder's lease was extended");
    next.release().await.unwrap();
    by(SLACK, "a free name", third.lock("a").acquire()).await.unwrap().release().await.unwrap();
}
