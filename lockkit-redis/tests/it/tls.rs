//! TLS: whom we trust, whom the server trusts, and that a refusal is an error and no panic.
//!
//! Both of rustls's providers, ring and aws-lc-rs, are linked here, so that rustls chooses none.

use std::fs;
use std::path::Path;

use crate::common::{by, ms};
use lockkit_core::{Error, Locks};
use lockkit_redis::{RedisConfig, RedisProvider, RedisTls};
use testbed::certificates::Certificates;
use testbed::{ClientCertificate, Fault, Link, RedisServer, Way, contenders};

fn read(file: &Path) -> Vec<u8> {
    fs::read(file).unwrap()
}

fn trusting(authority: &Path) -> RedisTls {
    let mut tls = RedisTls::default();
    tls.authority = Some(read(authority));
    tls
}

fn at(server: &RedisServer, host: &str, tls: RedisTls) -> RedisConfig {
    RedisConfig::tcp(host, server.tls_address().unwrap().port()).tls(tls)
}

/// Every kind of call, over both connections; the waiter is granted by the push, before any
/// heartbeat.
async fn works(config: RedisConfig) {
    contenders::works(RedisProvider::connect(config).await.unwrap(), ms(900)).await;
}

async fn refused(config: RedisConfig) -> Error {
    let outcome = by(ms(5_000), "an answer", RedisProvider::connect(config)).await;
    let error = outcome.map(drop).unwrap_err();
    println!("{error}");
    error
}

#[tokio::test]
async fn a_private_authority_is_trusted_and_no_other() {
    // Neither is the process's default: only what we choose can be used.
    let _: [fn() -> rustls::crypto::CryptoProvider; 2] =
        [rustls::crypto::ring::default_provider, rustls::crypto::aws_lc_rs::default_provider];
    let certificates = Certificates::new().unwrap();
    let server =
        RedisServer::builder().tls(&certificates, ClientCertificate::NotAsked).start().unwrap();
    for host in ["localhost", "127.0.0.1"] {
        works(at(&server, host, trusting(&certificates.ca()))).await;
    }
    for tls in [trusting(&certificates.other_ca()), RedisTls::default()] {
        let error = refused(at(&server, "localhost", tls)).await;
        assert!(error.to_string().contains("certificate"), "{error}");
        assert!(matches!(error, Error::Rejected { .. }), "{error:?}");
    }
    // A plain client at a port for TLS, and one for TLS at a plain port.
    let port = server.tls_address().unwrap().port();
    refused(RedisConfig::tcp("127.0.0.1", port)).await;
    let plain = RedisConfig::tcp("127.0.0.1", server.port());
    refused(plain.tls(trusting(&certificates.ca()))).await;
}

#[tokio::test]
async fn a_client_certificate_is_shown_where_the_server_asks_for_one() {
    let certificates = Certificates::new().unwrap();
    let server =
        RedisServer::builder().tls(&certificates, ClientCertificate::Required).start().unwrap();
    let mut tls = trusting(&certificates.ca());
    tls.client = Some((read(&certificates.client_certificate()), read(&certificates.client_key())));
    works(at(&server, "localhost", tls)).await;
    let error = refused(at(&server, "localhost", trusting(&certificates.ca()))).await;
    assert!(error.to_string().to_lowercase().contains("certificate"), "{error}");
}

#[tokio::test]
async fn a_certificate_for_another_host_is_refused() {
    let certificates = Certificates::for_hosts(&["elsewhere.example"]).unwrap();
    let server =
        RedisServer::builder().tls(&certificates, ClientCertificate::NotAsked).start().unwrap();
    let error = refused(at(&server, "localhost", trusting(&certificates.ca()))).await;
    assert!(error.to_string().contains("elsewhere.example"), "{error}");
}

#[tokio::test]
async fn what_is_no_certificate_is_an_error() {
    let certificates = Certificates::new().unwrap();
    let server =
        RedisServer::builder().tls(&certificates, ClientCertificate::NotAsked).start().unwrap();
    let mut no_authority = RedisTls::default();
    no_authority.authority = Some(b"-----BEGIN CERTIFICATE-----\n???".to_vec());
    let mut no_client = trusting(&certificates.ca());
    no_client.client = Some((b"none".to_vec(), b"none".to_vec()));
    for tls in [no_authority, no_client] {
        let error = refused(at(&server, "localhost", tls)).await;
        assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_reset_is_overcome_where_a_handshake_takes_longer_than_a_call_may() {
    let certificates = Certificates::new().unwrap();
    let server =
        RedisServer::builder().tls(&certificates, ClientCertificate::NotAsked).start().unwrap();
    let link = Link::to(server.tls_address().unwrap()).unwrap();
    let config = RedisConfig::tcp("localhost", link.port()).tls(trusting(&certificates.ca()));
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
