//! The provider: what each call asks of ZooKeeper.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lockkit_core::{
    Applied, Error, Exclusion, Expiry, Fairness, FencingToken, Grant, Guarantees, LockName,
    LockProvider, Operator, Request, Result, TtlRange, WakeUp,
};

use crate::ZkConfig;
use crate::error::limited;
use crate::lease::ZkLease;
use crate::orphans::Attempt;
use crate::place::{Known, Node, Place, Places, withdrawn};
use crate::protocol::{element, queue};
use crate::queue::{Entered, Form};
use crate::remains::{Removal, remove_and_look};
use crate::session::{LIMIT, Session};
use crate::sessions::Sessions;
use crate::usage::InUse;
use crate::wait::{Gone, Turn, call_limit};

/// A connection that is lost is made anew at once, or later.
const AT_ONCE: Duration = Duration::from_millis(50);

/// A client of one ZooKeeper server or ensemble, 3.5 or newer.
///
/// It makes a session for each ttl that is in use, rounded up to whole ticks, and keeps it alive by
/// one heartbeat, however many locks are held on it; many hundreds of them take further sessions.
/// The tasks that serve a session live in the runtime that made it. See the page
/// `docs/zookeeper.md` for the algorithm and its bounds.
#[derive(Clone, Debug)]
pub struct ZkProvider(Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) places: Arc<Places>,
    form: Form,
    pub(crate) base: String,
    pub(crate) token_base: u64,
}

impl ZkProvider {
    /// What every store of this kind promises, known before one is connected (C13); the ttls are
    /// those of servers with every setting at its default.
    pub const fn declared() -> Guarantees {
        let tick = Duration::from_secs(2);
        let range = TtlRange { min: tick, max: Duration::from_secs(36), granularity: tick };
        let mut guarantees = Guarantees::new(Exclusion::Consensus, Expiry::Session(range));
        guarantees.fairness = Fairness::Fifo;
        guarantees.wake_up = WakeUp::Push;
        guarantees.token_survives.server_restart = true;
        guarantees.token_survives.failover = true;
        guarantees.belief_breaks_on = &[
            "a pause between a check and its use that outlasts the margin",
            "servers whose tickTime is longer than the tick that was configured",
            "an operator who deletes the holder's node, or ends its session, until the holder is \
             told",
            "a restore of the servers from an older snapshot, or the loss of all data",
            "session limits that are lowered by a restart of the servers, where the answer to a \
             reconnection is lost, or two ticks late, or the client's runtime stands still",
        ];
        guarantees
    }

    /// Connects, and looks whether the servers let us in.
    ///
    /// # Errors
    /// `Invalid`: the configuration. `Rejected`: the login, the certificates, or no right to the
    /// base; each says what to do. `Unavailable`: no answer.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub async fn connect(config: ZkConfig) -> Result<Self> {
        config.check()?;
        let form = Form::new(config.layout, &config.access);
        let (base, token_base) = (config.base.clone(), config.token_base);
        let sessions = Arc::new(Sessions::connect(config).await?);
        let places = Arc::default();
        Ok(Self(Arc::new(Inner { sessions, places, form, base, token_base })))
    }
}

impl Inner {
    pub(crate) fn parent(&self, name: &LockName) -> String {
        format!("{}/{}", self.base, element(name))
    }

    pub(crate) fn token(&self, czxid: i64) -> Result<FencingToken> {
        FencingToken::with_base(self.token_base, czxid.try_into().unwrap_or(0))
    }

    async fn attempt(self: &Arc<Self>, request: &Request, waits: bool) -> Result<Option<Grant>> {
        let attempt = Attempt::begin(self, request);
        let place = &attempt.place;
        let outcome = tokio::select! {
            biased;
            () = place.withdrawn() => Err(withdrawn()),
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
        let (session, removal) = match place.known() {
            Known::Sent(session) => {
                let parent = self.parent(request.name());
                (session, Removal::Request(parent, request.clone(), Vec::new()))
            }
            Known::Taken(node) if !place.is_held() => {
                let nodes = Removal::Nodes(node.paths());
                (node.session, nodes)
            }
            _ => return error,
        };
        match error {
            // The next call finds the node, and so does the withdrawal.
            Error::Unavailable { cause, .. } => Error::unavailable(Applied::Maybe, cause),
            error => {
                let removal = session.remove(removal);
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
        let limit = if waits { LIMIT } else { call_limit(request.ttl()) };
        let clock = request.clock();
        loop {
            let session = limited(clock, limit, self.session(request, place.known())).await;
            let (session, in_use) = session.map_err(unapplied)?;
            let entered = self.enter(request, place, &session, in_use);
            let entered = limited(clock, limit, entered).await?;
            let node = entered.node.clone();
            let turn = if waits { entered.wait(request).await? } else { entered.look() };
            match turn {
                Turn::First(gone) => return self.grant(request, place, node, gone).await.map(Some),
                Turn::Behind => {
                    let is_free = limited(clock, limit, leave(&session, &node)).await?;
                    place.clear();
                    // Those before it may be attempts that were refused too, by one who has left.
                    if !is_free {
                        return Ok(None);
                    }
                }
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
            Err(error @ Error::Unavailable { applied: Applied::Maybe, .. }) => {
                match tokio::time::timeout(AT_ONCE, session.up_again()).await {
                    Ok(Ok(())) => self.form.enter(request, place, session, &parent, &in_use).await,
                    _ => Err(error),
                }
            }
            entered => entered,
        }
    }

    /// The session that the request's place is on, or else one that gives its ttl; servers answer
    /// on it.
    async fn session(&self, request: &Request, known: Known) -> Result<(Arc<Session>, InUse)> {
        let bytes = self.form.watched(&self.parent(request.name()));
        let own = match known {
            Known::Sent(session) => Some(session),
            Known::Taken(node) => Some(node.session),
            Known::Nothing | Known::Withdrawn(_) => None,
        };
        let own = own.and_then(|session| session.in_use(bytes, true).map(|used| (session, used)));
        let (session, in_use) = match own {
            Some(own) => own,
            None => self.sessions.at(request.ttl(), bytes).await?,
        };
        session.up().await?;
        Ok((session, in_use))
    }

    async fn grant(
        self: &Arc<Self>,
        request: &Request,
        place: &Arc<Place>,
        node: Node,
        gone: Gone,
    ) -> Result<Grant> {
        let token = self.token(node.czxid)?;
        let clock = request.clock();
        // After a silence, belief begins with the second write that is answered again.
        let term = node.session.whole_term(clock);
        let term =
            limited(clock, call_limit(request.ttl()), term).await.map_err(|error| match error {
                Error::Lost { .. } => node.session.over(),
                error => error,
            })?;
        let (provider, place) = (Arc::clone(self), Arc::clone(place));
        Ok(Grant::new(token, term, ZkLease::new(provider, request.clone(), place, node, gone)))
    }
}

#[async_trait]
impl LockProvider for ZkProvider {
    fn guarantees(&self) -> Guarantees {
        let mut guarantees = Self::declared();
        guarantees.expiry = Expiry::Session(self.0.sessions.range);
        guarantees
    }

    async fn try_acquire(&self, request: &Request) -> Result<Option<Grant>> {
        self.0.attempt(request, false).await
    }

    async fn acquire(&self, request: &Request) -> Result<Grant> {
        let granted = self.0.attempt(request, true).await?;
        granted.ok_or_else(|| Error::unavailable(Applied::No, "a wait ended without a grant"))
    }

    async fn withdraw(&self, request: &Request) -> Result<()> {
        let (clock, limit) = (request.clock(), call_limit(request.ttl()));
        let place = self.0.places.find(request.id());
        let known = match place.as_ref().map(|place| place.known()) {
            Some(Known::Taken(node)) => node.paths(),
            _ => Vec::new(),
        };
        let asked = place.as_ref().map(|place| place.withdraw());
        let mut forgets = place.map(|place| self.0.places.forgets(request.id(), &place));
        let (session, _in_use) = match asked {
            Some(None) => return Ok(()),
            Some(Some(session)) if !session.is_over() => (session, None),
            // A session that is over here may live on there for a moment: another one looks.
            _ => {
                forgets = None;
                let another = limited(clock, limit, self.0.session(request, Known::Nothing)).await;
                let (session, in_use) = another.map_err(unapplied)?;
                (session, Some(in_use))
            }
        };
        let was_asked = forgets.is_some();
        let removal = Removal::Request(self.0.parent(request.name()), request.clone(), known);
        match limited(clock, limit, session.remove_and(removal, forgets)).await {
            // Who was never let in has left nothing, and need not be let look.
            Err(Error::Rejected { .. }) if !was_asked => Ok(()),
            outcome => outcome,
        }
    }

    fn operator(&self) -> Option<&dyn Operator> {
        Some(&*self.0)
    }

    async fn close(&self) -> Result<()> {
        self.0.sessions.close().await;
        Ok(())
    }
}

/// Leaves the queue that the node is not the first in; whether nobody is there any more.
async fn leave(session: &Session, node: &Node) -> Result<bool> {
    if let Ok(client) = session.client()
        && let Ok(left) = remove_and_look(&client, &node.paths(), &node.parent).await
    {
        return Ok(queue(left).is_empty());
    }
    session.remove(Removal::Nodes(node.paths())).await?;
    Ok(false)
}

/// Nothing of the request has left before there is a session.
fn unapplied(error: Error) -> Error {
    match error {
        Error::Unavailable { cause, .. } => Error::unavailable(Applied::No, cause),
        error => error,
    }
}
