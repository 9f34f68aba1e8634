//! What a grant of the file store gives.

use std::any::Any;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lockkit_core::{
    Clock, Error, FencingToken, Grant, Instant, Lease, LossReason, Request, Result, Term,
    async_trait,
};
use tokio::runtime::Handle;

use crate::client::Entry;
use crate::error::ended;
use crate::events::POLL;
use crate::files::LockFiles;
use crate::held::Held;
use crate::slot::Standing;

/// How often a holder looks after its files although it would be told.
const LOOK: Duration = Duration::from_secs(1);

/// For so long it does not look: a lease that ends sooner needs no watch of the kernel.
const BRIEF: Duration = Duration::from_millis(2);

/// The file that is locked, as [`Guard::native`](lockkit_core::Guard::native) shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LockedFile {
    /// Where it lies.
    pub path: PathBuf,
}

/// Writes the next token, has what tells of it synced unless it is, and only then grants.
///
/// Only the sync runs on a thread that may block. Dropped meanwhile, this frees the name at
/// once: the files are unlocked although that thread still has them open.
pub(crate) async fn sync(
    entry: Entry,
    mut held: Held,
    request: &Request,
    sent: Instant,
) -> Result<Grant> {
    let runtime = Handle::try_current().map_err(|_| Error::NoRuntime)?;
    let (slot, client) = (Arc::clone(entry.slot()), entry.client());
    let (token, sync) = held.write(&slot.name, client.token_base, client.boot, request.label())?;
    let Some(granting) = slot.granting(held) else { return Err(ended(LossReason::Removed)) };
    // A caller that asks again and again leaves room for other tasks, and for its runtime's end.
    if sync.is_none() {
        tokio::task::yield_now().await;
    }
    if let Some(sync) = sync {
        match runtime.spawn_blocking(move || sync.run()).await {
            Ok(synced) => synced?,
            Err(_) => {
                // The runtime is ending: a caller that asks again at once must not keep it busy.
                tokio::task::yield_now().await;
                return Err(Error::NoRuntime);
            }
        }
    }
    if !granting.granted(token) {
        return Err(ended(LossReason::Removed));
    }
    Ok(grant(entry, token, request, Some(sent)))
}

pub(crate) fn grant(
    entry: Entry,
    token: FencingToken,
    request: &Request,
    sent: Option<Instant>,
) -> Grant {
    entry.leave_queue();
    let clock = request.clock().clone();
    let term = Term { sent: sent.unwrap_or_else(|| clock.now()), ttl: None };
    let number = entry.slot().number();
    Grant::new(token, term, FileLease::new(entry, clock)).with_slot(number)
}

/// A held name; dropping it frees the name, unless a replay of its request holds on (C11).
#[derive(Debug)]
struct FileLease {
    entry: Entry,
    files: LockFiles,
    clock: Clock,
    native: Arc<LockedFile>,
}

impl FileLease {
    fn new(entry: Entry, clock: Clock) -> Self {
        let mut files = entry.files();
        // A permit is held by its own file alone.
        if let Some(number) = entry.slot().number() {
            (files.file, files.twin) = (files.seat(number), files.seat(number));
        }
        let native = Arc::new(LockedFile { path: files.file.clone() });
        Self { entry, files, clock, native }
    }
}

#[async_trait]
impl Lease for FileLease {
    async fn renew(&self) -> Result<Term> {
        let sent = self.clock.now();
        match self.entry.slot().check()? {
            Standing::Ended(reason) => Err(Error::lost(reason)),
            _ => Ok(Term { sent, ttl: None }),
        }
    }

    async fn lost(&self) -> LossReason {
        let (slot, events) = (self.entry.slot(), &self.entry.client().events);
        let told = slot.changed.notified();
        if let Standing::Ended(reason) = slot.standing() {
            return reason;
        }
        tokio::select! {
            () = told => {}
            () = tokio::time::sleep(BRIEF) => {}
        }
        let (file, twin) = (events.watch(&self.files.file), events.watch(&self.files.twin));
        loop {
            // All made before the look: what happens after it is told.
            let (told, file_changed, twin_changed) =
                (slot.changed.notified(), file.changed(), twin.changed());
            if let Ok(Standing::Ended(reason)) = slot.check() {
                return reason;
            }
            let pause = if file.is_live() && twin.is_live() { LOOK } else { POLL * 10 };
            tokio::select! {
                () = told => {}
                () = file_changed => {}
                () = twin_changed => {}
                () = tokio::time::sleep(pause) => drop(events.run()),
            }
        }
    }

    async fn release(&self) -> Result<()> {
        let slot = self.entry.slot();
        // A look that fails is no reason to keep the name.
        let standing = slot.check().unwrap_or_else(|_| slot.standing());
        slot.end(LossReason::Released);
        match standing {
            Standing::Ended(LossReason::Released) => Ok(()),
            Standing::Ended(reason) => Err(Error::lost(reason)),
            _ => Ok(()),
        }
    }

    fn native(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        Some(Arc::<LockedFile>::clone(&self.native))
    }
}
