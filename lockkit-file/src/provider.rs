//! The file store's client: local queues before the kernel's locks.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lockkit_core::{
    Applied, Error, Exclusion, Expiry, Fairness, FencingToken, Grant, Guarantees, Instant,
    LockName, LockProvider, LossReason, Operator, Request, RequestId, Result, StoreSays, Term,
    WakeUp, async_trait,
};
use tokio::runtime::Handle;

use crate::config::FileConfig;
use crate::error::failed;
use crate::events::{BACKSTOP, Events, POLL};
use crate::lease::FileLease;
use crate::protocol::{self, Attempted, Blocked, Candidate, Held, Place};
use crate::slot::{Slot, Standing};
use crate::{network, operator, process};

/// How soon to look again at a twin that an operator may be looking at.
const BLIP: Duration = Duration::from_millis(1);
/// How often, before the twin counts as held.
const BLIPS: u32 = 5;

/// The file store: names are locked files of one directory, and a holder that dies has let go.
///
/// Clones are one provider; two providers of one directory exclude each other, in one process too.
/// Requests for one name wait in a queue, and its head waits for the kernel's word that the file
/// was closed. Every release goes through the kernel, so no process hands a name round among its
/// own tasks while others wait. Upholds C1 to C16 as its [`guarantees`](LockProvider::guarantees)
/// say.
#[derive(Clone, Debug)]
pub struct FileProvider(Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) directory: Arc<Path>,
    token_base: u64,
    events: Events,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    slots: HashMap<RequestId, Entry>,
    queues: HashMap<LockName, VecDeque<RequestId>>,
    closed: bool,
}

#[derive(Debug)]
struct Entry {
    slot: Arc<Slot>,
    /// The attempts and leases of this request: with the last one it ends.
    users: usize,
}

impl FileProvider {
    /// Opens the store, and creates its directory if the parent exists.
    ///
    /// Warns (event `network_file_system`) if the directory lies on the network.
    ///
    /// # Errors
    /// `Invalid`: the path is empty, or its parent does not exist. `Rejected`: the directory
    /// cannot be used, or this is not a Unix system. `NoRuntime`: called outside tokio.
    ///
    /// # Panics
    /// In a tokio runtime that was built without `enable_io`.
    ///
    /// # Cancel safety
    /// Cancel-safe: it leaves at most an empty directory.
    #[allow(clippy::unused_async)] // as every backend connects
    pub async fn connect(config: FileConfig) -> Result<Self> {
        Handle::try_current().map_err(|_| Error::NoRuntime)?;
        let wished = config.directory();
        if wished.as_os_str().is_empty() {
            return Err(Error::invalid(
                "an empty path for the file store",
                "give the path of a directory, for example /var/lib/<program>/locks",
            ));
        }
        let directory = protocol::prepare(wished).map_err(|error| match wished.parent() {
            Some(parent) if error.kind() == std::io::ErrorKind::NotFound && !parent.exists() => {
                Error::invalid(
                    format!("the store {}: {} does not exist", wished.display(), parent.display()),
                    "create it first, or correct the path",
                )
            }
            _ => failed("opening the store", wished, &error),
        })?;
        network::warn(&directory);
        let inner = Arc::new(Inner {
            directory: directory.into(),
            token_base: config.base(),
            events: Events::new(),
            state: Mutex::default(),
        });
        inner.events.run();
        process::join(&inner);
        Ok(Self(inner))
    }

    /// The file that is locked for `name`, be it there yet or not (C3).
    pub fn file_of(&self, name: &LockName) -> PathBuf {
        Place::of(&self.0.directory, name).file
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.0
    }
}

#[async_trait]
impl LockProvider for FileProvider {
    fn guarantees(&self) -> Guarantees {
        let mut guarantees = Guarantees::new(Exclusion::OneHost, Expiry::HolderDeath);
        guarantees.fairness = Fairness::Eventual;
        guarantees.wake_up = if self.0.events.push() { WakeUp::Push } else { WakeUp::Poll(POLL) };
        guarantees.token_survives.server_restart = true;
        guarantees.token_survives.data_loss = true;
        guarantees.belief_breaks_on = &[
            "removal of both files of a name (or of the directory) under a holder in another \
             process, until that holder has noticed",
            "a network file system that drops locks or keeps them to one host",
        ];
        guarantees
    }

    async fn try_acquire(&self, request: &Request) -> Result<Option<Grant>> {
        let presence = self.0.enter(request)?;
        let (place, mut blips, mut stale) = (presence.place(), 0, Stale(0));
        loop {
            match presence.slot().standing() {
                Standing::Granted(token) => return Ok(Some(presence.grant(token, request, None))),
                Standing::Ended(reason) => return Err(ended(reason)),
                // Its own attempt elsewhere, or others of this process, stand before it.
                Standing::Granting => return Ok(None),
                Standing::Asking if self.0.is_waited_for(request.name()) => return Ok(None),
                Standing::Asking => {}
            }
            let sent = request.clock().now();
            match Candidate::open(place.clone())?.attempt()? {
                Attempted::Taken(held) => {
                    return presence.sync(held, request, sent).await.map(Some);
                }
                Attempted::Blocked(_, Blocked::Twin) if blips < BLIPS => {
                    blips += 1;
                    tokio::time::sleep(BLIP).await;
                }
                Attempted::Blocked(..) => return Ok(None),
                Attempted::Stale => {
                    stale.found_again(&place)?;
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    async fn acquire(&self, request: &Request) -> Result<Grant> {
        let presence = self.0.enter(request)?;
        let (slot, place) = (Arc::clone(presence.slot()), presence.place());
        self.0.line_up(&slot);
        let (mut asking, mut watches, mut blips, mut stale) = (None, None, 0, Stale(0));
        loop {
            let told = slot.changed.notified();
            match slot.standing() {
                Standing::Granted(token) => return Ok(presence.grant(token, request, None)),
                Standing::Ended(reason) => return Err(ended(reason)),
                Standing::Asking if self.0.is_first(&slot) => {}
                Standing::Asking | Standing::Granting => {
                    report(request, &place);
                    told.await;
                    continue;
                }
            }
            let sent = request.clock().now();
            let candidate = match asking.take() {
                Some(candidate) => candidate,
                None => Candidate::open(place.clone())?,
            };
            // Armed before the attempt: what is closed after it is told.
            let armed = watches.take().unwrap_or_else(|| {
                [&place.file, &place.twin].map(|path| self.0.events.watch(path))
            });
            let [file, twin] = &armed;
            let (file_changed, twin_changed) = (file.changed(), twin.changed());
            let pause = match candidate.attempt()? {
                Attempted::Taken(held) => return presence.sync(held, request, sent).await,
                Attempted::Stale => {
                    // Other files lie at these paths now: they are opened and watched anew.
                    stale.found_again(&place)?;
                    tokio::task::yield_now().await;
                    continue;
                }
                Attempted::Blocked(candidate, by) => {
                    asking = Some(candidate);
                    stale = Stale(0);
                    report(request, &place);
                    match by {
                        Blocked::Twin if blips < BLIPS => {
                            blips += 1;
                            BLIP
                        }
                        _ if file.is_live() && twin.is_live() => BACKSTOP,
                        _ => POLL,
                    }
                }
            };
            tokio::select! {
                () = told => {}
                () = file_changed => {}
                () = twin_changed => {}
                () = tokio::time::sleep(pause) => self.0.events.run(),
            }
            watches = Some(armed);
        }
    }

    async fn withdraw(&self, request: &Request) -> Result<()> {
        if let Some(slot) = self.0.forget(request.id()) {
            slot.end(LossReason::Removed);
        }
        Ok(())
    }

    fn operator(&self) -> Option<&dyn Operator> {
        Some(self)
    }

    async fn close(&self) -> Result<()> {
        let slots: Vec<_> = {
            let mut state = self.0.state();
            state.closed = true;
            state.queues.clear();
            state.slots.drain().map(|(_, entry)| entry.slot).collect()
        };
        for slot in slots {
            slot.end(LossReason::Closed);
        }
        Ok(())
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more attempt of the request; a replay shares the slot of the others.
    fn enter(self: &Arc<Self>, request: &Request) -> Result<Presence> {
        Handle::try_current().map_err(|_| Error::NoRuntime)?;
        let mut state = self.state();
        if state.closed {
            return Err(Error::Closed);
        }
        let entry = state.slots.entry(request.id()).or_insert_with(|| Entry {
            slot: Arc::new(Slot::new(request.name().clone(), request.id())),
            users: 0,
        });
        entry.users += 1;
        Ok(Presence { inner: Arc::clone(self), slot: Arc::clone(&entry.slot) })
    }

    /// Puts the request at the end of its name's queue, unless it has a place there.
    fn line_up(&self, slot: &Slot) {
        let mut state = self.state();
        if state.slots.get(&slot.id).is_some_and(|entry| std::ptr::eq(&*entry.slot, slot)) {
            let queue = state.queues.entry(slot.name.clone()).or_default();
            if !queue.contains(&slot.id) {
                queue.push_back(slot.id);
            }
        }
    }

    fn is_first(&self, slot: &Slot) -> bool {
        self.state().queues.get(&slot.name).is_some_and(|queue| queue.front() == Some(&slot.id))
    }

    fn is_waited_for(&self, name: &LockName) -> bool {
        self.state().queues.contains_key(name)
    }

    fn forget(&self, id: RequestId) -> Option<Arc<Slot>> {
        let mut state = self.state();
        let slot = state.slots.remove(&id)?.slot;
        state.leave_queue(&slot);
        Some(slot)
    }

    /// The slot of the grant of `name` with this token, if it is one of this provider's.
    pub(crate) fn holding(&self, name: &LockName, token: FencingToken) -> Option<Arc<Slot>> {
        let held = |slot: &Slot| slot.name == *name && slot.standing() == Standing::Granted(token);
        self.state().slots.values().map(|entry| &entry.slot).find(|slot| held(slot)).cloned()
    }
}

impl State {
    /// Takes the request out of its queue; a new head is told, whoever leaves for what reason.
    fn leave_queue(&mut self, slot: &Slot) {
        let Some(queue) = self.queues.get_mut(&slot.name) else { return };
        let was_first = queue.front() == Some(&slot.id);
        queue.retain(|id| *id != slot.id);
        match queue.front().copied() {
            None => drop(self.queues.remove(&slot.name)),
            Some(head) if was_first => {
                if let Some(entry) = self.slots.get(&head) {
                    entry.slot.changed.notify_waiters();
                }
            }
            Some(_) => {}
        }
    }
}

/// One attempt or lease of a request; when the last one is dropped, nothing is left of it.
#[derive(Debug)]
pub(crate) struct Presence {
    inner: Arc<Inner>,
    slot: Arc<Slot>,
}

impl Presence {
    pub(crate) const fn slot(&self) -> &Arc<Slot> {
        &self.slot
    }

    pub(crate) fn place(&self) -> Place {
        Place::of(&self.inner.directory, &self.slot.name)
    }

    pub(crate) fn events(&self) -> &Events {
        &self.inner.events
    }

    /// Writes the next token, has it synced, and only then grants.
    ///
    /// Only the sync runs on a thread that may block. Dropped meanwhile, this frees the name at
    /// once: the files are unlocked although that thread still has them open.
    async fn sync(self, mut held: Held, request: &Request, sent: Instant) -> Result<Grant> {
        let runtime = Handle::try_current().map_err(|_| Error::NoRuntime)?;
        let slot = Arc::clone(&self.slot);
        let (token, sync) = held.write(&slot.name, self.inner.token_base, request.label())?;
        let Some(granting) = slot.granting(held) else { return Err(ended(LossReason::Removed)) };
        match runtime.spawn_blocking(move || sync.run()).await {
            Ok(synced) => synced?,
            Err(_) => {
                // The runtime is ending: a caller that asks again at once must not keep it busy.
                tokio::task::yield_now().await;
                return Err(Error::NoRuntime);
            }
        }
        if !granting.granted(token) {
            return Err(ended(LossReason::Removed));
        }
        self.inner.state().leave_queue(&slot);
        Ok(self.grant(token, request, Some(sent)))
    }

    fn grant(self, token: FencingToken, request: &Request, sent: Option<Instant>) -> Grant {
        let clock = request.clock().clone();
        let term = Term { sent: sent.unwrap_or_else(|| clock.now()), ttl: None };
        Grant::new(token, term, FileLease::new(self, clock))
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let mut state = self.inner.state();
        // After a withdrawal the id may stand for a new slot, or for none.
        match state.slots.get_mut(&self.slot.id) {
            Some(entry) if Arc::ptr_eq(&entry.slot, &self.slot) => {
                entry.users -= 1;
                if entry.users > 0 {
                    return;
                }
                state.slots.remove(&self.slot.id);
                state.leave_queue(&self.slot);
            }
            Some(_) => return,
            None => {}
        }
        drop(state);
        self.slot.end(LossReason::Released);
    }
}

/// How often in a row the files of a name were replaced between opening and locking them.
struct Stale(u32);

impl Stale {
    /// More than an admin's doing is a file system that gives a file a new number every time.
    fn found_again(&mut self, place: &Place) -> Result<()> {
        self.0 += 1;
        if self.0 < 100 {
            return Ok(());
        }
        Err(Error::rejected(
            format!("locking {}: it is another file every time one looks", place.file.display()),
            "move the store to a local file system (ext4, xfs, btrfs, apfs, tmpfs), or stop what \
             replaces its files",
        ))
    }
}

/// Tells the driver who holds, as far as the files tell (C8).
fn report(request: &Request, place: &Place) {
    let holder = protocol::last_holder(place).map(operator::holder);
    request.report(StoreSays::Held(holder));
}

/// What an attempt says whose request was withdrawn.
fn ended(reason: LossReason) -> Error {
    match reason {
        LossReason::Closed => Error::Closed,
        _ => Error::unavailable(Applied::No, format!("the request was withdrawn: {reason}")),
    }
}
