//! What a worker does with the permits of a semaphore.

use std::time::Duration;

use super::permits::SimulatedSemaphore;
use super::worker::Worker;
use crate::{Guard, Kind, Lock, Result};

impl Worker {
    /// One attempt to take a permit, and the work in its slot.
    pub(super) async fn attempt_permit(&self, semaphore: &SimulatedSemaphore) {
        let (world, asked) = (&self.world, self.world.elapsed());
        semaphore.resize(world).await;
        let ttl = world.weather.ttl;
        let (way, patience) = world.draw(|random| (random.below(10), random.up_to(ttl * 4)));
        let Ok(permit) = self.permit(semaphore) else { return };
        if let Some(Ok(Some(guard))) = self.take(&permit, way, patience).await {
            world.did("granted a permit");
            self.work_in_slot(semaphore, guard, asked).await;
        }
    }

    /// Takes a permit once more, when the faults have ended.
    pub(super) async fn last_permit(&self, semaphore: &SimulatedSemaphore) {
        let (world, asked) = (&self.world, self.world.elapsed());
        let granted = match self.permit(semaphore) {
            Ok(permit) => permit.acquire_within(world.weather.ttl * 400).await,
            Err(error) => Err(error),
        };
        match granted {
            Ok(guard) => self.work_in_slot(semaphore, guard, asked).await,
            Err(error) => {
                let process = self.process;
                world.wrong(&format!("{process} waits for a permit in calm: {error}"));
            }
        }
    }

    /// The lock that asks for a permit.
    fn permit(&self, semaphore: &SimulatedSemaphore) -> Result<Lock> {
        self.locks.semaphore(semaphore.name.as_str(), semaphore.wished).counted()
    }

    /// Holds a permit that was asked for when the run had lasted so long.
    async fn work_in_slot(&self, semaphore: &SimulatedSemaphore, guard: Guard, asked: Duration) {
        let Some((slot, resource)) = semaphore.slot(&self.world, &guard) else { return };
        let attempt = self.world.asked(self.process, slot, Kind::Exclusive, asked);
        self.hold_as(attempt, (slot, Kind::Exclusive), guard, resource).await;
    }
}
