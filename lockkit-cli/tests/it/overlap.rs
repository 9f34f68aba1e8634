//! Whatever happens to a run, the next one's command begins only after the last write of its own and of its children.

use std::time::Duration;

use rustix::process::{Signal, kill_process};
use testbed::{Fault, Link, Way};

use crate::common::{Log, Running, lockkit, ms, until};

/// Short, so that what waits for it is soon over, and long enough for a machine that stands still for a moment.
const TTL: &str = "3s";

fn run(store: &str, log: &Log, who: char, is_stubborn: bool) -> Running {
    let mut command = lockkit(store);
    command.args(["run", "--ttl", TTL, "--kill-after", "500ms", "nightly"]);
    Running::start(log.writes(&mut command, who, is_stubborn))
}

/// Something happens to a run whose command writes, while another one waits.
fn next_begins_after(
    first: &str,
    second: &str,
    is_stubborn: bool,
    happens: impl FnOnce(&Running, &Log),
) {
    let log = Log::new();
    let mut one = run(first, &log, 'a', is_stubborn);
    log.shows('a');
    let other = run(second, &log, 'b', false);
    happens(&one, &log);
    log.shows('b');
    assert!(log.is_in_order('a', 'b'), "{}", log.writers());
    drop(other);
    // Killed, or told that the lock was lost.
    assert!(matches!(one.ended(), None | Some(202)), "the first run");
}

fn killed(store: &str) {
    next_begins_after(store, store, false, |run, _| run.signal(Signal::KILL));
}

/// The first run reaches its store by `url` over this link, which then swallows everything.
fn cut_off(link: &Link, over_link: &str, store: &str, is_stubborn: bool) {
    next_begins_after(over_link, store, is_stubborn, |_, _| {
        link.fault(Way::Both, Fault::Blackhole);
    });
}

/// The process that holds the lock is stopped for longer than the ttl, and continued.
fn supervisor_stopped(store: &str) {
    next_begins_after(store, store, false, |run, log| {
        let supervisor = run.supervisor();
        kill_process(supervisor, Signal::STOP).expect("a signal");
        log.shows('b');
        kill_process(supervisor, Signal::CONT).expect("a signal");
        log.shows('b');
    });
}

/// What the user sees is stopped for longer than the ttl: the lock is held all the same.
fn front_stopped(store: &str) {
    next_begins_after(store, store, false, |run, log| {
        run.signal(Signal::STOP);
        std::thread::sleep(Duration::from_secs(4));
        log.shows('a');
        assert!(!log.writers().contains('b'), "held while the front is stopped");
        run.signal(Signal::KILL);
    });
}

fn twenty_kills(store: &str) {
    (0..20).for_each(|_| killed(store));
}

/// The tests of a store with a server.
macro_rules! of_a_server {
    ($start:expr, $url:expr) => {
        #[test]
        fn a_run_whose_front_is_killed_ends_before_the_next_one_begins() {
            let server = $start;
            killed(&$url(&server, server.address()));
        }

        #[test]
        fn a_run_that_is_cut_off_from_its_store_ends_before_the_next_one_begins() {
            let server = $start;
            let link = Link::to(server.address()).unwrap();
            cut_off(&link, &$url(&server, link.address()), &$url(&server, server.address()), false);
        }

        #[test]
        #[ignore = "soak"]
        fn twenty_killed_runs_end_before_the_next_one_begins() {
            let server = $start;
            twenty_kills(&$url(&server, server.address()));
        }
    };
}

mod file {
    use super::*;
    use crate::common::files;

    #[test]
    fn a_run_whose_front_is_killed_ends_before_the_next_one_begins() {
        let (_directory, url) = files();
        killed(&url);
    }

    #[test]
    fn a_command_that_ignores_sigterm_is_killed_before_the_next_one_begins() {
        let (_directory, url) = files();
        next_begins_after(&url, &url, true, |run, _| run.signal(Signal::KILL));
    }

    #[test]
    fn what_a_command_has_left_behind_keeps_the_lock() {
        let (_directory, url) = files();
        let log = Log::new();
        let mut command = lockkit(&url);
        log.writes(command.args(["run", "nightly"]), 'a', false);
        // The command ends at once, the writers do not.
        let mut words: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        words.splice(3..3, ["sh", "-c", r#""$@" & exit 7"#, "sh"].map(Into::into));
        let mut left = lockkit(&url);
        left.args(words).envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let mut one = Running::start(left.stdout(std::process::Stdio::null()));
        let supervisor = one.supervisor();
        assert_eq!(one.ended(), Some(7), "as the command ended");
        log.shows('a');
        let other = run(&url, &log, 'b', false);
        log.shows('a');
        assert!(!log.writers().contains('b'));
        kill_process(supervisor, Signal::TERM).expect("a signal");
        log.shows('b');
        assert!(log.is_in_order('a', 'b'), "{}", log.writers());
        drop(other);
    }

    #[test]
    fn a_supervisor_that_is_killed_takes_the_command_along() {
        let (_directory, url) = files();
        let log = Log::new();
        let mut one = run(&url, &log, 'a', false);
        log.shows('a');
        kill_process(one.supervisor(), Signal::KILL).expect("a signal");
        assert_eq!(one.ended(), Some(202));
        // The kernel ends them a moment after.
        let mut last = String::new();
        until("the end of the writes", || {
            std::thread::sleep(ms(50));
            let now = log.writers();
            std::mem::replace(&mut last, now.clone()) == now
        });
    }

    #[test]
    #[ignore = "soak"]
    fn twenty_killed_runs_end_before_the_next_one_begins() {
        let (_directory, url) = files();
        twenty_kills(&url);
    }
}

mod redis {
    use testbed::RedisServer;

    use super::*;

    fn url(address: std::net::SocketAddr) -> String {
        format!("redis://{address}")
    }

    of_a_server!(RedisServer::start().unwrap(), |_: &_, address| url(address));

    #[test]
    fn a_supervisor_that_is_stopped_past_the_ttl_has_its_command_killed_in_time() {
        let server = RedisServer::start().unwrap();
        supervisor_stopped(&url(server.address()));
    }

    #[test]
    fn a_front_that_is_stopped_past_the_ttl_loses_nothing() {
        let server = RedisServer::start().unwrap();
        front_stopped(&url(server.address()));
    }

    #[test]
    fn a_command_that_ignores_sigterm_is_killed_before_the_deadline() {
        let server = RedisServer::start().unwrap();
        let link = Link::to(server.address()).unwrap();
        cut_off(&link, &url(link.address()), &url(server.address()), true);
    }

    #[test]
    fn a_leader_that_is_cut_off_is_stopped_and_stands_again() {
        let server = RedisServer::start().unwrap();
        let link = Link::to(server.address()).unwrap();
        let log = Log::new();
        let elect = |address, who| {
            let mut command = lockkit(&url(address));
            command.args(["elect", "--ttl", TTL, "leader"]);
            Running::start(log.writes(&mut command, who, false))
        };
        let _one = elect(link.address(), 'a');
        log.shows('a');
        let other = elect(server.address(), 'b');
        link.fault(Way::Both, Fault::Blackhole);
        log.shows('b');
        assert!(log.is_in_order('a', 'b'), "{}", log.writers());
        link.pass().unwrap();
        drop(other);
        log.shows('a');
    }
}

mod postgres {
    use testbed::PostgresServer;

    use super::*;

    mod advisory {
        use super::*;

        of_a_server!(PostgresServer::start().unwrap(), |server: &PostgresServer, address| {
            format!("{}?strategy=advisory", server.url_at(address))
        });
    }

    mod table {
        use super::*;

        of_a_server!(PostgresServer::start().unwrap(), |server: &PostgresServer, address| {
            format!("{}?strategy=table", server.url_at(address))
        });
    }
}

mod zk {
    use testbed::ZkServer;

    use super::*;

    of_a_server!(ZkServer::builder().tick(ms(500)).start().unwrap(), |_: &_, address| format!(
        "zk://{address}/locks?tick=500ms"
    ));
}

mod etcd {
    use testbed::EtcdServer;

    use super::*;

    of_a_server!(EtcdServer::start().unwrap(), |_: &_, address| format!("etcd://{address}"));
}
