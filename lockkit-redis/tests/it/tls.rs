//! What is Redis's own over TLS; `testbed/tests/it/stores` has what every store does alike.
//!
//! Both of rustls's providers, ring and aws-lc-rs, are linked here, so that rustls chooses none.

use crate::common::{by, ms};
use lockkit_core::Locks;
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
