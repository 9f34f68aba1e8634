//! That Lua, SQL and the queues of etcd and ZooKeeper admit the requests that core's table of kinds admits.

use super::scripts;

scripts! {
    a_request_is_granted_where_the_table_of_kinds_admits_it: redis etcd zk postgres;
}

mod scripts {
    use std::iter::repeat_n;

    use lockkit::{Guarantees, Kind, connect};
    use testbed::contenders::by;

    use crate::stores::{Store, ms};

    /// How many requests stand before the one that asks: none, a holder, a holder and a waiter.
    const BEFORE: [usize; 3] = [0, 1, 2];

    pub(super) async fn a_request_is_granted_where_the_table_of_kinds_admits_it<S: Store>() {
        let server = S::start();
        for url in S::urls(&server) {
            let [locks, others] = [connect(&url).await.unwrap(), connect(&url).await.unwrap()];
            let Guarantees { kinds, .. } = *locks.guarantees();
            assert_eq!(kinds, [Kind::Exclusive], "a new kind needs rows of its own here");
            for before in BEFORE {
                let name = format!("behind/{before}");
                let mut holder = None;
                let mut waiters = Vec::new();
                for nth in 0..before {
                    let lock = others.lock(&name);
                    if nth == 0 {
                        holder = Some(by(ms(5_000), "a grant", lock.acquire()).await.unwrap());
                    } else {
                        waiters.push(tokio::spawn(async move { lock.acquire().await }));
                    }
                }
                let tried = by(ms(5_000), "an answer", locks.lock(&name).try_acquire()).await;
                let admits = Kind::Exclusive.admits(repeat_n(Kind::Exclusive, before));
                assert_eq!(tried.unwrap().is_some(), admits, "{url}: behind {before}");
                drop(holder);
                for waiter in waiters {
                    let granted = by(ms(5_000), "the waiter's grant", waiter).await.unwrap();
                    granted.unwrap().release().await.unwrap();
                }
            }
            for locks in [locks, others] {
                locks.close(ms(5_000)).await.unwrap();
            }
        }
    }
}
