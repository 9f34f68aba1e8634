//! What is etcd's own over TLS; `testbed/tests/it/stores` has what every store does alike.
//!
//! Both of rustls's providers, ring and aws-lc-rs, are linked here, so that rustls chooses none.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::common::{SLACK, by, ms, waiter};
use lockkit_core::{Error, Locks};
use lockkit_etcd::{EtcdConfig, EtcdProvider, EtcdTls};
use testbed::certificates::Certificates;
use testbed::{ClientCertificate, EtcdServer, Link, Port, contenders};

fn trusting(authority: PathBuf) -> EtcdTls {
    EtcdTls::file(authority)
}

/// Trusts the authority, and shows our own certificate.
fn showing(certificates: &Certificates) -> EtcdTls {
    trusting(certificates.ca())
        .client_files(certificates.client_certificate(), certificates.client_key())
}

/// A server that asks for a certificate, and has a user with the rights of lockkit's keys for ours.
fn knowing_us_by(certificates: &Certificates) -> EtcdServer {
    EtcdServer::builder()
        .tls(certificates, ClientCertificate::Required)
        .user_by_certificate("lockkit/")
        .start()
        .unwrap()
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
async fn a_login_goes_over_tls_and_only_to_a_member_with_a_good_certificate() {
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
}

#[tokio::test]
async fn a_client_certificate_is_a_login_with_the_rights_of_its_user() {
    let certificates = Certificates::new().unwrap();
    let server = knowing_us_by(&certificates);
    works(at(&server, "localhost", showing(&certificates))).await;
    // The certificate's user has no rights elsewhere.
    let elsewhere = at(&server, "localhost", showing(&certificates)).prefix("elsewhere");
    let error = refused(elsewhere).await;
    assert!(matches!(&error, Error::Rejected { remedy, .. } if remedy.contains("readwrite")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_certificate_of_ours_is_an_outage_until_it_is_replaced_on_the_disk() {
    const TTL: Duration = ms(6_000);
    let certificates = Certificates::new().unwrap();
    let server = knowing_us_by(&certificates);
    let link = Link::to(server.tls_address().unwrap()).unwrap();
    let config = EtcdConfig::new([("localhost", link.port())]).tls(showing(&certificates));
    let locks = Locks::new(EtcdProvider::connect(config.clone()).await.unwrap());
    let direct = EtcdProvider::connect(at(&server, "localhost", showing(&certificates))).await;
    let peer = Locks::new(direct.unwrap());
    let theirs = peer.lock("b").ttl(ms(60_000)).acquire().await.unwrap();
    let ours = locks.lock("a").ttl(TTL).acquire().await.unwrap();
    let next = waiter(&locks.lock("b").ttl(ms(60_000)), 0).await;
    let good = [certificates.client_certificate(), certificates.client_key()];
    let kept = good.clone().map(|file| fs::read(file).unwrap());
    let expired = [certificates.expired_client_certificate(), certificates.expired_client_key()];
    for (file, expired) in good.iter().zip(expired) {
        fs::copy(expired, file).unwrap();
    }
    // What the driver holds is still good: only a new client reads the files.
    link.refuse().unwrap();
    link.reset().unwrap();
    locks.lock("c").ttl(TTL).try_acquire().await.map(drop).unwrap_err();
    link.pass().unwrap();
    let end = ms(3_000);
    let tried = tokio::time::timeout(end, async {
        loop {
            let tried = locks.lock("c").ttl(TTL).try_acquire().await.map(drop).unwrap_err();
            assert!(matches!(tried, Error::Unavailable { .. }), "{tried}");
            tokio::time::sleep(ms(50)).await;
        }
    });
    assert!(tried.await.is_err());
    assert!(!next.is_finished(), "the wait ended");
    // A client that connects now is told which certificate it is.
    mistrusted(config).await;
    for (file, text) in good.iter().zip(kept) {
        fs::write(file, text).unwrap();
    }
    by(TTL / 2 + SLACK, "a renewal", async {
        while ours.renew().await.is_err() {
            tokio::time::sleep(ms(50)).await;
        }
    })
    .await;
    testbed::held!(ours);
    theirs.release().await.unwrap();
    by(ms(2_000) + SLACK, "the waiter's grant", next).await.unwrap().release().await.unwrap();
    ours.release().await.unwrap();
}

#[tokio::test]
async fn a_member_with_a_bad_certificate_is_passed_over_and_only_all_of_them_are_a_refusal() {
    let certificates = Certificates::new().unwrap();
    let server =
        EtcdServer::builder().tls(&certificates, ClientCertificate::NotAsked).start().unwrap();
    let (port, gone) = (server.tls_address().unwrap().port(), Port::free().unwrap());
    // The same machine under a name that its certificate does not have.
    let (bad, good, gone) = (("0.0.0.0", port), ("localhost", port), ("localhost", gone.number()));
    let members =
        |members: &[_]| EtcdConfig::new(members.to_vec()).tls(trusting(certificates.ca()));
    works(members(&[bad, good])).await;
    works(members(&[bad, bad, good])).await;
    mistrusted(members(&[bad, bad])).await;
    // One that is not there may serve later.
    for hosts in [[bad, gone], [gone, bad]] {
        let error = refused(members(&hosts)).await;
        assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn the_private_part_of_our_certificate_is_shown_nowhere() {
    let certificates = Certificates::new().unwrap();
    let server = knowing_us_by(&certificates);
    let [ours, key] = [certificates.client_certificate(), certificates.client_key()];
    let [ours, private] = [ours, key].map(|file| fs::read(file).unwrap());
    let text = String::from_utf8(private.clone()).unwrap();
    // Behind the first line, which says what it is: as text, and as a list of bytes.
    let (head, secret) = text.trim_end().split_once('\n').unwrap();
    let (secret, from) = (&secret[..32], head.len() + 1);
    let bytes = format!("{:?}", &private[from..from + 32]);
    // Given as texts; of files only the paths are known.
    let tls = trusting(certificates.ca()).client(ours, private);
    let config = at(&server, "localhost", tls.clone());
    let provider = EtcdProvider::connect(config.clone()).await.unwrap();
    let wrong = refused(config.clone().prefix("elsewhere")).await;
    let shown = format!("{tls:?} {config:?} {config:#?} {provider:?} {wrong} {wrong:?}");
    assert!(shown.contains("client: Some("), "{shown}");
    assert!(!shown.contains(secret) && !shown.contains(bytes.trim_matches(['[', ']'])), "{shown}");
}

#[tokio::test]
async fn a_side_that_does_not_speak_tls_or_that_does_is_hinted_at() {
    let certificates = Certificates::new().unwrap();
    let server =
        EtcdServer::builder().tls(&certificates, ClientCertificate::NotAsked).start().unwrap();
    let tls = EtcdConfig::new([("localhost", server.port())]).tls(trusting(certificates.ca()));
    let error = refused(tls).await.to_string();
    assert!(error.contains("etcd://"), "{error}");
    let plain = EtcdConfig::new([("localhost", server.tls_address().unwrap().port())]);
    let error = refused(plain).await.to_string();
    assert!(error.contains("etcds://"), "{error}");
    let nowhere = EtcdConfig::new([("no-such-host.invalid", 2379)]);
    let error = refused(nowhere).await;
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains("no-such-host.invalid"), "{error}");
}
