//! That Lua, SQL and the queues of etcd and ZooKeeper admit the requests that core's table of kinds admits.

use super::scripts;

scripts! {
    a_request_is_granted_where_the_table_of_kinds_admits_it: redis etcd zk postgres;
}

mod scripts {
    use lockkit::{Fairness, Kind, Lock, Locks, connect};
    use testbed::contenders::{by, queued};

    use crate::stores::{Store, ms};

    /// So many requests stand before the one that asks, at most.
    const BEFORE: usize = 3;

    /// Every queue of these kinds that is no longer than that.
    fn queues(kinds: &[Kind]) -> Vec<Vec<Kind>> {
        let mut queues = vec![Vec::new()];
        let mut longest = queues.clone();
        for _ in 0..BEFORE {
            let longer = |queue: &Vec<Kind>| {
                kinds.iter().map(|kind| [&**queue, &[*kind]].concat()).collect()
            };
            longest = longest.iter().flat_map::<Vec<_>, _>(longer).collect();
            queues.extend_from_slice(&longest);
        }
        queues
    }

    fn lock(locks: &Locks, name: &str, kind: Kind) -> Lock {
        let lock = locks.lock(name);
        if kind == Kind::Shared { lock.shared() } else { lock }
    }

    pub(super) async fn a_request_is_granted_where_the_table_of_kinds_admits_it<S: Store>() {
        let server = S::start();
        for url in S::urls(&server) {
            let [locks, others] = [connect(&url).await.unwrap(), connect(&url).await.unwrap()];
            let kinds = locks.guarantees().kinds;
            for before in queues(kinds) {
                for asks in kinds {
                    is_admitted_as_the_table_says(&url, &locks, &others, &before, *asks).await;
                }
            }
            for locks in [locks, others] {
                locks.close(ms(5_000)).await.unwrap();
            }
        }
    }

    /// A request of the kind `asks`, behind those of the kinds `before`.
    async fn is_admitted_as_the_table_says(
        url: &str,
        locks: &Locks,
        others: &Locks,
        before: &[Kind],
        asks: Kind,
    ) {
        let name = format!("{asks} behind {before:?}");
        let is_fifo = locks.guarantees().fairness == Fairness::Fifo;
        let (mut held, mut waiting) = (Vec::new(), Vec::new());
        for (n, kind) in before.iter().enumerate() {
            let lock = lock(others, &name, *kind);
            if kind.admits(before[..n].iter().copied()) {
                held.push(by(ms(5_000), "a grant", lock.acquire()).await.expect(&name));
                continue;
            }
            let asking = lock.clone();
            let cycle = async move { asking.acquire().await?.release().await };
            waiting.push(tokio::spawn(cycle));
            // Where there are shared requests, it matters that it waits before the next one asks.
            if is_fifo && locks.guarantees().kinds.len() > 1 {
                queued(&lock, waiting.len()).await;
            }
        }
        let tried = by(ms(5_000), "an answer", lock(locks, &name, asks).try_acquire()).await;
        let tried = tried.expect(&name);
        let admits = asks.admits(before.iter().copied());
        // Where no order is declared, it may pass those that wait.
        let may_pass = !is_fifo && asks.admits(before[..held.len()].iter().copied());
        assert!(tried.is_some() == admits || may_pass, "{url}: {name}");
        drop(tried);
        for guard in held {
            guard.release().await.expect(&name);
        }
        for waiter in waiting {
            by(ms(5_000), "the waiters' grants", waiter).await.unwrap().expect(&name);
        }
    }
}
