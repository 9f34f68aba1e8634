//! What is ZooKeeper's own over TLS; `testbed/tests/it/stores` has what every store does alike.
//!
//! Both of rustls's providers, ring and aws-lc-rs, are linked here, so that rustls chooses none.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use crate::common::{TICK, by, ms};
use lockkit_core::{Error, Locks};
use lockkit_zk::{Access, Right, ZkConfig, ZkProvider, ZkTls};
use testbed::certificates::Certificates;
use testbed::{ClientCertificate, Data, ZkServer, contenders};

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap()
}

fn start(certificates: &Certificates, clients: ClientCertificate) -> ZkServer {
    ZkServer::builder().tick(TICK).tls(certificates, clients).start().unwrap()
}

fn at(server: &ZkServer, host: &str, tls: ZkTls) -> ZkConfig {
    let port = server.tls_address().unwrap().port();
    ZkConfig::new([format!("{host}:{port}")]).tick(TICK).tls(tls)
}

async fn works(config: ZkConfig) {
    contenders::works(ZkProvider::connect(config).await.unwrap(), ms(2_000)).await;
}

#[tokio::test]
async fn a_client_certificate_is_a_login() {
    // Neither is the process's default: only what we choose can be used.
    let _: [fn() -> rustls::crypto::CryptoProvider; 2] =
        [rustls::crypto::ring::default_provider, rustls::crypto::aws_lc_rs::default_provider];
    let certificates = Certificates::new().unwrap();
    let server = start(&certificates, ClientCertificate::Required);
    let ours = || {
        let (certificate, key) = (certificates.client_certificate(), certificates.client_key());
        ZkTls::new(read(&certificates.ca())).client(read(&certificate), read(&key))
    };
    let config = at(&server, "localhost", ours());
    let provider = ZkProvider::connect(config.clone()).await.unwrap();
    let shown = format!("{:?} {config:?} {config:#?} {provider:?} {provider:#?}", ours());
    let key = read(&certificates.client_key());
    for secret in key.lines().filter(|line| !line.is_empty()) {
        assert!(!shown.contains(secret), "the private key is shown: {shown}");
    }
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
async fn a_session_is_reopened_with_the_certificates_that_are_on_the_disk_by_then() {
    let certificates = Certificates::new().unwrap();
    let server = Arc::new(start(&certificates, ClientCertificate::Required));
    let tls = ZkTls::file(certificates.ca())
        .client_files(certificates.client_certificate(), certificates.client_key());
    let locks = Locks::new(ZkProvider::connect(at(&server, "localhost", tls)).await.unwrap());
    // Long enough for a server that starts slowly.
    let guard = locks.lock("a").ttl(ms(18_000)).acquire().await.unwrap();
    server.kill().unwrap();
    // The driver tries again meanwhile, with the first ones.
    tokio::time::sleep(TICK).await;
    certificates.write(&Certificates::HERE).unwrap();
    let restarted = Arc::clone(&server);
    let restart = move || restarted.restart(Data::Kept).unwrap();
    tokio::task::spawn_blocking(restart).await.unwrap();
    // Its node can be removed on its own session alone, while that lives.
    by(ms(10_000), "a release on the session", guard.release()).await.unwrap();
}
