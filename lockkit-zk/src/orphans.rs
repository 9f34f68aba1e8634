//! What is left of requests whose drivers ended without a word, as those of an ended runtime do.
//!
//! The session may be served by another runtime, and would keep their nodes for as long as it lives.

use std::sync::{Arc, Weak};
use std::time::Duration;

use lockkit_core::kit::REFUSED_FOR;
use lockkit_core::{Clock, Request};
use zookeeper_client::Client as Driver;

use crate::cleanup::removed;
use crate::client::Client;
use crate::place::{Known, Left, Place, Places};
use crate::session::Session;

/// A driver that waits for an outage to end asks again sooner than this.
const ORPHANED: Duration = Duration::from_secs(3);

/// A call that works on a request. Once the last one has ended, and has left something in the store,
/// the session removes that, unless another call comes in time.
pub(crate) struct Attempt<'a> {
    client: &'a Client,
    request: &'a Request,
    pub(crate) place: Arc<Place>,
}

impl<'a> Attempt<'a> {
    pub(crate) fn begin(client: &'a Client, request: &'a Request) -> Self {
        Self { client, request, place: client.places.begin(request.id()) }
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let Some(begun) = self.place.end() else { return };
        let Some(left) = left(&self.place) else { return };
        let orphan = Orphan {
            places: Arc::downgrade(&self.client.places),
            place: Arc::downgrade(&self.place),
            request: self.request.clone(),
            parent: self.client.parent(self.request.name()),
            begun,
        };
        left.session().sweep(|client, clock| orphan.sweep(client, clock));
    }
}

/// What there is of a request that neither a lease nor a withdrawal removes.
pub(crate) fn left(place: &Place) -> Option<Left> {
    match place.known() {
        Known::Sent(_) => place.left(),
        Known::Taken(_) if !place.is_held() => place.left(),
        Known::Nothing | Known::Taken(_) | Known::Withdrawn(_) => None,
    }
}

/// A request that no call works on. It keeps nothing alive: with the client its sessions end.
#[derive(Debug)]
pub(crate) struct Orphan {
    places: Weak<Places>,
    place: Weak<Place>,
    request: Request,
    parent: String,
    /// How many calls there were when it was left.
    begun: u64,
}

impl Orphan {
    /// Removes what is left of the request once its driver had time to ask again.
    pub(crate) async fn sweep(self, client: Driver, clock: Clock) {
        clock.sleep(self.request.ttl().max(ORPHANED)).await;
        let mut refusal = None;
        while let Some(session) = self.refused(&client).await {
            refusal.get_or_insert_with(|| session.users().refused());
            drop(session);
            clock.sleep(REFUSED_FOR).await;
        }
    }

    /// Tries once; the session whose servers refused, and are to be asked again.
    async fn refused(&self, client: &Driver) -> Option<Arc<Session>> {
        let (Some(places), Some(place)) = (self.places.upgrade(), self.place.upgrade()) else {
            return None;
        };
        // A call that comes now waits until the removal is answered, and then creates a new node:
        // the removal never finds that one.
        let turn = place.turn.lock().await;
        if !place.is_left(self.begun) {
            return None;
        }
        let left = left(&place)?;
        let session = Arc::clone(left.session());
        let what = left.removal(self.parent.clone(), self.request.id());
        if removed(client, &what).await.is_err() {
            // What is known of a node keeps its session in use.
            place.doubt(&session);
            return Some(session);
        }
        place.clear();
        drop(turn);
        places.forget_unused(self.request.id(), &place);
        None
    }
}
