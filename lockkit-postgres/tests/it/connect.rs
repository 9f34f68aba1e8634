//! Connecting: poolers, rights, set-up, certificates and passwords.

use std::time::Duration;

use crate::common::{BOTH, SLACK, advisory, by, config, count, join, ms, until};
use futures_util::future::join_all;
use lockkit_core::{Applied, Error, LockProvider, Locks, WakeUp};
use lockkit_postgres::{PostgresConfig, PostgresProvider, Strategy};
use testbed::children::{self, Child};
use testbed::log::Log;
use testbed::{Pgbouncer, Pooling, PostgresServer, timing};

/// What no error, no Debug and no log may show.
const SECRET: &str = "c0rrect-horse-battery";
const WRONG: &str = "wr0ng-horse-battery";

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
        // Not on the connection either that the pooler keeps for others.
        assert_eq!(advisory(&server), 0, "{pooling:?} {lines:?}");

        let provider = PostgresProvider::connect(config(&pooler.url(), Strategy::Table));
        let provider = provider.await.unwrap();
        let guarantees = provider.guarantees();
        assert!(matches!(guarantees.wake_up, WakeUp::Poll(_)), "{:?}", guarantees.wake_up);
        let locks = Locks::new(provider);
        let guard = locks.lock("pooled").ttl(ms(1_500)).acquire().await.unwrap();
        let other = join(&pooler.url(), Strategy::Table).await;
        let waiter = tokio::spawn(other.lock("pooled").acquire());
        tokio::time::sleep(ms(2_000)).await;
        testbed::held!(guard);
        assert!(!waiter.is_finished(), "granted beside a holder");
        guard.release().await.unwrap();
        let next = by(ms(250) + SLACK, "a poll finds it free", waiter).await.unwrap().unwrap();
        assert!(next.token() > guard_token(&server), "{}", next.token());
        next.release().await.unwrap();
        assert_eq!(advisory(&server), 0, "{pooling:?} {lines:?}");
    }
}

/// The token before the newest.
fn guard_token(server: &PostgresServer) -> lockkit_core::FencingToken {
    let last = count(server, "SELECT token - 1 FROM lockkit.lease WHERE name = 'pooled'");
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
        assert!(error.contains("EXECUTE ON ALL FUNCTIONS IN SCHEMA"), "{error}");
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
    // The table needs nothing elsewhere; the counter of advisory tokens is the database's.
    for (strategy, has_counter) in [(Strategy::Table, "f"), (Strategy::Advisory, "t")] {
        let sql = with(strategy).setup_sql();
        server.sql(&sql).unwrap();
        server.sql(&sql).unwrap();
        let locks = PostgresProvider::connect(with(strategy)).await.unwrap();
        let guard = Locks::new(locks).lock("a").acquire().await.unwrap();
        guard.release().await.unwrap();
        let counter = "SELECT to_regclass('lockkit.token') IS NOT NULL";
        assert_eq!(server.sql(counter).unwrap(), has_counter);
    }
    for bad in ["", "Upper", "1st", "a;b", "a\"b"] {
        let error = refused(config(&server.url(), Strategy::Table).schema(bad)).await;
        assert!(error.contains("schema"), "{error}");
    }
}

#[tokio::test]
async fn a_password_is_needed_and_never_shown() {
    let log = Log::of_this_thread();
    let server =
        PostgresServer::builder().hba("host all alice 127.0.0.1/32 scram-sha-256").start().unwrap();
    server.sql(&format!("CREATE ROLE alice LOGIN SUPERUSER PASSWORD '{SECRET}'")).unwrap();
    let url = |password: &str| format!("postgres://alice:{password}@{}/postgres", server.address());
    for strategy in BOTH {
        let wrong = config(&url(WRONG), strategy);
        let shown = format!("{wrong:?} {wrong:#?}");
        let error = PostgresProvider::connect(wrong).await.unwrap_err();
        assert!(
            matches!(&error, Error::Rejected { remedy, .. } if remedy.contains("password")),
            "{error:?}"
        );
        shows_no_secret(&format!("{shown} {error} {error:?}"));

        let right = config(&url(SECRET), strategy);
        let provider = PostgresProvider::connect(right.clone()).await.unwrap();
        let locks = Locks::new(provider.clone());
        let other = Locks::new(PostgresProvider::connect(right.clone()).await.unwrap());
        let guard = locks.lock("a").ttl(ms(3_000)).acquire().await.unwrap();
        let waiter = tokio::spawn(other.lock("a").ttl(ms(3_000)).acquire());
        // Long enough for the driver to call it a slow statement.
        tokio::time::sleep(ms(1_200)).await;
        guard.renew().await.unwrap();
        shows_no_secret(&format!("{right:?} {provider:?} {provider:#?} {locks:?} {guard:?}"));
        let ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
            WHERE application_name = 'lockkit'";
        server.sql(ended).unwrap();
        tokio::time::sleep(ms(300)).await;
        if let Err(error) = guard.release().await {
            shows_no_secret(&format!("{error} {error:?}"));
        }
        // Its session was ended too: maybe just after it was granted.
        let next = by(ms(4_000), "the next grant", waiter).await.unwrap().unwrap();
        if let Err(error) = next.release().await {
            shows_no_secret(&format!("{error} {error:?}"));
        }
        locks.close(ms(2_000)).await.unwrap();
        other.close(ms(2_000)).await.unwrap();
    }
    for bad in [
        format!("postgres://alice:{SECRET}@localhost:port/db"),
        format!("postgres://alice:{SECRET}@localhost/db?sslmode=maybe"),
        format!("postgres://localhost/db?password={SECRET}&sslmod=require"),
    ] {
        let error = PostgresConfig::from_url(&bad).unwrap_err();
        shows_no_secret(&format!("{error} {error:?}"));
    }
    let logged = log.text();
    assert!(logged.contains("granted") && logged.contains("lockkit.acquire"), "{logged}");
    assert!(!logged.contains("slow statement"), "{logged}");
    shows_no_secret(&logged);
}

#[track_caller]
fn shows_no_secret(text: &str) {
    assert!(!text.contains(SECRET) && !text.contains(WRONG), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_connects_waits_two_seconds_for_a_connection_and_longer_for_what_it_sets_up() {
    const PATIENCE: Duration = ms(10_000);
    const CONNECTION: Duration = ms(2_000);
    const HICCUP: Duration = ms(3_000);
    let (server, silent) = (PostgresServer::start().unwrap(), PostgresServer::start().unwrap());
    let connecting = |server: &PostgresServer| {
        let connect = |strategy| PostgresProvider::connect(config(&server.url(), strategy));
        tokio::spawn(join_all(BOTH.map(connect)))
    };
    silent.pause().unwrap();
    let in_vain = connecting(&silent);

    server.pause().unwrap();
    let connected = connecting(&server);
    tokio::time::sleep(CONNECTION / 2).await;
    server.resume().unwrap();
    for provider in by(PATIENCE, "both connect", connected).await.unwrap() {
        provider.unwrap().close().await.unwrap();
    }

    // Now in the middle of it: a new session asks for the epoch.
    let held = format!("BEGIN; LOCK TABLE lockkit.epoch; SELECT pg_sleep({})", HICCUP.as_secs());
    let mut holding = server.psql().unwrap().args(["-c", &held]).spawn().unwrap();
    let locked = "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock'";
    until(HICCUP, "the table is locked", || count(&server, locked) > 0).await;
    let provider = PostgresProvider::connect(config(&server.url(), Strategy::Advisory));
    let provider = by(PATIENCE, "it connects", provider).await.unwrap();
    assert!(holding.wait().unwrap().success());
    provider.close().await.unwrap();

    for provider in by(SLACK, "an answer", in_vain).await.unwrap() {
        let error = provider.unwrap_err();
        assert!(matches!(error, Error::Unavailable { applied: Applied::No, .. }), "{error:?}");
        assert!(error.to_string().contains("2s"), "{error}");
    }
}

#[test]
fn an_unknown_option_is_named() {
    let error = PostgresConfig::from_url("postgres://localhost/?sslmod=require").unwrap_err();
    assert!(error.to_string().contains("sslmod"), "{error}");
}

#[test]
fn what_a_url_leaves_out_comes_from_the_environment() {
    const TEST: &str = "connect::what_a_url_leaves_out_comes_from_the_environment";
    if let Some(role) = children::role() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            for strategy in BOTH {
                let config = match role.as_str() {
                    "environment" => PostgresConfig::from_environment(),
                    url => PostgresConfig::from_url(url),
                };
                let provider = PostgresProvider::connect(config.unwrap().strategy(strategy)).await;
                let provider = provider.unwrap_or_else(|error| panic!("{error}"));
                let guard = Locks::new(provider).lock("a").acquire().await.unwrap();
                children::say(&guard.token().to_string());
                children::say("held");
                std::thread::sleep(ms(1_000));
            }
        });
        return;
    }
    let server =
        PostgresServer::builder().hba("host all alice 127.0.0.1/32 scram-sha-256").start().unwrap();
    server.sql(&format!("CREATE ROLE alice LOGIN SUPERUSER PASSWORD '{SECRET}'")).unwrap();
    server.sql("CREATE DATABASE nightly").unwrap();
    let port = server.port().to_string();
    // All of it from there; then a URL that names the database, and nothing else.
    for (role, database) in [("environment", "nightly"), ("postgres:///postgres", "postgres")] {
        let child = Child::test(TEST, role)
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", &port)
            .env("PGUSER", "alice")
            .env("PGPASSWORD", SECRET)
            .env("PGDATABASE", "nightly")
            .env("PGAPPNAME", "from-there")
            .env("PGSSLMODE", "disable")
            .start()
            .unwrap();
        for _ in BOTH {
            timing::kept(|| child.line(Duration::from_secs(20)));
            assert_eq!(timing::kept(|| child.line(Duration::from_secs(5))), "held");
            let there = format!(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'from-there' \
                 AND usename = 'alice' AND datname = '{database}'"
            );
            assert!(count(&server, &there) > 0, "{role}");
        }
        assert!(child.wait(Duration::from_secs(20)).unwrap().success());
    }
}
