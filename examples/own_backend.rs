//! A whole backend with its suite, on the public API alone: `cargo run --example own_backend`
//!
//! Each name has a line of requests, as at etcd: who is first holds, a place is kept for a ttl, its
//! ticket is the token. With `BROKEN=1` before the command, a release ends whoever is first.
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::{any::Any, collections::BTreeMap, env, future::pending, time::Duration};

use lockkit_core::conformance::{self, Fixture};
use lockkit_core::{
    Applied, Error, Exclusion, Expiry, Fairness, FencingToken, Grant, Guarantees, Instant, Lease,
    LockName, LockProvider, LossReason, Operator, Request, RequestId, Result, StoreSays, Term,
    TtlRange, WakeUp, async_trait,
};

const POLL: Duration = Duration::from_millis(5); // how often a waiter asks again

/// The store and its client; `true`: broken.
#[derive(Clone, Debug, Default)]
pub struct OwnBackend(pub bool, Arc<Mutex<BTreeMap<LockName, Line>>>);

/// The last ticket, kept for ever (C4), and whoever stands there: with its ticket, and its end (C11).
type Line = (u64, Vec<(RequestId, u64, Instant)>);

impl OwnBackend {
    /// One step of the store: on the line of a request's name, from the place of the request.
    fn step<T>(&self, of: &Request, step: impl FnOnce(&mut Line, Option<usize>) -> T) -> T {
        let mut names = self.1.lock().expect("no step panics");
        let line = names.entry(of.name().clone()).or_default();
        line.1.retain(|(_, _, end)| of.clock().now() < *end);
        let place = line.1.iter().position(|(id, _, _)| *id == of.id());
        step(line, place)
    }

    /// Keeps the request's place (C2) or takes the last one (C10), with the grant of who is first.
    fn ask(&self, request: &Request, enters: fn(usize) -> bool) -> Option<(usize, Grant)> {
        let term = Term { sent: request.clock().now(), ttl: Some(request.ttl()) }; // before it (C5)
        let (place, ticket) = self.step(request, |(last, line), place| {
            let place = place.or(Some(line.len()).filter(|length| enters(*length)))?;
            if place == line.len() {
                *last += 1;
                line.push((request.id(), *last, term.sent));
            }
            line[place].2 = term.sent.saturating_add(request.ttl());
            Some((place, line[place].1))
        })?;
        let lease = OwnLease(self.clone(), request.clone());
        Some((place, Grant::new(FencingToken::new(ticket).ok()?, term, lease)))
    }
}

#[async_trait]
impl LockProvider for OwnBackend {
    fn guarantees(&self) -> Guarantees {
        let mut guarantees = Guarantees::new(Exclusion::OneProcess, Expiry::Ttl(TtlRange::ANY));
        (guarantees.fairness, guarantees.wake_up) = (Fairness::Fifo, WakeUp::Poll(POLL));
        guarantees
    }
    async fn try_acquire(&self, request: &Request) -> Result<Option<Grant>> {
        let first = self.ask(request, |length| length == 0).filter(|(place, _)| *place == 0);
        Ok(first.map(|(_, grant)| grant))
    }
    async fn acquire(&self, request: &Request) -> Result<Grant> {
        let mut enters: fn(usize) -> bool = |_| true;
        while let Some((place, grant)) = self.ask(request, enters) {
            if place == 0 {
                return Ok(grant);
            }
            request.report(StoreSays::Held(None)); // so that a time-out is no outage (C8)
            request.clock().sleep(POLL).await;
            enters = |_| false; // a place that was withdrawn is not taken again (C9)
        }
        Err(Error::unavailable(Applied::No, "the request was withdrawn"))
    }
    async fn withdraw(&self, request: &Request) -> Result<()> {
        self.step(request, |(_, line), place| place.map(|place| line.remove(place)));
        Ok(())
    }
    fn operator(&self) -> Option<&dyn Operator> {
        None // so C16 is not claimed
    }
    async fn close(&self) -> Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
struct OwnLease(OwnBackend, Request);
#[async_trait]
impl Lease for OwnLease {
    async fn renew(&self) -> Result<Term> {
        let renewed = self.0.ask(&self.1, |_| false);
        renewed.map(|(_, grant)| grant.term).ok_or(Error::lost(LossReason::Removed))
    }
    async fn lost(&self) -> LossReason {
        pending().await // this store has no signal of its own (C7)
    }
    async fn release(&self) -> Result<()> {
        let ended = self.0.step(&self.1, |(_, line), place| {
            let place = if self.0.0 && !line.is_empty() { Some(0) } else { place };
            place.map(|place| line.remove(place))
        });
        ended.map(drop).ok_or(Error::lost(LossReason::Removed))
    }
    fn native(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        None
    }
}

#[async_trait]
impl Fixture for OwnBackend {
    async fn connect(&self) -> Result<Arc<dyn LockProvider>> {
        Ok(Arc::new(self.clone()))
    }
}

fn main() -> ExitCode {
    conformance::main(OwnBackend(env::var_os("BROKEN").is_some(), Arc::default()))
}
