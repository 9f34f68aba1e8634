//! Real servers: starting, pausing, killing, restarting, their settings.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::{LONG, Tested, ends};
use testbed::resp::{Client, Reply};
use testbed::{
    Data, Error, Fault, Link, Place, Program, RedisServer, Server, Way, in_time, timing,
};

/// The text of a name's value; `None` where there is no such name.
fn value(server: &RedisServer, name: &str) -> testbed::Result<Option<String>> {
    Ok(server.cli(&["GET", name])?.text())
}

#[test]
fn a_server_starts_below_the_ephemeral_ports_and_answers() -> Tested {
    let server = RedisServer::start()?;
    assert!(server.version()?.starts_with(|c: char| c.is_ascii_digit()));
    assert!((10_240..32_768).contains(&server.port()));
    assert_eq!(server.cli(&["SET", "a", "1"])?.text().as_deref(), Some("OK"));
    assert_eq!(server.cli(&["INCR", "a"])?.integer(), Some(2));
    assert_eq!(server.cli(&["GET", "none"])?, Reply::Nothing);
    assert_eq!(server.cli(&["MGET", "a", "none"])?.items().len(), 2);
    assert!(matches!(server.cli(&["NONSENSE"])?, Reply::Error(_)));
    assert_eq!(server.info("process_id")?, server.pid().unwrap_or_default().to_string());
    assert!(server.log().contains("Ready to accept connections"));
    assert!(server.socket().exists());
    Ok(())
}

#[test]
fn two_servers_at_once_know_nothing_of_each_other() -> Tested {
    let (one, two) = (RedisServer::start()?, RedisServer::start()?);
    assert_ne!(one.address(), two.address());
    one.cli(&["SET", "a", "1"])?;
    assert_eq!(value(&two, "a")?, None);
    Ok(())
}

#[test]
fn a_paused_server_answers_when_it_is_resumed() -> Tested {
    let server = RedisServer::start()?;
    let mut client = Client::connect(server.address())?;
    server.pause()?;
    server.pause()?;
    let began = Instant::now();
    client.send(&["PING"])?;
    std::thread::scope(|scope| -> Tested {
        let resumed = scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(300));
            server.resume()
        });
        assert_eq!(client.receive()?.text().as_deref(), Some("PONG"));
        assert!(began.elapsed() >= Duration::from_millis(300));
        Ok(resumed.join().map_err(|_| "the thread panicked")??)
    })
}

#[test]
fn a_killed_server_comes_back_at_the_same_address_with_its_data_or_without() -> Tested {
    let server = RedisServer::builder().appendonly().start()?;
    let (address, pid) = (server.address(), server.pid());
    server.cli(&["SET", "a", "1"])?;
    server.kill()?;
    assert_eq!(server.pid(), None);
    assert!(ends(pid.unwrap_or_default())?);
    assert!(matches!(server.cli(&["PING"]), Err(Error::System { .. })));
    assert!(matches!(server.pause(), Err(Error::Stopped { .. })));
    server.restart(Data::Kept)?;
    assert_eq!(server.address(), address);
    assert_ne!(server.pid(), pid);
    assert_eq!(value(&server, "a")?.as_deref(), Some("1"));
    server.restart(Data::Lost)?;
    assert_eq!(value(&server, "a")?, None);
    Ok(())
}

#[test]
fn a_server_without_persistence_keeps_nothing() -> Tested {
    let server = RedisServer::start()?;
    server.cli(&["SET", "a", "1"])?;
    server.restart(Data::Kept)?;
    assert_eq!(value(&server, "a")?, None);
    Ok(())
}

#[test]
fn a_paused_server_can_be_stopped_and_killed() -> Tested {
    let server = RedisServer::start()?;
    server.pause()?;
    server.stop()?;
    assert!(server.log().contains("Redis is now ready to exit"));
    server.restart(Data::Kept)?;
    server.pause()?;
    server.kill()?;
    server.restart(Data::Kept)?;
    assert_eq!(server.cli(&["PING"])?.text().as_deref(), Some("PONG"));
    Ok(())
}

#[test]
fn a_killed_server_does_nothing_more_with_what_it_was_sent() -> Tested {
    let server = RedisServer::builder().appendonly().start()?;
    let mut client = server.client()?;
    server.pause()?;
    client.send(&["SET", "a", "1"])?;
    server.kill()?;
    server.restart(Data::Kept)?;
    assert_eq!(value(&server, "a")?, None);
    Ok(())
}

#[test]
fn a_dropped_server_is_gone_also_when_it_was_paused() -> Tested {
    for is_paused in [false, true] {
        let server = RedisServer::start()?;
        let pid = server.pid().unwrap_or_default();
        let directory = server.place().directory().to_owned();
        if is_paused {
            server.pause()?;
        }
        drop(server);
        assert!(ends(pid)?);
        assert!(!directory.exists());
    }
    Ok(())
}

#[test]
fn users_and_settings_reach_the_server() -> Tested {
    let server = RedisServer::builder()
        .password("secret")
        .user("reader", ">word on ~lock:* +get")
        .line("maxmemory-policy allkeys-lru")
        .start()?;
    let mut client = Client::connect(server.address())?;
    assert!(matches!(client.command(&["PING"])?, Reply::Error(why) if why.contains("NOAUTH")));
    assert_eq!(client.command(&["AUTH", "secret"])?.text().as_deref(), Some("OK"));
    assert_eq!(client.command(&["AUTH", "reader", "word"])?.text().as_deref(), Some("OK"));
    assert_eq!(client.command(&["GET", "lock:a"])?, Reply::Nothing);
    let denied = client.command(&["SET", "lock:a", "1"])?;
    assert!(matches!(denied, Reply::Error(why) if why.contains("NOPERM")));
    let policy = server.cli(&["CONFIG", "GET", "maxmemory-policy"])?;
    assert_eq!(policy.items()[1].text().as_deref(), Some("allkeys-lru"));
    Ok(())
}

#[test]
fn a_replica_follows_its_primary_and_lags_behind_a_link_that_holds() -> Tested {
    let primary = RedisServer::builder().line("repl-diskless-sync-delay 0").start()?;
    let link = Link::to_redis(primary.address())?;
    let replica = RedisServer::builder().replica_of(link.address()).start()?;
    let follows = |name: &str| -> testbed::Result<()> {
        let began = timing::start();
        while value(&replica, name)?.is_none() {
            in_time!(began, began.elapsed() < LONG);
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    };
    primary.cli(&["SET", "a", "1"])?;
    follows("a")?;
    link.fault(Way::ToClient, Fault::Hold);
    primary.cli(&["SET", "b", "1"])?;
    timing::kept(|| link.wait_until(LONG, |counts| counts.to_client.held > 0));
    assert_eq!(value(&replica, "b")?, None);
    link.deliver();
    follows("b")?;
    Ok(())
}

#[test]
fn a_link_counts_commands_answers_and_pushes() -> Tested {
    let server = RedisServer::start()?;
    let link = Link::to_redis(server.address())?;
    let mut client = Client::connect(link.address())?;
    client.command(&["SET", "a", "a value\r\n*1\r\n$4\r\nPING\r\n"])?;
    client.command(&["get", "a"])?;
    client.command(&["GET", "b"])?;
    client.command(&["NONSENSE"])?;
    let mut listener = Client::connect(link.address())?;
    listener.command(&["SUBSCRIBE", "news"])?;
    client.command(&["PUBLISH", "news", "1"])?;
    listener.receive()?;
    let counts = link.counts();
    assert_eq!((counts.accepted, counts.open), (2, 2));
    let requests: Vec<_> = counts.requests.iter().map(|(name, n)| (name.as_str(), *n)).collect();
    let expected = [("GET", 2), ("NONSENSE", 1), ("PUBLISH", 1), ("SET", 1), ("SUBSCRIBE", 1)];
    assert_eq!(requests, expected);
    assert_eq!(link.requests(), 6);
    let answers: Vec<_> = counts.answers.iter().map(|(name, n)| (name.as_str(), *n)).collect();
    assert_eq!(answers, [("error", 1), ("push", 1), ("reply", 5)]);
    let subscriber = &link.connections()[1];
    assert_eq!((subscriber.number, subscriber.counts.requests["SUBSCRIBE"]), (1, 1));
    Ok(())
}

#[test]
fn a_request_is_applied_though_its_reply_is_lost() -> Tested {
    let server = RedisServer::start()?;
    let link = Link::to_redis(server.address())?;
    let mut client = Client::connect(link.address())?;
    client.command(&["PING"])?;
    link.fault(Way::ToClient, Fault::Blackhole);
    client.send(&["SET", "a", "1"])?;
    timing::kept(|| link.wait_until(LONG, |counts| counts.to_client.dropped > 0));
    assert_eq!(value(&server, "a")?.as_deref(), Some("1"));
    Ok(())
}

#[test]
fn a_request_is_applied_long_after_its_client_has_left() -> Tested {
    let server = RedisServer::start()?;
    let link = Link::to_redis(server.address())?;
    let mut client = Client::connect(link.address())?;
    link.fault(Way::ToServer, Fault::Hold);
    client.send(&["SET", "a", "1"])?;
    drop(client);
    timing::kept(|| link.wait_until(LONG, |counts| counts.to_server.held > 0));
    assert_eq!(value(&server, "a")?, None);
    link.deliver();
    timing::kept(|| link.wait_until(LONG, |counts| counts.open == 0));
    assert_eq!(value(&server, "a")?.as_deref(), Some("1"));
    Ok(())
}

#[test]
fn a_link_works_while_a_test_blocks_its_runtime() -> Tested {
    let server = RedisServer::start()?;
    let link = Link::to_redis(server.address())?;
    link.fault(Way::ToServer, Fault::delay(Duration::from_millis(20)));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut client = Client::connect(link.address())?;
        // It blocks the only thread, and the link still delivers.
        client.command(&["PING"])?;
        link.until(|counts| counts.requests.get("PING") == Some(&1)).await;
        Ok(())
    })
}

struct Absent;

impl Program for Absent {
    fn name(&self) -> &'static str {
        "redis-server"
    }

    fn command(&self, _: &Place) -> testbed::Result<Command> {
        Ok(Command::new("redis-server-that-nobody-has"))
    }

    fn is_ready(&self, _: &Place, _: u32) -> Result<(), String> {
        Ok(())
    }
}

#[test]
fn a_missing_program_names_the_command_that_installs_it() {
    let error = Server::start(Absent).expect_err("it is not there");
    let expected = "redis-server-that-nobody-has is not installed: run `cargo xtask setup`";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn a_server_that_ends_at_its_start_shows_its_log() {
    let error = RedisServer::builder().line("nonsense yes").start().expect_err("a wrong line");
    let text = error.to_string();
    assert!(matches!(error, Error::Start { .. }));
    assert!(text.contains("code 1") && text.contains("nonsense"), "{text}");
}
