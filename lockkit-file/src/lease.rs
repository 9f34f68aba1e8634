//! What a grant of the file store gives.

use std::any::Any;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lockkit_core::{Clock, Error, Lease, LossReason, Result, Term, async_trait};

use crate::events::POLL;
use crate::files::Place;
use crate::presence::Presence;
use crate::slot::Standing;

/// How often a holder looks after its files although it would be told.
const LOOK: Duration = Duration::from_secs(1);

/// The file that is locked, as [`Guard::native`](lockkit_core::Guard::native) shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LockedFile {
    /// Where it lies.
    pub path: PathBuf,
}

/// A held name; dropping it frees the name, unless a replay of its request holds on (C11).
#[derive(Debug)]
pub(crate) struct FileLease {
    presence: Presence,
    place: Place,
    clock: Clock,
    native: Arc<LockedFile>,
}

impl FileLease {
    pub(crate) fn new(presence: Presence, clock: Clock) -> Self {
        let place = presence.place();
        let native = Arc::new(LockedFile { path: place.file.clone() });
        Self { presence, place, clock, native }
    }
}

#[async_trait]
impl Lease for FileLease {
    async fn renew(&self) -> Result<Term> {
        let sent = self.clock.now();
        match self.presence.slot().check()? {
            Standing::Ended(reason) => Err(Error::lost(reason)),
            _ => Ok(Term { sent, ttl: None }),
        }
    }

    async fn lost(&self) -> LossReason {
        let slot = self.presence.slot();
        let events = self.presence.events();
        let (file, twin) = (events.watch(&self.place.file), events.watch(&self.place.twin));
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
                () = tokio::time::sleep(pause) => events.run(),
            }
        }
    }

    async fn release(&self) -> Result<()> {
        let slot = self.presence.slot();
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
