//! Clients of the oldest version that shares today's layouts, beside clients of today.
//!
//! `cargo xtask soak` builds both from `examples/peer.rs`. Two processes of each take a few names in turns; the
//! events that they record on one clock must be a history of a lock.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::Duration;

use crate::common::Tested;
use lockkit_core::conformance::history;
use testbed::{EtcdServer, PostgresServer, RedisServer, ZkServer, timing};

/// The variables that name the two programs.
const PEERS: [&str; 2] = ["LOCKKIT_OLD_PEER", "LOCKKIT_NEW_PEER"];
const NAMES: [&str; 3] = ["billing/nightly", "billing/hourly", "a"];
/// How long each store is used unless `LOCKKIT_SOAK_SECONDS` says it, and at most.
const SECONDS: u64 = 60;
const MOST_SECONDS: u64 = 300;
/// How long a process may take beyond that: for its last wait, and to close.
const END: Duration = Duration::from_secs(60);

/// A process that ends with its test.
struct Peer {
    child: Child,
    log: PathBuf,
    version: usize,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Peer {
    fn start(url: &str, directory: &Path, number: usize, seconds: u64) -> Result<Self, String> {
        let version = number % PEERS.len();
        let program = env::var(PEERS[version])
            .map_err(|_| format!("{} is not set: run `cargo xtask soak`", PEERS[version]))?;
        let log = directory.join(number.to_string());
        let numbers = [number.to_string(), seconds.to_string()];
        let mut command = Command::new(&program);
        command.arg(url).arg(&log).args(numbers).args(NAMES);
        let child = command.spawn().map_err(|error| format!("{program}: {error}"))?;
        Ok(Self { child, log, version })
    }
}

/// Two processes of each version on one store.
fn take_turns(store: &str, url: &str) -> Tested {
    let seconds = env::var("LOCKKIT_SOAK_SECONDS").map_or(Ok(SECONDS), |text| text.parse())?;
    let seconds = seconds.min(MOST_SECONDS);
    let directory = tempfile::tempdir()?;
    let peers = (0..4).map(|number| Peer::start(url, directory.path(), number, seconds));
    let mut peers = peers.collect::<Result<Vec<_>, _>>()?;
    let (began, limit) = (timing::start(), Duration::from_secs(seconds) + END);
    for (number, peer) in peers.iter_mut().enumerate() {
        let status = loop {
            if let Some(status) = peer.child.try_wait()? {
                break status;
            }
            if began.elapsed() > limit {
                began.missed(format_args!("process {number} has not ended within {limit:?}"));
            }
            sleep(Duration::from_millis(20));
        };
        assert!(status.success(), "{store}: process {number} ended with {status}");
    }
    let summary = history::read(peers.iter().map(|peer| &peer.log))?.check()?;
    let mut grants = [0; 2];
    for peer in &peers {
        grants[peer.version] += fs::read_to_string(&peer.log)?.matches(" granted ").count();
    }
    println!(
        "{store}, {seconds} s: {} attempts, {grants:?} grants to old and new clients, smallest gap {:?}",
        summary.attempts, summary.smallest_gap,
    );
    // Fewer would show little: an idle machine makes hundreds in a second.
    let least = usize::try_from(seconds)?;
    assert!(grants.iter().all(|grants| *grants >= least), "{store}: {grants:?} in {seconds} s");
    Ok(())
}

#[test]
#[ignore = "cargo xtask soak"]
fn old_and_new_clients_take_turns_on_files() -> Tested {
    let directory = tempfile::tempdir()?;
    take_turns("file", &format!("file://{}", directory.path().display()))
}

#[test]
#[ignore = "cargo xtask soak"]
fn old_and_new_clients_take_turns_on_redis() -> Tested {
    take_turns("redis", &RedisServer::start()?.url())
}

#[test]
#[ignore = "cargo xtask soak"]
fn old_and_new_clients_take_turns_on_etcd() -> Tested {
    let server = EtcdServer::start()?;
    // A store that the older ones have used: a new one has another layout, which they may not share.
    server.cli(&["put", "lockkit/%/cluster", "1:c4677ef5bf7f1a6f744fbe2bc14674e1"])?;
    take_turns("etcd", &format!("etcd://{}", server.address()))
}

#[test]
#[ignore = "cargo xtask soak"]
fn old_and_new_clients_take_turns_on_zookeeper() -> Tested {
    let server = ZkServer::start()?;
    let url = format!("zk://{}/?tick=500ms", server.address());
    // The older ones have used the base: a new one has another layout, which they may not share.
    let directory = tempfile::tempdir()?;
    let first = Peer::start(&url, directory.path(), 0, 1)?.child.wait()?;
    assert!(first.success(), "the older client ended with {first}");
    take_turns("zookeeper", &url)
}

#[test]
#[ignore = "cargo xtask soak"]
fn old_and_new_clients_take_turns_on_postgres_advisory_locks() -> Tested {
    let server = PostgresServer::start()?;
    take_turns("postgres, advisory", &format!("{}?strategy=advisory", server.url()))
}

/// The strategy has another layout since: what both use at once is refused to the older.
#[test]
#[ignore = "cargo xtask soak"]
fn an_old_client_is_refused_beside_new_ones_on_postgres_rows() -> Tested {
    let server = PostgresServer::start()?;
    let url = format!("{}?strategy=table", server.url());
    let directory = tempfile::tempdir()?;
    let mut new = Peer::start(&url, directory.path(), 1, 5)?;
    sleep(Duration::from_secs(2));
    let program = env::var(PEERS[0])?;
    let log = directory.path().join("0");
    let old = Command::new(program).arg(&url).arg(&log).args(["0", "2"]).args(NAMES).output()?;
    let said = String::from_utf8_lossy(&old.stderr);
    assert!(!old.status.success() && said.contains("newer than this program"), "{said}");
    assert!(new.child.wait()?.success());
    assert!(fs::read_to_string(&new.log)?.contains(" granted "));
    Ok(())
}
