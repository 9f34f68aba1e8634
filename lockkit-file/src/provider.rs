//! The file store's client: local queues before the kernel's locks.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lockkit_core::{
    Error, Exclusion, Expiry, Fairness, FencingToken, Finding, Grant, Guarantees, LockName,
    LockProvider, LossReason, Operator, Request, Result, StoreSays, WakeUp, async_trait,
};
use tokio::runtime::Handle;
use tokio::sync::futures::Notified;

use crate::client::Client;
use crate::config::FileConfig;
use crate::error::{ended, failed};
use crate::events::{BACKSTOP, POLL, Watch};
use crate::files::{self, LockFiles};
use crate::lease::{grant, sync};
use crate::protocol::{self, Attempted, Blocked, Candidate};
use crate::queue::Queued;
use crate::record::Turn;
use crate::slot::{Slot, Standing};
use crate::{network, operator};

/// How soon to look again at a twin that an operator may be looking at.
const BLIP: Duration = Duration::from_millis(1);
/// How often, before the twin counts as held.
const BLIPS: u32 = 5;

/// How long, and how often before each attempt, a waiter steps back for one that came earlier.
const YIELD: Duration = Duration::from_millis(1);
const YIELDS: u32 = 5;

/// The file store: names are locked files of one directory, and a holder that dies has let go.
///
/// Clones are one provider; two providers of one directory exclude each other, in one process too.
/// Requests for one name wait in a queue, and its head waits for the kernel's word that the file
/// was closed. Every release goes through the kernel, so no process hands a name round among its
/// own tasks while others wait. Upholds C1 to C16 as its [`guarantees`](LockProvider::guarantees)
/// say.
#[derive(Clone, Debug)]
pub struct FileProvider(Arc<Client>);

impl FileProvider {
    /// What every store of this kind promises, known before one is opened (C13); where the kernel
    /// does not tell of closed files, a waiter looks again every 10 ms instead.
    pub const fn declared() -> Guarantees {
        let mut guarantees = Guarantees::new(Exclusion::OneHost, Expiry::HolderDeath);
        guarantees.fairness = Fairness::Eventual;
        guarantees.wake_up = WakeUp::Push;
        guarantees.token_survives.server_restart = true;
        guarantees.token_survives.data_loss = true;
        guarantees.belief_breaks_on = &[
            "removal of both files of a name (or of the directory) under a holder in another \
             process, until that holder has noticed; of one of them, while it is being told",
            "a revocation, until the holder is told",
            "a network file system that drops locks or keeps them to one host",
        ];
        guarantees
    }

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
        let directory = files::prepare(wished).map_err(|error| match wished.parent() {
            Some(parent) if error.kind() == std::io::ErrorKind::NotFound && !parent.exists() => {
                Error::invalid(
                    format!("the store {}: {} does not exist", wished.display(), parent.display()),
                    "create it first, or correct the path",
                )
            }
            _ => failed("opening the store", wished, &error),
        })?;
        network::warn(&directory);
        let client = Client::new(directory.into(), config.base());
        client.events.run()?;
        Ok(Self(client))
    }

    /// The file that is locked for `name`, be it there yet or not (C3).
    pub fn file_of(&self, name: &LockName) -> PathBuf {
        LockFiles::of(&self.0.directory, name).file
    }
}

#[async_trait]
impl LockProvider for FileProvider {
    fn guarantees(&self) -> Guarantees {
        let mut guarantees = Self::declared();
        if !self.0.events.push() {
            guarantees.wake_up = WakeUp::Poll(POLL);
        }
        guarantees
    }

    async fn try_acquire(&self, request: &Request) -> Result<Option<Grant>> {
        let entry = self.0.enter(request)?;
        let (place, mut blips, mut stale) = (entry.place(), 0, Stale(0));
        loop {
            match entry.slot().standing() {
                Standing::Granted(token) => return Ok(Some(grant(entry, token, request, None))),
                Standing::Ended(reason) => return Err(ended(reason)),
                // Its own attempt elsewhere, or others of this process, stand before it.
                Standing::Granting => return Ok(None),
                Standing::Asking if self.0.is_waited_for(request.name()) => return Ok(None),
                Standing::Asking => {}
            }
            let sent = request.clock().now();
            match Candidate::open(place.clone())?.attempt()? {
                Attempted::Taken(held) => {
                    return sync(entry, held, request, sent).await.map(Some);
                }
                Attempted::Blocked(candidate, Blocked::Twin) if blips < BLIPS => {
                    candidate.let_go();
                    blips += 1;
                    tokio::time::sleep(BLIP).await;
                }
                Attempted::Blocked(candidate, _) => {
                    candidate.let_go();
                    return Ok(None);
                }
                Attempted::Stale => {
                    stale.found_again(&place)?;
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    async fn acquire(&self, request: &Request) -> Result<Grant> {
        let entry = self.0.enter(request)?;
        let (slot, place) = (Arc::clone(entry.slot()), entry.place());
        let mine = Turn::new(protocol::boot_time(), request.id());
        let (mut asking, mut watches) = (None, None);
        let (mut blips, mut yields, mut stale) = (0, 0, Stale(0));
        let mut passed_over = PassedOver(0);
        loop {
            let told = match self.place_in_line(&slot, request, &place).await? {
                Place::First(told) => told,
                Place::Granted(token) => return Ok(grant(entry, token, request, None)),
            };
            let sent = request.clock().now();
            let candidate = match asking.take() {
                Some(candidate) => candidate,
                None => Candidate::open(place.clone())?,
            };
            let earlier = candidate.turn().filter(|turn| *turn < mine);
            if earlier.is_some() && yields < YIELDS {
                yields += 1;
                asking = Some(candidate);
                tokio::select! {
                    () = told => {}
                    () = tokio::time::sleep(YIELD) => {}
                }
                continue;
            }
            // Armed before the attempt: what is closed after it is told.
            let armed = watches.take().unwrap_or_else(|| self.watch(&place));
            let [file, twin] = &armed;
            let (file_changed, twin_changed) = (file.changed(), twin.changed());
            let pause = match candidate.attempt()? {
                Attempted::Taken(held) => {
                    // With its own turn goes that of one who did not use it: it died, or has left.
                    [Some(mine), earlier].into_iter().flatten().for_each(|t| held.end_turn(t));
                    return sync(entry, held, request, sent).await;
                }
                Attempted::Stale => {
                    // Other files lie at these paths now: they are opened and watched again.
                    stale.found_again(&place)?;
                    tokio::task::yield_now().await;
                    continue;
                }
                Attempted::Blocked(candidate, by) => {
                    candidate.ask_for_turn(mine);
                    yields = 0;
                    stale = Stale(0);
                    report(request, &place);
                    if by == Blocked::File && passed_over.again(&candidate) {
                        // It comes back locked: no step back.
                        (asking, yields) = (in_the_kernels_queue(candidate, told).await?, YIELDS);
                        continue;
                    }
                    asking = Some(candidate);
                    pause(by, &mut blips, &armed)
                }
            };
            tokio::select! {
                () = told => {}
                () = file_changed => {}
                () = twin_changed => {}
                () = tokio::time::sleep(pause) => drop(self.0.events.run()),
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
        Some(&*self.0)
    }

    async fn examine(&self) -> Result<Vec<Finding>> {
        self.0.examine().await
    }

    async fn close(&self) -> Result<()> {
        self.0.close();
        Ok(())
    }
}

/// Where a request stands among those of this process.
enum Place<'a> {
    /// It asks the kernel next, and is told of a change of its slot.
    First(Notified<'a>),
    /// It was granted by another call of the same request.
    Granted(FencingToken),
}

impl FileProvider {
    fn watch(&self, place: &LockFiles) -> [Watch; 2] {
        [&place.file, &place.twin].map(|path| self.0.events.watch(path))
    }

    /// Waits until this request is the first of the queue, or has been granted.
    async fn place_in_line<'a>(
        &self,
        slot: &'a Slot,
        request: &Request,
        place: &LockFiles,
    ) -> Result<Place<'a>> {
        loop {
            let told = slot.changed.notified();
            match slot.standing() {
                Standing::Granted(token) => return Ok(Place::Granted(token)),
                Standing::Ended(reason) => return Err(ended(reason)),
                Standing::Asking if self.0.line_up(slot) => return Ok(Place::First(told)),
                Standing::Asking | Standing::Granting => {
                    report(request, place);
                    told.await;
                }
            }
        }
    }
}

/// How long a waiter sleeps if no file changes before.
fn pause(by: Blocked, blips: &mut u32, watches: &[Watch; 2]) -> Duration {
    match by {
        Blocked::Twin if *blips < BLIPS => {
            *blips += 1;
            BLIP
        }
        _ if watches.iter().all(Watch::is_live) => BACKSTOP,
        _ => POLL,
    }
}

/// How often in a row a program that knows nothing of us held the name: it may block in flock(2), which comes before all that
/// only try.
struct PassedOver(u32);

impl PassedOver {
    /// Whether that is so once more.
    fn again(&mut self, candidate: &Candidate) -> bool {
        // One of us is seen so too, for the moment between its two files.
        self.0 = if candidate.is_held_by_others() { self.0 + 1 } else { 0 };
        self.0 > 1
    }
}

/// Waits for the file as such a program does: the candidate with its file locked, or `None` where its request is to
/// look again.
async fn in_the_kernels_queue(
    candidate: Candidate,
    told: Notified<'_>,
) -> Result<Option<Candidate>> {
    let Some(queued) = Queued::enter(candidate) else {
        tokio::time::sleep(POLL).await;
        return Ok(None);
    };
    tokio::pin!(told);
    loop {
        tokio::select! {
            () = queued.over() => return Ok(queued.take()),
            () = &mut told => return Ok(None),
            () = tokio::time::sleep(BACKSTOP) => {
                if !queued.is_in_place()? {
                    return Ok(None);
                }
            }
        }
    }
}

/// How often in a row the files of a name were replaced between opening and locking them.
struct Stale(u32);

impl Stale {
    /// More than an admin's doing is a file system that gives a file a new number every time.
    fn found_again(&mut self, place: &LockFiles) -> Result<()> {
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
fn report(request: &Request, place: &LockFiles) {
    let holder = protocol::last_holder(place).map(operator::holder);
    request.report(StoreSays::Held(holder));
}
