//! What a grant gives, and how it ends.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::{Error, FencingToken, Instant, LossReason, Result};

/// A store's answer that the caller holds the name now.
#[derive(Debug)]
#[non_exhaustive]
pub struct Grant {
    /// The fencing token, fixed with the grant.
    pub token: FencingToken,
    /// From when, and for how long, the store granted.
    pub term: Term,
    /// What keeps, ends and watches the grant.
    pub lease: Box<dyn Lease>,
    /// Of a counted grant: the smallest number, from 0, that no other live grant of its semaphore had when it was
    /// granted. Fixed with the grant.
    pub slot: Option<u32>,
}

impl Grant {
    /// A grant of these parts.
    pub fn new(token: FencingToken, term: Term, lease: impl Lease) -> Self {
        Self { token, term, lease: Box::new(lease), slot: None }
    }

    /// The same grant with another lease around its own: for a provider that decorates another one.
    #[must_use]
    pub fn wrapped<L: Lease>(self, wrap: impl FnOnce(Box<dyn Lease>) -> L) -> Self {
        Self { lease: Box::new(wrap(self.lease)), ..self }
    }

    /// The same grant with its slot; `None` where it is no counted grant.
    #[must_use]
    pub fn with_slot(mut self, slot: impl Into<Option<u32>>) -> Self {
        self.slot = slot.into();
        self
    }
}

/// When the acknowledged request was sent, and the ttl that the store granted to it.
///
/// Upholds C5: a term counts from before the request left, never from its answer
/// (Gray and Cheriton, "Leases", SOSP 1989).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Term {
    /// Read from the request's clock before the acknowledged request was sent.
    pub sent: Instant,
    /// The ttl as granted; `None` where the store has no expiry.
    pub ttl: Option<Duration>,
}

/// One grant's life in the store.
///
/// Implementors decide no deadline and no margin: the driver does. Every method only ever touches
/// this grant (C6). Where the store has no expiry, dropping the lease releases it (C11).
#[async_trait]
pub trait Lease: fmt::Debug + Send + Sync + 'static {
    /// Extends the grant by its ttl, counted from before this call's request was sent.
    ///
    /// May overlap with itself, and may be coalesced over many leases. Upholds C5 and C6: it never
    /// brings an ended grant back.
    ///
    /// # Errors
    /// `Lost`: the store says that the grant has ended. `Unavailable`: no answer, or an ambiguous
    /// one; the driver tries again until the deadline.
    ///
    /// # Cancel safety
    /// Cancel-safe: dropped midway, the extension has happened or not.
    async fn renew(&self) -> Result<Term>;

    /// Completes when the store itself says that the grant has ended.
    ///
    /// Upholds C7: sticky and level-triggered, so it may be polled at any time and dropped between;
    /// pending for ever where the store sends no such signal.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    async fn lost(&self) -> LossReason;

    /// Completes while the store is out of reach, where the provider notices at once.
    ///
    /// The guard is then at risk until the next renewal is acknowledged, and no sooner lost than
    /// without it. Level-triggered; pending for ever where there is no such signal, as here.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    async fn out_of_reach(&self) {
        std::future::pending::<()>().await;
    }

    /// Ends the grant in the store.
    ///
    /// Upholds C6: a late or repeated delivery never touches a later grant. Repeated after it was
    /// acknowledged, it may answer `Ok` or `Lost`.
    ///
    /// # Errors
    /// `Lost`: the grant had ended before. `Unavailable`: no answer; it may be repeated.
    ///
    /// # Cancel safety
    /// Cancel-safe: dropped midway, the release has happened or not; the driver repeats it.
    async fn release(&self) -> Result<()>;

    /// Ends the holder's right to the grant, and has the store free the name by itself after `rest` from now, also if
    /// this process ends meanwhile; `false`: the store does not offer it, as here, and nothing has happened.
    ///
    /// Upholds C6: it touches exactly this grant, and never brings an ended one back. After it the grant is over for its
    /// request: no renewal and no replay extends it, and a waiter is granted after `rest`. It may be repeated, with what
    /// is left of `rest`, and a late delivery never makes the name free later than it was. A store that offers it
    /// declares [`MinimumHold::ByStore`](crate::MinimumHold::ByStore), and gives `true` for every grant.
    ///
    /// # Errors
    /// `Lost`: the grant had ended before. `Unavailable`: no answer; it may be repeated.
    ///
    /// # Cancel safety
    /// Cancel-safe: dropped midway, it has happened or not; the driver repeats it.
    async fn release_after(&self, rest: Duration) -> Result<bool> {
        let _ = rest;
        Ok(false)
    }

    /// Has every later grant of the name get a token greater than `token`, if this grant still holds.
    ///
    /// `true`: the token that the grant carries in the store was not greater, and is `token` from now on. `false`: it
    /// was greater, and stays. A quorum writes the token that it has chosen back to its members with this (C4). Its
    /// providers declare [`Guarantees::raises_tokens`](crate::Guarantees); the others do not offer it, as here.
    ///
    /// # Errors
    /// `Lost`: the grant has ended or rests, and nothing was raised. `Unavailable`: no answer, or an ambiguous one; it may be
    /// repeated. `Rejected`: not offered.
    ///
    /// # Cancel safety
    /// Cancel-safe: dropped midway, the raise has happened or not.
    async fn raise(&self, token: FencingToken) -> Result<bool> {
        Err(Error::rejected(
            format!("raising a grant to token {token}"),
            "use a store that declares Guarantees::raises_tokens",
        ))
    }

    /// The store's own data of this grant, for callers that fence inside the store; for example
    /// etcd's key and revision.
    ///
    /// Plain data, shared rather than borrowed: a guard must not keep the lease itself alive, or a
    /// store without expiry would stay locked after its driver has ended. Decorators forward it.
    fn native(&self) -> Option<Arc<dyn Any + Send + Sync>>;
}
