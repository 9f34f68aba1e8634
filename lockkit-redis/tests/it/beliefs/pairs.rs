//! Holders and those that follow them, watched on one clock: for how long both believed.

use std::time::{Duration, Instant};

use lockkit_core::{Guard, Lock, Locks};
use tokio::task::JoinHandle;

use crate::common::{by, ms};

/// Renewed after 0.7 s, or a little later.
pub(crate) const TTL: Duration = ms(2_000);
/// Held at once, so that an end meets each at another time since its renewal.
const NAMES: u32 = 4;
/// How often is looked who believes.
const STEP: Duration = ms(1);

/// Names that a client holds, the last one since just now.
pub(crate) async fn held(locks: &Locks, way: &str) -> Vec<Guard> {
    let mut guards = Vec::new();
    for n in 0..NAMES {
        if n > 0 {
            tokio::time::sleep(TTL / 3 / NAMES).await;
        }
        let lock = locks.lock(format!("{way}/{n}")).ttl(TTL);
        guards.push(lock.acquire().await.expect("a grant"));
    }
    guards
}

/// A holder and the next one, watched by a task.
pub(crate) struct Pair(JoinHandle<Seen>);

/// What was seen of a pair.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    /// For how long both believed at once.
    pub(crate) both: Duration,
    /// Whether the next one was granted.
    pub(crate) followed: bool,
    /// Whether the holder had lost it when the watch ended.
    pub(crate) lost: bool,
}

impl Pair {
    /// Watches until the holder has lost the name and `next` has it, or for so long.
    pub(crate) fn watch(holder: Guard, next: Lock, limit: Duration) -> Self {
        let next = tokio::spawn(async move {
            let guard = wait(&next).await;
            (guard, Instant::now())
        });
        Self(tokio::spawn(watch(holder, next, limit)))
    }

    pub(crate) async fn seen(self) -> Seen {
        by(ms(20_000), "the end of a watch", self.0).await.expect("a watch")
    }
}

/// The next grant: while the server is away, calls fail.
async fn wait(lock: &Lock) -> Guard {
    loop {
        match lock.acquire().await {
            Ok(guard) => return guard,
            Err(_) => tokio::time::sleep(ms(5)).await,
        }
    }
}

async fn watch(holder: Guard, next: JoinHandle<(Guard, Instant)>, limit: Duration) -> Seen {
    let (began, mut next, mut followed) = (Instant::now(), Some(next), None);
    let mut both = Duration::ZERO;
    loop {
        if let Some(ended) = next.take_if(|next| next.is_finished()) {
            followed = Some(ended.await.expect("the next one"));
        }
        // The next one first: seen to believe after it, the holder believed beside it.
        let is_followed = followed.as_ref().is_some_and(|(guard, _)| guard.is_held());
        let is_held = holder.is_held();
        if let Some((_, granted)) = followed.as_ref().filter(|_| is_followed && is_held) {
            both = both.max(granted.elapsed());
        }
        if (!is_held && followed.is_some()) || began.elapsed() >= limit {
            if let Some(next) = next {
                next.abort();
            }
            return Seen { both, followed: followed.is_some(), lost: !is_held };
        }
        tokio::time::sleep(STEP).await;
    }
}
