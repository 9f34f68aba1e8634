//! The ways in which a holder's connection ends, or its server: for how long two believed, and what a release says.

mod site;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use lockkit_core::{Applied, Error, Guard, GuardWatch, Locks, Result};
use lockkit_postgres::Strategy;
use testbed::timing::Stopwatch;
use testbed::{PostgresServer, Way, in_time, timing};
use tokio::task::{JoinHandle, spawn_blocking};

use crate::common::{ALONE, SLACK, by, ms};
use site::{ALL, DOWN, End, Site, builder};

const TTL: Duration = Duration::from_secs(5);

/// A holder, and a waiter behind it.
struct Pair {
    held: Guard,
    /// When it was granted, by the clock that tells what the holder believes.
    waiting: JoinHandle<(Guard, Instant)>,
}

/// What one way of ending came to.
#[derive(Debug)]
struct Found {
    end: End,
    /// From the end to the waiter's grant.
    after: Duration,
    /// Whether the holder kept the lock through it, and then gave it back.
    is_kept: bool,
    /// For how long both believed.
    overlap: Duration,
    tokens_grow: bool,
    /// What the holder's release said.
    said: Result<()>,
}

impl Pair {
    async fn of(clients: &[Locks; 2], name: &str, ttl: Duration) -> Self {
        let [ours, theirs] = clients.each_ref().map(|locks| locks.lock(name).ttl(ttl));
        // The first grant of a ttl is flushed.
        ours.acquire().await.unwrap().release().await.unwrap();
        let held = ours.acquire().await.unwrap();
        let waiting = tokio::spawn(async move {
            let guard = theirs.acquire().await.unwrap();
            (guard, Instant::now())
        });
        Self { held, waiting }
    }

    /// Follows it from the end on. `at_once`: the holder gives the lock back as soon as another has it, whether it
    /// believes or not.
    async fn follow(self, end: End, ttl: Duration, ended: Instant, at_once: bool) -> Found {
        let Self { held, mut waiting } = self;
        let (token, watch) = (held.token(), held.watch());
        let what = format!("{end:?}: the waiter's grant");
        // By then each term is over that was not renewed, and the store is back.
        let settled = ttl + DOWN + ms(1_500);
        let mut kept = None;
        let mut holder = Some(held);
        let granted = match tokio::time::timeout(settled, &mut waiting).await {
            Ok(granted) => granted,
            Err(_) => {
                if watch.is_held() && !end.is_silence() {
                    kept = Some(holder.take().unwrap().release().await);
                }
                // A renewal whose answer is lost may live for a ttl beyond the belief, and a crash costs another.
                by(ttl * 2 + SLACK * 2, &what, waiting).await
            }
        };
        let (next, at) = granted.unwrap();
        let (mut overlap, is_kept) = (Duration::ZERO, kept.is_some());
        let said = match (kept, holder) {
            (Some(said), _) => said,
            (None, Some(holder)) => {
                if !at_once {
                    overlap = believed_beside(&watch, &next, at).await;
                }
                holder.release().await
            }
            (None, None) => unreachable!("it is released where it was kept"),
        };
        let (after, tokens_grow) = (at.saturating_duration_since(ended), next.token() > token);
        next.release().await.ok();
        Found { end, after, is_kept, overlap, tokens_grow, said }
    }
}

/// For how long the holder believed from the grant of the next on, twice a ttl at most.
async fn believed_beside(holder: &GuardWatch, next: &Guard, from: Instant) -> Duration {
    let longest = next.ttl().unwrap_or_default() * 2;
    let mut last = Duration::ZERO;
    loop {
        let beside = from.elapsed();
        // What has been lost is held no more.
        if !holder.is_held() {
            return last;
        }
        if !next.is_held() || beside > longest {
            return beside;
        }
        last = beside;
        tokio::time::sleep(ms(1)).await;
    }
}

/// What this way of ending comes to: for a holder that is watched, and for another that releases as soon as the next is
/// granted.
async fn found(
    end: End,
    shared: Arc<PostgresServer>,
    strategy: Strategy,
    ttl: Duration,
    round: u64,
) -> [Found; 2] {
    let site = spawn_blocking(move || Site::of(end, &shared)).await.unwrap();
    let clients = [site.client(0, strategy).await, site.client(1, strategy).await];
    let mut pairs = Vec::new();
    for what in ["watched", "released"] {
        pairs.push(Pair::of(&clients, &format!("{what}-{end:?}"), ttl).await);
    }
    // Before and after renewals.
    tokio::time::sleep(ms(500 + round * 331 % 2_000)).await;
    for pair in &pairs {
        testbed::held!(pair.held);
        assert!(!pair.waiting.is_finished(), "{end:?}: two at once, before anything has happened");
    }
    let ended = Instant::now();
    let site = Arc::new(site);
    let happening = {
        let site = Arc::clone(&site);
        spawn_blocking(move || site.happen())
    };
    let [watched, released] = <[Pair; 2]>::try_from(pairs).ok().unwrap();
    let (watched, released, happened) = tokio::join!(
        watched.follow(end, ttl, ended, false),
        released.follow(end, ttl, ended, true),
        happening,
    );
    happened.unwrap();
    drop(clients);
    // It waits for the servers.
    spawn_blocking(move || drop(site)).await.unwrap();
    [watched, released]
}

/// All ways of ending side by side.
async fn all(strategy: Strategy, ttl: Duration, round: u64) -> Vec<Found> {
    let shared = Arc::new(spawn_blocking(|| builder().start().unwrap()).await.unwrap());
    let each = ALL.map(|end| tokio::spawn(found(end, Arc::clone(&shared), strategy, ttl, round)));
    let mut all = Vec::new();
    for pair in join_all(each).await {
        all.extend(pair.unwrap());
    }
    for found in &all {
        let Found { end, after, is_kept, overlap, said, .. } = found;
        let said = said.as_ref().map_or_else(ToString::to_string, |()| "released".to_owned());
        let kept = if *is_kept { "kept, " } else { "" };
        println!(
            "{strategy:?} {end:?}: {kept}granted after {after:.1?}, both believed for {overlap:.1?}; {said}"
        );
    }
    all
}

/// What no strategy may do.
fn check(found: &Found) {
    let Found { end, is_kept, tokens_grow, said, .. } = found;
    assert!(tokens_grow, "{end:?}: the token fell");
    let is_honest = match said {
        Ok(()) => *is_kept,
        Err(Error::Lost { .. }) => true,
        Err(Error::Unavailable { applied, .. }) => *applied == Applied::Maybe,
        Err(_) => false,
    };
    assert!(is_honest, "{end:?}: kept: {is_kept}, and the release said {said:?}");
}

/// What the table promises: however it ends, two never believe.
fn check_table(all: &[Found], since: &Stopwatch, ttl: Duration) {
    for found in all {
        check(found);
        let Found { end, after, is_kept, overlap, said, .. } = found;
        assert_eq!(*overlap, Duration::ZERO, "{end:?}: two believed");
        assert!(!is_kept || said.is_ok(), "{end:?}: it was held, and the release said {said:?}");
        // No session keeps a row.
        let goes_on =
            matches!(end, End::Terminated | End::Restarted | End::ProxyRestarted | End::Cut);
        in_time!(since, *is_kept || !goes_on, "{end:?}: the holder lost what no other was granted");
        in_time!(
            since,
            *is_kept || *after < ttl * 2 + SLACK * 2,
            "{end:?}: granted after {after:?}"
        );
    }
}

/// What advisory locks promise: the end of a session at the server frees its locks before the holder knows.
fn check_advisory(all: &[Found], since: &Stopwatch, ttl: Duration) {
    for found in all {
        check(found);
        let Found { end, overlap, .. } = found;
        let most = end.declared(ttl);
        // By its deadline each holder knows, however long the machine stands still; before that it is told.
        let longest = if most.is_zero() { most } else { ttl };
        let text = format!("{end:?}: two believed for {overlap:?}, {most:?} is declared");
        assert!(*overlap <= longest, "{text}");
        in_time!(since, *overlap <= most, "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_never_believe_under_the_table_however_a_session_or_the_server_ends() {
    let _alone = ALONE.lock().await;
    let since = timing::start();
    check_table(&all(Strategy::Table, TTL, 0).await, &since, TTL);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_believe_under_advisory_locks_for_a_moment_after_a_session_has_ended_and_never_in_silence()
 {
    let _alone = ALONE.lock().await;
    let since = timing::start();
    check_advisory(&all(Strategy::Advisory, TTL, 0).await, &since, TTL);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "half a minute; `cargo xtask soak` runs it"]
async fn the_server_keeps_the_lock_of_a_session_that_falls_silent_for_a_long_ttl() {
    let shared = Arc::new(builder().start().unwrap());
    let site = Site::of(End::Silent(Way::Both), &shared);
    let clients =
        [site.client(0, Strategy::Advisory).await, site.client(1, Strategy::Advisory).await];
    let Pair { held, waiting } = Pair::of(&clients, "silent", TTL * 12).await;
    tokio::time::sleep(ms(500)).await;
    site.happen();
    // As long as keep-alives of any common settings would take to end it.
    tokio::time::sleep(TTL * 6).await;
    assert!(held.is_held() && !waiting.is_finished(), "another was granted: {waiting:?}");
}

/// Twenty runs of each way, so many at a time, of each ttl.
async fn twenty(strategy: Strategy, check: impl Fn(&[Found], &Stopwatch, Duration)) {
    for (ttl, at_a_time) in [(TTL, 1), (TTL * 12, 4)] {
        for first in (0..20).step_by(at_a_time) {
            let since = timing::start();
            let some = (0..at_a_time as u64).map(|n| all(strategy, ttl, first + n));
            for found in join_all(some).await {
                check(&found, &since, ttl);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "20 runs of each way; `cargo xtask soak` runs it"]
async fn twenty_times_two_never_believe_under_the_table_however_it_ends() {
    twenty(Strategy::Table, check_table).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "20 runs of each way; `cargo xtask soak` runs it"]
async fn twenty_times_two_believe_under_advisory_locks_at_most_as_declared() {
    twenty(Strategy::Advisory, check_advisory).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_over_a_cut_connection_is_not_told_as_done_after_a_revocation() {
    let server = Arc::new(builder().start().unwrap());
    let site = Site::of(End::Cut, &server);
    let clients = [site.client(0, Strategy::Table).await, site.client(1, Strategy::Table).await];
    let Pair { held, waiting } = Pair::of(&clients, "revoked", TTL * 12).await;
    tokio::time::sleep(ms(500)).await;
    assert!(clients[1].lock("revoked").revoke(held.token()).await.unwrap());
    let (next, _) = by(SLACK, "the next is granted", waiting).await.unwrap();
    site.happen();
    // The holder has not been told yet.
    let said = held.release().await;
    assert!(
        matches!(
            said,
            Err(Error::Lost { .. } | Error::Unavailable { applied: Applied::Maybe, .. })
        ),
        "{said:?}"
    );
    testbed::held!(next);
}
