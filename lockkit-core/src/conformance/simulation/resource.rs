//! What the locks of a run protect: one value three times, with a fence, with half of one, and
//! with none. Only the first may keep every update.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use super::tally::{FENCED, WITHOUT_FENCE, WRITES_ONLY};
use super::world::World;
use crate::{Fenced, FencingToken, Stale};

/// The resource behind one name.
#[derive(Debug, Default)]
pub(super) struct Resource {
    fenced: Fenced<u64>,
    /// Its fence is raised by writes alone, and the version of its value.
    writes_only: Mutex<(Option<FencingToken>, u64)>,
    open: Mutex<u64>,
    versions: AtomicU64,
}

/// The versions that a read saw.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) fenced: Result<u64, Stale>,
    writes_only: u64,
    open: u64,
}

impl Resource {
    /// A version that nobody else writes.
    pub(super) fn version(&self) -> u64 {
        self.versions.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Reads under `token`; `None`: no answer came.
    pub(super) async fn read(
        self: &Arc<Self>,
        world: &Arc<World>,
        token: FencingToken,
    ) -> Option<Seen> {
        let resource = Arc::clone(self);
        travel(world, move |_| Seen {
            fenced: resource.fenced.access(token, |version| *version),
            writes_only: resource.writes_only.lock().unwrap_or_else(PoisonError::into_inner).1,
            open: *resource.open.lock().unwrap_or_else(PoisonError::into_inner),
        })
        .await
    }

    /// Reads as a holder that shares the name with others; `None`: no answer came.
    pub(super) async fn read_shared(
        self: &Arc<Self>,
        world: &Arc<World>,
        token: FencingToken,
    ) -> Option<Result<u64, Stale>> {
        let resource = Arc::clone(self);
        travel(world, move |_| resource.fenced.access_shared(token, |version| *version)).await
    }

    /// Writes `wrote` over what was seen; `None`: no answer came.
    pub(super) async fn write(
        self: &Arc<Self>,
        world: &Arc<World>,
        token: FencingToken,
        seen: Seen,
        wrote: u64,
    ) -> Option<Result<(), Stale>> {
        let resource = Arc::clone(self);
        travel(world, move |world| {
            resource.write_controls(world, token, seen, wrote);
            // Who was refused when it read has nothing to write.
            seen.fenced.and_then(|seen| {
                resource.fenced.access(token, |version| {
                    // The history does not know of it if the answer is lost.
                    if *version != seen {
                        world.lost_update(FENCED);
                        world.wrong(&format!(
                            "under token {token} version {wrote} replaces {version}, and had seen {seen}"
                        ));
                    }
                    *version = wrote;
                    world.did("fenced update");
                })
            })
        })
        .await
    }

    fn write_controls(&self, world: &World, token: FencingToken, seen: Seen, wrote: u64) {
        let mut control = self.writes_only.lock().unwrap_or_else(PoisonError::into_inner);
        if control.0.is_none_or(|newest| token >= newest) {
            if control.1 != seen.writes_only {
                world.lost_update(WRITES_ONLY);
            }
            *control = (Some(token), wrote);
        }
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if *open != seen.open {
            world.lost_update(WITHOUT_FENCE);
        }
        *open = wrote;
    }
}

/// Has the resource do something, by messages that are delayed and lost on their own way: it is
/// not the store's.
async fn travel<T: Send + 'static>(
    world: &Arc<World>,
    work: impl FnOnce(&World) -> T + Send + 'static,
) -> Option<T> {
    let ttl = world.weather.ttl;
    let faults = world.weather.faults;
    let calm = world.is_calm();
    let usual = if calm { ttl / 1000 } else { world.weather.delay };
    let (mut there, back, lost) = world.draw(|random| {
        let lost = (random.often(faults.lost_request), random.often(faults.lost_reply));
        (random.up_to(usual), random.up_to(usual), lost)
    });
    if !calm && world.draw(|random| random.often(faults.held)) {
        // Long enough to arrive after the sender's lease.
        there += world.draw(|random| random.up_to(ttl * 2));
    }
    let (answer, answered) = oneshot::channel();
    let network = Arc::clone(world);
    tokio::spawn(async move {
        network.clock.sleep(there).await;
        if lost.0 && !calm {
            return;
        }
        let done = work(&network);
        network.clock.sleep(back).await;
        if !lost.1 || calm {
            drop(answer.send(done));
        }
    });
    tokio::select! {
        biased;
        answer = answered => answer.ok(),
        () = world.clock.sleep(ttl) => None,
    }
}
