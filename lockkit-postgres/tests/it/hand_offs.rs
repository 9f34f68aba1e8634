//! Contended hand-offs, beside sqlx's `PgAdvisoryLock` with a connection for each waiter.
//!
//! What a hand-off costs is counted in round trips. How long it takes, the bench compares.

use std::time::{Duration, Instant};

use crate::common::{ALONE, connections, join, ms};
use lockkit_core::Lock;
use lockkit_postgres::Strategy;
use sqlx::Connection;
use sqlx::postgres::{PgAdvisoryLock, PgConnection};
use testbed::{Link, PostgresServer};

/// How often each waiter comes again in a round.
const TURNS: u64 = 10;
/// Rounds of both by turns.
const ROUNDS: u64 = 12;

/// One of those that take the name and give it back, over and over.
enum Waiter {
    Ours(Box<Lock>),
    Theirs(PgAdvisoryLock, PgConnection),
}

impl Waiter {
    async fn cycle(&mut self) {
        match self {
            Self::Ours(lock) => lock.acquire().await.unwrap().release().await.unwrap(),
            Self::Theirs(lock, connection) => {
                lock.acquire(connection).await.unwrap().release_now().await.unwrap();
            }
        }
    }
}

/// How long one round of these waiters takes.
async fn round(waiters: &mut Vec<Waiter>) -> Duration {
    let began = Instant::now();
    let start = |mut waiter: Waiter| {
        tokio::spawn(async move {
            for _ in 0..TURNS {
                waiter.cycle().await;
            }
            waiter
        })
    };
    let running: Vec<_> = waiters.drain(..).map(start).collect();
    for task in running {
        waiters.push(task.await.unwrap());
    }
    began.elapsed()
}

/// How often the server said over this link that it is done.
fn round_trips(link: &Link) -> u64 {
    link.counts().answers.get("Z").copied().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hand_offs_take_no_more_round_trips_than_sqlx_s_on_a_quarter_of_the_connections() {
    let _alone = ALONE.lock().await;
    let server = PostgresServer::start().unwrap();
    for waiters in [8, 32] {
        let links = [(); 2].map(|()| Link::to_postgres(server.address()).unwrap());
        let urls = links
            .each_ref()
            .map(|link| format!("{}?sslmode=disable", server.url_at(link.address())));
        let locks = join(&urls[0], Strategy::Advisory).await;
        let mut ours: Vec<_> =
            (0..waiters).map(|_| Waiter::Ours(Box::new(locks.lock("contended")))).collect();
        let mut theirs = Vec::new();
        for _ in 0..waiters {
            let connection = PgConnection::connect(&urls[1]).await.unwrap();
            theirs.push(Waiter::Theirs(PgAdvisoryLock::new("theirs"), connection));
        }
        // Connections are made, and statements are prepared.
        round(&mut ours).await;
        round(&mut theirs).await;
        let (mut took, mut most, mut each) = ([Duration::ZERO; 2], 0, Vec::new());
        let hand_offs = TURNS * waiters as u64;
        for _ in 0..ROUNDS {
            let before = links.each_ref().map(round_trips);
            took[0] += round(&mut ours).await;
            // A session that is not used is kept for seconds.
            most = most.max(connections(&server));
            took[1] += round(&mut theirs).await;
            let count = |way| (round_trips(&links[way]) - before[way]) as f64 / hand_offs as f64;
            each.push([0, 1].map(count));
        }
        drop((ours, theirs));
        locks.close(ms(2_000)).await.unwrap();
        println!(
            "{ROUNDS} times {hand_offs} hand-offs among {waiters}: round trips each, ours and sqlx's: \
             {each:.2?}, ours on {most} connections, in {:.1?} and {:.1?}",
            took[0], took[1]
        );
        assert!(most <= waiters / 4, "{most} connections for {waiters} waiters");
        // Where the machine stands still in a round, a session is asked whether it lives.
        assert!(each.iter().any(|[ours, theirs]| ours <= theirs), "{each:.3?}");
        let none = || connections(&server) == 0;
        crate::common::gone(ms(10_000), "the connections are closed", none).await;
    }
}
