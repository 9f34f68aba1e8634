//! What is Redis's own over TLS; `testbed/tests/it/stores` has what every store does alike.
//!
//! Both of rustls's providers, ring and aws-lc-rs, are linked here, so that rustls chooses none.

use std::fs;
use std::time::Duration;

use crate::common::{SLACK, by, ms, waiter};
use lockkit_core::{Error, Locks};
use lockkit_redis::{RedisConfig, RedisProvider, RedisTls};
use testbed::certificates::Certificates;
use testbed::{ClientCertificate, Fault, Link, RedisServer, Way};

#[tokio::test]
async fn a_reset_is_overcome_where_a_handshake_takes_longer_than_a_call_may() {
    // Neither is the process's default: only what we choose can be used.
    let _: [fn() -> rustls::crypto::CryptoProvider; 2] =
        [rustls::crypto::ring::default_provider, rustls::crypto::aws_lc_rs::default_provider];
    let certificates = Certificates::new().unwrap();
    let server =
        RedisServer::builder().tls(&certificates, ClientCertificate::NotAsked).start().unwrap();
    let link = Link::to(server.tls_address().unwrap()).unwrap();
    let config = RedisConfig::tcp("localhost", link.port()).tls(RedisTls::file(certificates.ca()));
    let locks = Locks::new(RedisProvider::connect(config).await.unwrap());
    // A round trip of 0.1 s: a call of this ttl has 0.15 s, the two of a handshake take 0.2 s.
    let lock = locks.lock("a").ttl(ms(500));
    link.fault(Way::ToClient, Fault::delay(ms(100)));
    for _ in 0..3 {
        link.reset().unwrap();
        link.fault(Way::ToClient, Fault::delay(ms(100)));
        let grant = by(ms(10_000), "a grant over a new connection", lock.acquire()).await;
        grant.unwrap().release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_certificate_of_ours_is_an_outage_until_it_is_replaced_on_the_disk() {
    const TTL: Duration = ms(6_000);
    let certificates = Certificates::new().unwrap();
    let server =
        RedisServer::builder().tls(&certificates, ClientCertificate::Required).start().unwrap();
    let link = Link::to(server.tls_address().unwrap()).unwrap();
    let good = [certificates.client_certificate(), certificates.client_key()];
    let [certificate, key] = &good;
    let tls = RedisTls::file(certificates.ca()).client_files(certificate, key);
    let config = RedisConfig::tcp("localhost", link.port()).tls(tls);
    let locks = Locks::new(RedisProvider::connect(config.clone()).await.unwrap());
    let peer = crate::common::client(&server).await;
    let theirs = peer.lock("b").ttl(ms(60_000)).acquire().await.unwrap();
    let ours = locks.lock("a").ttl(TTL).acquire().await.unwrap();
    let next = waiter(&locks.lock("b").ttl(ms(60_000)), 0).await;
    let kept = good.each_ref().map(|file| fs::read(file).unwrap());
    let expired = [certificates.expired_client_certificate(), certificates.expired_client_key()];
    for (file, expired) in good.iter().zip(expired) {
        fs::copy(expired, file).unwrap();
    }
    link.reset().unwrap();
    for _ in 0..20 {
        let tried = locks.lock("c").ttl(TTL).try_acquire().await.map(drop).unwrap_err();
        assert!(matches!(tried, Error::Unavailable { .. }), "{tried}");
        tokio::time::sleep(ms(100)).await;
    }
    assert!(!next.is_finished(), "the wait ended");
    // A client that connects now is told which certificate it is.
    let error = RedisProvider::connect(config).await.map(drop).unwrap_err();
    assert!(matches!(error, Error::Rejected { .. }), "{error}");
    assert!(error.to_string().contains("Expired"), "{error}");
    for (file, text) in good.iter().zip(kept) {
        fs::write(file, text).unwrap();
    }
    let renewed = async {
        while ours.renew().await.is_err() {
            tokio::time::sleep(ms(50)).await;
        }
    };
    by(TTL / 2 + SLACK, "a renewal", renewed).await;
    testbed::held!(ours);
    theirs.release().await.unwrap();
    by(ms(3_000), "the waiter's grant", next).await.unwrap().release().await.unwrap();
    ours.release().await.unwrap();
}
