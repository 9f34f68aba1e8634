//! TLS: whom we trust, whom the servers trust, and that a refusal is an error and no panic.
//!
//! Both of rustls's providers, ring and aws-lc-rs, are linked here, so that rustls chooses none.

use std::fs;
use std::path::Path;

use crate::common::{TICK, by, ms};
use lockkit_core::{Error, Locks};
use lockkit_zk::{Access, Right, ZkConfig, ZkProvider, ZkTls};
use testbed::certificates::Certificates;
use testbed::{ClientCertificate, ZkServer, contenders};

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap()
}

fn start(certificates: &Certificates, clients: ClientCertificate) -> ZkServer {
    ZkServer::builder().tick(TICK).tls(certificates, clients).unwrap().start().unwrap()
}

fn at(server: &ZkServer, host: &str, tls: ZkTls) -> ZkConfig {
    let port = server.tls_address().unwrap().port();
    ZkConfig::new([format!("{host}:{port}")]).tick(TICK).tls(tls)
}

async fn works(config: ZkConfig) {
    contenders::works(ZkProvider::connect(config).await.unwrap(), ms(2_000)).await;
}

async fn refused(config: ZkConfig) -> Error {
    let outcome = by(ms(6_000), "an answer", ZkProvider::connect(config)).await;
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
    let server = start(&certificates, ClientCertificate::NotAsked);
    for host in ["localhost", "127.0.0.1"] {
        works(at(&server, host, ZkTls::new(read(&certificates.ca())))).await;
    }
    let error = refused(at(&server, "localhost", ZkTls::new(read(&certificates.other_ca())))).await;
    assert!(error.to_string().contains("certificate"), "{error}");
    assert!(matches!(error, Error::Rejected { .. }), "{error:?}");
    // A plain client at a port for TLS, and one for TLS at a plain port.
    let port = server.tls_address().unwrap().port();
    refused(crate::common::at(port)).await;
    refused(crate::common::at(server.port()).tls(ZkTls::new(read(&certificates.ca())))).await;
}

#[tokio::test]
async fn a_client_certificate_is_shown_where_the_server_asks_for_one_and_is_a_login() {
    let certificates = Certificates::new().unwrap();
    let server = start(&certificates, ClientCertificate::Required);
    let ours = || {
        let (certificate, key) = (certificates.client_certificate(), certificates.client_key());
        ZkTls::new(read(&certificates.ca())).client(read(&certificate), read(&key))
    };
    works(at(&server, "localhost", ours())).await;
    let config = at(&server, "localhost", ours());
    let provider = ZkProvider::connect(config.clone()).await.unwrap();
    let shown = format!("{:?} {config:?} {config:#?} {provider:?} {provider:#?}", ours());
    let key = read(&certificates.client_key());
    for secret in key.lines().filter(|line| !line.is_empty()) {
        assert!(!shown.contains(secret), "the private key is shown: {shown}");
    }
    let error = refused(at(&server, "localhost", ZkTls::new(read(&certificates.ca())))).await;
    assert!(error.to_string().to_lowercase().contains("certificate"), "{error}");
    // What only the certificate's owner may touch, a client without it may not.
    works(at(&server, "localhost", ours()).base("/private").access(Access::Creator)).await;
    let plain = crate::common::at(server.port()).base("/private");
    let error = match ZkProvider::connect(plain).await {
        Err(error) => error,
        Ok(provider) => Locks::new(provider).lock("a").acquire().await.map(drop).unwrap_err(),
    };
    assert!(matches!(error, Error::Rejected { .. }), "{error:?}");
    // Written by hand.
    let rights = Access::Only(vec![Right::new("ip", "127.0.0.1", "cdrwa")]);
    works(at(&server, "localhost", ours()).base("/ours").access(rights)).await;
}

#[tokio::test]
async fn a_certificate_for_another_host_is_refused() {
    let certificates = Certificates::for_hosts(&["elsewhere.example"]).unwrap();
    let server = start(&certificates, ClientCertificate::NotAsked);
    let error = refused(at(&server, "localhost", ZkTls::new(read(&certificates.ca())))).await;
    assert!(error.to_string().contains("elsewhere.example"), "{error}");
    assert!(matches!(error, Error::Rejected { .. }), "{error:?}");
}

#[tokio::test]
async fn what_is_no_certificate_is_an_error() {
    let certificates = Certificates::new().unwrap();
    let server = start(&certificates, ClientCertificate::NotAsked);
    let no_authority = ZkTls::new("-----BEGIN CERTIFICATE-----\n???");
    let no_client = ZkTls::new(read(&certificates.ca())).client("none", "none");
    for tls in [no_authority, no_client] {
        let error = refused(at(&server, "localhost", tls)).await;
        assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
    }
}
