//! Postgres through the facade: by URL, and the quickstart's story on a real server.

use std::time::Duration;

use lockkit::{Error, Fairness, connect};
use testbed::{PostgresServer, quickstart};

#[tokio::test]
async fn a_url_names_the_login_the_strategy_the_schema_and_the_ttl() {
    let server = PostgresServer::builder()
        .hba("host all billing 127.0.0.1/32 scram-sha-256")
        .start()
        .unwrap();
    server.sql("CREATE ROLE billing LOGIN SUPERUSER PASSWORD 'pa:ss'").unwrap();
    let at = format!("billing:pa%3Ass@{}/postgres?application_name=nightly", server.address());
    let table = format!("postgres://{at}&strategy=table&schema=app_locks&ttl=7s&connections=3");
    let locks = connect(&table).await.unwrap();
    assert_eq!(locks.guarantees().fairness, Fairness::Fifo);
    let guard = locks.lock("nightly").acquire().await.unwrap();
    assert_eq!(guard.ttl(), Some(Duration::from_secs(7)));
    let row = "SELECT token FROM app_locks.lease WHERE name = 'nightly'";
    assert_eq!(server.sql(row).unwrap(), guard.token().to_string());
    guard.release().await.unwrap();

    let advisory = connect(&format!("postgresql://{at}&token_base=1000&budget=1")).await.unwrap();
    let guard = advisory.lock("nightly").acquire().await.unwrap();
    assert!(guard.token().as_u64() > 1_000);
    let named = "SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name = 'nightly'";
    assert_eq!(server.sql(named).unwrap(), "t");
    let refused = advisory.lock("second").acquire().await.unwrap_err();
    assert!(matches!(refused, Error::Rejected { .. }), "{refused}");
}

#[tokio::test]
async fn a_bad_url_or_password_is_refused_and_shown_nowhere() {
    let server = PostgresServer::builder()
        .hba("host all billing 127.0.0.1/32 scram-sha-256")
        .start()
        .unwrap();
    server.sql("CREATE ROLE billing LOGIN PASSWORD 'correct'").unwrap();
    let at = server.address();
    for (url, word) in [
        (format!("postgres://billing:hunter2@{at}/postgres"), "password"),
        (format!("postgres://billing:hunter2@{at}/postgres?strategy=lease"), "advisory or table"),
        (format!("postgres://billing:hunter2@{at}/postgres?sslmod=require"), "sslmod is unknown"),
        (format!("postgres://billing:hunter2@{at}/postgres?connections=two"), "whole number"),
        (format!("postgres://billing:hunter2@{at}/postgres?connections=2"), "at least 3"),
        (format!("postgres://billing:hunter2@{at}/postgres?creates=no"), "true or false"),
        (format!("postgres://billing:hunter2@{at}/#"), "%23"),
    ] {
        let error = connect(&url).await.expect_err("a bad URL");
        let said = format!("{error} {error:?}");
        assert!(said.contains(word) && !said.contains("hunter2"), "{said}");
    }
}

#[test]
fn the_quickstart_tells_the_same_story_on_postgres() {
    let server = PostgresServer::start().unwrap();
    for strategy in ["advisory", "table"] {
        let url = format!("{}?strategy={strategy}", server.url());
        quickstart::tells_its_story(&url);
    }
}
