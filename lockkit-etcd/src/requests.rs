//! What this client knows of its requests: what of each may be in the store, now or later, and how that
//! is removed.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::KeyValue;
use lockkit_core::kit::{self, Notes, call_limit, within};
use lockkit_core::{Clock, Error, Result};

use crate::endpoints::Endpoints;
use crate::error::Failure;
use crate::protocol::{Own, reads, revision_of, send};
use crate::session::{Session, Use};

/// The requests of a client that a call or a lease works on, or that may have left a key.
pub(crate) type Requests = kit::Requests<Trace>;
/// A call, or a lease, of a request.
pub(crate) type Entry = kit::Entry<Trace>;
pub(crate) type Record = kit::Record<Trace>;

/// What of a request may be in the store.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    /// Its key, and the session on which that is, or may come to be.
    place: Option<(Use, Vec<u8>)>,
    /// How many sendings there were.
    sent: usize,
    /// How many of them have not ended yet.
    under_way: usize,
    sweep: Sweep,
}

/// A sending of what may leave a key; dropped, it has no answer.
pub(crate) struct Sending<'a> {
    record: &'a Record,
    sending: Option<kit::Sending<'a, Trace>>,
}

/// What is known of a removal that began because no call worked on the request any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sweep {
    /// There is none that might still be applied.
    #[default]
    Over,
    UnderWay,
    /// It had no answer, and may be applied until the session key is touched.
    InDoubt,
}

/// A sweep under way: a request that comes back waits for its end.
#[derive(Debug)]
pub(crate) struct Sweeping {
    record: Arc<Record>,
    is_answered: bool,
}

impl Trace {
    /// Whether nothing was ever sent.
    pub(crate) const fn is_new(&self) -> bool {
        self.sent == 0
    }
}

impl Notes for Trace {
    fn are_kept(&self) -> bool {
        self.place.is_some()
    }
}

/// Notes the request's key and the session that it is to live on, and counts a sending.
///
/// # Errors
/// `Unavailable` (not applied): the request was withdrawn.
pub(crate) fn sending<'a>(record: &'a Record, session: &Use, key: &[u8]) -> Result<Sending<'a>> {
    {
        let mut trace = record.data();
        (trace.sent, trace.under_way) = (trace.sent + 1, trace.under_way + 1);
        // Before it is counted: a withdrawal that finds the sending finds the place too.
        trace.place = Some((session.clone(), key.to_vec()));
    }
    let mut sending = Sending { record, sending: None };
    sending.sending = Some(record.send()?);
    Ok(sending)
}

impl Sending<'_> {
    /// The store has answered: this sending does not arrive any more.
    pub(crate) fn answered(mut self) {
        self.sending.take().into_iter().for_each(kit::Sending::answered);
    }
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        // First, so that a withdrawal that waits for its end finds whether it was answered.
        drop(self.sending.take());
        self.record.data().under_way -= 1;
    }
}

/// The store will never apply this sending: a request that sent nothing else has left nothing.
pub(crate) fn refused(record: &Record, sending: Sending<'_>) {
    {
        let mut trace = record.data();
        if trace.sent == 1 {
            trace.place = None;
        }
    }
    sending.answered();
}

/// Nothing of this request is in the store, or will be.
pub(crate) fn is_clear(requests: &Requests, record: &Record) {
    record.data().place = None;
    record.settle();
    requests.forget(record.request().id());
}

/// The store refuses to remove the request's key: that ends with its session.
pub(crate) fn retire(record: &Record, session: &Session) {
    if let Some((on, _)) = &mut record.data().place {
        on.let_go();
    }
    session.retire();
}

/// Forgets the requests that ended with their sessions.
pub(crate) fn prune(requests: &Requests) {
    requests.prune(|trace| trace.place.as_ref().is_none_or(|(on, _)| on.has_ended()));
}

/// The sessions that live and may have a request's key on them.
pub(crate) fn live_sessions(requests: &Requests) -> Vec<Arc<Session>> {
    let session = |record: Arc<Record>| place(&record).map(|(on, _)| Arc::clone(&on));
    let sessions = requests.all().into_iter().filter_map(session);
    sessions.filter(|session| !session.has_ended()).collect()
}

/// Removes what a request has in the store, and has refused what may still come of it.
///
/// It waits a while for the answers to what is under way: most come, and then nothing has to be refused. A refusal
/// touches the session key, and costs the other requests of the session a round trip each.
pub(crate) async fn clear(
    requests: &Requests,
    endpoints: &Endpoints,
    record: &Record,
) -> Result<()> {
    let (clock, limit) = of(record);
    let end = clock.now().saturating_add(limit);
    let ended = record.wait_for(|trace| (trace.under_way == 0).then_some(()));
    within(clock, limit / 4, ended).await;
    let Some((session, key)) = place(record) else { return Ok(()) };
    if session.is_past() {
        session.revoke(endpoints).await?;
    } else if !session.has_ended() {
        let own = Own { key: &key, lease: session.lease, session: &session.key };
        let touch = record.is_unsettled();
        let left = end.saturating_since(clock.now());
        match endpoints.call(clock, left, send(&own.withdraw(touch))).await.value {
            Ok(answer) if touch => session.touched(revision_of(&answer)?),
            Ok(_) => {}
            // The key was on that lease.
            Err(Failure::NoLease) => session.end(),
            Err(failure) => {
                if failure.is_lasting() {
                    retire(record, &session);
                }
                return Err(failure.into_error(true));
            }
        }
    }
    is_clear(requests, record);
    Ok(())
}

/// Waits until no sweep is under way that could remove what the request sends from now on.
///
/// # Errors
/// `Unavailable` (not applied): the request was withdrawn. Others: of the call that makes the store refuse
/// a sweep without an answer.
pub(crate) async fn outlive_sweep(endpoints: &Endpoints, record: &Record) -> Result<()> {
    let ended = |trace: &mut Trace| (trace.sweep != Sweep::UnderWay).then_some(trace.sweep);
    let sweep = tokio::select! {
        biased;
        () = record.withdrawn() => return Err(Error::withdrawn()),
        sweep = record.wait_for(ended) => sweep,
    };
    if sweep == Sweep::Over {
        return Ok(());
    }
    if let Some((session, _)) = place(record).filter(|(session, _)| !session.has_ended()) {
        let own = Own { key: &[], lease: session.lease, session: &session.key };
        let (clock, limit) = of(record);
        match endpoints.call(clock, limit, send(&own.bar())).await.value {
            Ok(answer) => session.touched(revision_of(&answer)?),
            Err(Failure::NoLease) => session.end(),
            Err(failure) => return Err(failure.into_error(true)),
        }
    }
    record.data().sweep = Sweep::Over;
    record.settle();
    Ok(())
}

/// The requests on a lease that no call has worked on for so long, to be swept: their driver has ended.
pub(crate) fn orphans(requests: &Requests, lease: i64, age: Duration) -> Vec<Sweeping> {
    let orphans = requests.orphans(age, |trace| {
        let is_on = trace.place.as_ref().is_some_and(|(on, _)| on.lease == lease);
        let is_due = is_on && trace.sweep != Sweep::UnderWay;
        if is_due {
            trace.sweep = Sweep::UnderWay;
        }
        is_due
    });
    orphans.into_iter().map(|record| Sweeping { record, is_answered: false }).collect()
}

impl Sweeping {
    /// Removes the request's key.
    pub(crate) async fn run(mut self, requests: &Requests, endpoints: &Endpoints) {
        if let Ok(is_gone) = self.send(endpoints).await {
            if is_gone {
                is_clear(requests, &self.record);
            }
            self.is_answered = true;
        }
    }

    /// Whether the key is gone.
    async fn send(&self, endpoints: &Endpoints) -> Result<bool> {
        let place = place(&self.record).filter(|(session, _)| !session.has_ended());
        let Some((session, key)) = place else { return Ok(true) };
        let own = Own { key: &key, lease: session.lease, session: &session.key };
        let (txn, limit) = (own.sweep(session.revision()), call_limit(session.ttl));
        match endpoints.call(&session.clock, limit, send(&txn)).await.value {
            Ok(answer) if answer.succeeded() => {
                session.touched(revision_of(&answer)?);
                Ok(true)
            }
            Ok(answer) => {
                let found = reads(&answer);
                let newest = found.first().and_then(|found| found.kvs().first());
                session.touched(newest.map_or(0, KeyValue::mod_revision));
                Ok(false)
            }
            Err(Failure::NoLease) => {
                session.end();
                Ok(true)
            }
            Err(failure) => {
                if failure.is_lasting() {
                    retire(&self.record, &session);
                }
                Err(failure.into_error(true))
            }
        }
    }
}

impl Drop for Sweeping {
    fn drop(&mut self) {
        self.record.data().sweep = if self.is_answered { Sweep::Over } else { Sweep::InDoubt };
    }
}

/// The request's key, and the session on which it is, or may come to be.
fn place(record: &Record) -> Option<(Use, Vec<u8>)> {
    record.data().place.clone()
}

/// The clock of a request, and the limit of a call about it.
fn of(record: &Record) -> (&Clock, Duration) {
    let request = record.request();
    (request.clock(), call_limit(request.ttl()))
}
