//! No process outlives its test, however the test ends; children in another role.

use std::path::PathBuf;
use std::process::exit;
use std::thread::sleep;
use std::time::Instant;

use crate::common::{LONG, SHORT, Tested, ends};
use testbed::children::{self, Child};
use testbed::{Error, RedisServer, timing};

/// Starts a server, tells its process id, then does what the role says.
fn run_as(role: &str) -> Tested {
    let server = RedisServer::start()?;
    let pid = server.pid().ok_or("it runs")?;
    if role.contains("paused") {
        server.pause()?;
    }
    children::say(&pid.to_string());
    children::say(&server.place().directory().display().to_string());
    match role {
        "panics" | "panics with a paused server" => panic!("on purpose"),
        "exits" => exit(3),
        "forgets" => {
            std::mem::forget(server);
            Ok(())
        }
        _ => children::wait_for_the_end(),
    }
}

#[test]
fn no_server_outlives_a_test_process() -> Tested {
    if let Some(role) = children::role() {
        return run_as(&role);
    }
    let roles = [
        "panics",
        "panics with a paused server",
        "exits",
        "forgets",
        "is killed",
        "is killed with a paused server",
    ];
    for role in roles {
        let child = Child::test("processes::no_server_outlives_a_test_process", role)
            .env("RUST_BACKTRACE", "0")
            .start()?;
        let server: u32 = timing::kept(|| child.line(LONG)).parse()?;
        let directory = PathBuf::from(timing::kept(|| child.line(LONG)));
        if role.starts_with("is killed") {
            assert!(is_there(server)?, "{role}: the server runs until then");
            assert!(directory.exists());
            // Only the child: its server is left to its watcher.
            child.kill()?;
        } else {
            child.wait(LONG)?;
        }
        assert!(ends(server)?, "{role}: process {server} is left");
        let began = Instant::now();
        while directory.exists() {
            assert!(began.elapsed() < LONG, "{role}: {} is left", directory.display());
            sleep(SHORT / 30);
        }
        assert!(ends(child.pid())?);
    }
    Ok(())
}

fn is_there(pid: u32) -> std::io::Result<bool> {
    let shown = std::process::Command::new("ps").args(["-p", &pid.to_string()]).output()?;
    Ok(shown.status.success())
}

#[test]
fn an_interrupt_of_the_terminal_leaves_no_server() -> Tested {
    if let Some(role) = children::role() {
        return run_as(&role);
    }
    let child =
        Child::test("processes::an_interrupt_of_the_terminal_leaves_no_server", "waits").start()?;
    let server: u32 = timing::kept(|| child.line(LONG)).parse()?;
    let status = std::process::Command::new("kill")
        .args(["-INT", "--", &format!("-{}", child.pid())])
        .status()?;
    assert!(status.success());
    child.wait(LONG)?;
    assert!(ends(server)?);
    Ok(())
}

#[test]
fn a_child_speaks_stops_and_goes_on() -> Tested {
    if children::role().is_some() {
        println!("this is not for the parent");
        let times: usize = std::env::var("TIMES")?.parse()?;
        for time in 0..times {
            children::say(&format!("line {time}"));
        }
        loop {
            children::say("more");
            sleep(SHORT / 10);
        }
    }
    let child = Child::test("processes::a_child_speaks_stops_and_goes_on", "speaker")
        .env("TIMES", "3")
        .start()?;
    for time in 0..3 {
        assert_eq!(timing::kept(|| child.line(LONG)), format!("line {time}"));
    }
    child.pause()?;
    // What was said before is still there to be read.
    while child.line(SHORT).is_ok() {}
    assert!(matches!(child.line(SHORT), Err(Error::Late { .. })));
    child.resume()?;
    assert_eq!(timing::kept(|| child.line(LONG)), "more");
    child.pause()?;
    child.kill()?;
    assert!(ends(child.pid())?);
    Ok(())
}

#[test]
fn a_dropped_child_ends() -> Tested {
    if children::role().is_some() {
        children::wait_for_the_end();
    }
    let child = Child::test("processes::a_dropped_child_ends", "waiter").start()?;
    let pid = child.pid();
    drop(child);
    assert!(ends(pid)?);
    Ok(())
}
