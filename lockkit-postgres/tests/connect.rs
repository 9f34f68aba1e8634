//! Connecting: poolers, rights, set-up, certificates and passwords.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::{BOTH, SLACK, by, config, join, ms};
use futures_util::future::join_all;
use lockkit_core::{Error, WakeUp};
use lockkit_postgres::{PostgresConfig, PostgresProvider, Strategy};
use testbed::{Pgbouncer, Pooling, PostgresServer};

async fn refused(config: PostgresConfig) -> String {
    let error = PostgresProvider::connect(config).await.unwrap_err();
    assert!(matches!(error, Error::Rejected { .. } | Error::Invalid { .. }), "{error}");
    error.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_is_refused_by_the_one_strategy_and_carries_the_other() {
    let server = PostgresServer::start().unwrap();
    let swallows = "ignore_startup_parameters = extra_float_digits,options";
    for (pooling, lines) in [
        (Pooling::Transaction, &[][..]),
        (Pooling::Session, &[]),
        // One that hides what it does to our settings.
        (Pooling::Transaction, &[swallows]),
        (Pooling::Session, &[swallows]),
    ] {
        let pooler = Pgbouncer::start(&server, pooling, lines).unwrap();
        let error = refused(config(&pooler.url(), Strategy::Advisory)).await;
        assert!(error.contains("strategy \"table\""), "{pooling:?} {lines:?}: {error}");

        let provider = PostgresProvider::connect(config(&pooler.url(), Strategy::Table));
        let provider = provider.await.unwrap();
        let guarantees = lockkit_core::LockProvider::guarantees(&provider);
        assert!(matches!(guarantees.wake_up, WakeUp::Poll(_)), "{:?}", guarantees.wake_up);
        let locks = lockkit_core::Locks::new(provider);
        let guard = locks.lock("pooled").ttl(ms(1_500)).acquire().await.unwrap();
        let other = join(&pooler.url(), Strategy::Table).await;
        let waiter = tokio::spawn(other.lock("pooled").acquire());
        tokio::time::sleep(ms(2_000)).await;
        assert!(guard.is_held() && !waiter.is_finished());
        guard.release().await.unwrap();
        let next = by(ms(250) + SLACK, "a poll finds it free", waiter).await.unwrap().unwrap();
        assert!(next.token() > guard_token(&server), "{}", next.token());
        next.release().await.unwrap();
    }
}

/// The token before the newest.
fn guard_token(server: &PostgresServer) -> lockkit_core::FencingToken {
    let last = common::count(server, "SELECT token - 1 FROM lockkit.lease WHERE name = 'pooled'");
    lockkit_core::FencingToken::new(last as u64).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn several_set_up_at_once_and_a_role_without_rights_is_told_what_to_grant() {
    let server = PostgresServer::start().unwrap();
    let all = (0..16).map(|n| join_all([join(server.url().leak(), BOTH[n % 2])]));
    join_all(all).await;
    server.sql("CREATE ROLE plain LOGIN").unwrap();
    server.sql("CREATE DATABASE bare").unwrap();
    for strategy in BOTH {
        // In a database without our objects, it may not make them.
        let url = format!("postgres://plain@{}/bare", server.address());
        let error = refused(config(&url, strategy)).await;
        assert!(error.contains("setup_sql") && error.contains("GRANT"), "{error}");
        let error = refused(config(&url, strategy).creates(false)).await;
        assert!(error.contains("setup_sql"), "{error}");
        // In one that has them, it may not use them.
        let url = format!("postgres://plain@{}/postgres", server.address());
        let error = refused(config(&url, strategy)).await;
        assert!(error.contains("GRANT USAGE ON SCHEMA"), "{error}");
    }
    server
        .sql(
            "GRANT USAGE ON SCHEMA lockkit TO plain; GRANT ALL ON ALL TABLES IN SCHEMA lockkit TO \
             plain; GRANT ALL ON ALL SEQUENCES IN SCHEMA lockkit TO plain",
        )
        .unwrap();
    for strategy in BOTH {
        let url = format!("postgres://plain@{}/postgres", server.address());
        let locks = join(&url, strategy).await;
        locks.lock("a").acquire().await.unwrap().release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_printed_sql_sets_up_a_schema_of_any_name() {
    let server = PostgresServer::start().unwrap();
    let with = |strategy| config(&server.url(), strategy).schema("locks_2").creates(false);
    let sql = with(Strategy::Table).setup_sql();
    server.sql(&sql).unwrap();
    server.sql(&sql).unwrap();
    for strategy in BOTH {
        let locks = PostgresProvider::connect(with(strategy)).await.unwrap();
        let guard = lockkit_core::Locks::new(locks).lock("a").acquire().await.unwrap();
        guard.release().await.unwrap();
    }
    assert_eq!(server.sql("SELECT to_regnamespace('lockkit') IS NULL").unwrap(), "t");
    for bad in ["", "Upper", "1st", "a;b", "a\"b"] {
        let error = refused(config(&server.url(), Strategy::Table).schema(bad)).await;
        assert!(error.contains("schema"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_needed_and_never_shown() {
    let server =
        PostgresServer::builder().hba("host all alice 127.0.0.1/32 scram-sha-256").start().unwrap();
    server.sql("CREATE ROLE alice LOGIN SUPERUSER PASSWORD 'hunter2'").unwrap();
    for strategy in BOTH {
        let url =
            |password: &str| format!("postgres://alice:{password}@{}/postgres", server.address());
        let right = config(&url("hunter2"), strategy);
        assert!(!format!("{right:?}").contains("hunter2"));
        let provider = PostgresProvider::connect(right).await.unwrap();
        let locks = lockkit_core::Locks::new(provider.clone());
        let guard = locks.lock("a").ttl(Duration::from_secs(5)).acquire().await.unwrap();
        let shown = format!("{provider:?} {locks:?} {guard:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
        let wrong = refused(config(&url("hunter3"), strategy)).await;
        assert!(wrong.contains("password") && !wrong.contains("hunter"), "{wrong}");
    }
    let error = PostgresConfig::from_url("postgres://alice:hunter2@localhost:port/db").unwrap_err();
    assert!(!error.to_string().contains("hunter2"), "{error}");
    let error = PostgresConfig::from_url("postgres://localhost/?sslmod=require").unwrap_err();
    assert!(error.to_string().contains("sslmod"), "{error}");
}
