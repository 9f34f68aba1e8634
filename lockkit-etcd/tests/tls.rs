//! TLS: whom we trust, whom the server trusts, and that a refusal is an error and no panic.
//!
//! Both of rustls's providers, ring and aws-lc-rs, are linked here, so that rustls chooses none.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::PathBuf;

use common::{SLACK, by, ms};
use lockkit_core::Error;
use lockkit_etcd::{EtcdConfig, EtcdProvider, EtcdTls};
use testbed::certificates::Certificates;
use testbed::{ClientCertificate, EtcdServer, contenders};

fn trusting(authority: PathBuf) -> EtcdTls {
    let mut tls = EtcdTls::default();
    tls.authority = Some(fs::read(authority).unwrap());
    tls
}

/// Trusts the authority, and shows our own certificate.
fn showing(certificates: &Certificates) -> EtcdTls {
    let mut tls = trusting(certificates.ca());
    let own = [certificates.client_certificate(), certificates.client_key()];
    let [certificate, private] = own.map(|file| fs::read(file).unwrap());
    tls.client = Some((certificate, private));
    tls
}

fn at(server: &EtcdServer, host: &str, tls: EtcdTls) -> EtcdConfig {
    EtcdConfig::new([(host, server.tls_address().unwrap().port())]).tls(tls)
}

async fn works(config: EtcdConfig) {
    contenders::works(EtcdProvider::connect(config).await.unwrap(), SLACK).await;
}

async fn refused(config: EtcdConfig) -> Error {
    let outcome = by(ms(6_000), "an answer", EtcdProvider::connect(config)).await;
    let error = outcome.map(drop).unwrap_err();
    println!("{error}");
    error
}

async fn mistrusted(config: EtcdConfig) {
    let error = refused(config).await;
    assert!(matches!(error, Error::Rejected { .. }), "{error:?}");
    assert!(error.to_string().to_lowercase().contains("certificate"), "{error}");
}

#[tokio::test]
async fn a_private_authority_is_trusted_and_no_other() {
    // Neither is the process's default: only what we choose can be used.
    let _: [fn() -> rustls::crypto::CryptoProvider; 2] =
        [rustls::crypto::ring::default_provider, rustls::crypto::aws_lc_rs::default_provider];
    let certificates = Certificates::new().unwrap();
    let server = EtcdServer::builder()
        .tls(&certificates, ClientCertificate::NotAsked)
        .user("app", "s3cret", "lockkit/")
        .start()
        .unwrap();
    for host in ["localhost", "127.0.0.1"] {
        let config = at(&server, host, trusting(certificates.ca()));
        works(config.clone().login("app", "s3cret")).await;
        let error = refused(config.login("app", "wrong")).await;
        assert!(matches!(&error, Error::Rejected { remedy, .. } if remedy.contains("password")));
    }
    for tls in [trusting(certificates.other_ca()), EtcdTls::default()] {
        mistrusted(at(&server, "localhost", tls).login("app", "s3cret")).await;
    }
    // The same machine under a name that the certificate does not have.
    mistrusted(at(&server, "0.0.0.0", trusting(certificates.ca())).login("app", "s3cret")).await;
    // A plain client at a port for TLS, and one for TLS at a plain port.
    refused(EtcdConfig::new([("127.0.0.1", server.tls_address().unwrap().port())])).await;
    let plain = EtcdConfig::new([("127.0.0.1", server.port())]);
    refused(plain.tls(trusting(certificates.ca()))).await;
}

#[tokio::test]
async fn a_client_certificate_is_shown_where_the_server_asks_and_is_a_login() {
    let certificates = Certificates::new().unwrap();
    let server = EtcdServer::builder()
        .tls(&certificates, ClientCertificate::Required)
        .user_by_certificate("lockkit/")
        .start()
        .unwrap();
    works(at(&server, "localhost", showing(&certificates))).await;
    mistrusted(at(&server, "localhost", trusting(certificates.ca()))).await;
    // The certificate's user has no rights elsewhere.
    let elsewhere = at(&server, "localhost", showing(&certificates)).prefix("elsewhere");
    let error = refused(elsewhere).await;
    assert!(matches!(&error, Error::Rejected { remedy, .. } if remedy.contains("readwrite")));
}

#[tokio::test]
async fn what_is_no_certificate_is_an_error() {
    let certificates = Certificates::new().unwrap();
    let server =
        EtcdServer::builder().tls(&certificates, ClientCertificate::NotAsked).start().unwrap();
    let mut no_authority = EtcdTls::default();
    no_authority.authority = Some(b"-----BEGIN CERTIFICATE-----\n???".to_vec());
    let mut no_client = trusting(certificates.ca());
    no_client.client = Some((b"none".to_vec(), b"none".to_vec()));
    for tls in [no_authority, no_client] {
        let error = refused(at(&server, "localhost", tls)).await;
        assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
    }
}
