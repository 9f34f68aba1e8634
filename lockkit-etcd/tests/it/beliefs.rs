//! Ways in which the store ends a grant early: from when to when two clients both believe in it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::{by, client, join, link_to, ms, queued};
use lockkit_core::{Guard, Locks};
use lockkit_etcd::{EtcdGrant, EtcdProvider};
use testbed::{Data, EtcdServer, EtcdSnapshot, Fault, in_time, timing};

const TTL: Duration = ms(3_000);
/// A push, and a busy machine: a holder whose key is deleted is told by it.
const TOLD: Duration = ms(500);
/// The watch's longest pause after a restart, and a read.
const RESTARTED: Duration = ms(1_500);

/// What an operator does to the store.
#[derive(Clone, Copy, Debug)]
enum Way {
    RevokeTheLease,
    DeleteTheKey,
    DeleteTheKeyUnheard,
    RestartQuickly,
    RestartAfterATtl,
    RestoreWithTheGrant,
    RestoreFromBeforeTheGrant,
    RestoreUnheard,
    LoseAllData,
}

const ALL: [Way; 9] = [
    Way::RevokeTheLease,
    Way::DeleteTheKey,
    Way::DeleteTheKeyUnheard,
    Way::RestartQuickly,
    Way::RestartAfterATtl,
    Way::RestoreWithTheGrant,
    Way::RestoreFromBeforeTheGrant,
    Way::RestoreUnheard,
    Way::LoseAllData,
];

impl Way {
    /// As the table calls it.
    const fn name(self) -> &'static str {
        match self {
            Self::RevokeTheLease => "the lease is revoked",
            Self::DeleteTheKey => "the holder's key is deleted",
            Self::DeleteTheKeyUnheard => "the same, while the holder hears nothing of etcd",
            Self::RestartQuickly => "the server is killed and restarted at once",
            Self::RestartAfterATtl => "the server is killed and restarted after a ttl",
            Self::RestoreWithTheGrant => "a restore from a backup that has the grant",
            Self::RestoreFromBeforeTheGrant => "a restore from a backup without the grant",
            Self::RestoreUnheard => "the same, while the holder hears nothing of etcd",
            Self::LoseAllData => "a restart without data",
        }
    }

    /// Whether the holder's connections stand still meanwhile.
    const fn is_unheard(self) -> bool {
        matches!(self, Self::DeleteTheKeyUnheard | Self::RestoreUnheard)
    }

    /// For how long both may believe, and what in `guarantees()` says so.
    const fn declared(self) -> (Duration, Option<&'static str>) {
        match self {
            Self::RevokeTheLease | Self::DeleteTheKey => (TOLD, Some("deletes the holder's key")),
            // Told by its deadline alone.
            Self::DeleteTheKeyUnheard => (TTL, Some("deletes the holder's key")),
            Self::RestoreUnheard => (TTL, Some("a restore from an older backup")),
            Self::RestartQuickly | Self::RestartAfterATtl => (Duration::ZERO, None),
            Self::RestoreWithTheGrant | Self::RestoreFromBeforeTheGrant => {
                (RESTARTED, Some("a restore from an older backup"))
            }
            Self::LoseAllData => (RESTARTED, Some("the loss of all data")),
        }
    }

    async fn happens(
        self,
        server: &EtcdServer,
        clients: [&Locks; 2],
        guard: &Guard,
        before: &EtcdSnapshot,
    ) {
        let grant = guard.native::<EtcdGrant>().unwrap();
        let key = String::from_utf8(grant.key.clone()).unwrap();
        match self {
            Self::RevokeTheLease => {
                server.cli(&["lease", "revoke", &format!("{:x}", grant.lease)]).map(drop)
            }
            Self::DeleteTheKey | Self::DeleteTheKeyUnheard => server.cli(&["del", &key]).map(drop),
            Self::RestartQuickly => server.restart(Data::Kept),
            Self::RestartAfterATtl => {
                server.kill().unwrap();
                tokio::time::sleep(TTL).await;
                server.restart(Data::Kept)
            }
            Self::RestoreWithTheGrant => {
                let snapshot = server.snapshot().unwrap();
                for locks in clients {
                    // Each knows a revision that the backup does not have.
                    locks.lock("b").acquire().await.unwrap().release().await.unwrap();
                }
                server.restore(&snapshot)
            }
            Self::RestoreFromBeforeTheGrant | Self::RestoreUnheard => server.restore(before),
            Self::LoseAllData => server.restart(Data::Lost),
        }
        .unwrap();
    }
}

/// How long both believed, and whether the holder was told at all.
async fn both_believed(way: Way) -> (Duration, bool) {
    let server = EtcdServer::start().unwrap();
    let link = link_to(server.address());
    let (holders, waiters) = (join(&[link.port()]).await, client(&server).await);
    let before = server.snapshot().unwrap();
    let guard = Arc::new(holders.lock("a").ttl(TTL).acquire().await.unwrap());
    let lock = waiters.lock("a").ttl(TTL);
    let acquire = lock.acquire();
    let waiter = tokio::spawn(async move { (acquire.await.unwrap(), Instant::now()) });
    queued(&lock, 1).await;
    let believer = tokio::spawn({
        let guard = Arc::clone(&guard);
        async move {
            while guard.is_held() {
                tokio::time::sleep(ms(1)).await;
            }
            Instant::now()
        }
    });
    if way.is_unheard() {
        link.fault(testbed::Way::Both, Fault::Hold);
    }
    way.happens(&server, [&holders, &waiters], &guard, &before).await;
    tokio::time::sleep(TTL / 2).await;
    if !believer.is_finished() && !waiter.is_finished() {
        believer.abort();
        return (Duration::ZERO, false);
    }
    let ended = by(TTL, "the end of a belief", believer).await.unwrap();
    let (next, granted) = by(TTL * 2, "the next grant", waiter).await.unwrap();
    testbed::held!(next);
    (ended.saturating_duration_since(granted), true)
}

/// In a runtime of its own, since servers block the thread that starts them.
fn alone(way: Way) -> (Duration, bool) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(both_believed(way))
}

#[test]
fn two_believe_at_once_for_no_longer_than_declared_whatever_ends_a_grant_early() {
    let began = timing::start();
    let running = ALL.map(|way| (way, std::thread::spawn(move || alone(way))));
    let rows = running.map(|(way, running)| (way, running.join().unwrap()));
    println!("| way of ending | the holder is told | both believed | declared, at most |");
    println!("|---|---|---|---|");
    let breaks_on = EtcdProvider::declared().belief_breaks_on;
    for (way, (both, is_told)) in rows {
        let (most, words) = way.declared();
        let told = if is_told { "yes" } else { "no: it holds on" };
        println!("| {} | {told} | {} ms | {} ms |", way.name(), both.as_millis(), most.as_millis());
        if let Some(words) = words {
            assert!(breaks_on.iter().any(|one| one.contains(words)), "{way:?}: {words}");
        } else {
            assert_eq!(both, Duration::ZERO, "{way:?}");
        }
        in_time!(began, both <= most, "{way:?}: both believed for {both:?}, {most:?} declared");
    }
}
