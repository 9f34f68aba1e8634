//! How long a name stays taken after the end of its guard.

use std::time::Duration;

use crate::{Instant, LossReason};

/// How long a caller wants the name to stay taken after the end of its guard.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rests {
    /// Since the grant.
    pub(crate) at_least: Option<Duration>,
    /// Since a loss.
    pub(crate) after_loss: Option<Duration>,
}

/// The same of one grant.
#[derive(Debug)]
pub(super) struct Resting {
    /// The end of its minimum hold.
    at_least: Option<Instant>,
    after_loss: Option<Duration>,
}

impl Rests {
    /// For a grant that has come by `now`, which is after the store made it. `None`: its name is free with its end.
    pub(super) fn of_grant(self, now: impl FnOnce() -> Instant) -> Option<Box<Resting>> {
        let Self { at_least, after_loss } = self;
        (at_least.is_some() || after_loss.is_some()).then(|| {
            let at_least = at_least.map(|least| now().saturating_add(least));
            Box::new(Resting { at_least, after_loss })
        })
    }
}

impl Resting {
    /// Until when the name stays taken once the guard has ended for this reason; `None`: it is free.
    pub(super) fn until(
        &self,
        reason: LossReason,
        now: Instant,
        term_end: Option<Instant>,
    ) -> Option<Instant> {
        let after = |loss: Option<Instant>| {
            Some(loss?.saturating_add(self.after_loss?)).filter(|until| *until > now)
        };
        match reason {
            LossReason::Released | LossReason::Closed => self.at_least,
            LossReason::MaxHold => self.at_least.max(after(Some(now))),
            // The store counts from there too.
            LossReason::Expired => after(term_end),
            // The store has ended it.
            _ => None,
        }
        .filter(|until| *until > now)
    }

    /// When the store ends the grant by itself, whose term ends then.
    pub(super) fn expires(&self, term_end: Instant) -> Instant {
        term_end.saturating_add(self.after_loss.unwrap_or_default())
    }
}
