//! What `examine` finds amiss with a server, and that it finds nothing with one that is fine.

use std::time::{Duration, Instant};

use lockkit_core::{Error, Finding, LockProvider, Severity};
use lockkit_postgres::{PostgresConfig, PostgresProvider, Strategy};
use testbed::findings::{amiss, examined, the_one};
use testbed::{Data, Fault, Link, Pgbouncer, Pooling, PostgresServer, Way, in_time, timing};

use crate::common::{BOTH, SLACK, config, ms, until};

/// How long an examination may take, and what it may be late.
const LIMIT: Duration = ms(2_100);

/// As PostgreSQL is without settings.
fn plain() -> PostgresServer {
    PostgresServer::builder().on_disk().setting("autovacuum", "on").start().unwrap()
}

async fn client(config: PostgresConfig) -> PostgresProvider {
    PostgresProvider::connect(config).await.unwrap()
}

fn set(server: &PostgresServer, setting: &str, value: &str) {
    server.sql(&format!("ALTER SYSTEM SET {setting} = {value}")).unwrap();
    server.sql("SELECT pg_reload_conf()").unwrap();
}

/// Examines until this is found: what was set reaches a session of the server a moment later.
async fn until_found(provider: &PostgresProvider, what: &str) -> Vec<Finding> {
    let began = timing::start();
    loop {
        let found = examined(provider).await;
        if found.iter().any(|finding| finding.what.contains(what)) {
            return found;
        }
        in_time!(began, began.elapsed() < ms(5_000), "{what:?}: {found:?}");
        tokio::time::sleep(ms(50)).await;
    }
}

/// Examines until nothing is found: what was set back reaches a session of the server a moment later, too.
async fn until_fine(provider: &PostgresProvider) {
    let began = timing::start();
    loop {
        let found = examined(provider).await;
        if found.is_empty() {
            return;
        }
        in_time!(began, began.elapsed() < ms(5_000), "{found:?}");
        tokio::time::sleep(ms(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_fine_gives_no_finding_also_while_its_locks_are_used() {
    let server = plain();
    for strategy in BOTH {
        let provider = client(config(&server.url(), strategy)).await;
        assert_eq!(examined(&provider).await, [], "{strategy:?}");
        let locks = lockkit_core::Locks::new(provider.clone());
        let guard = locks.lock("held").acquire().await.unwrap();
        let waiter = tokio::spawn(locks.lock("held").acquire());
        tokio::time::sleep(ms(300)).await;
        assert_eq!(locks.examine().await.unwrap(), [], "{strategy:?}");
        guard.release().await.unwrap();
        waiter.await.unwrap().unwrap().release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_lose_what_was_acknowledged_are_found() {
    let server = plain();
    for strategy in BOTH {
        let provider = client(config(&server.url(), strategy)).await;
        for (setting, value, severity) in [
            ("fsync", "off", Severity::Danger),
            ("full_page_writes", "off", Severity::Warning),
            ("synchronous_standby_names", "'nobody'", Severity::Danger),
        ] {
            set(&server, setting, value);
            let found = until_found(&provider, setting).await;
            assert_eq!(the_one(&found, setting).severity, severity);
            assert!(the_one(&found, setting).remedy.contains(setting));
            let normal = if setting == "synchronous_standby_names" { "''" } else { "on" };
            set(&server, setting, normal);
            until_fine(&provider).await;
        }
        set(&server, "autovacuum", "off");
        if strategy == Strategy::Table {
            let found = until_found(&provider, "autovacuum").await;
            assert_eq!(the_one(&found, "autovacuum").severity, Severity::Warning);
        } else {
            // It writes no rows.
            let is_off = || server.sql("SHOW autovacuum").unwrap() == "off";
            until(ms(5_000), "the setting", is_off).await;
            assert_eq!(examined(&provider).await, []);
        }
        set(&server, "autovacuum", "on");
        until_fine(&provider).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_connecting_refuses_is_found_in_the_same_words() {
    let server = plain();
    for strategy in BOTH {
        let provider = client(config(&server.url(), strategy)).await;
        set(&server, "default_transaction_read_only", "on");
        let found = until_found(&provider, "takes no writes").await;
        // All of it only reads: else it would be refused.
        assert_eq!(found.len(), 1, "{found:?}");
        let found = the_one(&found, "takes no writes");
        assert_eq!(found.severity, Severity::Danger);
        let refused = PostgresProvider::connect(config(&server.url(), strategy)).await.unwrap_err();
        let told = refused.to_string();
        assert!(told.contains(&found.what) && told.contains(&found.remedy), "{told}");
        set(&server, "default_transaction_read_only", "off");
        until_fine(&provider).await;

        // A newer layout.
        let layout = |number: u32| {
            let sql = "CREATE OR REPLACE FUNCTION lockkit.lockkit_version() RETURNS int LANGUAGE sql IMMUTABLE AS";
            server.sql(&format!("{sql} 'SELECT {number}'")).unwrap();
        };
        layout(7);
        assert_eq!(the_one(&amiss(&provider).await, "layout").severity, Severity::Danger);
        layout(1);
        // None at all.
        server.sql("ALTER SCHEMA lockkit RENAME TO away").unwrap();
        let found = amiss(&provider).await;
        assert!(the_one(&found, "lacks our tables").remedy.contains("setup_sql"), "{found:?}");
        server.sql("ALTER SCHEMA away RENAME TO lockkit").unwrap();
        assert_eq!(examined(&provider).await, []);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_leads_to_a_standby_is_found_and_the_standby_is_noted_at_its_primary() {
    let primary = plain();
    let link = Link::to(primary.address()).unwrap();
    let mut providers = Vec::new();
    for strategy in BOTH {
        providers.push(client(config(&primary.url_at(link.address()), strategy)).await);
    }
    let standby = PostgresServer::builder().standby_of(primary.address()).start().unwrap();
    for provider in &providers {
        let noted = until_found(provider, "a standby follows").await;
        assert_eq!(the_one(&noted, "a standby follows").severity, Severity::Note);
        assert_eq!(amiss(provider).await, []);
    }
    link.lead_to(standby.address());
    link.reset().unwrap();
    for provider in &providers {
        let found = amiss(provider).await;
        assert_eq!(the_one(&found, "recovery").severity, Severity::Danger);
        assert!(the_one(&found, "recovery").remedy.contains("primary"));
    }
}

/// Each right of the page, by the strategy that needs it.
const RIGHTS: [(Option<Strategy>, &str); 32] = [
    (None, "EXECUTE ON ALL FUNCTIONS IN SCHEMA lockkit"),
    (Some(Strategy::Table), "SELECT ON lockkit.lease"),
    (Some(Strategy::Table), "INSERT ON lockkit.lease"),
    (Some(Strategy::Table), "UPDATE ON lockkit.lease"),
    (Some(Strategy::Table), "SELECT ON lockkit.marker"),
    (Some(Strategy::Table), "INSERT ON lockkit.marker"),
    (Some(Strategy::Table), "UPDATE ON lockkit.marker"),
    (Some(Strategy::Table), "SELECT ON lockkit.waiter"),
    (Some(Strategy::Table), "INSERT ON lockkit.waiter"),
    (Some(Strategy::Table), "DELETE ON lockkit.waiter"),
    (Some(Strategy::Table), "SELECT ON lockkit.client"),
    (Some(Strategy::Table), "INSERT ON lockkit.client"),
    (Some(Strategy::Table), "UPDATE ON lockkit.client"),
    (Some(Strategy::Table), "DELETE ON lockkit.client"),
    (Some(Strategy::Table), "SELECT ON lockkit.member"),
    (Some(Strategy::Table), "INSERT ON lockkit.member"),
    (Some(Strategy::Table), "UPDATE ON lockkit.member"),
    (Some(Strategy::Table), "DELETE ON lockkit.member"),
    (Some(Strategy::Table), "SELECT ON lockkit.barrier"),
    (Some(Strategy::Table), "UPDATE ON lockkit.barrier"),
    (Some(Strategy::Table), "USAGE ON SEQUENCE lockkit.ticket"),
    (Some(Strategy::Advisory), "USAGE ON SEQUENCE lockkit.token"),
    (Some(Strategy::Advisory), "SELECT ON lockkit.epoch"),
    (Some(Strategy::Advisory), "UPDATE ON lockkit.epoch"),
    (Some(Strategy::Advisory), "SELECT ON lockkit.no_crash_since"),
    (Some(Strategy::Advisory), "INSERT ON lockkit.no_crash_since"),
    (None, "SELECT ON lockkit.fence"),
    (None, "INSERT ON lockkit.fence"),
    (None, "UPDATE ON lockkit.fence"),
    (None, "USAGE ON SCHEMA lockkit"),
    // Both at once, the second told with the first.
    (Some(Strategy::Table), "SELECT, UPDATE ON lockkit.lease"),
    (Some(Strategy::Advisory), "SELECT, UPDATE ON lockkit.epoch"),
];

#[tokio::test(flavor = "multi_thread")]
async fn each_right_that_a_role_lacks_is_found_with_the_grant_that_gives_it() {
    let server = plain();
    let setup = config(&server.url(), Strategy::Advisory).setup_sql();
    server.sql(&setup).unwrap();
    let mut grants = String::from(
        "CREATE ROLE \"a role\" LOGIN; REVOKE ALL ON ALL FUNCTIONS IN SCHEMA lockkit FROM PUBLIC; ",
    );
    for (_, right) in RIGHTS {
        grants += &format!("GRANT {right} TO \"a role\"; ");
    }
    server.sql(&grants).unwrap();
    let url = format!("postgres://a%20role@{}/postgres", server.address());
    for strategy in BOTH {
        let provider = client(config(&url, strategy)).await;
        assert_eq!(examined(&provider).await, [], "{strategy:?}");
        for (needed_by, right) in RIGHTS {
            server.sql(&format!("REVOKE {right} FROM \"a role\"")).unwrap();
            let found = examined(&provider).await;
            if needed_by.is_none_or(|needed_by| needed_by == strategy) {
                let [one] = &found[..] else { panic!("{right}: {found:?}") };
                let is_of_the_fence = right.contains("fence");
                let severity = if is_of_the_fence { Severity::Note } else { Severity::Danger };
                assert_eq!(one.severity, severity, "{one}");
                assert!(one.what.contains("the role \"a role\" lacks"), "{one}");
                server.sql(&one.remedy).unwrap();
                assert_eq!(examined(&provider).await, [], "{right}");
            } else {
                assert_eq!(found, [], "{strategy:?} does not need {right}");
            }
            server.sql(&format!("GRANT {right} TO \"a role\"")).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn few_connections_that_are_left_are_found_by_the_limit() {
    let server = PostgresServer::builder()
        .on_disk()
        .setting("autovacuum", "on")
        .setting("max_connections", 30)
        .start()
        .unwrap();
    server.sql("CREATE ROLE app LOGIN; GRANT CREATE ON DATABASE postgres TO app").unwrap();
    let url = format!("postgres://app@{}/postgres", server.address());
    for strategy in BOTH {
        let provider = client(config(&url, strategy)).await;
        assert_eq!(examined(&provider).await, [], "{strategy:?}");
        for (alter, of) in [("ROLE app", "this role"), ("DATABASE postgres", "this database")] {
            for (limit, severity) in [(6, Severity::Warning), (1, Severity::Danger)] {
                server.sql(&format!("ALTER {alter} CONNECTION LIMIT {limit}")).unwrap();
                let found = examined(&provider).await;
                assert_eq!(the_one(&found, of).severity, severity, "{found:?}");
                assert!(
                    the_one(&found, of).remedy.contains(&format!("ALTER {alter}")),
                    "{found:?}"
                );
            }
            server.sql(&format!("ALTER {alter} CONNECTION LIMIT -1")).unwrap();
        }
        // The superuser has three for itself.
        let mut sleepers = Vec::new();
        for _ in 0..20 {
            let sleep = ["-c", "SELECT pg_sleep(60)"];
            let psql =
                server.psql().unwrap().args(sleep).stdout(std::process::Stdio::null()).spawn();
            sleepers.push(psql.unwrap());
        }
        let found = until_found(&provider, "the server").await;
        let found = the_one(&found, "the server");
        assert_eq!(found.severity, Severity::Warning);
        assert!(found.remedy.contains("max_connections"), "{found}");
        for mut sleeper in sleepers {
            sleeper.kill().unwrap();
            sleeper.wait().unwrap();
        }
        let ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
            WHERE query LIKE '%pg_sleep(60)' AND pid <> pg_backend_pid()";
        server.sql(ended).unwrap();
        until_fine(&provider).await;
        provider.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_of_advisory_locks_is_found_before_it_is_full_and_when_it_is() {
    let server = plain();
    let provider = client(config(&server.url(), Strategy::Advisory).budget(8)).await;
    let other = client(config(&server.url(), Strategy::Table).budget(8)).await;
    let locks = lockkit_core::Locks::new(provider.clone());
    let mut held = Vec::new();
    for n in 0..8 {
        let found = amiss(&provider).await;
        assert_eq!(found.is_empty(), n < 6, "{n}: {found:?}");
        assert!(found.iter().all(|finding| finding.severity == Severity::Warning), "{found:?}");
        held.push(locks.lock(format!("n{n}").as_str()).acquire().await.unwrap());
    }
    let full = the_one(&amiss(&provider).await, "the budget is 8");
    assert_eq!(full.severity, Severity::Danger);
    let refused = locks.lock("one more").try_acquire().await.unwrap_err().to_string();
    assert!(refused.contains(&full.what) && refused.contains(&full.remedy), "{refused} {full}");
    assert_eq!(amiss(&other).await, [], "the table has no budget");
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_a_clock_that_went_back_and_a_crash_are_found_by_the_table() {
    let server = plain();
    let pooler = Pgbouncer::start(&server, Pooling::Transaction, &[]).unwrap();
    let pooled = client(config(&pooler.url(), Strategy::Table)).await;
    let [note] = &examined(&pooled).await[..] else { panic!("a pooler is a note") };
    assert!(note.severity == Severity::Note && note.what.contains("pooler"), "{note}");

    let provider = client(config(&server.url(), Strategy::Table)).await;
    let future = "INSERT INTO lockkit.client VALUES \
        (gen_random_uuid(), clock_timestamp() + interval '90 s', 3000, 1, 0)";
    server.sql(future).unwrap();
    let found = amiss(&provider).await;
    assert_eq!(the_one(&found, "clock has gone back").severity, Severity::Warning);
    server.sql("DELETE FROM lockkit.client").unwrap();
    assert_eq!(examined(&provider).await, []);

    let locks = lockkit_core::Locks::new(provider.clone());
    let lock = locks.lock("a").ttl(ms(20_000));
    lock.acquire().await.unwrap().release().await.unwrap();
    server.restart(Data::Kept).unwrap();
    for opens in ["20s", "grants again in 1"] {
        let found = examined(&provider).await;
        let found = the_one(&found, "crashed");
        assert!(found.severity == Severity::Note && found.what.contains(opens), "{found}");
        // The first request after it begins to count the time. The end of the grant may be lost.
        locks.lock("b").try_acquire().await.unwrap_err();
        tokio::time::sleep(ms(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_is_refused_by_now_is_a_finding() {
    let server = plain();
    server.sql("CREATE ROLE app LOGIN SUPERUSER").unwrap();
    let url = format!("postgres://app@{}/postgres", server.address());
    for strategy in BOTH {
        let provider = client(config(&url, strategy)).await;
        server.sql("ALTER ROLE app NOLOGIN").unwrap();
        let ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'";
        server.sql(ended).unwrap();
        tokio::time::sleep(ms(300)).await;
        let found = examined(&provider).await;
        assert_eq!(the_one(&found, "not permitted to log in").severity, Severity::Danger);
        server.sql("ALTER ROLE app LOGIN").unwrap();
        assert_eq!(examined(&provider).await, []);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_examination_over_a_silent_link_ends_within_its_limit() {
    let server = plain();
    for strategy in BOTH {
        let link = Link::to(server.address()).unwrap();
        let url = format!("{}?sslmode=disable", server.url_at(link.address()));
        let provider = client(config(&url, strategy)).await;
        assert_eq!(examined(&provider).await, []);
        link.fault(Way::ToClient, Fault::Blackhole);
        for _ in 0..2 {
            let (timed, began) = (timing::start(), Instant::now());
            let error = provider.examine().await.unwrap_err();
            in_time!(timed, began.elapsed() < LIMIT + SLACK, "{:?}", began.elapsed());
            let Error::Unavailable { .. } = &error else { panic!("{error:?}") };
            let told = error.to_string();
            assert!(told.contains(&link.address().to_string()), "{told}");
        }
        link.pass().unwrap();
        let began = timing::start();
        while let Err(error) = provider.examine().await {
            in_time!(began, began.elapsed() < ms(5_000), "{error}");
            tokio::time::sleep(ms(50)).await;
        }
        // None answers.
        server.stop().unwrap();
        let error = provider.examine().await.unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
        server.restart(Data::Kept).unwrap();
    }
}
