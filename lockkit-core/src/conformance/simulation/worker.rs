//! What the programs do that take the locks.

use std::sync::Arc;
use std::time::Duration;

use super::permits::SimulatedSemaphore;
use super::resource::{Resource, Seen};
use super::world::World;
use crate::conformance::history::{AttemptId, What};
use crate::{Guard, Kind, Lock, LockName, Locks, MultiGuard, Result};

/// One task of a process: it takes locks, one after the other, and updates what they protect.
#[derive(Clone, Debug)]
pub(super) struct Worker {
    pub(super) world: Arc<World>,
    pub(super) locks: Locks,
    pub(super) process: u64,
    pub(super) resources: Arc<[(LockName, Arc<Resource>)]>,
    /// Where the store has semaphores.
    pub(super) semaphore: Option<Arc<SimulatedSemaphore>>,
}

impl Worker {
    /// Works until the faults have ended, and is then granted every name once more.
    pub(super) async fn work(self) {
        while !self.world.is_calm() {
            self.world.sleep_up_to(self.world.weather.rest).await;
            if self.resources.len() > 1 && self.world.draw(|random| random.often(250)) {
                self.attempt_many().await;
                continue;
            }
            if let Some(semaphore) = &self.semaphore
                && self.world.draw(|random| random.often(200))
            {
                self.attempt_permit(semaphore).await;
                continue;
            }
            let (name, resource) = self.world.draw(|random| random.one_of(&self.resources));
            self.attempt(&name, &resource).await;
        }
        if let Some(semaphore) = &self.semaphore {
            self.last_permit(semaphore).await;
        }
        for (name, resource) in &*self.resources {
            let attempt = self.world.asks(self.process, name, Kind::Exclusive);
            // All others hold once, and whatever nobody knows of expires.
            let limit = self.world.weather.ttl * 400;
            match self.locks.lock(name.as_str()).acquire_within(limit).await {
                Ok(guard) => self.hold(attempt, Kind::Exclusive, guard, resource).await,
                Err(error) => {
                    let process = self.process;
                    self.world.wrong(&format!("{process} waits for {name} in calm: {error}"));
                }
            }
        }
    }

    async fn attempt(&self, name: &LockName, resource: &Arc<Resource>) {
        let world = &self.world;
        let ttl = world.weather.ttl;
        let (way, patience, capped) =
            world.draw(|random| (random.below(10), random.up_to(ttl * 4), random.often(125)));
        let lock = self.locks.lock(name.as_str());
        let lock = if capped { lock.max_hold(ttl) } else { lock };
        let shares = self.locks.guarantees().kinds.contains(&Kind::Shared);
        let shares = shares && world.draw(|random| random.often(400));
        let (lock, kind) = match shares {
            true => (lock.shared(), Kind::Shared),
            false => (lock, Kind::Exclusive),
        };
        let attempt = world.asks(self.process, name, kind);
        match self.take(&lock, way, patience).await {
            Some(Ok(Some(guard))) => self.hold(attempt, kind, guard, resource).await,
            Some(Ok(None)) => world.saw(attempt, What::Refused),
            Some(Err(_)) | None => world.saw(attempt, What::Unknown),
        }
    }

    /// Asks for a lock in one of ten ways; `None`: the attempt was abandoned.
    pub(super) async fn take(
        &self,
        lock: &Lock,
        way: u32,
        patience: Duration,
    ) -> Option<Result<Option<Guard>>> {
        Some(match way {
            0..=3 => lock.acquire().await.map(Some),
            4..=5 => lock.acquire_within(patience).await.map(Some),
            6..=7 => lock.try_acquire().await,
            _ => tokio::select! {
                biased;
                answer = lock.acquire() => answer.map(Some),
                () = self.world.clock.sleep(patience) => {
                    self.world.fault("attempt abandoned");
                    return None;
                }
            },
        })
    }

    /// Some of the names together, in any order.
    async fn attempt_many(&self) {
        let world = &self.world;
        let (some, way, patience) = world.draw(|random| {
            let mut all = self.resources.to_vec();
            let count = 2 + random.place(all.len() - 1);
            let some: Vec<_> =
                (0..count).map(|_| all.swap_remove(random.place(all.len()))).collect();
            (some, random.below(10), random.up_to(world.weather.ttl * 4))
        });
        let lock = self.locks.all(some.iter().map(|(name, _)| name));
        let asked: Vec<_> = some
            .into_iter()
            .map(|(name, resource)| {
                (world.asks(self.process, &name, Kind::Exclusive), name, resource)
            })
            .collect();
        let answer = match way {
            0..=4 => lock.acquire().await.map(Some),
            5..=6 => lock.acquire_within(patience).await.map(Some),
            7 => lock.try_acquire().await,
            _ => tokio::select! {
                biased;
                answer = lock.acquire() => answer.map(Some),
                () = world.clock.sleep(patience) => Ok(None),
            },
        };
        match answer {
            Ok(Some(guard)) => self.hold_many(&asked, guard).await,
            // Some may have been granted meanwhile.
            Ok(None) | Err(_) => {
                asked.iter().for_each(|(attempt, ..)| world.saw(*attempt, What::Unknown));
            }
        }
    }

    async fn hold_many(&self, asked: &[(AttemptId, LockName, Arc<Resource>)], guard: MultiGuard) {
        let world = &self.world;
        let one = |name: &LockName| guard.get(name).expect("each name has its guard");
        for (attempt, name, _) in asked {
            world.granted(*attempt, name, Kind::Exclusive, one(name).watch());
        }
        world.did("granted together");
        for (attempt, name, resource) in asked {
            self.update(*attempt, one(name), resource).await;
        }
        if !guard.is_held() {
            world.fault("held together until one was lost");
        }
        for (attempt, name, _) in asked {
            let end = if one(name).is_held() { What::Releases } else { What::Lost };
            world.saw(*attempt, end);
        }
        for (released_name, released) in guard.release().await {
            let attempt = asked.iter().find(|(_, name, _)| *name == released_name);
            if let (Some((attempt, ..)), Ok(())) = (attempt, released) {
                world.saw(*attempt, What::Released);
            }
        }
    }

    async fn hold(&self, attempt: AttemptId, kind: Kind, guard: Guard, resource: &Arc<Resource>) {
        let name = guard.name().clone();
        self.hold_as(attempt, (&name, kind), guard, resource).await;
    }

    /// The same of a grant that the history has under this name, as of this kind.
    pub(super) async fn hold_as(
        &self,
        attempt: AttemptId,
        (name, kind): (&LockName, Kind),
        guard: Guard,
        resource: &Arc<Resource>,
    ) {
        let world = &self.world;
        world.granted(attempt, name, kind, guard.watch());
        // Half of them stop as soon as they are told; the others look only now and then.
        if world.draw(|random| random.often(500)) {
            tokio::select! {
                biased;
                reason = guard.lost() => {
                    if guard.is_held() {
                        world.wrong(&format!("{attempt} is told of its loss, {reason}, and holds"));
                    }
                }
                () = self.works_with(attempt, kind, &guard, resource) => {}
            }
        } else {
            self.works_with(attempt, kind, &guard, resource).await;
        }
        if !guard.is_held() {
            world.fault("held until lost");
            return world.saw(attempt, What::Lost);
        }
        world.saw(attempt, What::Releases);
        if world.draw(|random| random.often(250)) {
            return drop(guard);
        }
        match guard.release().await {
            Ok(()) => world.saw(attempt, What::Released),
            Err(crate::Error::Lost { .. }) => world.saw(attempt, What::Lost),
            // It goes on in the background.
            Err(_) => {}
        }
    }

    async fn works_with(
        &self,
        attempt: AttemptId,
        kind: Kind,
        guard: &Guard,
        resource: &Arc<Resource>,
    ) {
        match kind {
            Kind::Shared => self.read(attempt, guard, resource).await,
            Kind::Exclusive | Kind::Counted => self.update(attempt, guard, resource).await,
        }
    }

    /// Reads twice: while it holds, it is not refused, and sees no change.
    async fn read(&self, attempt: AttemptId, guard: &Guard, resource: &Arc<Resource>) {
        let world = &self.world;
        world.did("granted a share");
        let mut first = None;
        for _ in 0..2 {
            world.sleep_up_to(world.weather.work).await;
            if !self.believes(attempt, guard).await {
                return;
            }
            world.saw(attempt, What::Reads);
            let Some(seen) = resource.read_shared(world, guard.token()).await else { continue };
            let Ok(version) = seen else {
                world.saw(attempt, What::Stale);
                if guard.is_held() {
                    world.wrong(&format!("{attempt} shares a name, and its read was refused"));
                }
                return;
            };
            world.saw(attempt, What::Read(version));
            if guard.is_held() && *first.get_or_insert(version) != version {
                world.wrong(&format!("{attempt} shares a name, and what it had read was changed"));
            }
        }
    }

    async fn update(&self, attempt: AttemptId, guard: &Guard, resource: &Arc<Resource>) {
        let (world, token) = (&self.world, guard.token());
        let work = if world.is_calm() { world.weather.ttl / 8 } else { world.weather.work };
        let rounds = world.draw(|random| 1 + random.below(3));
        for _ in 0..rounds {
            world.sleep_up_to(work).await;
            if !self.believes(attempt, guard).await {
                return;
            }
            world.saw(attempt, What::Reads);
            let Some(seen) = resource.read(world, token).await else { continue };
            match seen.fenced {
                Ok(version) => world.saw(attempt, What::Read(version)),
                Err(_) => world.saw(attempt, What::Stale),
            }
            world.sleep_up_to(work).await;
            // Not every program looks again before it writes.
            if world.draw(|random| random.often(700)) && !self.believes(attempt, guard).await {
                return;
            }
            if !self.write(attempt, guard, resource, seen).await {
                return;
            }
        }
    }

    /// Whether it is known what became of the write: if not, it may still be on its way, and no
    /// other may follow under the same token.
    async fn write(
        &self,
        attempt: AttemptId,
        guard: &Guard,
        resource: &Arc<Resource>,
        seen: Seen,
    ) -> bool {
        let (world, wrote) = (&self.world, resource.version());
        if let Ok(seen) = seen.fenced {
            world.saw(attempt, What::Writes { seen, wrote });
        }
        let Some(written) = resource.write(world, guard.token(), seen, wrote).await else {
            return false;
        };
        match written {
            Ok(()) => world.saw(attempt, What::Wrote),
            // It had been refused before, when it read.
            Err(_) if seen.fenced.is_err() => {}
            Err(_) => {
                world.fault("stale write refused");
                world.saw(attempt, What::Stale);
            }
        }
        true
    }

    /// Looks whether it still holds; between the look and what follows, time passes.
    async fn believes(&self, attempt: AttemptId, guard: &Guard) -> bool {
        if !guard.is_held() {
            return false;
        }
        self.world.saw(attempt, What::Believes);
        self.world.clock.sleep(Duration::from_millis(1)).await;
        true
    }
}
