//! What a worker does with the permits of a semaphore.

use super::permits::SimulatedSemaphore;
use super::worker::Worker;
use crate::{Guard, Kind, Result};

impl Worker {
    /// One attempt to take a permit, and the work in its slot.
    pub(super) async fn attempt_permit(&self, semaphore: &SimulatedSemaphore) {
        let (world, asked) = (&self.world, self.world.elapsed());
        semaphore.resize(world).await;
        let ttl = world.weather.ttl;
        let (way, patience) = world.draw(|random| (random.below(10), random.up_to(ttl * 4)));
        let permits = self.locks.semaphore(semaphore.name.as_str(), semaphore.wished);
        let answer: Result<Option<Guard>> = match way {
            0..=4 => permits.acquire().await.map(Some),
            5..=6 => permits.acquire_within(patience).await.map(Some),
            7 => permits.try_acquire().await,
            _ => tokio::select! {
                biased;
                answer = permits.acquire() => answer.map(Some),
                () = world.clock.sleep(patience) => {
                    world.fault("attempt abandoned");
                    return;
                }
            },
        };
        let Ok(Some(guard)) = answer else { return };
        let Some((slot, resource)) = semaphore.slot(world, &guard) else { return };
        world.did("granted a permit");
        let attempt = world.asked(self.process, slot, Kind::Exclusive, asked);
        self.hold_as(attempt, (slot, Kind::Exclusive), guard, resource).await;
    }

    /// Takes a permit once more, when the faults have ended.
    pub(super) async fn last_permit(&self, semaphore: &SimulatedSemaphore) {
        let (world, asked) = (&self.world, self.world.elapsed());
        let permits = self.locks.semaphore(semaphore.name.as_str(), semaphore.wished);
        match permits.acquire_within(world.weather.ttl * 400).await {
            Ok(guard) => {
                let Some((slot, resource)) = semaphore.slot(world, &guard) else { return };
                let attempt = world.asked(self.process, slot, Kind::Exclusive, asked);
                self.hold_as(attempt, (slot, Kind::Exclusive), guard, resource).await;
            }
            Err(error) => {
                let process = self.process;
                world.wrong(&format!("{process} waits for a permit in calm: {error}"));
            }
        }
    }
}
