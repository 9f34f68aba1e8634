//! What is taken: a lock, or a permit of a semaphore.

use lockkit::{Error, Guard, Lock, Locks, Semaphore};

use super::message::{Order, Wait};
use crate::ending::{Failure, Own};
use crate::store;

pub(super) enum Wish {
    Lock(Lock),
    Permit(Semaphore),
}

impl Wish {
    pub(super) fn of(order: &Order, locks: &Locks) -> Self {
        match order.permits {
            Some(permits) => {
                let mut semaphore = locks.semaphore(&order.name, permits);
                if let Some(ttl) = order.ttl {
                    semaphore = semaphore.ttl(ttl);
                }
                if let Some(least) = order.hold_at_least {
                    semaphore = semaphore.hold_at_least(least);
                }
                Self::Permit(semaphore)
            }
            None => {
                let mut lock = locks.lock(&order.name);
                if order.is_shared {
                    lock = lock.shared();
                }
                if let Some(ttl) = order.ttl {
                    lock = lock.ttl(ttl);
                }
                if let Some(least) = order.hold_at_least {
                    lock = lock.hold_at_least(least);
                }
                Self::Lock(lock)
            }
        }
    }

    /// Takes it; what is held is told with its holder.
    pub(super) async fn take(&self, wait: Wait) -> Result<Guard, Failure> {
        match wait {
            Wait::AsLongAsItTakes => Ok(match self {
                Self::Lock(lock) => lock.acquire().await,
                Self::Permit(semaphore) => semaphore.acquire().await,
            }?),
            Wait::AtMost(limit) => Ok(match self {
                Self::Lock(lock) => lock.acquire_within(limit).await,
                Self::Permit(semaphore) => semaphore.acquire_within(limit).await,
            }?),
            Wait::No => {
                let taken = match self {
                    Self::Lock(lock) => lock.try_acquire().await,
                    Self::Permit(semaphore) => semaphore.try_acquire().await,
                };
                match taken? {
                    Some(guard) => Ok(guard),
                    None => Err(self.held().await),
                }
            }
        }
    }

    /// Says who holds, where the store tells.
    async fn held(&self) -> Failure {
        let seen = async {
            match self {
                Self::Lock(lock) => lock.inspect().await,
                Self::Permit(semaphore) => semaphore.inspect().await,
            }
        };
        let seen = store::answer(seen).await.ok();
        let holder = seen.and_then(|seen| seen.holders.into_iter().next());
        let failure = Failure::from(Error::timed_out(holder));
        Failure::new(Own::Held, failure.line.replace("timed out: ", ""))
    }
}
