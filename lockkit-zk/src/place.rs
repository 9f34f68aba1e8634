//! What a provider knows of each of its requests' nodes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use lockkit_core::kit::{self, Kept};
use lockkit_core::{Error, RequestId, Result};
use tokio::sync::watch;

use crate::cleanup::{Asked, Removal, remove};
use crate::protocol::Ahead;
use crate::session::Session;
use crate::usage::InUse;

/// The requests that may have something in the store.
#[derive(Debug, Default)]
pub(crate) struct Places(Mutex<HashMap<RequestId, Arc<Place>>>);

/// One request's place: at most one node of it is wanted, whatever was sent for it.
#[derive(Debug)]
pub(crate) struct Place {
    known: watch::Sender<Known>,
    /// Who holds the node, as long as a lease does.
    held: Mutex<Weak<Held>>,
    /// One attempt at a time looks for the node, or creates it.
    pub(crate) turn: tokio::sync::Mutex<()>,
    attempts: Mutex<Attempts>,
    /// There may be a node on a session that has ended here.
    has_strays: AtomicBool,
}

/// The calls that work on a request.
#[derive(Debug, Default)]
struct Attempts {
    under_way: usize,
    /// How many there ever were.
    begun: u64,
}

/// What is known of a request's node.
#[derive(Clone, Debug)]
pub(crate) enum Known {
    /// None was ever asked for, or it is certainly gone.
    Nothing,
    /// One was asked for, and it is not known whether it came to be.
    Sent(Asked),
    /// It was created.
    Taken(Node),
    /// Whatever there was is to go, and no more is to come.
    Withdrawn(Option<Left>),
}

/// What of a request is to be removed.
#[derive(Clone, Debug)]
pub(crate) enum Left {
    /// What was asked for.
    Asked(Asked),
    /// These nodes on this session.
    Nodes(Arc<Session>, Vec<String>),
}

impl Left {
    /// Whatever of it there is on this session.
    pub(crate) fn in_doubt(session: &Arc<Session>) -> Self {
        Self::Asked(Asked { session: Arc::clone(session), names: kit::Asked::in_doubt() })
    }

    pub(crate) const fn session(&self) -> &Arc<Session> {
        match self {
            Self::Asked(Asked { session, .. }) | Self::Nodes(session, _) => session,
        }
    }

    /// Its removal from the queue below this parent.
    pub(crate) fn removal(self, parent: String, id: RequestId) -> Removal {
        match self {
            Self::Asked(asked) => Removal::Request(parent, id, asked),
            Self::Nodes(_, nodes) => Removal::Nodes(nodes),
        }
    }
}

/// An ephemeral node of this client, or a pair of them under [`Layout::Both`](crate::Layout::Both).
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) session: Arc<Session>,
    pub(crate) _in_use: InUse,
    pub(crate) parent: String,
    /// In the order of their sequences.
    pub(crate) names: Vec<String>,
    pub(crate) sequence: i32,
    pub(crate) czxid: i64,
}

/// A granted node, shared by the leases of all replays of one request; dropped by the last of them
/// without a release, its session removes it.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) node: Node,
    pub(crate) released: AtomicBool,
    _forgets: Forgets,
}

/// Forgets a request's place when dropped, so that nothing of it is kept.
#[derive(Debug)]
pub(crate) struct Forgets {
    places: Arc<Places>,
    id: RequestId,
    place: Option<Arc<Place>>,
}

impl Forgets {
    /// The place is kept after all.
    pub(crate) fn cancel(mut self) {
        self.place = None;
    }
}

impl Kept for Forgets {
    fn stays(self) {
        self.cancel();
    }
}

impl Drop for Forgets {
    fn drop(&mut self) {
        if let Some(place) = &self.place {
            self.places.forget(self.id, place);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.released.load(Ordering::SeqCst) {
            drop(remove(&self.node.session, Removal::Nodes(self.node.paths())));
        }
    }
}

impl Known {
    /// The session that the node is on, if there is one.
    pub(crate) fn session(&self) -> Option<&Arc<Session>> {
        match self {
            Self::Sent(asked) => Some(&asked.session),
            Self::Taken(node) => Some(&node.session),
            Self::Nothing | Self::Withdrawn(_) => None,
        }
    }
}

impl Node {
    /// Who of these children is before it; `None`: it is gone, or one of a pair is, which is as good.
    pub(crate) fn ahead(&self, children: Vec<String>) -> Option<Ahead> {
        let is_there = self.names.iter().all(|name| children.contains(name));
        Ahead::of(children, &self.names[0]).filter(|_| is_there)
    }

    pub(crate) fn paths(&self) -> Vec<String> {
        self.names.iter().map(|name| format!("{}/{name}", self.parent)).collect()
    }
}

impl Places {
    /// Begins a call that works on this request; its place, made if it has none.
    pub(crate) fn begin(&self, id: RequestId) -> Arc<Place> {
        let empty = || {
            Arc::new(Place {
                known: watch::Sender::new(Known::Nothing),
                held: Mutex::default(),
                turn: tokio::sync::Mutex::default(),
                attempts: Mutex::default(),
                has_strays: AtomicBool::new(false),
            })
        };
        let mut all = self.all();
        let place = all.entry(id).or_insert_with(empty);
        // Before another may forget it as unused.
        let mut attempts = place.attempts();
        attempts.under_way += 1;
        attempts.begun += 1;
        drop(attempts);
        Arc::clone(place)
    }

    /// The place of this request, if something was ever asked for it.
    pub(crate) fn find(&self, id: RequestId) -> Option<Arc<Place>> {
        self.all().get(&id).cloned()
    }

    /// Nothing of the request is in the store any more.
    pub(crate) fn forget(&self, id: RequestId, place: &Arc<Place>) {
        let mut all = self.all();
        if all.get(&id).is_some_and(|known| Arc::ptr_eq(known, place)) {
            all.remove(&id);
        }
    }

    /// Forgets the request if there is nothing of it, and no call works on it.
    pub(crate) fn forget_unused(&self, id: RequestId, place: &Arc<Place>) {
        let mut all = self.all();
        let is_it = all.get(&id).is_some_and(|known| Arc::ptr_eq(known, place));
        if is_it && place.is_empty() && place.attempts().under_way == 0 {
            all.remove(&id);
        }
    }

    /// Forgets it later.
    pub(crate) fn forgets(self: &Arc<Self>, id: RequestId, place: &Arc<Place>) -> Forgets {
        Forgets { places: Arc::clone(self), id, place: Some(Arc::clone(place)) }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<RequestId, Arc<Place>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// A call that worked on the request has ended; how many there ever were, if it was the last.
    pub(crate) fn end(&self) -> Option<u64> {
        let mut attempts = self.attempts();
        attempts.under_way -= 1;
        (attempts.under_way == 0).then_some(attempts.begun)
    }

    /// Whether no call works on the request, or has since there were so many.
    pub(crate) fn is_left(&self, begun: u64) -> bool {
        let attempts = self.attempts();
        attempts.under_way == 0 && attempts.begun == begun
    }

    fn attempts(&self) -> MutexGuard<'_, Attempts> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn known(&self) -> Known {
        self.known.borrow().clone()
    }

    /// Asks for a node; refused after a withdrawal, which would not find it.
    pub(crate) fn send<T>(&self, asks: &Asked, ask: impl FnOnce() -> T) -> Result<T> {
        let mut asked = None;
        self.known.send_if_modified(|known| {
            let may = !matches!(known, Known::Withdrawn(_));
            if may {
                if known.session().is_some_and(|before| before.id != asks.session.id) {
                    self.has_strays.store(true, Ordering::SeqCst);
                }
                *known = Known::Sent(asks.clone());
                asked = Some(ask());
            }
            may
        });
        asked.ok_or_else(Error::withdrawn)
    }

    /// The node was created, or found.
    pub(crate) fn take(&self, node: Node) -> Result<()> {
        self.set(Known::Taken(node))
    }

    /// The node is held from now on, together with the leases that hold it already; it is forgotten with
    /// the last of them.
    pub(crate) fn hold(&self, node: Node, forgets: Forgets) -> Arc<Held> {
        let mut known = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |held: &Arc<Held>| held.node.names == node.names;
        if let Some(held) = known.upgrade().filter(same) {
            forgets.cancel();
            return held;
        }
        let held = Held { node, released: AtomicBool::new(false), _forgets: forgets };
        let held = Arc::new(held);
        *known = Arc::downgrade(&held);
        held
    }

    /// Whether a lease holds the node.
    pub(crate) fn is_held(&self) -> bool {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).strong_count() > 0
    }

    /// There is certainly no node.
    pub(crate) fn clear(&self) {
        // A withdrawal looks for itself.
        let _ = self.set(Known::Nothing);
    }

    /// There may be a node on this session, which it does not keep in use.
    pub(crate) fn doubt(&self, session: &Arc<Session>) {
        let asked = Asked { session: Arc::clone(session), names: kit::Asked::in_doubt() };
        // A withdrawal looks for itself.
        let _ = self.set(Known::Sent(asked));
    }

    /// Whether there is certainly nothing of the request.
    pub(crate) fn is_empty(&self) -> bool {
        matches!(*self.known.borrow(), Known::Nothing)
    }

    /// What there may be of the request now.
    pub(crate) fn left(&self) -> Option<Left> {
        self.left_of(&self.known.borrow())
    }

    fn left_of(&self, known: &Known) -> Option<Left> {
        let left = match known {
            Known::Nothing => None,
            Known::Sent(asked) => Some(Left::Asked(asked.clone())),
            Known::Taken(node) => Some(Left::Nodes(Arc::clone(&node.session), node.paths())),
            Known::Withdrawn(left) => left.clone(),
        };
        // Then only a look at the queue finds all.
        let has_strays = self.has_strays.load(Ordering::SeqCst);
        left.map(|left| match has_strays {
            true => Left::in_doubt(left.session()),
            false => left,
        })
    }

    /// No node is to come any more; what there may be.
    pub(crate) fn withdraw(&self) -> Option<Left> {
        let mut left = None;
        self.known.send_modify(|known| {
            left = self.left_of(known);
            *known = Known::Withdrawn(left.clone());
        });
        left
    }

    /// Completes when the request was withdrawn.
    pub(crate) async fn withdrawn(&self) {
        let mut known = self.known.subscribe();
        // The sender lives as long as this place.
        let _ = known.wait_for(|known| matches!(known, Known::Withdrawn(_))).await;
    }

    fn set(&self, to: Known) -> Result<()> {
        let was_set = self.known.send_if_modified(|known| {
            let may = !matches!(known, Known::Withdrawn(_));
            if may {
                *known = to;
            }
            may
        });
        if was_set { Ok(()) } else { Err(Error::withdrawn()) }
    }
}
