//! How long a caller waits, and the warning of a long wait.

use std::time::Duration;

use futures_util::future::BoxFuture;

use super::reaper::{finished, limited};
use super::shared::{Acquire, Shared, Wait};
use super::timing::call_limit;
use crate::{Clock, Error, FencingToken, Holder, Instant, Request, StoreSays};

/// How long the caller waits for an answer; after a whole ttl the log gets a warning.
pub(super) struct Patience<'a> {
    shared: &'a Shared,
    started: Instant,
    limit: Option<Instant>,
    warn_at: Option<Instant>,
    /// Whether the warning was put off, for the store is to be asked for it.
    is_put_off: bool,
    /// The warning for which the store is being asked.
    warning: Option<BoxFuture<'a, ()>>,
}

impl<'a> Patience<'a> {
    pub(super) fn new(shared: &'a Shared, wanted: &Acquire, started: Instant) -> Self {
        let limit = match wanted.wait {
            Wait::No => Some(call_limit(wanted.timing.ttl)),
            Wait::AtMost(limit) => Some(limit),
            Wait::Unlimited => None,
        };
        Self {
            shared,
            started,
            limit: limit.map(|limit| started.saturating_add(limit)),
            warn_at: Some(started.saturating_add(wanted.timing.ttl)),
            is_put_off: false,
            warning: None,
        }
    }

    /// Completes at the time limit, and warns meanwhile. Cancel-safe.
    pub(super) async fn ends(&mut self, request: &Request, failure: Option<&Error>) {
        let clock = &self.shared.clock;
        loop {
            tokio::select! {
                biased;
                () = reached(clock, self.limit) => return,
                () = reached(clock, self.warn_at) => self.warn(request, failure),
                () = finished(&mut self.warning) => self.warning = None,
            }
        }
    }

    /// Warns with what the waiter knows. Where it does not know the holder, the store is asked, but not at
    /// once: waiters that came together would ask together.
    fn warn(&mut self, request: &Request, failure: Option<&Error>) {
        self.warn_at = None;
        if !tracing::event_enabled!(target: "lockkit", tracing::Level::WARN) {
            return;
        }
        let word = request.last_word_at();
        let is_held = matches!(word, Some((StoreSays::Held(_), _)));
        // A failure that the store has not answered since.
        let failure = failure.filter(|_| !is_held).cloned();
        let known = match word {
            Some((StoreSays::Held(Some(holder)), at)) => Some((holder, at)),
            _ => None,
        };
        let operator = self.shared.provider.operator();
        match (known, operator) {
            (None, Some(_)) if !self.is_put_off => {
                self.is_put_off = true;
                self.warn_at = Some(self.shared.clock.now().saturating_add(put_off(request)));
            }
            (None, Some(operator)) => {
                let (shared, started, request) = (self.shared, self.started, request.clone());
                self.warning = Some(Box::pin(async move {
                    let (clock, limit) = (&shared.clock, call_limit(request.ttl()));
                    let seen = limited(clock, limit, operator.inspect(request.name())).await;
                    let holder = seen.ok().and_then(|seen| seen.holders.into_iter().next());
                    let known = holder.map(|holder| (holder, clock.now()));
                    tell(clock, &request, started, known, failure.as_ref());
                }));
            }
            (known, _) => {
                tell(&self.shared.clock, request, self.started, known, failure.as_ref());
            }
        }
    }
}

/// Up to a quarter of the ttl, and another for each request.
fn put_off(request: &Request) -> Duration {
    let [.., high, low] = request.id().to_bytes();
    request.ttl() / 4 * u32::from(u16::from_be_bytes([high, low])) / u32::from(u16::MAX)
}

/// One warning for a wait longer than the ttl: with the holder and its age as far as known and when the store
/// told of it, and with the last failure, unless the store has said since that another holds the name.
fn tell(
    clock: &Clock,
    request: &Request,
    started: Instant,
    known: Option<(Holder, Instant)>,
    failure: Option<&Error>,
) {
    let now = clock.now();
    let (holder, told_at) = known.unzip();
    let told_ago = told_at.map(|at| now.saturating_since(at));
    let age = holder.as_ref().and_then(|holder| holder.age).zip(told_ago);
    tracing::warn!(
        target: "lockkit", event = "long_wait", name = %request.name(), request = %request.id(),
        waited = ?now.saturating_since(started),
        holder = holder.as_ref().map(|holder| holder.label.as_str()),
        holder_token = holder.as_ref().and_then(|holder| holder.token).map(FencingToken::as_u64),
        holder_age = ?age.map(|(age, ago)| age.saturating_add(ago)),
        told_ago = ?told_ago,
        error = failure.map(tracing::field::display),
        "still waiting for a lock after a whole ttl",
    );
}

async fn reached(clock: &Clock, at: Option<Instant>) {
    match at {
        Some(at) => clock.sleep_until(at).await,
        None => std::future::pending().await,
    }
}
