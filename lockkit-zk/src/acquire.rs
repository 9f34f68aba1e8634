//! One call for a request: its way into the queue, and the wait there.

use std::sync::Arc;
use std::time::Duration;

use lockkit_core::kit::{LONGEST_CALL, call_limit};
use lockkit_core::{Applied, Error, Grant, Kind, Request, Result};

use crate::cleanup::{Removal, remove, remove_and, remove_and_look};
use crate::client::Client;
use crate::error::limited;
use crate::lease::grant;
use crate::orphans::{Attempt, left};
use crate::place::{Known, Left, Node, Place};
use crate::protocol::{kinds, queue};
use crate::queue::Entered;
use crate::session::Session;
use crate::usage::InUse;
use crate::wait::Turn;

/// A connection that is lost is made again at once, or later.
const AT_ONCE: Duration = Duration::from_millis(50);

impl Client {
    /// One call for a request: its way into the queue, and the wait there.
    pub(crate) async fn attempt(
        self: &Arc<Self>,
        request: &Request,
        waits: bool,
    ) -> Result<Option<Grant>> {
        let attempt = Attempt::begin(self, request);
        let place = &attempt.place;
        let outcome = tokio::select! {
            biased;
            () = place.withdrawn() => Err(Error::withdrawn()),
            outcome = self.ask(request, place, waits) => outcome,
        };
        let outcome = match outcome {
            Err(error) => Err(self.settled(request, place, error).await),
            outcome => outcome,
        };
        if matches!(outcome, Ok(None)) || place.is_empty() {
            self.places.forget(request.id(), place);
        }
        outcome
    }

    /// The error as it is once a definite one has left nothing in the store, or that something may
    /// be there; a lease's node stays, whatever a replay ran into.
    async fn settled(&self, request: &Request, place: &Place, error: Error) -> Error {
        let Some(left) = left(place) else { return error };
        match error {
            // The next call finds the node, and so does the withdrawal.
            Error::Unavailable { .. } => error.with_applied(Applied::Maybe),
            error => {
                let session = Arc::clone(left.session());
                let removal = left.removal(self.parent(request.name()), request.id());
                let removal = remove(&session, removal);
                // A withdrawal does what is not done by then.
                let limit = call_limit(request.ttl());
                if limited(request.clock(), limit, removal).await.is_ok() {
                    place.clear();
                }
                error
            }
        }
    }

    async fn ask(
        self: &Arc<Self>,
        request: &Request,
        place: &Arc<Place>,
        waits: bool,
    ) -> Result<Option<Grant>> {
        // Who waits has time to look a lost reply up, which takes three round trips; less than that
        // would fail again and again over a slow link.
        let limit = if waits { LONGEST_CALL } else { call_limit(request.ttl()) };
        let clock = request.clock();
        loop {
            let session = limited(clock, limit, self.session(request, place.known())).await;
            let (session, in_use) = session.map_err(|error| error.with_applied(Applied::No))?;
            // Before the first node: it would make a store that is new look like one in use.
            limited(clock, limit, self.tokens(&session))
                .await
                .map_err(|error| error.with_applied(Applied::No))?;
            let entered = self.enter(request, place, &session, in_use);
            let entered = limited(clock, limit, entered).await?;
            let node = entered.node.clone();
            let turn = if waits { entered.wait(request).await? } else { entered.look() };
            match turn {
                Turn::First(watched) => {
                    return grant(self, request, place, node, watched).await.map(Some);
                }
                Turn::Behind => {
                    let is_free =
                        limited(clock, limit, leave(&session, &node, request.kind())).await?;
                    place.clear();
                    // Those before it may be attempts that were refused too, by one who has left.
                    if !is_free {
                        return Ok(None);
                    }
                }
                // What is left of a pair is removed as the request queues again.
                Turn::Gone if node.names.len() > 1 => {}
                Turn::Gone => place.clear(),
            }
        }
    }

    /// Takes the request's place in the queue; what a lost connection leaves unclear is looked up
    /// once more if the next one comes at once.
    async fn enter(
        &self,
        request: &Request,
        place: &Place,
        session: &Arc<Session>,
        in_use: InUse,
    ) -> Result<Entered> {
        let parent = self.parent(request.name());
        match self.form.enter(request, place, session, &parent, &in_use).await {
            Err(error) if error.is_ambiguous() => {
                match tokio::time::timeout(AT_ONCE, session.up_again()).await {
                    Ok(Ok(())) => self.form.enter(request, place, session, &parent, &in_use).await,
                    _ => Err(error),
                }
            }
            entered => entered,
        }
    }

    /// Removes every trace of the request.
    pub(crate) async fn withdraw(&self, request: &Request) -> Result<()> {
        let (clock, limit) = (request.clock(), call_limit(request.ttl()));
        let place = self.places.find(request.id());
        let left = place.as_ref().map(|place| place.withdraw());
        let mut forgets = place.map(|place| self.places.forgets(request.id(), &place));
        let (left, _in_use) = match left {
            Some(None) => return Ok(()),
            Some(Some(left)) if !left.session().is_over() => (left, None),
            // A session that is over here may live on there for a moment: another one looks.
            _ => {
                forgets = None;
                let another = limited(clock, limit, self.session(request, Known::Nothing)).await;
                let (session, in_use) = another.map_err(|error| error.with_applied(Applied::No))?;
                (Left::in_doubt(&session), Some(in_use))
            }
        };
        let was_asked = forgets.is_some();
        let session = Arc::clone(left.session());
        let removal = left.removal(self.parent(request.name()), request.id());
        let removal = remove_and(&session, removal, forgets);
        match limited(clock, limit, removal).await {
            // Who was never let in has left nothing, and need not be let look.
            Err(Error::Rejected { .. }) if !was_asked => Ok(()),
            outcome => outcome,
        }
    }

    /// The session that the request's place is on, or else one that gives its ttl; servers answer
    /// on it.
    pub(crate) async fn session(
        &self,
        request: &Request,
        known: Known,
    ) -> Result<(Arc<Session>, InUse)> {
        let bytes = self.form.watched(&self.parent(request.name()));
        let own = known.session().cloned();
        let own = own.and_then(|session| session.in_use(bytes, true).map(|used| (session, used)));
        let (session, in_use) = match own {
            Some(own) => own,
            None => self.sessions.at(request.ttl(), bytes).await?,
        };
        session.up().await?;
        Ok((session, in_use))
    }
}

/// Leaves the queue in which a node is kept out; whether it would not be now.
async fn leave(session: &Session, node: &Node, kind: Kind) -> Result<bool> {
    if let Ok(client) = session.client()
        && let Ok(left) = remove_and_look(&client, &node.paths(), &node.parent).await
    {
        return Ok(kind.admits(kinds(&queue(left))));
    }
    remove(session, Removal::Nodes(node.paths())).await?;
    Ok(false)
}
