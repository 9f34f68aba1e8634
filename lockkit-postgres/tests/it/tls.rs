//! TLS: whom we trust, whom the server trusts, and that a refusal is an error and no panic.
//!
//! Both of rustls's providers, ring and aws-lc-rs, are linked here, so that rustls chooses none.

use crate::common::{BOTH, by, config, ms};
use lockkit_core::{Error, Locks};
use lockkit_postgres::{PostgresConfig, PostgresProvider};
use testbed::PostgresServer;
use testbed::certificates::Certificates;

async fn works(config: PostgresConfig) {
    let locks = Locks::new(PostgresProvider::connect(config).await.unwrap());
    let lock = locks.lock("a");
    let guard = lock.acquire().await.unwrap();
    let next = tokio::spawn(lock.acquire());
    guard.release().await.unwrap();
    by(ms(900), "the next grant", next).await.unwrap().unwrap().release().await.unwrap();
    locks.close(ms(2_000)).await.unwrap();
}

async fn refused(config: PostgresConfig) -> String {
    let outcome = by(ms(5_000), "an answer", PostgresProvider::connect(config)).await;
    let error = outcome.map(drop).unwrap_err();
    println!("{error}");
    assert!(matches!(error, Error::Rejected { .. }), "{error}");
    error.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_authority_a_certificate_and_a_password_are_accepted_and_wrong_ones_refused() {
    let _: [fn() -> rustls::crypto::CryptoProvider; 2] =
        [rustls::crypto::ring::default_provider, rustls::crypto::aws_lc_rs::default_provider];
    let certificates = Certificates::new().unwrap();
    let server = PostgresServer::builder()
        .tls(&certificates)
        .hba("hostssl all client 127.0.0.1/32 cert")
        .hba("hostssl all alice 127.0.0.1/32 scram-sha-256")
        .hba("hostnossl all alice 127.0.0.1/32 reject")
        // Its certificate does not name the second one.
        .setting("listen_addresses", "127.0.0.1,127.0.0.2")
        .start()
        .unwrap();
    server.sql("CREATE ROLE client LOGIN SUPERUSER").unwrap();
    server.sql("CREATE ROLE alice LOGIN SUPERUSER PASSWORD 'hunter2'").unwrap();
    let (ca, other_ca) = (certificates.ca(), certificates.other_ca());
    let (certificate, key) = (certificates.client_certificate(), certificates.client_key());
    let url = |user: &str, host: &str, mode: &str, ca: &std::path::Path| {
        let port = server.port();
        format!(
            "postgres://{user}@{host}:{port}/postgres?sslmode={mode}&sslrootcert={}",
            ca.display()
        )
    };
    for strategy in BOTH {
        for host in ["localhost", "127.0.0.1"] {
            works(config(&url("alice:hunter2", host, "verify-full", &ca), strategy)).await;
        }
        let with_certificate = format!(
            "{}&sslcert={}&sslkey={}",
            url("client", "localhost", "verify-full", &ca),
            certificate.display(),
            key.display()
        );
        works(config(&with_certificate, strategy)).await;
        works(config(&url("alice:hunter2", "localhost", "require", &ca), strategy)).await;

        let error =
            refused(config(&url("alice:hunter2", "localhost", "verify-ca", &other_ca), strategy));
        assert!(error.await.contains("sslrootcert"));
        let elsewhere = |mode| config(&url("alice:hunter2", "127.0.0.2", mode, &ca), strategy);
        works(elsewhere("verify-ca")).await;
        let error = refused(elsewhere("verify-full")).await;
        assert!(error.contains("not valid for name") && error.contains("the host"), "{error}");
        let error =
            refused(config(&url("alice:hunter3", "localhost", "verify-full", &ca), strategy)).await;
        assert!(error.contains("password") && !error.contains("hunter"), "{error}");
        refused(config(&url("client", "localhost", "verify-full", &ca), strategy)).await;
        refused(config(&url("alice:hunter2", "localhost", "disable", &ca), strategy)).await;
    }
}
