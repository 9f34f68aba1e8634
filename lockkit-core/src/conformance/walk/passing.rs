//! Time that passes: terms run out, and each grant that has ended is followed by the next one.

use std::time::Duration;

use tokio::task::JoinHandle;

use super::world::World;
use crate::conformance::stop::{Stop, Verdict, require};
use crate::{Fairness, Instant};

impl World<'_> {
    /// Lets time pass, and goes on until each grant that has ended was followed by the next one, and no
    /// term is about to end.
    pub(super) async fn pass(&mut self, until: Instant) -> Verdict {
        loop {
            let now = self.now();
            let mut next = (until > now).then_some(until);
            for name in 0..self.names.len() {
                if let Some(at) = self.look(name, now).await? {
                    next = Some(next.map_or(at, |next| next.min(at)));
                }
            }
            let Some(next) = next else { return Ok(()) };
            // While time passes, terms come to their end that were not about to.
            let ends = (0..self.names.len()).filter_map(|name| self.ends_of(name));
            let soon = ends.map(|(least, _)| least.saturating_sub(self.room * 2));
            let soon = soon.filter(|soon| *soon > now).min();
            self.cx.clock.sleep_until(soon.map_or(next, |soon| soon.min(next))).await;
        }
    }

    /// Brings a name up to now; when it must be looked at again.
    async fn look(&mut self, name: usize, now: Instant) -> Verdict<Option<Instant>> {
        if let Some(over) = self.names[name].over {
            return self.look_for_the_next(name, now, over).await;
        }
        let Some((least, most)) = self.ends_of(name) else {
            if let Some(place) = self.granted_waiter(name) {
                return Err(self.too_early(name, place, "while another request holds").await);
            }
            return Ok(None);
        };
        if now < least {
            let ended = self.granted_waiter(name);
            if let Some(place) = ended.filter(|_| self.now() < least) {
                return Err(self.too_early(name, place, "behind a holder that has its term").await);
            }
            let soon = least.saturating_sub(self.room * 2);
            return Ok((soon <= now).then_some(least));
        }
        if let Some(at) = self.names[name].holder.take() {
            self.tell(format!("the term of {} runs out", self.who(at)));
        }
        self.names[name].over = Some(most);
        Ok(Some(now))
    }

    /// Whether the next waiter of a name was granted, whose last grant is over by `over` at the latest.
    async fn look_for_the_next(
        &mut self,
        name: usize,
        now: Instant,
        over: Instant,
    ) -> Verdict<Option<Instant>> {
        let Some(head) = self.names[name].queue.first().copied() else {
            self.names[name].over = Some(over).filter(|over| now < *over);
            return Ok(self.names[name].over);
        };
        let Some(place) = self.granted_waiter(name) else {
            if now >= over.saturating_add(self.cx.wake_up()) {
                let head = self.who(head);
                return Err(Stop::late(format!("C8: the name is free, and {head} still waits")));
            }
            return Ok(Some(now.saturating_add(Duration::from_millis(1))));
        };
        let at = self.names[name].queue.remove(place);
        let who = self.who(at);
        let is_in_order = place == 0 || self.cx.guarantees.fairness != Fairness::Fifo;
        require!(is_in_order, "C10: {who} was granted, and stands {place} behind the first waiter");
        let Some(waits) = self.asked[at].waits.take() else { return Ok(Some(now)) };
        self.tell(format!("{who} is granted"));
        self.names[name].over = None;
        let (granted, came) = waits.await?;
        self.granted_at(at, granted?, came)?;
        Ok(Some(now))
    }

    /// The place in the queue of a waiter whose wait has ended.
    fn granted_waiter(&self, name: usize) -> Option<usize> {
        let has_ended =
            |at: &usize| self.asked[*at].waits.as_ref().is_some_and(JoinHandle::is_finished);
        self.names[name].queue.iter().position(has_ended)
    }

    /// Why a wait may not end yet, of the waiter in this place of a name's queue.
    async fn too_early(&mut self, name: usize, place: usize, when: &str) -> Stop {
        let at = self.names[name].queue[place];
        let what = format!("C1, C8: {} waits {when}", self.who(at));
        let Some(waits) = self.asked[at].waits.take() else { return Stop::failed(what) };
        match waits.await {
            Ok((Ok(grant), _)) => {
                Stop::failed(format!("{what}, and is granted token {}", grant.token))
            }
            Ok((Err(error), _)) => Stop::error(&error, what),
            Err(error) => error.into(),
        }
    }
}
