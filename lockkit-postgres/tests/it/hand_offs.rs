//! Contended hand-offs, beside sqlx's `PgAdvisoryLock` with a connection for each waiter.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::common::{connections, join, ms};
use lockkit_core::Lock;
use lockkit_postgres::Strategy;
use sqlx::Connection;
use sqlx::postgres::{PgAdvisoryLock, PgConnection};
use testbed::PostgresServer;

/// Many short rounds by turns: what else the machine does meets both.
const ROUND: Duration = ms(150);
const ROUNDS: usize = 12;

/// One of those that take the name and give it back, over and over.
enum Waiter {
    Ours(Lock),
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

/// How many hand-offs there are among these waiters in one round.
async fn round(waiters: &mut Vec<Waiter>) -> u64 {
    let over = Arc::new(AtomicBool::new(false));
    let start = |mut waiter: Waiter| {
        let over = Arc::clone(&over);
        tokio::spawn(async move {
            let mut count = 0;
            while !over.load(Ordering::Relaxed) {
                waiter.cycle().await;
                count += 1;
            }
            (waiter, count)
        })
    };
    let running: Vec<_> = waiters.drain(..).map(start).collect();
    tokio::time::sleep(ROUND).await;
    over.store(true, Ordering::Relaxed);
    let mut all = 0;
    for task in running {
        let (waiter, count) = task.await.unwrap();
        waiters.push(waiter);
        all += count;
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hand_offs_are_as_fast_as_sqlx_s_on_a_quarter_of_the_connections() {
    let server = PostgresServer::start().unwrap();
    for waiters in [8, 32] {
        let locks = join(&server.url(), Strategy::Advisory).await;
        let mut ours: Vec<_> =
            (0..waiters).map(|_| Waiter::Ours(locks.lock("contended"))).collect();
        let mut theirs = Vec::new();
        for _ in 0..waiters {
            let connection = PgConnection::connect(&server.url()).await.unwrap();
            theirs.push(Waiter::Theirs(PgAdvisoryLock::new("theirs"), connection));
        }
        let (mut grants, mut most) = ([0, 0], 0);
        for _ in 0..ROUNDS {
            grants[0] += round(&mut ours).await;
            // A session that is not used is kept for seconds.
            most = most.max(connections(&server));
            grants[1] += round(&mut theirs).await;
        }
        drop((ours, theirs));
        locks.close(ms(2_000)).await.unwrap();
        let [ours, theirs] = grants;
        let ratio = ours as f64 / theirs as f64;
        println!("{waiters} waiters: {ours} on {most} connections, sqlx {theirs}: {ratio:.2}");
        assert!(most <= waiters / 4, "{most} connections for {waiters} waiters");
        assert!(ratio >= 0.9, "{ratio:.2} of sqlx's hand-offs among {waiters}");
        let gone = || connections(&server) == 0;
        crate::common::until(ms(10_000), "the connections are closed", gone).await;
    }
}
