//! What cannot be served is told in one line with its remedy, by its code, within the limit that the page states.

use std::net::TcpListener;
use std::process::Output;
use std::time::Duration;

use testbed::{EtcdServer, PostgresServer, RedisServer, ZkServer, in_time, timing};

use crate::common::{code, errors, files, lockkit, ms, out, ran};

/// The limit for connecting, and what a busy machine may add.
const LIMIT: Duration = Duration::from_secs(10 + 5);

#[track_caller]
fn tells(run: &Output, expected: i32, word: &str) {
    let said = errors(run);
    assert_eq!(code(run), expected, "{said}");
    assert!(said.contains(word) && said.lines().count() == 1, "{word:?} in one line: {said}");
    assert!(!said.contains("hunter2"), "{said}");
}

#[test]
fn a_word_that_cannot_be_understood_is_told_with_what_to_write() {
    let (_directory, url) = files();
    let long = "x".repeat(600);
    for (words, word) in [
        (&[][..], "--help"),
        (&["run", "a"], "<COMMAND>"),
        (&["run", "--ttl", "10", "a", "--", "true"], "500ms, 10s or 1m30s"),
        (&["run", "--ttl", "1ms", "a", "--", "true"], "from 50ms"),
        (&["run", "--wait", "1s", "--no-wait", "a", "--", "true"], "cannot be used with"),
        (&["inspect", &long], "at most 512 bytes"),
        (&["run", "", "--", "true"], "1 to 512 bytes"),
        (&["revoke", "a", "--token", "0"], "token"),
        (&["--store", "foo:bar", "inspect", "a"], "the schemes are"),
        (&["--store", "redis://127.0.0.1?prefx=a", "doctor"], "prefx"),
    ] {
        tells(&ran(&url, words), 205, word);
    }
}

#[test]
fn a_directory_that_cannot_be_written_is_told_with_what_to_do() {
    for words in [&["run", "a", "--", "true"][..], &["list"]] {
        tells(&ran("file:/proc/locks", words), 204, "/proc/locks");
    }
    let run = ran("file:/proc/locks", &["doctor"]);
    let said = out(&run);
    assert!(
        code(&run) == 2 && said.starts_with("danger: ") && said.contains("/proc/locks"),
        "{said}"
    );
    let run = lockkit("").env("XDG_STATE_HOME", "/proc").args(["list"]).output().unwrap();
    tells(&run, 204, "--store file:/path");
    let run = lockkit("").env_remove("XDG_STATE_HOME").env_remove("HOME").arg("list").output();
    tells(&run.unwrap(), 205, "LOCKKIT_STORE");
}

#[test]
fn a_store_that_is_not_there_or_says_nothing_is_unavailable_within_the_limit() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = silent.local_addr().unwrap().to_string();
    let urls = ["redis://AT", "postgres://AT/db", "zk://AT", "etcd://AT"];
    std::thread::scope(|scope| {
        for at in ["127.0.0.1:1", "no-such-host.invalid:1", &silent] {
            for url in urls.map(|url| url.replace("AT", at)) {
                scope.spawn(move || {
                    let began = timing::start();
                    let run = ran(&url, &["run", "a", "--", "true"]);
                    tells(&run, 203, "check that");
                    in_time!(began, began.elapsed() < LIMIT, "{url}: {:?}", began.elapsed());
                });
            }
        }
    });
}

/// Refused for a password, which is shown nowhere.
#[track_caller]
fn refuses(url: &str) {
    tells(&ran(url, &["run", "a", "--", "true"]), 204, "");
    tells(&ran("memory:", &["--store", url, "inspect", "a"]), 204, "");
}

mod redis {
    use super::*;

    #[test]
    fn a_wrong_password_is_refused() {
        let server = RedisServer::builder().password("correct").start().unwrap();
        refuses(&format!("redis://:hunter2@{}", server.address()));
    }

    #[test]
    fn a_password_of_an_option_is_seen_by_no_other_process_and_not_by_the_command() {
        let server = RedisServer::builder().password("hunter2").start().unwrap();
        let url = format!("redis://:hunter2@{}?prefix=app:", server.address());
        let script = "echo $LOCKKIT_STORE; ps -A -o args=; env";
        let run = ran("memory:", &["--store", &url, "run", "a", "--", "sh", "-c", script]);
        assert_eq!(code(&run), 0, "{}", errors(&run));
        let shown = format!("redis://{}?prefix=app:\n", server.address());
        assert!(out(&run).starts_with(&shown) && !out(&run).contains("hunter2"), "{}", out(&run));
        // One that was in the environment stays there.
        let run = ran(&url, &["run", "a", "--", "sh", "-c", "echo $LOCKKIT_STORE"]);
        assert_eq!(out(&run).trim(), url);
    }
}

mod postgres {
    use super::*;

    #[test]
    fn a_wrong_password_is_refused() {
        let server = PostgresServer::builder().hba("host all app 127.0.0.1/32 scram-sha-256");
        let server = server.start().unwrap();
        server.sql("CREATE ROLE app LOGIN PASSWORD 'correct'").unwrap();
        refuses(&format!("postgres://app:hunter2@{}/postgres", server.address()));
    }
}

mod zk {
    use super::*;

    #[test]
    fn a_right_that_the_login_lacks_is_refused() {
        let server = ZkServer::builder().tick(ms(500)).start().unwrap();
        let url = |password: &str| {
            format!("zk://app:{password}@{}/private?tick=500ms&access=creator", server.address())
        };
        let run = ran(&url("correct"), &["run", "a", "--", "true"]);
        assert_eq!(code(&run), 0, "{}", errors(&run));
        refuses(&url("hunter2"));
    }
}

mod etcd {
    use super::*;

    #[test]
    fn a_wrong_password_is_refused() {
        let server = EtcdServer::builder().user("app", "correct", "lockkit/").start().unwrap();
        refuses(&format!("etcd://app:hunter2@{}", server.address()));
    }
}
