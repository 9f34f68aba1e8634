//! What ordinary work logs: nothing that an operator must read.

use std::time::Duration;

use crate::common::{BUSY, by, ms};
use lockkit_core::Locks;
use lockkit_zk::{ZkConfig, ZkProvider};
use testbed::log::Log;
use testbed::timing::{self, Stopwatch};
use testbed::{ZkServer, in_time};

/// ZooKeeper's own default, which is lockkit's too.
const TICK: Duration = ms(2_000);

/// A machine that stood still is warned of too.
#[track_caller]
fn is_quiet(log: &Log, began: &Stopwatch, after: &str) {
    let text = log.text();
    let loud = text.lines().find(|line| line.contains("WARN") || line.contains("ERROR"));
    in_time!(began, loud.is_none(), "after {after}: {loud:?}");
}

#[tokio::test]
async fn ten_thousand_cycles_with_every_default_and_a_close_log_no_warning() {
    const CYCLES: usize = 10_000;
    const CHUNK: usize = 100;
    let _busy = BUSY.lock().await;
    let server = ZkServer::builder().tick(TICK).start().unwrap();
    let (log, began) = (Log::of_this_thread(), timing::start());
    let config = ZkConfig::new([server.address().to_string()]);
    let locks = Locks::new(ZkProvider::connect(config).await.unwrap());
    is_quiet(&log, &began, "connecting");
    for _ in 0..CYCLES / CHUNK {
        let cycles = async {
            for _ in 0..CHUNK {
                let guard = locks.lock("a").acquire().await.unwrap();
                guard.release().await.unwrap();
            }
        };
        by(ms(60_000), "the next cycles", cycles).await;
        is_quiet(&log, &began, "ordinary cycles");
    }
    let held = locks.lock("held").acquire().await.unwrap();
    let lock = locks.lock("held");
    let waiting = tokio::spawn(lock.acquire());
    tokio::time::sleep(ms(300)).await;
    locks.close(ms(5_000)).await.unwrap();
    drop(waiting.await);
    drop(held);
    is_quiet(&log, &began, "a close while one holds and one waits");
    let text = log.text();
    let mut told = text.lines().filter(|line| line.contains("ttl_adjusted"));
    // A ttl of 15 s is 16 s there.
    assert!(
        told.all(|line| line.contains(" DEBUG ")),
        "a ttl that was rounded up is told to operators"
    );
}
