//! Several names taken together, in any order, by clients of which some are killed while they hold or wait.

use super::scripts;

scripts! {
    pairs_and_triples_in_any_order_never_lock_up: redis etcd;
}

mod scripts {
    use std::collections::HashMap;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use lockkit::{FencingToken, MultiGuard, RequestId, connect};
    use testbed::timing;

    use crate::stores::{Store, ms};

    const NAMES: [&str; 4] = ["a", "b", "c", "d"];
    const TAKEN: usize = 150;
    /// So many clients are killed; what each held is free again after its ttl.
    const KILLED: usize = 4;
    const TTL: Duration = ms(1_000);

    /// What all clients see of the names.
    struct Town {
        url: String,
        left: AtomicUsize,
        to_kill: AtomicUsize,
        names: Mutex<HashMap<&'static str, (bool, Option<FencingToken>)>>,
    }

    /// A hold that is worked under, until it is dropped.
    struct Work<'a>(&'a Town, Vec<&'static str>);

    fn below(end: usize) -> usize {
        let bytes = RequestId::random().expect("random bytes").to_bytes();
        usize::from(u16::from_be_bytes([bytes[0], bytes[1]])) % end
    }

    impl Town {
        fn begin<'a>(&'a self, guard: &MultiGuard, chosen: &[&'static str]) -> Work<'a> {
            let mut names = self.names.lock().unwrap();
            for name in chosen {
                let token = guard.token(name).unwrap();
                let (is_held, newest) = names.entry(name).or_default();
                assert!(!*is_held, "two hold {name}");
                assert!(newest.is_none_or(|newest| newest < token), "{name}: {newest:?}, {token}");
                (*is_held, *newest) = (true, Some(token));
            }
            Work(self, chosen.to_vec())
        }

        /// One client after the other, each in a runtime of its own, until all is done.
        fn clients(&self) {
            loop {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let runtime = runtime.unwrap();
                let life = ms(50 + below(300) as u64);
                let is_to_die = || {
                    let less = |left: usize| left.checked_sub(1);
                    self.to_kill.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok()
                };
                let is_done = runtime.block_on(async {
                    let mut work = Box::pin(self.work());
                    tokio::select! {
                        () = &mut work => return true,
                        () = tokio::time::sleep(life) => {}
                    }
                    if is_to_die() {
                        return false;
                    }
                    work.await;
                    true
                });
                // Whoever is killed sends nothing any more.
                runtime.shutdown_background();
                if is_done {
                    return;
                }
            }
        }

        async fn work(&self) {
            let locks = connect(&self.url).await.unwrap();
            while self.left.load(Ordering::Relaxed) > 0 {
                let mut names = NAMES.to_vec();
                let count = 2 + below(2);
                let chosen: Vec<_> =
                    (0..count).map(|_| names.swap_remove(below(names.len()))).collect();
                let all = locks.all(&chosen).ttl(TTL);
                let guard = match below(4) {
                    0 => all.acquire_within(ms(200)).await.ok(),
                    _ => Some(all.acquire().await.unwrap()),
                };
                let Some(guard) = guard else { continue };
                let work = self.begin(&guard, &chosen);
                tokio::time::sleep(ms(below(5) as u64)).await;
                testbed::held!(guard);
                drop(work);
                for (name, released) in guard.release().await {
                    released.unwrap_or_else(|error| panic!("{name}: {error}"));
                }
                let less = |left: usize| left.checked_sub(1);
                self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).ok();
            }
            locks.close(ms(5_000)).await.unwrap();
        }
    }

    impl Drop for Work<'_> {
        fn drop(&mut self) {
            let mut names = self.0.names.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            for name in &self.1 {
                names.entry(name).or_default().0 = false;
            }
        }
    }

    pub(super) async fn pairs_and_triples_in_any_order_never_lock_up<S: Store>() {
        let server = S::start();
        let town = Arc::new(Town {
            url: S::urls(&server).remove(0),
            left: AtomicUsize::new(TAKEN),
            to_kill: AtomicUsize::new(KILLED),
            names: Mutex::default(),
        });
        let clients: Vec<_> = (0..3)
            .map(|_| {
                let town = Arc::clone(&town);
                tokio::task::spawn_blocking(move || town.clients())
            })
            .collect();
        for client in clients {
            timing::within(ms(60_000), "a client's share", client).await.unwrap();
        }
        assert_eq!(town.to_kill.load(Ordering::SeqCst), 0, "some were killed");
        let locks = connect(&town.url).await.unwrap();
        let is_clean = async || locks.list("", None, 10).await.unwrap().is_empty();
        timing::gone(ms(10_000), "what the dead held and waited for", is_clean).await;
    }
}
