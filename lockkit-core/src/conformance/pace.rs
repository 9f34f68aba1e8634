//! The pace of a store: what its calls take, and for how long a case goes on.

use std::time::Duration;

use super::context::Context;
use super::stop::{Verdict, require_in_time};
use crate::{Clock, Instant, WakeUp};

/// How often the calls are made that are measured.
const MEASURED: u32 = 3;
/// The longest that all of them may take: a store that does not answer is for the cases to find.
const PATIENCE: Duration = Duration::from_secs(10);

/// The time that a case gives to what it repeats.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    clock: Clock,
    end: Instant,
}

impl Budget {
    pub(super) fn is_spent(&self) -> bool {
        self.clock.now() >= self.end
    }
}

impl Context {
    /// The same context, which knows what a call on the store takes.
    pub(super) async fn at_its_pace(mut self) -> Self {
        let measured = tokio::time::timeout(PATIENCE, self.measured()).await;
        // A call that fails here fails in the case too.
        let measured = measured.ok().and_then(Result::ok).unwrap_or_default();
        self.notes.calls().begin();
        // The noise covers a call that takes a moment.
        self.call = measured.saturating_sub(self.noise() / 25);
        self
    }

    /// What the slowest of an attempt, a release and a withdrawal takes, where the machine does not
    /// hold it up.
    async fn measured(&self) -> Verdict<Duration> {
        let mut least = Duration::MAX;
        for _ in 0..MEASURED {
            let request = self.request("measured")?;
            let began = self.clock.now();
            let grant = self.granted(&*self.provider, &request).await?;
            let granted = self.clock.now();
            grant.lease.release().await?;
            let released = self.clock.now();
            self.provider.withdraw(&request).await?;
            let spans = [(began, granted), (granted, released), (released, self.clock.now())];
            let slowest = spans.into_iter().map(|(from, to)| to.saturating_since(from)).max();
            least = least.min(slowest.unwrap_or_default());
        }
        Ok(least)
    }

    /// The time for something that takes a call or two, and what a machine adds that is not busy.
    pub(super) fn moment(&self) -> Duration {
        self.noise() / 5 + 2 * self.call
    }

    /// How long a waiter is given to come where the store cannot tell of it.
    pub(super) fn arrival(&self) -> Duration {
        Duration::from_millis(20) + 2 * self.call
    }

    /// How often a waiter asks again, as declared; zero: it is told.
    pub(super) const fn poll(&self) -> Duration {
        match self.guarantees.wake_up {
            WakeUp::Push => Duration::ZERO,
            WakeUp::Poll(every) => every,
        }
    }

    /// That the quickest of these waiters was granted within the declared wake-up: a machine that is busy
    /// does not hold up all of them, and a waiter that is not told asks by itself much later.
    pub(super) fn require_prompt(&self, what: &str, took: &[Duration]) -> Verdict {
        let (least, declared) = (took.iter().min().copied().unwrap_or_default(), self.poll());
        let bound = declared + self.moment();
        require_in_time!(
            least <= bound,
            "{what} was granted after {least:?} at the earliest, declared are {declared:?}"
        );
        Ok(())
    }

    /// The ttl of leases that nothing renews over some calls on them.
    pub(super) fn patient_ttl(&self) -> Duration {
        self.fit(self.ttl() + 20 * self.call)
    }

    /// The time for what a case repeats: a slow store does it less often, not for longer.
    pub(super) fn budget(&self) -> Budget {
        let clock = self.clock.clone();
        // In virtual time, as much as leaves the case time to end; in real time, what its author waits.
        let time = if self.is_virtual() { self.limit() / 2 } else { self.case_limit * 3 / 2 };
        let end = clock.now().saturating_add(time);
        Budget { clock, end }
    }
}
