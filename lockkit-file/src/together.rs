//! How a request takes a name that it holds together with others.
//!
//! Those who share a name have both its files locked shared, so that an exclusive request, of an earlier version too, and
//! flock(1) are kept out. Each has a seat of its own beside, which names it. Their tokens are written one after the
//! other, within the door.
//!
//! An exclusive request that is refused by those who share keeps the gate, through which each shared request passes. So it
//! waits for those alone that hold already. The kernel opens the gate when its process dies.
//!
//! A semaphore has two files of its own, which are locked while a permit is granted or the limit is changed, and no longer.
//! Its limit stands beside the last token. A permit is a numbered file that its holder has locked.

use lockkit_core::{Kind, Permits, Request, Result};

use crate::files::Opened;
use crate::process::Claim;
use crate::protocol::{Attempted, Blocked, Candidate, Passage};
use crate::record::Content;
use crate::seat::{Seat, Taken};
use crate::turns::Turn;

/// Whether a request may take permits of a semaphore now.
#[derive(Debug)]
pub(crate) enum Entered {
    Alone(Candidate),
    No(Attempted),
}

impl Candidate {
    /// Tries to lock both files shared, and to take a seat.
    pub(crate) fn beside_others(mut self, waits: Option<Turn>) -> Result<Attempted> {
        let passes = self.passes()?;
        let file_locked = passes && self.file.try_lock_shared()?;
        let locked = file_locked && self.twin.try_lock_shared()?;
        if self.passage != Passage::Passed {
            self.gate.iter().for_each(Opened::unlock);
        }
        if file_locked {
            self.passage = Passage::Passed;
        } else {
            // Also one that it got in the kernel's queue: who keeps the gate waits for it.
            self.file.unlock();
        }
        if !self.file.is_in_place()? || !self.twin.is_in_place()? {
            return Ok(Attempted::Stale);
        }
        if !locked {
            self.look()?;
            let by = match (passes, file_locked) {
                (false, _) => Blocked::Gate,
                (true, false) => Blocked::File,
                (true, true) => Blocked::Twin,
            };
            return Ok(self.blocked(by, waits));
        }
        let door = Opened::open(&self.files.door())?;
        let is_within = door.try_lock()? && door.is_in_place()?;
        // Read within the door, behind which the last token does not change.
        self.look()?;
        if !is_within {
            return Ok(self.blocked(Blocked::Door, waits));
        }
        let Some(claim) = Claim::beside_others(&self.files.file) else {
            return Ok(self.blocked(Blocked::Twin, waits));
        };
        match Seat::take(&self.files, None)? {
            Taken::Seat(seat) => {
                let mut taken = self.taken(Kind::Shared, claim, Some(seat));
                if let Attempted::Taken(held) = &mut taken {
                    held.door = Some(door);
                }
                Ok(taken)
            }
            Taken::Full | Taken::Busy => Ok(self.blocked(Blocked::Door, waits)),
        }
    }

    /// Tries to take the free permit with the smallest number.
    pub(crate) fn within_limit(self, request: &Request, waits: Option<Turn>) -> Result<Attempted> {
        let this = match self.enters(waits)? {
            Entered::Alone(this) => this,
            Entered::No(attempted) => return Ok(attempted),
        };
        let wished = request.permits().map_or(1, Permits::wished);
        let limit = this.limit().unwrap_or(wished);
        let taken =
            request.check_permits(limit).and_then(|()| Seat::take(&this.files, Some(limit)));
        match taken {
            Ok(Taken::Seat(seat)) => this.counted(Some(seat), limit, waits),
            Ok(Taken::Full) => Ok(this.outside(Blocked::Full, waits)),
            Ok(Taken::Busy) => Ok(this.outside(Blocked::Busy, waits)),
            Err(error) => {
                this.let_go();
                Err(error)
            }
        }
    }

    /// Locks both files of a semaphore, without blocking.
    pub(crate) fn enters(mut self, waits: Option<Turn>) -> Result<Entered> {
        let file_locked = self.file.try_lock()?;
        let locked = file_locked && self.twin.try_lock()?;
        if !self.file.is_in_place()? || !self.twin.is_in_place()? {
            return Ok(Entered::No(Attempted::Stale));
        }
        self.look()?;
        Ok(if locked {
            Entered::Alone(self)
        } else {
            Entered::No(self.outside(Blocked::Busy, waits))
        })
    }

    /// A grant of this permit, or of none: a change of the limit.
    pub(crate) fn counted(
        self,
        seat: Option<Seat>,
        limit: u32,
        waits: Option<Turn>,
    ) -> Result<Attempted> {
        // Both files may have been removed under a request of this process.
        let Some(claim) = Claim::new(&self.files.file) else {
            return Ok(self.outside(Blocked::Busy, waits));
        };
        let mut taken = self.taken(Kind::Counted, claim, seat);
        if let Attempted::Taken(held) = &mut taken {
            held.limit = Some(limit);
        }
        Ok(taken)
    }

    fn outside(self, by: Blocked, waits: Option<Turn>) -> Attempted {
        self.twin.unlock();
        self.file.unlock();
        self.blocked(by, waits)
    }

    /// The limit of the semaphore, as the files told when they were read last.
    pub(crate) fn limit(&self) -> Option<u32> {
        let contents = self.seen.iter().flatten().map(|seen| &seen.content);
        contents.filter_map(Content::permits).max().map(|(_, permits)| permits)
    }

    /// Whether no exclusive request keeps the gate; it stays locked shared until the file is tried.
    fn passes(&mut self) -> Result<bool> {
        if self.passage == Passage::Passed {
            return Ok(true);
        }
        self.open_gate()?.try_lock_shared()
    }

    fn open_gate(&mut self) -> Result<&Opened> {
        let gate = match self.gate.take() {
            Some(gate) if gate.is_in_place()? => gate,
            _ => Opened::open(&self.files.gate())?,
        };
        Ok(self.gate.insert(gate))
    }

    /// Keeps the gate for an exclusive request that those who share keep out; whether that is done, or need not be.
    pub(crate) fn keeps_gate(&mut self) -> bool {
        let is_shared = self.seen.iter().flatten().any(|seen| seen.content.is_shared());
        if is_shared && self.passage == Passage::Before {
            let is_kept = self.open_gate().and_then(Opened::try_lock);
            if !is_kept.unwrap_or(false) {
                return false;
            }
            self.passage = Passage::Within;
        }
        true
    }
}
