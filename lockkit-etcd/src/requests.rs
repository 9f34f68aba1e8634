//! What this client knows of its requests: what of each may be in the store, now or later, and how that
//! is removed.

use std::sync::Arc;
use std::time::Duration;

use lockkit_core::kit::{self, Notes, call_limit, within};
use lockkit_core::{Error, Result};

use crate::endpoints::{CallOutcome, Endpoints};
use crate::error::{Failure, ROOM};
use crate::own::Own;
use crate::protocol::{Keys, revision_of, send};
use crate::session::{Session, Use};
use crate::slots::{Left, Phase, Removal, Stay};

/// What a cluster without room leaves of a removal.
const IN_DOUBT: &str = "the key is removed, and what may still come of its request cannot be refused: etcd's space \
    is used up";

/// The requests of a client that a call or a lease works on, or that may have left a key.
pub(crate) type Requests = kit::Requests<Trace>;
/// A call, or a lease, of a request.
pub(crate) type Entry = kit::Entry<Trace>;
pub(crate) type Record = kit::Record<Trace>;

/// What of a request may be in the store.
#[derive(Debug, Default)]
pub(crate) struct Trace(Option<Place>);

/// Where that is, or may come to be.
#[derive(Debug)]
struct Place {
    own: Arc<Own>,
    on: Use,
    stay: Stay,
}

/// A sending of what may leave a key; dropped, it has no answer.
#[derive(Debug)]
pub(crate) struct Sending<'a> {
    record: &'a Record,
    pub(crate) own: Arc<Own>,
    /// The guard's revision, which it compares.
    pub(crate) guard: i64,
    /// Whether nothing was sent before it.
    pub(crate) is_first: bool,
    /// Whether another one of the same call may still be applied, whatever this one's answer says.
    pub(crate) is_late: bool,
    left: Option<Left>,
}

/// A removal under way: no put of the request is sent before its end. Dropped, it has no answer.
#[derive(Debug)]
pub(crate) struct Leaving<'a> {
    record: &'a Record,
    pub(crate) own: Arc<Own>,
    pub(crate) on: Use,
    pub(crate) removal: Removal,
    was_sent: bool,
}

/// What a removal did in the store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Removed {
    /// Whether the key was there.
    pub(crate) was_there: bool,
    /// As of which revision nothing is there and nothing will come; `None`: a put may still come.
    all_at: Option<i64>,
}

/// A request whose removal is about to begin because no call works on it any more: one that comes back waits.
#[derive(Debug)]
pub(crate) struct Orphan {
    record: Arc<Record>,
    own: Arc<Own>,
}

impl Trace {
    /// Its place, if this is still what lies there.
    fn of(&mut self, own: &Arc<Own>) -> Option<&mut Place> {
        self.0.as_mut().filter(|place| Arc::ptr_eq(&place.own, own))
    }

    fn phase(&self) -> Option<Phase> {
        self.0.as_ref().map(|place| place.stay.phase())
    }
}

impl Notes for Trace {
    fn are_kept(&self) -> bool {
        self.0.is_some()
    }
}

/// The session on which a request has its place, while that lives and no removal has begun.
pub(crate) fn session_of(record: &Record) -> Option<Use> {
    let data = record.data();
    let place = data.0.as_ref().filter(|place| place.stay.phase() == Phase::Taken)?;
    (!place.on.has_ended()).then(|| place.on.clone())
}

/// Counts a sending of the request's put, on this session, in the slot that it has or takes. It waits for a removal
/// that is under way, and removes what one without an answer may still remove. `None`: the request has its place on
/// another session, or this one takes no new places.
///
/// # Errors
/// `Unavailable` (not applied): the request was withdrawn. Others: of that removal.
pub(crate) async fn sending<'a>(
    requests: &Requests,
    endpoints: &Endpoints,
    keys: &Keys,
    record: &'a Record,
    session: &Use,
) -> Result<Option<Sending<'a>>> {
    loop {
        match count(keys, record, session)? {
            Count::Counted(sending) => return Ok(Some(sending)),
            Count::Elsewhere => return Ok(None),
            Count::InDoubt => clear(requests, endpoints, record).await?,
            Count::Leaving => tokio::select! {
                biased;
                () = record.withdrawn() => return Err(Error::withdrawn()),
                () = record.wait_for(|trace| (trace.phase() != Some(Phase::Leaving)).then_some(())) => {}
            },
        }
    }
}

/// What came of counting a sending.
#[derive(Debug)]
enum Count<'a> {
    Counted(Sending<'a>),
    /// Another session is to be asked for.
    Elsewhere,
    /// A removal is under way.
    Leaving,
    /// One has had no answer.
    InDoubt,
}

/// Counts a sending, unless a removal is in between.
fn count<'a>(keys: &Keys, record: &'a Record, session: &Use) -> Result<Count<'a>> {
    let mut data = record.data();
    // With the count, so that a withdrawal finds the sending, or there is none.
    if data.is_withdrawn() {
        return Err(Error::withdrawn());
    }
    let place = match &mut data.for_others().0 {
        Some(place) if !place.on.has_ended() => place,
        _ if session.is_retired() => return Ok(Count::Elsewhere),
        none => {
            let request = record.request();
            let slot = session.slots().take(request.name());
            let own = Own::new(keys, session.lease, slot, request);
            none.insert(Place { own: Arc::new(own), on: session.clone(), stay: Stay::new(slot) })
        }
    };
    match place.stay.phase() {
        Phase::Leaving => return Ok(Count::Leaving),
        Phase::InDoubt => return Ok(Count::InDoubt),
        // Its key is in the queue there, or it holds there.
        Phase::Taken if !Arc::ptr_eq(&place.on, session) => return Ok(Count::Elsewhere),
        Phase::Taken => {}
    }
    let is_first = place.stay.send();
    let (own, guard) = (Arc::clone(&place.own), session.slots().guard(place.own.slot));
    Ok(Count::Counted(Sending { record, own, guard, is_first, is_late: false, left: None }))
}

impl Sending<'_> {
    /// The store has answered: what that shows of the request's key.
    pub(crate) fn answered(mut self, left: Left) {
        self.left = Some(left);
    }
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        let mut data = self.record.data();
        if let Some(place) = data.of(&self.own) {
            let is_answered = self.left.is_some() && !self.is_late;
            place.stay.sent(self.left.unwrap_or(Left::Nothing), is_answered);
        }
    }
}

/// Begins to remove what a request has in the store; `None`: nothing.
pub(crate) fn leaving(record: &Record) -> Option<Leaving<'_>> {
    leaving_if(record, |_| true)
}

/// Begins to remove the key that `created` made in this use of a slot, and what else may come of the use; `None`:
/// it is gone. A later key of the same use is of a later grant, or of a place in the queue.
pub(crate) fn leaving_as<'a>(
    record: &'a Record,
    own: &Arc<Own>,
    created: i64,
) -> Option<Leaving<'a>> {
    leaving_if(record, |place| Arc::ptr_eq(&place.own, own) && place.stay.is_newest(created))
}

fn leaving_if(record: &Record, is_meant: impl FnOnce(&Place) -> bool) -> Option<Leaving<'_>> {
    let mut data = record.data();
    if !data.0.as_ref().is_some_and(is_meant) {
        return None;
    }
    let place = data.0.as_mut()?;
    place.stay.leave();
    let (own, on, removal) = (Arc::clone(&place.own), place.on.clone(), place.stay.removal());
    Some(Leaving { record, own, on, removal, was_sent: false })
}

impl Leaving<'_> {
    /// Has the store remove it, and ends it once nothing may come any more; `None`: nothing was to be removed.
    ///
    /// A cluster whose space is used up takes no put, and so no touch. The key is deleted all the same, and the slot
    /// stays in doubt until a later removal.
    pub(crate) async fn send(
        &mut self,
        requests: &Requests,
        endpoints: &Endpoints,
        limit: Duration,
    ) -> Option<CallOutcome<Removed>> {
        let txn = self.own.remove(self.removal)?;
        self.was_sent = true;
        let clock = self.record.request().clock();
        let end = clock.now().saturating_add(limit);
        let mut answer = endpoints.call(clock, limit, send(&txn)).await;
        let mut is_all = true;
        let touches = self.removal == (Removal::ByValue { touches: true });
        if touches
            && matches!(answer.value, Err(Failure::Full(_)))
            && let Some(delete) = self.own.remove(Removal::ByValue { touches: false })
        {
            let left = end.saturating_since(clock.now());
            answer = endpoints.call(clock, left, send(&delete)).await;
            // The one that was refused may have been applied.
            (answer.late, is_all) = (true, false);
        }
        let removed = answer.value.and_then(|answer| {
            let now = revision_of(&answer);
            let now = now.map_err(|error| Failure::Unclear(error.to_string()))?;
            Ok(Removed { was_there: answer.succeeded(), all_at: is_all.then_some(now) })
        });
        match &removed {
            Ok(Removed { all_at: Some(now), .. }) => self.ended(requests, *now),
            // The key was on that lease.
            Err(Failure::NoLease) => {
                self.on.end();
                self.ended(requests, 0);
            }
            Err(failure) if failure.is_lasting() => self.retire(),
            _ => {}
        }
        Some(CallOutcome { value: removed, late: answer.late })
    }

    /// Nothing of the request is in the store, or will be: `touched` at this revision, if it was.
    fn ended(&self, requests: &Requests, revision: i64) {
        {
            let mut data = self.record.data();
            if data.of(&self.own).is_some() {
                data.0 = None;
                let (mut slots, slot) = (self.on.slots(), self.own.slot);
                if self.removal == (Removal::ByValue { touches: true }) {
                    slots.touched(slot, revision);
                }
                slots.free(self.record.request().name(), slot);
            }
        }
        requests.forget(self.record.request().id());
    }

    /// The store refuses to remove the key: that ends with its session.
    fn retire(&self) {
        if let Some(place) = self.record.data().of(&self.own) {
            place.on.let_go();
        }
        self.on.retire();
    }
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.record.data().of(&self.own) {
            place.stay.stays(self.was_sent);
        }
    }
}

/// Whether this is still where the request is: no removal has begun.
pub(crate) fn is_placed(record: &Record, own: &Arc<Own>) -> bool {
    let place = record.data();
    place.0.as_ref().is_some_and(|it| Arc::ptr_eq(&it.own, own) && it.stay.phase() == Phase::Taken)
}

/// Whether the key of this use, if it is there, can only be the one that `created` made.
pub(crate) fn is_the_only_one(record: &Record, own: &Arc<Own>, created: i64) -> bool {
    let data = record.data();
    let place = data.0.as_ref().filter(|place| Arc::ptr_eq(&place.own, own));
    place.is_some_and(|place| place.stay.is_newest(created) && !place.stay.is_in_doubt())
}

/// Forgets the requests that ended with their sessions.
pub(crate) fn prune(requests: &Requests) {
    requests.prune(|trace| trace.0.as_ref().is_none_or(|place| place.on.has_ended()));
}

/// The sessions that live and may have a request's key on them.
pub(crate) fn live_sessions(requests: &Requests) -> Vec<Arc<Session>> {
    let session = |record: Arc<Record>| record.data().0.as_ref().map(|place| Arc::clone(&place.on));
    let sessions = requests.all().into_iter().filter_map(session);
    sessions.filter(|session| !session.has_ended()).collect()
}

/// Removes what a request has in the store, and has refused what may still come of it.
///
/// It waits a while for the answers to what is under way: most come, and then nothing has to be refused.
pub(crate) async fn clear(
    requests: &Requests,
    endpoints: &Endpoints,
    record: &Record,
) -> Result<()> {
    let (clock, limit) = (record.request().clock(), call_limit(record.request().ttl()));
    let end = clock.now().saturating_add(limit);
    let are_under_way = |trace: &Trace| trace.0.as_ref().is_some_and(|it| it.stay.are_under_way());
    let answers = record.wait_for(|trace| (!are_under_way(trace)).then_some(()));
    within(clock, limit / 4, answers).await;
    let Some(mut leaving) = leaving(record) else { return Ok(()) };
    let session = leaving.on.clone();
    if session.is_past() {
        session.revoke(endpoints).await?;
    } else if !session.has_ended() {
        let left = end.saturating_since(clock.now());
        match leaving.send(requests, endpoints, left).await.map(|outcome| outcome.value) {
            Some(Ok(Removed { all_at: Some(_), .. }) | Err(Failure::NoLease)) => return Ok(()),
            Some(Ok(Removed { all_at: None, .. })) => return Err(Error::rejected(IN_DOUBT, ROOM)),
            Some(Err(failure)) => return Err(failure.into_error(true)),
            None => {}
        }
    }
    leaving.ended(requests, 0);
    Ok(())
}

/// The requests on a lease that no call has worked on for so long: their driver has ended.
pub(crate) fn orphans(requests: &Requests, lease: i64, age: Duration) -> Vec<Orphan> {
    let mut places = Vec::new();
    let orphans = requests.orphans(age, |trace| {
        let place = trace.0.as_mut().filter(|place| place.on.lease == lease);
        let Some(place) = place.filter(|place| place.stay.phase() != Phase::Leaving) else {
            return false;
        };
        place.stay.leave();
        places.push(Arc::clone(&place.own));
        true
    });
    let orphans = orphans.into_iter().zip(places);
    orphans.map(|(record, own)| Orphan { record, own }).collect()
}

impl Orphan {
    /// Removes what the request has in the store.
    pub(crate) async fn sweep(self, requests: &Requests, endpoints: &Endpoints) {
        drop(clear(requests, endpoints, &self.record).await);
    }
}

impl Drop for Orphan {
    fn drop(&mut self) {
        if let Some(place) = self.record.data().of(&self.own) {
            place.stay.stays(false);
        }
    }
}
