//! What ordinary work logs: nothing that an operator must read. ZooKeeper has the same test with its own defaults.

use super::scripts;

scripts! {
    ordinary_cycles_and_a_close_log_no_warning: redis etcd postgres;
}

mod scripts {
    use lockkit::connect;
    use testbed::contenders::by;
    use testbed::in_time;
    use testbed::log::Log;
    use testbed::timing::{self, Stopwatch};

    use crate::stores::{Store, ms};

    const CYCLES: usize = 2_500;

    /// A machine that stood still is warned of too.
    #[track_caller]
    fn is_quiet(log: &Log, from: usize, began: &Stopwatch, after: &str) {
        let text = log.text();
        let is_loud =
            |line: &&str| matches!(line.split_whitespace().nth(1), Some("WARN" | "ERROR"));
        let loud = text[from..].lines().find(is_loud);
        in_time!(began, loud.is_none(), "after {after}: {loud:?}");
    }

    pub(super) async fn ordinary_cycles_and_a_close_log_no_warning<S: Store>() {
        let server = S::start();
        for url in S::urls(&server) {
            // With a place of its own for the locks, as the pages advise.
            let url = match url.starts_with("redis") {
                true => format!("{url}?prefix=quiet:"),
                false => url,
            };
            let log = Log::of_this_thread();
            let locks = connect(&url).await.unwrap();
            // A server that keeps nothing on its disk is warned of there.
            let (connected, began) = (log.text().len(), timing::start());
            for _ in 0..CYCLES / 100 {
                let cycles = async {
                    for _ in 0..100 {
                        locks.lock("a").acquire().await.unwrap().release().await.unwrap();
                    }
                };
                by(ms(60_000), "a hundred cycles", cycles).await;
            }
            is_quiet(&log, connected, &began, "ordinary cycles");
            let held = locks.lock("a").acquire().await.unwrap();
            assert!(locks.lock("a").try_acquire().await.unwrap().is_none());
            locks.lock("a").acquire_within(ms(20)).await.unwrap_err();
            let waiting = tokio::spawn(locks.lock("a").acquire());
            tokio::time::sleep(ms(300)).await;
            locks.close(ms(5_000)).await.unwrap();
            drop((waiting.await, held));
            is_quiet(&log, connected, &began, "waits that ended and a close");
        }
    }
}
