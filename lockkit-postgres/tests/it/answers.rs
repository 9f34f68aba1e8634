//! What is told to who calls: errors that name the server and the remedy, and never a password.

use std::error::Error as _;
use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use futures_util::FutureExt;
use lockkit_core::{Error, LockProvider, Locks};
use lockkit_postgres::{PostgresConfig, PostgresProvider, Strategy};
use testbed::{Link, PostgresServer, in_time, timing};

use crate::common::{BOTH, SLACK, by, config, join, ms};

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_names_the_server_and_a_message_of_the_server_no_line_of_its_source() {
    let server = PostgresServer::start().unwrap();
    for strategy in BOTH {
        let link = Link::to(server.address()).unwrap();
        let locks = join(&server.url_at(link.address()), strategy).await;
        let lock = locks.lock("named").ttl(ms(3_000));
        lock.acquire().await.unwrap().release().await.unwrap();
        link.refuse().unwrap();
        link.reset().unwrap();
        let address = link.address().to_string();
        let error = lock.try_acquire().await.unwrap_err();
        let later = lock.try_acquire().await.unwrap_err();
        // What the system said is behind it.
        let Error::Unavailable { cause, .. } = &later else { panic!("{strategy:?}: {later}") };
        let refused = cause.source().and_then(|cause| cause.downcast_ref::<io::Error>());
        let refused = refused.unwrap_or_else(|| panic!("{strategy:?}: {later:?}"));
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused, "{strategy:?}");
        let error = format!("{error}\n{later}");
        for line in error.lines() {
            assert!(line.contains(&address), "{strategy:?}: {line}");
        }
        let refused = PostgresProvider::connect(config(&server.url_at(link.address()), strategy));
        let refused = refused.await.unwrap_err().to_string();
        assert!(refused.contains(&address), "{refused}");
        // What the server says.
        for url in [
            format!("postgres://nobody@{}/postgres", server.address()),
            format!("{}_that_does_not_exist", server.url()),
        ] {
            let said = PostgresProvider::connect(config(&url, strategy)).await.unwrap_err();
            assert!(matches!(said, Error::Rejected { .. }), "{said}");
            let said = said.to_string();
            assert!(!said.contains("at line") && said.contains("does not exist"), "{said}");
            assert!(said.contains(&server.address().to_string()), "{said}");
        }
    }
}

#[test]
fn a_url_error_repeats_no_part_of_a_password_and_a_password_is_no_part_of_an_address() {
    // Each with a character that belongs percent-encoded: what follows it would be a path, or an option.
    for password in ["12/secret", "secret/12", "sec?ret", "12?secret=1", "12?se/cret", "sec/ret?x"]
    {
        for host in ["host/db", "host:5433/db?sslmode=disable", "[::1]/db"] {
            let url = format!("postgres://app:{password}@{host}");
            let error = PostgresConfig::from_url(&url).expect_err(&url);
            let told = format!("{error} {error:?}");
            assert!(matches!(error, Error::Invalid { .. }), "{told}");
            assert!(!told.contains("sec") && !told.contains("ret@"), "{told}");
            assert!(told.contains("%2F") || told.contains("%XX"), "{told}");
        }
    }
    let shown =
        format!("{:?}", PostgresConfig::from_url("postgres://app:12%2Fsecret@h/d%40b").unwrap());
    assert!(shown.contains("d@b") && !shown.contains("secret"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_close_is_no_error() {
    let server = PostgresServer::start().unwrap();
    for strategy in BOTH {
        let provider = PostgresProvider::connect(config(&server.url(), strategy)).await.unwrap();
        provider.close().await.unwrap();
        provider.close().await.unwrap();
    }
}

#[test]
fn connecting_outside_a_runtime_is_an_error_and_no_panic() {
    for strategy in BOTH {
        let config = config("postgres://app@127.0.0.1:1/app", strategy);
        let connected = PostgresProvider::connect(config).now_or_never();
        let answer = connected.expect("an answer at once").map(drop);
        assert!(matches!(answer, Err(Error::NoRuntime)), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_of_the_sixth_version_is_a_host() {
    let server = PostgresServer::builder()
        .setting("listen_addresses", "127.0.0.1,::1")
        .hba("host all all ::1/128 trust")
        .start()
        .unwrap();
    let port = server.port();
    for strategy in BOTH {
        for url in [
            format!("postgres://testbed@[::1]:{port}/postgres"),
            format!("postgres:///postgres?user=testbed&host=::1&port={port}"),
            format!("postgres:///postgres?user=testbed&host=[::1]&port={port}"),
        ] {
            let locks =
                Locks::new(PostgresProvider::connect(config(&url, strategy)).await.unwrap());
            locks.lock("six").acquire().await.unwrap().release().await.unwrap();
            locks.close(ms(3_000)).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_server_is_told_after_two_seconds() {
    let server = PostgresServer::start().unwrap();
    server.pause().unwrap();
    for strategy in BOTH {
        let began = timing::start();
        let error = PostgresProvider::connect(config(&server.url(), strategy)).await.unwrap_err();
        in_time!(began, began.elapsed() < ms(2_000) + SLACK, "{:?}", began.elapsed());
        assert!(error.to_string().contains("2s"), "{error}");
        assert!(error.to_string().contains(&server.address().to_string()), "{error}");
    }
    server.resume().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_that_one_side_does_not_speak_is_told_with_the_remedy_for_it() {
    let server = PostgresServer::start().unwrap();
    for strategy in BOTH {
        let url = format!("{}?sslmode=require", server.url());
        let connecting = PostgresProvider::connect(config(&url, strategy));
        let error = by(Duration::from_secs(4), "an answer", connecting).await.unwrap_err();
        let told = error.to_string();
        let remedy = if cfg!(feature = "tls") { "ssl = on" } else { "feature `tls`" };
        assert!(told.contains(remedy) && !told.contains("sslrootcert"), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_speaks_another_protocol_and_a_server_that_wants_tls_are_told_apart() {
    let web = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = web.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in web.incoming() {
            let mut stream = stream.unwrap();
            let read = stream.read(&mut [0; 512]).unwrap_or_default();
            stream
                .write_all(&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..if read == 0 { 0 } else { 28 }])
                .ok();
        }
    });
    let server = PostgresServer::builder().hba("hostnossl all alice 127.0.0.1/32 reject").start();
    let server = server.unwrap();
    server.sql("CREATE ROLE alice LOGIN").unwrap();
    for strategy in BOTH {
        for mode in ["disable", "prefer"] {
            let url = format!("postgres://app@{address}/app?sslmode={mode}");
            let error = PostgresProvider::connect(config(&url, strategy)).await.unwrap_err();
            let told = error.to_string();
            assert!(told.contains("does PostgreSQL answer there"), "{mode}: {told}");
            assert!(told.contains(&address.to_string()), "{told}");
        }
        let url = format!("postgres://alice@{}/postgres", server.address());
        let error = PostgresProvider::connect(config(&url, strategy)).await.unwrap_err();
        assert!(
            matches!(&error, Error::Rejected { remedy, .. } if remedy.contains("sslmode=require")),
            "{error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_all_there_are_is_given() {
    let server = PostgresServer::start().unwrap();
    let locks = join(&server.url(), Strategy::Table).await;
    let held =
        [locks.lock("x/1").acquire().await.unwrap(), locks.lock("x/2").acquire().await.unwrap()];
    for (limit, seen) in [(usize::MAX, 2), (usize::MAX / 2 + 1, 2), (1, 1), (0, 0)] {
        assert_eq!(locks.list("x/", None, limit).await.unwrap().len(), seen, "{limit}");
    }
    drop(held);
}
