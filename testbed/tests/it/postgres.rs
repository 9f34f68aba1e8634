//! The testbed's PostgreSQL servers and poolers.

use std::thread;
use std::time::Duration;

use testbed::{Data, Error, Pgbouncer, Pooling, PostgresServer, in_time, timing};

#[test]
fn what_was_acknowledged_outlives_a_kill_and_what_was_not_kept_does_not() {
    let server = PostgresServer::start().unwrap();
    server.sql("CREATE TABLE kept (n int); INSERT INTO kept VALUES (1)").unwrap();
    for n in 2..5 {
        let pid = server.pid();
        server.restart(Data::Kept).unwrap();
        assert_ne!(server.pid(), pid);
        server.sql(&format!("INSERT INTO kept VALUES ({n})")).unwrap();
    }
    assert_eq!(server.sql("SELECT n FROM kept ORDER BY n").unwrap(), "1\n2\n3\n4");
    server.restart(Data::Lost).unwrap();
    let error = server.sql("SELECT n FROM kept").unwrap_err();
    assert!(matches!(&error, Error::Answer(why) if why.contains("does not exist")), "{error}");
}

#[test]
fn a_paused_server_pauses_with_its_backends() {
    let server = PostgresServer::start().unwrap();
    let mut psql = server.psql().unwrap();
    psql.args(["-c", "SELECT pg_sleep(4)"]);
    let mut asking = psql.spawn().unwrap();
    let sleeps = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    let began = timing::start();
    while server.sql(sleeps).unwrap() != "1" {
        in_time!(began, began.elapsed() < Duration::from_secs(10), "it does not ask");
    }
    server.pause().unwrap();
    // Longer than it sleeps.
    thread::sleep(Duration::from_millis(4_300));
    assert!(asking.try_wait().unwrap().is_none());
    server.resume().unwrap();
    assert!(asking.wait().unwrap().success());
    // A paused one can be killed, and starts again.
    server.pause().unwrap();
    server.kill().unwrap();
    server.restart(Data::Kept).unwrap();
    assert_eq!(server.sql("SELECT 1").unwrap(), "1");
}

#[test]
fn a_server_that_is_shut_down_recovers_from_nothing_and_one_that_is_stopped_does() {
    let server = PostgresServer::start().unwrap();
    let recovered = || server.log().matches("automatic recovery in progress").count();
    server.shut_down().unwrap();
    server.restart(Data::Kept).unwrap();
    assert_eq!(recovered(), 0);
    server.stop().unwrap();
    server.restart(Data::Kept).unwrap();
    assert_eq!(recovered(), 1);
}

#[test]
fn a_standby_follows_and_can_be_promoted() {
    let primary = PostgresServer::start().unwrap();
    primary.sql("CREATE TABLE followed (n int)").unwrap();
    let standby = PostgresServer::builder().standby_of(primary.address()).start().unwrap();
    primary.sql("INSERT INTO followed VALUES (7)").unwrap();
    let began = timing::start();
    while standby.sql("SELECT n FROM followed").unwrap() != "7" {
        in_time!(began, began.elapsed() < Duration::from_secs(10), "the standby does not follow");
    }
    assert!(standby.sql("INSERT INTO followed VALUES (8)").is_err());
    standby.sql("SELECT pg_promote()").unwrap();
    standby.sql("INSERT INTO followed VALUES (8)").unwrap();
    assert_eq!(primary.sql("SELECT count(*) FROM followed").unwrap(), "1");
}

#[test]
fn settings_and_a_pooler_are_as_asked_for() {
    let server = PostgresServer::builder().setting("max_connections", 12).start().unwrap();
    assert_eq!(server.sql("SHOW max_connections").unwrap(), "12");
    for pooling in [Pooling::Transaction, Pooling::Session] {
        let pooler = Pgbouncer::start(&server, pooling, &[]).unwrap();
        let mut psql = server.psql().unwrap();
        let (host, port) = (pooler.address().ip().to_string(), pooler.port().to_string());
        psql.args(["-h", &host, "-p", &port, "-c", "SELECT 5"]);
        assert_eq!(String::from_utf8_lossy(&psql.output().unwrap().stdout).trim(), "5");
    }
}
